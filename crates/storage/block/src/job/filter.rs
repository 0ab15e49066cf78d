//! The filters that jobs put above a node: they show it unchanged and let the job see every change of it.

use crate::driver::{
    Caps, ChildDef, ChildSlot, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits, NodeFlags,
    OpenCx, OpenFuture, Prealloc, Support, WriteFlags, ZeroFlags, no_children,
};
use crate::perm::{Perm, PermPair};
use base::IoResult;
use mem::IoBuf;
use qapi::qerr;
use std::sync::Arc;

/// The slot of the node that a filter shows.
pub const SOURCE: ChildSlot = ChildSlot::File;
/// The slot of the node that the job writes to.
pub const TARGET: ChildSlot = ChildSlot::Other(0);

/// A change of the filtered node's bytes.
#[derive(Clone, Debug)]
pub enum Request {
    /// New bytes.
    Write(u64, IoBuf, WriteFlags),
    /// Zeroes: offset and length.
    Zeroes(u64, u64, ZeroFlags),
    /// Nobody needs the bytes: offset and length.
    Discard(u64, u64),
}

impl Request {
    /// Offset and length, bytes.
    pub fn range(&self) -> (u64, u64) {
        match self {
            Request::Write(off, buf, _) => (*off, buf.len() as u64),
            Request::Zeroes(off, len, _) | Request::Discard(off, len) => (*off, *len),
        }
    }

    /// Does it to the child in `slot`.
    pub async fn apply(&self, cx: &Cx<'_>, slot: ChildSlot) -> IoResult<()> {
        match self {
            Request::Write(off, buf, flags) => cx.child_write(slot, *off, buf.clone(), *flags).await,
            Request::Zeroes(off, len, flags) => cx.child_write_zeroes(slot, *off, *len, *flags).await,
            Request::Discard(off, len) => cx.child_discard(slot, *off, *len).await,
        }
    }
}

/// What a job does around each change. Called from any executor thread.
pub trait Watch: Send + Sync + 'static {
    /// Does the change ([`Request::apply`] to [`SOURCE`]) and what the job needs done before and after it.
    fn change<'a>(&'a self, cx: &'a Cx<'a>, request: Request) -> IoFuture<'a> {
        Box::pin(async move { request.apply(cx, SOURCE).await })
    }
}

/// A job that need not see changes.
pub struct Blind;
impl Watch for Blind {}

/// The driver of all such filters.
pub(crate) struct JobFilter(pub(crate) Arc<dyn Watch>);

impl Driver for JobFilter {
    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.child_len(SOURCE).unwrap_or(0)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        cx.child_limits(SOURCE).unwrap_or_default()
    }

    fn caps(&self, _: &Cx<'_>) -> Caps {
        Caps { fua: Support::Native, write_zeroes: Support::Native, discard: Support::Native }
    }

    fn locate<'a>(&'a self, _: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        let kind = ExtentKind::Child { slot: SOURCE, offset: off };
        Box::pin(async move { Ok(Extent { len, kind, eof: false }) })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        self.0.change(cx, Request::Write(off, buf, flags))
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        self.0.change(cx, Request::Zeroes(off, len, flags))
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        self.0.change(cx, Request::Discard(off, len))
    }

    // A job does not share resizing with other users of its filter; this is for those that it has itself.
    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(async move { cx.child_truncate(SOURCE, len, exact, prealloc).await })
    }
}

fn cannot_open(_: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async { Err(qerr!("Only a job makes such a node")) })
}

/// The description of a job's filter.
const fn filter(
    name: &'static str,
    child_perm: fn(&ChildDef, PermPair, &NodeFlags) -> PermPair,
) -> DriverType {
    DriverType {
        name,
        kind: Kind::Filter,
        mutable_opts: &[],
        supports_backing: false,
        supports_reopen: false,
        children: no_children,
        child_perm,
        open: cannot_open,
        probe: None,
        ..DriverType::BASE
    }
}

/// Above the topmost image of those that are merged into one below. The images above the base are only read through it,
/// so that nobody relies on what they show while the base changes under them.
pub static COMMIT_TOP: DriverType = filter("commit_top", |child, _, _| match child.slot {
    SOURCE => PermPair::NONE,
    _ => base(child),
});

/// Above a node that is mirrored.
pub static MIRROR_TOP: DriverType = filter("mirror_top", |child, parent, _| match child.slot {
    SOURCE => reader(parent),
    _ => PermPair { perm: Perm::WRITE, shared: Perm::WRITE_UNCHANGED },
});

/// Above an active image that is merged into one below.
pub static MIRROR_TOP_COMMIT: DriverType = filter("mirror_top", |child, parent, _| match child.slot {
    SOURCE => PermPair { perm: parent.perm - Perm::CONSISTENT_READ, shared: Perm::all() },
    _ => base(child),
});

/// As [`MIRROR_TOP_COMMIT`], where nobody who could write the image below has anything to say any more.
pub static MIRROR_TOP_FAILOVER: DriverType = filter("mirror_top", |child, parent, flags| {
    let p = (MIRROR_TOP_COMMIT.child_perm)(child, parent, flags);
    if child.slot == SOURCE { p } else { PermPair { shared: p.shared | Perm::WRITE, ..p } }
});

/// Above a node that is made independent of its backing files.
pub static STREAM_TOP: DriverType = filter("copy-on-read", |_, parent, _| PermPair {
    perm: parent.perm | Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED,
    shared: parent.shared | Perm::WRITE_UNCHANGED,
});

/// The same above a filter: copying in it keeps nobody off who writes what it shows.
pub static STREAM_TOP_FILTER: DriverType = filter("copy-on-read", |_, parent, _| {
    let p = reader(parent);
    PermPair { perm: p.perm | Perm::WRITE_UNCHANGED, ..p }
});

/// Above a node of which a copy is made as it was at one moment. The target's own backing file may be that node.
pub static BACKUP_TOP: DriverType = filter("copy-before-write", |child, parent, _| match child.slot {
    SOURCE => reader(parent),
    _ => PermPair { perm: Perm::WRITE, shared: Perm::all() },
});

/// Whether a link is that by which a filter shows a node that only it may write, although what lies behind the node is
/// written by the job: not sharing that through the link would forbid it to the job as well.
pub(crate) fn is_sole_writer(ty: &DriverType, slot: ChildSlot) -> bool {
    (std::ptr::eq(ty, &MIRROR_TOP_COMMIT) || std::ptr::eq(ty, &MIRROR_TOP_FAILOVER)) && slot == SOURCE
}

/// As [`BACKUP_TOP`], where the job discards what it has copied.
pub static BACKUP_TOP_DISCARD: DriverType = filter("copy-before-write", |child, parent, flags| {
    let p = (BACKUP_TOP.child_perm)(child, parent, flags);
    if child.slot == SOURCE { PermPair { perm: p.perm | Perm::WRITE, ..p } } else { p }
});

/// Whether it is the filter of a backup.
pub(crate) fn is_backup(ty: &DriverType) -> bool {
    std::ptr::eq(ty, &BACKUP_TOP) || std::ptr::eq(ty, &BACKUP_TOP_DISCARD)
}

/// What images are merged into: nobody else writes it, and it grows where its link's role says so.
fn base(child: &ChildDef) -> PermPair {
    PermPair {
        perm: Perm::CONSISTENT_READ | Perm::WRITE | child.role.takes(),
        shared: Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED,
    }
}

/// The job reads the node, and nobody else may write it behind the filter.
fn reader(parent: PermPair) -> PermPair {
    PermPair {
        perm: parent.perm | Perm::CONSISTENT_READ,
        shared: parent.shared & (Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED),
    }
}
