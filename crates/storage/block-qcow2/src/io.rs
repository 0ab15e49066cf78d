//! Reading, and writing with allocation.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::block_core::BlkdebugEvent as Event;
use base::{Errno, IoResult};
use mem::IoBuf;

use crate::compress;
use crate::geometry::{Entry, Geometry, Mapping};
use crate::host::{Host, read_vec};
use crate::image::{Image, Meta};
use crate::l2map::RunKind;
use crate::spec;

/// Most bytes that one step of an allocating write covers, so that the metadata lock is shared fairly.
const MAX_STEP: u64 = 8 << 20;

/// What one step of an allocating write got.
struct Step {
    /// Guest range, whole clusters.
    guest: Range<u64>,
    /// Where it goes in the file.
    host: u64,
    /// First cluster to give back if the step fails; `None` where reserved space is used.
    fresh: Option<u64>,
    /// What of it is written: whole units.
    fill: Range<u64>,
}

impl Step {
    fn whole(guest: Range<u64>, host: u64, fresh: Option<u64>) -> Step {
        Step { fill: guest.clone(), guest, host, fresh }
    }

    /// The entry for the step's cluster number `i`, which was `old`.
    fn link(&self, g: Geometry, i: u64, old: Entry) -> Entry {
        let by = i << g.cluster_bits;
        let word = (self.host + by) | spec::COPIED;
        if !g.extended {
            return Entry { word, bits: 0 };
        }
        let bits = if old.word & spec::COMPRESSED != 0 { 0 } else { old.bits };
        let mask = g.subs(self.guest.start + by, self.fill.start, self.fill.end);
        Entry { word, bits }.with_here(mask)
    }
}

impl Image {
    /// Reads a range of the guest's bytes as this image and its backing file show them; zeros beyond the virtual size.
    pub async fn read_guest<H: Host>(&self, h: &H, off: u64, buf: IoBuf) -> IoResult<()> {
        let _reading = self.readers.enter();
        let end = self.limit(off);
        let len = buf.len() as u64;
        let inside = len.min(end.saturating_sub(off));
        if inside < len {
            buf.slice(inside as usize..len as usize).fill(0);
        }
        let mut done = 0;
        while done < inside {
            let (kind, n) = self.lookup(h, off + done, inside - done).await?;
            let part = buf.slice(done as usize..(done + n) as usize);
            match kind {
                RunKind::Normal { host, .. } => {
                    h.event(Event::ReadAio).await;
                    self.read_data(h, off + done, host, part).await?;
                }
                RunKind::Zero(_) => part.fill(0),
                RunKind::Unallocated => {
                    h.event(Event::ReadBackingAio).await;
                    self.read_backing(h, off + done, part).await?;
                }
                RunKind::Compressed(entry) => self.read_compressed(h, entry, off + done, part).await?,
            }
            done += n;
        }
        Ok(())
    }

    async fn read_backing<H: Host>(&self, h: &H, off: u64, buf: IoBuf) -> IoResult<()> {
        // Of a longer backing file nothing shows behind the disk's end.
        let backing = h.backing_len().filter(|_| off < self.virtual_size()).unwrap_or(0);
        let have = backing.saturating_sub(off).min(buf.len() as u64) as usize;
        if have < buf.len() {
            buf.slice(have..buf.len()).fill(0);
        }
        if have > 0 {
            h.backing_read(off, buf.slice(0..have)).await?;
        }
        Ok(())
    }

    /// Reads a part of one compressed cluster.
    pub async fn read_compressed<H: Host>(&self, h: &H, entry: u64, off: u64, buf: IoBuf) -> IoResult<()> {
        let from = self.geo.in_cluster(off) as usize;
        let cached = self.decompressed.lock().as_ref().filter(|c| c.0 == entry).map(|c| c.1.clone());
        let plain = match cached {
            Some(p) => p,
            None => {
                let word = Entry { word: entry, bits: 0 };
                let Mapping::Compressed(host, n) = self.geo.mapping(word) else { return Err(Errno::IO) };
                h.event(Event::ReadCompressed).await;
                let raw = read_vec(h, host, n as usize).await?;
                let size = self.geo.cluster_size() as usize;
                let kind = self.shown.read().header.compression;
                let plain = rt::unblock(move || compress::decompress(kind, &raw, size)).await?;
                let plain = Arc::new(plain);
                *self.decompressed.lock() = Some((entry, plain.clone()));
                plain
            }
        };
        let part = plain.get(from..from + buf.len()).ok_or(Errno::IO)?;
        buf.copy_from(0, part);
        Ok(())
    }

