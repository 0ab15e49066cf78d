//! The block device's numbers (section 5.2), under their names.

/// The most data segments of a request is in `seg_max`.
pub(super) const F_SEG_MAX: u64 = 1 << 2;
/// `geometry` is valid.
pub(super) const F_GEOMETRY: u64 = 1 << 4;
/// Read-only.
pub(super) const F_RO: u64 = 1 << 5;
/// `blk_size` is valid.
pub(super) const F_BLK_SIZE: u64 = 1 << 6;
/// Flush requests; the cache is a write-back one.
pub(super) const F_FLUSH: u64 = 1 << 9;
/// `topology` is valid.
pub(super) const F_TOPOLOGY: u64 = 1 << 10;
/// The driver may choose the kind of cache in `writeback`.
pub(super) const F_CONFIG_WCE: u64 = 1 << 11;
/// More than one queue.
pub(super) const F_MQ: u64 = 1 << 12;
/// Discard requests.
pub(super) const F_DISCARD: u64 = 1 << 13;
/// Write-zeroes requests.
pub(super) const F_WRITE_ZEROES: u64 = 1 << 14;

pub(super) const T_IN: u32 = 0;
pub(super) const T_OUT: u32 = 1;
pub(super) const T_FLUSH: u32 = 4;
pub(super) const T_GET_ID: u32 = 8;
pub(super) const T_DISCARD: u32 = 11;
pub(super) const T_WRITE_ZEROES: u32 = 13;
/// Legacy: a barrier bit in the type; ordering is not promised, so it means nothing.
pub(super) const T_BARRIER: u32 = 1 << 31;

pub(super) const S_OK: u8 = 0;
pub(super) const S_IOERR: u8 = 1;
pub(super) const S_UNSUPP: u8 = 2;

/// The length of the id that GET_ID gives.
pub(super) const ID_BYTES: usize = 20;
/// The unit of sector numbers.
pub(super) const SECTOR: u64 = 512;
/// The length of a request's header.
pub(super) const HEADER: usize = 16;
/// The length of a segment of a discard or write-zeroes request.
pub(super) const RANGE: usize = 16;
/// In such a segment: the range may be deallocated.
pub(super) const RANGE_UNMAP: u32 = 1;

/// Offsets in the configuration space.
pub(super) mod config {
    pub(in crate::blk) const CAPACITY: usize = 0;
    pub(in crate::blk) const SEG_MAX: usize = 12;
    pub(in crate::blk) const CYLINDERS: usize = 16;
    pub(in crate::blk) const HEADS: usize = 18;
    pub(in crate::blk) const SECTORS: usize = 19;
    pub(in crate::blk) const BLK_SIZE: usize = 20;
    pub(in crate::blk) const PHYSICAL_BLOCK_EXP: usize = 24;
    pub(in crate::blk) const MIN_IO_SIZE: usize = 26;
    pub(in crate::blk) const OPT_IO_SIZE: usize = 28;
    pub(in crate::blk) const WRITEBACK: usize = 32;
    pub(in crate::blk) const NUM_QUEUES: usize = 34;
    pub(in crate::blk) const MAX_DISCARD_SECTORS: usize = 36;
    pub(in crate::blk) const MAX_DISCARD_SEG: usize = 40;
    pub(in crate::blk) const DISCARD_ALIGNMENT: usize = 44;
    pub(in crate::blk) const MAX_WRITE_ZEROES_SECTORS: usize = 48;
    pub(in crate::blk) const MAX_WRITE_ZEROES_SEG: usize = 52;
    pub(in crate::blk) const WRITE_ZEROES_MAY_UNMAP: usize = 56;
    /// With all fields up to write-zeroes.
    pub(in crate::blk) const LEN: usize = 60;
}
