//! `block-stream`: what shines through from backing files is copied into the image, so that it needs them no more.

use crate::commit::chain;
use crate::copy::{Failed, has, plain};
use crate::flow::{Bounds, Buffers, Flow, Sweep, Work};
use crate::mirror::{filters, top_image};
use crate::setup::{Frozen, begin, config, find, find_node, hint, job_id, may_make_filter, undo};
use api::block_core::{BlockStream, BlockdevOnError};
use api::job::JobType;
use base::IoResult;
use block::driver::{ChildSlot, CtlFuture, Kind};
use block::job::change::FilterSpec;
use block::job::filter::{Blind, SOURCE, STREAM_TOP, STREAM_TOP_FILTER};
use block::job::{Body, DoneFuture, Job, JobRoot, Jobs, Op};
use block::{BlockGraph, NodeId};
use qapi::{QError, qerr};
use std::sync::Arc;

/// What is copied: what the image lacks and the others, from it down to `bottom`, have.
struct Lacking {
    image: NodeId,
    /// The lowest image that is copied from.
    bottom: Option<NodeId>,
    /// Something stays below.
    base: bool,
    on_error: BlockdevOnError,
}

impl Lacking {
    /// How far things are alike, whether they are to be copied, and whether they are zeroes.
    async fn look(&self, op: &Op, off: u64, len: u64) -> IoResult<(u64, bool, bool)> {
        let own = op.status(SOURCE, off, len, Some(self.image)).await?;
        if own.allocated || own.compressed {
            return Ok((own.len, false, false));
        }
        let st = op.status(SOURCE, off, own.len, self.bottom).await?;
        // Without a base, what nobody has is zeroes afterwards as it was before.
        let wanted = st.allocated || st.compressed || (has(&st) && self.base);
        Ok((st.len, wanted, st.zero))
    }
}

impl Work for Lacking {
    async fn piece(&self, op: &Op, bufs: &Buffers, off: u64, len: u64) -> Result<u64, Failed> {
        // Between looking and writing nobody may write there.
        let alone = op.cx().child_alone(SOURCE, off, len).await.map_err(|e| (true, e))?;
        let (mut at, end, mut moved) = (off, off + len, 0);
        while at < end {
            let (n, wanted, zero) = self.look(op, at, end - at).await.map_err(|e| (false, e))?;
            if wanted && zero {
                alone.zeroes_up(at, n).await.map_err(|e| (true, e))?;
            } else if wanted {
                let b = bufs.take(n);
                alone.copy_up(at, n, &b.buf).await?;
                moved += n;
            }
            at += n;
        }
        Ok(moved)
    }

    fn on_error(&self, _: bool) -> BlockdevOnError {
        self.on_error
    }

    fn writes(&self) -> ChildSlot {
        SOURCE
    }

    fn leaves_out(&self) -> bool {
        true
    }
}

impl Sweep for Lacking {
    async fn scan(&self, op: &Op, off: u64, len: u64) -> IoResult<(u64, bool)> {
        self.look(op, off, len).await.map(|(n, wanted, _)| (n, wanted))
    }
}

struct Stream {
    graph: Arc<BlockGraph>,
    root: Arc<JobRoot>,
    filter: NodeId,
    /// The node that the job is about, and the image in it.
    source: NodeId,
    image: NodeId,
    frozen: Frozen,
    /// What was made writable for the job.
    was_ro: Vec<NodeId>,
    lacking: Arc<Lacking>,
    /// What the header is to say of the backing file in the place of its name, and whether it is to leave filters' names out.
    named: (Option<String>, bool),
}

impl Stream {
    /// What stays below the images that are copied. A job below may have ended meanwhile, and its filter be gone.
    fn base(&self) -> Option<NodeId> {
        let below = || self.graph.snapshot().cow_child(self.lacking.bottom?);
        if self.lacking.base { below() } else { None }
    }

    async fn all(&self, job: &Arc<Job>) -> Result<(), QError> {
        if self.lacking.bottom == Some(self.image) {
            // There is no layer to copy from.
            return Ok(());
        }
        let len = self.root.enter().await.map_err(plain)?.cx().len();
        job.set_progress(0, len);
        Flow::new(job, &self.root, self.lacking.clone(), Bounds::even()).sweep(len).await?;
        let op = self.root.enter().await.map_err(plain)?;
        op.cx().child_flush(SOURCE).await.map_err(plain)
    }
}

