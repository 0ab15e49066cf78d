//! Names and numbers of the qcow2 file format, as its public specification gives them.
//!
//! All integers on disk are big-endian. Offsets are bytes from the start of the image file.

/// `QFI\xfb`, the first four bytes of an image.
pub const MAGIC: u32 = 0x5146_49fb;

/// Length of a version 2 header, and the part that both versions share.
pub const V2_HEADER_LENGTH: usize = 72;
/// Length of the smallest version 3 header.
pub const V3_HEADER_LENGTH: usize = 104;
/// Length of the header that Rhea writes: with the compression type, padded to 8 bytes.
pub const HEADER_LENGTH: usize = 112;

/// Byte offsets of the header's fields.
pub mod field {
    /// `backing_file_offset` (u64).
    pub const BACKING_OFFSET: usize = 8;
    /// `backing_file_size` (u32).
    pub const BACKING_SIZE: usize = 16;
    /// `cluster_bits` (u32).
    pub const CLUSTER_BITS: usize = 20;
    /// `size`, the virtual size in bytes (u64).
    pub const SIZE: usize = 24;
    /// `crypt_method` (u32).
    pub const CRYPT_METHOD: usize = 32;
    /// `l1_size`, in entries (u32).
    pub const L1_SIZE: usize = 36;
    /// `l1_table_offset` (u64).
    pub const L1_OFFSET: usize = 40;
    /// `refcount_table_offset` (u64).
    pub const REFTABLE_OFFSET: usize = 48;
    /// `refcount_table_clusters` (u32).
    pub const REFTABLE_CLUSTERS: usize = 56;
    /// `nb_snapshots` (u32).
    pub const SNAPSHOT_COUNT: usize = 60;
    /// `snapshots_offset` (u64).
    pub const SNAPSHOT_OFFSET: usize = 64;
    /// `incompatible_features` (u64, version 3).
    pub const INCOMPATIBLE: usize = 72;
    /// `compatible_features` (u64, version 3).
    pub const COMPATIBLE: usize = 80;
    /// `autoclear_features` (u64, version 3).
    pub const AUTOCLEAR: usize = 88;
    /// `refcount_order` (u32, version 3).
    pub const REFCOUNT_ORDER: usize = 96;
    /// `header_length` (u32, version 3).
    pub const LENGTH: usize = 100;
    /// `compression_type` (u8, version 3, where the header is longer than 104 bytes).
    pub const COMPRESSION: usize = 104;
}

/// Incompatible feature bits.
pub mod incompat {
    /// Refcounts may be out of date.
    pub const DIRTY: u64 = 1 << 0;
    /// Metadata may be damaged; read-only until it is repaired.
    pub const CORRUPT: u64 = 1 << 1;
    /// Guest data stands in another file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// The compression type is not zlib.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries have a subcluster bitmap.
    pub const EXTENDED_L2: u64 = 1 << 4;
}

/// Compatible feature bits.
pub mod compat {
    /// Refcount updates may be postponed.
    pub const LAZY_REFCOUNTS: u64 = 1 << 0;
}

/// Autoclear feature bits: a program that does not know one clears it when it modifies the image.
pub mod autoclear {
    /// The bitmaps extension is consistent with the guest data.
    pub const BITMAPS: u64 = 1 << 0;
    /// The external data file reads like the guest's disk.
    pub const RAW_DATA_FILE: u64 = 1 << 1;
    /// Rhea's own: what is stored of the bitmaps that [`super::ext::KEPT_BITMAPS`] counts misses nothing, though they are
    /// marked as in use. Whoever modifies the image without keeping it so clears the bit, as all unknown ones.
    pub const KEPT_BITMAPS: u64 = 1 << 62;
    /// The bits that Rhea keeps up to date.
    pub const KNOWN: u64 = BITMAPS | RAW_DATA_FILE | KEPT_BITMAPS;
    /// Those of them that concern bitmaps.
    pub const ALL_BITMAPS: u64 = BITMAPS | KEPT_BITMAPS;
}

/// Bitmap directory entries.
pub mod bitmap {
    /// Flag: it was not stored properly.
    pub const IN_USE: u32 = 1 << 0;
    /// Flag: it records as soon as the image is opened.
    pub const AUTO: u32 = 1 << 1;
    /// Flag: extra data that is not understood does not matter.
    pub const EXTRA_COMPATIBLE: u32 = 1 << 2;
    /// The only type: tracks writes.
    pub const DIRTY_TRACKING: u8 = 1;
}