    /// Writes guest bytes, allocating where needed. The range lies within the virtual size.
    pub async fn write<H: Host>(&self, h: &H, off: u64, buf: IoBuf) -> IoResult<()> {
        let len = buf.len() as u64;
        if len == 0 {
            return Ok(());
        }
        if off.checked_add(len).is_none_or(|e| e > self.limit(off)) {
            return Err(Errno::IO);
        }
        self.modify(h).await?;
        let mut done = 0;
        while done < len {
            let at = off + done;
            self.prepare_table(h, at).await?;
            let n = match self.write_in_place(h, at, &buf, done).await? {
                0 => self.write_allocating(h, at, &buf, done).await?,
                n => n,
            };
            done += n;
        }
        Ok(())
    }

    /// Writes as much from `at` on as may be overwritten where it stands; 0 where the first byte may not.
    async fn write_in_place<H: Host>(&self, h: &H, at: u64, buf: &IoBuf, done: u64) -> IoResult<u64> {
        let left = buf.len() as u64 - done;
        let _guard = self.ranges.shared(at..at + left).await;
        let mut wrote = 0;
        while wrote < left {
            let RunKindAt::InPlace(host, n) = self.in_place(h, at + wrote, left - wrote).await? else {
                break;
            };
            self.check_guest_place(h, host, n).await?;
            let from = (done + wrote) as usize;
            h.event(Event::WriteAio).await;
            self.write_data(h, at + wrote, host, buf.slice(from..from + n as usize)).await?;
            self.unflushed.store(true, Ordering::Release);
            wrote += n;
        }
        Ok(wrote)
    }

    async fn in_place<H: Host>(&self, h: &H, at: u64, left: u64) -> IoResult<RunKindAt> {
        Ok(match self.lookup_to_write(h, at, left).await? {
            (RunKind::Normal { host, copied: true }, n) => RunKindAt::InPlace(host, n),
            _ => RunKindAt::Other,
        })
    }

    /// Writes one step that needs new clusters (or reserved ones); answers how many bytes of the request it covered.
    /// 0 where somebody else has allocated meanwhile.
    async fn write_allocating<H: Host>(&self, h: &H, at: u64, buf: &IoBuf, done: u64) -> IoResult<u64> {
        let g = self.geo;
        let left = buf.len() as u64 - done;
        // Whole clusters, within one L2 table.
        let first = g.cluster_start(at);
        let table_end = (first & !(g.l2_coverage() - 1)).saturating_add(g.l2_coverage());
        let want_end = (at + left).min(table_end).min(first.saturating_add(MAX_STEP));
        let last = g.cluster_start(want_end - 1) + g.cluster_size();
        let _guard = self.ranges.exclusive(first..last).await;
        let step = if g.extended {
            self.allocate_units(h, first..last, at, at + left).await?
        } else {
            self.allocate_step(h, first..last).await?
        };
        let Some(mut step) = step else { return Ok(0) };
        if g.data_file {
            // The file need not be longer than the disk.
            step.fill.end = step.fill.end.min(self.virtual_size().max(at + left));
        }
        let covered = (at + left).min(step.guest.end) - at;
        let from = done as usize;
        let data = buf.slice(from..from + covered as usize);
        let wrote = self.fill_step(h, &step, at, data).await;
        let mut m = self.meta.lock().await;
        let count = (step.guest.end - step.guest.start) >> g.cluster_bits;
        let (old, linked) = match wrote {
            Ok(()) => {
                self.unflushed.store(true, Ordering::Release);
                self.change_entries(h, &mut m, step.guest.start, count, |i, e| step.link(g, i, e)).await
            }
            Err(e) => (Vec::new(), Err(e)),
        };
        if let (Some(c), n) = (step.fresh, old.len() as u64)
            && n < count
        {
            self.unalloc(h, &mut m, c + n, count - n).await;
        }
        let discard = self.config.read().discard_other;
        for (i, e) in old.into_iter().enumerate() {
            // Reserved space that is now in use keeps its reference.
            let here = step.host + ((i as u64) << g.cluster_bits);
            let same = matches!(g.mapping(e), Mapping::ZeroAlloc(o) | Mapping::Normal(o) if o == here);
            let kept = step.fresh.is_none() && same;
            if !kept {
                self.release_entry(&mut m, e, discard);
            }
        }
        linked?;
        if self.map.read().crowded() {
            self.write_back(h, &mut m).await?;
        }
        Ok(covered)
    }

