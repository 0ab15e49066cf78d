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
