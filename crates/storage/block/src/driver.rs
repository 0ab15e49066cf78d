//! What a block driver is: the trait that every protocol, format and filter implements, and its description.
//!
//! The request core (alignment, splitting, ordering, fallbacks) stands in [`crate::request`] and exists once. A driver
//! only says what it can do ([`Driver::limits`], [`Driver::caps`]), where bytes live ([`Driver::locate`]), and does what
//! nobody else can do for it. A driver that does not override a method has a sensible default.
//!
//! # Rules for drivers
//! - Any executor thread may call any method at any time, several at once. Guard your own state; never hold a
//!   synchronous lock over an `.await`.
//! - A request's future is never dropped half-way: the core detaches a request whose issuer lost interest and lets it
//!   end in the background. So a driver needs no care for cancellation.
//! - Children are reached only through [`Cx`], which pins one snapshot of the graph for the whole request.
//! - `open` only reads. Whatever must be written once the node is part of the graph (repair, clearing a flag) belongs
//!   into [`Driver::activate`] or into the first write.
//! - Nothing that an image says may panic, hang or allocate without bound.

use crate::bitmap::Bitmap;
use crate::check::{CheckFn, Fix, Report};
use crate::create::Creation;
use crate::filename::FileNames;
use crate::graph::{Graph, Node};
use crate::perm::{Perm, PermPair, Role};
use crate::request::Status;
use crate::zoned::{Zone, ZoneLimits, ZoneOp};
use api::block_core::{
    BlkdebugEvent, BlockStatsSpecific, BlockdevAmendOptions, BlockdevOptions, ImageInfoSpecific, SnapshotInfo,
};
use base::{Errno, IoResult};
use bitflags::bitflags;
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Dict, QError, qerr};
use smallvec::SmallVec;
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A driver's answer to a data-plane call.
pub type IoFuture<'a, T = ()> = Pin<Box<dyn Future<Output = IoResult<T>> + 'a>>;
/// A driver's answer to a control-plane call.
pub type CtlFuture<'a, T = ()> = Pin<Box<dyn Future<Output = Result<T, QError>> + 'a>>;
/// What [`Driver::record_ahead`] answers; dropping it tells the driver that the change is recorded.
pub type Ahead = Option<Box<dyn std::any::Any>>;
/// What [`DriverType::open`] returns.
pub type OpenFuture<'a> = CtlFuture<'a, Arc<dyn Driver>>;

/// Which of a node's children is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChildSlot {
    /// The child named `file`.
    File,
    /// The child named `backing`.
    Backing,
    /// Any other child; the driver numbers them.
    Other(u16),
}

/// What kind of driver it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Holds bytes itself (file, null-co). Reads go to [`Driver::read`] without asking [`Driver::locate`].
    Protocol,
    /// Interprets what children hold (qcow2, raw).
    Format,
    /// Shows one child's bytes unchanged (throttle).
    Filter,
}

/// One child that a driver takes as an option of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildOption {
    /// The option's and the edge's name.
    pub name: &'static str,
    /// How the driver calls it in [`Cx`].
    pub slot: ChildSlot,
    /// What the edge is for.
    pub role: Role,
    /// Whether the option must be given. (`backing` is not required: absent means "what the header says".)
    pub required: bool,
}

/// The list of children that a driver takes as an option, where children may come and go ([`crate::lists`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildList {
    /// The option's name. The edges are called `NAME.0`, `NAME.1` and so on.
    pub name: &'static str,
    /// What the edges are for.
    pub role: Role,
}

/// An edge as a permission rule sees it.
#[derive(Clone, Copy, Debug)]
pub struct ChildDef {
    /// The edge's name (`file`, `backing`, …).
    pub name: &'static str,
    /// Its slot.
    pub slot: ChildSlot,
    /// What the edge is for.
    pub role: Role,
}

/// The settings of a node that concern requests; all of them may change in a reopen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NodeFlags {
    /// `read-only`: no parent may write.
    pub read_only: bool,
    /// `auto-read-only`: a driver that cannot write may degrade instead of failing.
    pub auto_read_only: bool,
    /// `discard=unmap`: discard requests reach the driver.
    pub unmap: bool,
    /// `cache.direct`: bypass the host's page cache.
    pub direct: bool,
    /// `cache.no-flush`: ignore flushes to stable storage.
    pub no_flush: bool,
    /// `force-share`: share every permission (read-only nodes only).
    pub force_share: bool,
    /// `active=false`: the image belongs to somebody else for now.
    pub inactive: bool,
    /// `detect-zeroes`.
    pub detect_zeroes: DetectZeroes,
}

