//! What a FAT volume holds, as its own structures say. They were written by a guest, which may be in the midst of it, or may mean
//! no good: whatever they say, reading them ends, and takes a bounded amount of memory.

use super::names::{Pieces, Short, text};
use super::spec::{DELETED, DIRECTORY, ENTRY, Fat, Geometry, LONG_NAME, READ_ONLY, SECTOR, VOLUME};
use std::collections::HashSet;
use std::fmt;
use std::io;

/// The deepest directory.
const MAX_DEPTH: usize = 64;
/// The longest directory, bytes: 65536 entries.
const MAX_DIRECTORY: u64 = 2 << 20;
/// The most files and directories.
const MAX_ENTRIES: usize = 1 << 18;

/// The disk that has the volume.
pub trait Disk {
    /// Fills `buf` with the bytes from `off` on.
    ///
    /// # Errors
    /// They cannot be read.
    fn read(&mut self, off: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// Why a volume, or a part of it, cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The partition or the volume is not where, or what, it was.
    Layout,
    /// Clusters follow one another in a circle, or belong to two.
    Crossed,
    /// A chain leads to what is no cluster in use.
    Broken,
    /// A file has fewer clusters than bytes.
    Short,
    /// A directory does not begin as directories do.
    NoDirectory,
    /// A name that files cannot have.
    Name,
    /// Two have the same name.
    Twice,
    /// There are more entries, or deeper directories, than are looked at.
    TooMuch,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wrong::Layout => "the disk was partitioned or formatted anew",
            Wrong::Crossed => "clusters belong to more than one file",
            Wrong::Broken => "a chain of clusters has no end",
            Wrong::Short => "a file has fewer clusters than its length needs",
            Wrong::NoDirectory => "a directory is not one",
            Wrong::Name => "a name is none that a file can have",
            Wrong::Twice => "two files have the same name",
            Wrong::TooMuch => "there are too many entries, or too deep directories",
        })
    }
}

/// Why there is no list.
#[derive(Debug)]
pub enum Unfit {
    /// The disk cannot be read.
    Io(io::Error),
    /// It makes no sense.
    Wrong(Wrong),
}

impl From<io::Error> for Unfit {
    fn from(e: io::Error) -> Unfit {
        Unfit::Io(e)
    }
}

/// A file or directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The place in the list of the directory that has it; `None`: the root.
    pub parent: Option<usize>,
    /// Its name: never empty, "." or "..", and without "/" and zero bytes.
    pub name: String,
    /// The name is a short one in capital letters, which is all that was said.
    pub plain: bool,
    /// It is a directory.
    pub dir: bool,
    /// It is not to be written.
    pub read_only: bool,
    /// When it was changed.
    pub stamp: [u8; 4],
    /// Bytes of a file.
    pub size: u32,
    /// Its clusters.
    pub chain: Vec<u32>,
    /// What is wrong with it: its clusters then are only some, and what is in a directory is not in the list.
    pub wrong: Option<Wrong>,
}

/// What a volume holds.
#[derive(Debug)]
pub struct Listing {
    /// Directories stand before what is in them.
    pub entries: Vec<Entry>,
    /// The FAT.
    fat: Vec<u8>,
    g: Geometry,
    /// Who has a cluster: a place in the list and one more.
    owner: Vec<u32>,
}

/// The owner of what belongs to the root directory.
const ROOT: u32 = u32::MAX;

impl Listing {
    /// Whether a cluster is in use, though by nothing in the list.
    pub fn is_lost(&self, cluster: u32) -> bool {
        self.owner.get(cluster as usize).is_some_and(|o| *o == 0) && self.g.fat_entry(&self.fat, cluster) != 0
    }

    /// What is wrong with the first that something is wrong with.
    pub fn wrong(&self) -> Option<Wrong> {
        self.entries.iter().find_map(|e| e.wrong)
    }

    /// The path of an entry on the volume.
    pub fn path(&self, mut at: usize) -> String {
        let mut path = self.entries[at].name.clone();
        while let Some(up) = self.entries[at].parent {
            path = format!("{}/{path}", self.entries[up].name);
            at = up;
        }
        path
    }