impl Body for Stream {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(self.all(job))
    }

    fn prepare<'a>(&'a self, _: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(async move {
            // What has no backing file keeps the name of one that it may have.
            let named = self.lacking.base || self.lacking.bottom != Some(self.image);
            loop {
                let base = self.base();
                let (name, mask) = &self.named;
                let hint = base.and_then(|b| hint(&self.graph, b, name.as_deref(), *mask));
                let names = named.then_some((self.image, hint)).into_iter().collect();
                let (frozen, filter, source, image, ro, root) = (
                    self.frozen.clone(),
                    self.filter,
                    self.source,
                    self.image,
                    self.was_ro.clone(),
                    self.root.id(),
                );
                let change = self.graph.change_naming(vec![filter], names, move |c| {
                    if base.is_some_and(|b| c.graph().node(b).is_none()) {
                        return Err(qerr!("The base has gone"));
                    }
                    frozen.thaw(c);
                    c.remove_filter(filter, source);
                    c.drop_root(root);
                    c.set_backing(image, base);
                    ro.iter().for_each(|n| _ = c.set_read_only(*n, true));
                    Ok(())
                });
                let done = change.await;
                if done.is_ok() || self.base() == base {
                    return done;
                }
            }
        })
    }

    fn abort<'a>(&'a self, _: &'a Arc<Job>) -> DoneFuture<'a> {
        Box::pin(async move {
            let (frozen, filter, source, ro, root) =
                (self.frozen.clone(), self.filter, self.source, self.was_ro.clone(), self.root.id());
            undo(&self.graph, filter, move |c| {
                frozen.thaw(c);
                c.remove_filter(filter, source);
                c.drop_root(root);
                ro.iter().for_each(|n| _ = c.set_read_only(*n, true));
            })
            .await;
        })
    }
}

/// `block-stream`.
pub async fn stream(jobs: &Arc<Jobs>, c: BlockStream) -> Result<(), QError> {
    let graph = jobs.graph().clone();
    let g = graph.snapshot();
    let source = find(&g, &c.device)?.id;
    let image = top_image(&g, source);
    if c.base.is_some() && c.base_node.is_some() {
        return Err(qerr!("'base' and 'base-node' cannot be specified at the same time"));
    }
    if c.base.is_some() && c.bottom.is_some() {
        return Err(qerr!("'base' and 'bottom' cannot be specified at the same time"));
    }
    if c.bottom.is_some() && c.base_node.is_some() {
        return Err(qerr!("'bottom' and 'base-node' cannot be specified at the same time"));
    }
    let images = chain(&g, source);
    let below = images.get(1..).unwrap_or_default();
    let base = if let Some(name) = &c.base_node {
        let id = find_node(&g, name)?.id;
        if !below.contains(&id) {
            return Err(qerr!("Node '{name}' is not a backing image of '{}'", c.device));
        }
        Some(id)
    } else if let Some(name) = &c.bottom {
        let bottom = find_node(&g, name)?;
        if bottom.ty.kind == Kind::Filter {
            return Err(qerr!("Node '{name}' is a filter, use a non-filter node as 'bottom'"));
        }
        let id = bottom.id;
        let at = images.iter().position(|n| *n == id);
        let at = at.ok_or_else(|| qerr!("Node '{name}' is not in a chain starting from '{}'", c.device))?;
        images.get(at + 1).copied()
    } else if let Some(file) = &c.base {
        let called = |id: &&NodeId| {
            let info = g.node(**id).and_then(|n| graph.image_info(&n.name));
            info.is_some_and(|i| i.base.filename == *file)
        };
        let found = below.iter().find(called).copied();
        Some(found.ok_or_else(|| qerr!("Can't find '{file}' in the backing chain"))?)
    } else {
        None
    };
    if base.is_none() && c.backing_file.is_some() {
        return Err(qerr!("backing file specified, but streaming the entire chain"));
    }
    let until = base.and_then(|b| below.iter().position(|n| *n == b)).unwrap_or(below.len());
    let between = below[..until].to_vec();
    for id in [source, image].iter().chain(&between).chain(&base) {
        g.no_job_on(*id)?;
    }
    let bottom = between.last().copied().or(Some(image));
    let named = (c.backing_file.clone(), c.backing_mask_protocol.unwrap_or(false));
    let id = job_id(&g, c.job_id.clone(), &c.device);
    let speed = block::job::speed_of(c.speed);
    let config =
        config(id, JobType::Stream, speed.as_ref().copied().unwrap_or(0), c.auto_finalize, c.auto_dismiss);
    let on_error = c.on_error.unwrap_or_default();
    let name = c.filter_node_name.clone();
    may_make_filter(&graph, source, name.as_deref())?;
    let shown: Vec<NodeId> = filters(&g, source).into_iter().chain([image]).collect();
    begin(jobs, config, async |job| {
        speed?;
        let made = graph
            .change(vec![source], move |c| {
                // The image, and what shows it.
                let shown = shown.into_iter().rev();
                let was_ro: Vec<NodeId> = shown.filter(|n| c.set_read_only(*n, false)).collect();
                let frozen = Frozen::chain(c, source, bottom);
                let filter = c.insert_filter(FilterSpec {
                    ty: if image == source { &STREAM_TOP } else { &STREAM_TOP_FILTER },
                    watch: Arc::new(Blind),
                    name: name.as_deref(),
                    source,
                    link: "file",
                    target: None,
                    grows: false,
                })?;
                c.freeze(filter, SOURCE);
                let still = between.clone();
                let others = between.iter().copied().chain((image != source).then_some(image)).collect();
                let root = c.add_root(&job, filter, source, others);
                c.set_still(&root, still);
                Ok((was_ro, frozen, filter, root))
            })
            .await?;
        let (was_ro, frozen, filter, root) = made;
        let graph = graph.clone();
        let lacking = Arc::new(Lacking { image, bottom, base: base.is_some(), on_error });
        let root = Arc::new(root);
        Ok(Stream { graph, root, filter, source, image, frozen, was_ro, lacking, named })
    })
    .await
    .map(drop)
}
