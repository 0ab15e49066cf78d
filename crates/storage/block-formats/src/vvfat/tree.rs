//! A directory of the host as the clusters of a volume.

use super::names::{Short, is_short, long, short, text};
use super::spec::{ARCHIVE, DIRECTORY, ENTRY, Fat, Geometry, LABEL, READ_ONLY, ROOT_ENTRIES};
use qapi::{QError, qerr};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The deepest directory.
const MAX_DEPTH: usize = 64;

/// What clusters hold.
#[derive(Debug)]
pub enum Content {
    /// Entries of a directory.
    Directory(Vec<u8>),
    /// A file of the host.
    File {
        /// Its path.
        path: PathBuf,
        /// How many bytes of it are shown.
        size: u64,
        /// Its place among the items.
        item: usize,
    },
}

/// By what a file is known again, and whether it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print {
    /// The file system.
    pub dev: u64,
    /// The file in it.
    pub ino: u64,
    /// Its length, bytes.
    pub len: u64,
    /// When it was changed: seconds and nanoseconds.
    pub changed: (i64, i64),
}

/// A file or directory that is shown.
#[derive(Debug)]
pub struct Item {
    /// The place of the directory that has it; `None`: the one that is shown itself.
    pub parent: Option<usize>,
    /// Its name on the host.
    pub name: OsString,
    /// The name that is shown.
    pub shown: String,
    /// It is a directory.
    pub dir: bool,
    /// Its first cluster, where it has any, and how many.
    pub clusters: (u32, u32),
    /// Bytes of a file.
    pub size: u32,
    /// The time that is shown.
    pub stamp: [u8; 4],
    /// Shown as not to be written.
    pub read_only: bool,
    /// By what it is known again.
    pub print: Print,
}

/// Clusters that follow one another.
#[derive(Debug)]
pub struct Run {
    /// The first cluster.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// What they hold.
    pub content: Content,
}

/// The volume's content.
#[derive(Debug)]
pub struct Tree {
    /// The entries of the root directory, where it is in no cluster.
    pub root: Vec<u8>,
    /// By their first cluster.
    pub runs: Vec<Run>,
    /// What is shown; directories before what is in them.
    pub items: Vec<Item>,
}

struct Builder<'g> {
    g: &'g Geometry,
    next: u32,
    runs: Vec<Run>,
    items: Vec<Item>,
    /// What is there to be written back: only what is in the directory itself can be.
    own: bool,
}

/// Date and time as directories have them; UTC.
pub fn stamp(t: Option<SystemTime>) -> [u8; 4] {
    let secs = t.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
    let (days, rest) = (secs / 86400, secs % 86400);
    // Days since 1970 to a date of the civil calendar.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let year = year.clamp(1980, 2107) - 1980;
    let date = ((year << 9) | (month << 5) | day) as u16;
    let time = (((rest / 3600) << 11) | ((rest / 60 % 60) << 5) | (rest % 60 / 2)) as u16;
    let ([a, b], [c, d]) = (time.to_le_bytes(), date.to_le_bytes());
    [a, b, c, d]
}

/// When that is; `None` where it is no date.
pub fn moment(stamp: [u8; 4]) -> Option<SystemTime> {
    let time = u64::from(u16::from_le_bytes([stamp[0], stamp[1]]));
    let date = u64::from(u16::from_le_bytes([stamp[2], stamp[3]]));
    let (year, month, day) = (1980 + (date >> 9), date >> 5 & 15, date & 31);
    let (hour, minute, second) = (time >> 11, time >> 5 & 63, (time & 31) * 2);
    if !(1..=12).contains(&month) || day == 0 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // The other way round: the year begins in March, so that a leap day is its last.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(UNIX_EPOCH + Duration::from_secs(days * 86400 + hour * 3600 + minute * 60 + second))
}

