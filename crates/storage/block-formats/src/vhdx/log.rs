//! The log: changes of metadata that a crash may have left half-done (section 2.3).

use super::spec::{Header, MAX_DISK, checksum};
use crate::blockmap::Io;
use crate::fields::{le32, le64};
use base::units::MIB;
use base::{Errno, IoResult};
use block::driver::ZeroFlags;
use std::collections::HashMap;
use std::rc::Rc;

/// Bytes of a sector of the log.
const SECTOR: usize = 4096;
/// The longest log that is looked at, bytes.
const MAX_LOG: u32 = 64 << 20;
/// The most zeroes that one entry may ask for, bytes: metadata is no longer.
const MAX_ZEROES: u64 = 1 << 30;

/// How many bytes of entries are summed up at most.
const MAX_SUMMED: usize = 512 << 20;

/// An entry, as its bytes in order.
struct Entry {
    sequence: u64,
    /// Where the oldest entry is that is needed with it.
    tail: u32,
    len: usize,
    /// How long the file was, and how long it may have become.
    flushed: u64,
    last: u64,
    bytes: Vec<u8>,
}

/// A change that must be in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Data { at: u64, bytes: Vec<u8> },
    Zero { at: u64, len: u64 },
}

/// The newest sequence of entries that are all there, oldest first.
pub struct Replay {
    changes: Vec<Change>,
    flushed: u64,
    last: u64,
}

/// The bytes of a ring from `at` on; `at` is in the ring, and `len` no longer than it.
fn ring(log: &[u8], at: usize, len: usize) -> Vec<u8> {
    let n = len.min(log.len() - at);
    [&log[at..at + n], &log[..len - n]].concat()
}

/// The entry at an offset of the log; `None` where there is none, or a broken one.
fn entry(log: &[u8], at: usize, id: &[u8; 16]) -> Option<Entry> {
    let head = ring(log, at, 64);
    let len = le32(&head, 8)? as usize;
    let count = le32(&head, 24)? as usize;
    let fits = len >= SECTOR && len.is_multiple_of(SECTOR) && len <= log.len();
    let tail = le32(&head, 12)?;
    let tail_fits = (tail as usize).is_multiple_of(SECTOR) && (tail as usize) < log.len();
    if !head.starts_with(b"loge") || head.get(32..48)? != id || !fits || !tail_fits {
        return None;
    }
    let descriptors = (64 + 32 * count).next_multiple_of(SECTOR);
    if le64(&head, 16)? == 0 || descriptors > len {
        return None;
    }
    let bytes = ring(log, at, len);
    let found = Entry {
        sequence: le64(&head, 16)?,
        tail,
        len,
        flushed: le64(&head, 48)?,
        last: le64(&head, 56)?,
        bytes,
    };
    (le32(&head, 4)? == checksum(&found.bytes) && changes(&found).is_some()).then_some(found)
}

/// What an entry says is to be written; `None` where it is not sound.
fn changes(e: &Entry) -> Option<Vec<Change>> {
    let count = le32(&e.bytes, 24)? as usize;
    let mut sector = (64 + 32 * count).next_multiple_of(SECTOR);
    let mut out = Vec::new();
    for d in e.bytes.get(64..64 + 32 * count)?.chunks_exact(32) {
        let at = le64(d, 16)?;
        if le64(d, 24)? != e.sequence || !at.is_multiple_of(SECTOR as u64) || at > block::MAX_OFFSET / 2 {
            return None;
        }
        if d.starts_with(b"zero") {
            let len = le64(d, 8)?;
            if !len.is_multiple_of(SECTOR as u64) || len > MAX_ZEROES {
                return None;
            }
            out.push(Change::Zero { at, len });
        } else if d.starts_with(b"desc") {
            let s = e.bytes.get(sector..sector + SECTOR)?;
            sector += SECTOR;
            let halves = (u64::from(le32(s, 4)?) << 32) | u64::from(le32(s, SECTOR - 4)?);
            if !s.starts_with(b"data") || halves != e.sequence {
                return None;
            }
            // The first and last bytes gave their place to marks; they are in the descriptor.
            let mut bytes = s.to_vec();
            bytes[..8].copy_from_slice(&d[8..16]);
            bytes[SECTOR - 4..].copy_from_slice(&d[4..8]);
            out.push(Change::Data { at, bytes });
        } else {
            return None;
        }
    }
    Some(out)
}

