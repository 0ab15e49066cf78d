//! `blockdev-create`: images made as a job.

use api::block_core::{BlockdevCreate, BlockdevCreateOptions, BlockdevOptions};
use api::job::JobType;
use block::create::{CreateCx, CreateFn};
use block::driver::CtlFuture;
use block::job::{Body, Job, JobConfig, Jobs};
use block::{BlockGraph, Perm, Root, RootConfig};
use qapi::{QError, QapiEnum, Union, Value, from_json, qerr, to_value};
use std::sync::Arc;

/// The members of options that name nodes, or define them.
const REFS: [&str; 4] = ["file", "header", "data-file", "extents"];

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
                Some(create) => self.make(create).await,
                None => Err(qerr!("Driver does not support blockdev-create")),
            };
            job.set_progress(1, 1);
            done
        })
    }
}

impl Create {
    /// Makes the image; nodes that the options define are there meanwhile.
    async fn make(&self, create: CreateFn) -> Result<(), QError> {
        let mut holds = Vec::new();
        let done = match self.opened(&mut holds).await {
            Ok(options) => create(&CreateCx::new(self.graph.clone()), &options).await,
            Err(e) => Err(e),
        };
        for hold in holds {
            hold.detach().await;
        }
        done
    }

    /// The options with the names of nodes in the place of definitions. `holds` keep what was opened for that.
    async fn opened(&self, holds: &mut Vec<Arc<Root>>) -> Result<BlockdevCreateOptions, QError> {
        let Value::Dict(mut dict) = to_value(&self.options) else { return Ok(self.options.clone()) };
        for member in REFS {
            match dict.get_mut(member) {
                Some(Value::List(list)) => {
                    for r in list {
                        self.open(r, holds).await?;
                    }
                }
                Some(r) => self.open(r, holds).await?,
                None => {}
            }
        }
        if holds.is_empty() { Ok(self.options.clone()) } else { from_json(Value::Dict(dict)) }
    }

    /// Opens the node that `r` defines, and puts its name there.
    async fn open(&self, r: &mut Value, holds: &mut Vec<Arc<Root>>) -> Result<(), QError> {
        if !matches!(r, Value::Dict(_)) {
            return Ok(());
        }
        let options: BlockdevOptions = from_json(r.clone())?;
        let config = RootConfig {
            shared: Perm::all(),
            desc: "the making of an image".into(),
            ..RootConfig::default()
        };
        let hold = self.graph.attach_new(options, config).await?;
        let name = hold.node_name();
        holds.push(hold);
        *r = Value::from(name.ok_or_else(|| qerr!("The node has gone"))?);
        Ok(())
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
