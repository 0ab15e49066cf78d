//! The layout of FAT volumes (Microsoft, "FAT: General Overview of On-Disk Format", version 1.03) on a disk with one partition, or on
//! a floppy disk. Everything is little-endian.

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Bytes of a directory entry.
pub const ENTRY: usize = 32;
/// Entries of the root directory of FAT12 and FAT16 volumes.
pub const ROOT_ENTRIES: usize = 512;
/// Attribute: not to be written.
pub const READ_ONLY: u8 = 0x01;
/// Attribute: the name of the volume, or, with others, a piece of a long name.
pub const VOLUME: u8 = 0x08;
/// Attribute: a directory.
pub const DIRECTORY: u8 = 0x10;
/// Attribute: a file that was changed.
pub const ARCHIVE: u8 = 0x20;
/// Attribute: the name of the volume.
pub const LABEL: u8 = 0x28;
/// Attribute: a piece of a long name.
pub const LONG_NAME: u8 = 0x0f;
/// In the byte for case: the stem is in small letters.
pub const LOWER_STEM: u8 = 0x08;
/// In the byte for case: the extension is in small letters.
pub const LOWER_EXTENSION: u8 = 0x10;
/// The first byte of an entry that is not used any more.
pub const DELETED: u8 = 0xe5;
/// The most characters of a long name.
pub const MAX_NAME: usize = 255;

/// Which kind of FAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fat {
    /// 12 bits an entry.
    Fat12,
    /// 16 bits an entry.
    Fat16,
    /// 32 bits an entry.
    Fat32,
}

impl Fat {
    /// Bits of an entry.
    pub fn bits(self) -> u64 {
        match self {
            Fat::Fat12 => 12,
            Fat::Fat16 => 16,
            Fat::Fat32 => 32,
        }
    }

    /// The entry that ends a chain.
    pub fn end(self) -> u32 {
        match self {
            Fat::Fat12 => 0xfff,
            Fat::Fat16 => 0xffff,
            Fat::Fat32 => 0x0fff_ffff,
        }
    }

    /// The most clusters that make a volume of this kind.
    fn most_clusters(self) -> u64 {
        match self {
            Fat::Fat12 => 4084,
            Fat::Fat16 => 65524,
            Fat::Fat32 => 0x0fff_fff4,
        }
    }
}

/// A disk and its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Which FAT.
    pub fat: Fat,
    /// A floppy disk: no partition table.
    pub floppy: bool,
    /// Cylinders.
    pub cylinders: u64,
    /// Heads.
    pub heads: u64,
    /// Sectors of a track.
    pub per_track: u64,
    /// Sectors of a cluster.
    pub cluster: u64,
    /// The sector where the volume begins.
    pub begin: u64,
    /// Sectors in front of the FATs.
    pub reserved: u64,
    /// Sectors of one FAT.
    pub fat_sectors: u64,
    /// Sectors of the root directory, where it has a place of its own.
    pub root_sectors: u64,
    /// Clusters of the volume.
    pub clusters: u64,
}

impl Geometry {
    /// The disk for a kind of FAT; `None`: what is usual.
    pub fn new(fat: Option<Fat>, floppy: bool) -> Geometry {
        let kind = fat.unwrap_or(if floppy { Fat::Fat12 } else { Fat::Fat16 });
        let (cylinders, heads, per_track, cluster) = match (floppy, kind) {
            (true, Fat::Fat12) if fat.is_some() => (80, 2, 18, 1),
            (true, Fat::Fat12) => (80, 2, 36, 2),
            (true, _) => (80, 2, 36, 1),
            (false, Fat::Fat12) => (64, 16, 63, 16),
            (false, Fat::Fat16) => (1024, 16, 63, 16),
            (false, Fat::Fat32) => (1024, 16, 63, 8),
        };
        let begin = if floppy { 0 } else { 63 };
        let sectors = cylinders * heads * per_track - begin;
        let reserved = if kind == Fat::Fat32 { 32 } else { 1 };
        let root_sectors = if kind == Fat::Fat32 { 0 } else { (ROOT_ENTRIES * ENTRY) as u64 / SECTOR };
        // Two FATs with an entry for each cluster behind them, and two more.
        let mut fat_sectors = 1;
        loop {
            let clusters = (sectors - reserved - root_sectors - 2 * fat_sectors) / cluster;
            let clusters = clusters.min(kind.most_clusters());
            let need = ((clusters + 2) * kind.bits()).div_ceil(8 * SECTOR);
            if need <= fat_sectors {
                return Geometry {
                    fat: kind,
                    floppy,
                    cylinders,
                    heads,
                    per_track,
                    cluster,
                    begin,
                    reserved,
                    fat_sectors,
                    root_sectors,
                    clusters,
                };
            }
            fat_sectors = need;
        }
    }

