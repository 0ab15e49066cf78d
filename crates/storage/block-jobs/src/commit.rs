//! `block-commit`: images of a chain are merged into one below them.
//!
//! What lies above `top` is in use and changes; `top` and what lies below it do not, but for the base, which gets what
//! the images above it have. When all is copied, the image above `top` gets the base as its backing file. Where `top` is
//! the active image itself, this is a mirror into the base ([`crate::mirror`]).

use crate::copy::{Failed, Zeroes, copy_range, has, plain};
use crate::flow::{Bounds, Buffers, Flow, Sweep, Work};
use crate::mirror::{self, After, Mirrored};
use crate::setup::{Frozen, Made, begin, config, find_node, hint, internal, is_root, job_id, undo};
use api::block_core::{BlockCommit, BlockdevOnError};
use api::job::JobType;
use base::{Errno, IoResult};
use block::driver::{BackingHint, ChildSlot, CtlFuture, Prealloc};
use block::job::change::FilterSpec;
use block::job::filter::{Blind, COMMIT_TOP, SOURCE, TARGET};
use block::job::{Body, DoneFuture, Job, JobRoot, Jobs, Op};
use block::{BlockGraph, Graph, NodeId};
use qapi::{ErrorClass, QError, qerr};
use std::sync::Arc;

/// What is copied: what the images from the topmost one that is merged down to `bottom` have.
struct Merged {
    /// The lowest image that is merged.
    bottom: NodeId,
    on_error: BlockdevOnError,
}

impl Work for Merged {
    async fn piece(&self, op: &Op, bufs: &Buffers, off: u64, len: u64) -> Result<u64, Failed> {
        copy_range(op, bufs, off, len, Some(self.bottom), Zeroes::Holes).await
    }

    fn on_error(&self, _: bool) -> BlockdevOnError {
        self.on_error
    }
}

impl Sweep for Merged {
    async fn scan(&self, op: &Op, off: u64, len: u64) -> IoResult<(u64, bool)> {
        let st = op.status(SOURCE, off, len, Some(self.bottom)).await?;
        Ok((st.len, has(&st)))
    }
}

struct Commit {
    graph: Arc<BlockGraph>,
    root: Arc<JobRoot>,
    filter: NodeId,
    top: NodeId,
    base: NodeId,
    frozen: Frozen,
    /// The base was read-only before.
    base_ro: bool,
    merged: Arc<Merged>,
    hint: Option<BackingHint>,
}

impl Commit {
    async fn all(&self, job: &Arc<Job>) -> Result<(), QError> {
        let op = self.root.enter().await.map_err(plain)?;
        let len = op.cx().len();
        job.set_progress(0, len);
        if op.cx().child_len(TARGET).map_err(plain)? < len {
            op.cx().child_truncate(TARGET, len, false, Prealloc::Off).await.map_err(plain)?;
        }
        drop(op);
        Flow::new(job, &self.root, self.merged.clone(), Bounds::even()).sweep(len).await?;
        let op = self.root.enter().await.map_err(plain)?;
        op.cx().child_flush(TARGET).await.map_err(plain)
    }

    fn overlays(&self) -> Vec<NodeId> {
        let g = self.graph.snapshot();
        g.nodes().filter(|n| n.edges.iter().any(|e| e.child == self.filter)).map(|n| n.id).collect()
    }
}

impl Body for Commit {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(self.all(job))
    }

    fn prepare<'a>(&'a self, _: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(async move {
            // The base has all that the images above it have: a header may name it before the graph does.
            let names = self.overlays().into_iter().map(|o| (o, self.hint.clone())).collect();
            let (frozen, filter, base, ro, root) =
                (self.frozen.clone(), self.filter, self.base, self.base_ro, self.root.id());
            let change = self.graph.change_naming(vec![filter], names, move |c| {
                frozen.thaw(c);
                c.remove_filter(filter, base);
                c.drop_root(root);
                c.set_read_only(base, ro);
                Ok(())
            });
            change.await
        })
    }

    fn abort<'a>(&'a self, _: &'a Arc<Job>) -> DoneFuture<'a> {
        Box::pin(async move {
            let (frozen, filter, top, base, ro, root) =
                (self.frozen.clone(), self.filter, self.top, self.base, self.base_ro, self.root.id());
            undo(&self.graph, filter, move |c| {
                frozen.thaw(c);
                c.remove_filter(filter, top);
                c.drop_root(root);
                c.set_read_only(base, ro);
            })
            .await;
        })
    }
}

