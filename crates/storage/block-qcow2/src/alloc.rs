//! Refcounts: looking them up, finding free clusters, growing the refcount structures, dropping references.

use std::ops::Range;
use std::sync::atomic::Ordering;

use api::block_core::BlkdebugEvent as Event;
use base::{Errno, IoResult};

use crate::epoch;
use crate::host::{Host, read_vec, write_bytes};
use crate::image::{Image, Meta, PendingFree, RefBlock};
use crate::overlap::Section;
use crate::spec::{self, field};

/// References that wait for a write-back at most; more make one happen, so that space comes back.
const MAX_PENDING_RANGES: usize = 4096;
/// The same in bytes of clusters.
const MAX_PENDING_BYTES: u64 = 16 << 20;

impl Image {
    /// The highest cluster number that tables can refer to, plus one.
    fn cluster_limit(&self) -> u64 {
        spec::MAX_FILE_OFFSET >> self.geo.cluster_bits
    }

    /// Loads the refcount block with this index in the refcount table; `None` where there is none.
    pub(crate) async fn block<H: Host>(&self, h: &H, m: &mut Meta, index: u64) -> IoResult<Option<u64>> {
        let entry = usize::try_from(index).ok().and_then(|i| m.reftable.get(i)).copied().unwrap_or(0);
        let off = entry & !spec::REFTABLE_RESERVED;
        if off == 0 {
            return Ok(None);
        }
        if self.geo.in_cluster(off) != 0 || off >= spec::MAX_FILE_OFFSET {
            let text = format!("Refblock offset {off:#x} unaligned (reftable index: {})", spec::hex(index));
            return Err(self.damaged(h, &text).await);
        }
        if let Some(b) = m.blocks.get_mut(&off) {
            b.used = true;
            return Ok(Some(off));
        }
        self.make_room(h, m).await?;
        let bytes = read_vec(h, off, self.geo.cluster_size() as usize).await?;
        Self::cache_block(m, off, bytes.into(), false);
        Ok(Some(off))
    }

    fn cache_block(m: &mut Meta, off: u64, bytes: Box<[u8]>, dirty: bool) {
        if m.blocks.insert(off, RefBlock { bytes, dirty, used: true }).is_none() {
            m.clock.push_back(off);
        }
    }

