//! `copy-on-read`: what is read from backing files is stored in the node above them.

use crate::{FILE, in_child, not_ours, one_child};
use api::block_core::{BlockdevDriverOptions, BlockdevOptions};
use block::driver::{
    Caps, ChildDef, ChildSlot, CtlFuture, Cx, Driver, DriverType, Extent, IoFuture, Kind, Limits, NodeFlags,
    NodePlan, NothingStaged, OpenCx, OpenFuture, Prealloc, Staged, WriteFlags, ZeroFlags,
};
use block::graph::NodeId;
use block::perm::{Perm, PermPair};
use mem::IoBuf;
use qapi::{QError, qerr};
use std::sync::Arc;

/// `copy-on-read`.
pub static COPY_ON_READ: DriverType = DriverType {
    name: "copy-on-read",
    kind: Kind::Filter,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: true,
    children: one_child,
    child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

/// As the parents do; and a read writes what does not change.
fn child_perm(_: &ChildDef, parent: PermPair, next: &NodeFlags) -> PermPair {
    let mut pair = parent;
    pair.perm -= Perm::WRITE_UNCHANGED;
    if !next.inactive {
        pair.perm |= Perm::WRITE_UNCHANGED;
    }
    pair.shared |= Perm::WRITE_UNCHANGED;
    pair
}

struct CopyOnRead {
    /// The lowest node of the chain from which is copied.
    bottom: Option<NodeId>,
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let bottom = bottom(&o.cx, o.options)?;
        Ok(Arc::new(CopyOnRead { bottom }) as Arc<dyn Driver>)
    })
}

fn bottom(cx: &Cx<'_>, options: &BlockdevOptions) -> Result<Option<NodeId>, QError> {
    let BlockdevDriverOptions::CopyOnRead(o) = &options.driver else { return Err(not_ours("copy-on-read")) };
    let Some(name) = &o.bottom else { return Ok(None) };
    if !cx.knows(name) {
        return Err(qerr!("Bottom node '{name}' not found"));
    }
    let node = cx.in_chain(FILE, name);
    let node = node.ok_or_else(|| qerr!("Bottom node '{name}' is not in the chain of backing files"))?;
    if node.is_filter() {
        return Err(qerr!("Bottom node '{name}' is a filter"));
    }
    Ok(Some(node.id()))
}

impl Driver for CopyOnRead {
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

    fn sees_reads(&self) -> bool {
        true
    }

    fn compresses(&self, cx: &Cx<'_>) -> bool {
        cx.child(FILE).is_ok_and(|c| c.compresses())
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move { in_child(cx, off, len) })
    }

    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(cx.child_copy_on_read(FILE, off, buf, self.bottom))
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(cx.child_write(FILE, off, buf, flags))
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

    fn stage<'a>(&'a self, _cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            if next.flags.read_only && !next.old_flags.read_only {
                return Err(qerr!("Can't set node '{}' to r/o with copy-on-read enabled", next.node_name));
            }
            Ok(Box::new(NothingStaged) as Box<dyn Staged>)
        })
    }
}
