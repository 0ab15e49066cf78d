//! Options of filters: drivers that show the bytes of another node and do something on the way.

use qapi::Qapi;

use super::{BlockDirtyBitmap, BlockdevRef};

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

/// What `copy-before-write` does when old bytes cannot be copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum OnCbwError {
    /// The guest's write fails.
    #[default]
    BreakGuestWrite,
    /// The guest's write goes on; the past state cannot be read any more.
    BreakSnapshot,
}

/// Options of `copy-before-write`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsCbw {
    /// The node below.
    pub file: BlockdevRef,
    /// Where the old bytes are copied to. At least as long as the node below.
    pub target: BlockdevRef,
    /// Only what is dirty in this bitmap is copied, and can be read of the past state; all of it unless given. The bitmap is
    /// only looked at when the filter is made.
    pub bitmap: Option<BlockDirtyBitmap>,
    /// What happens when old bytes cannot be copied; `break-guest-write` unless given.
    pub on_cbw_error: Option<OnCbwError>,
    /// How many seconds a guest's write waits for old bytes to be copied before that counts as failed. 0, the default, for as
    /// long as it takes.
    pub cbw_timeout: Option<u32>,
    /// The least number of bytes that are copied as one: a power of two. Never less than 64 KiB and the cluster size of the
    /// target.
    #[qapi(size)]
    pub min_cluster_size: Option<u64>,
}

/// Options of `snapshot-access`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsSnapshotAccess {
    /// A `copy-before-write` node.
    pub file: BlockdevRef,
}

/// Options of `compress`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsCompress {
    /// The node below: an image of a format that can store compressed.
    pub file: BlockdevRef,
}

/// Options of `preallocate`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsPreallocate {
    /// The node below.
    pub file: BlockdevRef,
    /// The end of what is allocated is a multiple of so many bytes: a multiple of 512. 1 MiB unless given.
    pub prealloc_align: Option<i64>,
    /// How many bytes are allocated behind the end of a write that makes the node longer. 128 MiB unless given.
    pub prealloc_size: Option<i64>,
}