/// Header extension types.
pub mod ext {
    /// End of the extension area.
    pub const END: u32 = 0;
    /// Name of the backing file's format.
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    /// Names of feature bits.
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    /// Where the bitmap directory stands.
    pub const BITMAPS: u32 = 0x2385_2875;
    /// Rhea's own, directly behind [`BITMAPS`]: a version (u32, 1), how many bitmaps from the directory's first on are
    /// kept as [`super::autoclear::KEPT_BITMAPS`] says (u32), 8 bytes of zeros.
    pub const KEPT_BITMAPS: u32 = 0x5268_6561;
    /// Rhea's own: fills a sector, so that what must change at once stands in one.
    pub const PADDING: u32 = 0x5268_7064;
    /// LUKS header pointer.
    pub const CRYPTO: u32 = 0x0537_be77;
    /// Name of the external data file.
    pub const DATA_FILE: u32 = 0x4441_5441;
}

/// One entry of the feature name table: kind, bit, 46 bytes of name.
pub const FEATURE_ENTRY: usize = 48;

/// The feature names that Rhea writes into new images: (kind, bit, name); kind 0 is incompatible, 1 compatible,
/// 2 autoclear.
pub const FEATURE_NAMES: &[(u8, u8, &str)] = &[
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The file offset in an L1, L2 or refcount table entry (bits 9 to 55).
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// "The refcount is exactly one": L1 and L2 entries.
pub const COPIED: u64 = 1 << 63;
/// The L2 entry describes a compressed cluster.
pub const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros (version 3).
pub const ZERO: u64 = 1;
/// Bits that must be clear in an L1 entry.
pub const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Bits that must be clear in a standard L2 entry.
pub const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Bits that must be clear in a refcount table entry.
pub const REFTABLE_RESERVED: u64 = 0x1ff;

/// Smallest cluster with extended L2 entries: 16 KiB.
pub const MIN_EXTENDED_BITS: u32 = 14;
/// Smallest cluster: 512 bytes.
pub const MIN_CLUSTER_BITS: u32 = 9;
/// Largest cluster: 2 MiB.
pub const MAX_CLUSTER_BITS: u32 = 21;

/// Limit on the bytes of one L1 table.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// Limit on the bytes of the refcount table.
pub const MAX_REFTABLE_BYTES: u64 = 8 << 20;
/// Limit on the number of internal snapshots.
pub const MAX_SNAPSHOTS: u32 = 65536;
/// Limit on the bytes of the snapshot table.
pub const MAX_SNAPSHOT_BYTES: u64 = 1024 * MAX_SNAPSHOTS as u64;
/// Limit on one snapshot's extra data.
pub const MAX_SNAPSHOT_EXTRA: u32 = 1024;
/// Limit on the backing file's name.
pub const MAX_BACKING_NAME: u32 = 1023;
/// Limit on the number of bitmaps.
pub const MAX_BITMAPS: u32 = 65535;
/// Limit on the bytes of the bitmap directory.
pub const MAX_BITMAP_DIRECTORY: u64 = 1024 * MAX_BITMAPS as u64;
/// Limit on the bytes of one bitmap's table.
pub const MAX_BITMAP_TABLE: u64 = 8 * 0x800_0000;
/// Highest byte offset in an image file that Rhea uses: what an entry's bits 9 to 55 can say.
pub const MAX_FILE_OFFSET: u64 = 1 << 56;

/// `u16` at `at`; `None` past the end.
pub fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(b.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// `u32` at `at`; `None` past the end.
pub fn be32(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(b.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// `u64` at `at`; `None` past the end.
pub fn be64(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(b.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// A table's bytes as numbers; a rest of fewer than eight bytes is left out.
pub fn table_from_bytes(b: &[u8]) -> Vec<u64> {
    b.chunks_exact(8).map(|c| u64::from_be_bytes(c.try_into().unwrap_or_default())).collect()
}

/// Numbers as a table's bytes.
pub fn table_to_bytes(t: &[u64]) -> Vec<u8> {
    t.iter().flat_map(|v| v.to_be_bytes()).collect()
}

/// A number as messages show it: hexadecimal, and 0 plainly.
pub fn hex(n: u64) -> String {
    if n == 0 { "0".into() } else { format!("{n:#x}") }
}
