//! The commands that begin a backup, and what they refuse.

use super::{Backup, Copying, Tracked, Watcher};
use crate::flow::{Bounds, CHUNK};
use crate::mirror::top_image;
use crate::setup::{Frozen, Made, config, find, job_id, may_make_filter};
use crate::target::{Backing, NewTarget};
use api::block_core::{
    BackupCommon, BackupPerf, BitmapSyncMode, BlockdevBackup, BlockdevOnError, DriveBackup, MirrorSyncMode,
    NewImageMode,
};
use api::job::JobType;
use block::bitmap::Bitmap;
use block::driver::{CtlFuture, WriteFlags};
use block::job::change::FilterSpec;
use block::job::filter::{BACKUP_TOP, BACKUP_TOP_DISCARD, SOURCE};
use block::job::{Change, DoneFuture, Group, Job, Jobs};
use block::transaction::Action;
use block::{BlockGraph, Graph, NodeId};
use block_filters::{MAX_PIECE, MIN_PIECE, Past, PastSpec};
use parking_lot::Mutex;
use qapi::{QError, QapiEnum, qerr};
use std::sync::Arc;

/// How many pieces are copied at a time unless the command says.
const WORKERS: i64 = 64;

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
    let bounds = Bounds {
        pieces: pieces as usize,
        chunk: if chunk == 0 { usual.chunk } else { chunk.min(CHUNK) },
        ..usual
    };
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

/// Where a backup goes.
enum Target {
    /// To the node of this name.
    Node(String),
    /// To an image that the command makes or opens itself.
    Image { path: String, format: Option<String>, mode: NewImageMode },
}

/// What is asked for.
pub(crate) struct Command {
    common: BackupCommon,
    target: Target,
}

impl From<BlockdevBackup> for Command {
    fn from(b: BlockdevBackup) -> Command {
        Command { common: b.common, target: Target::Node(b.target) }
    }
}

impl From<DriveBackup> for Command {
    fn from(b: DriveBackup) -> Command {
        let target = Target::Image { path: b.target, format: b.format, mode: b.mode.unwrap_or_default() };
        Command { common: b.common, target }
    }
}

/// The beginning of a backup, as part of a transaction.
pub(crate) struct Start {
    jobs: Arc<Jobs>,
    command: Command,
    group: Option<Arc<Group>>,
    made: Option<Made<Backup>>,
}

impl Start {
    pub(crate) fn new(jobs: &Arc<Jobs>, command: Command, group: Option<Arc<Group>>) -> Start {
        Start { jobs: jobs.clone(), command, group, made: None }
    }

    /// The node to copy to, made or opened if it must be.
    async fn target(&self, c: &mut Change<'_, '_>, source: NodeId) -> Result<NodeId, QError> {
        let (path, format, mode) = match &self.command.target {
            Target::Node(name) => return Ok(find(&c.preview(), name)?.id),
            Target::Image { path, format, mode } => (path, format, *mode),
        };
        let g = c.preview();
        let below = match self.command.common.sync {
            MirrorSyncMode::Top => g.cow_child(top_image(&g, source)),
            MirrorSyncMode::None => Some(source),
            _ => None,
        };
        let backing = match (below, mode) {
            // What is not copied is to be seen there, now.
            (Some(b), NewImageMode::AbsolutePaths) => Backing::Node(b),
            (Some(b), NewImageMode::Existing) if b == source => Backing::Node(b),
            _ => Backing::Header,
        };
        let image = NewTarget {
            path,
            format: format.as_deref(),
            node_name: None,
            mode,
            like: source,
            below,
            backing,
            unmap: true,
            read_only: false,
        };
        image.open(c).await
    }

    async fn set_up(&self, c: &mut Change<'_, '_>, job: &Arc<Job>) -> Result<Backup, QError> {
        let (o, g) = (&self.command.common, c.preview());
        let source = find(&g, &o.device)?.id;
        let mode = bitmap_mode(o)?;
        if let Some((name, _, _)) = &mode {
            c.bitmap(source, name).map_err(|_| qerr!("Bitmap '{name}' could not be found"))?;
        }
        if matches!(&self.command.target, Target::Node(n) if find(&g, n)?.id == source) {
            return Err(qerr!("Source and target cannot be the same"));
        }
        // Several backups of one node may go on at once.
        if g.job_on(source) != Some((JobType::Backup, true)) {
            g.no_job_on(source)?;
        }
        let target = self.target(c, source).await?;
        let g = c.preview();
        g.no_job_on(target)?;
        let cx = |id| g.cx(id).ok_or_else(|| qerr!("The node has gone"));
        let (len, target_len) = (cx(source)?.len(), cx(target)?.len());
        let (bounds, chunk) = bounds(&o.x_perf.clone().unwrap_or_default())?;
        let tracked = match mode {
            None => None,
            Some((name, mode, says)) => {
                let changes = mode != BitmapSyncMode::Never;
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
            grows: false,
        });
        let filter = filter.map_err(|e| e.prepend("Could not create node"))?;
        c.freeze(filter, SOURCE);
        let root = Arc::new(c.add_root(job, filter, source, vec![target, filter]));
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
        let target = match &self.command.target {
            Target::Node(n) => Some(n),
            Target::Image { .. } => None,
        };
        let names = [Some(&self.command.common.device), target];
        names.into_iter().flatten().filter_map(|n| find(graph, n).ok()).map(|n| n.id).collect()
    }