/// `detect-zeroes`: what to do with writes whose bytes are all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DetectZeroes {
    /// Write them like any others.
    #[default]
    Off,
    /// Write zeroes efficiently.
    On,
    /// Write zeroes efficiently, and unmap where the driver can.
    Unmap,
}

/// What a driver needs of the requests it is handed. Alignments are powers of two; 0 as a maximum means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Offset and length of reads and writes are multiples of this. At least 1.
    pub request_alignment: u32,
    /// Address and length of each memory segment are multiples of this (direct I/O). At least 1.
    pub buffer_alignment: u32,
    /// Longest read or write, bytes.
    pub max_transfer: u64,
    /// Preferred transfer size, bytes; 0 = none.
    pub opt_transfer: u64,
    /// Zero-writes that the driver is handed are multiples of this (0 = `request_alignment`); the rest is written.
    pub write_zeroes_alignment: u32,
    /// Longest zero-write, bytes.
    pub max_write_zeroes: u64,
    /// Discards that the driver is handed are multiples of this (0 = `request_alignment`); the rest is ignored.
    pub discard_alignment: u32,
    /// Longest discard, bytes.
    pub max_discard: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_alignment: 1,
            buffer_alignment: 1,
            max_transfer: 0,
            opt_transfer: 0,
            write_zeroes_alignment: 0,
            max_write_zeroes: 0,
            discard_alignment: 0,
            max_discard: 0,
        }
    }
}

/// How a driver takes part in an optional operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Support {
    /// Not at all: the core ignores it (discard) or fails it where ignoring would be wrong.
    #[default]
    None,
    /// The core does it with other operations: FUA by a flush, zeroes by writing zeroes.
    Emulate,
    /// The driver's own method does it.
    Native,
}

/// What a driver can do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// [`WriteFlags::FUA`] in [`Driver::write`].
    pub fua: Support,
    /// [`Driver::write_zeroes`].
    pub write_zeroes: Support,
    /// [`Driver::discard`].
    pub discard: Support,
}

impl Default for Caps {
    fn default() -> Self {
        Caps { fua: Support::Emulate, write_zeroes: Support::Emulate, discard: Support::None }
    }
}

bitflags! {
    /// How to write.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct WriteFlags: u8 {
        /// The data is stable when the request ends.
        const FUA = 1;
        /// The written bytes are those that a reader sees already (needs only [`Perm::WRITE_UNCHANGED`]).
        const UNCHANGED = 2;
        /// Store compressed where the format can.
        const COMPRESSED = 4;
    }
}

bitflags! {
    /// How to write zeroes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct ZeroFlags: u8 {
        /// The data is stable when the request ends.
        const FUA = 1;
        /// The range may be deallocated as long as it reads as zeroes.
        const MAY_UNMAP = 2;
        /// Fail with `ENOTSUP` rather than write zeroes the slow way.
        const NO_FALLBACK = 4;
        /// The range reads as zeroes already (needs only [`Perm::WRITE_UNCHANGED`]).
        const UNCHANGED = 8;
    }
}

/// Where space for a grown image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Prealloc {
    /// No preallocation.
    #[default]
    Off,
    /// Allocate metadata only.
    Metadata,
    /// Reserve the space without writing it.
    Falloc,
    /// Write all of it.
    Full,
}

/// Where a piece of a node's bytes lives. Answered by [`Driver::locate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How many bytes from the asked offset on this holds for: more than 0; the core cuts what is over the request.
    pub len: u64,
    /// Where they live.
    pub kind: ExtentKind,
    /// The extent ends at the node's end.
    pub eof: bool,
}

/// The kinds of [`Extent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// In the driver's own storage (a protocol): read by [`Driver::read`]. `zero`: known to read as zeroes (a hole).
    Own {
        /// The host offset, where there is one.
        offset: Option<u64>,
        /// Known to read as zeroes.
        zero: bool,
    },
    /// In the driver's own storage, which keeps room there; zeroes are read.
    OwnZeroes {
        /// The host offset.
        offset: u64,
    },
    /// In the driver's own storage, which keeps nothing there; what is read there may still be anything.
    Hole,
    /// Plain in a child, at `offset` there.
    Child {
        /// Which child.
        slot: ChildSlot,
        /// Where in the child.
        offset: u64,
    },
    /// Zeroes, said by this node (it hides the backing file). `offset`: in the File child, if space is allocated.
    Zero {
        /// Where the preallocated space lies in the file child.
        offset: Option<u64>,
    },
    /// Not in this node: the Backing child has it at the same offset; zeroes where there is none or it ends before.
    Unallocated,
    /// Stored, but not as plain bytes: read by [`Driver::read`], which gets just this range.
    Compressed,
}