/// The mirror that merges the images from the active one, `top`, down to `bottom` into `base`.
pub(crate) fn merging(top: NodeId, bottom: NodeId, base: NodeId) -> Mirrored {
    Mirrored {
        source: top,
        target: base,
        bottom: Some(bottom),
        replaces: top,
        commit: true,
        stays: false,
        failover: false,
        backing: After::Leave,
        bare: false,
        zeroes: Zeroes::Holes,
        none: false,
        blocking: false,
        granularity: 64 << 10,
        bounds: Bounds::default(),
        filter_name: None,
        others: Vec::new(),
        between: Vec::new(),
        on_source_error: BlockdevOnError::Report,
        on_target_error: BlockdevOnError::Report,
    }
}

/// Whether `node` is shorter than `than`.
pub(crate) fn shorter(g: &Arc<Graph>, node: NodeId, than: NodeId) -> bool {
    let len = |n| g.cx(n).map_or(0, |cx| cx.len());
    len(node) < len(than)
}

/// The chain of images from `top` down, filters left out.
pub(crate) fn chain(g: &Arc<Graph>, top: NodeId) -> Vec<NodeId> {
    let mut chain = vec![top];
    while let Some(next) = chain.last().and_then(|n| g.cow_child(*n)) {
        chain.push(next);
    }
    chain
}

/// The image of the chain that `node` (by its name) or `file` (by its file's name) means. `missing`: there is no such file.
fn pick(
    graph: &BlockGraph,
    g: &Graph,
    chain: &[NodeId],
    node: Option<&str>,
    file: Option<&str>,
    missing: fn(&str) -> QError,
) -> Result<Option<NodeId>, QError> {
    let not_in = |n: &str| qerr!("'{n}' is not in this backing file chain");
    if let Some(name) = node {
        let id = find_node(g, name)?.id;
        return if chain.contains(&id) { Ok(Some(id)) } else { Err(not_in(name)) };
    }
    let Some(file) = file else { return Ok(None) };
    let called = |id: &&NodeId| {
        let info = g.node(**id).and_then(|n| graph.image_info(&n.name));
        info.is_some_and(|i| i.base.filename == file)
    };
    let found = chain.iter().find(called).copied();
    found.map(Some).ok_or_else(|| missing(file))
}

/// `block-commit`.
pub async fn commit(jobs: &Arc<Jobs>, c: BlockCommit) -> Result<(), QError> {
    let graph = jobs.graph().clone();
    let g = graph.snapshot();
    let device = match g.drive(&c.device) {
        Some(d) => d.node.and_then(|n| g.node(n)),
        None => g.by_name(&c.device),
    };
    let device = device
        .ok_or_else(|| {
            QError::with_class(ErrorClass::DeviceNotFound, format!("Device '{}' not found", c.device))
        })?
        .id;
    is_root(&g, device)?;
    if c.top_node.is_some() && c.top.is_some() {
        return Err(qerr!("'top-node' and 'top' are mutually exclusive"));
    }
    if c.base_node.is_some() && c.base.is_some() {
        return Err(qerr!("'base-node' and 'base' are mutually exclusive"));
    }
    let images = chain(&g, device);
    let missing = |file: &str| qerr!("Top image file {file} not found");
    let top = pick(&graph, &g, &images, c.top_node.as_deref(), c.top.as_deref(), missing)?.unwrap_or(device);
    let below = &images[images.iter().position(|n| *n == top).unwrap_or(0)..];
    // A file is looked for behind the top only.
    let among = if c.base.is_some() { &below[1..] } else { below };
    let missing = |file: &str| qerr!("Can't find '{file}' in the backing chain");
    let base = pick(&graph, &g, among, c.base_node.as_deref(), c.base.as_deref(), missing)?;
    let base = base.or_else(|| below.last().copied()).unwrap_or(top);
    if base == top {
        return Err(qerr!("cannot commit an image into itself"));
    }
    let merged = &below[..below.iter().position(|n| *n == base).unwrap_or(0)];
    let Some(bottom) = merged.last().copied() else {
        return Err(qerr!("cannot commit an image into itself"));
    };
    for id in below.iter().take(merged.len() + 1).chain([&device]) {
        g.no_job_on(*id)?;
    }
    let active = top == device;
    if active && c.backing_file.is_some() {
        return Err(qerr!("'backing-file' specified, but 'top' is the active layer"));
    }
    let id = job_id(&g, c.job_id.clone(), &c.device);
    let make = |speed| config(id, JobType::Commit, speed, c.auto_finalize, c.auto_dismiss);
    let on_error = c.on_error.unwrap_or_default();
    let others = below.iter().take(merged.len() + 1).copied().filter(|n| *n != device).collect::<Vec<_>>();
    // A speed that cannot be is told after the job was made.
    let speed = block::job::speed_of(c.speed);
    let name = c.filter_node_name.clone();
    let between = merged.iter().copied().filter(|n| *n != device).collect::<Vec<_>>();
    if active {
        graph.may_filter(device, "backing", name.as_deref())?;
        let what = Mirrored {
            filter_name: name,
            on_source_error: on_error,
            on_target_error: on_error,
            others,
            between,
            ..merging(device, bottom, base)
        };
        return begin(jobs, make(speed.as_ref().copied().unwrap_or(0)), async |job| {
            speed?;
            mirror::set_up(&graph, &job, what).await
        })
        .await
        .map(drop);
    }
    let hint = hint(&graph, base, c.backing_file.as_deref(), c.backing_mask_protocol.unwrap_or(false));
    begin(jobs, make(speed.as_ref().copied().unwrap_or(0)), async |job| {
        speed?;
        let job = job.clone();
        let made = graph
            .change(vec![device], move |c| {
                let base_ro = c.set_read_only(base, false);
                let frozen = Frozen::chain(c, top, Some(base));
                let filter = c.insert_filter(FilterSpec {
                    ty: &COMMIT_TOP,
                    watch: Arc::new(Blind),
                    name: name.as_deref(),
                    source: top,
                    link: "backing",
                    target: Some(("base", base)),
                    grows: shorter(&c.preview(), base, top),
                })?;
                c.freeze(filter, SOURCE);
                let root = c.add_root(&job, filter, device, others);
                c.set_between(&root, between);
                Ok((base_ro, frozen, filter, root))
            })
            .await?;
        let (base_ro, frozen, filter, root) = made;
        let graph = graph.clone();
        let (root, merged) = (Arc::new(root), Arc::new(Merged { bottom, on_error }));
        Ok(Commit { graph, root, filter, top, base, frozen, base_ro, merged, hint })
    })
    .await
    .map(drop)
}

