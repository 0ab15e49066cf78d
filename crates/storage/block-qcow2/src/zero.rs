//! Zeroing and discarding.

use std::sync::atomic::Ordering;

use api::block_core::BlkdebugEvent as Event;
use base::{Errno, IoResult};
use block::driver::Prealloc;
use mem::IoBuf;

use crate::geometry::{ALL_HERE, ALL_ZERO, Entry, Mapping};
use crate::header::CryptMethod;
use crate::host::{Host, write_bytes};
use crate::image::{Image, Meta};
use crate::l2map::RunKind;
use crate::spec;

/// Most clusters that one turn with the metadata lock changes.
const MAX_TURN: u64 = 1 << 16;
/// Most bytes of zeros that are written at a time where a cluster cannot be marked.
const ZERO_BUFFER: u64 = 1 << 20;

/// What is to become of whole clusters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// Read as zeros; reserved space is kept.
    Zero,
    /// Read as zeros; space is given up.
    ZeroUnmap,
    /// The guest no longer needs them.
    Discard,
    /// Beyond a new end: nothing remains.
    Gone,
}

impl Image {
    /// Makes a range read as zeros. `ENOTSUP` where only writing zeros does it (version 2 over a backing file).
    pub async fn write_zeroes<H: Host>(&self, h: &H, off: u64, len: u64, may_unmap: bool) -> IoResult<()> {
        let size = self.virtual_size();
        let end = off.checked_add(len).filter(|e| *e <= size).ok_or(Errno::IO)?;
        if len == 0 {
            return Ok(());
        }
        if self.version < 3 && h.backing_len().is_some() {
            return Err(Errno::NOTSUP);
        }
        self.modify(h).await?;
        if self.raw_data() {
            // What the file shows without the image is the same.
            h.data_write_zeroes(off, len).await?;
            self.unflushed.store(true, Ordering::Release);
        }
        let g = self.geo;
        let first = g.cluster_start(off + g.cluster_size() - 1).min(end);
        // The last cluster may end behind the disk's end; the disk's end is its end.
        let last = if end == size { end } else { g.cluster_start(end).max(first) };
        if first >= last {
            return self.zero_part(h, off, end - off).await;
        }
        self.zero_part(h, off, first - off).await?;
        // Version 2 can only forget clusters; without a backing file that is the same.
        let to = if may_unmap || self.version < 3 { To::ZeroUnmap } else { To::Zero };
        self.change_range(h, first, last - first, to).await?;
        self.zero_part(h, last, end - last).await
    }

    /// Whether the data file is to read like the disk.
    fn raw_data(&self) -> bool {
        self.shown.read().header.raw_data_file()
    }

    /// Zeroes less than whole clusters. Where all of a unit reads as zeros then, it is marked so: what shows
    /// through from a backing file now need not do so for ever.
    async fn zero_part<H: Host>(&self, h: &H, off: u64, len: u64) -> IoResult<()> {
        let g = self.geo;
        let mut done = 0;
        while done < len {
            let at = off + done;
            let n = (g.unit_start(at) + g.unit() - at).min(len - done);
            if !self.mark_zero(h, at, n).await? {
                let mut wrote = 0;
                while wrote < n {
                    let piece = (n - wrote).min(ZERO_BUFFER);
                    self.write(h, at + wrote, IoBuf::zeroed(piece as usize)).await?;
                    wrote += piece;
                }
            }
            done += n;
        }
        Ok(())
    }