fn entry(name: &Short, attributes: u8, time: [u8; 4], cluster: u32, size: u32) -> [u8; ENTRY] {
    let mut e = [0; ENTRY];
    e[..11].copy_from_slice(name);
    e[11] = attributes;
    // Made, read and changed.
    e[14..18].copy_from_slice(&time);
    e[18..20].copy_from_slice(&time[2..]);
    e[20..22].copy_from_slice(&((cluster >> 16) as u16).to_le_bytes());
    e[22..26].copy_from_slice(&time);
    e[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
    e[28..32].copy_from_slice(&size.to_le_bytes());
    e
}

impl Builder<'_> {
    fn take(&mut self, bytes: u64) -> Result<(u32, u32), QError> {
        let count = bytes.div_ceil(self.g.cluster_len());
        let first = self.next;
        let end = u64::from(first) + count;
        if end > self.g.clusters + 2 {
            return Err(qerr!(
                "Directory does not fit in FAT{} (capacity {:.2} MB)",
                self.g.fat.bits(),
                (self.g.clusters * self.g.cluster_len()) as f64 / 1e6
            ));
        }
        self.next = end as u32;
        Ok((first, count as u32))
    }

    /// The entries of a directory. Its own cluster is `own`, that of the one above it `above`; 0 for the root.
    fn directory(
        &mut self,
        path: &Path,
        parent: Option<usize>,
        own: u32,
        above: u32,
        depth: usize,
    ) -> Result<Vec<u8>, QError> {
        let unread = |_: std::io::Error| qerr!("Could not read directory {}", path.display());
        if depth > MAX_DEPTH {
            return Err(qerr!("The directory {} lies too deep", path.display()));
        }
        let mut out = Vec::new();
        let time = stamp(fs::metadata(path).and_then(|m| m.modified()).ok());
        if depth > 0 {
            out.extend(entry(b".          ", DIRECTORY, time, own, 0));
            out.extend(entry(b"..         ", DIRECTORY, time, above, 0));
        }
        let mut found = Vec::new();
        for e in fs::read_dir(path).map_err(unread)? {
            found.push(e.map_err(unread)?.path());
        }
        found.sort();
        let mut taken = HashSet::new();
        for child in found {
            let host = child.file_name().map(OsString::from).unwrap_or_default();
            let name = host.to_string_lossy().into_owned();
            // A name that leads nowhere is no file.
            let Ok(meta) = (if self.own { fs::symlink_metadata(&child) } else { fs::metadata(&child) })
            else {
                continue;
            };
            if self.own && host.to_str().is_none() {
                continue;
            }
            let stamp = stamp(meta.modified().ok());
            let read_only = self.own && meta.mode() & 0o200 == 0;
            let item = self.items.len();
            let mut add = |b: &mut Self, attributes: u8, clusters: (u32, u32), size: u32| {
                let s = short(&name, &mut taken);
                let mut shown = text(&s, 0);
                if !is_short(&name, &s)
                    && let Some(long) = long(&name, &s)
                {
                    out.extend(long.concat());
                    shown = name.clone();
                }
                let attributes = attributes | if read_only { READ_ONLY } else { 0 };
                out.extend(entry(&s, attributes, stamp, clusters.0, size));
                let (name, dir, print) = (host.clone(), attributes & DIRECTORY != 0, Print::of(&meta));
                b.items.push(Item { parent, name, shown, dir, clusters, size, stamp, read_only, print });
            };
            if meta.is_dir() {
                // As long as its entries may be at most: so its clusters are known before those of what is in it.
                let names = fs::read_dir(&child).map_err(unread)?.count() as u64;
                let room = (names.saturating_mul(21) + 3).saturating_mul(ENTRY as u64);
                let (first, count) = self.take(room)?;
                add(self, DIRECTORY, (first, count), 0);
                let inside = self.directory(&child, Some(item), first, own, depth + 1)?;
                if inside.len() as u64 > u64::from(count) * self.g.cluster_len() {
                    return Err(qerr!("The directory {} changes", child.display()));
                }
                self.runs.push(Run { first, count, content: Content::Directory(inside) });
            } else if meta.is_file() {
                let size = u32::try_from(meta.len()).ok().filter(|n| *n <= i32::MAX as u32);
                let size = size.ok_or_else(|| qerr!("File {} is larger than 2GB", child.display()))?;
                if size == 0 {
                    add(self, ARCHIVE, (0, 0), 0);
                    continue;
                }
                let (first, count) = self.take(u64::from(size))?;
                add(self, ARCHIVE, (first, count), size);
                let content = Content::File { path: child, size: u64::from(size), item };
                self.runs.push(Run { first, count, content });
            }
        }
        Ok(out)
    }
}

impl Print {
    fn of(m: &fs::Metadata) -> Print {
        Print { dev: m.dev(), ino: m.ino(), len: m.len(), changed: (m.mtime(), m.mtime_nsec()) }
    }
}

impl Tree {
    /// Reads a directory. `own`: only what is in it itself, no links, and nothing whose name cannot be told. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or does not fit.
    pub fn read(g: &Geometry, dir: &Path, label: &[u8; 11], own: bool) -> Result<Tree, QError> {
        let mut b = Builder { g, next: 2, runs: Vec::new(), items: Vec::new(), own };
        let in_clusters = g.fat == Fat::Fat32;
        let room = (ROOT_ENTRIES * ENTRY) as u64;
        let place = if in_clusters { Some(b.take(room)?) } else { None };
        let mut root = entry(label, LABEL, stamp(Some(SystemTime::now())), 0, 0).to_vec();
        root.extend(b.directory(dir, None, 0, 0, 0)?);
        if root.len() as u64 > room {
            return Err(qerr!(
                "Directory does not fit in FAT{} (capacity {ROOT_ENTRIES} entries)",
                g.fat.bits()
            ));
        }
        if let Some((first, count)) = place {
            let content = Content::Directory(std::mem::take(&mut root));
            b.runs.push(Run { first, count, content });
        }
        b.runs.sort_by_key(|r| r.first);
        Ok(Tree { root, runs: b.runs, items: b.items })
    }

    /// The entries of the FAT.
    pub fn chain(&self, g: &Geometry) -> Vec<u32> {
        let end = g.fat.end();
        let mut next = vec![end & !0xff | u32::from(g.media()), end];
        for r in &self.runs {
            next.extend((1..r.count).map(|i| r.first + i));
            next.push(end);
        }
        next
    }

    /// The run that has a cluster.
    pub fn run(&self, cluster: u32) -> Option<&Run> {
        let i = self.runs.partition_point(|r| r.first <= cluster).checked_sub(1)?;
        self.runs.get(i).filter(|r| cluster - r.first < r.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_those_of_the_calendar() {
        // 2024-02-29 12:34:56 UTC.
        let t = UNIX_EPOCH + Duration::from_secs(1_709_210_096);
        let [a, b, c, d] = stamp(Some(t));
        assert_eq!(u16::from_le_bytes([a, b]), 12 << 11 | 34 << 5 | 28);
        assert_eq!(u16::from_le_bytes([c, d]), 44 << 9 | 2 << 5 | 29);
        assert_eq!(moment([a, b, c, d]), Some(t));
        for secs in (315_532_800..4_354_819_198u64).step_by(40_000_002) {
            let t = UNIX_EPOCH + Duration::from_secs(secs);
            assert_eq!(moment(stamp(Some(t))), Some(t));
        }
        assert_eq!(moment([0; 4]), None);
        assert_eq!(moment([0xff; 4]), None);
    }
}
