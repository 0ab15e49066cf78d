//! Reading and writing through a format's tables.

mod zero;

use super::io::checked;
use super::{At, Io, Map, Meta, Slot, Space, clamp_len};
use base::{Errno, IoResult};
use block::driver::{Prealloc, ZeroFlags};
use block::ranges::{RangeGuard, RangeLocks};
use mem::IoBuf;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The longest piece that is allocated at once, bytes, where a block is not longer.
const MAX_STEP: u64 = 4 << 20;
/// The most bytes around a write that are held in memory with it.
const MAX_AROUND: u64 = 1 << 20;
/// The most zeroes that are written from memory at once.
const MAX_ZEROES: u64 = 1 << 20;
/// The most that is encrypted before it is written, bytes.
const MAX_BOUNCE: usize = 1 << 20;

/// Where a piece of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere.
    Unallocated,
    /// Zeroes.
    Zero,
    /// In the file, plainly, from this offset on.
    Data(u64),
    /// In a compressed block.
    Packed {
        /// Which block.
        block: u64,
        /// What the format knows it by.
        key: u64,
    },
}

/// An image, or one of the files of an image, whose blocks a table leads to.
pub struct Engine<M: Map> {
    map: M,
    meta: Meta,
    space: rt::sync::Mutex<Space>,
    ranges: RangeLocks,
    /// [`Map::begin`] was called.
    begun: AtomicBool,
    /// Blocks whose place in the file was given up, and the place: they get it back when they are written again, so that the
    /// file does not grow each time. Nobody else gets it, since somebody may still read there.
    given_up: Mutex<BTreeMap<u64, u64>>,
    /// The block that was unpacked last.
    unpacked: Mutex<Option<(u64, u64, Arc<Vec<u8>>)>>,
}

/// What an allocating write does: the blocks, and where their new place is.
struct Step {
    blocks: Range<u64>,
    host: u64,
    /// Whether the file reads as zeroes there.
    zeroed: bool,
}

impl<M: Map> Engine<M> {
    /// An engine over tables of which nothing has been changed.
    pub fn new(map: M, space: Space) -> Engine<M> {
        Engine::one_of(1, map, space)
    }

    /// One of several engines, which share the memory that tables may take.
    pub fn one_of(engines: usize, map: M, space: Space) -> Engine<M> {
        Engine {
            map,
            meta: Meta::one_of(engines),
            space: rt::sync::Mutex::new(space),
            ranges: RangeLocks::default(),
            begun: AtomicBool::new(false),
            given_up: Mutex::default(),
            unpacked: Mutex::new(None),
        }
    }

    /// The format.
    pub fn map(&self) -> &M {
        &self.map
    }

    /// The tables, with the file.
    pub fn at<'a>(&'a self, io: Io<'a>) -> At<'a> {
        At { io, meta: &self.meta }
    }

    /// Where the disk's bytes from `off` on are, and how many of them; `len` > 0.
    pub async fn lookup(&self, io: Io<'_>, off: u64, len: u64) -> IoResult<(Place, u64)> {
        let bs = self.map.block_size();
        let (block, within) = (off / bs, off % bs);
        let max = (within + len).div_ceil(bs);
        let (slot, n) = self.map.find(&self.at(io), block, max).await?;
        let n = n.saturating_mul(bs).saturating_sub(within).min(len);
        let place = match slot {
            Slot::Unallocated => Place::Unallocated,
            Slot::Zero => Place::Zero,
            Slot::Data(host) => Place::Data(checked(host.checked_add(within + n))? - n),
            Slot::Packed(key) => return Ok((Place::Packed { block, key }, n.min(bs - within))),
        };
        Ok((place, n))
    }

    /// Reads; within the disk's length.
    pub async fn read(&self, io: Io<'_>, off: u64, buf: IoBuf) -> IoResult<()> {
        let len = buf.len() as u64;
        let mut done = 0;
        while done < len {
            let (place, n) = self.lookup(io, off + done, len - done).await?;
            let part = buf.slice(done as usize..(done + n) as usize);
            match place {
                Place::Data(host) => self.read_data(io, off + done, host, part).await?,
                Place::Zero => part.fill(0),
                Place::Unallocated if M::BACKING => io.read_backing(off + done, part).await?,
                Place::Unallocated => part.fill(0),
                Place::Packed { block, key } => {
                    let plain = self.unpack(io, block, key).await?;
                    let within = ((off + done) % self.map.block_size()) as usize;
                    part.copy_from(0, plain.get(within..within + n as usize).ok_or(Errno::IO)?);
                }
            }
            done += n;
        }
        Ok(())
    }