    /// Finds space for the beginning of a range of whole clusters, whose range lock the caller holds. `None` where its
    /// first cluster can be written in place by now.
    async fn allocate_step<H: Host>(&self, h: &H, guest: Range<u64>) -> IoResult<Option<Step>> {
        let g = self.geo;
        let mut end = guest.start;
        let mut reserved: Option<u64> = None;
        // The range lock keeps these mappings as they are.
        while end < guest.end {
            let (kind, n) = self.lookup_to_write(h, end, guest.end - end).await?;
            match kind {
                RunKind::Normal { copied: true, .. } if end == guest.start => return Ok(None),
                RunKind::Normal { copied: true, .. } => break,
                RunKind::Zero(Some(host)) => {
                    if end > guest.start {
                        break;
                    }
                    reserved = Some(host);
                    end += n;
                    break;
                }
                _ => end += n.max(1),
            }
            // A compressed run ends with its cluster; all others are whole clusters here.
            end = g.cluster_start(end + g.cluster_size() - 1);
        }
        let end = end.min(guest.end);
        let mut m = self.meta.lock().await;
        self.begin_modify(h, &mut m).await?;
        if let Some(host) = reserved {
            // Only where nobody else refers to the reserved clusters (a snapshot may).
            let first = host >> g.cluster_bits;
            let count = (end - guest.start) >> g.cluster_bits;
            let mut own = if g.data_file { count } else { 0 };
            while own < count && self.refcount(h, &mut m, first + own).await? == 1 {
                own += 1;
            }
            if own > 0 {
                self.check_guest_place(h, host, own << g.cluster_bits).await?;
                let end = guest.start + (own << g.cluster_bits);
                return Ok(Some(Step::whole(guest.start..end, host, None)));
            }
        }
        let count = (end - guest.start) >> g.cluster_bits;
        let count = if reserved.is_some() { 1 } else { count };
        let end = guest.start + (count << g.cluster_bits);
        let (host, fresh) = self.new_place(h, &mut m, guest.start, count).await?;
        Ok(Some(Step::whole(guest.start..end, host, fresh)))
    }

