//! `blockdev-backup`: a node is copied as it was at one moment, while its users go on.
//!
//! The filter keeps the past state ([`Past`]): before users change a part of the node, its old bytes go to the target. The
//! job copies the rest in the background, in the same way, so that nothing is copied twice.
//!
//! A dirty bitmap that takes part keeps all its bits until the job ends, and goes on recording; the filter notes apart
//! what was written since the beginning. So at any moment, also after a crash, the bitmap misses nothing. At a good end
//! the bits become what was noted.

mod start;

pub(crate) use start::Start;
pub(crate) use start::{Kept, keep};
pub use start::{backup, drive_backup};

use crate::copy::{Failed, has, plain};
use crate::flow::{Bounds, Buffers, CHUNK, Flow, LOOK, Work};
use crate::setup::{Frozen, undo};
use api::block_core::{BitmapSyncMode, BlockdevOnError};
use base::units::align_down;
use block::bitmap::{Bitmap, Bits, Busy};
use block::driver::{CtlFuture, Cx, IoFuture};
use block::job::filter::{Request, SOURCE, TARGET, Watch};
use block::job::{Body, Change, DoneFuture, Job, JobRoot, Op};
use block::{BlockGraph, NodeId};
use block_filters::Past;
use parking_lot::Mutex;
use qapi::QError;
use std::sync::Arc;

/// The filter's part.
struct Watcher {
    past: Past,
    /// What was written since the beginning.
    since: Option<Arc<Bitmap>>,
}

impl Watch for Watcher {
    fn change<'a>(&'a self, cx: &'a Cx<'a>, request: Request) -> IoFuture<'a> {
        let (off, len) = request.range();
        let done = self.past.change(cx, request);
        let Some(since) = self.since.clone() else { return done };
        Box::pin(async move {
            let done = done.await;
            since.set(off, len);
            done
        })
    }
}

/// The copying.
struct Copying {
    past: Past,
    discard: bool,
    on_source_error: BlockdevOnError,
    on_target_error: BlockdevOnError,
}

impl Work for Copying {
    async fn piece(&self, op: &Op, _: &Buffers, off: u64, len: u64) -> Result<u64, Failed> {
        let moved = self.past.copy(&op.cx(), off, len).await?;
        if self.discard {
            // A hint: what cannot be discarded stays.
            let _ = op.cx().child_discard(SOURCE, off, len).await;
        }
        Ok(moved)
    }

    fn on_error(&self, write: bool) -> BlockdevOnError {
        if write { self.on_target_error } else { self.on_source_error }
    }
}

/// A bitmap that takes part.
struct Tracked {
    bitmap: Arc<Bitmap>,
    busy: Mutex<Option<Busy>>,
    mode: BitmapSyncMode,
    /// What was dirty at the beginning, where that says what is copied.
    only: Option<Arc<Bitmap>>,
    since: Arc<Bitmap>,
    /// Its bits before they were changed at a good end.
    before: Mutex<Option<Bits>>,
}

impl Tracked {
    /// A good end; nobody writes now.
    fn succeed(&self) {
        if self.mode != BitmapSyncMode::Never {
            *self.before.lock() = Some(self.bitmap.bits());
            self.bitmap.replace(self.since.bits());
        }
    }

    /// There is no good end after all.
    fn take_back(&self) {
        if let Some(before) = self.before.lock().take() {
            self.bitmap.put_back(&before);
        }
    }

    /// A bad end; nobody writes now. Adds what was not copied to what was written since.
    fn fail(&self, past: &Past) {
        if self.mode != BitmapSyncMode::Always {
            return;
        }
        let mut at = 0;
        while let Some((off, len)) = past.next(at) {
            at = off + len;
            match &self.only {
                None => self.since.set(off, len),
                Some(only) => {
                    let mut from = off;
                    while let Some((o, n)) = only.next_dirty(from, at) {
                        self.since.set(o, n);
                        from = o + n;
                    }
                }
            }
        }
        self.bitmap.replace(self.since.bits());
    }
}

/// What is known of the node from the last look at it on.
#[derive(Default)]
struct Zeroes {
    end: u64,
    zero: bool,
}

pub(crate) struct Backup {
    graph: Arc<BlockGraph>,
    root: Arc<JobRoot>,
    filter: NodeId,
    source: NodeId,
    frozen: Frozen,
    /// Copy only what this image, the topmost, has itself.
    top: Option<NodeId>,
    /// Copy nothing but what changes.
    none: bool,
    bounds: Bounds,
    copying: Arc<Copying>,
    tracked: Option<Arc<Tracked>>,
}

