//! The layout of Parallels images ("Parallels Expandable Image File Format"): a header, a table of clusters (the BAT), the
//! clusters. Everything is little-endian.

use crate::fields::{le32, le64};

/// The first bytes; table entries count sectors.
pub const MAGIC: &[u8; 16] = b"WithoutFreeSpace";
/// The first bytes of newer images; table entries count clusters.
pub const MAGIC_EXT: &[u8; 16] = b"WithouFreSpacExt";
/// The only version.
pub const VERSION: u32 = 2;
/// Length of the header, bytes; the table follows.
pub const HEADER: usize = 64;
/// Where the mark of an image that is in use stands.
pub const IN_USE_AT: u64 = 44;
/// The mark.
pub const IN_USE: u32 = 0x746f_6e59;
/// Where the first data sector stands.
pub const DATA_OFF_AT: u64 = 48;
/// The cluster length of new images, bytes.
pub const CLUSTER: u64 = 1 << 20;

/// The header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Table entries count clusters.
    pub ext: bool,
    /// Version.
    pub version: u32,
    /// Heads of the disk.
    pub heads: u32,
    /// Cylinders of the disk.
    pub cylinders: u32,
    /// Sectors of a cluster.
    pub tracks: u32,
    /// Entries of the table.
    pub entries: u32,
    /// Sectors of the disk.
    pub sectors: u64,
    /// [`IN_USE`], or 0.
    pub in_use: u32,
    /// The sector where clusters begin; 0: behind the table.
    pub data_off: u32,
    /// Flags.
    pub flags: u32,
    /// The sector of the format extension; 0 for none.
    pub ext_off: u64,
}

impl Header {
    /// Reads the fields; `None` where it is none.
    pub fn parse(b: &[u8; HEADER]) -> Option<Header> {
        if !b.starts_with(MAGIC) && !b.starts_with(MAGIC_EXT) {
            return None;
        }
        let header = Header {
            ext: b.starts_with(MAGIC_EXT),
            version: le32(b, 16)?,
            heads: le32(b, 20)?,
            cylinders: le32(b, 24)?,
            tracks: le32(b, 28)?,
            entries: le32(b, 32)?,
            sectors: le64(b, 36)?,
            in_use: le32(b, 44)?,
            data_off: le32(b, 48)?,
            flags: le32(b, 52)?,
            ext_off: le64(b, 56)?,
        };
        Some(header).filter(|h| h.version == VERSION)
    }

    /// The header's bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
        put(0, if self.ext { MAGIC_EXT } else { MAGIC });
        put(16, &self.version.to_le_bytes());
        put(20, &self.heads.to_le_bytes());
        put(24, &self.cylinders.to_le_bytes());
        put(28, &self.tracks.to_le_bytes());
        put(32, &self.entries.to_le_bytes());
        put(36, &self.sectors.to_le_bytes());
        put(44, &self.in_use.to_le_bytes());
        put(48, &self.data_off.to_le_bytes());
        put(52, &self.flags.to_le_bytes());
        put(56, &self.ext_off.to_le_bytes());
        b
    }
}
