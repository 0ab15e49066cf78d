//! `block-stream`: what shines through from backing files is copied into the image, so that it needs them no more.

use crate::commit::chain;
use crate::copy::{CHUNK, after, has, plain, read};
use crate::mirror::top_image;
use crate::setup::{Frozen, begin, config, find, find_node, hint, job_id, undo, write_hint};
use api::block_core::{BlockStream, BlockdevOnError};
use api::job::JobType;
use block::driver::{BackingHint, CtlFuture, Cx, IoFuture, WriteFlags};
use block::job::change::FilterSpec;
use block::job::filter::{Request, SOURCE, STREAM_TOP, Watch};
use block::job::{Body, DoneFuture, Job, JobRoot, Jobs, Op};
use block::{BlockGraph, NodeId, Ranges};
use mem::IoBuf;
use qapi::{QError, qerr};
use std::sync::Arc;

/// Keeps users off the range that is being copied up.
struct Streamed {
    ranges: Arc<Ranges>,
}

impl Watch for Streamed {
    fn change<'a>(&'a self, cx: &'a Cx<'a>, request: Request) -> IoFuture<'a> {
        Box::pin(async move {
            let (off, len) = request.range();
            let _with_others = self.ranges.lock(off, off + len, false).await;
            request.apply(cx, SOURCE).await
        })
    }
}

struct Stream {
    graph: Arc<BlockGraph>,
    ranges: Arc<Ranges>,
    root: JobRoot,
    filter: NodeId,
    /// The node that the job is about, and the image in it.
    source: NodeId,
    image: NodeId,
    /// The lowest image that is copied from.
    bottom: Option<NodeId>,
    base: Option<NodeId>,
    frozen: Frozen,
    was_ro: bool,
    on_error: BlockdevOnError,
    hint: Option<BackingHint>,
}

impl Stream {
    async fn all(&self, job: &Arc<Job>) -> Result<(), QError> {
        let len = self.root.enter().await.map_err(plain)?.cx().len();
        job.set_progress(0, len);
        let mut off = 0;
        while off < len {
            job.pause_point().await?;
            let op = self.root.enter().await.map_err(plain)?;
            let done = self.piece(&op, off, CHUNK.min(len - off)).await;
            drop(op);
            let (n, copied) = match done {
                Ok(done) => done,
                Err(failed) => {
                    if after(job, self.on_error, failed)? {
                        continue;
                    }
                    (CHUNK.min(len - off), false)
                }
            };
            off += n;
            job.set_progress(off, len);
            if copied {
                job.throttle(n).await?;
            }
        }
        let op = self.root.enter().await.map_err(plain)?;
        op.cx().child_flush(SOURCE).await.map_err(plain)
    }

    /// Copies up what is at `off`; how long that was, and whether anything was copied.
    async fn piece(&self, op: &Op, off: u64, len: u64) -> Result<(u64, bool), crate::copy::Failed> {
        let _alone = self.ranges.lock(off, off + len, true).await;
        let own = op.status(SOURCE, off, len, Some(self.image)).await.map_err(|e| (false, e))?;
        if own.allocated || own.compressed {
            return Ok((own.len, false));
        }
        let st = op.status(SOURCE, off, own.len, self.bottom).await.map_err(|e| (false, e))?;
        // Without a base, what nobody has is zeroes afterwards as it was before.
        let wanted = st.allocated || st.compressed || (has(&st) && self.base.is_some());
        if !wanted {
            return Ok((st.len, false));
        }
        let buf = if st.zero {
            IoBuf::zeroed(st.len as usize)
        } else {
            read(op, SOURCE, off, st.len).await.map_err(|e| (false, e))?
        };
        let wrote = op.cx().child_write(SOURCE, off, buf, WriteFlags::UNCHANGED).await;
        wrote.map_err(|e| (true, e))?;
        Ok((st.len, true))
    }
}

impl Body for Stream {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(self.all(job))
    }

    fn prepare<'a>(&'a self, _: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(async move {
            write_hint(&self.graph, self.image, self.hint.clone()).await?;
            let (frozen, filter, source, image, base, ro, root) = (
                self.frozen.clone(),
                self.filter,
                self.source,
                self.image,
                self.base,
                self.was_ro,
                self.root.id(),
            );
            let change = self.graph.change(vec![filter], move |c| {
                frozen.thaw(c);
                c.remove_filter(filter, source);
                c.drop_root(root);
                c.set_backing(image, base);
                c.set_read_only(image, ro);
                Ok(())
            });
            change.await
        })
    }

    fn abort<'a>(&'a self, _: &'a Arc<Job>) -> DoneFuture<'a> {
        Box::pin(async move {
            let (frozen, filter, source, image, ro, root) =
                (self.frozen.clone(), self.filter, self.source, self.image, self.was_ro, self.root.id());
            undo(&self.graph, filter, move |c| {
                frozen.thaw(c);
                c.remove_filter(filter, source);
                c.drop_root(root);
                c.set_read_only(image, ro);
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
        if id == image || id == source {
            return Err(qerr!("Can't stream '{}' into itself", c.device));
        }
        if !below.contains(&id) {
            return Err(qerr!("Node '{name}' is not a backing image of '{}'", c.device));
        }
        Some(id)
    } else if let Some(name) = &c.bottom {
        let id = g.by_name(name).ok_or_else(|| qerr!("Cannot find device='' nor node-name='{name}'"))?.id;
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
    let hint = base
        .and_then(|b| hint(&graph, b, c.backing_file.as_deref(), c.backing_mask_protocol.unwrap_or(false)));
    let id = job_id(&g, c.job_id.clone(), &c.device);
    let speed = block::job::speed_of(c.speed);
    let config =
        config(id, JobType::Stream, speed.as_ref().copied().unwrap_or(0), c.auto_finalize, c.auto_dismiss);
    let on_error = c.on_error.unwrap_or_default();
    let name = c.filter_node_name.clone();
    begin(jobs, config, async |job| {
        speed?;
        let ranges: Arc<Ranges> = Arc::default();
        let watch = Arc::new(Streamed { ranges: ranges.clone() });
        let made = graph
            .change(vec![source], move |c| {
                let was_ro = c.set_read_only(image, false);
                let frozen = Frozen::chain(c, source, base);
                let filter = c.insert_filter(FilterSpec {
                    ty: &STREAM_TOP,
                    watch,
                    name: name.as_deref(),
                    source,
                    link: "file",
                    target: None,
                })?;
                c.freeze(filter, SOURCE);
                let others = between.iter().copied().chain((image != source).then_some(image)).collect();
                let root = c.add_root(&job, filter, source, others);
                Ok((was_ro, frozen, filter, root))
            })
            .await?;
        let (was_ro, frozen, filter, root) = made;
        let graph = graph.clone();
        Ok(Stream {
            graph,
            ranges,
            root,
            filter,
            source,
            image,
            bottom,
            base,
            frozen,
            was_ro,
            on_error,
            hint,
        })
    })
    .await
    .map(drop)
}
