//! The commands that begin a mirror.

use super::{After, Mirror, Mirrored, put_in, set_up};
use crate::copy::Zeroes;
use crate::flow::Bounds;
use crate::setup::{Made, begin, config, find, is_root, job_id};
use crate::target::{Backing, NewTarget};
use api::block_core::{
    BlockdevMirror, DriveMirror, ImageInfoSpecific, MirrorCopyMode, MirrorSyncMode, NewImageMode,
};
use api::job::JobType;
use block::driver::CtlFuture;
use block::job::{Change, DoneFuture, JobConfig, Jobs};
use block::transaction::Action;
use block::{Graph, Node, NodeId, Perm, Role};
use qapi::{QError, qerr};
use std::sync::Arc;

/// What can be told of a mirror before there is a target.
struct Plan {
    source: NodeId,
    granularity: u64,
    bounds: Bounds,
    bottom: Option<NodeId>,
    replaces: NodeId,
}

impl Plan {
    fn new(g: &Arc<Graph>, c: &BlockdevMirror, source: NodeId) -> Result<Plan, QError> {
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
            MirrorSyncMode::Top => crate::commit::chain(g, source).get(1).map(|_| top_image(g, source)),
            MirrorSyncMode::Full | MirrorSyncMode::None => None,
        };
        let replaces = match &c.replaces {
            None => source,
            Some(name) => {
                let node =
                    g.by_name(name).ok_or_else(|| qerr!("Failed to find node with node-name='{name}'"))?;
                if !shows(g, source, node.id) {
                    return Err(qerr!(
                        "Cannot replace '{name}' by a node mirrored from '{}', because it cannot be guaranteed that doing so would not lead to an abrupt change of visible data",
                        c.device
                    ));
                }
                node.id
            }
        };
        Ok(Plan { source, granularity, bounds, bottom, replaces })
    }

    /// All that there is to know.
    fn whole(
        self,
        g: &Arc<Graph>,
        c: &BlockdevMirror,
        target: &Node,
        unmap: bool,
        backing: After,
    ) -> Result<Mirrored, QError> {
        let Plan { source, granularity, bounds, bottom, replaces } = self;
        if top_image(g, target.id) == top_image(g, source) {
            return Err(qerr!("Can't mirror node into itself"));
        }
        // Its overlay would show something else.
        if let Some(p) = g.overlay_of(target.id) {
            return Err(qerr!("Node '{}' is busy: node is used as backing hd of '{}'", target.name, p.name));
        }
        if g.reaches(target.id, source) {
            return Err(qerr!(
                "The target '{}' shows the node '{}' that is to be mirrored",
                c.target,
                c.device
            ));
        }
        for id in [source, target.id, replaces] {
            g.no_job_on(id)?;
        }
        if target.pair.perm.intersects(Perm::WRITE)
            && g.roots().any(|r| r.node == Some(target.id) && !r.drive)
        {
            return Err(qerr!("Node '{}' is in use", c.target));
        }
        let none = c.sync == MirrorSyncMode::None;
        let info = g.cx(top_image(g, target.id)).map(|cx| cx.info()).unwrap_or_default();
        // Whoever mirrors a part only gives the target a backing file, be it at the end.
        let bare = (none || bottom.is_some()) && g.cow_child(target.id).is_none();
        let old = |s: &ImageInfoSpecific| matches!(s, ImageInfoSpecific::Qcow2(q) if q.compat == "0.10");
        let zeroes = match info.format_specific {
            // Its clusters hold data or nothing, and nothing will be the backing file's bytes.
            Some(s) if bare && old(&s) => Zeroes::Bytes,
            _ if unmap => Zeroes::Holes,
            _ => Zeroes::Kept,
        };
        let cluster = info.cluster_size.filter(|c| bare && c.is_power_of_two()).unwrap_or(0);
        Ok(Mirrored {
            source,
            target: target.id,
            bottom,
            replaces,
            commit: false,
            stays: false,
            failover: false,
            backing,
            bare,
            zeroes,
            none,
            blocking: c.copy_mode == Some(MirrorCopyMode::WriteBlocking),
            granularity: granularity.max(cluster),
            bounds,
            filter_name: c.filter_node_name.clone(),
            others: vec![target.id],
            between: Vec::new(),
            on_source_error: c.on_source_error.unwrap_or_default(),
            on_target_error: c.on_target_error.unwrap_or_default(),
        })
    }
}

