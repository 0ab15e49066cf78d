//! Commands on one node, and what is told of its image.

use qapi::Qapi;

use super::SnapshotInfo;

/// Sets the size of a node, or of the medium of a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block_resize")]
pub struct BlockResize {
    /// The block device.
    pub device: Option<String>,
    /// The node.
    pub node_name: Option<String>,
    /// Its new size, bytes. What lies behind it is lost; what is new reads as zeroes.
    pub size: i64,
}

/// Takes a snapshot inside the image of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-snapshot-internal-sync")]
pub struct BlockdevSnapshotInternalSync {
    /// The block device or node.
    pub device: String,
    /// The snapshot's name; there must be none of this name.
    pub name: String,
}

/// Deletes a snapshot inside the image of a device, and tells what it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-snapshot-delete-internal-sync", ret = SnapshotInfo)]
pub struct BlockdevSnapshotDeleteInternalSync {
    /// The block device or node.
    pub device: String,
    /// The snapshot's id. One of `id` and `name` must be given.
    pub id: Option<String>,
    /// The snapshot's name.
    pub name: Option<String>,
}

/// Damage was found in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "BLOCK_IMAGE_CORRUPTED")]
pub struct BlockImageCorruptedEvent {
    /// The name of the block backend; may be empty.
    pub device: String,
    /// The node.
    pub node_name: Option<String>,
    /// What is wrong, for people.
    pub msg: String,
    /// Where in the image, bytes, if that is known.
    pub offset: Option<i64>,
    /// How much of it, bytes, if that is known.
    pub size: Option<i64>,
    /// Whether the image was marked as corrupt and is not written any more, so that it needs a repair.
    pub fatal: bool,
}
