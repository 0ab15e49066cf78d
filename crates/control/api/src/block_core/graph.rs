//! The block graph as a whole, and commands on nodes that concern how they are used.

use crate::common::StrOrNull;
use qapi::Qapi;

/// What a vertex of the block graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum XDbgBlockGraphNodeType {
    /// A user from outside: a device, an export.
    BlockBackend,
    /// A job.
    BlockJob,
    /// A node.
    BlockDriver,
}

/// A vertex of the block graph.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct XDbgBlockGraphNode {
    /// Identifies it within this answer.
    pub id: u64,
    /// What it is.
    pub r#type: XDbgBlockGraphNodeType,
    /// Its name; may be empty.
    pub name: String,
}

/// Something that users of a node may want to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum BlockPermission {
    /// Read what a guest could make sense of.
    ConsistentRead,
    /// Write.
    Write,
    /// Write what is there already.
    WriteUnchanged,
    /// Change the length.
    Resize,
}

/// A link of the block graph.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct XDbgBlockGraphEdge {
    /// The id of the user.
    pub parent: u64,
    /// The id of the node that is used.
    pub child: u64,
    /// The link's name.
    pub name: String,
    /// What the user does with the node.
    pub perm: Vec<BlockPermission>,
    /// What others may do with it meanwhile.
    pub shared_perm: Vec<BlockPermission>,
}

/// The block graph.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct XDbgBlockGraph {
    /// The vertices.
    pub nodes: Vec<XDbgBlockGraphNode>,
    /// The links.
    pub edges: Vec<XDbgBlockGraphEdge>,
}

/// Tells the whole block graph, with its users and the permissions on its links; for people who look for a mistake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "x-debug-query-block-graph", ret = XDbgBlockGraph, unstable)]
pub struct XDebugQueryBlockGraph;

/// Gives the images of nodes away, so that another process may use them, or takes them back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-set-active")]
pub struct BlockdevSetActive {
    /// The node; all nodes where it is not given. What stands below it follows: with `active` all of it, without it what
    /// no other active node uses.
    pub node_name: Option<String>,
    /// Whether this process shall have the images.
    pub active: bool,
}

/// Says in which I/O thread requests of a node are worked on. Here nodes belong to no thread: each request runs in the
/// thread of the device or export that makes it. So the arguments are checked, and nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "x-blockdev-set-iothread", unstable)]
pub struct XBlockdevSetIothread {
    /// The node.
    pub node_name: String,
    /// The id of an `iothread` object, or null for the main thread.
    pub iothread: StrOrNull,
    /// Also where the node is in use. Off unless given.
    pub force: Option<bool>,
}

/// Asks for an event once a write goes behind an offset of a node: time to make its storage larger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-set-write-threshold")]
pub struct BlockSetWriteThreshold {
    /// The node.
    pub node_name: String,
    /// The offset, bytes; 0 for no event. It is 0 again after the event.
    pub write_threshold: u64,
}

/// A write went behind the offset that `block-set-write-threshold` asked about. It comes once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "BLOCK_WRITE_THRESHOLD")]
pub struct BlockWriteThresholdEvent {
    /// The node.
    pub node_name: String,
    /// How far behind the offset the write ends, bytes.
    pub amount_exceeded: u64,
    /// The offset, bytes.
    pub write_threshold: u64,
}

/// Changes what the header of an image says its backing file is. The graph stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "change-backing-file")]
pub struct ChangeBackingFile {
    /// The block device or node on top of the chain that the image is part of.
    pub device: String,
    /// The node of the image.
    pub image_node_name: String,
    /// The name to be written; empty for none. It is not looked whether there is such a file.
    pub backing_file: String,
}
