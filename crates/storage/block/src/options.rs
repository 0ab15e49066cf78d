//! A node's options as they were given, split into its own and its children's.

use api::block_core::BlockdevOptions;
use std::sync::Arc;

/// The options of a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// As one value, children included.
    pub typed: Arc<BlockdevOptions>,
}
