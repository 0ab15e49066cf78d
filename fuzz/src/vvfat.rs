//! A FAT volume as a guest may have left it: what is on it is listed.
//!
//! The first byte says which kind of volume; then follow the beginning of its FAT, of its root directory (of FAT32 that is the first
//! cluster), and of its clusters.

use block_formats::vvfat::spec::{Fat, Geometry, SECTOR};
use block_formats::vvfat::volume::{Disk, Listing, list};
use std::collections::HashSet;
use std::io;

/// How much of the FAT is given.
const FAT: usize = 512;
/// How much of the root directory that is in no cluster.
const ROOT: usize = 1024;

/// A disk of which only pieces are not zero.
struct Pieces<'a>(Vec<(u64, &'a [u8])>);

impl Disk for Pieces<'_> {
    fn read(&mut self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        for (at, bytes) in &self.0 {
            let (from, to) = (off.max(*at), (off + buf.len() as u64).min(at + bytes.len() as u64));
            if from < to {
                buf[(from - off) as usize..(to - off) as usize]
                    .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(())
    }
}

fn geometry(kind: u8) -> Geometry {
    match kind % 4 {
        0 => Geometry::new(Some(Fat::Fat12), true),
        1 => Geometry::new(Some(Fat::Fat16), true),
        2 => Geometry::new(None, false),
        _ => Geometry::new(Some(Fat::Fat32), false),
    }
}

/// Lists what is on the volume, and holds the list against what it promises.
pub fn vvfat(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let g = geometry(*kind);
    let mut front = g.partition_table();
    front.resize((g.begin * SECTOR) as usize, 0);
    front.extend(g.boot_sectors(b"FUZZ       "));
    let (fat, data) = data.split_at(data.len().min(FAT));
    let root = if g.root_sectors > 0 { data.len().min(ROOT) } else { 0 };
    let (root, clusters) = data.split_at(root);
    let mut disk = Pieces(vec![(0, &front), (g.fat_at(), fat), (g.root_at(), root), (g.data_at(), clusters)]);
    if let Ok(l) = list(&g, &mut disk, &front) {
        check(&g, &l);
    }
}

fn check(g: &Geometry, l: &Listing) {
    let mut used = HashSet::new();
    let mut names = HashSet::new();
    for (i, e) in l.entries.iter().enumerate() {
        assert!(e.parent.is_none_or(|p| p < i && l.entries[p].dir));
        assert!(!e.name.is_empty() && e.name != "." && e.name != ".." && !e.name.contains(['/', '\0']));
        assert!(e.chain.iter().all(|c| g.is_cluster(*c)));
        _ = l.path(i);
        if e.wrong.is_none() {
            assert!(e.chain.iter().all(|c| used.insert(*c)), "a cluster is in two");
            assert!(u64::from(e.size) <= e.chain.len() as u64 * g.cluster_len());
            assert!(names.insert((e.parent, e.name.clone())), "a name is there twice");
            assert!(e.parent.is_none_or(|p| l.entries[p].wrong.is_none()));
        }
    }
}

/// An entry of a directory.
fn entry(name: &[u8; 11], attributes: u8, cluster: u16, size: u32) -> [u8; 32] {
    let mut e = [0; 32];
    e[..11].copy_from_slice(name);
    e[11] = attributes;
    e[26..28].copy_from_slice(&cluster.to_le_bytes());
    e[28..].copy_from_slice(&size.to_le_bytes());
    e
}

/// A volume of each kind with files and a directory.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    (0..4).map(seed).collect()
}

fn seed(kind: u8) -> Vec<u8> {
    let g = geometry(kind);
    let end = g.fat.end();
    // Of FAT32 the first cluster is the root directory.
    let own = g.root_sectors == 0;
    let first: u16 = if own { 3 } else { 2 };
    let mut next = vec![end, end];
    next.extend(own.then_some(end));
    next.extend([u32::from(first) + 1, end, end, end]);
    // The long name `a long name` belongs to its short one by this sum.
    let short = b"ALONGN~1   ";
    let sum = short.iter().fold(0u8, |s, b| s.rotate_right(1).wrapping_add(*b));
    let mut long = entry(b"           ", 0x0f, 0, 0);
    long.fill(0);
    (long[0], long[11], long[13]) = (0x41, 0x0f, sum);
    let units = "a long name\0\u{ffff}".encode_utf16();
    let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
    for (at, u) in places.zip(units) {
        long[at..at + 2].copy_from_slice(&u.to_le_bytes());
    }
    let root = [
        entry(b"FUZZ       ", 0x28, 0, 0),
        long,
        entry(short, 0x20, first, g.cluster_len() as u32 + 7),
        entry(b"DIR        ", 0x10, first + 2, 0),
        entry(b"EMPTY   TXT", 0x21, 0, 0),
    ]
    .concat();
    let inside = [
        entry(b".          ", 0x10, first + 2, 0),
        entry(b"..         ", 0x10, 0, 0),
        entry(b"FILE    BIN", 0x20, first + 3, 100),
    ]
    .concat();
    let cluster = g.cluster_len() as usize;
    let mut bytes = vec![kind];
    bytes.extend(&g.fat_bytes(&next)[..FAT]);
    let mut put = |part: &[u8], room: usize| {
        bytes.extend(part);
        bytes.resize(bytes.len() - part.len() + room, 0);
    };
    put(&root, if own { cluster } else { ROOT });
    put(b"what is in the file", 2 * cluster);
    put(&inside, inside.len() + 32);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_volumes() {
        for seed in seeds() {
            let g = geometry(seed[0]);
            let mut front = g.partition_table();
            front.resize((g.begin * SECTOR) as usize, 0);
            front.extend(g.boot_sectors(b"FUZZ       "));
            let root = if g.root_sectors > 0 { ROOT } else { 0 };
            let pieces = vec![
                (0, &front[..]),
                (g.fat_at(), &seed[1..1 + FAT]),
                (g.root_at(), &seed[1 + FAT..1 + FAT + root]),
                (g.data_at(), &seed[1 + FAT + root..]),
            ];
            let l = list(&g, &mut Pieces(pieces), &front).unwrap();
            let names: Vec<_> = (0..l.entries.len()).map(|i| l.path(i)).collect();
            assert_eq!(names, ["a long name", "DIR", "EMPTY.TXT", "DIR/FILE.BIN"]);
            assert_eq!(l.wrong(), None);
        }
    }
}
