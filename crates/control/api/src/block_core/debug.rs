//! Options of drivers that are there for tests.

use qapi::Qapi;

use super::{BlockPermission, BlockdevRef};

/// A moment in a request's life at which a rule of `blkdebug` may act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlkdebugEvent {
    /// An entry of the L1 table is about to be written.
    #[qapi(name = "l1_update")]
    L1Update,
    /// A longer L1 table is about to be allocated.
    #[qapi(name = "l1_grow_alloc_table")]
    L1GrowAllocTable,
    /// It is about to be written.
    #[qapi(name = "l1_grow_write_table")]
    L1GrowWriteTable,
    /// The header is about to lead to it.
    #[qapi(name = "l1_grow_activate_table")]
    L1GrowActivateTable,
    /// A part of an L2 table is about to be read.
    #[qapi(name = "l2_load")]
    L2Load,
    /// A part of an L2 table is about to be written.
    #[qapi(name = "l2_update")]
    L2Update,
    /// The entry of a compressed cluster is about to change.
    #[qapi(name = "l2_update_compressed")]
    L2UpdateCompressed,
    /// An L2 table that a snapshot shares is about to be read, to be copied.
    #[qapi(name = "l2_alloc_cow_read")]
    L2AllocCowRead,
    /// A new L2 table is about to be written.
    #[qapi(name = "l2_alloc_write")]
    L2AllocWrite,
    /// A format is about to read data.
    #[qapi(name = "read_aio")]
    ReadAio,
    /// A format is about to read data of its backing file.
    #[qapi(name = "read_backing_aio")]
    ReadBackingAio,
    /// A compressed cluster is about to be read.
    #[qapi(name = "read_compressed")]
    ReadCompressed,
    /// A format is about to write data.
    #[qapi(name = "write_aio")]
    WriteAio,
    /// A compressed cluster is about to be written.
    #[qapi(name = "write_compressed")]
    WriteCompressed,
    /// The state of a machine is about to be read. Nothing raises it.
    #[qapi(name = "vmstate_load")]
    VmstateLoad,
    /// The state of a machine is about to be written. Nothing raises it.
    #[qapi(name = "vmstate_save")]
    VmstateSave,
    /// What stands around new data in its cluster is about to be read.
    #[qapi(name = "cow_read")]
    CowRead,
    /// What stands around new data in its cluster is about to be written.
    #[qapi(name = "cow_write")]
    CowWrite,
    /// The refcount table is about to be read.
    #[qapi(name = "reftable_load")]
    ReftableLoad,
    /// The refcount table is about to move to a larger place.
    #[qapi(name = "reftable_grow")]
    ReftableGrow,
    /// An entry of the refcount table changes for other reasons than a new block. Nothing raises it.
    #[qapi(name = "reftable_update")]
    ReftableUpdate,
    /// A refcount block is about to be read.
    #[qapi(name = "refblock_load")]
    RefblockLoad,
    /// A whole refcount block is written. Nothing raises it.
    #[qapi(name = "refblock_update")]
    RefblockUpdate,
    /// Changed refcounts are about to be written.
    #[qapi(name = "refblock_update_part")]
    RefblockUpdatePart,
    /// Refcounts are about to change.
    #[qapi(name = "refblock_alloc")]
    RefblockAlloc,
    /// The refcount table is about to lead to a new block.
    #[qapi(name = "refblock_alloc_hookup")]
    RefblockAllocHookup,
    /// A new refcount block is about to be made.
    #[qapi(name = "refblock_alloc_write")]
    RefblockAllocWrite,
    /// The blocks that count a larger refcount table are about to be written.
    #[qapi(name = "refblock_alloc_write_blocks")]
    RefblockAllocWriteBlocks,
    /// A larger refcount table is about to be written.
    #[qapi(name = "refblock_alloc_write_table")]
    RefblockAllocWriteTable,
    /// The header is about to lead to a larger refcount table.
    #[qapi(name = "refblock_alloc_switch_table")]
    RefblockAllocSwitchTable,
    /// Clusters are about to be allocated.
    #[qapi(name = "cluster_alloc")]
    ClusterAlloc,
    /// Space for a compressed cluster is about to be allocated.
    #[qapi(name = "cluster_alloc_bytes")]
    ClusterAllocBytes,
    /// Clusters are about to be freed.
    #[qapi(name = "cluster_free")]
    ClusterFree,
    /// The node above is about to be flushed, its caches first.
    #[qapi(name = "flush_to_os")]
    FlushToOs,
    /// The node above has written out its caches and is about to make everything stable.
    #[qapi(name = "flush_to_disk")]
    FlushToDisk,
    /// A write that is not aligned is about to read what stands before it.
    #[qapi(name = "pwritev_rmw_head")]
    PwritevRmwHead,
    /// It has read that.
    #[qapi(name = "pwritev_rmw_after_head")]
    PwritevRmwAfterHead,
    /// A write that is not aligned is about to read what stands behind it.
    #[qapi(name = "pwritev_rmw_tail")]
    PwritevRmwTail,
    /// It has read that.
    #[qapi(name = "pwritev_rmw_after_tail")]
    PwritevRmwAfterTail,
    /// A write is about to be handed on.
    Pwritev,
    /// A zero-write is about to be handed on.
    #[qapi(name = "pwritev_zero")]
    PwritevZero,
    /// A write or zero-write has been done.
    #[qapi(name = "pwritev_done")]
    PwritevDone,
    /// An image is about to be emptied. Nothing raises it.
    #[qapi(name = "empty_image_prepare")]
    EmptyImagePrepare,
    /// A shorter L1 table is about to be written. Nothing raises it.
    #[qapi(name = "l1_shrink_write_table")]
    L1ShrinkWriteTable,
    /// The tables of a shorter L1 table are about to be freed. Nothing raises it.
    #[qapi(name = "l1_shrink_free_l2_clusters")]
    L1ShrinkFreeL2Clusters,
    /// What was read is about to be written where it was missing.
    #[qapi(name = "cor_write")]
    CorWrite,
    /// Clusters are about to be made to read as zeroes. Nothing raises it.
    #[qapi(name = "cluster_alloc_space")]
    ClusterAllocSpace,
    /// Once, when the node is made.
    #[default]
    None,
}