    /// Zeroes a part of one unit by its zero flag; false where that cannot be.
    async fn mark_zero<H: Host>(&self, h: &H, at: u64, len: u64) -> IoResult<bool> {
        let g = self.geo;
        let start = g.unit_start(at);
        let end = start + g.unit();
        let cluster = g.cluster_start(at);
        let _guard = self.ranges.exclusive(cluster..cluster + g.cluster_size()).await;
        if matches!(self.lookup(h, at, len).await?, (RunKind::Zero(_), n) if n >= len) {
            return Ok(true);
        }
        if g.extended && matches!(self.lookup(h, start, 1).await?, (RunKind::Compressed(_), _)) {
            // There are no units in a compressed cluster.
            return Ok(false);
        }
        let rest_is_zero = self.version >= 3
            && self.reads_as_zero(h, start, at - start, true).await?
            && self.reads_as_zero(h, at + len, end - at - len, true).await?;
        if rest_is_zero {
            self.change_clusters(h, start, end, To::Zero, true).await?;
        }
        Ok(rest_is_zero)
    }

    /// The guest no longer needs a range; parts of clusters at its ends stay as they are. Discarded clusters read as
    /// zeros in version 3. In version 2 over a backing file they would show its old bytes: `ENOTSUP`.
    pub async fn discard<H: Host>(&self, h: &H, off: u64, len: u64) -> IoResult<()> {
        if self.version < 3 && h.backing_len().is_some() {
            return Err(Errno::NOTSUP);
        }
        let g = self.geo;
        let size = self.virtual_size();
        let end = off.saturating_add(len).min(size);
        let first = g.cluster_start(off.saturating_add(g.cluster_size() - 1));
        let last = if end == size { end } else { g.cluster_start(end) };
        if first >= last {
            return Ok(());
        }
        self.modify(h).await?;
        if self.raw_data() {
            return self.write_zeroes(h, first, last - first, true).await;
        }
        self.change_range(h, first, last - first, To::Discard).await
    }

    /// Gives up all clusters: the backing file is seen all over.
    pub async fn make_empty<H: Host>(&self, h: &H) -> IoResult<()> {
        if self.raw_data() {
            // The data file would have to show what the backing file holds.
            return Err(Errno::NOTSUP);
        }
        self.modify(h).await?;
        self.unmap_tail(h, 0, self.virtual_size()).await?;
        self.drop_tables(h).await
    }

    /// Gives up the L2 tables, which say nothing any more, and what is free at the file's end then.
    async fn drop_tables<H: Host>(&self, h: &H) -> IoResult<()> {
        let g = self.geo;
        let mut m = self.meta.lock().await;
        self.begin_modify(h, &mut m).await?;
        let discard = self.config.read().discard_other;
        {
            let mut map = self.map.write();
            for i in 0..g.l1_entries_for(self.virtual_size()).min(map.l1.len() as u64) {
                let table = map.l1[i as usize] & spec::OFFSET_MASK;
                if table == 0 || g.in_cluster(table) != 0 {
                    continue;
                }
                map.set_l1(i, 0);
                map.forget_table(table);
                self.release(&mut m, table >> g.cluster_bits, 1, discard);
            }
        }
        // Twice: what the first round gives up is free after it.
        for _ in 0..2 {
            self.write_back(h, &mut m).await?;
        }
        self.barrier(h).await?;
        let file_len = h.file_len()?;
        let mut end = g.clusters(file_len);
        while end > 0 {
            let (index, _) = g.refcount_position(end - 1);
            if self.block(h, &mut m, index).await?.is_none() {
                end = index << g.refblock_bits();
            } else if self.refcount(h, &mut m, end - 1).await? == 0 {
                end -= 1;
            } else {
                break;
            }
        }
        // An encrypted image keeps its length, as it does elsewhere.
        if end << g.cluster_bits < file_len && m.header.crypt != CryptMethod::Luks {
            h.truncate(end << g.cluster_bits, Prealloc::Off).await?;
        }
        Ok(())
    }

    /// Unmaps everything from `off` (a multiple of the cluster size) to the end of the L1 table: before shrinking.
    pub(crate) async fn unmap_tail<H: Host>(&self, h: &H, off: u64, len: u64) -> IoResult<()> {
        self.change_range(h, off, len, To::Gone).await
    }

