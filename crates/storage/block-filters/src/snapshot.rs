//! `snapshot-access`: the past state that the `copy-before-write` filter below keeps, for reading.

use crate::FILE;
use api::block_core::BlockdevOptions;
use base::Errno;
use block::driver::{
    Caps, ChildDef, ChildOption, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, NodeFlags,
    OpenCx, OpenFuture, Support, WriteFlags,
};
use block::perm::{Perm, PermPair, Role};
use mem::IoBuf;
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// `snapshot-access`.
pub static SNAPSHOT_ACCESS: DriverType = DriverType {
    name: "snapshot-access",
    kind: Kind::Protocol,
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
    let role = Role::DATA | Role::PRIMARY;
    smallvec![ChildOption { name: "file", slot: FILE, role, required: true }]
}

/// Whoever reads the past state only has others kept from writing past the filter.
fn child_perm(_: &ChildDef, parent: PermPair, _: &NodeFlags) -> PermPair {
    PermPair { perm: parent.perm & Perm::CONSISTENT_READ, shared: Perm::all() }
}

struct SnapshotAccess;

fn open<'a>(_: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move { Ok(Arc::new(SnapshotAccess) as Arc<dyn Driver>) })
}

impl Driver for SnapshotAccess {
    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.child_snapshot_len(FILE).or_else(|| cx.child_len(FILE).ok()).unwrap_or(0)
    }

    fn caps(&self, _: &Cx<'_>) -> Caps {
        Caps { discard: Support::Native, ..Caps::default() }
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let st = cx.child_snapshot_status(FILE, off, len).await?;
            let kind = ExtentKind::Own { offset: None, zero: st.zero };
            Ok(Extent { len: st.len, kind, eof: st.eof })
        })
    }

    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move { cx.child_snapshot_read(FILE, off, buf).await })
    }

    fn write<'a>(&'a self, _: &'a Cx<'a>, _: u64, _: IoBuf, _: WriteFlags) -> IoFuture<'a> {
        Box::pin(async { Err(Errno::NOTSUP) })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move { cx.child_snapshot_discard(FILE, off, len).await })
    }
}
