//! Comparing counted references with the refcounts on disk, and correcting the latter.

use std::collections::BTreeSet;

use base::IoResult;
use qapi::QError;

use super::{Checker, io};
use crate::geometry::{Entry, Mapping};
use crate::host::{Host, read_vec, write_bytes};
use crate::spec;

/// The differences.
#[derive(Clone, Debug, Default)]
pub(super) struct Compared {
    pub leaks: u64,
    pub corruptions: u64,
    pub errors: u64,
    /// One past the highest cluster in use.
    pub end: u64,
    /// A cluster in use counts as free: only new refcount structures can be trusted not to stand on data.
    pub rebuild: bool,
    /// (cluster, refcount on disk, references); only while they are to be fixed.
    pub different: Vec<(u64, u64, u64)>,
}

/// Differences that are kept for fixing in one go; a check of a badly damaged image goes on without them, and a
/// second repair does the rest.
const MAX_KEPT: usize = 1 << 20;

impl<H: Host> Checker<'_, H> {
    /// Compares all clusters of the file; `say`: tells of each difference.
    pub(super) async fn compare(&mut self, say: bool) -> Result<Compared, QError> {
        let g = self.header.geometry;
        let mut out = Compared::default();
        let clusters = g.clusters(self.file_len).max(self.refs.end());
        // Only blocks that exist and places that are referred to need a look: a sparse file may be huge.
        let mut blocks: BTreeSet<u64> = {
            let m = self.image.meta.lock().await;
            (0..m.reftable.len()).filter(|i| m.reftable[*i] != 0).map(|i| i as u64).collect()
        };
        let mut at = self.refs.next(0);
        while let Some(c) = at {
            let block = c >> g.refblock_bits();
            blocks.insert(block);
            at = self.refs.next((block + 1) << g.refblock_bits());
        }
        let mut counts = Vec::new();
        for block in blocks {
            let first = block << g.refblock_bits();
            let loaded = self.disk_refcounts(block, &mut counts).await;
            for c in first..(first + g.refblock_entries()).min(clusters) {
                let have = match loaded {
                    Ok(()) => counts[(c - first) as usize],
                    Err(e) => {
                        self.say(format!("Can't get refcount for cluster {c}: {e}"));
                        out.errors += 1;
                        continue;
                    }
                };
                let want = u64::from(self.refs.get(c));
                if have > 0 || want > 0 {
                    out.end = out.end.max(c + 1);
                }
                if have == want {
                    continue;
                }
                let leak = have > want;
                if leak {
                    out.leaks += 1;
                } else {
                    out.corruptions += 1;
                    out.rebuild |= have == 0;
                }
                if say {
                    let what = if leak { "Leaked" } else { "ERROR" };
                    self.say(format!("{what} cluster {c} refcount={have} reference={want}"));
                }
                if out.different.len() < MAX_KEPT {
                    out.different.push((c, have, want));
                }
            }
        }
        Ok(out)
    }

    /// The refcounts in a block, or zeroes where there is none.
    async fn disk_refcounts(&mut self, block: u64, counts: &mut Vec<u64>) -> IoResult<()> {
        let g = self.header.geometry;
        counts.clear();
        let mut m = self.image.meta.lock().await;
        let bytes = self.image.block(self.host, &mut m, block).await?.and_then(|off| m.blocks.get(&off));
        let entries = g.refblock_entries() as usize;
        match bytes.map(|b| &b.bytes) {
            None => counts.resize(entries, 0),
            // The usual width.
            Some(b) if g.refcount_bits() == 16 => {
                counts.extend(b.chunks_exact(2).map(|n| u64::from(u16::from_be_bytes([n[0], n[1]]))));
            }
            Some(b) => counts.extend((0..entries).map(|i| g.refcount_get(b, i))),
        }
        Ok(())
    }

    /// Sets refcounts to what was counted: too high ones, and too low ones too where `all`.
    pub(super) async fn fix_refcounts(&mut self, found: &Compared, all: bool) -> Result<(), QError> {
        let max = self.header.geometry.refcount_max();
        for (c, have, want) in &found.different {
            if have < want && !all {
                self.say(format!("ERROR cluster {c} refcount={have} reference={want}"));
                continue;
            }
            self.say(format!("Repairing cluster {c} refcount={have} reference={want}"));
            let mut m = self.image.meta.lock().await;
            self.image.set_refcount(self.host, &mut m, *c, (*want).min(max)).await.map_err(io)?;
        }
        // Only refcounts change, and only to what the tables say: any order of writes is safe.
        self.image.corrupt.store(false, std::sync::atomic::Ordering::Release);
        let mut m = self.image.meta.lock().await;
        self.image.write_refcounts(self.host, &mut m).await.map_err(io)?;
        self.host.flush().await.map_err(io)
    }

    /// Compares the "refcount is one" flags of the active tables with the refcounts; sets them right where `fix`.
    pub(super) async fn check_copied(&mut self, fix: bool) -> Result<(), QError> {
        let g = self.header.geometry;
        let l1 = self.image.map.read().l1.clone();
        let mut fixed = 0;
        let verb = if fix { "Repairing" } else { "ERROR" };
        for (i, entry) in l1.into_iter().enumerate() {
            let table = entry & spec::OFFSET_MASK;
            if table == 0 || g.in_cluster(table) != 0 {
                continue;
            }
            let Some(n) = self.disk_refcount(table >> g.cluster_bits).await else { continue };
            if (n == 1) != (entry & spec::COPIED != 0) {
                self.corruption(format!(
                    "{verb} OFLAG_COPIED L2 cluster: l1_index={i} l1_entry={entry:x} refcount={n}"
                ));
                if fix {
                    let right = with_copied(entry, n == 1);
                    let at = self.header.l1_offset + i as u64 * 8;
                    write_bytes(self.host, at, &right.to_be_bytes()).await.map_err(io)?;
                    fixed += 1;
                }
            }
            if table >= self.file_len || g.data_file {
                continue;
            }
            let Ok(bytes) = read_vec(self.host, table, g.cluster_size() as usize).await else {
                self.report.check_errors += 1;
                continue;
            };
            let mut l2 = spec::table_from_bytes(&bytes);
            let mut changed = false;
            for e in l2.chunks_exact_mut(g.entry_words() as usize) {
                let entry = Entry { word: e[0], bits: e.get(1).copied().unwrap_or(0) };
                let (Mapping::Normal(off) | Mapping::ZeroAlloc(off)) = g.mapping(entry) else { continue };
                let e = &mut e[0];
                let Some(n) = self.disk_refcount(off >> g.cluster_bits).await else { continue };
                if (n == 1) != (*e & spec::COPIED != 0) {
                    self.corruption(format!("{verb} OFLAG_COPIED data cluster: l2_entry={e:x} refcount={n}"));
                    if fix {
                        *e = with_copied(*e, n == 1);
                        changed = true;
                        fixed += 1;
                    }
                }
            }
            if changed {
                write_bytes(self.host, table, &spec::table_to_bytes(&l2)).await.map_err(io)?;
            }
        }
        if fixed > 0 {
            self.host.flush().await.map_err(io)?;
            self.report.corruptions -= fixed;
            self.report.corruptions_fixed += fixed;
        }
        Ok(())
    }

    async fn disk_refcount(&mut self, cluster: u64) -> Option<u64> {
        let mut m = self.image.meta.lock().await;
        let n = self.image.refcount(self.host, &mut m, cluster).await;
        drop(m);
        n.map_err(|_| self.report.check_errors += 1).ok()
    }
}

fn with_copied(entry: u64, on: bool) -> u64 {
    if on { entry | spec::COPIED } else { entry & !spec::COPIED }
}