    /// Has no cluster say by a flag that it reads as zeros, for version 2: where nothing shows through it is forgotten,
    /// otherwise zeros are written. `tell` hears of how many L2 tables, there or not, that is so.
    pub(crate) async fn expand_zeros<H: Host>(
        &self,
        h: &H,
        backed: bool,
        tell: &mut dyn FnMut(u64),
    ) -> IoResult<()> {
        let size = self.virtual_size();
        let (mut at, mut told) = (0, 0);
        while at < size {
            let (kind, n) = self.lookup(h, at, size - at).await?;
            let n = n.min(ZERO_BUFFER.max(self.geo.cluster_size()));
            match kind {
                RunKind::Zero(_) if backed => self.write(h, at, IoBuf::zeroed(n as usize)).await?,
                RunKind::Zero(_) => self.change_range(h, at, n, To::Gone).await?,
                _ => {}
            }
            at += n;
            let tables =
                if at < size { at / self.geo.l2_coverage() } else { at.div_ceil(self.geo.l2_coverage()) };
            while told < tables {
                told += 1;
                tell(told);
            }
        }
        Ok(())
    }

    async fn change_range<H: Host>(&self, h: &H, off: u64, len: u64, to: To) -> IoResult<()> {
        let g = self.geo;
        let end = off + len;
        let mut at = off;
        let has_backing = h.backing_len().is_some();
        while at < end {
            // Within one L2 table; tables that do not exist need none where nothing shows through them.
            let table_end = (at & !(g.l2_coverage() - 1)).saturating_add(g.l2_coverage());
            let stop = end.min(table_end).min(at.saturating_add(MAX_TURN << g.cluster_bits));
            let absent = self.map.read().l1_entry(at) & spec::OFFSET_MASK == 0;
            if absent && ((to == To::Discard && !has_backing) || to == To::Gone) {
                // Nobody can create it while we look: whoever did would have to have locked this range first, and is
                // then later than this request.
                at = stop;
                continue;
            }
            let lock_end = g.cluster_start(stop + g.cluster_size() - 1);
            let _guard = self.ranges.exclusive(at..lock_end).await;
            self.change_clusters(h, at, lock_end, to, has_backing).await?;
            at = stop;
        }
        Ok(())
    }

