//! Making, deleting and applying internal snapshots.
//!
//! All of it happens while no request is in flight, on an image whose metadata is all in the file. Meanwhile the dirty bit
//! is set (version 3): reference counts and the "count is one" flags change in several steps, and a crash between them
//! makes the next opening set them right. What decides is one write to the header: before it the old state is whole,
//! after it the new one.

use std::sync::atomic::Ordering;

use base::Errno;
use qapi::{QError, qerr};

use crate::geometry::{Entry, Mapping};
use crate::host::{Host, read_vec, write_bytes};
use crate::image::{Image, Meta};
use crate::l2map::L2Map;
use crate::snapshot::Snapshot;
use crate::spec::{self, field, incompat};

fn io(what: &'static str) -> impl Fn(Errno) -> QError {
    move |e| qerr!("Could not {what}: {e}")
}

/// What could not be done, as it is told of the deletion of a snapshot.
fn failed(what: &'static str) -> impl Fn(Errno) -> QError {
    move |e| qerr!("Failed to {what}: {e}")
}

/// The error alone: who asked says what for.
fn plain(e: Errno) -> QError {
    qerr!("{e}")
}

/// The snapshot with this id and this name, as far as they are given.
pub fn find<'a>(list: &'a [Snapshot], id: Option<&str>, name: Option<&str>) -> Option<&'a Snapshot> {
    list.iter().find(|s| id.is_none_or(|id| s.id == id) && name.is_none_or(|n| s.name == n))
}

/// What changes in the header at once.
struct Active {
    size: u64,
    l1_size: u32,
    l1_offset: u64,
}

impl Image {
    async fn begin<H: Host>(&self, h: &H) -> Result<(), QError> {
        let fail = io("prepare the image");
        self.modify(h).await.map_err(&fail)?;
        self.make_clean(h).await.map_err(&fail)?;
        let mut m = self.meta.lock().await;
        self.begin_modify(h, &mut m).await.map_err(&fail)?;
        if self.version >= 3 && !m.header.has(incompat::DIRTY) {
            let bits = m.header.incompatible | incompat::DIRTY;
            self.put_incompatible(h, &mut m, bits).await.map_err(&fail)?;
            self.barrier(h).await.map_err(&fail)?;
        }
        Ok(())
    }

    async fn end<H: Host>(&self, h: &H) -> Result<(), QError> {
        self.make_clean(h).await.map_err(|e| {
            // Neither the file nor what is in memory is the truth: the dirty bit has the next opening repair it.
            self.stop();
            io("write back the image's metadata")(e)
        })
    }

    /// Takes a snapshot of the disk as it is now. The id is chosen: one more than the highest number.
    pub async fn snapshot_create<H: Host>(&self, h: &H, new: Snapshot) -> Result<Snapshot, QError> {
        let mut list = self.shown.read().snapshots.clone();
        if self.geo.data_file {
            return Err(qerr!("Operation not supported"));
        }
        if list.len() >= spec::MAX_SNAPSHOTS as usize {
            return Err(plain(Errno::FBIG));
        }
        let g = self.geo;
        // Nothing can be referred to twice.
        let single = g.refcount_max() < 2 && self.map.read().l1.iter().any(|e| e & spec::OFFSET_MASK != 0);
        self.begin(h).await?;
        let done = async {
            let mut m = self.meta.lock().await;
            // The table first: where references cannot be counted, it is left as a leak, which is what users of the
            // reference know of a snapshot that failed.
            let l1 = self.map.read().l1.clone();
            let l1_offset = self.write_l1_copy(h, &mut m, &l1).await.map_err(plain)?;
            if single {
                return Err(plain(Errno::INVAL));
            }
            // First the flags, then the counts: what is left half-way by a crash is leaked, and never looks like a
            // cluster of its own that others share.
            self.set_flags(h, &mut m, true).await.map_err(plain)?;
            let l1 = self.map.read().l1.clone();
            if let Err(e) = self.add_references(h, &mut m, &l1).await {
                // Flags that stay as they are would be wrong, but harmless: the first error is the one that counts.
                let _ = self.set_flags(h, &mut m, false).await;
                return Err(plain(if e == Errno::RANGE { Errno::INVAL } else { e }));
            }
            let highest = list.iter().filter_map(|s| s.id.parse::<u64>().ok()).max().unwrap_or(0);
            let s = Snapshot {
                id: highest.saturating_add(1).to_string(),
                disk_size: Some(self.virtual_size()),
                l1_size: l1.len() as u32,
                l1_offset,
                ..new
            };
            list.push(s.clone());
            self.put_snapshots(h, &mut m, &list).await.map_err(plain)?;
            Ok(s)
        }
        .await;
        self.end(h).await?;
        done
    }