    /// Length of the disk, bytes.
    pub fn disk_len(&self) -> u64 {
        self.cylinders * self.heads * self.per_track * SECTOR
    }

    /// Bytes of a cluster.
    pub fn cluster_len(&self) -> u64 {
        self.cluster * SECTOR
    }

    /// Sectors of the volume.
    pub fn sectors(&self) -> u64 {
        self.disk_len() / SECTOR - self.begin
    }

    /// Where the first FAT is, bytes from the disk's beginning.
    pub fn fat_at(&self) -> u64 {
        (self.begin + self.reserved) * SECTOR
    }

    /// Where the root directory of FAT12 and FAT16 is.
    pub fn root_at(&self) -> u64 {
        self.fat_at() + 2 * self.fat_sectors * SECTOR
    }

    /// Where the first cluster is.
    pub fn data_at(&self) -> u64 {
        self.root_at() + self.root_sectors * SECTOR
    }

    fn chs(&self, sector: u64) -> [u8; 3] {
        let (track, s) = (sector / self.per_track, sector % self.per_track + 1);
        let (c, h) = (track / self.heads, track % self.heads);
        if c > 1023 { [0xfe, 0xff, 0xff] } else { [h as u8, s as u8 | ((c >> 8) << 6) as u8, c as u8] }
    }

    /// The partition table; empty on a floppy disk.
    pub fn partition_table(&self) -> Vec<u8> {
        if self.floppy {
            return Vec::new();
        }
        let mut b = vec![0; SECTOR as usize];
        b[0x1b8..0x1bc].copy_from_slice(&0xbe1a_fdfau32.to_le_bytes());
        let e = &mut b[0x1be..0x1ce];
        e[0] = 0x80;
        e[1..4].copy_from_slice(&self.chs(self.begin));
        e[4] = match self.fat {
            Fat::Fat12 => 0x01,
            Fat::Fat16 => 0x06,
            Fat::Fat32 => 0x0b,
        };
        e[5..8].copy_from_slice(&self.chs(self.begin + self.sectors() - 1));
        e[8..12].copy_from_slice(&(self.begin as u32).to_le_bytes());
        e[12..16].copy_from_slice(&(self.sectors() as u32).to_le_bytes());
        b[0x1fe..].copy_from_slice(&[0x55, 0xaa]);
        b
    }

    /// The boot sector, and what belongs to it in front of the FATs.
    pub fn boot_sectors(&self, label: &[u8; 11]) -> Vec<u8> {
        let mut b = vec![0; SECTOR as usize];
        let media = self.media();
        let sectors = self.sectors();
        let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
        put(0, &[0xeb, 0x3e, 0x90]);
        put(3, b"MSWIN4.1");
        put(11, &(SECTOR as u16).to_le_bytes());
        put(13, &[self.cluster as u8]);
        put(14, &(self.reserved as u16).to_le_bytes());
        put(16, &[2]);
        put(17, &((self.root_sectors * SECTOR) as usize / ENTRY).to_le_bytes()[..2]);
        match u16::try_from(sectors) {
            Ok(n) => put(19, &n.to_le_bytes()),
            Err(_) => put(32, &(sectors as u32).to_le_bytes()),
        }
        put(21, &[media]);
        put(24, &(self.per_track as u16).to_le_bytes());
        put(26, &(self.heads as u16).to_le_bytes());
        put(28, &(self.begin as u32).to_le_bytes());
        let (tail, name) = match self.fat {
            Fat::Fat32 => {
                put(36, &(self.fat_sectors as u32).to_le_bytes());
                // The root directory is the first cluster; the boot sector is kept twice.
                put(44, &2u32.to_le_bytes());
                put(48, &1u16.to_le_bytes());
                put(50, &6u16.to_le_bytes());
                (64, b"FAT32   ")
            }
            fat => {
                put(22, &(self.fat_sectors as u16).to_le_bytes());
                (36, if fat == Fat::Fat12 { b"FAT12   " } else { b"FAT16   " })
            }
        };
        put(tail, &[if self.floppy { 0 } else { 0x80 }, 0, 0x29]);
        put(tail + 3, &0xfabe_1afdu32.to_le_bytes());
        put(tail + 7, label);
        put(tail + 18, name);
        put(510, &[0x55, 0xaa]);
        if self.fat != Fat::Fat32 {
            return b;
        }
        let mut info = vec![0; SECTOR as usize];
        info[..4].copy_from_slice(b"RRaA");
        info[484..488].copy_from_slice(b"rrAa");
        // How much is free, and where, is not known.
        info[488..496].fill(0xff);
        info[508..].copy_from_slice(&[0, 0, 0x55, 0xaa]);
        let mut all = vec![0; (self.reserved * SECTOR) as usize];
        for at in [0, 6] {
            let at = at * SECTOR as usize;
            all[at..at + 512].copy_from_slice(&b);
            all[at + 512..at + 1024].copy_from_slice(&info);
        }
        all
    }