    /// The clusters from `first` on, which get an owner; and what is wrong with them.
    fn chain(&mut self, first: u32, owner: u32) -> (Vec<u32>, Option<Wrong>) {
        let (mut chain, mut next) = (Vec::new(), first);
        loop {
            if !self.g.is_cluster(next) {
                return (chain, Some(Wrong::Broken));
            }
            match std::mem::replace(&mut self.owner[next as usize], owner) {
                0 => {}
                // The other has it, too.
                other => {
                    if let Some(e) = (other as usize).checked_sub(1).and_then(|i| self.entries.get_mut(i)) {
                        e.wrong = Some(Wrong::Crossed);
                    }
                    return (chain, Some(Wrong::Crossed));
                }
            }
            chain.push(next);
            next = self.g.fat_entry(&self.fat, next);
            if self.g.ends(next) {
                return (chain, None);
            }
        }
    }

    /// The entries of a directory, added to the list.
    fn directory(&mut self, bytes: &[u8], parent: Option<usize>) -> Result<(), Wrong> {
        let mut pieces = Pieces::default();
        let mut names = HashSet::new();
        let mut shorts = HashSet::new();
        for e in bytes.chunks_exact(ENTRY) {
            let Some(e) = e.first_chunk::<ENTRY>() else { break };
            let attributes = e[11];
            if e[0] == 0 {
                break;
            }
            if e[0] == DELETED {
                pieces = Pieces::default();
                continue;
            }
            if attributes & 0x3f == LONG_NAME {
                pieces.push(e);
                continue;
            }
            let mut short: Short = [0; 11];
            short.copy_from_slice(&e[..11]);
            let long = pieces.take(&short);
            if attributes & VOLUME != 0 || e[0] == b'.' {
                continue;
            }
            if self.entries.len() >= MAX_ENTRIES {
                return Err(Wrong::TooMuch);
            }
            let (name, plain) = match long {
                Some(units) => (String::from_utf16(&units).map_err(|_| Wrong::Name)?, false),
                None => {
                    let t = text(&short, e[12]);
                    let plain = !t.chars().any(char::is_lowercase);
                    (t, plain)
                }
            };
            let bad = |c: char| c == '/' || c == '\0';
            if name.is_empty() || name == "." || name == ".." || name.contains(bad) {
                return Err(Wrong::Name);
            }
            if !names.insert(name.clone()) || !shorts.insert(short) {
                return Err(Wrong::Twice);
            }
            let dir = attributes & DIRECTORY != 0;
            let (low, high) =
                (u32::from(u16::from_le_bytes([e[26], e[27]])), u16::from_le_bytes([e[20], e[21]]));
            let first = if self.g.fat == Fat::Fat32 { low | u32::from(high) << 16 } else { low };
            let size = if dir { 0 } else { u32::from_le_bytes([e[28], e[29], e[30], e[31]]) };
            let owner = self.entries.len() as u32 + 1;
            let (chain, mut wrong) = if first == 0 { (Vec::new(), None) } else { self.chain(first, owner) };
            let room = chain.len() as u64 * self.g.cluster_len();
            if dir && chain.is_empty() {
                wrong = wrong.or(Some(Wrong::NoDirectory));
            } else if u64::from(size) > room {
                wrong = wrong.or(Some(Wrong::Short));
            }
            self.entries.push(Entry {
                parent,
                name,
                plain,
                dir,
                read_only: attributes & READ_ONLY != 0,
                stamp: [e[22], e[23], e[24], e[25]],
                size,
                chain,
                wrong,
            });
        }
        Ok(())
    }

    fn read_chain(&self, disk: &mut dyn Disk, chain: &[u32]) -> Result<Vec<u8>, Unfit> {
        let len = self.g.cluster_len();
        if chain.len() as u64 * len > MAX_DIRECTORY {
            return Err(Unfit::Wrong(Wrong::TooMuch));
        }
        let mut bytes = vec![0; chain.len() * len as usize];
        for (cluster, part) in chain.iter().zip(bytes.chunks_mut(len as usize)) {
            disk.read(self.g.cluster_at(*cluster), part)?;
        }
        Ok(bytes)
    }
}

