//! `blockdev-mirror`, and the commit of an active image: a node is copied, and its changes are followed.
//!
//! A map of dirty pieces says what is still to be copied. The filter marks what users change *after* the change, the job
//! unmarks a piece *before* it copies it, so that no change is missed. In `write-blocking` mode the filter writes to
//! both, with the range locked against the job's own copying; every completion switches to that mode, so that source
//! and target stay the same from then on until users get the target, however long that is put off.

use crate::copy::{Failed, copy_range, has, plain};
use crate::dirty::Dirty;
use crate::flow::{Bounds, Buffers, CHUNK, Flow, LOOK, Work};
use crate::setup::{Frozen, begin, config, find, is_root, job_id, undo};
use api::block_core::{BlockJobChangeMore, BlockdevMirror, BlockdevOnError, MirrorCopyMode, MirrorSyncMode};
use api::job::{JobStatus, JobType};
use block::driver::CtlFuture;
use block::driver::{Cx, IoFuture, Prealloc};
use block::job::change::FilterSpec;
use block::job::filter::{MIRROR_TOP, MIRROR_TOP_COMMIT, Request, SOURCE, TARGET, Watch};
use block::job::{Body, DoneFuture, Job, JobRoot, Jobs, Op};
use block::{BlockGraph, Graph, NodeId, Perm, Ranges, Role};
use qapi::{QError, QapiEnum, qerr};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};

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
    /// Nothing that is there already is copied.
    pub(crate) none: bool,
    pub(crate) blocking: bool,
    pub(crate) granularity: u64,
    pub(crate) bounds: Bounds,
    pub(crate) filter_name: Option<String>,
    /// The nodes, other than the source, that the job works with.
    pub(crate) others: Vec<NodeId>,
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
    on_source_error: BlockdevOnError,
    on_target_error: BlockdevOnError,
}

