//! The layout of QED images (the public QED specification): a header cluster, a directory (the L1 table), tables (L2) and
//! clusters. Everything is little-endian.

use crate::fields::{le32, le64};

/// The first four bytes: `QED` and a zero.
pub const MAGIC: u32 = 0x0044_4551;
/// Length of the header, bytes.
pub const HEADER: usize = 64;
/// Feature: there is a backing file.
pub const BACKING: u64 = 1;
/// Feature: the image was not closed and must be checked before it is written.
pub const NEED_CHECK: u64 = 2;
/// Feature: the backing file is raw, whatever it looks like.
pub const RAW_BACKING: u64 = 4;
/// All features that there are.
pub const FEATURES: u64 = BACKING | NEED_CHECK | RAW_BACKING;
/// A table entry that means a cluster of zeroes.
pub const ZERO: u64 = 1;
/// The shortest and the longest cluster, bytes.
pub const CLUSTER: std::ops::RangeInclusive<u32> = 4096..=64 << 20;
/// The fewest and the most clusters of a table.
pub const TABLE: std::ops::RangeInclusive<u32> = 1..=16;
/// The longest name of a backing file, bytes.
pub const MAX_NAME: u32 = 1023;

/// The header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// Length of a cluster, bytes.
    pub cluster: u32,
    /// Length of a table, clusters.
    pub table: u32,
    /// Length of the header, clusters.
    pub header: u32,
    /// Features that one must know to use the image.
    pub features: u64,
    /// Features that one need not know.
    pub compatible: u64,
    /// Features to be cleared by those who do not know them.
    pub autoclear: u64,
    /// Where the directory is.
    pub directory: u64,
    /// Length of the disk, bytes.
    pub size: u64,
    /// Where the name of the backing file is.
    pub name_offset: u32,
    /// Its length, bytes.
    pub name_len: u32,
}

impl Header {
    /// Reads the fields; nothing is checked.
    pub fn parse(b: &[u8; HEADER]) -> Header {
        let (u32_at, u64_at) = (|at| le32(b, at).unwrap_or(0), |at| le64(b, at).unwrap_or(0));
        Header {
            magic: u32_at(0),
            cluster: u32_at(4),
            table: u32_at(8),
            header: u32_at(12),
            features: u64_at(16),
            compatible: u64_at(24),
            autoclear: u64_at(32),
            directory: u64_at(40),
            size: u64_at(48),
            name_offset: u32_at(56),
            name_len: u32_at(60),
        }
    }

    /// The header's bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
        put(0, &self.magic.to_le_bytes());
        put(4, &self.cluster.to_le_bytes());
        put(8, &self.table.to_le_bytes());
        put(12, &self.header.to_le_bytes());
        put(16, &self.features.to_le_bytes());
        put(24, &self.compatible.to_le_bytes());
        put(32, &self.autoclear.to_le_bytes());
        put(40, &self.directory.to_le_bytes());
        put(48, &self.size.to_le_bytes());
        put(56, &self.name_offset.to_le_bytes());
        put(60, &self.name_len.to_le_bytes());
        b
    }

    /// Entries of a table.
    pub fn entries(&self) -> u64 {
        u64::from(self.table) * u64::from(self.cluster) / 8
    }

    /// Length of a table, bytes.
    pub fn table_len(&self) -> u64 {
        u64::from(self.table) * u64::from(self.cluster)
    }

    /// The longest disk that the tables can describe, bytes.
    pub fn max_size(&self) -> u64 {
        max_size(self.cluster, self.table)
    }
}

/// The longest disk of images with such clusters and tables, bytes.
pub fn max_size(cluster: u32, table: u32) -> u64 {
    let entries = u64::from(table) * u64::from(cluster) / 8;
    entries.saturating_mul(entries).saturating_mul(u64::from(cluster))
}