/// What block status says of bytes that a format keeps plainly in a child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Below {
    /// What the child says of them.
    #[default]
    Told,
    /// Data; and zeroes where the child says so: their room was taken when the image was made.
    Room,
    /// Data, whatever the child says: their room was taken because they were written.
    Data,
}

/// Keeps what [`Driver::locate`] answered in its place: as long as it lives, the place is not given to other data.
#[derive(Clone, Debug, Default)]
pub struct Hold {
    _counted: Option<Arc<()>>,
}

impl Hold {
    /// A hold that lasts as long as this count of references.
    pub fn new(counted: Arc<()>) -> Hold {
        Hold { _counted: Some(counted) }
    }
}

/// What an image's header says about its backing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingHint {
    /// The name as the header has it (maybe relative to the directory of the image).
    pub filename: String,
    /// The format's driver name, where the header says it.
    pub format: Option<String>,
}

/// A plain file that an image's header names as the holder of a part of its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHint {
    /// The child that it becomes.
    pub child: ChildOption,
    /// The name as the header has it (maybe relative to the directory of the image).
    pub filename: String,
}

/// What a driver tells queries about its node. Everything is optional.
#[derive(Clone, Debug, Default)]
pub struct DriverInfo {
    /// Bytes allocated on the host.
    pub actual_size: Option<u64>,
    /// The format's cluster size, bytes.
    pub cluster_size: Option<u64>,
    /// The image was not closed properly.
    pub dirty: Option<bool>,
    /// Holds compressed clusters.
    pub compressed: Option<bool>,
    /// Is encrypted.
    pub encrypted: Option<bool>,
    /// What only this format has.
    pub format_specific: Option<ImageInfoSpecific>,
    /// Internal snapshots.
    pub snapshots: Vec<SnapshotInfo>,
    /// Where, behind the disk's bytes, the state of a virtual machine would begin.
    pub vm_state_offset: Option<u64>,
    /// Bytes of the tables that are read when the image is opened, where the format says.
    pub tables: Option<u64>,
    /// What the image has and the driver does not know, but which does not keep it from being opened.
    pub unknown: Vec<String>,
}

/// Something to do with a snapshot inside an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotOp {
    /// Take one.
    Create {
        /// Its name.
        name: String,
        /// When, since 1970.
        date: std::time::Duration,
        /// Also where there is one of this name already.
        again: bool,
    },
    /// Delete the one with this id and this name, as far as they are given.
    Delete {
        /// The id.
        id: Option<String>,
        /// The name.
        name: Option<String>,
    },
    /// Make the disk what it was then.
    Apply {
        /// The id.
        id: Option<String>,
        /// The name.
        name: Option<String>,
    },
}

/// What a node is about to be: the argument of [`Driver::stage`].
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// The node's name (for messages).
    pub node_name: String,
    /// The flags that it will have.
    pub flags: NodeFlags,
    /// The flags that it has now.
    pub old_flags: NodeFlags,
    /// What its parents together will require and share.
    pub perm: PermPair,
    /// What they require and share now.
    pub old_perm: PermPair,
    /// The options, whole, that it will have. Immutable ones are checked already and equal the old.
    pub options: Arc<BlockdevOptions>,
    /// Whether this is a reopen (the options count), or only a change of permissions.
    pub reopen: bool,
}

impl NodePlan {
    /// Whether some parent will write or resize.
    pub fn writes(&self) -> bool {
        self.perm.perm.intersects(Perm::WRITES | Perm::RESIZE)
    }
}

/// A staged change: everything that can fail has happened. Dropping it undoes the staging.
pub trait Staged {
    /// Makes the change real. Never fails and never waits. Called inside a drained section of the node when this is a
    /// reopen; a change of permissions only may find requests in flight.
    fn commit(self: Box<Self>);
}

/// A staged change that needs nothing done.
pub struct NothingStaged;
impl Staged for NothingStaged {
    fn commit(self: Box<Self>) {}
}

/// What [`DriverType::open`] gets: the children are open and their permissions are in force.
pub struct OpenCx<'a> {
    /// To read the children.
    pub cx: Cx<'a>,
    /// The node's options, children as they were given.
    pub options: &'a BlockdevOptions,
    /// The node's flags. A driver with static degrading reports it through [`Driver::forced_read_only`].
    pub flags: NodeFlags,
    /// The name of the node.
    pub node_name: &'a str,
    /// Where events go.
    pub events: EventBus,
    /// No data will be read or written ([`crate::Policy::no_io`]): what only that needs, such as a key, may be left out.
    pub no_io: bool,
    /// The node is a machine's ([`crate::Policy::machine`]).
    pub machine: bool,
    /// The node is there to be checked ([`crate::Policy::checking`]): it repairs nothing by itself.
    pub checking: bool,
    /// Dirty bitmaps are stored when the image closes, not before ([`crate::Policy::late_bitmaps`]).
    pub late_bitmaps: bool,
    /// The objects that users have made, where there are any.
    pub objects: Option<Arc<qom::ObjectTree>>,
}

