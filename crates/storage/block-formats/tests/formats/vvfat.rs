//! A directory as a disk: what a reader of FAT volumes finds in it.

use crate::bed::*;

/// A small reader of FAT volumes: the content of a file by its path of short names.
struct Volume(Vec<u8>);

impl Volume {
    fn u16(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
    }

    fn u32(&self, at: usize) -> usize {
        self.u16(at) | self.u16(at + 2) << 16
    }

    fn next(&self, cluster: usize, bits: usize) -> usize {
        let fat = self.u16(14) * 512;
        match bits {
            12 => {
                let v = self.u16(fat + cluster * 3 / 2);
                if cluster.is_multiple_of(2) { v & 0xfff } else { v >> 4 }
            }
            16 => self.u16(fat + 2 * cluster),
            _ => self.u32(fat + 4 * cluster) & 0x0fff_ffff,
        }
    }

    /// The bytes of a chain of clusters.
    fn chain(&self, mut cluster: usize, bits: usize) -> Vec<u8> {
        let fat_sectors = if bits == 32 { self.u32(36) } else { self.u16(22) };
        let data = (self.u16(14) + 2 * fat_sectors) * 512 + self.u16(17) * 32;
        let len = usize::from(self.0[13]) * 512;
        let mut out = Vec::new();
        while cluster >= 2 && cluster < (1 << bits.min(28)) - 8 {
            let at = data + (cluster - 2) * len;
            out.extend(&self.0[at..at + len]);
            cluster = self.next(cluster, bits);
        }
        out
    }

    fn root(&self, bits: usize) -> Vec<u8> {
        if bits == 32 {
            return self.chain(self.u32(44), bits);
        }
        let at = (self.u16(14) + 2 * self.u16(22)) * 512;
        self.0[at..at + self.u16(17) * 32].to_vec()
    }

    fn file(&self, path: &[&[u8; 11]], bits: usize) -> Option<Vec<u8>> {
        let mut dir = self.root(bits);
        for (i, name) in path.iter().enumerate() {
            let e = dir.chunks(32).find(|e| e[..11] == name[..] && e[11] != 0x0f && e[11] & 8 == 0)?.to_vec();
            let at = |at: usize| usize::from(u16::from_le_bytes([e[at], e[at + 1]]));
            let bytes = self.chain(at(26) | at(20) << 16, bits);
            if i + 1 == path.len() {
                return Some(bytes[..at(28) | at(30) << 16].to_vec());
            }
            dir = bytes;
        }
        None
    }
}

fn sample(dir: &Dir) -> (String, Vec<u8>) {
    let root = dir.path("tree");
    let big: Vec<u8> = (0..50_000u32).map(|i| (i / 13) as u8).collect();
    std::fs::create_dir_all(format!("{root}/sub/deeper")).unwrap();
    std::fs::write(format!("{root}/A.TXT"), b"hello").unwrap();
    std::fs::write(format!("{root}/empty"), b"").unwrap();
    std::fs::write(format!("{root}/sub/a long name.html"), &big).unwrap();
    std::fs::write(format!("{root}/sub/deeper/LAST"), &big[..513]).unwrap();
    (root, big)
}

#[test]
fn a_directory_is_a_volume() {
    let dir = Dir::new("formats-vvfat");
    let (root, big) = sample(&dir);
    for (more, begin, bits) in [
        ("", 63 * 512, 16),
        (",'fat-type':12", 63 * 512, 12),
        (",'fat-type':32,'label':'MINE'", 63 * 512, 32),
        (",'floppy':true", 0, 12),
        (",'floppy':true,'fat-type':12", 0, 12),
    ] {
        let text = format!("{{'driver':'vvfat','node-name':'n','read-only':true,'dir':'{root}'{more}}}");
        rt::block_on(async {
            let g = graph(&drivers());
            g.add(options(&text)).await.unwrap();
            let node = attach(&g, "n", block::Perm::CONSISTENT_READ, block::Perm::all()).await.unwrap();
            // The rest is empty.
            let len = (node.len() - begin).min(4 << 20) as usize;
            let v = Volume(read(&node, begin, len).await);
            assert_eq!(v.0[510..512], [0x55, 0xaa], "{more}");
            assert_eq!(v.file(&[b"A       TXT"], bits).unwrap(), b"hello", "{more}");
            let sub = b"SUB        ";
            assert_eq!(v.file(&[sub, b"ALONGNAMHTM"], bits).unwrap(), big, "{more}");
            assert_eq!(v.file(&[sub, b"DEEPER     ", b"LAST       "], bits).unwrap(), big[..513], "{more}");
            assert_eq!(v.file(&[b"EMPTY      "], bits).unwrap(), b"", "{more}");
            assert!(node.map(node.len() - 512, 512).await.unwrap().zero);
            node.detach().await;
            g.close_all().await;
        });
    }
}

#[test]
fn directories_that_make_no_volume_are_refused() {
    let dir = Dir::new("formats-vvfat-bad");
    let (root, _) = sample(&dir);
    let big = std::fs::File::create(format!("{root}/big")).unwrap();
    for (len, more, text) in [
        (3u64 << 20, ",'floppy':true", "Directory does not fit in FAT12 (capacity "),
        (3 << 30, "", "is larger than 2GB"),
        (0, ",'fat-type':13", "Valid FAT types are only 12, 16 and 32"),
        (0, ",'label':'far too long a name'", "vvfat label cannot be longer than 11 bytes"),
    ] {
        big.set_len(len).unwrap();
        let o = format!("{{'driver':'vvfat','node-name':'n','read-only':true,'dir':'{root}'{more}}}");
        let e = rt::block_on(async { graph(&drivers()).add(options(&o)).await.unwrap_err() });
        assert!(e.desc().contains(text), "{}", e.desc());
    }
}
