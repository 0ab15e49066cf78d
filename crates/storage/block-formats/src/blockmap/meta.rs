//! Tables of an image in memory: pages of the file, read when they are needed, written back in order.

use crate::blockmap::Io;
use base::{Errno, IoResult};
use mem::IoBuf;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};

/// Bytes of a page.
const PAGE: u64 = 16 << 10;
/// What is written at once at least.
const SECTOR: u64 = 512;
/// Pages that are kept beside changed ones.
const MAX_CLEAN: usize = 1024;
/// Changed pages that are too many.
const MAX_DIRTY: usize = 256;

/// When a change reaches the file. Each level is stable before the next is written, the first together with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Before anything refers to it.
    Early = 0,
    /// Entries that refer to blocks, and new tables.
    Entry = 1,
    /// Entries that refer to tables.
    Directory = 2,
}

struct Page {
    bytes: Box<[u8]>,
    /// Changed sectors, by level.
    dirty: [u32; 3],
    used: bool,
}

impl Page {
    fn is_dirty(&self) -> bool {
        self.dirty != [0; 3]
    }
}

#[derive(Default)]
struct State {
    pages: HashMap<u64, Page>,
    clock: VecDeque<u64>,
    /// How often a page was dropped.
    dropped: u64,
    dirty: usize,
}

impl State {
    fn insert(&mut self, page: u64, bytes: Box<[u8]>, keep: usize) {
        if self.pages.len() >= keep + self.dirty {
            self.drop_one();
        }
        self.clock.push_back(page);
        self.pages.insert(page, Page { bytes, dirty: [0; 3], used: true });
    }

    /// Drops a page that was not used lately.
    fn drop_one(&mut self) {
        for _ in 0..2 * self.clock.len() {
            let Some(n) = self.clock.pop_front() else { return };
            let Some(p) = self.pages.get_mut(&n) else { continue };
            if p.is_dirty() || std::mem::take(&mut p.used) {
                self.clock.push_back(n);
                continue;
            }
            self.pages.remove(&n);
            self.dropped += 1;
            return;
        }
    }

    fn change(&mut self, page: u64, within: usize, len: usize, level: Level, f: impl FnOnce(&mut [u8])) {
        let Some(p) = self.pages.get_mut(&page) else { return };
        let was = p.is_dirty();
        f(&mut p.bytes[within..within + len]);
        p.used = true;
        for s in within / SECTOR as usize..=(within + len - 1) / SECTOR as usize {
            // A sector that a later level has changed waits for that level.
            let later = (level as usize..3).rev().find(|l| p.dirty[*l] & 1 << s != 0);
            (0..3).for_each(|l| p.dirty[l] &= !(1 << s));
            p.dirty[later.unwrap_or(level as usize)] |= 1 << s;
        }
        self.dirty += usize::from(!was);
    }
}

/// The tables of one image. Changes are made by one task at a time (the holder of the engine's lock); anybody may read.
pub struct Meta {
    state: Mutex<State>,
    /// Pages that are kept beside changed ones.
    keep: usize,
}

fn split(off: u64) -> (u64, usize) {
    (off / PAGE, (off % PAGE) as usize)
}

impl Meta {
    /// The tables of one of several files, which together take no more memory than one.
    pub fn one_of(files: usize) -> Meta {
        Meta { state: Mutex::default(), keep: (MAX_CLEAN / files.max(1)).max(8) }
    }

    /// Shows the bytes of the file from `off` on: some, up to the end of a page.
    pub async fn with<R>(&self, io: &Io<'_>, off: u64, f: impl FnOnce(&[u8]) -> R) -> IoResult<R> {
        if off > block::MAX_OFFSET {
            return Err(Errno::IO);
        }
        let (page, within) = split(off);
        loop {
            let dropped = {
                let mut s = self.state.lock();
                if let Some(p) = s.pages.get_mut(&page) {
                    p.used = true;
                    return Ok(f(&p.bytes[within..]));
                }
                s.dropped
            };
            let bytes = io.read_vec(page * PAGE, PAGE as usize).await?;
            let mut s = self.state.lock();
            // Somebody may have changed and dropped it meanwhile: then this may be old.
            if s.dropped == dropped && !s.pages.contains_key(&page) {
                s.insert(page, bytes.into(), self.keep);
            }
        }
    }