    /// Changes what `from..end` is, whole units in one L2 table.
    async fn change_clusters<H: Host>(
        &self,
        h: &H,
        from: u64,
        end: u64,
        to: To,
        has_backing: bool,
    ) -> IoResult<()> {
        let g = self.geo;
        let v3 = self.version >= 3;
        let (no_unref, pass_request, pass_other) = {
            let c = self.config.read();
            (c.discard_no_unref, c.discard_request, c.discard_other)
        };
        let mut m = self.meta.lock().await;
        self.begin_modify(h, &mut m).await?;
        let at = g.cluster_start(from);
        let count = g.clusters(end - at);
        let bare = Entry {
            word: if v3 && !g.extended { spec::ZERO } else { 0 },
            bits: if g.extended { ALL_ZERO } else { 0 },
        };
        let new_extended = |i: u64, e: Entry| {
            let mask = g.subs(at + (i << g.cluster_bits), from, end);
            let whole = mask == u32::MAX;
            match (to, g.mapping(e)) {
                (To::Gone, _) => Entry::default(),
                (To::Discard, Mapping::Unallocated) if !has_backing && e.bits == 0 => e,
                (_, Mapping::Compressed(..)) if !whole => e,
                (_, Mapping::Compressed(..)) => bare,
                (To::Zero, _) => e.with_zero(mask),
                (To::Discard, Mapping::Normal(_) | Mapping::ZeroAlloc(_)) if no_unref => e.with_zero(mask),
                _ if !whole => e.with_zero(mask),
                _ => bare,
            }
        };
        let new_standard = |e: Entry| match (to, g.mapping(e)) {
            (To::Gone, _) => Entry::default(),
            // Nothing to give up, and nothing that shows through.
            (To::Discard, Mapping::Unallocated) if !has_backing => e,
            (To::Zero | To::Discard, Mapping::ZeroPlain | Mapping::ZeroAlloc(_))
                if to == To::Zero || no_unref =>
            {
                e
            }
            (To::Zero, Mapping::Normal(_)) => Entry { word: e.word | spec::ZERO, bits: 0 },
            (To::Discard, Mapping::Normal(_)) if no_unref => Entry { word: e.word | spec::ZERO, bits: 0 },
            _ => bare,
        };
        let new = |i: u64, e: Entry| if g.extended { new_extended(i, e) } else { new_standard(e) };
        let (old, result) = self.change_entries(h, &mut m, at, count, new).await;
        let discard = match to {
            To::Discard => pass_request,
            // A shorter disk takes less space, whatever is said of discards.
            To::Gone => true,
            _ => pass_other || (to == To::ZeroUnmap && pass_request),
        };
        // A raw data file has been zeroed already.
        let raw = m.header.raw_data_file();
        let mut kept = Vec::new();
        for (i, e) in old.into_iter().enumerate() {
            let now = new(i as u64, e);
            let still = matches!((g.mapping(e), g.mapping(now)),
                (Mapping::Normal(a) | Mapping::ZeroAlloc(a), Mapping::Normal(b) | Mapping::ZeroAlloc(b)) if a == b);
            let held = matches!(g.mapping(e), Mapping::Normal(_) | Mapping::ZeroAlloc(_));
            if g.data_file && held && discard && !raw && now.word != e.word {
                kept.push(e.word & spec::OFFSET_MASK);
            } else if !still {
                self.release_entry(&mut m, e, discard);
            } else if to == To::Discard && discard && e.word & spec::COPIED != 0 {
                kept.push(now.word & spec::OFFSET_MASK);
            }
        }
        result?;
        if !kept.is_empty() {
            // The space stays reserved, but the file need not hold its bytes once the zero flags are stable.
            self.write_back(h, &mut m).await?;
            self.barrier(h).await?;
            for host in kept {
                let _ = h.data_discard(host, g.cluster_size()).await;
            }
        }
        if self.map.read().crowded() {
            self.write_back(h, &mut m).await?;
        }
        Ok(())
    }

    /// Sets the virtual size. Growing moves the L1 table where it is too small; shrinking gives up what lies beyond.
    pub async fn truncate<H: Host>(&self, h: &H, len: u64, prealloc: Prealloc) -> IoResult<()> {
        let old = self.virtual_size();
        if len & 511 != 0 {
            // The format counts bytes, but everybody else counts sectors.
            return Err(Errno::INVAL);
        }
        if len == old {
            return Ok(());
        }
        if len < old && prealloc != Prealloc::Off {
            return Err(Errno::INVAL);
        }
        self.modify(h).await?;
        let g = self.geo;
        let snapshots = self.shown.read().header.snapshot_count > 0;
        if snapshots && self.version < 3 {
            // Version 2 does not record a snapshot's own size.
            return Err(Errno::NOTSUP);
        }
        if len < old {
            let from = g.cluster_start(len + g.cluster_size() - 1);
            if from < old {
                self.unmap_tail(h, from, old - from).await?;
            }
        }
        {
            let mut m = self.meta.lock().await;
            self.begin_modify(h, &mut m).await?;
            self.write_back(h, &mut m).await?;
            if len > old {
                let grown = self.grow_l1(h, &mut m, g.l1_entries_for(len), true).await;
                grown.inspect_err(|e| self.not_truncated(format!("Failed to grow the L1 table: {e}")))?;
            }
            self.barrier(h).await?;
            let sized = write_bytes(h, spec::field::SIZE as u64, &len.to_be_bytes()).await;
            sized.inspect_err(|e| self.not_truncated(format!("Failed to update the image size: {e}")))?;
            m.header.size = len;
            self.header_changed(&m);
            self.size.store(len, Ordering::Release);
            self.barrier(h).await?;
        }
        // Where space is preallocated, that is what makes the file longer.
        let preallocates = prealloc != Prealloc::Off && len > old;
        if self.raw_data() && !preallocates {
            h.data_truncate(len, Prealloc::Off).await?;
        }
        if len > old && g.in_cluster(old) != 0 {
            // Whatever stands behind the old end in its last cluster was not seen, and must not be now.
            let n = (g.cluster_size() - g.in_cluster(old)).min(len - old);
            if g.data_file && h.data_len()? < old + n {
                h.data_truncate(old + n, Prealloc::Off).await?;
            }
            if !matches!(self.lookup(h, old, n).await?, (RunKind::Unallocated, run) if run >= n) {
                self.zero_part(h, old, n).await?;
            }
        }
        if preallocates {
            self.preallocate(h, old, len - old, prealloc).await?;
        }
        if g.data_file && len > old && h.data_len()? < len {
            h.data_truncate(len, Prealloc::Off).await?;
        }
        Ok(())
    }

