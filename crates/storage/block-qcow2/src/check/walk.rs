//! Counting references by walking every table of the image.

use base::{Errno, IoResult};
use block::driver::Prealloc;
use mem::IoBuf;
use qapi::QError;

use super::{Checker, Fix, io};
use crate::geometry::{Entry, Mapping, SUBCLUSTERS};
use crate::host::{Host, read_vec};
use crate::spec;

impl<H: Host> Checker<'_, H> {
    /// Counts every byte range that something refers to. To repair all, the file is made as long as its refcount blocks say.
    pub(super) async fn count_all(&mut self, fix: Fix) -> Result<(), QError> {
        let h = self.header.clone();
        let g = h.geometry;
        self.count(0, g.cluster_size());
        self.count_l1(h.l1_offset, h.l1_size, true).await?;
        let snapshots = self.image.shown.read().snapshots.clone();
        for s in &snapshots {
            if let Some((problem, _)) = s.l1_problem(g.cluster_size()) {
                let what = match problem.ends_with("large") && g.in_cluster(s.l1_offset) == 0 {
                    true => format!("l1_size={:#x}: L1 table is too large", s.l1_size),
                    false => format!("l1_offset={:#x}: L1 table is not cluster aligned", s.l1_offset),
                };
                let who = format!("snapshot {} ({})", s.id, s.name);
                self.corruption(format!("ERROR {who} {what}; snapshot table entry corrupted"));
                continue;
            }
            self.count_l1(s.l1_offset, s.l1_size, false).await?;
        }
        if h.snapshot_count > 0 {
            let bytes = crate::snapshot::load(self.host, &h, self.file_len, true).await?.bytes;
            self.count(h.snapshot_offset, bytes);
        }
        if let Some(c) = h.crypto() {
            self.count(c.offset, c.length);
        }
        self.count_bitmaps().await?;
        self.count(h.reftable_offset, u64::from(h.reftable_clusters) << g.cluster_bits);
        self.count_refblocks(fix).await;
        Ok(())
    }

    /// [`Checker::count_all`] without a word, for counting again.
    pub(super) async fn quiet_count(&mut self) -> Result<(), QError> {
        let mut nothing = |_: &str| {};
        let mut quiet = Checker::new(self.host, &mut nothing).await?;
        quiet.count_all(Fix::None).await?;
        self.refs = quiet.refs;
        Ok(())
    }

    /// Counts the clusters of a range; one that reaches beyond the file by a cluster or more is damage.
    fn count(&mut self, off: u64, len: u64) {
        let g = self.header.geometry;
        if len == 0 {
            return;
        }
        let last = off.checked_add(len - 1);
        let limit = g.clusters(self.file_len);
        match last {
            Some(last) if last >> g.cluster_bits < limit.max(1) => {
                for c in off >> g.cluster_bits..=last >> g.cluster_bits {
                    if u64::from(self.refs.get(c)) >= self.most {
                        self.overflow(c << g.cluster_bits);
                        continue;
                    }
                    self.refs.add(c);
                }
            }
            _ => self.corruption(format!(
                "ERROR: counting reference for region exceeding the end of the file by one cluster or more: \
                 offset {off:#x} size {len:#x}"
            )),
        }
    }

    /// There are more references to a cluster than a refcount can tell.
    fn overflow(&mut self, off: u64) {
        self.corruption(format!("ERROR: overflow cluster offset={off:#x}"));
        self.say(
            "Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if the \
             image cannot be opened for writing"
                .to_owned(),
        );
    }

    async fn count_l1(&mut self, off: u64, size: u32, active: bool) -> Result<(), QError> {
        let g = self.header.geometry;
        if size == 0 {
            return Ok(());
        }
        self.count(off, u64::from(size) * 8);
        let inside = (u64::from(size) * 8).min(self.file_len.saturating_sub(off));
        let l1 = match read_vec(self.host, off, inside as usize).await {
            Ok(b) => spec::table_from_bytes(&b),
            Err(e) => {
                self.say(format!("ERROR: I/O error in check_refcounts_l1: {e}"));
                self.report.check_errors += 1;
                return Err(io(e));
            }
        };
        let buf = IoBuf::zeroed(g.cluster_size() as usize);
        let mut bytes = vec![0; buf.len()];
        for entry in l1 {
            let table = entry & spec::OFFSET_MASK;
            if table == 0 {
                continue;
            }
            if entry & spec::L1_RESERVED & 0x1ff != 0 || entry & spec::L1_RESERVED >> 9 << 9 != 0 {
                self.corruption(format!("ERROR found L1 entry with reserved bits set: {entry:x}"));
            }
            self.count(table, g.cluster_size());
            if active {
                self.refs.said(table >> g.cluster_bits, entry & spec::COPIED != 0);
            }
            if g.in_cluster(table) != 0 {
                self.corruption(format!(
                    "ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted"
                ));
            }
            if table >= self.file_len {
                continue;
            }
            match self.host.read(table, buf.clone()).await {
                Ok(()) => {
                    buf.copy_to(0, &mut bytes);
                    let mut next = None;
                    let word = |b: &[u8]| b.first_chunk().map_or(0, |w| u64::from_be_bytes(*w));
                    for (i, e) in bytes.chunks_exact(8 * g.entry_words() as usize).enumerate() {
                        let entry = Entry { word: word(e), bits: word(&e[8..]) };
                        self.count_l2_entry(i, entry, active, &mut next);
                    }
                }
                Err(_) => {
                    self.say("ERROR: I/O error in check_refcounts_l2".into());
                    self.report.check_errors += 1;
                }
            }
        }
        Ok(())
    }

    fn count_l2_entry(&mut self, index: usize, entry: Entry, active: bool, next: &mut Option<u64>) {
        let g = self.header.geometry;
        let mapping = g.mapping(entry);
        let e = entry.word;
        let compressed = matches!(mapping, Mapping::Compressed(..));
        if !compressed && e & spec::L2_RESERVED != 0 {
            self.corruption(format!("ERROR found l2 entry with reserved bits set: {e:x}"));
        }
        if entry.bits != 0 && compressed {
            self.corruption(format!(
                "ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, entry=0x{e:x}"
            ));
            return;
        }
        match mapping {
            Mapping::Normal(off) | Mapping::ZeroAlloc(off)
                if (0..SUBCLUSTERS).any(|n| entry.subcluster(n).is_none()) =>
            {
                self.corruption(format!(
                    "ERROR offset={off:x}: Allocated cluster has corrupted subcluster allocation bitmap"
                ));
            }
            Mapping::Normal(_) | Mapping::ZeroAlloc(_) => {}
            _ if entry.bits & crate::geometry::ALL_HERE != 0 => self
                .corruption("ERROR: Unallocated cluster has non-zero subcluster allocation map".to_owned()),
            _ => {}
        }
        match mapping {
            Mapping::Compressed(off, len) => {
                if e & spec::COPIED != 0 {
                    self.corruption(format!(
                        "ERROR: coffset=0x{off:x}: copied flag must never be set for compressed clusters"
                    ));
                }
                self.count(off, len);
                if active {
                    self.report.allocated_clusters += 1;
                    self.report.compressed_clusters += 1;
                    self.report.fragmented_clusters += 1;
                }
            }
            Mapping::Normal(off) | Mapping::ZeroAlloc(off) => {
                if active {
                    self.report.allocated_clusters += 1;
                    if next.is_some_and(|n| n != off) {
                        self.report.fragmented_clusters += 1;
                    }
                    *next = off.checked_add(g.cluster_size());
                }
                if !g.data_file {
                    self.count(off, g.cluster_size());
                    if active {
                        self.refs.said(off >> g.cluster_bits, e & spec::COPIED != 0);
                    }
                }
                if g.in_cluster(off) != 0 {
                    let what = if matches!(mapping, Mapping::Normal(_)) {
                        "Data cluster"
                    } else {
                        "Preallocated cluster"
                    };
                    self.corruption(format!(
                        "ERROR offset={off:x}: {what} is not properly aligned; L2 entry corrupted."
                    ));
                }
            }
            Mapping::Unallocated | Mapping::ZeroPlain => {}
        }
    }

    /// Bitmaps hold references only while the image says that they are valid.
    async fn count_bitmaps(&mut self) -> Result<(), QError> {
        let bitmaps = self.image.shown.read().bitmaps.clone();
        if bitmaps.is_empty() {
            return Ok(());
        }
        let g = self.header.geometry;
        if let Some(x) = self.header.bitmaps {
            self.count(x.directory_offset, x.directory_size);
        }
        for b in bitmaps {
            if b.table_offset == 0 {
                continue;
            }
            let bytes = u64::from(b.table_size) * 8;
            self.count(b.table_offset, bytes);
            let inside = bytes.min(self.file_len.saturating_sub(b.table_offset));
            let table = match read_vec(self.host, b.table_offset, inside as usize).await {
                Ok(t) => spec::table_from_bytes(&t),
                Err(e) => {
                    self.report.check_errors += 1;
                    return Err(io(e));
                }
            };
            for e in table {
                if e & spec::OFFSET_MASK != 0 {
                    self.count(e & spec::OFFSET_MASK, g.cluster_size());
                }
            }
        }
        Ok(())
    }

    async fn count_refblocks(&mut self, fix: Fix) {
        let g = self.header.geometry;
        let table = self.image.meta.lock().await.reftable.clone();
        let mut bad = Vec::new();
        for (i, entry) in table.into_iter().enumerate() {
            let off = entry & !spec::REFTABLE_RESERVED;
            if entry & spec::REFTABLE_RESERVED != 0 {
                self.corruption(format!("ERROR refcount table entry {i} has reserved bits set"));
                self.structure += 1;
                // Read through the damage, but not trusted to be referred to.
                if g.in_cluster(off) != 0 || off >> g.cluster_bits >= g.clusters(self.file_len) {
                    bad.push(i);
                }
                continue;
            }
            if off == 0 {
                continue;
            }
            if g.in_cluster(off) != 0 {
                self.corruption(format!(
                    "ERROR refcount block {i} is not cluster aligned; refcount table entry corrupted"
                ));
                self.structure += 1;
                bad.push(i);
                continue;
            }
            let cluster = off >> g.cluster_bits;
            if cluster >= g.clusters(self.file_len) {
                let what = if fix == Fix::All { "Repairing" } else { "ERROR" };
                self.corruption(format!("{what} refcount block {i} is outside image"));
                if fix == Fix::All {
                    match self.grow_to(off).await {
                        Ok(()) => {
                            self.report.corruptions -= 1;
                            self.report.corruptions_fixed += 1;
                            self.refs.add(cluster);
                            continue;
                        }
                        Err(e) => self.say(format!("ERROR could not resize image: {e}")),
                    }
                }
                self.outside += 1;
                bad.push(i);
                continue;
            }
            let n = self.refs.add(cluster);
            if n != 1 {
                self.corruption(format!("ERROR refcount block {i} refcount={n}"));
                self.structure += 1;
            }
        }
        // What cannot be a block counts as none, here in memory.
        let mut m = self.image.meta.lock().await;
        for i in bad {
            m.reftable[i] = 0;
        }
    }

    /// Makes the file long enough for the cluster at `off`.
    async fn grow_to(&mut self, off: u64) -> IoResult<()> {
        let end = off.checked_add(self.header.geometry.cluster_size()).filter(|end| *end <= i64::MAX as u64);
        self.host.truncate(end.ok_or(Errno::INVAL)?, Prealloc::Off).await?;
        self.file_len = self.host.file_len()?;
        Ok(())
    }
}