/// Merges the image at `device` into its backing file while its users go on, and has it give up what it holds.
///
/// # Errors
/// What the human monitor says of it.
async fn commit_in_place(jobs: &Arc<Jobs>, device: NodeId) -> Result<(), QError> {
    let graph = jobs.graph();
    let g = graph.snapshot();
    let mut top = g.node(device).ok_or_else(|| plain(Errno::NOMEDIUM))?;
    while top.implicit
        && let Some(below) = top.primary().and_then(|e| g.node(e.child))
    {
        top = below;
    }
    let backing = top.edge(ChildSlot::Backing).ok_or_else(|| plain(Errno::NOTSUP))?;
    let base = mirror::top_image(&g, backing.child);
    let busy = |id: &NodeId| g.no_job_on(*id).is_err() || g.overlay_of(*id).is_some_and(|o| o.id != top.id);
    if [device, top.id, base].iter().any(busy) {
        return Err(plain(Errno::BUSY));
    }
    if !top.writable() {
        return Err(qerr!("{}", Errno::PERM).with_hint("Block node is read-only"));
    }
    let what = Mirrored { stays: true, others: vec![base], ..merging(top.id, top.id, base) };
    let job = jobs.create(internal(JobType::Commit), None)?;
    let body = mirror::set_up(graph, &job, what).await.map_err(|e| {
        tracing::debug!("a commit cannot begin: {e}");
        plain(Errno::ACCES)
    });
    let job = Made::new(jobs, job, body)?.start();
    job.ended().await;
    job.error().map_or(Ok(()), |e| Err(QError::new(e)))
}

/// `commit` of the human monitor: `device` is a drive's name, or `all`. The answer is what is told of it.
pub async fn commit_drives(jobs: &Arc<Jobs>, device: &str) -> String {
    let g = jobs.graph().snapshot();
    let nodes: Vec<NodeId> = if device == "all" {
        let drives = g.roots().filter(|r| r.drive || r.qdev.is_some()).filter_map(|r| r.node);
        drives.filter(|n| g.cow_child(*n).is_some()).collect()
    } else {
        match g.drive(device) {
            Some(d) => match d.node {
                Some(node) => vec![node],
                None => return format!("Device '{device}' has no medium\n"),
            },
            None => return format!("Device '{device}' not found\n"),
        }
    };
    for node in nodes {
        if let Err(e) = commit_in_place(jobs, node).await {
            let hint = e.hint().map(|h| format!("{h}\n")).unwrap_or_default();
            return format!("{hint}'commit' error for '{device}': {}\n", e.desc());
        }
    }
    String::new()
}
