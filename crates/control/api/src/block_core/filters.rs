//! Options of filters: drivers that show the bytes of another node and do something on the way.

use qapi::Qapi;

use super::BlockdevRef;

/// Options of `throttle`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsThrottle {
    /// The id of the `throttle-group` object whose limits hold. All nodes that name it share them.
    pub throttle_group: String,
    /// The node below.
    pub file: BlockdevRef,
}

/// Options of `copy-on-read`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsCor {
    /// The node below.
    pub file: BlockdevRef,
    /// The lowest node of the chain of backing files from which is copied; what comes from further down is only read. All of
    /// the chain is copied from unless given.
    pub bottom: Option<String>,
}
