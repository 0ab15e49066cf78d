//! `preallocate`: a write that makes the node longer has more space allocated behind it, so that the file below grows in
//! few large steps.
//!
//! Users see the length of the data; the file below is longer while somebody may write. When the last writer goes, or the
//! node is closed, the file is cut to its data.

use crate::{FILE, in_child, not_ours, one_child};
use api::block_core::{BlockdevDriverOptions, BlockdevOptions};
use base::IoResult;
use base::units::MIB;
use block::driver::{
    Caps, ChildDef, ChildSlot, CtlFuture, Cx, Driver, DriverType, Extent, IoFuture, Kind, Limits, NodeFlags,
    NodePlan, OpenCx, OpenFuture, Prealloc, Staged, WriteFlags, ZeroFlags, default_child_perm,
};
use block::perm::{Perm, PermPair};
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// `preallocate`.
pub static PREALLOCATE: DriverType = DriverType {
    name: "preallocate",
    kind: Kind::Filter,
    mutable_opts: &["prealloc-align", "prealloc-size"],
    supports_backing: false,
    supports_reopen: true,
    children: one_child,
    child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

/// Who may make the node longer has the filter change the length below whenever it likes.
fn child_perm(child: &ChildDef, parent: PermPair, next: &NodeFlags) -> PermPair {
    let mut pair = default_child_perm(child, parent, next);
    if grows(pair.perm) {
        pair.perm |= Perm::CONSISTENT_READ;
        pair.shared -= Perm::WRITE | Perm::RESIZE;
    }
    pair
}

fn grows(perm: Perm) -> bool {
    perm.contains(Perm::WRITE | Perm::RESIZE)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    align: u64,
    size: u64,
}

fn settings(options: &BlockdevOptions) -> Result<Settings, QError> {
    let BlockdevDriverOptions::Preallocate(o) = &options.driver else { return Err(not_ours("preallocate")) };
    let number = |name: &str, given: Option<i64>, default: u64| match given {
        None => Ok(default),
        Some(n) => u64::try_from(n).map_err(|_| qerr!("Value '{n}' is out of range for parameter '{name}'")),
    };
    let s = Settings {
        align: number("prealloc-align", o.prealloc_align, MIB)?,
        size: number("prealloc-size", o.prealloc_size, 128 * MIB)?,
    };
    if !s.align.is_multiple_of(512) {
        return Err(qerr!("prealloc-align parameter of preallocate filter is not aligned to 512"));
    }
    Ok(s)
}

/// Says that the node below is as long as its data: nothing was allocated ahead.
const PLAIN: u64 = u64::MAX;

struct Inner {
    settings: Mutex<Settings>,
    /// Where the data ends, or [`PLAIN`].
    data: AtomicU64,
    /// Held while the length below changes: the end of what is allocated there.
    below: rt::sync::Mutex<Option<u64>>,
}

struct Preallocate(Arc<Inner>);

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let inner = Inner {
            settings: Mutex::new(settings(o.options)?),
            data: AtomicU64::new(PLAIN),
            below: rt::sync::Mutex::new(None),
        };
        Ok(Arc::new(Preallocate(Arc::new(inner))) as Arc<dyn Driver>)
    })
}

impl Inner {
    fn len(&self, cx: &Cx<'_>) -> u64 {
        let below = cx.child_len(FILE).unwrap_or(0);
        match self.data.load(SeqCst) {
            PLAIN => below,
            data => data.min(below),
        }
    }

    /// Makes room for data up to `end`, and more.
    async fn make_room(&self, cx: &Cx<'_>, end: u64) -> IoResult<()> {
        if !grows(cx.child_perm(FILE)) {
            return Ok(());
        }
        // What lies within the data needs none.
        if end <= self.len(cx) {
            return Ok(());
        }
        let mut below = self.below.lock().await;
        let len = cx.child_len(FILE)?;
        if self.data.load(SeqCst) == PLAIN {
            self.data.store(len, SeqCst);
            *below = Some(len);
        }
        // Where nothing can be allocated ahead, the write itself makes the node longer.
        let Some(have) = *below else { return Ok(()) };
        if end <= have {
            return Ok(());
        }
        let s = *self.settings.lock();
        let want = end.saturating_add(s.size);
        let want = want.checked_next_multiple_of(s.align.max(1)).unwrap_or(want).min(i64::MAX as u64 / 2);
        *below = match cx.child_truncate(FILE, want, false, Prealloc::Falloc).await {
            Ok(()) => Some(want),
            Err(_) => None,
        };
        Ok(())
    }

    /// Data stands up to `end` now.
    fn reached(&self, end: u64) {
        let _ = self.data.fetch_update(SeqCst, SeqCst, |d| (d != PLAIN && d < end).then_some(end));
    }

    /// Cuts the node below to its data.
    async fn cut(&self, cx: &Cx<'_>) -> IoResult<()> {
        let mut below = self.below.lock().await;
        let data = self.data.load(SeqCst);
        if data != PLAIN {
            if cx.child_len(FILE)? > data {
                cx.child_truncate(FILE, data, true, Prealloc::Off).await?;
            }
            self.data.store(PLAIN, SeqCst);
        }
        *below = None;
        Ok(())
    }
}

impl Driver for Preallocate {
    fn name_over(&self, _: &dyn Fn(ChildSlot) -> Option<String>) -> Option<String> {
        None
    }

    fn len(&self, cx: &Cx<'_>) -> u64 {
        self.0.len(cx)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        cx.child_limits(FILE).unwrap_or_default()
    }

    fn caps(&self, cx: &Cx<'_>) -> Caps {
        cx.child_caps(FILE).unwrap_or_default()
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move { in_child(cx, off, len) })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let end = off + buf.len() as u64;
            self.0.make_room(cx, end).await?;
            let done = cx.child_write(FILE, off, buf, flags).await;
            // What failed may have left bytes, too: nobody may take that place for empty.
            self.0.reached(end);
            done
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.0.make_room(cx, off + len).await?;
            let done = cx.child_write_zeroes(FILE, off, len, flags).await;
            self.0.reached(off + len);
            done
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(cx.child_discard(FILE, off, len))
    }

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(async move {
            // A write that failed may have left bytes behind the data: what is new must read as zeroes.
            self.0.cut(cx).await?;
            cx.child_truncate(FILE, len, exact, prealloc).await
        })
    }

    fn stage<'a>(&'a self, cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            let to = if next.reopen { Some(settings(&next.options)?) } else { None };
            // The last chance to change the length below. Nobody writes while the permission goes.
            if grows(next.old_perm.perm) && !grows(next.perm.perm) {
                self.0.cut(cx).await.map_err(|e| {
                    qerr!("Could not truncate the file below '{}' to its data: {e}", next.node_name)
                })?;
            }
            Ok(Box::new(Change(self.0.clone(), to)) as Box<dyn Staged>)
        })
    }

    fn close<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(self.0.cut(cx))
    }
}

/// A staged change of the settings.
struct Change(Arc<Inner>, Option<Settings>);

impl Staged for Change {
    fn commit(self: Box<Self>) {
        if let Some(to) = self.1 {
            *self.0.settings.lock() = to;
        }
    }
}
