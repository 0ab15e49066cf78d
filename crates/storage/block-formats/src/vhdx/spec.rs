//! The layout of VHDX images (Microsoft, [MS-VHDX], "Virtual Hard Disk v2 (VHDX) File Format"). Everything is
//! little-endian.
//!
//! Two headers (the valid one with the higher number counts), two copies of a table of regions, a log of changes of
//! metadata, the BAT (the table of blocks), and a region of metadata items.

use crate::fields::{crc32c, le32, le64};
use base::units::{KIB, MIB};

/// The first bytes of the file.
pub const SIGNATURE: &[u8; 8] = b"vhdxfile";
/// Where the two headers are (section 2.2).
pub const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
/// Length of a header, bytes.
pub const HEADER: usize = 4096;
/// Where the two copies of the region table are.
pub const REGION_TABLES: [u64; 2] = [192 * KIB, 256 * KIB];
/// Length of a region table, bytes.
pub const REGION_TABLE: usize = 64 << 10;
/// The most entries of a region or metadata table.
pub const MAX_ENTRIES: u32 = 2047;
/// The region that is the BAT.
pub const BAT_REGION: [u8; 16] =
    guid(0x2dc2_7766, 0xf623, 0x4200, [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
/// The region with metadata items.
pub const METADATA_REGION: [u8; 16] =
    guid(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);
/// Length of the metadata table, bytes; items are behind it.
pub const METADATA_TABLE: usize = 64 << 10;
/// Item: block length and flags (section 2.6.2.1).
pub const FILE_PARAMETERS: [u8; 16] =
    guid(0xcaa1_6737, 0xfa36, 0x4d43, [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
/// Item: length of the disk.
pub const DISK_SIZE: [u8; 16] =
    guid(0x2fa5_4224, 0xcd1b, 0x4876, [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
/// Item: the disk's id.
pub const DISK_ID: [u8; 16] =
    guid(0xbeca_12ab, 0xb2e6, 0x4523, [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46]);
/// Item: bytes of a logical sector.
pub const LOGICAL_SECTOR: [u8; 16] =
    guid(0x8141_bf1d, 0xa96f, 0x4709, [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f]);
/// Item: bytes of a physical sector.
pub const PHYSICAL_SECTOR: [u8; 16] =
    guid(0xcda3_48c7, 0x445d, 0x4471, [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56]);
/// Item: where the parent is.
pub const PARENT_LOCATOR: [u8; 16] =
    guid(0xa8d3_5f2d, 0xb30b, 0x454d, [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c]);
/// Flag of [`FILE_PARAMETERS`]: all blocks stay allocated.
pub const LEAVE_ALLOCATED: u32 = 1;
/// Flag of [`FILE_PARAMETERS`]: the image stands on another.
pub const HAS_PARENT: u32 = 2;
/// The shortest and the longest block, bytes.
pub const BLOCK: std::ops::RangeInclusive<u64> = MIB..=256 * MIB;
/// The longest disk, bytes.
pub const MAX_DISK: u64 = 64 << 40;
/// Block states (section 2.5.1.1): zeroes.
pub const ZERO: u64 = 2;
/// The block is in the file.
pub const PRESENT: u64 = 6;
/// A part of the block is in the file; only in images with a parent.
pub const PARTIAL: u64 = 7;
/// The bits of an entry that are the state.
pub const STATE: u64 = 7;
/// The bits of an entry that are the offset.
pub const OFFSET: u64 = !(MIB - 1);

/// A GUID as it stands in a file.
pub const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// The checksum of a structure whose own field for it is at offset 4.
pub fn checksum(b: &[u8]) -> u32 {
    match b.get(8..) {
        Some(rest) => crc32c(&[&b[..4], &[0; 4], rest]),
        None => 0,
    }
}

/// Puts the checksum where it belongs.
pub fn seal(b: &mut [u8]) {
    let sum = checksum(b);
    if let Some(field) = b.get_mut(4..8) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}

fn guid_at(b: &[u8], at: usize) -> Option<[u8; 16]> {
    b.get(at..)?.first_chunk().copied()
}

/// A header (section 2.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Which of two is newer.
    pub sequence: u64,
    /// Changes when the file is opened for writing.
    pub file_write: [u8; 16],
    /// Changes when the disk is written.
    pub data_write: [u8; 16],
    /// The log's id; zero when there is nothing in it.
    pub log: [u8; 16],
    /// Length of the log, bytes.
    pub log_length: u32,
    /// Where the log is.
    pub log_offset: u64,
}

impl Header {
    /// Reads a header; `None` if it is none or its checksum is wrong.
    pub fn parse(b: &[u8; HEADER]) -> Option<Header> {
        let sound = b.starts_with(b"head") && le32(b, 4)? == checksum(b);
        let version = u16::from_le_bytes(*b.get(66..)?.first_chunk()?);
        if !sound || version != 1 {
            return None;
        }
        Some(Header {
            sequence: le64(b, 8)?,
            file_write: guid_at(b, 16)?,
            data_write: guid_at(b, 32)?,
            log: guid_at(b, 48)?,
            log_length: le32(b, 68)?,
            log_offset: le64(b, 72)?,
        })
    }

    /// The header's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut b = vec![0; HEADER];
        let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
        put(0, b"head");
        put(8, &self.sequence.to_le_bytes());
        put(16, &self.file_write);
        put(32, &self.data_write);
        put(48, &self.log);
        put(66, &1u16.to_le_bytes());
        put(68, &self.log_length.to_le_bytes());
        put(72, &self.log_offset.to_le_bytes());
        seal(&mut b);
        b
    }
}

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its kind.
    pub id: [u8; 16],
    /// Where it is.
    pub offset: u64,
    /// Its length, bytes.
    pub length: u32,
    /// Who does not know it must not open the image.
    pub required: bool,
}

/// Reads a region table (section 2.2.3); `None` if it is none or its checksum is wrong.
pub fn regions(b: &[u8]) -> Option<Vec<Region>> {
    let count = le32(b, 8)?;
    if !b.starts_with(b"regi") || le32(b, 4)? != checksum(b) || count > MAX_ENTRIES {
        return None;
    }
    let entry = |i: usize| {
        let at = 16 + 32 * i;
        Some(Region {
            id: guid_at(b, at)?,
            offset: le64(b, at + 16)?,
            length: le32(b, at + 24)?,
            required: le32(b, at + 28)? & 1 != 0,
        })
    };
    (0..count as usize).map(entry).collect()
}

/// The bytes of a region table.
pub fn region_table(all: &[Region]) -> Vec<u8> {
    let mut b = vec![0; REGION_TABLE];
    b[..4].copy_from_slice(b"regi");
    b[8..12].copy_from_slice(&(all.len() as u32).to_le_bytes());
    for (i, r) in all.iter().enumerate() {
        let e = &mut b[16 + 32 * i..48 + 32 * i];
        e[..16].copy_from_slice(&r.id);
        e[16..24].copy_from_slice(&r.offset.to_le_bytes());
        e[24..28].copy_from_slice(&r.length.to_le_bytes());
        e[28..32].copy_from_slice(&u32::from(r.required).to_le_bytes());
    }
    seal(&mut b);
    b
}

/// Bytes of the disk that one block of sector bitmaps is for: there is an entry for it behind those of the blocks
/// (section 2.5).
pub const fn chunk_ratio(sector: u64, block: u64) -> u64 {
    (1 << 23) * sector / block
}
