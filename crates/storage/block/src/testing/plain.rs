//! A filter that passes everything through, and a node with nothing behind it.

use crate::driver::{
    Caps, ChildOption, ChildSlot, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits, OpenCx,
    OpenFuture, Prealloc, Support, WriteFlags, ZeroFlags, default_child_perm, no_children,
};
use crate::perm::Role;
use api::block_core::{BlockdevDriverOptions, BlockdevOptions};
use mem::IoBuf;
use qapi::qerr;
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

struct SimRaw;

/// Passes everything through; answers to `raw`.
pub static SIM_RAW: DriverType = DriverType {
    name: "raw",
    kind: Kind::Format,
    mutable_opts: &["offset", "size"],
    supports_backing: false,
    supports_reopen: true,
    children: raw_children,
    child_perm: default_child_perm,
    open: open_raw,
    probe: None,
    ..DriverType::BASE
};

fn raw_children(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let role = Role::FILTERED | Role::PRIMARY;
    smallvec![ChildOption { name: "file", slot: ChildSlot::File, role, required: true }]
}

fn open_raw(_: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async { Ok(Arc::new(SimRaw) as Arc<dyn Driver>) })
}

impl Driver for SimRaw {
    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.child_len(ChildSlot::File).unwrap_or(0)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        cx.child_limits(ChildSlot::File).unwrap_or_default()
    }

    fn caps(&self, _: &Cx<'_>) -> Caps {
        Caps { fua: Support::Native, write_zeroes: Support::Native, discard: Support::Native }
    }

    fn locate<'a>(&'a self, _: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        let kind = ExtentKind::Child { slot: ChildSlot::File, offset: off };
        Box::pin(async move { Ok(Extent { len, kind, eof: false }) })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(cx.child_write(ChildSlot::File, off, buf, flags))
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(cx.child_write_zeroes(ChildSlot::File, off, len, flags))
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(cx.child_discard(ChildSlot::File, off, len))
    }

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(cx.child_truncate(ChildSlot::File, len, exact, prealloc))
    }
}

struct SimNull(u64);

/// Nothing behind it; answers to `null-co`.
pub static SIM_NULL: DriverType = DriverType {
    name: "null-co",
    kind: Kind::Protocol,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: true,
    children: no_children,
    child_perm: default_child_perm,
    open: open_null,
    probe: None,
    ..DriverType::BASE
};

fn open_null(o: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async move {
        let BlockdevDriverOptions::NullCo(n) = &o.options.driver else { return Err(qerr!("not null-co")) };
        let size = n.size.and_then(|s| u64::try_from(s).ok()).unwrap_or(1 << 30);
        Ok(Arc::new(SimNull(size)) as Arc<dyn Driver>)
    })
}

impl Driver for SimNull {
    fn len(&self, _: &Cx<'_>) -> u64 {
        self.0
    }

    fn locate<'a>(&'a self, _: &'a Cx<'a>, _: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(
            async move { Ok(Extent { len, kind: ExtentKind::Own { offset: None, zero: true }, eof: false }) },
        )
    }

    fn read<'a>(&'a self, _: &'a Cx<'a>, _: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            buf.fill(0);
            Ok(())
        })
    }

    fn write<'a>(&'a self, _: &'a Cx<'a>, _: u64, _: IoBuf, _: WriteFlags) -> IoFuture<'a> {
        Box::pin(async { Ok(()) })
    }
}
