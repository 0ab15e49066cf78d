//! What all jobs with a filter have in common: finding nodes, beginning, undoing.

use api::job::JobType;
use block::driver::{BackingHint, ChildSlot, Kind};
use block::job::{Change, Job, JobConfig, Jobs};
use block::{BlockGraph, Graph, Node, NodeId};
use qapi::{QError, qerr};
use std::sync::Arc;

/// The node called `name`.
pub(crate) fn find(g: &Graph, name: &str) -> Result<Arc<Node>, QError> {
    let id = match g.drive(name) {
        Some(d) => d.node.and_then(|n| g.node(n)),
        None => g.by_name(name),
    };
    id.cloned().ok_or_else(|| qerr!("Cannot find device='{name}' nor node-name='{name}'"))
}

/// The node called `name`, as an argument that must be a node's name.
pub(crate) fn find_node(g: &Graph, name: &str) -> Result<Arc<Node>, QError> {
    g.by_name(name).cloned().ok_or_else(|| qerr!("Cannot find device='' nor node-name='{name}'"))
}

/// An error unless no other node uses this one, and no job is about it.
pub(crate) fn is_root(g: &Graph, node: NodeId) -> Result<(), QError> {
    let used = g.nodes().any(|p| p.edges.iter().any(|e| e.child == node));
    if used || g.job_on(node).is_some_and(|(_, about)| about) {
        Err(qerr!("Need a root block node"))
    } else {
        Ok(())
    }
}

/// The job's id: as given, or the name of the drive, or of the one that stands on the node.
pub(crate) fn job_id(g: &Graph, given: Option<String>, device: &str) -> String {
    let on_node = || {
        let node = g.by_name(device)?.id;
        g.roots().find(|r| r.node == Some(node) && !r.name.is_empty())
    };
    given.unwrap_or_else(|| g.drive(device).or_else(on_node).map_or_else(String::new, |d| d.name.clone()))
}

/// A job as its command asks for it.
pub(crate) fn config(
    id: String,
    ty: JobType,
    speed: u64,
    auto_finalize: Option<bool>,
    auto_dismiss: Option<bool>,
) -> JobConfig {
    let (auto_finalize, auto_dismiss) = (auto_finalize.unwrap_or(true), auto_dismiss.unwrap_or(true));
    JobConfig { id, ty, block: true, auto_finalize, auto_dismiss, speed, internal: false }
}

/// A job that only its maker sees.
pub(crate) fn internal(ty: JobType) -> JobConfig {
    JobConfig { internal: true, ..config(String::new(), ty, 0, None, None) }
}

/// Makes a job and sets it up; where that fails, the job is gone again.
pub(crate) async fn begin<B: block::job::Body>(
    jobs: &Arc<Jobs>,
    config: JobConfig,
    setup: impl AsyncFnOnce(Arc<Job>) -> Result<B, QError>,
) -> Result<Arc<Job>, QError> {
    let job = jobs.create(config, None)?;
    let body = setup(job.clone()).await;
    Ok(Made::new(jobs, job, body)?.start())
}

/// A job that has been set up and not started.
pub(crate) struct Made<B> {
    jobs: Arc<Jobs>,
    job: Arc<Job>,
    body: B,
}

impl<B: block::job::Body> Made<B> {
    /// The job with what came of setting it up; it is forgotten where that failed.
    pub(crate) fn new(jobs: &Arc<Jobs>, job: Arc<Job>, body: Result<B, QError>) -> Result<Made<B>, QError> {
        match body {
            Ok(body) => Ok(Made { jobs: jobs.clone(), job, body }),
            Err(e) => {
                jobs.forget(&job);
                Err(e)
            }
        }
    }

    /// Starts it.
    pub(crate) fn start(self) -> Arc<Job> {
        self.jobs.start(&self.job, Arc::new(self.body));
        self.job
    }

    /// Gives it up.
    pub(crate) fn forget(self) {
        self.jobs.forget(&self.job);
    }
}

/// An error where the filter of a job that copies from under itself cannot be over `node`.
pub(crate) fn may_make_filter(graph: &BlockGraph, node: NodeId, name: Option<&str>) -> Result<(), QError> {
    graph.may_filter(node, "file", name).map_err(|e| e.prepend("Could not create node"))
}

/// The links that a job has frozen.
#[derive(Clone, Default)]
pub(crate) struct Frozen(Vec<(NodeId, ChildSlot)>);

impl Frozen {
    /// Freezes all links from `top` down to `bottom`.
    pub(crate) fn chain(c: &mut Change<'_, '_>, top: NodeId, bottom: Option<NodeId>) -> Frozen {
        let links = c.chain_links(top, bottom);
        for (parent, slot) in &links {
            c.freeze(*parent, *slot);
        }
        Frozen(links)
    }

    /// Lets them change again.
    pub(crate) fn thaw(&self, c: &mut Change<'_, '_>) {
        for (parent, slot) in &self.0 {
            c.thaw(*parent, *slot);
        }
    }
}

/// What an image's header shall say of the backing file `node`. Filters above it (another job's, too) are nothing that a
/// header can name.
pub(crate) fn hint(
    graph: &BlockGraph,
    node: NodeId,
    name: Option<&str>,
    mask_protocol: bool,
) -> Option<BackingHint> {
    let g = graph.snapshot();
    let mut node = g.node(node)?;
    while node.ty.kind == Kind::Filter
        && let Some(below) = node.primary().and_then(|e| g.node(e.child))
    {
        node = below;
    }
    let filename = match name {
        Some(n) => n.to_owned(),
        None => graph.image_info(&node.name)?.base.filename,
    };
    let mask = mask_protocol && node.ty.kind == Kind::Protocol;
    let format = if mask { "raw" } else { node.ty.name };
    Some(BackingHint { filename, format: Some(format.to_owned()) })
}

/// Undoes what a job did to the graph. A driver may fail to stage; what failed for a moment is tried again.
pub(crate) async fn undo(
    graph: &BlockGraph,
    drain: NodeId,
    f: impl Fn(&mut Change<'_, '_>) + Clone + 'static,
) {
    const TRIES: u32 = 20;
    for i in 1..=TRIES {
        let f = f.clone();
        match graph
            .change(vec![drain], move |c| {
                f(c);
                Ok(())
            })
            .await
        {
            Ok(()) => return,
            Err(e) if i == TRIES => tracing::error!("a job's filter stays: {e}"),
            Err(_) => rt::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}