    /// What a medium of this kind is called.
    pub fn media(&self) -> u8 {
        if self.floppy { 0xf0 } else { 0xf8 }
    }

    /// Bytes of one FAT.
    pub fn fat_len(&self) -> usize {
        (self.fat_sectors * SECTOR) as usize
    }

    /// Where a cluster is, bytes from the disk's beginning; it is 2 or more.
    pub fn cluster_at(&self, cluster: u32) -> u64 {
        self.data_at() + u64::from(cluster.saturating_sub(2)) * self.cluster_len()
    }

    /// Whether there is such a cluster.
    pub fn is_cluster(&self, cluster: u32) -> bool {
        cluster >= 2 && u64::from(cluster) < self.clusters + 2
    }

    /// What a FAT says of a cluster: the next of its chain, 0 where it is free, or what ends a chain.
    pub fn fat_entry(&self, fat: &[u8], cluster: u32) -> u32 {
        let at = |at: usize| u32::from(fat.get(at).copied().unwrap_or(0));
        let i = cluster as usize;
        match self.fat {
            Fat::Fat12 => {
                let v = at(i * 3 / 2) | at(i * 3 / 2 + 1) << 8;
                if i.is_multiple_of(2) { v & 0xfff } else { v >> 4 }
            }
            Fat::Fat16 => at(2 * i) | at(2 * i + 1) << 8,
            Fat::Fat32 => {
                (at(4 * i) | at(4 * i + 1) << 8 | at(4 * i + 2) << 16 | at(4 * i + 3) << 24) & self.fat.end()
            }
        }
    }

    /// Whether an entry ends a chain.
    pub fn ends(&self, entry: u32) -> bool {
        entry >= self.fat.end() - 7
    }

    /// A FAT: the entries from cluster 0 on.
    pub fn fat_bytes(&self, next: &[u32]) -> Vec<u8> {
        let mut b = vec![0; self.fat_len()];
        for (i, v) in next.iter().enumerate() {
            match self.fat {
                Fat::Fat12 => {
                    let (at, v) = (i * 3 / 2, *v as u16 & 0xfff);
                    if i % 2 == 0 {
                        b[at] = v as u8;
                        b[at + 1] = b[at + 1] & 0xf0 | (v >> 8) as u8;
                    } else {
                        b[at] = b[at] & 0x0f | (v << 4) as u8;
                        b[at + 1] = (v >> 4) as u8;
                    }
                }
                Fat::Fat16 => b[2 * i..2 * i + 2].copy_from_slice(&(*v as u16).to_le_bytes()),
                Fat::Fat32 => b[4 * i..4 * i + 4].copy_from_slice(&v.to_le_bytes()),
            }
        }
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_fit_their_disks() {
        for (fat, floppy, len) in [
            (None, false, 528_482_304),
            (Some(Fat::Fat12), false, 33_030_144),
            (Some(Fat::Fat32), false, 528_482_304),
            (None, true, 2_949_120),
            (Some(Fat::Fat12), true, 1_474_560),
            (Some(Fat::Fat16), true, 2_949_120),
        ] {
            let g = Geometry::new(fat, floppy);
            assert_eq!(g.disk_len(), len);
            assert!(g.data_at() + g.clusters * g.cluster_len() <= len);
            assert!(g.fat_sectors * SECTOR * 8 >= (g.clusters + 2) * g.fat.bits());
            // By the number of clusters readers tell which FAT it is.
            let kind = match g.clusters {
                ..=4084 => Fat::Fat12,
                4085..=65524 => Fat::Fat16,
                65525.. => Fat::Fat32,
            };
            assert_eq!(kind, g.fat);
        }
        // The entries of FAT12 share bytes.
        let g = Geometry::new(Some(Fat::Fat12), true);
        assert_eq!(g.fat_bytes(&[0xff0, 0xfff, 0x123, 0xabc])[..6], [0xf0, 0xff, 0xff, 0x23, 0xc1, 0xab]);
        for fat in [Fat::Fat12, Fat::Fat16, Fat::Fat32] {
            let g = Geometry::new(Some(fat), false);
            let b = g.fat_bytes(&[0xff0, 0xfff, 0x123, 0xabc, 0x456]);
            assert_eq!([2, 3, 4, 5].map(|c| g.fat_entry(&b, c)), [0x123, 0xabc, 0x456, 0]);
            assert_eq!(g.fat_entry(&b, u32::MAX), 0);
        }
    }
}
