//! A directory of the host as the clusters of a volume.

use super::names::{Short, is_short, long, short};
use super::spec::{ARCHIVE, DIRECTORY, ENTRY, Fat, Geometry, LABEL, ROOT_ENTRIES};
use qapi::{QError, qerr};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The deepest directory.
const MAX_DEPTH: usize = 64;

/// What clusters hold.
#[derive(Debug)]
pub enum Content {
    /// Entries of a directory.
    Directory(Vec<u8>),
    /// A file of the host, this many bytes of it.
    File(PathBuf, u64),
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
}

struct Builder<'g> {
    g: &'g Geometry,
    next: u32,
    runs: Vec<Run>,
}

/// Date and time as directories have them; UTC.
fn stamp(t: Option<SystemTime>) -> [u8; 4] {
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
    fn directory(&mut self, path: &Path, own: u32, above: u32, depth: usize) -> Result<Vec<u8>, QError> {
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
            let name = child.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            // A name that leads nowhere is no file.
            let Ok(meta) = fs::metadata(&child) else { continue };
            let time = stamp(meta.modified().ok());
            let mut add = |attributes, cluster, size| {
                let s = short(&name, &mut taken);
                if !is_short(&name, &s) {
                    out.extend(long(&name, &s).unwrap_or_default().concat());
                }
                out.extend(entry(&s, attributes, time, cluster, size));
            };
            if meta.is_dir() {
                // As long as its entries may be at most: so its clusters are known before those of what is in it.
                let names = fs::read_dir(&child).map_err(unread)?.count() as u64;
                let room = (names.saturating_mul(21) + 3).saturating_mul(ENTRY as u64);
                let (first, count) = self.take(room)?;
                add(DIRECTORY, first, 0);
                let inside = self.directory(&child, first, own, depth + 1)?;
                if inside.len() as u64 > u64::from(count) * self.g.cluster_len() {
                    return Err(qerr!("The directory {} changes", child.display()));
                }
                self.runs.push(Run { first, count, content: Content::Directory(inside) });
            } else if meta.is_file() {
                let size = u32::try_from(meta.len()).ok().filter(|n| *n <= i32::MAX as u32);
                let size = size.ok_or_else(|| qerr!("File {} is larger than 2GB", child.display()))?;
                if size == 0 {
                    add(ARCHIVE, 0, 0);
                    continue;
                }
                let (first, count) = self.take(u64::from(size))?;
                add(ARCHIVE, first, size);
                self.runs.push(Run { first, count, content: Content::File(child, u64::from(size)) });
            }
        }
        Ok(out)
    }
}

impl Tree {
    /// Reads a directory. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or does not fit.
    pub fn read(g: &Geometry, dir: &Path, label: &[u8; 11]) -> Result<Tree, QError> {
        let mut b = Builder { g, next: 2, runs: Vec::new() };
        let in_clusters = g.fat == Fat::Fat32;
        let room = (ROOT_ENTRIES * ENTRY) as u64;
        let place = if in_clusters { Some(b.take(room)?) } else { None };
        let mut root = entry(label, LABEL, stamp(Some(SystemTime::now())), 0, 0).to_vec();
        root.extend(b.directory(dir, 0, 0, 0)?);
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
        Ok(Tree { root, runs: b.runs })
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
    }
}