/// A kind of request, for rules of `blkdebug`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum BlkdebugIOType {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Write zeroes.
    WriteZeroes,
    /// Discard.
    Discard,
    /// Flush.
    Flush,
    /// Block status.
    BlockStatus,
}

/// A rule: from this event on, requests fail. An event whose rules become active takes the place of those that were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlkdebugInjectErrorOptions {
    /// The event.
    pub event: BlkdebugEvent,
    /// The state in which the rule counts. In any unless given.
    pub state: Option<i64>,
    /// The kind of request that fails. All but block status unless given.
    pub iotype: Option<BlkdebugIOType>,
    /// The error's number; 0 to let the request pass. `EIO` unless given.
    pub errno: Option<i64>,
    /// Only a request fails that touches this sector of 512 bytes. Any unless given.
    pub sector: Option<i64>,
    /// Only one request fails, until the event comes again. Off unless given.
    pub once: Option<bool>,
    /// Fail within the same turn of the event loop. Off unless given.
    pub immediately: Option<bool>,
}

/// A rule: at this event, the state changes. It is 1 to begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlkdebugSetStateOptions {
    /// The event.
    pub event: BlkdebugEvent,
    /// The state in which the rule counts. In any unless given.
    pub state: Option<i64>,
    /// The state that follows.
    #[qapi(name = "new_state")]
    pub new_state: i64,
}

/// Options of `blkdebug`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsBlkdebug {
    /// The node below.
    pub image: BlockdevRef,
    /// A file with more rules: sections `[inject-error]` and `[set-state]`, with a rule's members as `name = "value"`.
    pub config: Option<String>,
    /// Requests must be multiples of this, bytes: a power of two. The child's unless given.
    pub align: Option<i64>,
    /// The longest read or write, bytes. The child's unless given.
    pub max_transfer: Option<i32>,
    /// What zero-writes should be multiples of, bytes. The child's unless given.
    pub opt_write_zero: Option<i32>,
    /// The longest zero-write, bytes. The child's unless given.
    pub max_write_zero: Option<i32>,
    /// What discards should be multiples of, bytes. The child's unless given.
    pub opt_discard: Option<i32>,
    /// The longest discard, bytes. The child's unless given.
    pub max_discard: Option<i32>,
    /// Rules that make requests fail.
    pub inject_error: Option<Vec<BlkdebugInjectErrorOptions>>,
    /// Rules that change the state.
    pub set_state: Option<Vec<BlkdebugSetStateOptions>>,
    /// What the node does with its child on top of what its users do. Nothing unless given.
    pub take_child_perms: Option<Vec<BlockPermission>>,
    /// What others may not do with the child on top of what its users forbid. Nothing unless given.
    pub unshare_child_perms: Option<Vec<BlockPermission>>,
}

/// Options of `blkverify`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsBlkverify {
    /// The node under test.
    pub test: BlockdevRef,
    /// The node that is right. What the test node says is compared with it.
    pub raw: BlockdevRef,
}

/// Options of `blkreplay`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsBlkreplay {
    /// The node below.
    pub image: BlockdevRef,
}

/// Options of `blklogwrites`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsBlklogwrites {
    /// The node below.
    pub file: BlockdevRef,
    /// The node that the log is written to.
    pub log: BlockdevRef,
    /// The length of the log's sectors, bytes: a power of two. Requests are multiples of it. 512 unless given; not with
    /// `log-append`.
    pub log_sector_size: Option<u32>,
    /// Go on with the log that is there already. Off unless given.
    pub log_append: Option<bool>,
    /// The log's superblock is written after so many entries, and with each flush. 4096 unless given.
    pub log_super_update_interval: Option<u64>,
}