/// An open node's driver.
pub trait Driver: Send + Sync + 'static {
    /// The node's length, bytes. Cheap; follows resizes. A filter answers its child's ([`Cx::child_len`]).
    fn len(&self, cx: &Cx<'_>) -> u64;

    /// Needs of requests. Cheap; constant between reopens. `cx` gives a filter its child's limits.
    fn limits(&self, cx: &Cx<'_>) -> Limits {
        let _ = cx;
        Limits::default()
    }

    /// What the driver does natively. Cheap.
    fn caps(&self, cx: &Cx<'_>) -> Caps {
        let _ = cx;
        Caps::default()
    }

    /// Where the bytes from `off` on live, `len` bytes at most (`len > 0`, `off + len` within the node). Formats and
    /// filters: called for each read and for block status. Protocols: for block status only (find holes).
    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent>;

    /// What block status says of the bytes at `off`, where [`Driver::locate`] answers with a child.
    fn below(&self, off: u64) -> Below {
        let _ = off;
        Below::Told
    }

    /// Whether block status looks into the child for what reads as zeroes there ([`ExtentKind::Child`]). Where it does not,
    /// what a format stores is data; where space was only reserved, it should.
    fn looks_below<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a, bool> {
        let _ = cx;
        Box::pin(async { Ok(true) })
    }

    /// Taken before [`Driver::locate`] is asked for a read, and kept until the bytes were read from where it said.
    fn hold(&self) -> Hold {
        Hold::default()
    }

    /// Fills `buf` with the bytes from `off` on. Protocols: all reads (bytes beyond the end are zeroes). Formats: only
    /// for [`ExtentKind::Own`] and [`ExtentKind::Compressed`] extents.
    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        let _ = (cx, off, buf);
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// Reads from, or writes to, the state of a virtual machine that the image keeps beside its disk. `None`: the node keeps
    /// none itself; the child that holds its bytes may.
    fn vm_state<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, write: bool) -> Option<IoFuture<'a>> {
        let _ = (cx, off, buf, write);
        None
    }

    /// Whether a filter wants to be handed every read ([`Driver::read`]), rather than have the core follow
    /// [`Driver::locate`]. Block status still asks that.
    fn sees_reads(&self) -> bool {
        false
    }

    /// Whether the driver hears what the node above it does ([`Driver::event`]). Constant.
    fn hears(&self) -> bool {
        false
    }

    /// The node above is about to do this, and waits until the answer is there. Called where [`Driver::hears`]; nobody looks
    /// at an error.
    fn event<'a>(&'a self, event: BlkdebugEvent) -> IoFuture<'a> {
        let _ = event;
        Box::pin(async { Ok(()) })
    }

    /// Whether [`WriteFlags::COMPRESSED`] does what it says. Such writes are whole clusters
    /// ([`DriverInfo::cluster_size`]), the one at the end of the node apart.
    fn compresses(&self, cx: &Cx<'_>) -> bool {
        let _ = cx;
        false
    }

    /// Requests are being waited for, and new ones are kept off, until the same is called with false. A driver that
    /// holds requests back on purpose lets them go. Calls nest.
    fn drain(&self, begin: bool) {
        let _ = begin;
    }

    /// Reads the past state that the driver keeps (`copy-before-write`).
    fn snapshot_read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        let _ = (cx, off, buf);
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// Where the bytes of the past state are; `len` > 0.
    fn snapshot_status<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Status> {
        let _ = (cx, off, len);
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// The range of the past state is needed no more.
    fn snapshot_discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        let _ = (cx, off, len);
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// The length of the past state, bytes, if the driver keeps one.
    fn snapshot_len(&self) -> Option<u64> {
        None
    }

    /// Writes `buf` at `off`. Carries FUA only where [`Caps::fua`] is native. A protocol grows when the write ends
    /// behind its end (the core has checked [`Perm::RESIZE`]).
    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        let _ = (cx, off, buf, flags);
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// Makes the range read as zeroes. `ENOTSUP` lets the core fall back to writing zeroes.
    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        let _ = (cx, off, len, flags);
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// The range's content does not matter any more. `ENOTSUP` is taken as success by the core.
    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        let _ = (cx, off, len);
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// What the node's zones are like; `None`, the default: it is not zoned, and nobody calls the operations below. Cheap.
    fn zones(&self, cx: &Cx<'_>) -> Option<ZoneLimits> {
        let _ = cx;
        None
    }

    /// The zones from the one that `off` lies in on, `most` (at least one) at most.
    fn zone_report<'a>(&'a self, cx: &'a Cx<'a>, off: u64, most: u32) -> IoFuture<'a, Vec<Zone>> {
        let _ = (cx, off, most);
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// Does something to the zones of a range, which begins with a zone, and ends with one or at the node's end. `EIO` where
    /// it begins with a conventional zone and is not the whole node.
    fn zone_manage<'a>(&'a self, cx: &'a Cx<'a>, op: ZoneOp, off: u64, len: u64) -> IoFuture<'a> {
        let _ = (cx, op, off, len);
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// Writes `buf` as a whole at the pointer of the zone that begins at `off`, and answers where that was. `EINVAL` where the
    /// zone has no pointer, `EIO` where it has no room.
    fn zone_append<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a, u64> {
        let _ = (cx, off, buf);
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// Protocol: makes all completed writes stable. Format: writes cached metadata to the children; the core flushes
    /// the children afterwards. Not called when nothing was written since the last flush, nor, for a protocol, with
    /// `cache.no-flush`.
    fn flush<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        let _ = cx;
        Box::pin(async { Ok(()) })
    }

    /// Protocol: has what was written begin to become stable, without waiting for that: a flush is going to follow. A hint,
    /// which formats never see.
    fn write_behind<'a>(&'a self, cx: &'a Cx<'a>) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        let _ = cx;
        Box::pin(async {})
    }

    /// A driver that has its own way to make the children stable (that one of them fails may be no failure) does it here,
    /// and the core does not.
    fn flush_children<'a>(&'a self, cx: &'a Cx<'a>) -> Option<IoFuture<'a>> {
        let _ = cx;
        None
    }

    /// Sets the length. `exact`: exactly this length (a block device may otherwise be longer). Grown space reads as
    /// zeroes unless there is a backing child (the core then zeroes what it would show).
    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        let _ = (cx, len, exact, prealloc);
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// What the last [`Driver::truncate`] that failed could not do, in words, where the error alone says too little. Told once.
    fn truncate_failure(&self) -> Option<String> {
        None
    }

    /// Requests that wait for something to come back (a server, say) are to fail now.
    fn give_up(&self) {}

    /// Prepares a reopen or a change of permissions: opens what must be opened, takes locks (the union of old and
    /// new), writes back what a change to read-only needs. `cx` is the graph as it is now. All that can fail, fails
    /// here; dropping the returned value undoes it.
    fn stage<'a>(&'a self, cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        let _ = (cx, next);
        Box::pin(async { Ok(Box::new(NothingStaged) as Box<dyn Staged>) })
    }

    /// Called once when the node has become part of the graph, and after a reopen that made it writable. `cx` may
    /// write if the node may. An error fails a `blockdev-add`; after a reopen it is only logged.
    fn activate<'a>(&'a self, cx: &'a Cx<'a>) -> CtlFuture<'a> {
        let _ = cx;
        Box::pin(async { Ok(()) })
    }

    /// Whether [`Driver::internal_snapshot`] is there.
    fn has_internal_snapshots(&self) -> bool {
        false
    }

    /// Does something with a snapshot inside the image, while no request is in flight. `None`: there is no such snapshot,
    /// or there is one of this name already. The snapshot that was taken or deleted otherwise. The default refuses.
    fn internal_snapshot<'a>(
        &'a self,
        cx: &'a Cx<'a>,
        op: &'a SnapshotOp,
    ) -> CtlFuture<'a, Option<SnapshotInfo>> {
        let _ = op;
        let (driver, node) = (cx.node.ty.name, cx.node_name().to_owned());
        Box::pin(async move {
            Err(qerr!("Block format '{driver}' used by device '{node}' does not support internal snapshots"))
        })
    }

    /// Shows what the snapshot with this id and this name (as far as they are given) shows, from now on. Only asked of a
    /// read-only node. The default refuses.
    fn show_snapshot<'a>(
        &'a self,
        cx: &'a Cx<'a>,
        id: Option<&'a str>,
        name: Option<&'a str>,
    ) -> CtlFuture<'a> {
        let (driver, _) = (cx.node.ty.name, (id, name));
        Box::pin(async move {
            Err(qerr!(
                "Block format '{driver}' used by device '' does not support feature 'internal snapshots'"
            ))
        })
    }

    /// Changes the format's options in the image (`x-blockdev-amend`). The node may write meanwhile what its reader does
    /// not see ([`Perm::WRITE_UNCHANGED`]). The default refuses.
    fn amend<'a>(&'a self, cx: &'a Cx<'a>, options: &'a BlockdevAmendOptions, force: bool) -> CtlFuture<'a> {
        let _ = (cx, options, force);
        Box::pin(async { Err(qerr!("Driver does not support x-blockdev-amend")) })
    }

    /// Checks the image, and repairs what `fix` says (the node may write then). `log` gets a line for each finding.
    /// `None`, the default: the format has no checks. See also [`DriverType::check`].
    fn check<'a>(
        &'a self,
        cx: &'a Cx<'a>,
        fix: Fix,
        log: &'a mut dyn FnMut(&str),
    ) -> CtlFuture<'a, Option<Report>> {
        let _ = (cx, fix, log);
        Box::pin(async { Ok(None) })
    }

    /// The list of children to which `x-blockdev-change` may add, or from which it takes. `None`, the default: there is none.
    fn child_list(&self, cx: &Cx<'_>) -> Option<ChildList> {
        let _ = cx;
        None
    }

    /// Whether a child may be added to the list at all.
    fn may_add_child(&self, cx: &Cx<'_>) -> Result<(), QError> {
        let _ = cx;
        Ok(())
    }

    /// Whether this node can be a child of the list.
    fn fits_child(&self, cx: &Cx<'_>, child: &Cx<'_>) -> Result<(), QError> {
        let _ = (cx, child);
        Ok(())
    }

    /// Whether a child may be taken from the list.
    fn may_take_child(&self, cx: &Cx<'_>) -> Result<(), QError> {
        let _ = cx;
        Ok(())
    }

    /// Whether a dirty bitmap of this name and granularity (bytes) can be kept in the image.
    fn can_store_bitmap(&self, cx: &Cx<'_>, name: &str, granularity: u32) -> Result<(), QError> {
        let _ = (name, granularity);
        Err(qerr!("Can't store persistent bitmaps to {}: Operation not supported", cx.node_name()))
    }

    /// Whether images of this format can keep dirty bitmaps.
    fn keeps_bitmaps(&self) -> bool {
        false
    }

    /// The dirty bitmaps that the image keeps; asked once, after the driver was opened. Only reads.
    fn stored_bitmaps<'a>(&'a self, cx: &'a Cx<'a>) -> CtlFuture<'a, Vec<Bitmap>> {
        let _ = cx;
        Box::pin(async { Ok(Vec::new()) })
    }

    /// A bitmap that the image may keep is about to differ from what is stored.
    fn bitmaps_change<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        let _ = cx;
        Box::pin(async { Ok(()) })
    }

    /// Persistent bitmaps were added, or differ from what they were by more than what requests recorded (cleared, merged,
    /// enabled, resized): the image is to keep them as they are now. Called after the change; returns when a crash
    /// no longer loses it.
    fn bitmaps_changed<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        let _ = cx;
        Box::pin(async { Ok(()) })
    }

    /// A range is about to be changed while the node has persistent bitmaps. When this returns, a crash no longer
    /// loses that the range is dirty. What it answers is kept until the bitmaps in memory have recorded the change.
    fn record_ahead<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Ahead> {
        let _ = (cx, off, len);
        Box::pin(async { Ok(None) })
    }

    /// The image shall not keep this bitmap any more.
    fn remove_bitmap<'a>(&'a self, cx: &'a Cx<'a>, name: &'a str) -> CtlFuture<'a> {
        let _ = (cx, name);
        Box::pin(async { Ok(()) })
    }

    /// Last call: the node leaves the graph and no request is in flight. Writes back everything (the core flushes the
    /// children afterwards), marks the image clean.
    fn close<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        let _ = cx;
        Box::pin(async { Ok(()) })
    }

    /// The backing file that the image's header names.
    fn backing_hint(&self) -> Option<BackingHint> {
        None
    }

    /// The plain file that the image's header names as the holder of its data. It becomes the child `data-file`, where
    /// the options do not give one.
    fn data_file_hint(&self) -> Option<String> {
        None
    }

    /// The plain files that the image's header names as holders of parts of its data. They are opened after the driver,
    /// which finds them as its children when it is activated.
    fn file_hints(&self) -> Vec<FileHint> {
        Vec::new()
    }

    /// Writes into the image's header which backing file it has. Called while the node may write.
    fn write_backing_hint<'a>(&'a self, cx: &'a Cx<'a>, hint: Option<BackingHint>) -> CtlFuture<'a> {
        let _ = (cx, hint);
        Box::pin(async { Err(qapi::QError::new(Errno::NOTSUP.to_string())) })
    }

    /// Has the image hold nothing of its own any more: its backing file is seen all over. Called while the node may write and
    /// nobody uses it. `ENOTSUP`, the default: the format cannot.
    fn make_empty<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        let _ = cx;
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    /// The name of the file, for a protocol; a format's is its primary child's.
    fn filename(&self) -> Option<String> {
        None
    }

    /// The name of a node whose primary child has a name, given the names of its children. The default is that of the
    /// child `file`: a format does not change it. `None` where no name alone describes the node. For a filter that has no
    /// name of its own, none does.
    fn name_over(&self, child: &dyn Fn(ChildSlot) -> Option<String>) -> Option<String> {
        child(ChildSlot::File)
    }

    /// True where the driver degraded to read-only when it was opened (static `auto-read-only`).
    fn forced_read_only(&self) -> bool {
        false
    }

    /// By what others of the driver's own crate reach it.
    fn handle(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// What it counts beside what is counted of every node (`driver-specific` of `query-blockstats`). Must not wait.
    fn stats(&self) -> Option<BlockStatsSpecific> {
        None
    }

    /// What queries show. Must not wait for storage.
    fn info(&self, cx: &Cx<'_>) -> DriverInfo {
        let _ = cx;
        DriverInfo::default()
    }
}