/// Whether the partition and the volume are still laid out as `front` has them.
fn same_layout(g: &Geometry, disk: &mut dyn Disk, front: &[u8]) -> io::Result<bool> {
    let mut same = |at: u64, ranges: &[std::ops::Range<usize>]| -> io::Result<bool> {
        let mut now = [0; SECTOR as usize];
        disk.read(at, &mut now)?;
        let then = front.get(at as usize..).unwrap_or_default();
        Ok(ranges.iter().all(|r| then.get(r.clone()) == Some(&now[r.clone()])))
    };
    // Of the partition: where it is. Of the volume: lengths of all its parts; nobody cares for heads and tracks.
    let boot: &[_] = match g.fat {
        Fat::Fat32 => &[11..21, 22..24, 32..42, 44..48],
        _ => &[11..21, 22..24, 32..36],
    };
    Ok((g.floppy || same(0, &[0x1be + 8..0x1ce, 0x1fe..0x200])?) && same(g.begin * SECTOR, boot)?)
}

/// Reads what is on the volume. `front` is what was in front of the first cluster when it was made.
///
/// # Errors
/// The disk cannot be read; there is no volume as it was made, or no list can be made. What is wrong with single files and
/// directories is told with them.
pub fn list(g: &Geometry, disk: &mut dyn Disk, front: &[u8]) -> Result<Listing, Unfit> {
    if !same_layout(g, disk, front)? {
        return Err(Unfit::Wrong(Wrong::Layout));
    }
    let mut fat = vec![0; g.fat_len()];
    disk.read(g.fat_at(), &mut fat)?;
    let owner = vec![0; g.clusters as usize + 2];
    let mut l = Listing { entries: Vec::new(), fat, g: *g, owner };
    let root = match g.fat {
        Fat::Fat32 => {
            let (chain, wrong) = l.chain(2, ROOT);
            if let Some(w) = wrong {
                return Err(Unfit::Wrong(w));
            }
            l.read_chain(disk, &chain)?
        }
        _ => {
            let mut bytes = vec![0; (g.root_sectors * SECTOR) as usize];
            disk.read(g.root_at(), &mut bytes)?;
            bytes
        }
    };
    l.directory(&root, None).map_err(Unfit::Wrong)?;
    // How deep each is that was looked at.
    let mut depth = Vec::new();
    let mut at = 0;
    while at < l.entries.len() {
        let e = &l.entries[at];
        let mine = e.parent.map_or(1, |p: usize| -> usize { depth[p] + 1 });
        depth.push(mine);
        if e.dir && e.wrong.is_none() {
            let chain = e.chain.clone();
            if let Err(w) = inside(&mut l, disk, &chain, at, mine)? {
                l.entries[at].wrong = Some(w);
            }
        }
        at += 1;
    }
    // Somebody's clusters may have turned out to be another's, too; nothing is known then of what is in it.
    for at in 0..l.entries.len() {
        if let Some(p) = l.entries[at].parent
            && let Some(w) = l.entries[p].wrong
        {
            l.entries[at].wrong = l.entries[at].wrong.or(Some(w));
        }
    }
    Ok(l)
}

/// Adds what is in a directory. `Err` inside: it is no directory, and nothing is added.
fn inside(
    l: &mut Listing,
    disk: &mut dyn Disk,
    chain: &[u32],
    at: usize,
    depth: usize,
) -> Result<Result<(), Wrong>, Unfit> {
    if depth > MAX_DEPTH {
        return Ok(Err(Wrong::TooMuch));
    }
    let bytes = match l.read_chain(disk, chain) {
        Ok(bytes) => bytes,
        Err(Unfit::Wrong(w)) => return Ok(Err(w)),
        Err(e) => return Err(e),
    };
    let is = |i: usize, name: &[u8; 11]| {
        let e = bytes.get(i * ENTRY..(i + 1) * ENTRY);
        e.is_some_and(|e| e[..11] == name[..] && e[11] & DIRECTORY != 0)
    };
    // What was just made may have its clusters already, but nothing in them yet but what was there before.
    if !is(0, b".          ") || !is(1, b"..         ") {
        return Ok(Err(Wrong::NoDirectory));
    }
    let before = l.entries.len();
    let added = l.directory(&bytes, Some(at));
    if matches!(added, Err(Wrong::TooMuch)) {
        return Err(Unfit::Wrong(Wrong::TooMuch));
    }
    if added.is_err() {
        // What was seen of it keeps its clusters: nothing else may have them.
        for e in &mut l.entries[before..] {
            e.wrong = e.wrong.or(Some(Wrong::Name));
        }
    }
    Ok(added)
}
