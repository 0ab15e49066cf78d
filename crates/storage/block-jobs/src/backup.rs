//! `blockdev-backup`: a node is copied as it was at one moment, while its users go on.
//!
//! The filter keeps the past state ([`Past`]): before users change a part of the node, its old bytes go to the target. The
//! job copies the rest in the background, in the same way, so that nothing is copied twice.
//!
//! A dirty bitmap that takes part keeps all its bits until the job ends, and goes on recording; the filter notes apart
//! what was written since the beginning. So at any moment, also after a crash, the bitmap misses nothing. At a good end
//! the bits become what was noted.

use crate::copy::{Failed, has, plain};
use crate::flow::{Bounds, Buffers, CHUNK, Flow, LOOK, Work};
use crate::mirror::top_image;
use crate::setup::{Frozen, config, find, job_id, undo};
use api::block_core::{
    BackupCommon, BackupPerf, BitmapSyncMode, BlockdevBackup, BlockdevOnError, MirrorSyncMode,
};
use api::job::JobType;
use block::bitmap::{Bitmap, Bits, Busy};
use block::driver::{CtlFuture, Cx, IoFuture, WriteFlags};
use block::job::change::FilterSpec;
use block::job::filter::{BACKUP_TOP, BACKUP_TOP_DISCARD, Request, SOURCE, TARGET, Watch};
use block::job::{Body, Change, DoneFuture, Group, Job, JobRoot, Jobs, Op};
use block::transaction::Action;
use block::{BlockGraph, Graph, NodeId};
use block_filters::{MAX_PIECE, MIN_PIECE, Past, PastSpec};
use parking_lot::Mutex;
use qapi::{QError, QapiEnum, qerr};
use std::sync::Arc;

/// How many pieces are copied at a time unless the command says.
const WORKERS: i64 = 64;

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