/// The description of a driver: one static value each, listed in its crate's `DRIVERS`.
pub struct DriverType {
    /// The name in `driver=`.
    pub name: &'static str,
    /// Protocol, format or filter.
    pub kind: Kind,
    /// Options that a reopen may change or leave out (flattened names: `cache-size`, `overlap-check.template`; a name
    /// stands for all keys below it too).
    pub mutable_opts: &'static [&'static str],
    /// Whether it takes a `backing` child.
    pub supports_backing: bool,
    /// Whether `blockdev-reopen` can be asked of it.
    pub supports_reopen: bool,
    /// The file names that it takes, where those of the user may mean it.
    pub file_names: Option<FileNames>,
    /// Puts options that command lines have by other names under those of the contract, for a driver that takes no file names.
    pub older: Option<fn(&mut Dict) -> Result<(), QError>>,
    /// The children it takes, by its options (a role may depend on them). `backing` must be listed by those that
    /// support it.
    pub children: fn(&BlockdevOptions) -> SmallVec<[ChildOption; 2]>,
    /// What it asks of a child, from what its parents ask of it; usually [`default_child_perm`]. Pure.
    pub child_perm: fn(&ChildDef, PermPair, &NodeFlags) -> PermPair,
    /// Opens a node. Only reads.
    pub open: for<'a> fn(OpenCx<'a>) -> OpenFuture<'a>,
    /// How sure (0–100) the driver is that an image that begins with these bytes is its own.
    pub probe: Option<fn(&[u8], &str) -> u32>,
    /// How images are made, where they can be.
    pub create: Option<&'static Creation>,
    /// Checks an image by its file alone, with nothing open above it: for formats whose images may be too damaged to be
    /// opened. Others implement [`Driver::check`].
    pub check: Option<CheckFn>,
    /// Whether users are told where the bytes of an image are; else all of it is shown as data somewhere.
    pub shows_places: bool,
    /// Whether there are images of the format that keep compressed data.
    pub may_compress: bool,
    /// The options that tell which bytes a node shows, by their first names: they stand in the name by which the node can be
    /// opened again. `None`: those of the list that most drivers have in common.
    pub telling: Option<&'static [&'static str]>,
}