    /// Deletes a snapshot.
    pub async fn snapshot_delete<H: Host>(&self, h: &H, id: &str) -> Result<Snapshot, QError> {
        let mut list = self.shown.read().snapshots.clone();
        let at = list.iter().position(|s| s.id == id).ok_or_else(|| qerr!("Can't find the snapshot"))?;
        let s = list.remove(at);
        let l1 = self.snapshot_l1(h, &s).await?;
        self.begin(h).await?;
        let done = async {
            let mut m = self.meta.lock().await;
            self.put_snapshots(h, &mut m, &list)
                .await
                .map_err(failed("remove snapshot from snapshot list"))?;
            self.drop_table(h, &mut m, &l1, s.l1_offset)
                .await
                .map_err(failed("free the cluster and L1 table"))?;
            self.set_flags(h, &mut m, false).await.map_err(failed("update snapshot status in disk"))
        }
        .await;
        let ended = self.end(h).await;
        done?;
        ended.map(|()| s)
    }

    /// Makes the disk what it was when the snapshot was taken.
    pub async fn snapshot_apply<H: Host>(&self, h: &H, id: &str) -> Result<(), QError> {
        let list = self.shown.read().snapshots.clone();
        let s = find(&list, Some(id), None).ok_or_else(|| qerr!("Can't find the snapshot"))?.clone();
        let size = s.disk_size.unwrap_or_else(|| self.virtual_size());
        let failed = |e| failed("load snapshot")(e);
        let mut l1 = self.told_snapshot_l1(h, &s).await.map_err(failed)?;
        let entries = self.geo.l1_entries_for(size);
        if entries * 8 > spec::MAX_L1_BYTES {
            tracing::error!(target: "report", "Snapshot L1 table too large");
            return Err(failed(Errno::FBIG));
        }
        l1.resize(l1.len().max(entries as usize), 0);
        self.begin(h).await?;
        let done = async {
            let mut m = self.meta.lock().await;
            self.add_references(h, &mut m, &l1).await.map_err(failed)?;
            let l1_offset = self.write_l1_copy(h, &mut m, &l1).await.map_err(failed)?;
            let old = self.map.read().l1.clone();
            let old_offset = m.header.l1_offset;
            let now = Active { size, l1_size: l1.len() as u32, l1_offset };
            self.put_active(h, &mut m, &now, &l1).await.map_err(failed)?;
            self.drop_table(h, &mut m, &old, old_offset).await.map_err(failed)?;
            self.set_flags(h, &mut m, false).await.map_err(failed)
        }
        .await;
        self.end(h).await?;
        done
    }

