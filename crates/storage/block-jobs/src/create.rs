//! `blockdev-create`: images made as a job.

use api::block_core::{
    BlockdevCreate, BlockdevCreateOptions, BlockdevCreateOptionsLUKS, BlockdevCreateOptionsQcow2, BlockdevRef,
};
use api::job::JobType;
use block::driver::CtlFuture;
use block::job::{Body, Job, JobConfig, Jobs};
use block::{BlockGraph, Perm, Root, RootConfig};
use block_crypto::Place;
use block_qcow2::create::Encryption;
use block_qcow2::host::{RootHost, TwoRoots};
use image::create::NewImage;
use qapi::{QError, qerr};
use std::sync::Arc;

struct Create {
    graph: Arc<BlockGraph>,
    options: BlockdevCreateOptions,
}

impl Create {
    /// A user of the node that shall hold the image, or a part of it.
    async fn root(&self, file: &BlockdevRef) -> Result<Arc<Root>, QError> {
        let BlockdevRef::Reference(node) = file else {
            return Err(qerr!("'file' must be the name of a node"));
        };
        let config = RootConfig {
            perm: Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE,
            shared: Perm::empty(),
            desc: "the making of an image".into(),
            ..RootConfig::default()
        };
        self.graph.attach(node, config).await.map_err(|e| match self.graph.has(node) {
            true => e,
            false => qerr!("Cannot find device='{node}' nor node-name='{node}'"),
        })
    }

    async fn luks(&self, o: &BlockdevCreateOptionsLUKS) -> Result<(), QError> {
        let id = o.base.key_secret.as_deref();
        let id = id.ok_or_else(|| qerr!("Parameter 'key-secret' is required for cipher"))?;
        let objects = self.graph.objects();
        let objects = objects.ok_or_else(|| qerr!("No secret with id '{id}'"))?;
        let password = objects.password(id)?;
        let new = block_crypto::new_volume(&o.base, o.header.is_some())?;
        let prealloc = image::create::prealloc(o.preallocation.unwrap_or_default());
        if o.file.is_none() && o.header.is_none() {
            return Err(qerr!("Either the parameter 'header' or 'file' must be specified"));
        }
        let mut roots = Vec::new();
        for r in [&o.header, &o.file].into_iter().flatten() {
            match self.root(r).await {
                Ok(root) => roots.push(root),
                Err(e) => {
                    for r in &roots {
                        r.detach().await;
                    }
                    return Err(e);
                }
            }
        }
        let place = match (&o.header, &roots[..]) {
            (Some(_), [header, rest @ ..]) => Place::Apart(header, rest.first().map(|r| &**r)),
            (_, [file, ..]) => Place::One(file),
            (_, []) => return Err(qerr!("Either the parameter 'header' or 'file' must be specified")),
        };
        let done = block_crypto::create(place, new, password, o.size, prealloc).await;
        for r in &roots {
            r.detach().await;
        }
        done
    }

    fn encryption(&self, o: &BlockdevCreateOptionsQcow2) -> Result<Option<Encryption>, QError> {
        let objects = self.graph.objects();
        block_qcow2::create::encryption(o, |id| match objects {
            Some(o) => o.password(id),
            None => Err(qerr!("No secret with id '{id}'")),
        })
    }

    async fn qcow2(&self, o: &BlockdevCreateOptionsQcow2) -> Result<(), QError> {
        let encrypt = self.encryption(o)?;
        let root = self.root(&o.file).await?;
        let done = match &o.data_file {
            None => block_qcow2::create::create_with(&RootHost(&root), o, None, encrypt).await,
            Some(data) => self.qcow2_with_data(&root, data, o, encrypt).await,
        };
        let flushed = root.flush().await.map_err(|e| qerr!("Could not flush the image: {e}"));
        root.detach().await;
        done.and(flushed)
    }
}

impl Create {
    /// A qcow2 image whose header leads to the file of another node.
    async fn qcow2_with_data(
        &self,
        file: &Root,
        data: &BlockdevRef,
        o: &BlockdevCreateOptionsQcow2,
        encrypt: Option<Encryption>,
    ) -> Result<(), QError> {
        let BlockdevRef::Reference(node) = data else {
            return Err(qerr!("'data-file' must be the name of a node"));
        };
        let root = self.root(data).await?;
        let name = self.graph.image_info(node).map(|i| i.base.filename).unwrap_or_default();
        let host = TwoRoots { file, data: &root };
        let done = block_qcow2::create::create_with(&host, o, Some(&name), encrypt).await;
        root.detach().await;
        done
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
                BlockdevCreateOptions::Luks(l) => self.luks(l).await,
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