    /// Reads what the disk has at `off` from its place in the file.
    async fn read_data(&self, io: Io<'_>, off: u64, host: u64, buf: IoBuf) -> IoResult<()> {
        let Some(cipher) = self.map.cipher() else { return io.read(host, buf).await };
        let key = cipher.key()?;
        io.read(host, buf.clone()).await?;
        key.decrypt(off, &buf)
    }

    /// Writes what the disk has at `off` to its place in the file.
    async fn write_data(&self, io: Io<'_>, off: u64, host: u64, buf: IoBuf) -> IoResult<()> {
        let Some(cipher) = self.map.cipher() else { return io.write(host, buf).await };
        let key = cipher.key()?;
        let mut done = 0;
        while done < buf.len() {
            let part = buf.slice(done..buf.len().min(done + MAX_BOUNCE));
            let (by, n) = (done as u64, part.len());
            io.write(host + by, key.encrypt(off + by, &part)?).await?;
            done += n;
        }
        Ok(())
    }

    async fn unpack(&self, io: Io<'_>, block: u64, key: u64) -> IoResult<Arc<Vec<u8>>> {
        let known = self.unpacked.lock().as_ref().filter(|u| (u.0, u.1) == (block, key)).map(|u| u.2.clone());
        if let Some(plain) = known {
            return Ok(plain);
        }
        let plain = Arc::new(self.map.unpack(&self.at(io), block, key).await?);
        *self.unpacked.lock() = Some((block, key, plain.clone()));
        Ok(plain)
    }

