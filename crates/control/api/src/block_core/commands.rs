//! The commands on block nodes.

use qapi::Qapi;

use super::{BlockDeviceInfo, BlockInfo, BlockdevOptions};

/// Makes a block node.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "blockdev-add")]
pub struct BlockdevAdd(pub BlockdevOptions);

/// Changes the options of nodes, all of them or, where something is wrong, none.
///
/// Each entry is given as it would be to `blockdev-add`: options left out go back to their default, and those that the
/// driver cannot change must have their old value. `file` and `backing` may name other nodes than before.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "blockdev-reopen")]
pub struct BlockdevReopen {
    /// The nodes by their `node-name`, with their new options.
    pub options: Vec<BlockdevOptions>,
}

/// Removes a block node that nothing uses.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-del")]
pub struct BlockdevDel {
    /// The node's name.
    pub node_name: String,
}

/// Adds a child to a node that has a list of them (`quorum`), or takes one away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "x-blockdev-change", unstable)]
pub struct XBlockdevChange {
    /// The name of the block device or node whose children change.
    pub parent: String,
    /// The child to take away, by the name of the link to it (`children.1`). Not with `node`.
    pub child: Option<String>,
    /// The node to be added; nothing else may use it. Not with `child`.
    pub node: Option<String>,
}

/// Lists all named block nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-named-block-nodes", ret = Vec<BlockDeviceInfo>)]
pub struct QueryNamedBlockNodes {
    /// Leave out the `backing-image` of each, which otherwise repeats its whole chain. Off unless given.
    pub flat: Option<bool>,
}

/// Lists the block devices of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-block", ret = Vec<BlockInfo>)]
pub struct QueryBlock;