    /// Copies bytes of the file.
    pub async fn read(&self, io: &Io<'_>, mut off: u64, mut out: &mut [u8]) -> IoResult<()> {
        while !out.is_empty() {
            let n = self
                .with(io, off, |b| {
                    let n = b.len().min(out.len());
                    out[..n].copy_from_slice(&b[..n]);
                    n
                })
                .await?;
            out = &mut out[n..];
            off += n as u64;
        }
        Ok(())
    }

    /// A copy of `N` bytes of the file.
    pub async fn array<const N: usize>(&self, io: &Io<'_>, off: u64) -> IoResult<[u8; N]> {
        let mut out = [0; N];
        self.read(io, off, &mut out).await?;
        Ok(out)
    }

    /// Changes bytes.
    pub async fn write(&self, io: &Io<'_>, off: u64, bytes: &[u8], level: Level) -> IoResult<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (page, within) = split(off + done as u64);
            let n = (PAGE as usize - within).min(bytes.len() - done);
            let part = &bytes[done..done + n];
            loop {
                {
                    let mut s = self.state.lock();
                    if s.pages.contains_key(&page) {
                        s.change(page, within, n, level, |b| b.copy_from_slice(part));
                        break;
                    }
                }
                self.with(io, page * PAGE, |_| ()).await?;
            }
            done += n;
        }
        Ok(())
    }

    /// Changes a range to zeroes: a new table.
    pub async fn clear(&self, io: &Io<'_>, off: u64, len: u64, level: Level) -> IoResult<()> {
        let zeroes = vec![0; PAGE as usize];
        let mut done = 0;
        while done < len {
            let (page, within) = split(off + done);
            let n = (PAGE - within as u64).min(len - done) as usize;
            if n as u64 == PAGE {
                let mut s = self.state.lock();
                if !s.pages.contains_key(&page) {
                    s.insert(page, zeroes.clone().into(), self.keep);
                }
            }
            self.write(io, off + done, &zeroes[..n], level).await?;
            done += n as u64;
        }
        Ok(())
    }

    /// Whether so much has changed that it should be written.
    pub fn crowded(&self) -> bool {
        self.state.lock().dirty > MAX_DIRTY.min(self.keep)
    }

    /// Writes what has changed, level by level. The caller makes the last level stable.
    pub async fn write_back(&self, io: &Io<'_>) -> IoResult<()> {
        for level in 0..3 {
            let mut pages: Vec<u64> = {
                let s = self.state.lock();
                s.pages.iter().filter(|(_, p)| p.dirty[level] != 0).map(|(n, _)| *n).collect()
            };
            if pages.is_empty() {
                continue;
            }
            if level > 0 {
                io.flush().await?;
            }
            pages.sort_unstable();
            for n in pages {
                self.write_page(io, n, level).await?;
            }
        }
        Ok(())
    }

    /// Writes the sectors of a page that a level has changed.
    async fn write_page(&self, io: &Io<'_>, n: u64, level: usize) -> IoResult<()> {
        let (bytes, mask) = {
            let mut s = self.state.lock();
            let Some(p) = s.pages.get_mut(&n) else { return Ok(()) };
            (p.bytes.clone(), p.dirty[level])
        };
        let sectors = (PAGE / SECTOR) as u32;
        let mut s = 0;
        while s < sectors {
            if mask & 1 << s == 0 {
                s += 1;
                continue;
            }
            let end = (s..sectors).find(|e| mask & 1 << e == 0).unwrap_or(sectors);
            let (a, b) = ((u64::from(s) * SECTOR) as usize, (u64::from(end) * SECTOR) as usize);
            io.write(n * PAGE + a as u64, IoBuf::from_bytes(&bytes[a..b])).await?;
            s = end;
        }
        let mut s = self.state.lock();
        if let Some(p) = s.pages.get_mut(&n) {
            p.dirty[level] &= !mask;
            if !p.is_dirty() {
                s.dirty -= 1;
            }
        }
        Ok(())
    }
}
