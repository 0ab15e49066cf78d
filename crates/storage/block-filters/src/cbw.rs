//! `copy-before-write`: what is about to be overwritten is copied to another node first.
//!
//! The filter thus keeps the state of its child at the time when it began to filter ([`Past`]); `snapshot-access` shows
//! that state.

use crate::past::{MAX_PIECE, MIN_PIECE, Past, PastSpec};
use crate::{FILE, cluster_size, in_child, not_ours};
use api::block_core::{BlockdevDriverOptions, BlockdevOptions, OnCbwError};
use block::driver::{
    Caps, ChildDef, ChildOption, ChildSlot, Cx, Driver, DriverType, Extent, IoFuture, Kind, Limits,
    NodeFlags, OpenCx, OpenFuture, Prealloc, WriteFlags, ZeroFlags, default_child_perm,
};
use block::job::filter::{Request, TARGET, Watch};
use block::perm::{Perm, PermPair, Role};
use block::request::Status;
use mem::IoBuf;
use qapi::{QError, qerr};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;
use std::time::Duration;

/// `copy-before-write`.
pub static COPY_BEFORE_WRITE: DriverType = DriverType {
    name: "copy-before-write",
    kind: Kind::Filter,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: false,
    children,
    child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

fn children(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let role = Role::FILTERED | Role::PRIMARY;
    smallvec![
        ChildOption { name: "file", slot: FILE, role, required: true },
        // Written on the side: a guest's flush does not concern it.
        ChildOption { name: "target", slot: TARGET, role: Role::empty(), required: true },
    ]
}

fn child_perm(child: &ChildDef, parent: PermPair, next: &NodeFlags) -> PermPair {
    if child.slot == TARGET {
        // Whoever writes to the guest's disk may write to the target too: the disk may be its backing file.
        return PermPair { perm: Perm::WRITE, shared: Perm::all() - Perm::RESIZE };
    }
    let mut pair = default_child_perm(child, parent, next);
    if parent != PermPair::NONE {
        // With users, nobody may write past the filter, and before each write the old bytes are read.
        if pair.perm.contains(Perm::WRITE) {
            pair.perm |= Perm::CONSISTENT_READ;
        }
        pair.shared -= Perm::WRITE | Perm::RESIZE;
    }
    pair
}

struct CopyBeforeWrite(Past);

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move { Ok(Arc::new(CopyBeforeWrite(past(&o)?)) as Arc<dyn Driver>) })
}

/// The bytes that are best copied as one to the child `target` of `cx`; `min` = 0 for no wish.
pub fn piece_for(cx: &Cx<'_>, min: u64) -> Result<u64, QError> {
    let cannot = |e: QError| e.prepend("Cannot create block-copy-state");
    if min > i64::MAX as u64 {
        return Err(cannot(qerr!("min-cluster-size too large: {min} > {}", i64::MAX)));
    }
    if min != 0 && !min.is_power_of_two() {
        return Err(cannot(qerr!("min-cluster-size needs to be a power of 2")));
    }
    let target = cx.child(TARGET).map_err(|e| qerr!("{e}"))?;
    let source = cx.child(FILE).map_err(|e| qerr!("{e}"))?;
    // The source's pieces are read with no padding, the target's clusters are written whole.
    let aligned = source.limits().request_alignment.max(target.limits().request_alignment);
    let piece = MIN_PIECE.max(min).max(cluster_size(target).unwrap_or(0)).max(u64::from(aligned));
    if piece > MAX_PIECE {
        return Err(cannot(qerr!("pieces of {piece} bytes are too long to copy; at most {MAX_PIECE}")));
    }
    Ok(piece)
}

fn past(o: &OpenCx<'_>) -> Result<Past, QError> {
    let BlockdevDriverOptions::CopyBeforeWrite(c) = &o.options.driver else {
        return Err(not_ours("copy-before-write"));
    };
    let len = o.cx.child_len(FILE).map_err(|e| qerr!("{e}"))?;
    let only = c.bitmap.as_ref().map(|b| o.cx.bitmap_of(&b.node, &b.name)).transpose()?;
    if let Some(b) = &only
        && b.size() != len
    {
        let name = b.name();
        return Err(qerr!("Bitmap '{name}' is {} bytes long, but the node is {len} bytes long", b.size()));
    }
    let seconds = c.cbw_timeout.filter(|s| *s != 0);
    Past::new(PastSpec {
        len,
        piece: piece_for(&o.cx, c.min_cluster_size.unwrap_or(0))?,
        only,
        give_up: c.on_cbw_error == Some(OnCbwError::BreakSnapshot),
        timeout: seconds.map(|s| Duration::from_secs(s.into())),
        write: WriteFlags::empty(),
    })
}

impl Driver for CopyBeforeWrite {
    fn name_over(&self, _: &dyn Fn(ChildSlot) -> Option<String>) -> Option<String> {
        None
    }

    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.child_len(FILE).unwrap_or(0)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        cx.child_limits(FILE).unwrap_or_default()
    }

    fn caps(&self, cx: &Cx<'_>) -> Caps {
        cx.child_caps(FILE).unwrap_or_default()
    }

    fn compresses(&self, cx: &Cx<'_>) -> bool {
        cx.child(FILE).is_ok_and(|c| c.compresses())
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move { in_child(cx, off, len) })
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

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(async move {
            self.0.before_write(cx, len, u64::MAX).await?;
            cx.child_truncate(FILE, len, exact, prealloc).await
        })
    }

    fn snapshot_len(&self) -> Option<u64> {
        Some(self.0.len())
    }

    fn snapshot_read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(self.0.read(cx, off, buf))
    }

    fn snapshot_status<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Status> {
        Box::pin(self.0.status(cx, off, len))
    }

    fn snapshot_discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(self.0.discard(cx, off, len))
    }
}
