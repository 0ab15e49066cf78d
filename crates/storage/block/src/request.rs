//! The request core: everything between an issuer and a driver, once for all drivers.
//!
//! Reads are padded to the driver's alignment through bounce buffers; writes that are not aligned become
//! read-modify-write and keep others off the same blocks meanwhile; requests are split to limits; FUA becomes a flush
//! and zero-writes become writes where a driver cannot do better; reads follow [`crate::driver::Extent`]s down the graph.

use crate::driver::{
    Ahead, Below, Caps, ChildSlot, Cx, DetectZeroes, Driver, ExtentKind, Kind, Limits, Prealloc, Support,
    WriteFlags, ZeroFlags,
};
use crate::graph::{Edge, NodeId};
use crate::perm::{Perm, Role};
use crate::probe::{PROBE_BYTES, probe};
use api::block_core::BlkdebugEvent;
use base::units::{align_down, align_up};
use base::{Errno, IoResult};
use mem::IoBuf;
use std::sync::Arc;

/// The most memory that one request takes for a bounce buffer at a time.
const BOUNCE: u64 = 1 << 20;

/// The largest offset that a request may end at, so that no sum with an alignment overflows.
pub const MAX_OFFSET: u64 = (1 << 63) - (1 << 30);

impl<'a> Cx<'a> {
    pub(crate) fn driver(&self) -> IoResult<&'a Arc<dyn Driver>> {
        self.node.driver.as_ref().ok_or(Errno::NOMEDIUM)
    }

    /// The node's length, bytes.
    pub fn len(&self) -> u64 {
        self.node.driver.as_ref().map_or(0, |d| d.len(self))
    }

    /// Whether the node has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The node's limits, made sane.
    pub fn limits(&self) -> Limits {
        let mut l = self.node.driver.as_ref().map_or_else(Limits::default, |d| d.limits(self));
        l.request_alignment = l.request_alignment.max(1).next_power_of_two();
        l.buffer_alignment = l.buffer_alignment.max(1).next_power_of_two();
        l
    }

    /// What the node's driver does natively.
    pub fn caps(&self) -> Caps {
        self.node.driver.as_ref().map_or_else(Caps::default, |d| d.caps(self))
    }

    pub(crate) fn edge(&self, slot: ChildSlot) -> IoResult<&'a Edge> {
        self.node.edge(slot).ok_or(Errno::NOMEDIUM)
    }

    /// Reads from a child. Bytes beyond its end are zeroes.
    pub async fn child_read(&self, slot: ChildSlot, off: u64, buf: IoBuf) -> IoResult<()> {
        let child = self.child(slot)?;
        Box::pin(async move { child.node_read(off, buf).await }).await
    }

    /// Writes to a child. `EPERM` where the link lacks the permission.
    pub async fn child_write(
        &self,
        slot: ChildSlot,
        off: u64,
        buf: IoBuf,
        flags: WriteFlags,
    ) -> IoResult<()> {
        let (child, perm) = (self.child(slot)?, self.edge(slot)?.pair.perm);
        Box::pin(async move { child.node_write(off, buf, flags, perm).await }).await
    }

    /// Makes a range of a child read as zeroes.
    pub async fn child_write_zeroes(
        &self,
        slot: ChildSlot,
        off: u64,
        len: u64,
        flags: ZeroFlags,
    ) -> IoResult<()> {
        let (child, perm) = (self.child(slot)?, self.edge(slot)?.pair.perm);
        Box::pin(async move { child.node_write_zeroes(off, len, flags, perm).await }).await
    }

    /// Tells a child that a range does not matter any more.
    pub async fn child_discard(&self, slot: ChildSlot, off: u64, len: u64) -> IoResult<()> {
        let (child, perm) = (self.child(slot)?, self.edge(slot)?.pair.perm);
        Box::pin(async move { child.node_discard(off, len, perm).await }).await
    }

    /// Makes what was written to a child stable.
    pub async fn child_flush(&self, slot: ChildSlot) -> IoResult<()> {
        let child = self.child(slot)?;
        Box::pin(async move { child.node_flush().await }).await
    }

    /// Has what was written to a child begin to become stable behind what goes on: for one who will flush it, so that there is
    /// less to wait for then.
    pub async fn child_write_behind(&self, slot: ChildSlot) {
        if let Ok(child) = self.child(slot) {
            Box::pin(async move { child.node_write_behind().await }).await;
        }
    }

    /// Sets a child's length.
    pub async fn child_truncate(
        &self,
        slot: ChildSlot,
        len: u64,
        exact: bool,
        prealloc: Prealloc,
    ) -> IoResult<()> {
        let (child, perm) = (self.child(slot)?, self.edge(slot)?.pair.perm);
        Box::pin(async move { child.node_truncate(len, exact, prealloc, perm).await }).await
    }

    /// Where a child's bytes are, looking through it but not into its backing files.
    pub async fn child_status(&self, slot: ChildSlot, off: u64, len: u64) -> IoResult<Status> {
        let child = self.child(slot)?;
        Box::pin(async move { child.node_status(off, len).await }).await
    }

    // ---- reading ----

    pub(crate) async fn node_read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let end = end_of(off, buf.len() as u64)?;
        let lim = self.limits();
        let align = u64::from(lim.request_alignment);
        let (lo, hi) = (align_down(off, align), up(end, align));
        let _ticket = if align > 1 { Some(self.node.live.track(lo, hi, false).await) } else { None };
        let mut pos = off;
        while pos < end {
            let rest = buf.slice((pos - off) as usize..buf.len());
            let direct = align_down(end - pos, align);
            if pos.is_multiple_of(align) && direct > 0 && rest.is_aligned(u64::from(lim.buffer_alignment)) {
                self.read_aligned(pos, rest.slice(0..direct as usize), &lim).await?;
                pos += direct;
                continue;
            }
            let start = align_down(pos, align);
            let stop = hi.min(start + BOUNCE.max(align));
            let bounce = IoBuf::zeroed((stop - start) as usize);
            self.read_aligned(start, bounce.clone(), &lim).await?;
            let n = (stop.min(end) - pos) as usize;
            let from = (pos - start) as usize;
            rest.slice(0..n).copy_from_buf(&bounce.slice(from..from + n));
            pos += n as u64;
        }
        Ok(())
    }

    /// Reads an aligned range into an aligned buffer.
    pub(crate) async fn read_aligned(&self, off: u64, buf: IoBuf, lim: &Limits) -> IoResult<()> {
        let driver = self.driver()?;
        let protocol = self.node.ty.kind == Kind::Protocol;
        let itself = protocol || driver.sees_reads();
        // A protocol reads up to the end of its last block; a format has no byte beyond its length.
        let len = if protocol { up(self.len(), u64::from(lim.request_alignment)) } else { self.len() };
        let have = len.saturating_sub(off).min(buf.len() as u64);
        if have < buf.len() as u64 {
            buf.slice(have as usize..buf.len()).fill(0);
        }
        let step = step(lim.max_transfer, lim.request_alignment.into());
        let mut pos = 0;
        while pos < have {
            let n = (have - pos).min(step);
            let part = buf.slice(pos as usize..(pos + n) as usize);
            if itself {
                driver.read(self, off + pos, part).await?;
                pos += n;
            } else {
                pos += self.read_extent(driver, off + pos, part).await?;
            }
        }
        Ok(())
    }

    /// Reads what lies in one extent; returns how much that was.
    async fn read_extent(&self, driver: &Arc<dyn Driver>, off: u64, buf: IoBuf) -> IoResult<u64> {
        let _hold = driver.hold();
        let extent = driver.locate(self, off, buf.len() as u64).await?;
        let n = extent.len.min(buf.len() as u64);
        if n == 0 {
            // A driver that gets nowhere would hang the request.
            return Err(Errno::IO);
        }
        let part = buf.slice(0..n as usize);
        match extent.kind {
            ExtentKind::Own { zero: true, .. } | ExtentKind::Zero { .. } => part.fill(0),
            ExtentKind::Own { .. }
            | ExtentKind::OwnZeroes { .. }
            | ExtentKind::Hole
            | ExtentKind::Compressed => {
                driver.read(self, off, part).await?;
            }
            ExtentKind::Child { slot, offset } => {
                if self.node.ty.kind == Kind::Format {
                    self.child_event(ChildSlot::File, BlkdebugEvent::ReadAio).await;
                }
                self.child_read(slot, offset, part).await?;
            }
            ExtentKind::Unallocated if self.has_child(ChildSlot::Backing) => {
                self.child_event(ChildSlot::File, BlkdebugEvent::ReadBackingAio).await;
                self.child_read(ChildSlot::Backing, off, part).await?;
            }
            ExtentKind::Unallocated => part.fill(0),
        }
        Ok(n)
    }

    // ---- writing ----

    /// Whether a write of this kind may happen at all.
    pub(crate) fn may_write(&self, perm: Perm, unchanged: bool) -> IoResult<()> {
        let need = if unchanged { Perm::WRITES } else { Perm::WRITE };
        if self.node.writable() && perm.intersects(need) { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Whether a write may end at `end`.
    fn may_end_at(&self, end: u64, perm: Perm) -> IoResult<()> {
        if end <= self.len() {
            return Ok(());
        }
        let grows = self.node.ty.kind == Kind::Protocol
            || self.node.primary().is_some_and(|e| e.role.contains(Role::FILTERED));
        if !perm.contains(Perm::RESIZE) {
            Err(Errno::PERM)
        } else if grows {
            Ok(())
        } else {
            Err(Errno::NOSPC)
        }
    }

    pub(crate) async fn node_write(
        &self,
        off: u64,
        buf: IoBuf,
        flags: WriteFlags,
        perm: Perm,
    ) -> IoResult<()> {
        self.may_write(perm, flags.contains(WriteFlags::UNCHANGED))?;
        if buf.is_empty() {
            return if flags.contains(WriteFlags::FUA) { self.node_flush().await } else { Ok(()) };
        }
        let end = end_of(off, buf.len() as u64)?;
        self.may_end_at(end, perm)?;
        self.node.live.will_end_at(end);
        self.guard_first_bytes(off, &buf).await?;
        let detect = self.node.flags.detect_zeroes;
        if detect != DetectZeroes::Off && !flags.contains(WriteFlags::COMPRESSED) && buf.is_zero() {
            let mut zero = ZeroFlags::empty();
            zero.set(ZeroFlags::FUA, flags.contains(WriteFlags::FUA));
            zero.set(ZeroFlags::MAY_UNMAP, detect == DetectZeroes::Unmap);
            return self.write_zeroes_checked(off, buf.len() as u64, zero).await;
        }
        self.write_checked(off, buf, flags).await
    }

    /// A node whose format was guessed to be raw must not come to look like another format: the next guess would then
    /// let its guest name files of the host. `EPERM` if this write did so.
    pub(crate) async fn guard_first_bytes(&self, off: u64, buf: &IoBuf) -> IoResult<()> {
        let Some(drivers) = self.node.guessed.as_ref().filter(|_| off < PROBE_BYTES as u64) else {
            return Ok(());
        };
        let first = IoBuf::zeroed(self.len().min(PROBE_BYTES as u64) as usize);
        self.node_read(0, first.clone()).await?;
        let (at, n) = (off as usize, buf.len().min(first.len().saturating_sub(off as usize)));
        first.slice(at.min(first.len())..at.min(first.len()) + n).copy_from_buf(&buf.slice(0..n));
        if probe(drivers, &first.to_vec(), "") == self.node.ty.name { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Writes after the checks: pads, splits, makes stable if asked.
    async fn write_checked(&self, off: u64, buf: IoBuf, flags: WriteFlags) -> IoResult<()> {
        let end = end_of(off, buf.len() as u64)?;
        let lim = self.limits();
        let align = u64::from(lim.request_alignment);
        let (lo, hi) = (align_down(off, align), up(end, align));
        let padded = lo != off || hi != end;
        let ticket = self.node.live.writing(lo, hi, padded, align > 1).await;
        let buf = if padded { self.pad(lo, off, buf, end, hi, &lim).await? } else { buf };
        let ahead = self.record_ahead(off, end - off).await?;
        let native = self.caps().fua == Support::Native;
        let pass = if native { flags } else { flags - WriteFlags::FUA };
        let old_len = self.len();
        let done = self.write_aligned(lo, buf, pass, &lim).await;
        // Failed writes may have changed something as well.
        if self.len() > old_len {
            self.node.live.bitmaps.resize(self.len());
        }
        self.node.live.dirtied(off, end - off);
        self.node.live.reached(end);
        drop((ahead, ticket));
        done?;
        if flags.contains(WriteFlags::FUA) && !native { self.node_flush().await } else { Ok(()) }
    }

    /// Has the image keep, before a range is changed, that its persistent bitmaps will record it.
    pub(crate) async fn record_ahead(&self, off: u64, len: u64) -> IoResult<Ahead> {
        if !self.node.live.bitmaps.any_persistent() || len == 0 {
            return Ok(None);
        }
        self.driver()?.record_ahead(self, off, len).await
    }

    /// Puts the bytes around `buf` into a longer buffer that covers whole blocks (`lo..hi`).
    async fn pad(&self, lo: u64, off: u64, buf: IoBuf, end: u64, hi: u64, lim: &Limits) -> IoResult<IoBuf> {
        let align = u64::from(lim.request_alignment);
        let mut out = IoBuf::new();
        let head = IoBuf::zeroed(align as usize);
        if lo != off {
            self.own_event(BlkdebugEvent::PwritevRmwHead).await;
            self.read_aligned(lo, head.clone(), lim).await?;
            self.own_event(BlkdebugEvent::PwritevRmwAfterHead).await;
            out.append(head.slice(0..(off - lo) as usize));
        }
        out.append(buf);
        if end != hi {
            let tail_at = hi - align;
            self.own_event(BlkdebugEvent::PwritevRmwTail).await;
            let tail = if tail_at == lo && lo != off {
                head
            } else {
                let tail = IoBuf::zeroed(align as usize);
                self.read_aligned(tail_at, tail.clone(), lim).await?;
                tail
            };
            self.own_event(BlkdebugEvent::PwritevRmwAfterTail).await;
            out.append(tail.slice((end - tail_at) as usize..align as usize));
        }
        Ok(out)
    }

    /// Writes an aligned range, from a buffer of any alignment in memory.
    pub(crate) async fn write_aligned(
        &self,
        off: u64,
        buf: IoBuf,
        flags: WriteFlags,
        lim: &Limits,
    ) -> IoResult<()> {
        let driver = self.driver()?;
        let step = step(lim.max_transfer, lim.request_alignment.into());
        let aligned = buf.is_aligned(u64::from(lim.buffer_alignment));
        let len = buf.len() as u64;
        let mut pos = 0;
        while pos < len {
            let mut n = (len - pos).min(step);
            if !aligned {
                n = n.min(BOUNCE.max(u64::from(lim.request_alignment)));
            }
            let part = buf.slice(pos as usize..(pos + n) as usize);
            let part = if aligned {
                part
            } else {
                let bounce = IoBuf::zeroed(n as usize);
                bounce.copy_from_buf(&part);
                bounce
            };
            driver.write(self, off + pos, part, flags).await?;
            pos += n;
        }
        Ok(())
    }

    // ---- zeroes, discard ----

    pub(crate) async fn node_write_zeroes(
        &self,
        off: u64,
        len: u64,
        flags: ZeroFlags,
        perm: Perm,
    ) -> IoResult<()> {
        self.may_write(perm, flags.contains(ZeroFlags::UNCHANGED))?;
        self.may_end_at(end_of(off, len)?, perm)?;
        self.node.live.will_end_at(end_of(off, len)?);
        self.write_zeroes_checked(off, len, flags).await
    }

    async fn write_zeroes_checked(&self, off: u64, len: u64, mut flags: ZeroFlags) -> IoResult<()> {
        let end = end_of(off, len)?;
        let lim = self.limits();
        let caps = self.caps();
        if !self.node.flags.unmap {
            flags -= ZeroFlags::MAY_UNMAP;
        }
        let fua = flags.contains(ZeroFlags::FUA);
        flags -= ZeroFlags::FUA;
        let native = caps.write_zeroes == Support::Native;
        if !native && flags.contains(ZeroFlags::NO_FALLBACK) {
            return Err(Errno::NOTSUP);
        }
        let unit = unit(lim.request_alignment, lim.write_zeroes_alignment);
        // Only whole units go to the driver; what sticks out at both ends is written.
        let (lo, hi) = (units_up(off, unit), end - end % unit);
        if !native || lo >= hi {
            if flags.contains(ZeroFlags::NO_FALLBACK) && lo >= hi && len > 0 {
                return Err(Errno::NOTSUP);
            }
            self.write_zero_bytes(off, end).await?;
        } else {
            self.write_zero_bytes(off, lo).await?;
            self.zero_units(lo, hi, flags, &lim, unit).await?;
            self.write_zero_bytes(hi, end).await?;
        }
        if fua { self.node_flush().await } else { Ok(()) }
    }

    async fn zero_units(&self, lo: u64, hi: u64, flags: ZeroFlags, lim: &Limits, unit: u64) -> IoResult<()> {
        let driver = self.driver()?;
        let step = step(lim.max_write_zeroes, unit);
        let mut pos = lo;
        while pos < hi {
            let n = (hi - pos).min(step);
            let tracked = lim.request_alignment > 1;
            let ticket = self.node.live.writing(pos, pos + n, false, tracked).await;
            let ahead = self.record_ahead(pos, n).await?;
            let done = driver.write_zeroes(self, pos, n, flags).await;
            self.node.live.dirtied(pos, n);
            self.node.live.reached(pos + n);
            drop((ahead, ticket));
            match done {
                Err(Errno::NOTSUP) if !flags.contains(ZeroFlags::NO_FALLBACK) => {
                    self.write_zero_bytes(pos, pos + n).await?;
                }
                other => other?,
            }
            pos += n;
        }
        Ok(())
    }

    /// Writes zeroes the slow way.
    async fn write_zero_bytes(&self, off: u64, end: u64) -> IoResult<()> {
        if off >= end {
            return Ok(());
        }
        let zeroes = IoBuf::zeroed((end - off).min(BOUNCE) as usize);
        let mut pos = off;
        while pos < end {
            // Pieces end on multiples of the piece's length, so that only the first and last can need padding.
            let n = (BOUNCE - pos % BOUNCE).min(end - pos).min(zeroes.len() as u64);
            self.write_checked(pos, zeroes.slice(0..n as usize), WriteFlags::empty()).await?;
            pos += n;
        }
        Ok(())
    }

    pub(crate) async fn node_discard(&self, off: u64, len: u64, perm: Perm) -> IoResult<()> {
        self.may_write(perm, false)?;
        let end = end_of(off, len)?;
        if end > self.len() {
            return Err(Errno::IO);
        }
        if !self.node.flags.unmap || self.caps().discard != Support::Native {
            return Ok(());
        }
        let lim = self.limits();
        let unit = unit(lim.request_alignment, lim.discard_alignment);
        // What devices prefer are powers of two, and they do nothing about less. Other units are a tester's, and only say
        // where requests are cut.
        let least = if unit.is_power_of_two() { unit } else { lim.request_alignment.into() };
        let (lo, hi) = (units_up(off, least), if end == self.len() { end } else { end - end % least });
        let step = step(lim.max_discard, unit);
        let driver = self.driver()?;
        let mut pos = lo;
        while pos < hi {
            let most = if pos.is_multiple_of(unit) { step } else { unit - pos % unit };
            let n = (hi - pos).min(most);
            let tracked = lim.request_alignment > 1;
            let ticket = self.node.live.writing(pos, pos + n, false, tracked).await;
            let ahead = self.record_ahead(pos, n).await?;
            let done = driver.discard(self, pos, n).await;
            self.node.live.dirtied(pos, n);
            drop((ahead, ticket));
            match done {
                // A hint that nobody takes is no failure.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(e) => return Err(e),
            }
            pos += n;
        }
        Ok(())
    }

    // ---- flush, length ----

    pub(crate) async fn node_flush(&self) -> IoResult<()> {
        let file = self.node.primary().map(|e| e.slot);
        if let Some(slot) = file {
            self.child_event(slot, BlkdebugEvent::FlushToOs).await;
        }
        let Some(upto) = self.node.live.unflushed() else { return self.flush_children().await };
        if !self.node.writable() {
            return Ok(());
        }
        let protocol = self.node.ty.kind == Kind::Protocol;
        if !(protocol && self.node.flags.no_flush) {
            self.driver()?.flush(self).await?;
        }
        if let Some(slot) = file {
            self.child_event(slot, BlkdebugEvent::FlushToDisk).await;
        }
        self.flush_children().await?;
        self.node.live.flushed(upto);
        Ok(())
    }

    async fn node_write_behind(&self) {
        if self.node.ty.kind != Kind::Protocol {
            let holds = Role::DATA | Role::METADATA | Role::FILTERED;
            for edge in self.node.edges.iter().filter(|e| e.role.intersects(holds)) {
                self.child_write_behind(edge.slot).await;
            }
        } else if self.node.writable()
            && !self.node.flags.no_flush
            && let Ok(driver) = self.driver()
        {
            driver.write_behind(self).await;
        }
    }

    pub(crate) async fn flush_children(&self) -> IoResult<()> {
        if let Some(own) = self.node.driver.as_ref().and_then(|d| d.flush_children(self)) {
            return own.await;
        }
        let mut result = Ok(());
        // A link without a role leads to what is written on the side (a job's target): that is not the node's own data.
        for edge in self.node.edges.iter().filter(|e| !e.role.is_empty()) {
            // Every child is tried: one that fails must not leave the others unstable.
            result = result.and(self.child_flush(edge.slot).await);
        }
        result
    }

    pub(crate) async fn node_truncate(
        &self,
        len: u64,
        exact: bool,
        prealloc: Prealloc,
        perm: Perm,
    ) -> IoResult<()> {
        if !self.node.writable() || !perm.contains(Perm::RESIZE) {
            return Err(Errno::PERM);
        }
        if len > MAX_OFFSET {
            return Err(Errno::FBIG);
        }
        let old = self.len();
        let ticket = self.node.live.track(old.min(len), u64::MAX, true).await;
        let done = self.driver()?.truncate(self, len, exact, prealloc).await;
        self.node.live.wrote();
        self.node.live.bitmaps.resize(self.len());
        if self.node.live.bitmaps.any_persistent() {
            self.driver()?.bitmaps_changed(self).await?;
        }
        drop(ticket);
        done?;
        // What a longer backing file has there must not shine through. Space that was preallocated for data hides it
        // already, but for what the last cluster was left of.
        if len > old
            && let Ok(backing) = self.child_len(ChildSlot::Backing)
            && backing > old
        {
            let mut at = old;
            while at < len {
                let (mut n, mut hidden) = (len - at, false);
                if matches!(prealloc, Prealloc::Falloc | Prealloc::Full) {
                    let st = self.node_status(at, n).await?;
                    (n, hidden) = (st.len.min(n), st.allocated);
                }
                if n == 0 {
                    return Err(Errno::IO);
                }
                if !hidden {
                    self.write_zeroes_checked(at, n, ZeroFlags::MAY_UNMAP).await?;
                }
                at += n;
            }
        }
        self.graph.resized(self.node.id);
        Ok(())
    }

    /// Reads from, or writes to, the state of a virtual machine that the image keeps. `ENOTSUP` where it cannot.
    pub(crate) async fn node_vm_state(&self, off: u64, buf: IoBuf, write: bool) -> IoResult<()> {
        let mut cx = *self;
        loop {
            if let Some(done) = cx.driver()?.vm_state(&cx, off, buf.clone(), write) {
                let done = done.await;
                cx.node.live.wrote();
                return done;
            }
            let edge = cx.node.primary().ok_or(Errno::NOTSUP)?;
            cx = cx.child(edge.slot)?;
        }
    }

    // ---- where the bytes are ----

    /// Where the node's bytes from `off` on are; `len` > 0 bytes at most. Looks through filters and into the
    /// child that holds the data, but not into backing files.
    pub(crate) async fn node_status(&self, off: u64, len: u64) -> IoResult<Status> {
        let total = self.len();
        let end = end_of(off, len)?.min(total);
        if off >= total {
            return Ok(Status { len, zero: true, eof: true, allocated: true, ..Status::default() });
        }
        let driver = self.driver()?;
        let extent = driver.locate(self, off, end - off).await?;
        let n = extent.len.min(end - off);
        if n == 0 {
            return Err(Errno::IO);
        }
        let mut st = Status { len: n, eof: off + n == total, allocated: true, ..Status::default() };
        match extent.kind {
            ExtentKind::Own { offset, zero } => {
                (st.zero, st.data, st.offset) = (zero, !zero, offset);
                st.filename = driver.filename();
            }
            ExtentKind::OwnZeroes { offset } => {
                (st.zero, st.data, st.offset) = (true, true, Some(offset));
                st.filename = driver.filename();
            }
            ExtentKind::Zero { offset } => {
                (st.zero, st.offset) = (true, offset);
                if offset.is_some() {
                    st.filename = self.primary_filename();
                }
            }
            ExtentKind::Hole => st.filename = driver.filename(),
            ExtentKind::Compressed => (st.data, st.compressed) = (true, true),
            ExtentKind::Unallocated => {
                st.allocated = false;
                st.zero = !self.has_child(ChildSlot::Backing);
            }
            ExtentKind::Child { slot, offset } => {
                let child = self.child(slot)?;
                if self.edge(slot)?.role.contains(Role::FILTERED) {
                    let below = self.child_status(slot, offset, n).await?;
                    return Ok(Status { eof: off + below.len >= total, len: below.len.min(n), ..below });
                }
                let rule = if driver.looks_below(self).await? { driver.below(off) } else { Below::Data };
                if rule == Below::Data
                    && let Some(name) = child.node.driver.as_ref().and_then(|d| d.filename())
                {
                    (st.data, st.offset, st.filename) = (true, Some(offset), Some(name));
                    return Ok(st);
                }
                let mut below = if self.node.ty.supports_backing {
                    self.child_status(slot, offset, n).await?
                } else {
                    // Other offsets than the child's: its backing files cannot be ours.
                    Box::pin(async move { child.chain_status(offset, n).await }).await?
                };
                st.len = below.len.min(n);
                st.eof = off + st.len >= total;
                below.zero &= rule != Below::Data;
                if rule == Below::Told && !self.node.ty.supports_backing {
                    return Ok(Status { eof: st.eof, len: st.len, allocated: true, depth: 0, ..below });
                }
                (st.data, st.zero, st.offset) = (true, below.zero, Some(offset));
                st.filename = below.filename.or_else(|| self.primary_filename());
            }
        }
        Ok(st)
    }

    pub(crate) fn primary_filename(&self) -> Option<String> {
        let mut cx = *self;
        while let Some(edge) = cx.node.primary() {
            cx = cx.child(edge.slot).ok()?;
        }
        cx.node.driver.as_ref()?.filename()
    }

    /// Where the bytes from `off` on are, through the whole backing chain.
    pub(crate) async fn chain_status(&self, off: u64, len: u64) -> IoResult<Status> {
        self.status_down_to(off, len, None).await
    }

    /// This node, or what it filters: the node that has the backing file.
    pub(crate) fn unfiltered(&self) -> Cx<'a> {
        let mut cx = *self;
        while let Some(edge) = cx.node.primary().filter(|e| e.role.contains(Role::FILTERED)) {
            let Ok(below) = cx.child(edge.slot) else { break };
            cx = below;
        }
        cx
    }

    /// The backing file, seen through filters.
    pub(crate) fn cow_child(&self) -> Option<Cx<'a>> {
        self.unfiltered().child(ChildSlot::Backing).ok()
    }

    /// Where the bytes from `off` on are, in the chain down to the node `bottom` (or to its end).
    pub(crate) async fn status_down_to(
        &self,
        off: u64,
        len: u64,
        bottom: Option<NodeId>,
    ) -> IoResult<Status> {
        let mut cx = *self;
        let (mut len, mut depth) = (len, 0);
        let total = self.len();
        loop {
            let mut st = cx.node_status(off, len).await?;
            len = len.min(st.len);
            st.depth = depth;
            st.eof = off + len >= total;
            if st.allocated || st.compressed || bottom.is_some_and(|b| b == cx.unfiltered().node.id) {
                return Ok(st);
            }
            match cx.cow_child() {
                Some(next) if off < next.len() => {
                    cx = next;
                    depth += 1;
                }
                // Nobody has it; zeroes from here down.
                _ => return Ok(Status { len, zero: true, data: false, offset: None, ..st }),
            }
        }
    }
}

/// Where a range of bytes is: the answer to a block status request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// How many bytes this holds for.
    pub len: u64,
    /// Stored as data.
    pub data: bool,
    /// Reads as zeroes.
    pub zero: bool,
    /// This node (or, in a chain, one of its backing files) says what the bytes are.
    pub allocated: bool,
    /// Stored compressed.
    pub compressed: bool,
    /// Offset in `filename`, where the bytes stand there plainly.
    pub offset: Option<u64>,
    /// The file that holds them.
    pub filename: Option<String>,
    /// How many backing files down.
    pub depth: u32,
    /// The range ends at the end of the node.
    pub eof: bool,
}