/// The entries of a log by where they are; each is looked at once.
struct Entries<'l> {
    log: &'l [u8],
    id: [u8; 16],
    known: HashMap<usize, Option<Rc<Entry>>>,
    /// How many bytes may still be summed up: a log can be made such that every sector begins a long entry.
    budget: usize,
}

impl Entries<'_> {
    fn at(&mut self, at: usize) -> Option<Rc<Entry>> {
        if let Some(e) = self.known.get(&at) {
            return e.clone();
        }
        let len = le32(self.log.get(at..)?, 8).unwrap_or(0) as usize;
        let affordable = len <= self.budget;
        let found = if affordable { entry(self.log, at, &self.id).map(Rc::new) } else { None };
        if found.is_some() || self.log[at..].starts_with(b"loge") {
            self.budget = self.budget.saturating_sub(len);
        }
        self.known.insert(at, found.clone());
        found
    }

    /// Entries that follow one another, from an offset on; `None` where the newest does not reach back far enough.
    fn sequence(&mut self, start: usize) -> Option<Vec<Rc<Entry>>> {
        let mut all: Vec<(usize, Rc<Entry>)> = Vec::new();
        let (mut at, mut total) = (start, 0);
        while let Some(e) = self.at(at) {
            let follows = all.last().is_none_or(|(_, l)| l.sequence.checked_add(1) == Some(e.sequence));
            if !follows || total + e.len > self.log.len() {
                break;
            }
            total += e.len;
            let next = (at + e.len) % self.log.len();
            all.push((at, e));
            at = next;
        }
        let tail = all.last()?.1.tail as usize;
        let first = all.iter().position(|(at, _)| *at == tail)?;
        Some(all.into_iter().skip(first).map(|(_, e)| e).collect())
    }
}

/// The newest sequence of a log.
fn newest(log: &[u8], id: [u8; 16]) -> Option<Vec<Rc<Entry>>> {
    let mut entries = Entries { log, id, known: HashMap::new(), budget: MAX_SUMMED };
    let mut best: Option<Vec<Rc<Entry>>> = None;
    let mut at = 0;
    while at < log.len() {
        let mut step = SECTOR;
        if let Some(found) = entries.sequence(at) {
            // What this sequence covers begins no newer one.
            step = found.iter().map(|e| e.len).sum::<usize>().max(SECTOR);
            let number = |s: &[Rc<Entry>]| s.last().map_or(0, |e| e.sequence);
            if best.as_ref().is_none_or(|b| number(b) < number(&found)) {
                best = Some(found);
            }
        }
        at += step;
    }
    best
}

/// What the log of an image asks for; `None` if nothing.
pub async fn read(io: &Io<'_>, header: &Header) -> IoResult<Option<Replay>> {
    if header.log == [0; 16] || header.log_length == 0 {
        return Ok(None);
    }
    let placed = header.log_offset >= MIB && header.log_offset < block::MAX_OFFSET / 2;
    if !placed || !header.log_offset.is_multiple_of(MIB) || !u64::from(header.log_length).is_multiple_of(MIB)
    {
        return Err(Errno::INVAL);
    }
    if header.log_length > MAX_LOG {
        return Err(Errno::NOTSUP);
    }
    let log = io.read_vec(header.log_offset, header.log_length as usize).await?;
    let id = header.log;
    rt::unblock(move || {
        let Some(entries) = newest(&log, id) else { return Ok(None) };
        let (flushed, last) = entries.last().map_or((0, 0), |e| (e.flushed, e.last));
        let changes: Option<Vec<Vec<Change>>> = entries.iter().map(|e| changes(e)).collect();
        let changes: Vec<Change> = changes.ok_or(Errno::IO)?.into_iter().flatten().collect();
        Ok((!changes.is_empty()).then_some(Replay { changes, flushed, last }))
    })
    .await
}

impl Replay {
    /// Writes everything that the log asks for.
    pub async fn run(&self, io: &Io<'_>) -> IoResult<()> {
        // What was flushed with the log has gone: the file was cut off.
        if io.file_len()? < self.flushed {
            return Err(Errno::INVAL);
        }
        for c in &self.changes {
            match c {
                Change::Data { at, bytes } => io.write_bytes(*at, bytes).await?,
                Change::Zero { at, len } => io.write_zeroes(*at, *len, ZeroFlags::empty()).await?,
            }
        }
        if self.last <= 2 * MAX_DISK && self.last.is_multiple_of(MIB) {
            io.grow(self.last).await?;
        }
        io.flush().await
    }
}