    /// Gives up blocks until there is room for one more. Refcount blocks may be written at any time: increments come
    /// before the reference, and decrements wait outside of the blocks.
    async fn make_room<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        while m.blocks.len() >= m.max_blocks {
            let Some(off) = m.clock.pop_front() else { break };
            let Some(b) = m.blocks.get_mut(&off) else { continue };
            if std::mem::replace(&mut b.used, false) {
                m.clock.push_back(off);
                continue;
            }
            if b.dirty {
                let bytes = b.bytes.clone();
                h.event(Event::RefblockUpdatePart).await;
                if let Err(e) = self.write_meta(h, Section::RefcountBlock, off, &bytes).await {
                    m.clock.push_back(off);
                    return Err(e);
                }
            }
            m.blocks.remove(&off);
        }
        Ok(())
    }

    /// Writes metadata after checking that no other metadata stands there.
    pub(crate) async fn write_meta<H: Host>(
        &self,
        h: &H,
        what: Section,
        off: u64,
        bytes: &[u8],
    ) -> IoResult<()> {
        self.check_usable()?;
        let bits = self.geo.cluster_bits;
        let range = off >> bits..((off + bytes.len() as u64 - 1) >> bits) + 1;
        if let Some(hit) = self.overlap(&range, Some(what)) {
            return Err(self.overlapping(h, hit).await);
        }
        self.check_snapshot_tables(h, &range).await?;
        write_bytes(h, off, bytes).await?;
        self.unflushed.store(true, Ordering::Release);
        Ok(())
    }

    async fn overlapping<H: Host>(&self, h: &H, hit: Section) -> Errno {
        let text = format!("Preventing invalid write on metadata (overlaps with {})", hit.name());
        self.damaged(h, &text).await
    }

    /// What metadata stands in these clusters, other than `own`.
    fn overlap(&self, range: &Range<u64>, own: Option<Section>) -> Option<Section> {
        let places = self.places.read();
        if let Some(s) = places.protected.hit(range, own) {
            return Some(s);
        }
        let o = self.config.read().overlap;
        if o.active_l2 && own != Some(Section::ActiveL2) {
            let map = self.map.read();
            if range.clone().any(|c| map.tables.contains(&c)) {
                return Some(Section::ActiveL2);
            }
        }
        if o.refcount_block
            && own != Some(Section::RefcountBlock)
            && range.clone().any(|c| places.refblocks.contains(&c))
        {
            return Some(Section::RefcountBlock);
        }
        None
    }

    /// Refuses data at a place where metadata stands, and marks the image.
    pub(crate) async fn check_guest_place<H: Host>(&self, h: &H, off: u64, len: u64) -> IoResult<()> {
        // No metadata stands in a data file.
        if self.geo.data_file { Ok(()) } else { self.check_data_place(h, off, len).await }
    }

    /// [`Image::check_guest_place`] for what stands in the image's own file.
    pub(crate) async fn check_data_place<H: Host>(&self, h: &H, off: u64, len: u64) -> IoResult<()> {
        let bits = self.geo.cluster_bits;
        let range = off >> bits..((off + len - 1) >> bits) + 1;
        match self.overlap(&range, None) {
            Some(hit) => Err(self.overlapping(h, hit).await),
            None => self.check_snapshot_tables(h, &range).await,
        }
    }

    /// Refuses a write to the L2 tables of snapshots, where the user has asked for that: their L1 tables are read each time.
    async fn check_snapshot_tables<H: Host>(&self, h: &H, range: &Range<u64>) -> IoResult<()> {
        if !self.config.read().overlap.inactive_l2 {
            return Ok(());
        }
        let snapshots = self.shown.read().snapshots.clone();
        for s in &snapshots {
            if let Some((_, e)) = s.l1_problem(self.geo.cluster_size()) {
                return Err(e);
            }
            let l1 = read_vec(h, s.l1_offset, s.l1_size as usize * 8).await?;
            let hit = |e: u64| {
                let table = e & spec::OFFSET_MASK;
                table != 0 && range.contains(&(table >> self.geo.cluster_bits))
            };
            if spec::table_from_bytes(&l1).into_iter().any(hit) {
                return Err(self.overlapping(h, Section::InactiveL2).await);
            }
        }
        Ok(())
    }

    /// A cluster's refcount.
    pub(crate) async fn refcount<H: Host>(&self, h: &H, m: &mut Meta, cluster: u64) -> IoResult<u64> {
        let (index, pos) = self.geo.refcount_position(cluster);
        Ok(match self.block(h, m, index).await? {
            Some(off) => self.geo.refcount_get(&m.blocks[&off].bytes, pos),
            None => 0,
        })
    }

    /// Whether the file is so much smaller on the disk than what it counts as used that space must have been reserved in it
    /// rather than written. Found out once.
    pub(crate) async fn is_reserved<H: Host>(&self, h: &H) -> IoResult<bool> {
        if let Some(known) = self.reserved.get() {
            return Ok(*known);
        }
        let Some(allocated) = h.allocated() else { return Ok(*self.reserved.get_or_init(|| true)) };
        let real = allocated >> self.geo.cluster_bits;
        // A file system may keep a little less than what was written.
        let many = (real * 10 / 9).max(real + 2);
        let mut used = 0;
        let mut m = self.meta.lock().await;
        // What no refcount table leads to is not counted, however long the file.
        let counted = (m.reftable.len() as u64).saturating_mul(self.geo.refblock_entries());
        let end = self.geo.clusters(h.file_len()?).min(counted);
        let mut at = 0;
        while at < end && used < many {
            let (index, pos) = self.geo.refcount_position(at);
            let n = (self.geo.refblock_entries() - pos as u64).min(end - at);
            if let Some(off) = self.block(h, &mut m, index).await? {
                let bytes = &m.blocks[&off].bytes;
                used +=
                    (pos..pos + n as usize).filter(|p| self.geo.refcount_get(bytes, *p) != 0).count() as u64;
            }
            at += n;
        }
        drop(m);
        Ok(*self.reserved.get_or_init(|| used >= many))
    }

    /// Tells that refcounts of the block with this index are about to change.
    async fn counting<H: Host>(&self, h: &H, m: &Meta, index: u64) {
        h.event(Event::RefblockAlloc).await;
        if m.reftable.get(index as usize).is_some_and(|e| e & !spec::REFTABLE_RESERVED != 0) {
            h.event(Event::RefblockLoad).await;
        }
    }

    /// [`Image::counting`] for clusters that lose references.
    async fn freeing<H: Host>(&self, h: &H, m: &Meta, cluster: u64, count: u64) {
        h.event(Event::ClusterFree).await;
        let index = |c: u64| self.geo.refcount_position(c).0;
        for i in index(cluster)..=index(cluster + count.max(1) - 1) {
            self.counting(h, m, i).await;
        }
    }

    pub(crate) async fn set_refcount<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        cluster: u64,
        value: u64,
    ) -> IoResult<()> {
        let (index, pos) = self.geo.refcount_position(cluster);
        let off = self.block(h, m, index).await?.ok_or(Errno::IO)?;
        let Some(b) = m.blocks.get_mut(&off) else { return Err(Errno::IO) };
        self.geo.refcount_set(&mut b.bytes, pos, value);
        b.dirty = true;
        Ok(())
    }

    /// Allocates `want` contiguous clusters (at least 1) with a refcount of one each; answers the first one's number.
    pub(crate) async fn alloc<H: Host>(&self, h: &H, m: &mut Meta, want: u64) -> IoResult<u64> {
        h.event(Event::ClusterAlloc).await;
        self.take(h, m, want).await
    }

    /// [`Image::alloc`] for parts of clusters.
    pub(crate) async fn take<H: Host>(&self, h: &H, m: &mut Meta, want: u64) -> IoResult<u64> {
        debug_assert!(want > 0);
        if m.pending.len() > MAX_PENDING_RANGES
            || m.pending_clusters > MAX_PENDING_BYTES >> self.geo.cluster_bits
        {
            self.write_back(h, m).await?;
        }
        // Cluster 0 is the header's whatever its refcount says: if that is 0, what follows stops here.
        let mut start = m.hint;
        let mut run = 0;
        while run < want {
            let at = start + run;
            if at >= self.cluster_limit() {
                return Err(Errno::FBIG);
            }
            let (index, pos) = self.geo.refcount_position(at);
            let entries = self.geo.refblock_entries();
            let Some(off) = self.block(h, m, index).await? else {
                // No block: all of its clusters are free.
                run += (entries - pos as u64).min(want - run);
                continue;
            };
            let bytes = &m.blocks[&off].bytes;
            let mut pos = pos;
            while run < want && (pos as u64) < entries {
                if self.geo.refcount_get(bytes, pos) == 0 {
                    run += 1;
                } else {
                    start += run + 1;
                    run = 0;
                }
                pos += 1;
            }
        }
        let range = start..start + want;
        let header = (range.start == 0).then_some(Section::Header);
        if let Some(hit) = header.or_else(|| self.overlap(&range, None)) {
            return Err(self.overlapping(h, hit).await);
        }
        let first = self.geo.refcount_position(range.start).0;
        let last = self.geo.refcount_position(range.end - 1).0;
        for index in first..=last {
            self.counting(h, m, index).await;
        }
        for index in (first..=last).rev() {
            if self.block(h, m, index).await?.is_none() {
                self.add_block(h, m, index, range.clone()).await?;
            }
        }
        for c in range.clone() {
            if let Err(e) = self.set_refcount(h, m, c, 1).await {
                for undo in range.start..c {
                    let _ = self.set_refcount(h, m, undo, 0).await;
                }
                return Err(e);
            }
        }
        m.hint = range.end;
        Ok(range.start)
    }

    /// Adds the refcount block with this index, which does not exist. It may stand in its own range (where every
    /// cluster is free) but not in `reserved`, which somebody is about to take.
    async fn add_block<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        index: u64,
        reserved: Range<u64>,
    ) -> IoResult<()> {
        if index as usize >= m.reftable.len() {
            self.grow_reftable(h, m, index + 1, reserved.clone()).await?;
            if self.block(h, m, index).await?.is_some() {
                return Ok(());
            }
        }
        let bits = self.geo.refblock_bits();
        let own = index << bits..(index + 1) << bits;
        let mut at = own.start.max(1);
        if at < reserved.end && at >= reserved.start {
            at = reserved.end;
        }
        if own.contains(&at) {
            return self.put_block(h, m, index, at, true).await;
        }
        // Its whole range is reserved: somewhere behind.
        loop {
            let (i, _) = self.geo.refcount_position(at);
            if self.block(h, m, i).await?.is_none() {
                Box::pin(self.add_block(h, m, i, reserved.clone())).await?;
            }
            if self.refcount(h, m, at).await? == 0 {
                break;
            }
            at += 1;
        }
        self.set_refcount(h, m, at, 1).await?;
        self.put_block(h, m, index, at, false).await
    }

    async fn put_block<H: Host>(&self, h: &H, m: &mut Meta, index: u64, at: u64, own: bool) -> IoResult<()> {
        if let Some(hit) = self.overlap(&(at..at + 1), None) {
            return Err(self.overlapping(h, hit).await);
        }
        self.make_room(h, m).await?;
        h.event(Event::RefblockAllocWrite).await;
        let mut bytes = vec![0u8; self.geo.cluster_size() as usize].into_boxed_slice();
        if own {
            self.geo.refcount_set(&mut bytes, self.geo.refcount_position(at).1, 1);
        }
        let off = at << self.geo.cluster_bits;
        Self::cache_block(m, off, bytes, true);
        self.places.write().refblocks.insert(at);
        m.reftable[index as usize] = off;
        m.reftable_dirty.insert(index / 64);
        Ok(())
    }

    /// Moves the refcount table to a larger place, so that it has `entries` entries at least. The new table, and the
    /// blocks that count it, stand behind everything that the old table covers.
    async fn grow_reftable<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        entries: u64,
        reserved: Range<u64>,
    ) -> IoResult<()> {
        let g = self.geo;
        h.event(Event::ReftableGrow).await;
        let old_entries = m.reftable.len() as u64;
        let start = reserved.end.max(old_entries << g.refblock_bits());
        let first_block = start >> g.refblock_bits();
        let mut need = entries.max(old_entries * 3 / 2);
        let (table_clusters, blocks) = loop {
            let table_clusters = g.clusters(need * 8);
            let mut blocks = 1;
            while ((start + blocks + table_clusters - 1) >> g.refblock_bits()) - first_block >= blocks {
                blocks += 1;
            }
            let covered = first_block + blocks;
            if covered <= table_clusters << (g.cluster_bits - 3) {
                break (table_clusters, blocks);
            }
            need = covered;
        };
        if table_clusters << g.cluster_bits > spec::MAX_REFTABLE_BYTES {
            return Err(Errno::FBIG);
        }
        // The new table names every block, so every block must be stable before it.
        self.write_refblocks(h, m).await?;
        let used = start..start + blocks + table_clusters;
        let mut table = m.reftable.clone();
        table.resize((table_clusters << (g.cluster_bits - 3)) as usize, 0);
        let mut fresh = Vec::new();
        h.event(Event::RefblockAllocWriteBlocks).await;
        for b in 0..blocks {
            let index = first_block + b;
            let mut bytes = vec![0u8; g.cluster_size() as usize];
            let from = used.start.max(index << g.refblock_bits());
            let to = used.end.min((index + 1) << g.refblock_bits());
            for c in from..to {
                g.refcount_set(&mut bytes, g.refcount_position(c).1, 1);
            }
            let off = (start + b) << g.cluster_bits;
            write_bytes(h, off, &bytes).await?;
            table[index as usize] = off;
            fresh.push((off, bytes));
        }
        let table_at = start + blocks;
        let table_off = table_at << g.cluster_bits;
        h.event(Event::RefblockAllocWriteTable).await;
        write_bytes(h, table_off, &spec::table_to_bytes(&table)).await?;
        self.unflushed.store(true, Ordering::Release);
        self.barrier(h).await?;
        // Offset and length lie within one sector: they change together.
        let mut fields = table_off.to_be_bytes().to_vec();
        fields.extend_from_slice(&(table_clusters as u32).to_be_bytes());
        h.event(Event::RefblockAllocSwitchTable).await;
        write_bytes(h, field::REFTABLE_OFFSET as u64, &fields).await?;
        let old = m.header.reftable_offset >> g.cluster_bits;
        let old_clusters = u64::from(m.header.reftable_clusters);
        m.header.reftable_offset = table_off;
        m.header.reftable_clusters = table_clusters as u32;
        m.reftable = table;
        m.reftable_dirty.clear();
        self.header_changed(m);
        self.places.write().protected.moved(Section::RefcountTable, table_at..table_at + table_clusters);
        for (off, bytes) in fresh {
            self.places.write().refblocks.insert(off >> g.cluster_bits);
            Self::cache_block(m, off, bytes.into(), false);
        }
        self.barrier(h).await?;
        self.release(m, old, old_clusters, false);
        Ok(())
    }

    /// Drops one reference of each of these clusters, once the tables on disk no longer have it.
    pub(crate) fn release(&self, m: &mut Meta, cluster: u64, count: u64, discard: bool) {
        m.pending_clusters += count;
        if let Some(last) = m.pending.last_mut()
            && last.cluster + last.count == cluster
            && last.discard == discard
        {
            last.count += count;
            return;
        }
        m.pending.push(PendingFree { cluster, count, discard });
    }

    /// Gives back clusters that no table ever referred to: after a failed write.
    pub(crate) async fn unalloc<H: Host>(&self, h: &H, m: &mut Meta, cluster: u64, count: u64) {
        self.freeing(h, m, cluster, count).await;
        for c in cluster..cluster + count {
            if let Err(e) = self.drop_reference(h, m, c).await {
                not_freed(e);
                break;
            }
        }
    }

    /// Lowers a refcount; true where that freed the cluster.
    pub(crate) async fn drop_reference<H: Host>(&self, h: &H, m: &mut Meta, cluster: u64) -> IoResult<bool> {
        let n = self.refcount(h, m, cluster).await?;
        if n == 0 {
            let text = format!("Cluster {cluster:#x} loses a reference but has none");
            return Err(self.damaged(h, &text).await);
        }
        self.set_refcount(h, m, cluster, n - 1).await?;
        if n == 1 {
            m.hint = m.hint.min(cluster);
            if m.packed.is_some_and(|at| at >> self.geo.cluster_bits == cluster) {
                m.packed = None;
            }
        }
        Ok(n == 1)
    }

    /// Drops the references that no table has any more and whose clusters nobody reads. True where there were some.
    async fn apply_settled<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<bool> {
        let mut any = false;
        while let Some((epoch, _)) = m.settled.front_mut() {
            if !epoch::is_over(epoch) {
                break;
            }
            if let Some((_, list)) = m.settled.pop_front() {
                self.drop_references(h, m, list).await?;
            }
            any = true;
        }
        Ok(any)
    }

    async fn drop_references<H: Host>(&self, h: &H, m: &mut Meta, list: Vec<PendingFree>) -> IoResult<()> {
        let bits = self.geo.cluster_bits;
        let mut gone: Vec<Range<u64>> = Vec::new();
        let (mut freed, mut result) = (false, Ok(()));
        for p in list {
            self.freeing(h, m, p.cluster, p.count).await;
            for c in p.cluster..p.cluster + p.count {
                match self.drop_reference(h, m, c).await {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(e) => {
                        not_freed(e);
                        result = Err(e);
                        break;
                    }
                }
                freed = true;
                if p.discard {
                    match gone.last_mut() {
                        Some(r) if r.end == c => r.end = c + 1,
                        _ => gone.push(c..c + 1),
                    }
                }
            }
        }
        if freed {
            // Another cluster may come to have the same entry.
            *self.decompressed.lock() = None;
        }
        for r in gone {
            let _ = h.discard(r.start << bits, (r.end - r.start) << bits).await;
        }
        result
    }

    async fn write_refblocks<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        let mut dirty: Vec<u64> = m.blocks.iter().filter(|(_, b)| b.dirty).map(|(o, _)| *o).collect();
        dirty.sort_unstable();
        for off in dirty {
            let bytes = m.blocks[&off].bytes.clone();
            h.event(Event::RefblockUpdatePart).await;
            self.write_meta(h, Section::RefcountBlock, off, &bytes).await?;
            if let Some(b) = m.blocks.get_mut(&off) {
                b.dirty = false;
            }
        }
        Ok(())
    }

    /// Writes refcount blocks, and then the parts of the refcount table that changed.
    pub(crate) async fn write_refcounts<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        self.write_refblocks(h, m).await?;
        if m.reftable_dirty.is_empty() {
            return Ok(());
        }
        self.barrier(h).await?;
        while let Some(sector) = m.reftable_dirty.first().copied() {
            let from = sector as usize * 64;
            let to = m.reftable.len().min(from + 64);
            let bytes = spec::table_to_bytes(&m.reftable[from..to]);
            let off = m.header.reftable_offset + sector * 512;
            h.event(Event::RefblockAllocHookup).await;
            self.write_meta(h, Section::RefcountTable, off, &bytes).await?;
            m.reftable_dirty.remove(&sector);
        }
        Ok(())
    }

    /// Writes all metadata that waits, level by level; what a level refers to is stable before it is written.
    ///
    /// With lazy refcounts the refcount levels stay in memory until the image is made clean: the dirty bit on disk
    /// says so. Afterwards the last level may be unstable; a flush of the file makes it stable.
    pub(crate) async fn write_back<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        self.check_usable()?;
        if !self.lazy() {
            self.write_refcounts(h, m).await?;
        }
        let (slices, clean) = {
            let map = self.map.read();
            (map.dirty_slices(), map.is_clean())
        };
        if !clean {
            // Refcounts, and the data that the entries point to.
            self.barrier(h).await?;
            for (off, bytes) in slices {
                h.event(Event::L2Update).await;
                self.write_meta(h, Section::ActiveL2, off, &bytes).await?;
                self.map.write().mark_clean(off);
            }
            // No barrier: a new table was stable before its changed slices were written, empty or a copy of the old one, so
            // that without these slices it says what was there before.
            let sectors: Vec<u64> = self.map.read().l1_dirty.iter().copied().collect();
            for s in sectors {
                let bytes = self.map.read().l1_sector(s);
                h.event(Event::L1Update).await;
                self.write_meta(h, Section::ActiveL1, m.header.l1_offset + s * 512, &bytes).await?;
                self.map.write().l1_dirty.remove(&s);
            }
        }
        if !m.pending.is_empty() {
            self.barrier(h).await?;
            let list = std::mem::take(&mut m.pending);
            m.pending_clusters = 0;
            m.settled.push_back((self.readers.turn(), list));
        }
        if self.apply_settled(h, m).await? && !self.lazy() {
            self.write_refcounts(h, m).await?;
        }
        Ok(())
    }
}

/// What is left of a range of clusters that were to be given up is leaked, which a check repairs.
fn not_freed(e: Errno) {
    tracing::error!(target: "plain", "qcow2_free_clusters failed: {e}");
}
