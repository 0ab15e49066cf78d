//! `blockdev-create`: images made as a job.

use api::block_core::{BlockdevCreate, BlockdevCreateOptions, BlockdevCreateOptionsQcow2, BlockdevRef};
use api::job::JobType;
use block::driver::CtlFuture;
use block::job::{Body, Job, JobConfig, Jobs};
use block::{BlockGraph, Perm, RootConfig};
use block_qcow2::host::RootHost;
use image::create::NewImage;
use qapi::{QError, qerr};
use std::sync::Arc;

struct Create {
    graph: Arc<BlockGraph>,
    options: BlockdevCreateOptions,
}

impl Create {
    async fn qcow2(&self, o: &BlockdevCreateOptionsQcow2) -> Result<(), QError> {
        let BlockdevRef::Reference(node) = &o.file else {
            return Err(qerr!("'file' must be the name of a node"));
        };
        let config = RootConfig {
            perm: Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE,
            shared: Perm::empty(),
            desc: "the making of an image".into(),
            ..RootConfig::default()
        };
        let root = self.graph.attach(node, config).await.map_err(|e| match self.graph.has(node) {
            true => e,
            false => qerr!("Cannot find device='{node}' nor node-name='{node}'"),
        })?;
        let done = block_qcow2::create::create(&RootHost(&root), o).await;
        let flushed = root.flush().await.map_err(|e| qerr!("Could not flush the image: {e}"));
        root.detach().await;
        done.and(flushed)
    }
}

impl Body for Create {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(async move {
            job.set_progress(0, 1);
            let done = match &self.options {
                BlockdevCreateOptions::File(f) => {
                    let preallocation = f.preallocation.unwrap_or_default();
                    image::create::create(&f.filename, &NewImage::Raw { size: f.size, preallocation }).await
                }
                BlockdevCreateOptions::Qcow2(q) => self.qcow2(q).await,
            };
            job.set_progress(1, 1);
            done
        })
    }
}

/// `blockdev-create`.
pub async fn create(jobs: &Arc<Jobs>, c: BlockdevCreate) -> Result<(), QError> {
    let config = JobConfig {
        id: c.job_id,
        ty: JobType::Create,
        block: false,
        auto_finalize: true,
        auto_dismiss: false,
        speed: 0,
    };
    let job = jobs.create(config, None)?;
    jobs.start(&job, Arc::new(Create { graph: jobs.graph().clone(), options: c.options }));
    Ok(())
}