    /// Keeps for whoever asked what a truncation could not do.
    fn not_truncated(&self, text: String) {
        *self.truncate_failure.lock() = Some(text);
    }

    /// Moves the L1 table so that it has so many entries: no more of them if that is `exact`ly what it takes, otherwise some
    /// for what comes next.
    pub(crate) async fn grow_l1<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        entries: u64,
        exact: bool,
    ) -> IoResult<()> {
        let old_entries = self.map.read().l1.len() as u64;
        if entries <= old_entries {
            return Ok(());
        }
        if entries * 8 > spec::MAX_L1_BYTES {
            return Err(Errno::FBIG);
        }
        let g = self.geo;
        let mut grown = if exact { entries } else { old_entries.max(1) };
        while grown < entries {
            grown = (grown * 3).div_ceil(2);
        }
        let entries = grown.min(spec::MAX_L1_BYTES / 8);
        let clusters = g.clusters(entries * 8);
        h.event(Event::L1GrowAllocTable).await;
        let first = self.alloc(h, m, clusters).await?;
        let mut l1 = self.map.read().l1.clone();
        l1.resize(entries as usize, 0);
        let off = first << g.cluster_bits;
        if let Err(e) = self.put_l1(h, m, off, &l1).await {
            self.unalloc(h, m, first, clusters).await;
            return Err(e);
        }
        self.lead_to_l1(h, m, entries, off).await?;
        let (old_off, old_size) = (m.header.l1_offset, u64::from(m.header.l1_size));
        m.header.l1_offset = off;
        m.header.l1_size = entries as u32;
        self.header_changed(m);
        self.map.write().l1 = l1;
        self.places.write().protected.moved(crate::overlap::Section::ActiveL1, first..first + clusters);
        self.barrier(h).await?;
        if old_size > 0 {
            // Nothing on the disk leads to it any more.
            self.unalloc(h, m, old_off >> g.cluster_bits, g.clusters(old_size * 8)).await;
        }
        Ok(())
    }

    /// Writes an L1 table to a place that was allocated for it; both are stable when this ends.
    async fn put_l1<H: Host>(&self, h: &H, m: &mut Meta, off: u64, l1: &[u64]) -> IoResult<()> {
        self.write_refcounts(h, m).await?;
        self.barrier(h).await?;
        let mut bytes = spec::table_to_bytes(l1);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        self.unflushed.store(true, Ordering::Release);
        h.event(Event::L1GrowWriteTable).await;
        write_bytes(h, off, &bytes).await?;
        self.unflushed.store(true, Ordering::Release);
        self.barrier(h).await
    }

    /// Has the header lead to a new L1 table. Where that fails it says what it said, and the table's clusters are free again,
    /// unless nobody knows what the disk says.
    async fn lead_to_l1<H: Host>(&self, h: &H, m: &mut Meta, entries: u64, off: u64) -> IoResult<()> {
        // The size and the place of the table are neighbours in one sector: they change together.
        let put = async |entries: u32, off: u64| {
            let mut fields = entries.to_be_bytes().to_vec();
            fields.extend_from_slice(&off.to_be_bytes());
            self.unflushed.store(true, Ordering::Release);
            write_bytes(h, spec::field::L1_SIZE as u64, &fields).await
        };
        h.event(Event::L1GrowActivateTable).await;
        let Err(e) = put(entries as u32, off).await else { return Ok(()) };
        if put(m.header.l1_size, m.header.l1_offset).await.is_ok() && self.barrier(h).await.is_ok() {
            let g = self.geo;
            self.unalloc(h, m, off >> g.cluster_bits, g.clusters(entries * 8)).await;
        }
        Err(e)
    }

    /// Gives every cluster of a range that has none a host cluster that reads as zeros.
    pub(crate) async fn preallocate<H: Host>(
        &self,
        h: &H,
        off: u64,
        len: u64,
        mode: Prealloc,
    ) -> IoResult<()> {
        // The file's own space is preallocated where the file grows; what is inside it is there already.
        let mode = if mode == Prealloc::Metadata { Prealloc::Off } else { mode };
        let g = self.geo;
        let end = off + len;
        let mut at = g.cluster_start(off + g.cluster_size() - 1);
        while at < end {
            let stop = end.min((at & !(g.l2_coverage() - 1)).saturating_add(g.l2_coverage()));
            let _guard = self.ranges.exclusive(at..g.cluster_start(stop + g.cluster_size() - 1)).await;
            let count = g.clusters(stop - at);
            let mut m = self.meta.lock().await;
            let (host, fresh) = self.new_place(h, &mut m, at, count).await?;
            // An encrypted data file is no disk for anybody else.
            let raw = m.header.raw_data_file() && self.crypt.is_none();
            // What the place held before does not show, but for a data file that is the disk. Behind the file's end there
            // is nothing; what encrypted clusters hold is never zeroes by itself.
            let behind = if g.data_file { at >= h.data_len()? } else { host >= h.file_len()? };
            let fresh_space = self.crypt.is_none() && behind;
            let flag = if self.version >= 3 && !g.extended && !raw && !fresh_space { spec::ZERO } else { 0 };
            let bits = match (g.extended, raw, h.backing_len()) {
                (false, ..) => 0,
                (true, true, _) => ALL_HERE,
                (true, false, None) => ALL_ZERO,
                (true, false, Some(_)) => 0,
            };
            if self.version < 3 && self.crypt.is_some() {
                let (mut done, len) = (0, count << g.cluster_bits);
                while done < len {
                    let n = (len - done).min(ZERO_BUFFER);
                    self.write_data(h, at + done, host + done, IoBuf::zeroed(n as usize)).await?;
                    done += n;
                }
                self.unflushed.store(true, Ordering::Release);
            } else if self.version < 3 && host < h.file_len()? {
                h.write_zeroes(host, count << g.cluster_bits).await?;
                self.unflushed.store(true, Ordering::Release);
            }
            let entry =
                |i: u64, _: Entry| Entry { word: (host + (i << g.cluster_bits)) | flag | spec::COPIED, bits };
            let (old, result) = self.change_entries(h, &mut m, at, count, entry).await;
            let n = old.len() as u64;
            for e in old {
                self.release_entry(&mut m, e, false);
            }
            if let Some(first) = fresh
                && n < count
            {
                self.unalloc(h, &mut m, first + n, count - n).await;
            }
            result?;
            let file_end = if g.data_file { stop } else { host + (count << g.cluster_bits) };
            if h.data_len()? < file_end {
                h.data_truncate(file_end, mode).await?;
            }
            at = stop;
        }
        Ok(())
    }
}
