//! `blockdev-mirror`, and the commit of an active image: a node is copied, and its changes are followed.
//!
//! A map of dirty pieces says what is still to be copied. The filter marks what users change *after* the change, the job
//! unmarks a piece *before* it copies it, so that no change is missed. In `write-blocking` mode the filter writes to
//! both, with the range locked against the job's own copying; every completion switches to that mode, so that source
//! and target stay the same from then on until users get the target, however long that is put off.
//!
//! A target that gets its backing file only later ("bare") shows zeroes where it will show that file's bytes. So it is
//! written in whole pieces, each at least one of its clusters, and all zeroes are written to it.

mod start;

pub use start::{drive_mirror, mirror};
pub(crate) use start::{filters, top_image};

use crate::copy::{Failed, Zeroes, copy_range, has, plain};
use crate::dirty::Dirty;
use crate::flow::{Bounds, Buffers, CHUNK, Flow, LOOK, Work};
use crate::setup::{Frozen, undo};
use api::block_core::{BlockJobChangeMore, BlockdevOnError, MirrorCopyMode};
use base::{Errno, IoResult};
use block::driver::{CtlFuture, Cx, IoFuture, Prealloc, WriteFlags, ZeroFlags};
use block::job::change::FilterSpec;
use block::job::filter::{
    MIRROR_TOP, MIRROR_TOP_COMMIT, MIRROR_TOP_FAILOVER, Request, SOURCE, TARGET, Watch,
};
use block::job::{Body, Change, DoneFuture, Job, JobRoot, Op};
use block::{BlockGraph, NodeId, Ranges};
use mem::IoBuf;
use qapi::{QError, QapiEnum, qerr};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};

/// What backing file the target gets when users get the target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum After {
    /// It keeps what it has.
    Leave,
    /// This node.
    Give(NodeId),
    /// The one that its header names.
    Open,
}

/// What is to be mirrored how.
pub(crate) struct Mirrored {
    pub(crate) source: NodeId,
    pub(crate) target: NodeId,
    /// The lowest image of the chain that is copied; `None`: all of it.
    pub(crate) bottom: Option<NodeId>,
    /// The node whose users get the target.
    pub(crate) replaces: NodeId,
    /// The target is an image of the source's own chain.
    pub(crate) commit: bool,
    /// The users stay on the source, which gives up what it holds: the target has it.
    pub(crate) stays: bool,
    /// Others that may write the target have nothing to say any more.
    pub(crate) failover: bool,
    pub(crate) backing: After,
    /// The target will have a backing file, but has none yet.
    pub(crate) bare: bool,
    pub(crate) zeroes: Zeroes,
    /// Nothing that is there already is copied.
    pub(crate) none: bool,
    pub(crate) blocking: bool,
    pub(crate) granularity: u64,
    pub(crate) bounds: Bounds,
    pub(crate) filter_name: Option<String>,
    /// The nodes, other than the source, that the job works with.
    pub(crate) others: Vec<NodeId>,
    /// The images between the source and the target, where that is below.
    pub(crate) between: Vec<NodeId>,
    pub(crate) on_source_error: BlockdevOnError,
    pub(crate) on_target_error: BlockdevOnError,
}

/// What is still to be copied, and where somebody is at work: what the filter and the job share.
pub(crate) struct Tracker {
    dirty: Dirty,
    ranges: Arc<Ranges>,
    /// Changes go to source and target.
    blocking: AtomicBool,
    /// The first pass over the node is done.
    ready: AtomicBool,
    job: Weak<Job>,
    bare: bool,
    zeroes: Zeroes,
    on_source_error: BlockdevOnError,
    on_target_error: BlockdevOnError,
}

