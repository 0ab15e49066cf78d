//! The layout of VDI images (VirtualBox "Virtual Disk Image", version 1.1): a header of 512 bytes, a table of 32-bit
//! block numbers, and the blocks. Everything is little-endian.

use base::units::MIB;

/// The number at [`SIGNATURE_AT`].
pub const SIGNATURE: u32 = 0xbeda_107f;
/// Where the signature stands.
pub const SIGNATURE_AT: usize = 0x40;
/// Version 1.1.
pub const VERSION: u32 = 0x0001_0001;
/// The only length of a block, bytes.
pub const BLOCK: u64 = MIB;
/// Length of the header, bytes.
pub const HEADER: usize = 512;
/// The most blocks of an image: a table of them and a header fit 2 GiB.
pub const MAX_BLOCKS: u32 = 0x1fff_ff80;
/// The most bytes of a disk.
pub const MAX_DISK: u64 = MAX_BLOCKS as u64 * BLOCK;
/// Table entries from here on are blocks that are not in the file: this one was given back and reads as zeroes.
pub const DISCARDED: u32 = 0xffff_fffe;
/// A block that was never written.
pub const UNALLOCATED: u32 = 0xffff_ffff;
/// Image type: blocks are allocated when they are written.
pub const TYPE_DYNAMIC: u32 = 1;
/// Image type: all blocks are allocated.
pub const TYPE_STATIC: u32 = 2;
/// Where the number of allocated blocks stands.
pub const BLOCKS_ALLOCATED_AT: u64 = 0x184;
/// What stands at the beginning of an image.
pub const TEXT: &[u8] = b"<<< QEMU VM Virtual Disk Image >>>\n";

/// The parts of the header that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Signature.
    pub signature: u32,
    /// Version: major in the upper 16 bits.
    pub version: u32,
    /// Dynamic or static.
    pub image_type: u32,
    /// Offset of the table, bytes.
    pub map_offset: u32,
    /// Offset of the first block, bytes.
    pub data_offset: u32,
    /// Bytes of a sector.
    pub sector_size: u32,
    /// Length of the disk, bytes.
    pub disk_size: u64,
    /// Length of a block, bytes.
    pub block_size: u32,
    /// Blocks of the disk.
    pub blocks: u32,
    /// Blocks in the file.
    pub blocks_allocated: u32,
    /// The image's id.
    pub uuid: [u8; 16],
    /// The id of its last change.
    pub uuid_last_snap: [u8; 16],
    /// An image that this one is linked to; none if zero.
    pub uuid_link: [u8; 16],
    /// The parent; none if zero.
    pub uuid_parent: [u8; 16],
}

impl Header {
    /// Reads the fields; nothing is checked.
    pub fn parse(b: &[u8; HEADER]) -> Header {
        let u32_at = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let uuid_at = |at: usize| {
            let mut u = [0; 16];
            u.copy_from_slice(&b[at..at + 16]);
            u
        };
        Header {
            signature: u32_at(SIGNATURE_AT),
            version: u32_at(0x44),
            image_type: u32_at(0x4c),
            map_offset: u32_at(0x154),
            data_offset: u32_at(0x158),
            sector_size: u32_at(0x168),
            disk_size: u64::from(u32_at(0x170)) | u64::from(u32_at(0x174)) << 32,
            block_size: u32_at(0x178),
            blocks: u32_at(0x180),
            blocks_allocated: u32_at(0x184),
            uuid: uuid_at(0x188),
            uuid_last_snap: uuid_at(0x198),
            uuid_link: uuid_at(0x1a8),
            uuid_parent: uuid_at(0x1b8),
        }
    }

    /// The header's bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        b[..TEXT.len()].copy_from_slice(TEXT);
        let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
        put(SIGNATURE_AT, &self.signature.to_le_bytes());
        put(0x44, &self.version.to_le_bytes());
        // The length of the header from here on.
        put(0x48, &0x180u32.to_le_bytes());
        put(0x4c, &self.image_type.to_le_bytes());
        put(0x154, &self.map_offset.to_le_bytes());
        put(0x158, &self.data_offset.to_le_bytes());
        put(0x168, &self.sector_size.to_le_bytes());
        put(0x170, &self.disk_size.to_le_bytes());
        put(0x178, &self.block_size.to_le_bytes());
        put(0x180, &self.blocks.to_le_bytes());
        put(0x184, &self.blocks_allocated.to_le_bytes());
        put(0x188, &self.uuid);
        put(0x198, &self.uuid_last_snap);
        put(0x1a8, &self.uuid_link);
        put(0x1b8, &self.uuid_parent);
        b
    }
}