impl Status {
    /// Both say that the same bytes of the same file are what is shown, so that neither need be read to compare them.
    pub fn same_place(&self, other: &Status) -> bool {
        self.offset.is_some()
            && self.offset == other.offset
            && self.filename.is_some()
            && self.filename == other.filename
    }
}

/// The end of a request, if it is one that any node could serve.
pub(crate) fn end_of(off: u64, len: u64) -> IoResult<u64> {
    off.checked_add(len).filter(|end| *end <= MAX_OFFSET).ok_or(Errno::INVAL)
}

/// `v` rounded up; lengths and ends are at most [`MAX_OFFSET`], so it fits.
pub(crate) fn up(v: u64, align: u64) -> u64 {
    align_up(v, align).unwrap_or(align_down(u64::MAX, align))
}

/// What is done in whole units: of so many bytes as are preferred, where those are whole units of what is required.
pub(crate) fn unit(required: u32, preferred: u32) -> u64 {
    let (required, preferred) = (u64::from(required.max(1)), u64::from(preferred));
    let fits = preferred > 0 && preferred.is_multiple_of(required);
    if fits { preferred } else { required.max(preferred.next_power_of_two()) }
}

/// `v` rounded up to whole units, of any length; lengths and ends are at most [`MAX_OFFSET`], so it fits.
pub(crate) fn units_up(v: u64, unit: u64) -> u64 {
    v.checked_next_multiple_of(unit).unwrap_or(u64::MAX - u64::MAX % unit)
}

/// The longest piece under a limit (0 = none), a multiple of `unit` and never 0.
pub(crate) fn step(max: u64, unit: u64) -> u64 {
    let unit = unit.max(1);
    let max = if max == 0 { 1 << 40 } else { max };
    (max - max % unit).max(unit)
}
