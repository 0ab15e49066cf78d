//! Merging an image into one below it, by the job that a running machine has for it.
//!
//! A crash at any moment loses nothing: the image below gets what the images above it have and is made stable first; only
//! then does the upper image give up what it holds, and what it has given up is below.

use std::time::Duration;

use api::block_core::BlockCommit;
use api::job::JobStatus;
use base::Errno;
use block::job::Jobs;
use qapi::{QError, qerr};

use crate::chain;
use crate::open::Opened;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The image of the chain to merge into; the next one below where it is not given.
    pub base: Option<String>,
    /// The upper image keeps what it holds. It is so with a base that is given.
    pub drop: bool,
    /// Bytes a second at most; 0 for no limit.
    pub rate: u64,
}

/// Merges an image that is open for writing, with its chain. `name`: how messages call it. `tell` hears how much of how much
/// is done.
///
/// # Errors
/// There is no such image below; the job failed. The image is as it was then.
pub async fn commit(
    image: &Opened,
    name: &str,
    plan: &Plan,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<(), QError> {
    let graph = &image.graph;
    let below = chain::below(graph, &image.node);
    let at = match &plan.base {
        Some(base) => chain::find(graph, &image.node, base)
            .ok_or_else(|| qerr!("Did not find '{base}' in the backing chain of '{name}'"))?,
        None => 0,
    };
    let base = below.get(at).and_then(|b| graph.snapshot().node(*b).map(|n| n.name.clone()));
    let base = base.ok_or_else(|| qerr!("Image does not have a backing file"))?;
    run(image, base, plan.rate, tell).await?;
    if plan.drop || plan.base.is_some() {
        return Ok(());
    }
    let Some(node) = graph.snapshot().by_name(&image.node).map(|n| n.id) else { return Ok(()) };
    match graph.make_empty(node).await {
        Ok(()) | Err(Errno::NOTSUP) => Ok(()),
        Err(e) => Err(qerr!("Failed to empty {name}: {e}")),
    }
}

/// The job, to its end.
async fn run(image: &Opened, base: String, rate: u64, tell: &mut dyn FnMut(u64, u64)) -> Result<(), QError> {
    let graph = &image.graph;
    let events = graph.events().listen(1 << 10);
    let jobs = Jobs::new(graph.clone());
    let id = "commit";
    let command = BlockCommit {
        job_id: Some(id.into()),
        device: image.node.clone(),
        base_node: Some(base),
        base: None,
        top_node: None,
        top: None,
        backing_file: None,
        backing_mask_protocol: None,
        speed: Some(i64::try_from(rate).unwrap_or(i64::MAX)),
        on_error: None,
        filter_node_name: None,
        auto_finalize: None,
        auto_dismiss: Some(false),
    };
    block_jobs::commit::commit(&jobs, command).await?;
    let job = jobs.get(id)?;
    let mut asked = false;
    loop {
        match job.status() {
            JobStatus::Ready if !asked => {
                asked = true;
                jobs.complete(&job)?;
            }
            JobStatus::Concluded | JobStatus::Null => break,
            _ => {}
        }
        let info = jobs.query().into_iter().find(|j| j.id == id);
        if let Some(i) = info {
            let bytes = |v: i64| u64::try_from(v).unwrap_or(0);
            tell(bytes(i.current_progress), bytes(i.total_progress));
        }
        // Every change of its state is an event.
        rt::timeout(TICK, events.next()).await;
    }
    let error = jobs.query().into_iter().find(|j| j.id == id).and_then(|j| j.error);
    jobs.dismiss_job(&job)?;
    match error {
        Some(e) => Err(qerr!("Block job failed: {e}")),
        None => Ok(()),
    }
}