impl Tracker {
    /// Does a change of the source to the target as well; `lo..hi` are the whole pieces that it touches.
    async fn follow(&self, cx: &Cx<'_>, request: &Request, lo: u64, hi: u64) -> IoResult<()> {
        let (off, len) = request.range();
        let hi = hi.min(self.dirty.len());
        let request = match request {
            // What a discarded range holds afterwards only reading it tells.
            Request::Discard(..) => return Err(Errno::NOTSUP),
            Request::Zeroes(off, len, flags) if self.zeroes == Zeroes::Kept => {
                &Request::Zeroes(*off, *len, *flags - ZeroFlags::MAY_UNMAP)
            }
            r => r,
        };
        let bytes = self.zeroes == Zeroes::Bytes && matches!(request, Request::Zeroes(..));
        if !self.bare || (!bytes && off == lo && off + len == hi) {
            return request.apply(cx, TARGET).await;
        }
        let mut at = lo;
        while at < hi {
            let n = (hi - at).min(CHUNK);
            let buf = IoBuf::zeroed(n as usize);
            cx.child_read(SOURCE, at, buf.clone()).await?;
            cx.child_write(TARGET, at, buf, WriteFlags::empty()).await?;
            at += n;
        }
        Ok(())
    }

    fn mark(&self, off: u64, len: u64) {
        self.dirty.set(off, len);
        if let Some(j) = self.job.upgrade() {
            j.kick();
        }
    }

    /// Whether changes go to source and target: asked for, or because the job is to complete.
    fn blocks(&self) -> bool {
        if self.blocking.load(SeqCst) {
            return true;
        }
        let completes = self.job.upgrade().is_some_and(|j| j.complete_asked());
        if completes {
            self.blocking.store(true, SeqCst);
        }
        completes
    }
}

impl Watch for Tracker {
    fn change<'a>(&'a self, cx: &'a Cx<'a>, request: Request) -> IoFuture<'a> {
        Box::pin(async move {
            let (off, len) = request.range();
            if !self.blocks() {
                let done = request.apply(cx, SOURCE).await;
                self.mark(off, len);
                return done;
            }
            let (lo, hi) = self.dirty.around(off, len);
            let _alone = self.ranges.lock(lo, hi, true).await;
            let done = request.apply(cx, SOURCE).await;
            if done.is_err() || self.follow(cx, &request, lo, hi).await.is_err() {
                self.mark(off, len);
            }
            done
        })
    }
}

impl Work for Tracker {
    /// Copies a run of pieces that were taken from the map. Those that could not be copied are not marked again: they
    /// are tried again, or the job fails.
    async fn piece(&self, op: &Op, bufs: &Buffers, off: u64, len: u64) -> Result<u64, Failed> {
        let _alone = self.ranges.lock(off, off + len, true).await;
        copy_range(op, bufs, off, len, None, self.zeroes).await
    }

    fn on_error(&self, write: bool) -> BlockdevOnError {
        if write { self.on_target_error } else { self.on_source_error }
    }
}

pub(crate) struct Mirror {
    graph: Arc<BlockGraph>,
    what: Mirrored,
    tracker: Arc<Tracker>,
    root: Arc<JobRoot>,
    filter: NodeId,
    frozen: Frozen,
    base_ro: bool,
    source_ro: bool,
}

impl Mirror {
    async fn all(&self, job: &Arc<Job>) -> Result<(), QError> {
        let op = self.root.enter().await.map_err(plain)?;
        let len = op.cx().len();
        let target = op.cx().child_len(TARGET).map_err(plain)?;
        if target < len && self.what.commit {
            op.cx().child_truncate(TARGET, len, false, Prealloc::Off).await.map_err(plain)?;
        } else if target != len && !self.what.commit {
            // Users that get the copy would find another length.
            return Err(qerr!("Source and target image have different sizes"));
        }
        drop(op);
        let mut flow = Flow::new(job, &self.root, self.tracker.clone(), self.what.bounds);
        if !self.what.none {
            self.look(&mut flow, len).await?;
        }
        let (dirty, ready) = (&self.tracker.dirty, &self.tracker.ready);
        let (mut at, mut copied, enough) = (0, 0, dirty.bytes().saturating_add(2 * len));
        loop {
            job.set_remaining(dirty.bytes() + flow.pending());
            // A source that changes as fast as it is copied is ready too: completing makes its users wait for both.
            let hopeless = copied > enough && !ready.load(SeqCst);
            if !dirty.is_clean() && !hopeless {
                let room = flow.room().await?;
                if let Some((off, n)) = dirty.take(at, room) {
                    at = off + n;
                    copied += n;
                    flow.go(off, n);
                }
                continue;
            }
            if !flow.is_idle() {
                flow.rest(|| !dirty.is_clean() && !hopeless).await?;
                continue;
            }
            if !ready.load(SeqCst) {
                flow.room().await?;
                let op = self.root.enter().await.map_err(plain)?;
                let flushed = op.cx().child_flush(TARGET).await;
                drop(op);
                match flushed {
                    Err(e) => flow.trouble((true, e)).await?,
                    Ok(()) if dirty.is_clean() || hopeless => {
                        ready.store(true, SeqCst);
                        job.set_ready();
                    }
                    Ok(()) => {}
                }
                continue;
            }
            if job.complete_asked() {
                if self.tracker.blocks() && dirty.is_clean() {
                    return Ok(());
                }
                continue;
            }
            flow.rest(|| !dirty.is_clean() || job.complete_asked()).await?;
        }
    }