impl DriverType {
    /// What most drivers leave as it is. A description ends with `..DriverType::BASE`, so that it need not name what
    /// it has not.
    pub const BASE: DriverType = DriverType {
        name: "",
        kind: Kind::Format,
        mutable_opts: &[],
        supports_backing: false,
        supports_reopen: false,
        file_names: None,
        older: None,
        children: no_children,
        child_perm: default_child_perm,
        open: |_| Box::pin(async { Err(qerr!("The driver cannot be opened")) }),
        probe: None,
        create: None,
        check: None,
        shows_places: true,
        may_compress: false,
        telling: None,
    };
}

impl std::fmt::Debug for DriverType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DriverType").field("name", &self.name).field("kind", &self.kind).finish()
    }
}

/// No children: for protocols.
pub fn no_children(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    SmallVec::new()
}

/// What an edge of this role asks of its child when the node's parents together ask `parent`.
///
/// - A filter passes both through.
/// - A backing file is read; nobody else may write to it, unless the parents share writing themselves.
/// - A format's own file is written and resized whenever the node is writable, is read for metadata always, and nobody
///   else may write or resize it.
pub fn default_child_perm(child: &ChildDef, parent: PermPair, next: &NodeFlags) -> PermPair {
    let role = child.role;
    if role.contains(Role::FILTERED) {
        return PermPair { perm: parent.perm | role.takes(), shared: parent.shared - role.unshares() };
    }
    if role.contains(Role::COW) {
        let mut shared = Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED;
        if parent.shared.contains(Perm::WRITE) {
            shared |= Perm::WRITE | Perm::RESIZE;
        }
        if next.inactive {
            shared |= Perm::WRITE | Perm::RESIZE;
        }
        return PermPair { perm: parent.perm & Perm::CONSISTENT_READ, shared };
    }
    let writable = !next.read_only && !next.inactive;
    let PermPair { mut perm, mut shared } = parent;
    if role.contains(Role::METADATA) {
        if writable {
            perm |= Perm::WRITE | Perm::RESIZE;
        }
        perm |= Perm::CONSISTENT_READ;
        shared -= Perm::WRITE | Perm::RESIZE;
    }
    if role.contains(Role::DATA) {
        // A change of the data's length pulls the rug from under the format; and what is "unchanged" above
        // may well be an allocating write below.
        shared -= Perm::RESIZE;
        // And what lies between an old end and a new one within a cluster is zeroed.
        let resizes = writable && perm.contains(Perm::RESIZE);
        if resizes || perm.contains(Perm::WRITE_UNCHANGED) {
            perm |= Perm::WRITE;
        }
        if perm.contains(Perm::WRITE) {
            perm |= Perm::RESIZE;
        }
    }
    if next.inactive {
        shared |= Perm::WRITE | Perm::RESIZE;
    }
    PermPair { perm, shared }
}

