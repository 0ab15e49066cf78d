//! The layout of VHD images (Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0). Everything is
//! big-endian.
//!
//! A fixed image is the disk's bytes and a footer. A dynamic image begins with a copy of the footer, then a header, a table of
//! blocks (in sectors), and the blocks, each with a bitmap of its sectors in front of it; the footer ends the file.

use crate::fields::{be32, be64};
use api::block_core::VpcSizeCalc;

/// The first bytes of a footer.
pub const COOKIE: &[u8; 8] = b"conectix";
/// The first bytes of the header of dynamic images.
pub const DYNAMIC_COOKIE: &[u8; 8] = b"cxsparse";
/// Length of the footer, bytes.
pub const FOOTER: usize = 512;
/// Length of the dynamic header, bytes.
pub const DYNAMIC: usize = 1024;
/// A table entry of a block that is not in the file.
pub const UNUSED: u32 = 0xffff_ffff;
/// Disk type: plain bytes.
pub const TYPE_FIXED: u32 = 2;
/// Disk type: a table of blocks.
pub const TYPE_DYNAMIC: u32 = 3;
/// The most cylinders, heads and sectors of a track.
pub const MAX_CHS: (u16, u8, u8) = (65535, 16, 255);
/// What they make.
pub const MAX_CHS_SECTORS: u64 = 65535 * 16 * 255;
/// The most sectors of a disk: 2040 GiB.
pub const MAX_SECTORS: u64 = 0xff00_0000;
/// The block length of new images.
pub const BLOCK: u32 = 2 << 20;
/// Times count from here: the first second of the year 2000, in seconds since 1970.
pub const EPOCH: u64 = 946_684_800;

/// The footer's fields that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The program that made the image.
    pub creator: [u8; 4],
    /// Where the dynamic header is.
    pub data_offset: u64,
    /// Length of the disk, bytes.
    pub current_size: u64,
    /// Cylinders, heads, sectors of a track.
    pub chs: (u16, u8, u8),
    /// [`TYPE_FIXED`], [`TYPE_DYNAMIC`], or another.
    pub disk_type: u32,
}

/// The dynamic header's fields that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dynamic {
    /// Where the table of blocks is.
    pub table_offset: u64,
    /// Its entries.
    pub entries: u32,
    /// Length of a block's data, bytes.
    pub block_size: u32,
}

/// The ones' complement of the sum of all bytes but those of the checksum itself, which stands at `at`.
pub fn checksum(b: &[u8], at: usize) -> u32 {
    let sum = |part: &[u8]| part.iter().fold(0u32, |s, b| s.wrapping_add(u32::from(*b)));
    !sum(&b[..at]).wrapping_add(sum(&b[at + 4..]))
}

/// Where a footer's checksum stands.
pub const FOOTER_SUM_AT: usize = 64;
/// Where the dynamic header's checksum stands.
pub const DYNAMIC_SUM_AT: usize = 36;

impl Footer {
    /// Reads the fields.
    pub fn parse(b: &[u8; FOOTER]) -> Footer {
        Footer {
            creator: [b[28], b[29], b[30], b[31]],
            data_offset: be64(b, 16).unwrap_or(0),
            current_size: be64(b, 48).unwrap_or(0),
            chs: (u16::from_be_bytes([b[56], b[57]]), b[58], b[59]),
            disk_type: be32(b, 60).unwrap_or(0),
        }
    }

    /// Length of the disk, sectors. Some programs go by the geometry, others by the size, if nobody says what counts.
    pub fn sectors(&self, by: Option<VpcSizeCalc>) -> u64 {
        let (c, h, s) = self.chs;
        let by_geometry = u64::from(c) * u64::from(h) * u64::from(s);
        let goes_by_geometry =
            by.map_or([*b"vpc ", *b"qemu"].contains(&self.creator), |by| by == VpcSizeCalc::Chs);
        if goes_by_geometry && by_geometry != MAX_CHS_SECTORS { by_geometry } else { self.current_size / 512 }
    }
}

