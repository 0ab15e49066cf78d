//! `blkreplay`: the place where record and replay of a machine would take part in its requests. A machine that neither
//! records nor replays has its requests pass, as here always.

use api::block_core::BlockdevOptions;
use block::driver::{
    Caps, ChildOption, ChildSlot, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits, OpenCx,
    OpenFuture, WriteFlags, ZeroFlags, default_child_perm,
};
use block::perm::Role;
use mem::IoBuf;
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// `blkreplay`.
pub static BLKREPLAY: DriverType = DriverType {
    name: "blkreplay",
    kind: Kind::Filter,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: false,
    children,
    child_perm: default_child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

/// The child whose bytes are shown.
const IMAGE: ChildSlot = ChildSlot::File;

fn children(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let role = Role::FILTERED | Role::PRIMARY;
    smallvec![ChildOption { name: "image", slot: IMAGE, role, required: true }]
}

struct Blkreplay;

fn open<'a>(_: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async { Ok(Arc::new(Blkreplay) as Arc<dyn Driver>) })
}

impl Driver for Blkreplay {
    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.child_len(IMAGE).unwrap_or(0)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        cx.child_limits(IMAGE).unwrap_or_default()
    }

    fn caps(&self, cx: &Cx<'_>) -> Caps {
        cx.child_caps(IMAGE).unwrap_or_default()
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let have = cx.child_len(IMAGE)?.saturating_sub(off);
            let len = len.min(have.max(1));
            Ok(Extent { len, kind: ExtentKind::Child { slot: IMAGE, offset: off }, eof: len >= have })
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(cx.child_write(IMAGE, off, buf, flags))
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(cx.child_write_zeroes(IMAGE, off, len, flags))
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(cx.child_discard(IMAGE, off, len))
    }
}