/// A node within one snapshot of the graph: how a driver reaches its children.
///
/// Cheap to copy. A request gets one and keeps it to its end, so that a change of the graph never shows half-way.
#[derive(Clone, Copy)]
pub struct Cx<'a> {
    pub(crate) graph: &'a Arc<Graph>,
    pub(crate) node: &'a Arc<Node>,
}

impl<'a> Cx<'a> {
    /// The node's flags.
    pub fn flags(&self) -> NodeFlags {
        self.node.flags
    }

    /// The node's name.
    pub fn node_name(&self) -> &'a str {
        &self.node.name
    }

    /// What the node's parents together require and share.
    pub fn perm(&self) -> PermPair {
        self.graph.effective(self.node.id)
    }

    /// The name of the file that stands for the node.
    pub fn filename(&self) -> Option<String> {
        self.primary_filename()
    }

    /// What the node's driver tells of it.
    pub fn driver_info(&self) -> DriverInfo {
        self.node.driver.as_ref().map(|d| d.info(self)).unwrap_or_default()
    }

    /// Whether there is a child in `slot`.
    pub fn has_child(&self, slot: ChildSlot) -> bool {
        self.node.edge(slot).is_some()
    }

    /// The node in `slot`, seen as its own driver sees it.
    pub fn child(&self, slot: ChildSlot) -> IoResult<Cx<'a>> {
        let edge = self.node.edge(slot).ok_or(Errno::NOMEDIUM)?;
        let node = self.graph.node(edge.child).ok_or(Errno::NOMEDIUM)?;
        Ok(Cx { graph: self.graph, node })
    }

    /// Tells the child in `slot` what this node is about to do, where somebody wants to know: a test.
    pub async fn child_event(&self, slot: ChildSlot, event: BlkdebugEvent) {
        if self.graph.listens
            && let Ok(child) = self.child(slot)
        {
            child.own_event(event).await;
        }
    }

    /// Tells the node's own driver what is about to be done with the node.
    pub(crate) async fn own_event(&self, event: BlkdebugEvent) {
        if self.graph.listens
            && let Some(d) = self.node.driver.as_ref().filter(|d| d.hears())
        {
            // There is nothing that an error could stop.
            let _ = d.event(event).await;
        }
    }

    /// The child's length, bytes.
    pub fn child_len(&self, slot: ChildSlot) -> IoResult<u64> {
        self.child(slot).map(|c| c.len())
    }

    /// How many bytes a child's file takes on the disk, where that is known.
    pub fn child_allocated(&self, slot: ChildSlot) -> Option<u64> {
        crate::query::allocated(self.child(slot).ok()?)
    }

    /// The child's limits.
    pub fn child_limits(&self, slot: ChildSlot) -> IoResult<Limits> {
        self.child(slot).map(|c| c.limits())
    }

    /// The child's capabilities.
    pub fn child_caps(&self, slot: ChildSlot) -> IoResult<Caps> {
        self.child(slot).map(|c| c.caps())
    }
}
