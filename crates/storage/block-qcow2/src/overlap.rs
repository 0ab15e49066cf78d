//! The places in an image file that no write of data may touch.

use std::collections::HashSet;
use std::ops::Range;

use crate::header::Header;
use crate::opts::Config;
use crate::snapshot::Snapshot;

/// What a protected place holds; the names are those of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The header's cluster.
    Header,
    /// The active L1 table.
    ActiveL1,
    /// An active L2 table.
    ActiveL2,
    /// The refcount table.
    RefcountTable,
    /// A refcount block.
    RefcountBlock,
    /// The snapshot table.
    SnapshotTable,
    /// A snapshot's L1 table.
    InactiveL1,
    /// An L2 table of a snapshot.
    InactiveL2,
    /// The bitmap directory.
    BitmapDirectory,
    /// The LUKS header and its key slots.
    CryptoHeader,
}

impl Section {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Section::Header => "qcow2_header",
            Section::ActiveL1 => "active L1 table",
            Section::ActiveL2 => "active L2 table",
            Section::RefcountTable => "refcount table",
            Section::RefcountBlock => "refcount block",
            Section::SnapshotTable => "snapshot table",
            Section::InactiveL1 => "inactive L1 table",
            Section::InactiveL2 => "inactive L2 table",
            Section::BitmapDirectory => "bitmap directory",
            Section::CryptoHeader => "encryption header",
        }
    }
}

/// Everything that tells where metadata stands, apart from the L2 tables (the map knows those). Changed with the
/// metadata lock held; looked at by anybody.
#[derive(Debug, Default)]
pub struct Places {
    /// Single tables.
    pub protected: Protected,
    /// Clusters that hold refcount blocks.
    pub refblocks: HashSet<u64>,
}

/// Protected places that are few and contiguous; L2 tables and refcount blocks are looked up in the sets that their
/// owners keep.
#[derive(Clone, Debug, Default)]
pub struct Protected {
    sections: Vec<(Section, Range<u64>)>,
}

impl Protected {
    /// The places of an image, as far as `config` wants them protected. `snapshot_bytes` is the table's length.
    pub fn new(h: &Header, snapshots: &[Snapshot], snapshot_bytes: u64, config: &Config) -> Protected {
        let g = h.geometry;
        let clusters = |off: u64, len: u64| {
            let first = off >> g.cluster_bits;
            first..first + g.clusters(g.in_cluster(off) + len)
        };
        let o = &config.overlap;
        let mut p = Protected::default();
        let mut add = |on: bool, s: Section, off: u64, len: u64| {
            if on && len > 0 {
                p.sections.push((s, clusters(off, len)));
            }
        };
        add(o.main_header, Section::Header, 0, 1);
        add(o.active_l1, Section::ActiveL1, h.l1_offset, u64::from(h.l1_size) * 8);
        add(
            o.refcount_table,
            Section::RefcountTable,
            h.reftable_offset,
            u64::from(h.reftable_clusters) << g.cluster_bits,
        );
        add(o.snapshot_table, Section::SnapshotTable, h.snapshot_offset, snapshot_bytes);
        for s in snapshots {
            let sane = s.l1_problem(g.cluster_size()).is_none();
            add(o.inactive_l1 && sane, Section::InactiveL1, s.l1_offset, u64::from(s.l1_size) * 8);
        }
        if let Some(b) = &h.bitmaps {
            add(
                o.bitmap_directory && h.autoclear & 1 != 0,
                Section::BitmapDirectory,
                b.directory_offset,
                b.directory_size,
            );
        }
        // Nothing could be read any more without it.
        if let Some(c) = h.crypto().filter(|c| c.offset.checked_add(c.length).is_some()) {
            add(o.main_header, Section::CryptoHeader, c.offset, c.length);
        }
        p
    }

    /// What stands in one of these clusters, if anything other than `own`.
    pub fn hit(&self, clusters: &Range<u64>, own: Option<Section>) -> Option<Section> {
        let touched = |r: &Range<u64>| r.start < clusters.end && clusters.start < r.end;
        self.sections.iter().find(|(s, r)| Some(*s) != own && touched(r)).map(|(s, _)| *s)
    }

    /// A table has moved.
    pub fn moved(&mut self, section: Section, to: Range<u64>) {
        if let Some(e) = self.sections.iter_mut().find(|(s, _)| *s == section) {
            e.1 = to;
        }
    }
}
