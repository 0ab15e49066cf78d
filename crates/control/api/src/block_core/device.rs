//! What is told about block nodes and block devices in use.

use qapi::Qapi;

use super::{BlockdevDetectZeroesOptions, ImageInfo};

/// Whether a device had an I/O error that it stopped for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockDeviceIoStatus {
    /// It had none.
    #[default]
    Ok,
    /// An error other than `nospace`.
    Failed,
    /// No space was left.
    Nospace,
}

/// How a node uses the host's page cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockdevCacheInfo {
    /// Whether a guest device may leave data in a cache until it flushes.
    pub writeback: bool,
    /// Whether it goes around the page cache.
    pub direct: bool,
    /// Whether flushes are ignored.
    pub no_flush: bool,
}

/// A dirty bitmap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockDirtyInfo {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Bytes that it says are dirty.
    pub count: i64,
    /// Bytes that one bit stands for.
    pub granularity: u32,
    /// Whether it is tracking writes.
    pub recording: bool,
    /// Whether an operation has it in use.
    pub busy: bool,
    /// Whether it is stored in the image when that is closed.
    pub persistent: bool,
    /// Whether it was not stored properly; the only thing left to do with it is to remove it.
    pub inconsistent: Option<bool>,
}

/// A block node in use.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct BlockDeviceInfo {
    /// The file name, or a `json:` description.
    pub file: String,
    /// The node's name.
    pub node_name: Option<String>,
    /// Whether it refuses writes.
    pub ro: bool,
    /// The driver's name.
    pub drv: String,
    /// The name of the file behind it, if there is one.
    #[qapi(name = "backing_file")]
    pub backing_file: Option<String>,
    /// How many images are behind it.
    #[qapi(name = "backing_file_depth")]
    pub backing_file_depth: i64,
    /// Whether it is active.
    pub active: bool,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Whether writes of zeroes are looked for.
    #[qapi(name = "detect_zeroes")]
    pub detect_zeroes: BlockdevDetectZeroesOptions,
    /// Limit on bytes a second; 0 for none, here and below.
    pub bps: i64,
    /// Limit on bytes read a second.
    #[qapi(name = "bps_rd")]
    pub bps_rd: i64,
    /// Limit on bytes written a second.
    #[qapi(name = "bps_wr")]
    pub bps_wr: i64,
    /// Limit on requests a second.
    pub iops: i64,
    /// Limit on reads a second.
    #[qapi(name = "iops_rd")]
    pub iops_rd: i64,
    /// Limit on writes a second.
    #[qapi(name = "iops_wr")]
    pub iops_wr: i64,
    /// The image.
    pub image: ImageInfo,
    /// Limit on bytes in a burst.
    #[qapi(name = "bps_max")]
    pub bps_max: Option<i64>,
    /// Limit on bytes read in a burst.
    #[qapi(name = "bps_rd_max")]
    pub bps_rd_max: Option<i64>,
    /// Limit on bytes written in a burst.
    #[qapi(name = "bps_wr_max")]
    pub bps_wr_max: Option<i64>,
    /// Limit on requests in a burst.
    #[qapi(name = "iops_max")]
    pub iops_max: Option<i64>,
    /// Limit on reads in a burst.
    #[qapi(name = "iops_rd_max")]
    pub iops_rd_max: Option<i64>,
    /// Limit on writes in a burst.
    #[qapi(name = "iops_wr_max")]
    pub iops_wr_max: Option<i64>,
    /// Seconds that a burst of bytes may last.
    #[qapi(name = "bps_max_length")]
    pub bps_max_length: Option<i64>,
    /// Seconds that a burst of bytes read may last.
    #[qapi(name = "bps_rd_max_length")]
    pub bps_rd_max_length: Option<i64>,
    /// Seconds that a burst of bytes written may last.
    #[qapi(name = "bps_wr_max_length")]
    pub bps_wr_max_length: Option<i64>,
    /// Seconds that a burst of requests may last.
    #[qapi(name = "iops_max_length")]
    pub iops_max_length: Option<i64>,
    /// Seconds that a burst of reads may last.
    #[qapi(name = "iops_rd_max_length")]
    pub iops_rd_max_length: Option<i64>,
    /// Seconds that a burst of writes may last.
    #[qapi(name = "iops_wr_max_length")]
    pub iops_wr_max_length: Option<i64>,
    /// Bytes that count as one request.
    #[qapi(name = "iops_size")]
    pub iops_size: Option<i64>,
    /// The group that shares these limits.
    pub group: Option<String>,
    /// Use of the page cache.
    pub cache: BlockdevCacheInfo,
    /// Offset whose being written raises an event; 0 for none.
    #[qapi(name = "write_threshold")]
    pub write_threshold: i64,
    /// Its dirty bitmaps, if it has any.
    pub dirty_bitmaps: Option<Vec<BlockDirtyInfo>>,
}

/// A block device of the machine.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct BlockInfo {
    /// The name of its block backend; empty where it has none.
    pub device: String,
    /// The id or path of the guest device that it is plugged into.
    pub qdev: Option<String>,
    /// Always `unknown`; kept for old clients.
    pub r#type: String,
    /// Whether the medium can be changed.
    pub removable: bool,
    /// Whether the guest locked the medium in.
    pub locked: bool,
    /// The node that is the medium, if there is one.
    pub inserted: Option<BlockDeviceInfo>,
    /// Whether the tray is open, for devices that have one.
    #[qapi(name = "tray_open")]
    pub tray_open: Option<bool>,
    /// Whether the machine stopped for an error of this device; only where it is set to stop.
    pub io_status: Option<BlockDeviceIoStatus>,
}
