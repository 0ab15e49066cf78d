//! Overlays: from now on, changes of a disk go to another image, and the old one stays as it is.

use qapi::Qapi;

/// Where the image of an overlay comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum NewImageMode {
    /// It exists, and is used as it is: whoever made it has seen to it that it shows nothing of its own.
    Existing,
    /// It is made.
    #[default]
    AbsolutePaths,
}

/// Puts an image above a node: all users of the node use the image from now on, and the node becomes its backing file
/// and read-only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-snapshot", features = ["allow-write-only-overlay"])]
pub struct BlockdevSnapshot {
    /// The node, or the block device on it.
    pub node: String,
    /// The image: a node that was opened without a backing file (`"backing": null`) and that nobody reads yet.
    pub overlay: String,
}

/// Makes an image and puts it above a node, as `blockdev-snapshot` does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-snapshot-sync")]
pub struct BlockdevSnapshotSync {
    /// The block device. One of `device` and `node-name` must be given.
    pub device: Option<String>,
    /// The node.
    pub node_name: Option<String>,
    /// The file of the new image.
    pub snapshot_file: String,
    /// What to call the new node. Must be given where `node-name` is.
    pub snapshot_node_name: Option<String>,
    /// The format of the new image; `qcow2` unless given.
    pub format: Option<String>,
    /// Where the image comes from; `absolute-paths` unless given.
    pub mode: Option<NewImageMode>,
}