impl Dynamic {
    /// Reads the fields.
    pub fn parse(b: &[u8; DYNAMIC]) -> Dynamic {
        Dynamic {
            table_offset: be64(b, 16).unwrap_or(0),
            entries: be32(b, 28).unwrap_or(0),
            block_size: be32(b, 32).unwrap_or(0),
        }
    }

    /// Length of the bitmap in front of a block, bytes: a bit for each sector, whole sectors.
    pub fn bitmap_size(&self) -> u64 {
        u64::from(self.block_size / 512).div_ceil(8).next_multiple_of(512)
    }
}

/// The geometry of a disk of so many sectors ("CHS Calculation" in the specification's appendix).
pub fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(MAX_CHS_SECTORS);
    let (heads, per_track, tracks);
    if total >= 65535 * 16 * 63 {
        (per_track, heads, tracks) = (255, 16, total / 255);
    } else {
        let at_17 = total / 17;
        let h = at_17.div_ceil(1024).max(4);
        if h <= 16 && at_17 < h * 1024 {
            (per_track, heads, tracks) = (17, h, at_17);
        } else if total / 31 < 16 * 1024 {
            (per_track, heads, tracks) = (31, 16, total / 31);
        } else {
            (per_track, heads, tracks) = (63, 16, total / 63);
        }
    }
    ((tracks / heads) as u16, heads as u8, per_track as u8)
}

/// The footer of a new image.
pub fn new_footer(
    dynamic: bool,
    size: u64,
    chs: (u16, u8, u8),
    creator: &[u8; 4],
    time: u32,
    uuid: [u8; 16],
) -> [u8; FOOTER] {
    let mut b = [0; FOOTER];
    let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
    put(0, COOKIE);
    put(8, &2u32.to_be_bytes());
    put(12, &0x0001_0000u32.to_be_bytes());
    put(16, &if dynamic { FOOTER as u64 } else { u64::MAX }.to_be_bytes());
    put(24, &time.to_be_bytes());
    put(28, creator);
    // The version of Virtual PC and the system that all tools claim to be.
    put(32, &[0, 5, 0, 3]);
    put(36, b"Wi2k");
    put(40, &size.to_be_bytes());
    put(48, &size.to_be_bytes());
    put(56, &chs.0.to_be_bytes());
    put(58, &[chs.1, chs.2]);
    put(60, &if dynamic { TYPE_DYNAMIC } else { TYPE_FIXED }.to_be_bytes());
    put(68, &uuid);
    let sum = checksum(&b, FOOTER_SUM_AT);
    b[FOOTER_SUM_AT..FOOTER_SUM_AT + 4].copy_from_slice(&sum.to_be_bytes());
    b
}

/// The dynamic header of a new image.
pub fn new_dynamic(table_offset: u64, entries: u32) -> [u8; DYNAMIC] {
    let mut b = [0; DYNAMIC];
    let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
    put(0, DYNAMIC_COOKIE);
    put(8, &u64::MAX.to_be_bytes());
    put(16, &table_offset.to_be_bytes());
    put(24, &0x0001_0000u32.to_be_bytes());
    put(28, &entries.to_be_bytes());
    put(32, &BLOCK.to_be_bytes());
    let sum = checksum(&b, DYNAMIC_SUM_AT);
    b[DYNAMIC_SUM_AT..DYNAMIC_SUM_AT + 4].copy_from_slice(&sum.to_be_bytes());
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_specification() {
        assert_eq!(geometry(10_268), (151, 4, 17));
        assert_eq!(geometry(0), (0, 4, 17));
        assert_eq!(geometry(68), (1, 4, 17));
        // A GiB, 10 GiB, 100 GiB.
        assert_eq!(geometry(1 << 21), (2080, 16, 63));
        assert_eq!(geometry(10 << 21), (20_805, 16, 63));
        assert_eq!(geometry(100 << 21), (51_400, 16, 255));
        assert_eq!(geometry(u64::MAX), MAX_CHS);
    }
}
