//! Writing zeroes, and giving space back.

use super::super::{Io, Slot, Zeroing};
use super::{Engine, MAX_STEP, MAX_ZEROES, Map, Place, Step};
use base::{Errno, IoResult};
use block::driver::{Below, ZeroFlags};
use mem::IoBuf;

/// The most blocks whose former place is remembered.
const MAX_GIVEN_UP: u64 = 1 << 16;

impl<M: Map> Engine<M> {
    /// Makes a range read as zeroes. Blocks that have no space get some, as if zeroes were written, or a mark, as the format
    /// has it ([`Map::zeroing`]); their bytes are not written where the file has zeroes there by itself.
    pub async fn write_zeroes(&self, io: Io<'_>, off: u64, len: u64, flags: ZeroFlags) -> IoResult<()> {
        if flags.contains(ZeroFlags::NO_FALLBACK) {
            return Err(Errno::NOTSUP);
        }
        self.begin(io).await?;
        let bs = self.map.block_size();
        let how = self.map.zeroing(off, len);
        let mut done = 0;
        while done < len {
            let (at, left) = (off + done, len - done);
            done += match left / bs {
                n if n > 0 && how != Zeroing::Stored && at.is_multiple_of(bs) => {
                    let n = n.min((MAX_STEP / bs).max(1));
                    match self.mark(io, at / bs, n, how == Zeroing::GivenUp).await? {
                        // In the file, where it stays.
                        0 => self.zero_in_place(io, at, left, flags).await?,
                        n => n * bs,
                    }
                }
                _ => {
                    // Up to the next block that can be marked.
                    let n = match how {
                        Zeroing::Stored => left,
                        _ => left.min(bs - at % bs),
                    };
                    match self.zero_in_place(io, at, n, flags).await? {
                        0 => self.store_zeroes(io, at, n).await?,
                        n => n,
                    }
                }
            };
        }
        Ok(())
    }

    /// Makes bytes that are in the file zeroes there; 0 where the first is not in the file.
    async fn zero_in_place(&self, io: Io<'_>, off: u64, len: u64, flags: ZeroFlags) -> IoResult<u64> {
        let _shared = self.ranges.shared(off..off + len).await;
        let (Place::Data(host), n) = self.lookup(io, off, len).await? else { return Ok(0) };
        // What is shown of the file's holes is to be the same as if bytes were written, unless holes are asked for. And what
        // reads as zeroes once it is decrypted is none in the file.
        let shown = self.map.below() == Below::Room && !flags.contains(ZeroFlags::MAY_UNMAP);
        if shown || self.map.cipher().is_some() {
            let n = n.min(MAX_ZEROES);
            self.write_data(io, off, host, IoBuf::zeroed(n as usize)).await?;
            return Ok(n);
        }
        io.write_zeroes(host, n, flags).await?;
        Ok(n)
    }

    /// Gives space to blocks of which zeroes are written; answers how many bytes. 0 where somebody else has allocated
    /// meanwhile.
    async fn store_zeroes(&self, io: Io<'_>, at: u64, len: u64) -> IoResult<u64> {
        if self.map.cipher().is_some() {
            let n = len.min(MAX_ZEROES);
            self.write(io, at, IoBuf::zeroed(n as usize)).await?;
            return Ok(n);
        }
        let bs = self.map.block_size();
        let end = at + len;
        let Some((_alone, first, count)) = self.absent(io, at, end).await? else { return Ok(0) };
        // All of it is made by lengthening the file.
        let step = self.take(io, first, count, 0).await?;
        let stop = step.blocks.end.saturating_mul(bs).min(end);
        self.fill_zeroes(io, &step, at, stop).await?;
        self.enter(io, step).await?;
        Ok(stop - at)
    }

    /// Makes a step's bytes from `at` to `end` zeroes, and those around them what was there before.
    async fn fill_zeroes(&self, io: Io<'_>, step: &Step, at: u64, end: u64) -> IoResult<()> {
        let bs = self.map.block_size();
        let (start, stop) = (step.blocks.start * bs, step.blocks.end.saturating_mul(bs));
        self.move_old(io, start, at, step).await?;
        if !step.zeroed {
            io.write_zeroes(step.host + (at - start), end - at, ZeroFlags::empty()).await?;
        }
        self.move_old(io, end, stop, step).await
    }

    /// Marks whole blocks as zeroes; answers how many. 0 where the first is in the file and keeps its space there.
    async fn mark(&self, io: Io<'_>, first: u64, count: u64, give_up: bool) -> IoResult<u64> {
        let bs = self.map.block_size();
        let _alone = self.ranges.exclusive(first * bs..(first + count).saturating_mul(bs)).await;
        let (slot, n) = self.map.find(&self.at(io), first, count).await?;
        if matches!(slot, Slot::Data(_)) && !give_up {
            return Ok(0);
        }
        let n = n.clamp(1, count);
        let marked = slot == Slot::Zero || (slot == Slot::Unallocated && self.map.mark_is_none());
        if !marked {
            let mut space = self.space.lock().await;
            for block in first..first + n {
                self.map.mark_zero(&self.at(io), &mut space, block).await?;
            }
            if self.meta.crowded() {
                self.write_back(io, &mut space).await?;
            }
        }
        if let Slot::Data(host) = slot {
            // Whether the entry or this reaches the file first: zeroes are shown.
            self.remember(first, n, host);
            io.cx.child_discard(io.slot, host, n * bs).await?;
        }
        Ok(n)
    }

    /// Remembers the place of blocks that gave it up.
    fn remember(&self, first: u64, count: u64, host: u64) {
        let mut given_up = self.given_up.lock();
        for i in 0..count.min(MAX_GIVEN_UP.saturating_sub(given_up.len() as u64)) {
            given_up.insert(first + i, host + i * self.map.block_size());
        }
    }

    /// The place that blocks have given up, where they are one run in the file: `count` at most.
    pub(super) fn take_back(&self, first: u64, count: u64) -> Option<Step> {
        let mut given_up = self.given_up.lock();
        let host = given_up.remove(&first)?;
        let mut n = 1;
        while n < count && given_up.get(&(first + n)) == Some(&(host + n * self.map.block_size())) {
            given_up.remove(&(first + n));
            n += 1;
        }
        // The file below need not have taken the bytes away.
        Some(Step { blocks: first..first + n, host, zeroed: false })
    }

    /// Gives back the space of a range, as far as the file below can do that in place.
    pub async fn discard(&self, io: Io<'_>, off: u64, len: u64) -> IoResult<()> {
        if self.map.cipher().is_some() {
            // Zeroes in the file would be anything on the disk.
            return Ok(());
        }
        if self.map.gives_up(off, len) {
            return self.write_zeroes(io, off, len, ZeroFlags::MAY_UNMAP).await;
        }
        let _shared = self.ranges.shared(off..off + len).await;
        let mut done = 0;
        while done < len {
            let (place, n) = self.lookup(io, off + done, len - done).await?;
            if let Place::Data(host) = place {
                io.cx.child_discard(io.slot, host, n).await?;
            }
            done += n;
        }
        Ok(())
    }
}