/// Whether nobody sees other bytes than before when `node` is replaced by a copy of `from`: `node` is reached from there by
/// links that show the same bytes; or it is one of the copies that a quorum votes on, and serves nobody else.
fn shows(g: &Graph, from: NodeId, node: NodeId) -> bool {
    let mut at = Some(from);
    while let Some(id) = at {
        if id == node {
            return true;
        }
        if g.node(id).is_some_and(|n| n.ty.name == "quorum" && n.edges.iter().any(|e| e.child == node)) {
            let links = g.nodes().flat_map(|p| &p.edges).filter(|e| e.child == node).count();
            return links == 1 && !g.roots().any(|r| r.node == Some(node));
        }
        let filtered =
            |n: &Arc<Node>| n.primary().filter(|e| e.role.contains(Role::FILTERED)).map(|e| e.child);
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

fn job_config(g: &Graph, c: &BlockdevMirror, speed: u64) -> JobConfig {
    let id = job_id(g, c.job_id.clone(), &c.device);
    config(id, JobType::Mirror, speed, c.auto_finalize, c.auto_dismiss)
}

/// `blockdev-mirror`.
pub async fn mirror(jobs: &Arc<Jobs>, c: BlockdevMirror) -> Result<(), QError> {
    let graph = jobs.graph().clone();
    let g = graph.snapshot();
    let source = find(&g, &c.device)?.id;
    is_root(&g, source)?;
    let target = find(&g, &c.target)?;
    let what = Plan::new(&g, &c, source)?.whole(&g, &c, &target, true, After::Leave)?;
    graph.may_filter(source, "backing", c.filter_node_name.as_deref())?;
    // A speed that cannot be is told after the job was made.
    let speed = block::job::speed_of(c.speed);
    let config = job_config(&g, &c, speed.as_ref().copied().unwrap_or(0));
    let begun = begin(jobs, config, async |job| {
        speed?;
        set_up(&graph, &job, what).await
    });
    begun.await.map(drop)
}

/// The beginning of a mirror whose target is made or opened by it.
struct Start {
    jobs: Arc<Jobs>,
    command: DriveMirror,
    made: Option<Made<Mirror>>,
}

impl Start {
    async fn set_up(&mut self, c: &mut Change<'_, '_>) -> Result<(), QError> {
        let d = &self.command;
        let mut command = BlockdevMirror {
            job_id: d.job_id.clone(),
            device: d.device.clone(),
            target: String::new(),
            replaces: d.replaces.clone(),
            sync: d.sync,
            speed: d.speed,
            granularity: d.granularity,
            buf_size: d.buf_size,
            on_source_error: d.on_source_error,
            on_target_error: d.on_target_error,
            filter_node_name: None,
            copy_mode: d.copy_mode,
            auto_finalize: d.auto_finalize,
            auto_dismiss: d.auto_dismiss,
        };
        let g = c.preview();
        let source = find(&g, &d.device)?.id;
        is_root(&g, source)?;
        if d.replaces.is_some() && d.node_name.is_none() {
            return Err(qerr!("a node-name must be provided when replacing a named node of the graph"));
        }
        let plan = Plan::new(&g, &command, source)?;
        g.no_job_on(source)?;
        let speed = block::job::speed_of(d.speed);
        let config = job_config(&g, &command, speed.as_ref().copied().unwrap_or(0));
        self.jobs.check_id(&config.id)?;
        let mode = d.mode.unwrap_or_default();
        // What the copy is to stand on, where it is to be made for that.
        let below = match d.sync {
            MirrorSyncMode::None => Some(source),
            _ => plan.bottom.and_then(|top| g.cow_child(top)),
        };
        let full = below.is_none();
        let image = NewTarget {
            path: &d.target,
            format: d.format.as_deref(),
            node_name: d.node_name.as_deref(),
            mode,
            like: source,
            below,
            // A whole copy on an image that is there must hide what is below it. Of another, what is below may be
            // copied there at the same time.
            backing: if full && mode == NewImageMode::Existing { Backing::Header } else { Backing::Later },
            unmap: false,
            read_only: false,
        };
        let target = image.open(c).await?;
        let g = c.preview();
        let target = g.node(target).ok_or_else(|| qerr!("The node has gone"))?;
        command.target = target.name.clone();
        let backing = match (mode, below) {
            (NewImageMode::Existing, Some(_)) => After::Open,
            (NewImageMode::AbsolutePaths, Some(node)) => After::Give(node),
            (_, None) => After::Leave,
        };
        let what = plan.whole(&g, &command, target, d.unmap.unwrap_or(true), backing)?;
        let job = self.jobs.create(config, None)?;
        let body = speed.and_then(|_| put_in(c, self.jobs.graph(), &job, what));
        self.made = Some(Made::new(&self.jobs, job, body)?);
        Ok(())
    }
}

impl Action for Start {
    fn rests(&self, graph: &Graph) -> Vec<NodeId> {
        find(graph, &self.command.device).map(|n| vec![n.id]).unwrap_or_default()
    }

    fn prepare<'a>(&'a mut self, change: &'a mut Change<'_, '_>) -> CtlFuture<'a> {
        Box::pin(self.set_up(change))
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

/// `drive-mirror`.
pub async fn drive_mirror(jobs: &Arc<Jobs>, command: DriveMirror) -> Result<(), QError> {
    jobs.graph().transact(vec![Box::new(Start { jobs: jobs.clone(), command, made: None })]).await
}

/// The filters from `node` down, to the image that they show.
pub(crate) fn filters(g: &Graph, node: NodeId) -> Vec<NodeId> {
    let below = |n: &NodeId| {
        let edge = g.node(*n)?.primary().filter(|e| e.role.contains(Role::FILTERED))?;
        Some(edge.child)
    };
    std::iter::successors(Some(node), below).filter(|n| below(n).is_some()).collect()
}

/// The image under the filters at `node`.
pub(crate) fn top_image(g: &Graph, node: NodeId) -> NodeId {
    let mut at = node;
    while let Some(e) = g.node(at).and_then(|n| n.primary()).filter(|e| e.role.contains(Role::FILTERED)) {
        at = e.child;
    }
    at
}
