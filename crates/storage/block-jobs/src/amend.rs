//! `x-blockdev-amend`: an image's format options changed as a job.

use api::block_core::{BlockdevAmendOptions, XBlockdevAmend};
use api::job::JobType;
use block::BlockGraph;
use block::driver::CtlFuture;
use block::job::{Body, Job, JobConfig, Jobs};
use qapi::{QError, QapiEnum, Union, qerr};
use std::sync::Arc;

struct Amend {
    graph: Arc<BlockGraph>,
    node: String,
    options: BlockdevAmendOptions,
    force: bool,
}

impl Body for Amend {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(async move {
            job.set_progress(0, 1);
            let done = self.graph.amend(&self.node, &self.options, self.force).await;
            job.set_progress(1, 1);
            done
        })
    }
}

/// `x-blockdev-amend`.
pub async fn amend(jobs: &Arc<Jobs>, c: XBlockdevAmend) -> Result<(), QError> {
    let graph = jobs.graph().clone();
    let snapshot = graph.snapshot();
    let node = snapshot.by_name(&c.node_name);
    let node = node.ok_or_else(|| qerr!("Cannot find device='' nor node-name='{}'", c.node_name))?;
    if node.ty.name != c.options.tag().as_str() {
        return Err(qerr!("x-blockdev-amend doesn't support changing the block driver"));
    }
    if !node.writable() {
        return Err(qerr!("Block node is read-only"));
    }
    let config = JobConfig {
        id: c.job_id,
        ty: JobType::Amend,
        block: false,
        auto_finalize: true,
        auto_dismiss: false,
        speed: 0,
        internal: false,
    };
    let job = jobs.create(config, None)?;
    let (node, force) = (c.node_name, c.force.unwrap_or(false));
    jobs.start(&job, Arc::new(Amend { graph, node, options: c.options, force }));
    Ok(())
}