    /// Finds out what is to be copied.
    async fn look(&self, flow: &mut Flow<Tracker>, len: u64) -> Result<(), QError> {
        let mut off = 0;
        while off < len {
            flow.room().await?;
            let op = self.root.enter().await.map_err(plain)?;
            let st = match op.status(SOURCE, off, LOOK.min(len - off), self.what.bottom).await {
                Ok(st) => st,
                Err(e) => {
                    drop(op);
                    flow.trouble((false, e)).await?;
                    continue;
                }
            };
            let mut n = st.len;
            if !has(&st) {
                // An image below has it, which is not to be copied.
            } else if st.allocated || st.compressed || self.what.bottom.is_some() {
                self.tracker.dirty.set(off, n);
            } else {
                // Nobody has it: the target must have zeroes there, and often has.
                match op.status(TARGET, off, n, None).await {
                    Ok(t) => {
                        n = t.len.min(n);
                        if !t.zero {
                            self.tracker.dirty.set(off, n);
                        }
                    }
                    Err(_) => self.tracker.dirty.set(off, n),
                }
            }
            off += n;
            drop(op);
            rt::yield_now().await;
        }
        Ok(())
    }

    /// Puts the users on the target, or leaves them where they are (`soft`). False where something is still to be
    /// copied.
    async fn pivot(&self, soft: bool) -> Result<bool, QError> {
        let w = &self.what;
        let (source, target, replaces, commit) = (w.source, w.target, w.replaces, w.commit);
        let (frozen, filter, tracker, root) =
            (self.frozen.clone(), self.filter, self.tracker.clone(), self.root.id());
        let (base_ro, source_ro, backing, stays) = (self.base_ro, self.source_ro, w.backing, w.stays);
        let change = async move |c: &mut Change<'_, '_>| {
            if !tracker.dirty.is_clean() {
                return Ok(false);
            }
            if stays && !soft {
                // The target is stable: what the source gives up is there.
                match c.make_empty(source).await {
                    Ok(()) | Err(Errno::NOTSUP) => {}
                    Err(e) => return Err(plain(e)),
                }
            }
            frozen.thaw(c);
            c.drop_root(root);
            if soft || stays {
                c.remove_filter(filter, source);
                if commit {
                    c.set_read_only(target, base_ro);
                }
                return Ok(true);
            }
            if replaces == source {
                c.remove_filter(filter, target);
                // Also those who came to it later, below the job.
                c.replace(source, target);
            } else {
                c.remove_filter(filter, source);
                c.replace(replaces, target);
            }
            if commit {
                c.set_read_only(target, source_ro);
            }
            match backing {
                After::Leave => {}
                After::Give(node) => c.set_backing(target, Some(node)),
                After::Open => c.open_backing(target).await?,
            }
            if source_ro && !commit {
                c.read_only_if_may(target);
            }
            Ok(true)
        };
        self.graph.change_with(vec![filter, replaces], Some(target), change).await
    }
}

