//! `compress`: every write is stored compressed by the format below.

use crate::{FILE, cluster_size, in_child, one_child};
use block::driver::{
    Caps, ChildSlot, Cx, Driver, DriverType, Extent, IoFuture, Kind, Limits, OpenCx, OpenFuture, Prealloc,
    WriteFlags, ZeroFlags, default_child_perm,
};
use mem::IoBuf;
use qapi::qerr;
use std::sync::Arc;

/// `compress`.
pub static COMPRESS: DriverType = DriverType {
    name: "compress",
    kind: Kind::Filter,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: true,
    children: one_child,
    child_perm: default_child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

struct Compress;

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let child = o.cx.child(FILE).map_err(|e| qerr!("{e}"))?;
        if !child.compresses() {
            let name = child.driver_name();
            return Err(qerr!("Compression is not supported for underlying format: {name}"));
        }
        Ok(Arc::new(Compress) as Arc<dyn Driver>)
    })
}

impl Driver for Compress {
    fn name_over(&self, _: &dyn Fn(ChildSlot) -> Option<String>) -> Option<String> {
        None
    }

    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.child_len(FILE).unwrap_or(0)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        let mut limits = cx.child_limits(FILE).unwrap_or_default();
        // Only whole clusters can be compressed; what is shorter becomes one by reading the rest.
        let cluster = cx.child(FILE).ok().and_then(cluster_size).unwrap_or(0);
        let cluster = u32::try_from(cluster).unwrap_or(0);
        limits.request_alignment = limits.request_alignment.max(cluster);
        limits
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
        Box::pin(async move {
            // The last cluster may reach over the end.
            let have = cx.child_len(FILE)?.saturating_sub(off).min(buf.len() as u64);
            let buf = buf.slice(0..have as usize);
            cx.child_write(FILE, off, buf, flags | WriteFlags::COMPRESSED).await
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(cx.child_write_zeroes(FILE, off, len, flags))
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(cx.child_discard(FILE, off, len))
    }

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(cx.child_truncate(FILE, len, exact, prealloc))
    }
}