impl Tracker {
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
            // What a discarded range holds afterwards only reading it tells.
            let same = done.is_ok()
                && !matches!(request, Request::Discard(..))
                && request.apply(cx, TARGET).await.is_ok();
            if !same {
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
        copy_range(op, bufs, off, len, None).await
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
        let (base_ro, source_ro) = (self.base_ro, self.source_ro);
        let change = self.graph.change_stable(vec![filter, replaces], Some(target), move |c| {
            if !tracker.dirty.is_clean() {
                return Ok(false);
            }
            frozen.thaw(c);
            c.drop_root(root);
            if soft {
                c.remove_filter(filter, source);
                if commit {
                    c.set_read_only(target, base_ro);
                }
                return Ok(true);
            }
            if replaces == source {
                c.remove_filter(filter, target);
            } else {
                c.remove_filter(filter, source);
                c.replace(replaces, target);
            }
            if commit {
                c.set_read_only(target, source_ro);
            }
            Ok(true)
        });
        change.await
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

    fn actively_synced(&self) -> bool {
        let t = &self.tracker;
        t.ready.load(SeqCst) && t.blocking.load(SeqCst) && t.dirty.is_clean()
    }
}

/// Puts the filter in.
pub(crate) async fn set_up(
    graph: &Arc<BlockGraph>,
    job: &Arc<Job>,
    what: Mirrored,
) -> Result<Mirror, QError> {
    let g = graph.snapshot();
    let length = |id| g.node(id).and_then(|n| graph.image_info(&n.name)).map_or(0, |i| i.base.virtual_size);
    let len = u64::try_from(length(what.source)).unwrap_or(0);
    let tracker = Arc::new(Tracker {
        dirty: Dirty::new(len, what.granularity),
        ranges: Arc::default(),
        blocking: AtomicBool::new(what.blocking),
        ready: AtomicBool::new(false),
        job: Arc::downgrade(job),
        on_source_error: what.on_source_error,
        on_target_error: what.on_target_error,
    });
    let (watch, job) = (tracker.clone(), job.clone());
    let (source, target, commit) = (what.source, what.target, what.commit);
    let (name, others) = (what.filter_name.clone(), what.others.clone());
    let source_ro = g.node(source).is_some_and(|n| n.flags.read_only);
    let made = graph
        .change(vec![source, target], move |c| {
            let base_ro = commit && c.set_read_only(target, false);
            let frozen = Frozen::chain(c, source, None);
            let filter = c.insert_filter(FilterSpec {
                ty: if commit { &MIRROR_TOP_COMMIT } else { &MIRROR_TOP },
                watch,
                name: name.as_deref(),
                source,
                link: "backing",
                target: Some(("target", target)),
            })?;
            c.freeze(filter, SOURCE);
            let root = c.add_root(&job, filter, source, others);
            Ok((base_ro, frozen, filter, root))
        })
        .await?;
    let (base_ro, frozen, filter, root) = made;
    let graph = graph.clone();
    let root = Arc::new(root);
    Ok(Mirror { graph, what, tracker, root, filter, frozen, base_ro, source_ro })
}

/// Whether `node` is reached from `from` by links that show the same bytes.
fn shows(g: &Graph, from: NodeId, node: NodeId) -> bool {
    let mut at = Some(from);
    while let Some(id) = at {
        if id == node {
            return true;
        }
        let filtered =
            |n: &Arc<block::Node>| n.primary().filter(|e| e.role.contains(Role::FILTERED)).map(|e| e.child);
        at = g.node(id).and_then(filtered);
    }
    false
}

fn granularity(given: Option<u32>) -> Result<u64, QError> {
    match given {
        None | Some(0) => Ok(64 << 10),
        Some(g) if !(512..=64 << 20).contains(&g) => {
            Err(qerr!("Parameter 'granularity' expects a value in range [512B, 64MB]"))
        }
        Some(g) if !g.is_power_of_two() => Err(qerr!("Parameter 'granularity' expects a power of 2")),
        Some(g) => Ok(u64::from(g)),
    }
}

/// `blockdev-mirror`.
pub async fn mirror(jobs: &Arc<Jobs>, c: BlockdevMirror) -> Result<(), QError> {
    let graph = jobs.graph().clone();
    let g = graph.snapshot();
    let source = find(&g, &c.device)?.id;
    is_root(&g, source)?;
    let target = find(&g, &c.target)?;
    let granularity = granularity(c.granularity)?;
    let bounds = match c.buf_size.unwrap_or(0) {
        b if b < 0 => return Err(qerr!("Invalid parameter 'buf-size'")),
        0 => Bounds::default(),
        b => Bounds { bytes: b.unsigned_abs(), ..Bounds::default() },
    };
    let bottom = match c.sync {
        MirrorSyncMode::Incremental => return Err(qerr!("Sync mode 'incremental' not supported")),
        MirrorSyncMode::Bitmap => return Err(qerr!("Sync mode 'bitmap' not supported")),
        // The image that has a backing file is the one under the filters.
        MirrorSyncMode::Top => crate::commit::chain(&g, source).get(1).map(|_| top_image(&g, source)),
        MirrorSyncMode::Full | MirrorSyncMode::None => None,
    };
    let replaces = match &c.replaces {
        None => source,
        Some(name) => {
            let node = g.by_name(name).ok_or_else(|| qerr!("Failed to find node with node-name='{name}'"))?;
            if !shows(&g, source, node.id) {
                return Err(qerr!(
                    "Cannot replace '{name}' by a node mirrored from '{}', because it cannot be guaranteed that doing so would not lead to an abrupt change of visible data",
                    c.device
                ));
            }
            node.id
        }
    };
    if target.id == source {
        return Err(qerr!("Can't mirror node into itself"));
    }
    if g.reaches(target.id, source) {
        return Err(qerr!("The target '{}' shows the node '{}' that is to be mirrored", c.target, c.device));
    }
    for id in [source, target.id, replaces] {
        g.no_job_on(id)?;
    }
    if target.pair.perm.intersects(Perm::WRITE) && g.roots().any(|r| r.node == Some(target.id) && !r.drive) {
        return Err(qerr!("Node '{}' is in use", c.target));
    }
    let id = job_id(&g, c.job_id.clone(), &c.device);
    let speed = block::job::speed_of(c.speed);
    let config =
        config(id, JobType::Mirror, speed.as_ref().copied().unwrap_or(0), c.auto_finalize, c.auto_dismiss);
    let what = Mirrored {
        source,
        target: target.id,
        bottom,
        replaces,
        commit: false,
        none: c.sync == MirrorSyncMode::None,
        blocking: c.copy_mode == Some(MirrorCopyMode::WriteBlocking),
        granularity,
        bounds,
        filter_name: c.filter_node_name.clone(),
        others: vec![target.id],
        on_source_error: c.on_source_error.unwrap_or_default(),
        on_target_error: c.on_target_error.unwrap_or_default(),
    };
    let begun = begin(jobs, config, async |job| {
        speed?;
        set_up(&graph, &job, what).await
    });
    let job = begun.await?;
    debug_assert!(job.status() != JobStatus::Created);
    Ok(())
}

/// The image under the filters at `node`.
pub(crate) fn top_image(g: &Graph, node: NodeId) -> NodeId {
    let mut at = node;
    while let Some(e) = g.node(at).and_then(|n| n.primary()).filter(|e| e.role.contains(Role::FILTERED)) {
        at = e.child;
    }
    at
}