impl Body for Mirror {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(self.all(job))
    }

    fn prepare<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(async move {
            // A change that began before both were written to may have come in late, or the target failed.
            while !self.pivot(job.soft()).await? {
                let bufs = Buffers::default();
                while let Some((off, n)) = self.tracker.dirty.take(0, CHUNK) {
                    let op = self.root.enter().await.map_err(plain)?;
                    self.tracker.piece(&op, &bufs, off, n).await.map_err(|(_, e)| plain(e))?;
                }
            }
            Ok(())
        })
    }

    fn abort<'a>(&'a self, _: &'a Arc<Job>) -> DoneFuture<'a> {
        Box::pin(async move {
            let w = &self.what;
            let (frozen, filter, source, target, commit, root, base_ro) = (
                self.frozen.clone(),
                self.filter,
                w.source,
                w.target,
                w.commit,
                self.root.id(),
                self.base_ro,
            );
            undo(&self.graph, filter, move |c| {
                frozen.thaw(c);
                c.remove_filter(filter, source);
                c.drop_root(root);
                if commit {
                    c.set_read_only(target, base_ro);
                }
            })
            .await;
        })
    }

    fn change(&self, to: &BlockJobChangeMore) -> Result<(), QError> {
        if self.what.commit {
            return Err(qerr!("Job type does not support change"));
        }
        let BlockJobChangeMore::Mirror(m) = to else {
            return Err(qerr!("The job is a mirror, and can only be changed as one"));
        };
        let blocking = &self.tracker.blocking;
        match m.copy_mode {
            MirrorCopyMode::WriteBlocking => blocking.store(true, SeqCst),
            mode if blocking.load(SeqCst) => {
                return Err(qerr!("Change to copy mode '{}' is not implemented", mode.as_str()));
            }
            MirrorCopyMode::Background => {}
        }
        Ok(())
    }

    fn completes(&self) -> bool {
        true
    }

    fn target(&self) -> Option<NodeId> {
        Some(self.what.target)
    }

    fn actively_synced(&self) -> bool {
        let t = &self.tracker;
        t.ready.load(SeqCst) && t.blocking.load(SeqCst) && t.dirty.is_clean()
    }
}

/// Makes the filter and the job's hold of the graph, as part of a change.
pub(crate) fn put_in(
    c: &mut Change<'_, '_>,
    graph: &Arc<BlockGraph>,
    job: &Arc<Job>,
    what: Mirrored,
) -> Result<Mirror, QError> {
    let g = c.preview();
    let source_ro = g.node(what.source).is_some_and(|n| n.flags.read_only);
    let tracker = Arc::new(Tracker {
        dirty: Dirty::new(g.cx(what.source).map_or(0, |cx| cx.len()), what.granularity),
        ranges: Arc::default(),
        blocking: AtomicBool::new(what.blocking),
        ready: AtomicBool::new(false),
        job: Arc::downgrade(job),
        bare: what.bare,
        zeroes: what.zeroes,
        on_source_error: what.on_source_error,
        on_target_error: what.on_target_error,
    });
    let base_ro = what.commit && c.set_read_only(what.target, false);
    let frozen = Frozen::chain(c, what.source, None);
    let filter = c.insert_filter(FilterSpec {
        ty: match (what.commit, what.failover) {
            (true, true) => &MIRROR_TOP_FAILOVER,
            (true, false) => &MIRROR_TOP_COMMIT,
            (false, _) => &MIRROR_TOP,
        },
        watch: tracker.clone(),
        name: what.filter_name.as_deref(),
        source: what.source,
        link: "backing",
        target: Some(("target", what.target)),
        grows: what.commit && crate::commit::shorter(&g, what.target, what.source),
    })?;
    c.freeze(filter, SOURCE);
    let root = Arc::new(c.add_root(job, filter, what.source, what.others.clone()));
    c.set_between(&root, what.between.clone());
    let graph = graph.clone();
    Ok(Mirror { graph, what, tracker, root, filter, frozen, base_ro, source_ro })
}

/// As [`put_in`], as a change of its own.
pub(crate) async fn set_up(
    graph: &Arc<BlockGraph>,
    job: &Arc<Job>,
    what: Mirrored,
) -> Result<Mirror, QError> {
    let (g, job) = (graph.clone(), job.clone());
    graph.change(vec![what.source, what.target], move |c| put_in(c, &g, &job, what)).await
}
