//! Media of block devices.

use qapi::Qapi;

/// Takes the medium out of a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "eject")]
pub struct Eject {
    /// The name of the block backend. One of `device` and `id` must be given.
    #[qapi(deprecated)]
    pub device: Option<String>,
    /// The id or path of the guest device.
    pub id: Option<String>,
    /// Also where the guest holds the medium. Off unless given.
    pub force: Option<bool>,
}

/// Opens the tray of a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-open-tray")]
pub struct BlockdevOpenTray {
    /// The name of the block backend. One of `device` and `id` must be given.
    #[qapi(deprecated)]
    pub device: Option<String>,
    /// The id or path of the guest device.
    pub id: Option<String>,
    /// Also where the guest holds the medium. Off unless given.
    pub force: Option<bool>,
}

/// Closes the tray of a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-close-tray")]
pub struct BlockdevCloseTray {
    /// The name of the block backend. One of `device` and `id` must be given.
    #[qapi(deprecated)]
    pub device: Option<String>,
    /// The id or path of the guest device.
    pub id: Option<String>,
}

/// Takes the medium out of the open tray of a block device. The node stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-remove-medium")]
pub struct BlockdevRemoveMedium {
    /// The id or path of the guest device.
    pub id: String,
}

/// Puts a node as the medium into the open tray of a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-insert-medium")]
pub struct BlockdevInsertMedium {
    /// The id or path of the guest device.
    pub id: String,
    /// The node.
    pub node_name: String,
}

/// Whether a new medium may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockdevChangeReadOnlyMode {
    /// As the one before.
    #[default]
    Retain,
    /// No.
    ReadOnly,
    /// Yes.
    ReadWrite,
}

/// Puts another image into a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-change-medium")]
pub struct BlockdevChangeMedium {
    /// The name of the block backend. One of `device` and `id` must be given.
    #[qapi(deprecated)]
    pub device: Option<String>,
    /// The id or path of the guest device.
    pub id: Option<String>,
    /// The image's file.
    pub filename: String,
    /// Its format; guessed from its first bytes unless given.
    pub format: Option<String>,
    /// Also where the guest holds the medium. Off unless given.
    pub force: Option<bool>,
    /// Whether it may be written; `retain` unless given.
    pub read_only_mode: Option<BlockdevChangeReadOnlyMode>,
}

/// Limits requests and bytes a second of a block device; all zero takes the limits away. Reads and writes together, and each
/// of them, cannot be limited at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block_set_io_throttle")]
pub struct BlockSetIoThrottle {
    /// The name of the block backend. One of `device` and `id` must be given.
    #[qapi(deprecated)]
    pub device: Option<String>,
    /// The id or path of the guest device.
    pub id: Option<String>,
    /// Bytes a second; 0 for no limit.
    pub bps: i64,
    /// Bytes a second that are read; 0 for no limit.
    #[qapi(name = "bps_rd")]
    pub bps_rd: i64,
    /// Bytes a second that are written; 0 for no limit.
    #[qapi(name = "bps_wr")]
    pub bps_wr: i64,
    /// Requests a second; 0 for no limit.
    pub iops: i64,
    /// Reads a second; 0 for no limit.
    #[qapi(name = "iops_rd")]
    pub iops_rd: i64,
    /// Writes a second; 0 for no limit.
    #[qapi(name = "iops_wr")]
    pub iops_wr: i64,
    /// Bytes a second in a burst. None unless given.
    #[qapi(name = "bps_max")]
    pub bps_max: Option<i64>,
    /// Bytes a second that are read in a burst. None unless given.
    #[qapi(name = "bps_rd_max")]
    pub bps_rd_max: Option<i64>,
    /// Bytes a second that are written in a burst. None unless given.
    #[qapi(name = "bps_wr_max")]
    pub bps_wr_max: Option<i64>,
    /// Requests a second in a burst. None unless given.
    #[qapi(name = "iops_max")]
    pub iops_max: Option<i64>,
    /// Reads a second in a burst. None unless given.
    #[qapi(name = "iops_rd_max")]
    pub iops_rd_max: Option<i64>,
    /// Writes a second in a burst. None unless given.
    #[qapi(name = "iops_wr_max")]
    pub iops_wr_max: Option<i64>,
    /// How long such a burst of `bps` may last, seconds. 1 unless given.
    #[qapi(name = "bps_max_length")]
    pub bps_max_length: Option<i64>,
    /// How long such a burst of `bps_rd` may last, seconds. 1 unless given.
    #[qapi(name = "bps_rd_max_length")]
    pub bps_rd_max_length: Option<i64>,
    /// How long such a burst of `bps_wr` may last, seconds. 1 unless given.
    #[qapi(name = "bps_wr_max_length")]
    pub bps_wr_max_length: Option<i64>,
    /// How long such a burst of `iops` may last, seconds. 1 unless given.
    #[qapi(name = "iops_max_length")]
    pub iops_max_length: Option<i64>,
    /// How long such a burst of `iops_rd` may last, seconds. 1 unless given.
    #[qapi(name = "iops_rd_max_length")]
    pub iops_rd_max_length: Option<i64>,
    /// How long such a burst of `iops_wr` may last, seconds. 1 unless given.
    #[qapi(name = "iops_wr_max_length")]
    pub iops_wr_max_length: Option<i64>,
    /// Bytes that count as one request; a longer request counts as several. Any length is one request unless given.
    #[qapi(name = "iops_size")]
    pub iops_size: Option<i64>,
    /// The group whose limits these are: the id of a `throttle-group` object or any other name. That of the device's limits until
    /// now, or the device's own name, unless given.
    pub group: Option<String>,
}
