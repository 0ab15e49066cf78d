//! `throttle`: holds requests back to keep within the limits of a `throttle-group` object.

use crate::{FILE, in_child, not_ours, one_child};
use api::block_core::{BlockdevDriverOptions, BlockdevOptions};
use block::driver::{
    Caps, ChildSlot, CtlFuture, Cx, Driver, DriverType, Extent, IoFuture, Kind, Limits, NodePlan, OpenCx,
    OpenFuture, Prealloc, Staged, WriteFlags, ZeroFlags, default_child_perm,
};
use mem::IoBuf;
use parking_lot::{Mutex, RwLock};
use qapi::{QError, qerr};
use qom::{Direction, Object, ObjectTree, ThrottleMember};
use std::sync::Arc;

/// `throttle`.
pub static THROTTLE: DriverType = DriverType {
    name: "throttle",
    kind: Kind::Filter,
    mutable_opts: &["throttle-group"],
    supports_backing: false,
    supports_reopen: true,
    children: one_child,
    child_perm: default_child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

/// A place in a group.
struct Joined {
    member: ThrottleMember,
    /// Keeps the object from being deleted.
    _object: Arc<dyn Object>,
}

struct Inner {
    joined: RwLock<Arc<Joined>>,
    /// How many drains go on.
    drains: Mutex<usize>,
}

struct Throttle {
    objects: Option<Arc<ObjectTree>>,
    inner: Arc<Inner>,
}

fn join(objects: Option<&ObjectTree>, options: &BlockdevOptions) -> Result<Arc<Joined>, QError> {
    let BlockdevDriverOptions::Throttle(o) = &options.driver else { return Err(not_ours("throttle")) };
    let name = &o.throttle_group;
    let object = objects.and_then(|t| t.get(name));
    let group = object.as_ref().and_then(|o| o.throttle_group());
    match (object, group) {
        (Some(object), Some(group)) => Ok(Arc::new(Joined { member: group.join(), _object: object })),
        _ => Err(qerr!("Throttle group '{name}' does not exist")),
    }
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let joined = RwLock::new(join(o.objects.as_deref(), o.options)?);
        let inner = Arc::new(Inner { joined, drains: Mutex::new(0) });
        Ok(Arc::new(Throttle { objects: o.objects, inner }) as Arc<dyn Driver>)
    })
}

impl Throttle {
    async fn admit(&self, dir: Direction, len: u64) {
        let joined = self.inner.joined.read().clone();
        joined.member.admit(dir, len).await;
    }
}

impl Driver for Throttle {
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

    fn drain(&self, begin: bool) {
        let mut drains = self.inner.drains.lock();
        *drains = if begin { *drains + 1 } else { drains.saturating_sub(1) };
        self.inner.joined.read().member.set_exempt(*drains);
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move { in_child(cx, off, len) })
    }

    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            self.admit(Direction::Read, buf.len() as u64).await;
            cx.child_read(FILE, off, buf).await
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.admit(Direction::Write, buf.len() as u64).await;
            cx.child_write(FILE, off, buf, flags).await
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.admit(Direction::Write, len).await;
            cx.child_write_zeroes(FILE, off, len, flags).await
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move {
            self.admit(Direction::Write, len).await;
            cx.child_discard(FILE, off, len).await
        })
    }

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(cx.child_truncate(FILE, len, exact, prealloc))
    }

    fn stage<'a>(&'a self, _cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            let to = if next.reopen { Some(join(self.objects.as_deref(), &next.options)?) } else { None };
            Ok(Box::new(Move { inner: self.inner.clone(), to }) as Box<dyn Staged>)
        })
    }
}

/// A staged change of the group.
struct Move {
    inner: Arc<Inner>,
    to: Option<Arc<Joined>>,
}

impl Staged for Move {
    fn commit(self: Box<Self>) {
        if let Some(to) = self.to {
            let drains = self.inner.drains.lock();
            to.member.set_exempt(*drains);
            *self.inner.joined.write() = to;
        }
    }
}