    async fn begin(&self, io: Io<'_>) -> IoResult<()> {
        if self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut space = self.space.lock().await;
        if !self.begun.load(Ordering::Acquire) {
            self.map.begin(&self.at(io), &mut space).await?;
            self.begun.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Writes; within the disk's length.
    pub async fn write(&self, io: Io<'_>, off: u64, buf: IoBuf) -> IoResult<()> {
        self.begin(io).await?;
        let len = buf.len() as u64;
        let mut done = 0;
        while done < len {
            done += match self.write_in_place(io, off, &buf, done).await? {
                0 => self.write_allocating(io, off, &buf, done).await?,
                n => n,
            };
        }
        Ok(())
    }

    /// Writes what is there already; 0 where the first byte is not.
    async fn write_in_place(&self, io: Io<'_>, off: u64, buf: &IoBuf, from: u64) -> IoResult<u64> {
        let len = buf.len() as u64;
        let _shared = self.ranges.shared(off + from..off + len).await;
        let mut done = from;
        while done < len {
            let (Place::Data(host), n) = self.lookup(io, off + done, len - done).await? else { break };
            let part = buf.slice(done as usize..(done + n) as usize);
            self.write_data(io, off + done, host, part).await?;
            done += n;
        }
        Ok(done - from)
    }

    /// Writes blocks that are not in the file yet; answers how many bytes. 0 where somebody else has allocated meanwhile.
    async fn write_allocating(&self, io: Io<'_>, off: u64, buf: &IoBuf, from: u64) -> IoResult<u64> {
        let bs = self.map.block_size();
        let (at, end) = (off + from, off + buf.len() as u64);
        let Some((_alone, first, count)) = self.absent(io, at, end).await? else { return Ok(0) };
        let step = self.take(io, first, count, end).await?;
        let stop = step.blocks.end.saturating_mul(bs).min(end);
        let data = buf.slice(from as usize..(stop - off) as usize);
        self.fill(io, &step, at, data).await?;
        self.enter(io, step).await?;
        Ok(stop - at)
    }

    /// The first block from `at` on, and how many with it, up to `end`, that are not in the file as they are; nobody else
    /// comes to them while the guard lives. `None` where the first is in the file.
    async fn absent(&self, io: Io<'_>, at: u64, end: u64) -> IoResult<Option<(RangeGuard<'_>, u64, u64)>> {
        let bs = self.map.block_size();
        let first = at / bs;
        let last = end.min(at.saturating_add(MAX_STEP)).div_ceil(bs);
        let alone = self.ranges.exclusive(first * bs..last.saturating_mul(bs)).await;
        let mut count = 0;
        while first + count < last {
            let (slot, n) = self.map.find(&self.at(io), first + count, last - first - count).await?;
            match slot {
                Slot::Data(_) => break,
                _ => count += n.clamp(1, last - first - count),
            }
        }
        Ok((count > 0).then_some((alone, first, count)))
    }

    /// Enters a step's blocks, which have been written, into the tables.
    async fn enter(&self, io: Io<'_>, step: Step) -> IoResult<()> {
        let mut space = self.space.lock().await;
        let (first, count) = (step.blocks.start, step.blocks.end - step.blocks.start);
        self.map.link(&self.at(io), &mut space, first, count, step.host).await?;
        if self.meta.crowded() {
            self.write_back(io, &mut space).await?;
        }
        Ok(())
    }

    /// Takes space for blocks, and makes the file long enough for them; the guest writes them up to `end`.
    async fn take(&self, io: Io<'_>, first: u64, count: u64, end: u64) -> IoResult<Step> {
        if let Some(step) = self.take_back(first, count) {
            return Ok(step);
        }
        let bs = self.map.block_size();
        let mut space = self.space.lock().await;
        let (host, count) = self.map.reserve(&self.at(io), &mut space, first, count).await?;
        let blocks = first..first + count;
        // What is written to the end makes the file long enough by itself.
        if blocks.end.saturating_mul(bs) > end {
            io.grow(checked(count.checked_mul(bs).and_then(|n| n.checked_add(host)))?).await?;
        }
        Ok(Step { blocks, host, zeroed: host >= space.zero_from })
    }

    /// Writes a step's data, and around it what was there before.
    async fn fill(&self, io: Io<'_>, step: &Step, at: u64, data: IoBuf) -> IoResult<()> {
        let bs = self.map.block_size();
        let (start, stop) = (step.blocks.start * bs, step.blocks.end.saturating_mul(bs));
        let data_end = at + data.len() as u64;
        let place = |guest: u64| step.host + (guest - start);
        if self.map.cipher().is_some() {
            // Zeroes are written like everything else.
            let zeroes = |from: u64, to: u64| IoBuf::zeroed((to - from) as usize);
            let mut whole = self.old_bytes(io, start, at).await?.unwrap_or_else(|| zeroes(start, at));
            let tail = self.old_bytes(io, data_end, stop).await?.unwrap_or_else(|| zeroes(data_end, stop));
            whole.append(data);
            whole.append(tail);
            return self.write_data(io, start, step.host, whole).await;
        }
        if (at - start) + (stop - data_end) > MAX_AROUND {
            self.move_old(io, start, at, step).await?;
            self.move_old(io, data_end, stop, step).await?;
            return io.write(place(at), data).await;
        }
        let head = self.old_bytes(io, start, at).await?;
        let tail = self.old_bytes(io, data_end, stop).await?;
        let mut whole = IoBuf::new();
        let mut from = at;
        match head {
            Some(bytes) => {
                from = start;
                whole.append(bytes);
            }
            None if !step.zeroed => io.write_zeroes(step.host, at - start, ZeroFlags::empty()).await?,
            None => {}
        }
        whole.append(data);
        match tail {
            Some(bytes) => whole.append(bytes),
            None if !step.zeroed => {
                io.write_zeroes(place(data_end), stop - data_end, ZeroFlags::empty()).await?;
            }
            None => {}
        }
        io.write(place(from), whole).await
    }

    /// Copies what was there before to a step's new place, piece by piece.
    async fn move_old(&self, io: Io<'_>, from: u64, to: u64, step: &Step) -> IoResult<()> {
        let start = step.blocks.start * self.map.block_size();
        let mut at = from;
        while at < to {
            let n = (to - at).min(MAX_AROUND);
            let host = step.host + (at - start);
            match self.old_bytes(io, at, at + n).await? {
                Some(bytes) => io.write(host, bytes).await?,
                None if !step.zeroed => io.write_zeroes(host, n, ZeroFlags::empty()).await?,
                None => {}
            }
            at += n;
        }
        Ok(())
    }

    /// The disk's bytes of a part of a block before it gets its own place; `None` for zeroes.
    async fn old_bytes(&self, io: Io<'_>, from: u64, to: u64) -> IoResult<Option<IoBuf>> {
        if from == to || self.is_zero(io, from, to).await? {
            return Ok(None);
        }
        let buf = IoBuf::zeroed((to - from) as usize);
        let inside = clamp_len(from, to - from, self.map.disk_len()) as usize;
        self.read(io, from, buf.slice(0..inside)).await?;
        Ok(if buf.is_zero() { None } else { Some(buf) })
    }

    /// Whether a range is known to be zeroes.
    async fn is_zero(&self, io: Io<'_>, from: u64, to: u64) -> IoResult<bool> {
        let to = to.min(self.map.disk_len());
        let mut at = from;
        while at < to {
            let (place, n) = self.lookup(io, at, to - at).await?;
            match place {
                Place::Zero => {}
                Place::Unallocated if !M::BACKING || io.backing_part(at, n) == 0 => {}
                _ => return Ok(false),
            }
            at += n;
        }
        Ok(true)
    }

    /// Writes whole blocks compressed; the last of the disk may be there in part.
    pub async fn write_packed(&self, io: Io<'_>, off: u64, buf: IoBuf) -> IoResult<()> {
        if !self.map.compresses() {
            return Err(Errno::NOTSUP);
        }
        self.begin(io).await?;
        let bs = self.map.block_size();
        let len = buf.len() as u64;
        let mut done = 0;
        while done < len {
            let at = off + done;
            let n = (bs - at % bs).min(len - done);
            let part = buf.slice(done as usize..(done + n) as usize);
            let whole = at.is_multiple_of(bs) && (n == bs || at + n == self.map.disk_len());
            if whole {
                self.pack_block(io, at / bs, part).await?;
            } else {
                self.write(io, at, part).await?;
            }
            done += n;
        }
        Ok(())
    }

    async fn pack_block(&self, io: Io<'_>, block: u64, part: IoBuf) -> IoResult<()> {
        let bs = self.map.block_size();
        let mut plain = part.to_vec();
        plain.resize(bs as usize, 0);
        let Some(packed) = rt::unblock(move || M::pack(block, &plain)).await? else {
            return self.write(io, block * bs, part).await;
        };
        let start = block.checked_mul(bs).ok_or(Errno::INVAL)?;
        let _alone = self.ranges.exclusive(start..start.saturating_add(bs)).await;
        let mut space = self.space.lock().await;
        self.map.link_packed(&self.at(io), &mut space, block, packed).await?;
        if self.meta.crowded() {
            self.write_back(io, &mut space).await?;
        }
        Ok(())
    }

    async fn write_back(&self, io: Io<'_>, space: &mut Space) -> IoResult<()> {
        self.meta.write_back(&io).await?;
        self.map.flushed(&self.at(io), space).await
    }

    /// Writes tables back. The caller flushes the file.
    pub async fn flush(&self, io: Io<'_>) -> IoResult<()> {
        if !self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut space = self.space.lock().await;
        self.write_back(io, &mut space).await
    }

    /// Writes everything back and takes the marks of changes away; no request is in flight.
    pub async fn finish(&self, io: Io<'_>) -> IoResult<()> {
        if !self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut space = self.space.lock().await;
        self.write_back(io, &mut space).await?;
        self.map.finish(&self.at(io), &mut space).await?;
        self.begun.store(false, Ordering::Release);
        Ok(())
    }

    /// Changes the disk's length.
    pub async fn resize(&self, io: Io<'_>, len: u64, prealloc: Prealloc) -> IoResult<()> {
        self.begin(io).await?;
        let mut space = self.space.lock().await;
        self.map.resize(&self.at(io), &mut space, len, prealloc).await
    }
}
