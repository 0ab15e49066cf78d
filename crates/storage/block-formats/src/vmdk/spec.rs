//! The layout of VMDK images (VMware, "Virtual Disk Format 5.0"). Everything binary is little-endian and counts
//! sectors of 512 bytes.
//!
//! A text, the descriptor, lists the files (extents) that hold the disk. A sparse extent begins with a header; a grain
//! directory leads to grain tables, which lead to grains. In a stream-optimized extent each grain is compressed and has its
//! address and length in front of it.

use crate::fields::{le32, le64};

/// The first bytes of a sparse extent.
pub const MAGIC: &[u8; 4] = b"KDMV";
/// The first bytes of a sparse extent of ESX servers (`COWDisk_Header`).
pub const MAGIC_COW: &[u8; 4] = b"COWD";
/// Entries of a grain table there.
pub const GRAIN_TABLE_COW: u32 = 4096;
/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Length of a sparse extent's header, bytes.
pub const HEADER: usize = 512;
/// Flag: a second grain directory, with tables of its own, repeats the first.
pub const REDUNDANT: u32 = 1 << 1;
/// Flag: a table entry of 1 is a grain of zeroes.
pub const ZEROED_GRAIN: u32 = 1 << 2;
/// Flag: grains are compressed.
pub const COMPRESSED: u32 = 1 << 16;
/// Flag: what is in the file has markers in front.
pub const MARKERS: u32 = 1 << 17;
/// Grain directory offset: it is in the footer.
pub const GD_AT_END: u64 = u64::MAX;
/// Entries of a grain table.
pub const GRAIN_TABLE: u32 = 512;
/// Sectors of a grain in new images.
pub const GRAIN: u64 = 128;
/// Table entry: the grain is all zeroes (with [`ZEROED_GRAIN`]).
pub const ZERO_ENTRY: u32 = 1;
/// The type of the marker in front of a footer.
pub const MARKER_FOOTER: u32 = 3;
/// The type of the marker that ends the file.
pub const MARKER_END: u32 = 0;
/// Sectors of the descriptor in new sparse extents.
pub const DESCRIPTOR: u64 = 20;
/// The longest descriptor that is read, bytes.
pub const MAX_DESCRIPTOR: u64 = 1 << 20;
/// The most files of an image.
pub const MAX_EXTENTS: usize = 4096;
/// The most grain tables of an extent.
pub const MAX_TABLES: u64 = 32 << 20;
/// The longest grain, sectors.
pub const MAX_GRAIN: u64 = 0x20_0000;
/// The longest compressed or zeroed grain that is held in memory, bytes.
pub const MAX_PACKED_GRAIN: u64 = 16 << 20;

/// The header of a sparse extent (`SparseExtentHeader`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Version.
    pub version: u32,
    /// Flags.
    pub flags: u32,
    /// Length of the extent's part of the disk, sectors.
    pub capacity: u64,
    /// Length of a grain, sectors.
    pub grain: u64,
    /// Where the descriptor is; 0 for none.
    pub descriptor_offset: u64,
    /// Its room, sectors.
    pub descriptor_size: u64,
    /// Entries of a grain table.
    pub table_entries: u32,
    /// Where the redundant grain directory is.
    pub redundant_directory: u64,
    /// Where the grain directory is.
    pub directory: u64,
    /// Where grains begin.
    pub overhead: u64,
    /// How grains are compressed: 1 is deflate.
    pub compression: u16,
    /// Grain tables are made when they are needed.
    pub grows_tables: bool,
}

impl Header {
    /// Reads the fields; `None` if it is none.
    pub fn parse(b: &[u8]) -> Option<Header> {
        if b.starts_with(MAGIC_COW) {
            return Some(Header {
                version: le32(b, 4)?,
                capacity: u64::from(le32(b, 12)?),
                grain: u64::from(le32(b, 16)?),
                directory: u64::from(le32(b, 20)?),
                table_entries: GRAIN_TABLE_COW,
                grows_tables: true,
                ..Header::default()
            });
        }
        if !b.starts_with(MAGIC) {
            return None;
        }
        Some(Header {
            version: le32(b, 4)?,
            flags: le32(b, 8)?,
            capacity: le64(b, 12)?,
            grain: le64(b, 20)?,
            descriptor_offset: le64(b, 28)?,
            descriptor_size: le64(b, 36)?,
            table_entries: le32(b, 44)?,
            redundant_directory: le64(b, 48)?,
            directory: le64(b, 56)?,
            overhead: le64(b, 64)?,
            compression: u16::from_le_bytes(*b.get(77..)?.first_chunk()?),
            grows_tables: false,
        })
    }

    /// Whether grains are compressed.
    pub fn compressed(&self) -> bool {
        self.compression == 1
    }

    /// The header's bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
        put(0, MAGIC);
        put(4, &self.version.to_le_bytes());
        put(8, &self.flags.to_le_bytes());
        put(12, &self.capacity.to_le_bytes());
        put(20, &self.grain.to_le_bytes());
        put(28, &self.descriptor_offset.to_le_bytes());
        put(36, &self.descriptor_size.to_le_bytes());
        put(44, &self.table_entries.to_le_bytes());
        put(48, &self.redundant_directory.to_le_bytes());
        put(56, &self.directory.to_le_bytes());
        put(64, &self.overhead.to_le_bytes());
        // Ends of lines, to find out whether something has converted them.
        put(73, b"\n \r\n");
        put(77, &self.compression.to_le_bytes());
        b
    }
}
