//! The layout of Bochs' growing disks ("redolog", versions 1 and 2; the Bochs user manual, "Disk Image Modes"):
//! a header, a catalog of extents, and extents with a bitmap of their sectors each. Everything is little-endian.

use crate::fields::{le32, le64};

/// Length of the header that is read, bytes.
pub const HEADER: usize = 512;
/// A catalog entry of an extent that is not in the file.
pub const UNUSED: u32 = 0xffff_ffff;

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length, bytes; the catalog follows.
    pub header: u32,
    /// Entries of the catalog.
    pub catalog: u32,
    /// Length of a bitmap, bytes.
    pub bitmap: u32,
    /// Length of an extent, bytes.
    pub extent: u32,
    /// Length of the disk, bytes.
    pub disk: u64,
}

impl Header {
    /// Reads the fields; `None` where it is none.
    pub fn parse(b: &[u8]) -> Option<Header> {
        let text = |at: usize, want: &[u8]| b.get(at..).is_some_and(|b| b.starts_with(want));
        let known = text(0, b"Bochs Virtual HD Image\0") && text(32, b"Redolog\0") && text(48, b"Growing\0");
        let disk = match le32(b, 64)? {
            0x0002_0000 => le64(b, 88)?,
            0x0001_0000 => le64(b, 84)?,
            _ => return None,
        };
        let header = Header {
            header: le32(b, 68)?,
            catalog: le32(b, 72)?,
            bitmap: le32(b, 76)?,
            extent: le32(b, 80)?,
            disk,
        };
        known.then_some(header).filter(|h| h.disk <= block::MAX_OFFSET)
    }

    /// Where extents begin.
    pub fn data(&self) -> u64 {
        u64::from(self.header) + 4 * u64::from(self.catalog)
    }

    /// Sectors of a bitmap.
    pub fn bitmap_sectors(&self) -> u64 {
        u64::from(self.bitmap).div_ceil(512)
    }
}