struct Backup {
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
        let mut at = 0;
        loop {
            let room = flow.room().await?;
            let Some((off, len)) = past.next(at) else { break };
            let n = len.min((room / past.piece()).max(1) * past.piece());
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

impl Body for Backup {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(self.all(job))
    }

    fn prepare<'a>(&'a self, _: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(async move {
            let (frozen, filter, source, root) = self.parts();
            let tracked = self.tracked.clone();
            let change = self.graph.change(vec![filter], move |c| {
                frozen.thaw(c);
                c.remove_filter(filter, source);
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
                c.remove_filter(filter, source);
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
        Box::pin(async {})
    }
}

// ---- beginning ----

fn bounds(perf: &BackupPerf) -> Result<(Bounds, u64), QError> {
    let workers = perf.max_workers.unwrap_or(WORKERS);
    let chunk = perf.max_chunk.unwrap_or(0);
    let Some(pieces) = i32::try_from(workers).ok().filter(|w| *w >= 1) else {
        return Err(qerr!("max-workers must be between 1 and {}", i32::MAX));
    };
    if chunk < 0 {
        return Err(qerr!("max-chunk must be zero (which means no limit) or positive"));
    }
    let min = perf.min_cluster_size.unwrap_or(0);
    if min > i64::MAX as u64 {
        return Err(qerr!("min-cluster-size too large: {min} > {}", i64::MAX));
    }
    let chunk = chunk.unsigned_abs();
    let usual = Bounds::default();
    let bounds =
        Bounds { pieces: pieces as usize, chunk: if chunk == 0 { CHUNK } else { chunk.min(CHUNK) }, ..usual };
    Ok((bounds, chunk))
}

/// The bytes that are copied as one.
fn piece(g: &Arc<Graph>, source: NodeId, target: NodeId, min: u64) -> Result<u64, QError> {
    let cannot = |e: QError| e.prepend("Could not create node: Cannot create block-copy-state");
    if min != 0 && !min.is_power_of_two() {
        return Err(cannot(qerr!("min-cluster-size needs to be a power of 2")));
    }
    let align = |n| g.cx(n).map_or(1, |cx| u64::from(cx.limits().request_alignment));
    let cluster = g.cx(top_image(g, target)).and_then(|cx| cx.info().cluster_size).unwrap_or(0);
    let piece = MIN_PIECE.max(min).max(cluster).max(align(source)).max(align(target));
    if piece > MAX_PIECE {
        return Err(cannot(qerr!("pieces of {piece} bytes are too long to copy; at most {MAX_PIECE}")));
    }
    Ok(piece)
}

/// What the bitmap options mean: its name, its mode, and whether it says what is copied.
fn bitmap_mode(c: &BackupCommon) -> Result<Option<(String, BitmapSyncMode, bool)>, QError> {
    let says = matches!(c.sync, MirrorSyncMode::Bitmap | MirrorSyncMode::Incremental);
    let sync = c.sync.as_str();
    let Some(name) = &c.bitmap else {
        return match says {
            true => Err(qerr!("must provide a valid bitmap name for '{sync}' sync mode")),
            false if c.bitmap_mode.is_some() => {
                Err(qerr!("Cannot specify bitmap sync mode without a bitmap"))
            }
            false => Ok(None),
        };
    };
    let mode = match (c.sync, c.bitmap_mode) {
        (MirrorSyncMode::Incremental, None | Some(BitmapSyncMode::OnSuccess)) => BitmapSyncMode::OnSuccess,
        (MirrorSyncMode::Incremental, Some(_)) => {
            return Err(qerr!("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'"));
        }
        (_, None) => return Err(qerr!("Bitmap sync mode must be given when providing a bitmap")),
        (MirrorSyncMode::None, Some(_)) => {
            return Err(qerr!("sync mode 'none' does not produce meaningful bitmap outputs"));
        }
        (_, Some(BitmapSyncMode::Never)) if !says => {
            return Err(qerr!(
                "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '{sync}'"
            ));
        }
        (_, Some(mode)) => mode,
    };
    Ok(Some((name.clone(), mode, says)))
}

/// The beginning of a backup, as part of a transaction.
pub(crate) struct Start {
    jobs: Arc<Jobs>,
    command: BlockdevBackup,
    group: Option<Arc<Group>>,
    made: Option<(Arc<Job>, Backup)>,
}

impl Start {
    pub(crate) fn new(jobs: &Arc<Jobs>, command: BlockdevBackup, group: Option<Arc<Group>>) -> Start {
        Start { jobs: jobs.clone(), command, group, made: None }
    }

    async fn set_up(&self, c: &mut Change<'_, '_>, job: &Arc<Job>) -> Result<Backup, QError> {
        let (o, g) = (&self.command.common, c.preview());
        let source = find(&g, &o.device)?.id;
        let target = find(&g, &self.command.target)?.id;
        if source == target {
            return Err(qerr!("Source and target cannot be the same"));
        }
        let mode = bitmap_mode(o)?;
        g.no_job_on(source)?;
        g.no_job_on(target)?;
        let cx = |id| g.cx(id).ok_or_else(|| qerr!("The node has gone"));
        let (len, target_len) = (cx(source)?.len(), cx(target)?.len());
        let (bounds, chunk) = bounds(&o.x_perf.clone().unwrap_or_default())?;
        let tracked = match mode {
            None => None,
            Some((name, mode, says)) => {
                let changes = mode != BitmapSyncMode::Never;
                let missing = |_| qerr!("Bitmap '{name}' could not be found");
                c.bitmap(source, &name).map_err(missing)?;
                let (busy, now, records) = c.take_bitmap(source, &name, changes).await?;
                let bitmap = busy.bitmap().clone();
                let empty = || Bitmap::new(&name, len, bitmap.granularity(), false, false).map(Arc::new);
                let (since, only) = (empty()?, says.then(empty).transpose()?);
                if let Some(only) = &only {
                    only.put_back(&now);
                }
                let (before, busy) = (Mutex::default(), Mutex::new(Some(busy)));
                Some((Arc::new(Tracked { bitmap, busy, mode, only, since, before }), records))
            }
        };
        if len != target_len {
            return Err(qerr!("Source and target image have different sizes"));
        }
        let compress = o.compress.unwrap_or(false);
        if compress && !cx(target)?.compresses() {
            let drive = g.roots().find(|r| r.node == Some(target) && r.drive).map_or("", |r| r.name.as_str());
            return Err(qerr!("Compression is not supported for this drive {drive}"));
        }
        let piece =
            piece(&g, source, target, o.x_perf.as_ref().and_then(|p| p.min_cluster_size).unwrap_or(0))?;
        if chunk != 0 && chunk < piece {
            return Err(qerr!("Required max-chunk ({chunk}) is less than backup cluster size ({piece})"));
        }
        let past = Past::new(PastSpec {
            len,
            piece,
            only: tracked.as_ref().and_then(|(t, _)| t.only.clone()),
            give_up: false,
            timeout: None,
            write: if compress { WriteFlags::COMPRESSED } else { WriteFlags::empty() },
        })?;
        // A bitmap that does not record now will not know of what is written.
        let since = tracked.as_ref().filter(|(_, records)| *records).map(|(t, _)| t.since.clone());
        let watch = Arc::new(Watcher { past: past.clone(), since });
        let discard = o.discard_source.unwrap_or(false);
        let frozen = Frozen::chain(c, source, None);
        let filter = c.insert_filter(FilterSpec {
            ty: if discard { &BACKUP_TOP_DISCARD } else { &BACKUP_TOP },
            watch,
            name: o.filter_node_name.as_deref(),
            source,
            link: "file",
            target: Some(("target", target)),
        })?;
        c.freeze(filter, SOURCE);
        let root = Arc::new(c.add_root(job, filter, source, vec![target]));
        let image = top_image(&g, source);
        let layered = g.cow_child(image).is_some();
        let copying = Arc::new(Copying {
            past,
            discard,
            on_source_error: o.on_source_error.unwrap_or_default(),
            on_target_error: o.on_target_error.unwrap_or_default(),
        });
        Ok(Backup {
            graph: self.jobs.graph().clone(),
            root,
            filter,
            source,
            frozen,
            top: (o.sync == MirrorSyncMode::Top && layered).then_some(image),
            none: o.sync == MirrorSyncMode::None,
            bounds,
            copying,
            tracked: tracked.map(|(t, _)| t),
        })
    }
}

impl Action for Start {
    fn rests(&self, graph: &Graph) -> Vec<NodeId> {
        let names = [&self.command.common.device, &self.command.target];
        names.into_iter().filter_map(|n| find(graph, n).ok()).map(|n| n.id).collect()
    }

    fn prepare<'a>(&'a mut self, change: &'a mut Change<'_, '_>) -> CtlFuture<'a> {
        Box::pin(async move {
            let o = &self.command.common;
            let id = job_id(change.graph(), o.job_id.clone(), &o.device);
            let speed = block::job::speed_of(o.speed);
            let speed_now = speed.as_ref().copied().unwrap_or(0);
            let config = config(id, JobType::Backup, speed_now, o.auto_finalize, o.auto_dismiss);
            let job = self.jobs.create(config, self.group.as_ref())?;
            let made = match speed {
                Ok(_) => self.set_up(change, &job).await,
                Err(e) => Err(e),
            };
            match made {
                Ok(body) => self.made = Some((job, body)),
                Err(e) => {
                    self.jobs.forget(&job);
                    return Err(e);
                }
            }
            Ok(())
        })
    }

    fn commit(self: Box<Self>, _: &Arc<Graph>) {
        if let Some((job, body)) = self.made {
            self.jobs.start(&job, Arc::new(body));
        }
    }

    fn abort(self: Box<Self>) -> DoneFuture<'static> {
        if let Some((job, _)) = &self.made {
            self.jobs.forget(job);
        }
        Box::pin(async {})
    }
}

/// `blockdev-backup`.
pub async fn backup(jobs: &Arc<Jobs>, c: BlockdevBackup) -> Result<(), QError> {
    jobs.graph().transact(vec![Box::new(Start::new(jobs, c, None))]).await
}