    fn prepare<'a>(&'a mut self, change: &'a mut Change<'_, '_>) -> CtlFuture<'a> {
        Box::pin(async move {
            let o = &self.command.common;
            // Whether the node can have a filter is looked at before the job is.
            if let Ok(source) = find(change.graph(), &o.device) {
                may_make_filter(self.jobs.graph(), source.id, o.filter_node_name.as_deref())?;
            }
            let id = job_id(change.graph(), o.job_id.clone(), &o.device);
            let speed = block::job::speed_of(o.speed);
            let speed_now = speed.as_ref().copied().unwrap_or(0);
            let config = config(id, JobType::Backup, speed_now, o.auto_finalize, o.auto_dismiss);
            let job = self.jobs.create_quietly(config, self.group.as_ref())?;
            let mut body = self.set_up(change, &job).await;
            if body.is_ok() {
                // It is a job now, although its speed may make it end at once.
                job.announce();
            }
            if let Err(e) = speed {
                body = body.and(Err(e));
            }
            self.made = Some(Made::new(&self.jobs, job, body)?);
            Ok(())
        })
    }

    fn commit(self: Box<Self>, _: &Arc<Graph>) {
        if let Some(made) = self.made {
            made.start();
        }
    }

    fn abort(self: Box<Self>) -> DoneFuture<'static> {
        if let Some(made) = self.made {
            made.forget();
        }
        Box::pin(async {})
    }
}

/// `blockdev-backup`.
pub async fn backup(jobs: &Arc<Jobs>, c: BlockdevBackup) -> Result<(), QError> {
    jobs.graph().transact(vec![Box::new(Start::new(jobs, c.into(), None))]).await
}

/// `drive-backup`.
pub async fn drive_backup(jobs: &Arc<Jobs>, c: DriveBackup) -> Result<(), QError> {
    jobs.graph().transact(vec![Box::new(Start::new(jobs, c.into(), None))]).await
}

/// The state of a node that an internal backup keeps.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    past: Past,
    was_read_only: bool,
}

impl Kept {
    /// Begins anew with the node as it is now ([`Past::again`]).
    pub(crate) fn again(&self) {
        self.past.again();
    }

    /// Whether the target was read-only before.
    pub(crate) fn was_read_only(&self) -> bool {
        self.was_read_only
    }
}

/// Has a job copy to `target` what users of `source` are about to change, until it is cancelled. The links from `top`
/// down to `source` are frozen, and `others` are nodes that the job keeps for itself.
pub(crate) async fn keep(
    graph: &Arc<BlockGraph>,
    job: &Arc<Job>,
    source: NodeId,
    target: NodeId,
    top: NodeId,
    others: Vec<NodeId>,
) -> Result<(Backup, Kept), QError> {
    let (ctl, job) = (graph.clone(), job.clone());
    graph
        .change(vec![source, target], move |c| {
            let g = c.preview();
            let len = g.cx(source).map_or(0, |cx| cx.len());
            let piece = piece(&g, source, target, 0)?;
            let past = Past::new(PastSpec { len, piece, ..PastSpec::default() })?;
            let was_read_only = c.set_read_only(target, false);
            let frozen = Frozen::chain(c, top, Some(source));
            let filter = c.insert_filter(FilterSpec {
                ty: &BACKUP_TOP,
                watch: Arc::new(Watcher { past: past.clone(), since: None }),
                name: None,
                source,
                link: "file",
                target: Some(("target", target)),
                grows: false,
            })?;
            c.freeze(filter, SOURCE);
            let others = [target, filter].into_iter().chain(others).collect();
            let root = Arc::new(c.add_root(&job, filter, source, others));
            let copying = Arc::new(Copying {
                past: past.clone(),
                discard: false,
                on_source_error: BlockdevOnError::Report,
                on_target_error: BlockdevOnError::Report,
            });
            let body = Backup {
                graph: ctl,
                root,
                filter,
                source,
                frozen,
                top: None,
                none: true,
                bounds: Bounds::default(),
                copying,
                tracked: None,
            };
            Ok((body, Kept { past, was_read_only }))
        })
        .await
}