    /// Shows what a snapshot shows, from now on. The image is only read.
    pub async fn snapshot_show<H: Host>(&self, h: &H, id: &str) -> Result<(), QError> {
        let list = self.shown.read().snapshots.clone();
        let s = find(&list, Some(id), None).ok_or_else(|| qerr!("Can't find snapshot"))?;
        let size = s.disk_size.unwrap_or_else(|| self.virtual_size());
        let mut l1 = self.snapshot_l1(h, s).await?;
        let entries = self.geo.l1_entries_for(size);
        if entries * 8 > spec::MAX_L1_BYTES {
            return Err(qerr!("Snapshot L1 table too large"));
        }
        l1.resize(l1.len().max(entries as usize), 0);
        let config = *self.config.read();
        *self.map.write() =
            L2Map::new(self.geo, self.version, l1, config.l2_entry_size, config.l2_cache_size);
        *self.decompressed.lock() = None;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    /// A snapshot's L1 table, whose entries say nothing about counts.
    pub(crate) async fn snapshot_l1<H: Host>(&self, h: &H, s: &Snapshot) -> Result<Vec<u64>, QError> {
        if let Some((problem, _)) = s.l1_problem(self.geo.cluster_size()) {
            return Err(qerr!("{problem}"));
        }
        let bytes =
            read_vec(h, s.l1_offset, s.l1_size as usize * 8).await.map_err(io("read the L1 table"))?;
        Ok(spec::table_from_bytes(&bytes).into_iter().map(|e| e & spec::OFFSET_MASK).collect())
    }

    /// [`Image::snapshot_l1`] for those who only pass on that it failed: why is told.
    pub(crate) async fn told_snapshot_l1<H: Host>(&self, h: &H, s: &Snapshot) -> Result<Vec<u64>, Errno> {
        if let Some((problem, e)) = s.l1_problem(self.geo.cluster_size()) {
            tracing::error!(target: "report", "{problem}");
            return Err(e);
        }
        let bytes = read_vec(h, s.l1_offset, s.l1_size as usize * 8).await?;
        Ok(spec::table_from_bytes(&bytes).into_iter().map(|e| e & spec::OFFSET_MASK).collect())
    }

    pub(crate) async fn read_entries<H: Host>(&self, h: &H, entry: u64) -> Result<Vec<Entry>, Errno> {
        Ok(self.geo.entries(&self.read_table(h, entry).await?).collect())
    }

    async fn read_table<H: Host>(&self, h: &H, entry: u64) -> Result<Vec<u64>, Errno> {
        let off = entry & spec::OFFSET_MASK;
        if self.geo.in_cluster(off) != 0 {
            return Err(self.damaged(h, &format!("L2 table offset {off:#x} unaligned")).await);
        }
        Ok(spec::table_from_bytes(&read_vec(h, off, self.geo.cluster_size() as usize).await?))
    }

    /// The clusters that an L2 entry refers to: the first, and how many.
    fn clusters_of(&self, entry: Entry) -> (u64, u64) {
        let bits = self.geo.cluster_bits;
        match self.geo.mapping(entry) {
            Mapping::Normal(o) | Mapping::ZeroAlloc(o) => (o >> bits, 1),
            Mapping::Compressed(o, n) => (o >> bits, ((o + n - 1) >> bits) - (o >> bits) + 1),
            Mapping::Unallocated | Mapping::ZeroPlain => (0, 0),
        }
    }

    /// One more reference to everything that a table leads to; all or nothing. Stable when it ends.
    async fn add_references<H: Host>(&self, h: &H, m: &mut Meta, l1: &[u64]) -> Result<(), Errno> {
        let mut done = 0;
        let result = self.add_some(h, m, l1, &mut done).await;
        if let Err(e) = result {
            // A failure here leaks clusters, which the repair at the next opening notices.
            let _ = self.undo_some(h, m, l1, done).await;
            return Err(e);
        }
        self.write_refcounts(h, m).await?;
        self.barrier(h).await
    }

    async fn add_some<H: Host>(&self, h: &H, m: &mut Meta, l1: &[u64], done: &mut u64) -> Result<(), Errno> {
        for l1_entry in l1.iter().filter(|e| **e & spec::OFFSET_MASK != 0) {
            for e in self.read_entries(h, *l1_entry).await? {
                let (first, n) = self.clusters_of(e);
                for c in first..first + n {
                    self.add_reference(h, m, c).await?;
                    *done += 1;
                }
            }
            self.add_reference(h, m, (l1_entry & spec::OFFSET_MASK) >> self.geo.cluster_bits).await?;
            *done += 1;
        }
        Ok(())
    }

    async fn undo_some<H: Host>(&self, h: &H, m: &mut Meta, l1: &[u64], mut left: u64) -> Result<(), Errno> {
        for l1_entry in l1.iter().filter(|e| **e & spec::OFFSET_MASK != 0) {
            let mut all = Vec::new();
            for e in self.read_entries(h, *l1_entry).await? {
                let (first, n) = self.clusters_of(e);
                all.extend(first..first + n);
            }
            all.push((l1_entry & spec::OFFSET_MASK) >> self.geo.cluster_bits);
            for c in all {
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                self.drop_reference(h, m, c).await?;
            }
        }
        Ok(())
    }

    async fn add_reference<H: Host>(&self, h: &H, m: &mut Meta, cluster: u64) -> Result<(), Errno> {
        let n = self.refcount(h, m, cluster).await?;
        if n == 0 {
            let (index, _) = self.geo.refcount_position(cluster);
            if self.block(h, m, index).await?.is_none() {
                // So far nothing was ever counted: it is an entry that is damaged, not a count.
                return Err(if index >= spec::MAX_REFTABLE_BYTES / 8 { Errno::FBIG } else { Errno::AGAIN });
            }
            let text = format!("Cluster {cluster:#x} is in use but has no reference");
            return Err(self.damaged(h, &text).await);
        }
        if n >= self.geo.refcount_max() {
            return Err(Errno::RANGE);
        }
        self.set_refcount(h, m, cluster, n + 1).await
    }

    /// Drops the references of a table that nothing leads to any more, and the table itself. Stable when it ends.
    async fn drop_table<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        l1: &[u64],
        l1_offset: u64,
    ) -> Result<(), Errno> {
        let g = self.geo;
        let discard = self.config.read().discard_snapshot;
        for l1_entry in l1.iter().filter(|e| **e & spec::OFFSET_MASK != 0) {
            for e in self.read_entries(h, *l1_entry).await? {
                let (first, n) = self.clusters_of(e);
                if n > 0 {
                    self.release(m, first, n, discard);
                }
            }
            self.release(m, (l1_entry & spec::OFFSET_MASK) >> g.cluster_bits, 1, discard);
        }
        if !l1.is_empty() && l1_offset != 0 {
            self.release(m, l1_offset >> g.cluster_bits, g.clusters(l1.len() as u64 * 8), discard);
        }
        self.write_back(h, m).await?;
        self.write_refcounts(h, m).await?;
        self.barrier(h).await
    }

