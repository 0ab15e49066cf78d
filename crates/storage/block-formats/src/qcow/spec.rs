//! The layout of qcow images, version 1 ("The QCOW Image Format"): a header, a directory of tables (level 1), tables
//! (level 2), clusters. Everything is big-endian.

use crate::fields::{be32, be64};

/// The first four bytes.
pub const MAGIC: u32 = 0x5146_49fb;
/// The version of this format.
pub const VERSION: u32 = 1;
/// Length of the header, bytes.
pub const HEADER: usize = 48;
/// An entry with this bit is a compressed cluster: its length stands above the offset.
pub const COMPRESSED: u64 = 1 << 63;
/// Data is encrypted with AES.
pub const CRYPT_AES: u32 = 1;
/// The longest name of a backing file, bytes.
pub const MAX_NAME: u32 = 1023;
/// The deflate window that readers provide, as a power of two.
pub const WINDOW_BITS: u8 = 12;

/// The header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// Version.
    pub version: u32,
    /// Where the name of the backing file is; 0 for none.
    pub backing_offset: u64,
    /// Its length, bytes.
    pub backing_len: u32,
    /// Length of the disk, bytes.
    pub size: u64,
    /// Length of a cluster, as a power of two.
    pub cluster_bits: u8,
    /// Entries of a table, as a power of two.
    pub table_bits: u8,
    /// How data is encrypted.
    pub crypt: u32,
    /// Where the directory is.
    pub directory: u64,
}

impl Header {
    /// Reads the fields; nothing is checked.
    pub fn parse(b: &[u8; HEADER]) -> Header {
        let (u32_at, u64_at) = (|at| be32(b, at).unwrap_or(0), |at| be64(b, at).unwrap_or(0));
        Header {
            magic: u32_at(0),
            version: u32_at(4),
            backing_offset: u64_at(8),
            backing_len: u32_at(16),
            size: u64_at(24),
            cluster_bits: b[32],
            table_bits: b[33],
            crypt: u32_at(36),
            directory: u64_at(40),
        }
    }

    /// The header's bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
        put(0, &self.magic.to_be_bytes());
        put(4, &self.version.to_be_bytes());
        put(8, &self.backing_offset.to_be_bytes());
        put(16, &self.backing_len.to_be_bytes());
        put(24, &self.size.to_be_bytes());
        put(32, &[self.cluster_bits, self.table_bits]);
        put(36, &self.crypt.to_be_bytes());
        put(40, &self.directory.to_be_bytes());
        b
    }
}
