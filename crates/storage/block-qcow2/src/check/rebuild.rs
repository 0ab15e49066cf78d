//! New refcount structures from counted references, behind everything else in the file.

use std::collections::BTreeSet;

use base::Errno;
use qapi::QError;

use super::{Checker, io};
use crate::geometry::Geometry;
use crate::header::SECTOR;
use crate::host::{Host, read_vec, write_bytes};
use crate::spec::{self, field};

impl<H: Host> Checker<'_, H> {
    /// Writes refcount blocks that say what was counted, and the table of them behind them, then points the header to them. The old ones
    /// stay as they are until then, and are leaks afterwards. `order`: log2 of the width that refcounts have from then on.
    pub(super) async fn rebuild_refcounts(&mut self, order: u32) -> Result<(), QError> {
        let g = Geometry { refcount_order: order, ..self.header.geometry };
        let start = g.clusters(self.file_len).max(self.refs.end());
        let mut indexes = BTreeSet::new();
        let mut at = self.refs.next(0);
        while let Some(c) = at {
            let block = c >> g.refblock_bits();
            indexes.insert(block);
            at = self.refs.next((block + 1) << g.refblock_bits());
        }
        // The new structures count themselves too.
        let table_clusters = loop {
            let highest = indexes.last().copied().unwrap_or(0);
            let table_clusters = g.clusters((highest + 1) * 8);
            let end = start + table_clusters + indexes.len() as u64;
            let before = indexes.len();
            indexes.extend(start >> g.refblock_bits()..=(end - 1) >> g.refblock_bits());
            if indexes.len() == before {
                break table_clusters;
            }
        };
        if table_clusters << g.cluster_bits > spec::MAX_REFTABLE_BYTES {
            return Err(io(Errno::FBIG));
        }
        let own = start..start + table_clusters + indexes.len() as u64;
        let mut table = vec![0u64; (table_clusters << (g.cluster_bits - 3)) as usize];
        for (i, index) in indexes.iter().enumerate() {
            let mut bytes = vec![0u8; g.cluster_size() as usize];
            let first = index << g.refblock_bits();
            for pos in 0..g.refblock_entries() {
                let c = first + pos;
                let n = if own.contains(&c) { 1 } else { u64::from(self.refs.get(c)) };
                if n > g.refcount_max() {
                    self.say(format!("ERROR cluster {c} has more references than refcounts can say: {n}"));
                    return Err(io(Errno::RANGE));
                }
                g.refcount_set(&mut bytes, pos as usize, n);
            }
            let off = (start + i as u64) << g.cluster_bits;
            write_bytes(self.host, off, &bytes).await.map_err(io)?;
            table[*index as usize] = off;
        }
        let table_off = (start + indexes.len() as u64) << g.cluster_bits;
        write_bytes(self.host, table_off, &spec::table_to_bytes(&table)).await.map_err(io)?;
        self.host.flush().await.map_err(io)?;
        // Place, length and width stand in one sector: they change together.
        let mut first = read_vec(self.host, 0, SECTOR).await.map_err(io)?;
        let mut put = |at: usize, bytes: &[u8]| first[at..at + bytes.len()].copy_from_slice(bytes);
        put(field::REFTABLE_OFFSET, &table_off.to_be_bytes());
        put(field::REFTABLE_CLUSTERS, &(table_clusters as u32).to_be_bytes());
        if order != self.header.geometry.refcount_order {
            put(field::REFCOUNT_ORDER, &order.to_be_bytes());
        }
        write_bytes(self.host, 0, &first).await.map_err(io)?;
        self.host.flush().await.map_err(io)
    }
}
