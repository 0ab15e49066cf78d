//! What was written to the disk: in a temporary file, of which only that takes room.

use super::spec::SECTOR;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A bit for each sector.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(n: u64) -> Bits {
        Bits(vec![0; n.div_ceil(64) as usize])
    }

    fn get(&self, i: u64) -> bool {
        self.0.get((i / 64) as usize).is_some_and(|w| w >> (i % 64) & 1 != 0)
    }

    fn set(&mut self, i: u64) {
        if let Some(w) = self.0.get_mut((i / 64) as usize) {
            *w |= 1 << (i % 64);
        }
    }
}

/// Sectors that were written.
#[derive(Debug)]
pub struct Overlay {
    file: File,
    have: Bits,
    fresh: Bits,
    any_fresh: bool,
}

impl Overlay {
    /// An empty one for a disk of `len` bytes.
    ///
    /// # Errors
    /// There can be no temporary file.
    pub fn new(len: u64) -> io::Result<Overlay> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = base::temporary_dir();
        loop {
            let path =
                dir.join(format!("rhea-vvfat-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed)));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    // It is gone with us.
                    std::fs::remove_file(&path)?;
                    let n = len.div_ceil(SECTOR);
                    return Ok(Overlay { file, have: Bits::new(n), fresh: Bits::new(n), any_fresh: false });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether the sector at `off` is here, and for how many bytes, `len` at most, that is so.
    pub fn state(&self, off: u64, len: u64) -> (bool, u64) {
        let (first, end) = (off / SECTOR, (off + len).div_ceil(SECTOR));
        let here = self.have.get(first);
        let next = (first..end).find(|i| self.have.get(*i) != here).map_or(off + len, |i| i * SECTOR);
        (here, next.min(off + len) - off)
    }

    /// Reads what is here.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, off)
    }

    /// Puts whole sectors here. `fresh`: that is news to the directory.
    ///
    /// # Errors
    /// They cannot be written; whatever was here still is, or is not what anybody relies on.
    pub fn write(&mut self, off: u64, bytes: &[u8], fresh: bool) -> io::Result<()> {
        let len = bytes.len() as u64;
        // A write that fails half-way may have changed what is here, so it counts as fresh in any case.
        let touched = off / SECTOR..(off + len).div_ceil(SECTOR);
        if fresh {
            self.any_fresh = true;
            touched.clone().filter(|i| self.have.get(*i)).for_each(|i| self.fresh.set(i));
        }
        self.file.write_all_at(bytes, off)?;
        for i in touched {
            self.have.set(i);
            if fresh {
                self.fresh.set(i);
            }
        }
        Ok(())
    }

    /// Whether anything is news.
    pub fn any_fresh(&self) -> bool {
        self.any_fresh
    }

    /// Whether the sector at `off` is news.
    pub fn is_fresh(&self, off: u64) -> bool {
        self.fresh.get(off / SECTOR)
    }

    /// What of a range is news, in runs of sectors.
    pub fn fresh(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for i in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            if self.fresh.get(i) {
                match runs.last_mut().filter(|r| r.end == i * SECTOR) {
                    Some(r) => r.end += SECTOR,
                    None => runs.push(i * SECTOR..(i + 1) * SECTOR),
                }
            }
        }
        runs
    }

    /// Nothing is news any more.
    pub fn known(&mut self) {
        self.fresh.0.fill(0);
        self.any_fresh = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_news_is_told_once() {
        let mut o = Overlay::new(1 << 20).unwrap();
        assert_eq!(o.state(0, 1 << 20), (false, 1 << 20));
        o.write(1024, &[7; 1024], true).unwrap();
        o.write(4096, &[8; 512], false).unwrap();
        assert_eq!(o.state(0, 1 << 20), (false, 1024));
        assert!(o.state(1100, 1 << 20).0);
        assert_eq!(o.state(1024, 4096), (true, 1024));
        assert_eq!(o.state(4096, 512), (true, 512));
        assert_eq!(o.fresh(0..1 << 20), vec![1024..2048; 1]);
        let mut b = [0; 512];
        o.read(1536, &mut b).unwrap();
        assert_eq!(b, [7; 512]);
        o.known();
        assert!(!o.any_fresh() && o.fresh(0..1 << 20).is_empty());
        assert_eq!(o.state(1024, 1024), (true, 1024));
    }
}
