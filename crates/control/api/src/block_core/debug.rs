//! Options of drivers that are there for tests.

use qapi::Qapi;

use super::BlockdevRef;

/// A moment in a request's life at which a rule of `blkdebug` may act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlkdebugEvent {
    /// A read begins.
    #[qapi(name = "read_aio")]
    ReadAio,
    /// A write begins.
    #[qapi(name = "write_aio")]
    WriteAio,
    /// A flush begins, before caches are written out.
    #[qapi(name = "flush_to_os")]
    FlushToOs,
    /// A flush is about to make everything stable.
    #[qapi(name = "flush_to_disk")]
    FlushToDisk,
    /// A write is about to be handed on.
    Pwritev,
    /// A zero-write is about to be handed on.
    #[qapi(name = "pwritev_zero")]
    PwritevZero,
    /// A write or zero-write has been done.
    #[qapi(name = "pwritev_done")]
    PwritevDone,
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
}

/// Options of `blkverify`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsBlkverify {
    /// The node under test.
    pub test: BlockdevRef,
    /// The node that is right. What the test node says is compared with it.
    pub raw: BlockdevRef,
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