impl Backup {
    async fn all(&self, job: &Arc<Job>) -> Result<(), QError> {
        let past = &self.copying.past;
        let mut flow = Flow::new(job, &self.root, self.copying.clone(), self.bounds);
        job.set_progress(0, if self.none { past.len() } else { past.left().min(past.len()) });
        if let Some(image) = self.top {
            self.leave_out(&mut flow, job, image).await?;
        }
        if self.none {
            // Until it is cancelled.
            loop {
                flow.rest(|| false).await?;
            }
        }
        let (mut at, mut zeroes) = (0, Zeroes::default());
        loop {
            let room = flow.room().await?;
            let Some((off, len)) = past.next(at) else { break };
            let usual = (room / past.piece()).max(1) * past.piece();
            // A job with a speed goes on in small steps, whatever they cost.
            let n =
                if room < self.bounds.chunk { usual } else { usual.max(self.zeroes(&mut zeroes, off).await) };
            let n = n.min(len);
            flow.go(off, n);
            at = off + n;
        }
        flow.finish().await?;
        loop {
            flow.room().await?;
            let op = self.root.enter().await.map_err(plain)?;
            let flushed = op.cx().child_flush(TARGET).await;
            drop(op);
            match flushed {
                Ok(()) => return Ok(()),
                Err(e) => flow.trouble((true, e)).await?,
            }
        }
    }

    /// How many bytes from `off` on are known to be zeroes, in whole pieces. A hint: users may write there at any moment.
    async fn zeroes(&self, known: &mut Zeroes, off: u64) -> u64 {
        let past = &self.copying.past;
        if off >= known.end {
            let all = LOOK.min(past.len() - off);
            let looked = match self.root.enter().await {
                Ok(op) => op.status(SOURCE, off, all, None).await,
                Err(e) => Err(e),
            };
            // Should it fail, reading will tell.
            *known = looked.map_or(Zeroes { end: off + CHUNK, zero: false }, |st| Zeroes {
                end: off + st.len.max(1),
                zero: st.zero,
            });
        }
        if known.zero { align_down(known.end - off, past.piece()) } else { 0 }
    }

    /// Leaves out what backing files have. What users write meanwhile is copied before all the same.
    async fn leave_out(&self, flow: &mut Flow<Copying>, job: &Arc<Job>, image: NodeId) -> Result<(), QError> {
        let past = &self.copying.past;
        let (mut off, mut end) = (0, past.len());
        // The beginning of the run that is left out.
        let mut from = None;
        while off < end {
            flow.room().await?;
            let op = self.root.enter().await.map_err(plain)?;
            let looked = op.status(SOURCE, off, LOOK.min(end - off), Some(image)).await;
            drop(op);
            match looked {
                Ok(st) if has(&st) => {
                    if let Some(from) = from.take() {
                        past.skip(from, off - from);
                    }
                    off += st.len;
                }
                Ok(st) => {
                    from.get_or_insert(off);
                    off += st.len;
                }
                Err(e) => flow.trouble((false, e)).await?,
            }
            end = past.len();
            rt::yield_now().await;
        }
        if let Some(from) = from {
            past.skip(from, end - from);
        }
        job.set_remaining(past.left().min(past.len()));
        Ok(())
    }

    fn parts(&self) -> (Frozen, NodeId, NodeId, block::RootId) {
        (self.frozen.clone(), self.filter, self.source, self.root.id())
    }
}

/// Takes the filter out. Another backup of the same node may have put its filter below.
fn take_out(c: &mut Change<'_, '_>, filter: NodeId, source: NodeId) {
    let heir = c.shown_by(filter).unwrap_or(source);
    c.remove_filter(filter, heir);
}

impl Body for Backup {
    fn target(&self) -> Option<NodeId> {
        let g = self.graph.snapshot();
        g.node(self.filter)?.edge(TARGET).map(|e| e.child)
    }

    fn run<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(self.all(job))
    }

    fn prepare<'a>(&'a self, _: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(async move {
            let (frozen, filter, source, root) = self.parts();
            let tracked = self.tracked.clone();
            let change = self.graph.change(vec![filter], move |c| {
                frozen.thaw(c);
                take_out(c, filter, source);
                c.drop_root(root);
                if let Some(t) = tracked {
                    t.succeed();
                }
                Ok(())
            });
            let done = change.await;
            if let (Err(_), Some(t)) = (&done, &self.tracked) {
                t.take_back();
            }
            done
        })
    }

    fn abort<'a>(&'a self, _: &'a Arc<Job>) -> DoneFuture<'a> {
        Box::pin(async move {
            if let Some(t) = &self.tracked {
                t.take_back();
            }
            let (frozen, filter, source, root) = self.parts();
            let (tracked, past) = (self.tracked.clone(), self.copying.past.clone());
            undo(&self.graph, filter, move |c| {
                frozen.thaw(c);
                take_out(c, filter, source);
                c.drop_root(root);
                if let Some(t) = &tracked {
                    t.fail(&past);
                }
            })
            .await;
        })
    }

    fn clean<'a>(&'a self, _: &'a Arc<Job>) -> DoneFuture<'a> {
        if let Some(t) = &self.tracked {
            *t.busy.lock() = None;
        }
        // The job may wait long for being dismissed.
        self.copying.past.rest();
        Box::pin(async {})
    }
}
