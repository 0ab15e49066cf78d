//! `blockdev-create`: images made as a job.

use api::block_core::{BlockdevCreate, BlockdevCreateOptions};
use api::job::JobType;
use block::BlockGraph;
use block::create::CreateCx;
use block::driver::CtlFuture;
use block::job::{Body, Job, JobConfig, Jobs};
use qapi::{QError, QapiEnum, Union, qerr};
use std::sync::Arc;

struct Create {
    graph: Arc<BlockGraph>,
    options: BlockdevCreateOptions,
}

impl Body for Create {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a> {
        Box::pin(async move {
            job.set_progress(0, 1);
            let driver = self.options.tag().as_str();
            let ty = self.graph.drivers().iter().find(|d| d.name == driver);
            let done = match ty.and_then(|t| t.create).and_then(|c| c.create) {
                Some(create) => create(&CreateCx::new(self.graph.clone()), &self.options).await,
                None => Err(qerr!("Driver does not support blockdev-create")),
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
        internal: false,
    };
    let job = jobs.create(config, None)?;
    jobs.start(&job, Arc::new(Create { graph: jobs.graph().clone(), options: c.options }));
    Ok(())
}