    /// Space for clusters from the guest's `at` on: the file offset, and the first cluster if it was allocated.
    pub(crate) async fn new_place<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        at: u64,
        count: u64,
    ) -> IoResult<(u64, Option<u64>)> {
        if self.geo.data_file {
            return Ok((at, None));
        }
        // The table that will map the clusters comes before them in the file.
        self.own_table(h, m, at).await?;
        let cluster = self.alloc(h, m, count).await?;
        Ok((cluster << self.geo.cluster_bits, Some(cluster)))
    }

    /// [`Image::allocate_step`] with extended L2 entries: the bytes `at..end` are going to be written.
    async fn allocate_units<H: Host>(
        &self,
        h: &H,
        guest: Range<u64>,
        at: u64,
        end: u64,
    ) -> IoResult<Option<Step>> {
        let g = self.geo;
        let cs = g.cluster_size();
        let first = self.entry_at(h, guest.start).await?;
        let placed = |e: Entry| match g.mapping(e) {
            Mapping::Normal(o) | Mapping::ZeroAlloc(o) => Some(o),
            _ => None,
        };
        // The range lock keeps these entries as they are.
        let own = first.word & spec::COPIED != 0 || g.data_file;
        let mut count = 1;
        if let Some(host) = placed(first).filter(|_| own) {
            if let (RunKind::Normal { copied: true, .. }, _) = self.lookup(h, at, 1).await? {
                return Ok(None);
            }
            self.modify(h).await?;
            self.check_guest_place(h, host, cs).await?;
            let cluster = guest.start..guest.start + cs;
            let fill = g.unit_start(at)..g.unit_end(end).min(cluster.end);
            return Ok(Some(Step { guest: cluster, host, fresh: None, fill }));
        }
        // Shared with a snapshot, or compressed: all of the cluster moves.
        let moves = placed(first).is_some() || first.word & spec::COMPRESSED != 0;
        while !moves && guest.start + count * cs < guest.end {
            let e = self.entry_at(h, guest.start + count * cs).await?;
            if placed(e).is_some() || e.word & spec::COMPRESSED != 0 {
                break;
            }
            count += 1;
        }
        let mut m = self.meta.lock().await;
        self.begin_modify(h, &mut m).await?;
        let (host, fresh) = self.new_place(h, &mut m, guest.start, count).await?;
        let guest = guest.start..guest.start + count * cs;
        if moves {
            return Ok(Some(Step::whole(guest, host, fresh)));
        }
        let fill = g.unit_start(at)..g.unit_end(end).min(guest.end);
        Ok(Some(Step { guest, host, fresh, fill }))
    }

    /// Writes a step's data, and around it what the guest saw there before.
    async fn fill_step<H: Host>(&self, h: &H, step: &Step, at: u64, data: IoBuf) -> IoResult<()> {
        let head = (at - step.fill.start) as usize;
        let tail = (step.fill.end - at) as usize - data.len();
        let host = step.host + (step.fill.start - step.guest.start);
        let host_data = host + head as u64;
        // Behind the file's end everything is zero already; but what is encrypted does not look like that.
        let zero_there = self.crypt.is_none() && host >= h.data_len()?;
        let head_buf = self.old_bytes(h, step.fill.start, head).await?;
        let tail_buf = self.old_bytes(h, step.fill.end - tail as u64, tail).await?;
        // Of a cluster that is there already, some subclusters may hold what somebody reads, now or after a crash.
        let unseen = step.fresh.is_some() || !self.geo.extended;
        let zero_around = head + tail > 0 && head_buf.is_none() && tail_buf.is_none();
        let fast = unseen && zero_around && self.crypt.is_none();
        if fast {
            h.event(Event::ClusterAllocSpace).await;
            if h.data_zero_fast(host, step.fill.end - step.fill.start).await.is_ok() {
                h.event(Event::WriteAio).await;
                return self.write_data(h, at, host_data, data).await;
            }
        }
        let (skip_head, skip_tail) = (
            head_buf.is_none() && (zero_there || head == 0),
            tail_buf.is_none() && (zero_there || tail == 0),
        );
        let mut whole = IoBuf::new();
        let (mut guest, mut start) = (at, host_data);
        if !skip_head {
            (guest, start) = (step.fill.start, host);
            whole.append(head_buf.unwrap_or_else(|| IoBuf::zeroed(head)));
        }
        if !skip_head || !skip_tail {
            h.event(Event::CowWrite).await;
        }
        h.event(Event::WriteAio).await;
        whole.append(data);
        if !skip_tail {
            whole.append(tail_buf.unwrap_or_else(|| IoBuf::zeroed(tail)));
        }
        self.write_data(h, guest, start, whole).await
    }

    /// The guest's bytes before an allocating write; `None` where they are known to be zeros.
    async fn old_bytes<H: Host>(&self, h: &H, off: u64, len: usize) -> IoResult<Option<IoBuf>> {
        if len == 0 || self.reads_as_zero(h, off, len as u64, false).await? {
            return Ok(None);
        }
        let buf = IoBuf::zeroed(len);
        h.event(Event::CowRead).await;
        self.read_guest(h, off, buf.clone()).await?;
        Ok(if buf.is_zero() { None } else { Some(buf) })
    }

    /// Whether a range is known to read as zeros without reading data. `through`: the backing file is asked, too.
    pub(crate) async fn reads_as_zero<H: Host>(
        &self,
        h: &H,
        off: u64,
        len: u64,
        through: bool,
    ) -> IoResult<bool> {
        let end = (off + len).min(self.limit(off));
        let backing = h.backing_len().filter(|_| off < self.virtual_size()).unwrap_or(0);
        let mut at = off;
        while at < end {
            let (kind, n) = self.lookup(h, at, end - at).await?;
            match kind {
                RunKind::Zero(_) => {}
                RunKind::Unallocated => {
                    let behind = backing.saturating_sub(at).min(n);
                    if behind > 0 && !(through && h.backing_is_zero(at, behind).await?) {
                        return Ok(false);
                    }
                }
                _ => return Ok(false),
            }
            at += n;
        }
        Ok(true)
    }

    /// Writes back metadata. The caller flushes the file afterwards.
    pub async fn flush<H: Host>(&self, h: &H) -> IoResult<()> {
        if !self.modifying.load(Ordering::Acquire) {
            return self.check_usable_flush();
        }
        let mut m = self.meta.lock().await;
        self.write_back(h, &mut m).await
    }

    fn check_usable_flush(&self) -> IoResult<()> {
        if self.corrupt.load(Ordering::Acquire) && self.writable.load(Ordering::Acquire) {
            return Err(Errno::IO);
        }
        Ok(())
    }
}

enum RunKindAt {
    InPlace(u64, u64),
    Other,
}