    /// Writes an L1 table to a fresh place, without the flags for counts; stable when it ends.
    async fn write_l1_copy<H: Host>(&self, h: &H, m: &mut Meta, l1: &[u64]) -> Result<u64, Errno> {
        if l1.is_empty() {
            return Ok(0);
        }
        let g = self.geo;
        let clusters = g.clusters(l1.len() as u64 * 8);
        let first = self.alloc(h, m, clusters).await?;
        let plain: Vec<u64> = l1.iter().map(|e| e & spec::OFFSET_MASK).collect();
        let bytes = spec::table_to_bytes(&plain);
        self.unflushed.store(true, Ordering::Release);
        if let Err(e) = write_bytes(h, first << g.cluster_bits, &bytes).await {
            self.unalloc(h, m, first, clusters).await;
            return Err(e);
        }
        self.unflushed.store(true, Ordering::Release);
        self.write_refcounts(h, m).await?;
        self.barrier(h).await?;
        Ok(first << g.cluster_bits)
    }

    /// Writes the table of snapshots to a fresh place and has the header lead to it.
    pub(crate) async fn put_snapshots<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        list: &[Snapshot],
    ) -> Result<(), Errno> {
        let g = self.geo;
        let bytes: Vec<u8> = list.iter().flat_map(Snapshot::encode).collect();
        if bytes.len() as u64 > spec::MAX_SNAPSHOT_BYTES {
            return Err(Errno::FBIG);
        }
        let clusters = g.clusters(bytes.len() as u64);
        let mut off = 0;
        if clusters > 0 {
            let first = self.alloc(h, m, clusters).await?;
            off = first << g.cluster_bits;
            self.unflushed.store(true, Ordering::Release);
            if let Err(e) = write_bytes(h, off, &bytes).await {
                self.unalloc(h, m, first, clusters).await;
                return Err(e);
            }
        }
        self.unflushed.store(true, Ordering::Release);
        self.write_refcounts(h, m).await?;
        self.barrier(h).await?;
        // Count and place are neighbours in one sector: they change together.
        let mut fields = (list.len() as u32).to_be_bytes().to_vec();
        fields.extend_from_slice(&off.to_be_bytes());
        write_bytes(h, field::SNAPSHOT_COUNT as u64, &fields).await?;
        let old: u64 = self.shown.read().snapshots.iter().map(|s| s.on_disk).sum();
        let old_off = m.header.snapshot_offset;
        m.header.snapshot_count = list.len() as u32;
        m.header.snapshot_offset = off;
        self.header_changed(m);
        let kept = list.iter().map(|s| Snapshot { on_disk: s.encode().len() as u64, ..s.clone() }).collect();
        self.shown.write().snapshots = kept;
        self.moved(m);
        self.barrier(h).await?;
        if old > 0 {
            self.release(m, old_off >> g.cluster_bits, g.clusters(old), false);
            // The new table is in force, so nothing fails any more: the old one's clusters are leaked at worst, which was told.
            _ = self.write_back(h, m).await;
        }
        Ok(())
    }

    /// Has the header lead to another active L1 table and size, at once.
    async fn put_active<H: Host>(&self, h: &H, m: &mut Meta, to: &Active, l1: &[u64]) -> Result<(), Errno> {
        let mut b = to.size.to_be_bytes().to_vec();
        // How data is encrypted stands in between.
        b.extend_from_slice(&m.header.crypt.number().to_be_bytes());
        b.extend_from_slice(&to.l1_size.to_be_bytes());
        b.extend_from_slice(&to.l1_offset.to_be_bytes());
        write_bytes(h, field::SIZE as u64, &b).await?;
        m.header.size = to.size;
        m.header.l1_size = to.l1_size;
        m.header.l1_offset = to.l1_offset;
        self.header_changed(m);
        self.moved(m);
        self.size.store(to.size, Ordering::Release);
        let old = self.map.read().tables.clone();
        {
            let mut map = self.map.write();
            for t in old {
                map.forget_table(t << self.geo.cluster_bits);
            }
            map.l1 = l1.iter().map(|e| e & spec::OFFSET_MASK).collect();
            map.tables = map.l1.iter().filter(|e| **e != 0).map(|e| e >> self.geo.cluster_bits).collect();
            map.l1_dirty.clear();
        }
        self.barrier(h).await
    }

    /// Sets the "count is one" flags of the active tables right, in the file and in memory; stable when it ends. `shared`:
    /// everything is about to be counted twice.
    async fn set_flags<H: Host>(&self, h: &H, m: &mut Meta, shared: bool) -> Result<(), Errno> {
        let g = self.geo;
        let l1 = self.map.read().l1.clone();
        for (i, entry) in l1.into_iter().enumerate() {
            let table = entry & spec::OFFSET_MASK;
            if table == 0 {
                continue;
            }
            let mut l2 = self.read_table(h, entry).await?;
            let mut changed = false;
            for e in l2.chunks_exact_mut(g.entry_words() as usize) {
                let entry = Entry { word: e[0], bits: e.get(1).copied().unwrap_or(0) };
                let (Mapping::Normal(o) | Mapping::ZeroAlloc(o)) = g.mapping(entry) else { continue };
                let one = !shared && self.refcount(h, m, o >> g.cluster_bits).await? == 1;
                let right = if one { e[0] | spec::COPIED } else { e[0] & !spec::COPIED };
                changed |= right != e[0];
                e[0] = right;
            }
            if changed {
                write_bytes(h, table, &spec::table_to_bytes(&l2)).await?;
                self.unflushed.store(true, Ordering::Release);
            }
            self.map.write().forget_table(table);
            let one = !shared && self.refcount(h, m, table >> g.cluster_bits).await? == 1;
            let right = if one { entry | spec::COPIED } else { entry & !spec::COPIED };
            if right != entry {
                write_bytes(h, m.header.l1_offset + i as u64 * 8, &right.to_be_bytes()).await?;
                self.unflushed.store(true, Ordering::Release);
                self.map.write().l1[i] = right;
            }
        }
        self.barrier(h).await
    }
}
