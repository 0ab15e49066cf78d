//! The driver `replication`: the bytes of its child, as far as replication goes on.

use super::{Replica, Stage};
use api::block_core::{BlockdevDriverOptions, BlockdevOptions, ReplicationMode};
use base::{Errno, IoResult};
use block::driver::{
    Caps, ChildDef, ChildOption, ChildSlot, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind,
    Limits, NodeFlags, OpenCx, OpenFuture, Support, WriteFlags, ZeroFlags,
};
use block::perm::{Perm, PermPair, Role};
use mem::IoBuf;
use qapi::{QError, qerr};
use smallvec::{SmallVec, smallvec};
use std::any::Any;
use std::sync::Arc;

/// `replication`.
pub static REPLICATION: DriverType = DriverType {
    name: "replication",
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

/// The active disk on the secondary side; on the primary, the way to the secondary side.
pub(super) const FILE: ChildSlot = ChildSlot::File;

fn children(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let role = Role::FILTERED | Role::PRIMARY;
    smallvec![ChildOption { name: "file", slot: FILE, role, required: true }]
}

/// Whoever keeps the secondary disk's old bytes writes behind this node.
fn child_perm(_: &ChildDef, _: PermPair, flags: &NodeFlags) -> PermPair {
    let writes = if flags.read_only || flags.inactive { Perm::empty() } else { Perm::WRITE };
    PermPair { perm: Perm::CONSISTENT_READ | writes, shared: Perm::all() - Perm::RESIZE }
}

struct Replication(Arc<Replica>);

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let BlockdevDriverOptions::Replication(r) = &o.options.driver else {
            return Err(QError::new("The options are not those of 'replication'"));
        };
        let primary = r.mode == ReplicationMode::Primary;
        match &r.top_id {
            Some(_) if primary => return Err(qerr!("The primary side does not support option top-id")),
            None if !primary => return Err(qerr!("Missing the option top-id")),
            _ => {}
        }
        Ok(Arc::new(Replication(Replica::new(primary, r.top_id.clone()))) as Arc<dyn Driver>)
    })
}

impl Replication {
    /// An error where nobody may read yet.
    fn may_read(&self) -> IoResult<()> {
        let none = self.0.stage() == Stage::None;
        if none && !self.0.primary { Err(Errno::IO) } else { Ok(()) }
    }

    fn may_write(&self) -> IoResult<()> {
        let may = match self.0.stage() {
            Stage::None => false,
            Stage::Running => true,
            Stage::Failover | Stage::FailoverFailed | Stage::Done => !self.0.primary,
        };
        if may { Ok(()) } else { Err(Errno::IO) }
    }

    /// The primary side's machine goes on although the secondary side cannot be reached.
    fn result(&self, done: IoResult<()>) -> IoResult<()> {
        match done {
            // The core does it another way, or not at all.
            Err(Errno::NOTSUP) => done,
            Err(_) if self.0.primary => {
                self.0.failed();
                Ok(())
            }
            done => done,
        }
    }
}

impl Driver for Replication {
    fn handle(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.0.clone())
    }

    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.child_len(FILE).unwrap_or(0)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        cx.child_limits(FILE).unwrap_or_default()
    }

    fn caps(&self, _: &Cx<'_>) -> Caps {
        Caps { fua: Support::Native, write_zeroes: Support::Native, discard: Support::Native }
    }

    fn locate<'a>(&'a self, _: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            self.may_read()?;
            Ok(Extent { len, kind: ExtentKind::Child { slot: FILE, offset: off }, eof: false })
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.may_write()?;
            self.result(cx.child_write(FILE, off, buf, flags).await)
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.may_write()?;
            self.result(cx.child_write_zeroes(FILE, off, len, flags).await)
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move {
            self.may_write()?;
            self.result(cx.child_discard(FILE, off, len).await)
        })
    }
}
