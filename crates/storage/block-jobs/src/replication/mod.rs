//! Replication: a machine's disk follows that of another, block by block.
//!
//! The primary side's writes come to the *secondary disk*, usually by an export. Meanwhile the secondary side's machine,
//! which runs in step, sees the disk as it was at the last checkpoint, with its own writes on top. So there are two images
//! over the secondary disk:
//!
//! ```text
//! machine → replication → active disk → hidden disk → secondary disk ← export ← primary side
//!                                            ↑                         │
//!                                            └── old bytes, before ────┘
//! ```
//!
//! An internal backup copies what the primary side is about to overwrite to the hidden disk. A checkpoint empties both
//! images. When the primary side fails, the active disk is merged into the secondary one, with the machine's writes.

mod driver;
mod qmp;

pub use driver::REPLICATION;
pub use qmp::register;

/// The drivers of this crate.
pub static DRIVERS: &[&block::driver::DriverType] = &[&REPLICATION];

use crate::backup::{Kept, keep};
use crate::commit::merging;
use crate::mirror::{self, Mirrored};
use crate::setup::{Made, internal};
use api::job::JobType;
use base::Errno;
use block::driver::ChildSlot;
use block::job::{Job, Jobs};
use block::{Graph, Node, NodeId};
use driver::FILE;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::sync::Arc;

/// How far a node has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Replication has not begun.
    #[default]
    None,
    Running,
    /// The active disk is being merged into the secondary one.
    Failover,
    /// It could not be: the machine stays on the active disk.
    FailoverFailed,
    /// It has ended, and never begins again.
    Done,
}

/// What the driver of a node and the commands share.
#[derive(Debug)]
struct Replica {
    primary: bool,
    /// The node or drive that the secondary side's machine uses.
    top: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stage: Stage,
    failed: bool,
    side: Option<Arc<Side>>,
}

/// A secondary side at work.
#[derive(Debug)]
struct Side {
    active: NodeId,
    hidden: NodeId,
    secondary: NodeId,
    /// Keeps the secondary disk's old bytes.
    job: Arc<Job>,
    kept: Kept,
}

impl Replica {
    fn new(primary: bool, top: Option<String>) -> Arc<Replica> {
        Arc::new(Replica { primary, top, state: Mutex::default() })
    }

    fn stage(&self) -> Stage {
        self.state.lock().stage
    }

    /// A request to a disk failed.
    fn failed(&self) {
        self.state.lock().failed = true;
    }

    fn become_(&self, stage: Stage, failed: bool) {
        let mut s = self.state.lock();
        (s.stage, s.failed) = (stage, failed);
    }
}

/// All nodes of the driver, oldest first.
fn all(g: &Graph) -> Vec<(Arc<Node>, Arc<Replica>)> {
    let replica = |n: &Arc<Node>| {
        let handle = n.driver.as_ref()?.handle()?;
        Some((n.clone(), handle.downcast::<Replica>().ok()?))
    };
    g.nodes().filter_map(replica).collect()
}

/// The disks of a secondary side: the active, the hidden and the secondary one.
fn disks(g: &Arc<Graph>, node: &Node, top: Option<&str>) -> Result<(NodeId, NodeId, NodeId), QError> {
    let below = |id: NodeId, slot| g.node(id).and_then(|n| n.edge(slot)).map(|e| e.child);
    let active =
        node.edge(FILE).map(|e| e.child).ok_or_else(|| qerr!("Active disk doesn't have file child"))?;
    let hidden = below(active, ChildSlot::Backing);
    let hidden = hidden.ok_or_else(|| qerr!("Active disk doesn't have backing file"))?;
    let secondary = below(hidden, ChildSlot::Backing);
    let secondary = secondary.ok_or_else(|| qerr!("Hidden disk doesn't have backing file"))?;
    if !g.roots().any(|r| r.node == Some(secondary)) {
        return Err(qerr!("The secondary disk doesn't have block backend"));
    }
    let len = |id| g.cx(id).map_or(0, |cx| cx.len());
    if len(active) != len(hidden) || len(hidden) != len(secondary) {
        return Err(qerr!("Active disk, hidden disk, secondary disk's length are not the same"));
    }
    let top = top.and_then(|t| g.drive_or_node(t));
    let used = |id| g.nodes().any(|p| p.edges.iter().any(|e| e.child == id));
    if top.is_none_or(|t| used(t.id) || !g.reaches(t.id, node.id)) {
        return Err(qerr!("No top_bs or it is invalid"));
    }
    for id in [node.id, active, hidden, secondary] {
        g.no_job_on(id)?;
    }
    Ok((active, hidden, secondary))
}

/// Has a secondary side begin.
async fn begin(jobs: &Arc<Jobs>, node: &Node, replica: &Arc<Replica>) -> Result<(), QError> {
    let graph = jobs.graph();
    let (active, hidden, secondary) = disks(&graph.snapshot(), node, replica.top.as_deref())?;
    let job = jobs.create(internal(JobType::Backup), None)?;
    let kept = keep(graph, &job, secondary, hidden, node.id, vec![active, node.id]).await;
    let (body, kept) = match kept {
        Ok(k) => k,
        Err(e) => {
            jobs.forget(&job);
            return Err(e);
        }
    };
    let job = Made::new(jobs, job, Ok(body))?.start();
    let side = Arc::new(Side { active, hidden, secondary, job, kept });
    if let Err(e) = forget(jobs, &side).await {
        end(jobs, &side).await;
        return Err(e);
    }
    *replica.state.lock() = State { stage: Stage::Running, failed: false, side: Some(side) };
    Ok(())
}

/// Has both images show the secondary disk as it is now.
async fn forget(jobs: &Arc<Jobs>, side: &Arc<Side>) -> Result<(), QError> {
    let kept = side.kept.clone();
    let users = vec![side.secondary, side.hidden, side.active];
    let images = vec![side.active, side.hidden];
    let done = jobs.graph().make_empty_together(users, images, move || kept.again()).await;
    done.map_err(|e| match e {
        Errno::NOTSUP => qerr!("Active disk or hidden disk doesn't support make_empty"),
        e => qerr!("Cannot make the disks empty: {e}"),
    })
}

/// Ends the copying of old bytes.
async fn end(jobs: &Arc<Jobs>, side: &Side) {
    if jobs.cancel(&side.job, true).await.is_ok() {
        side.job.ended().await;
    }
}

/// Makes the hidden disk read-only, as it was before; it stays writable where somebody else wants that.
async fn seal(jobs: &Arc<Jobs>, side: &Side) {
    let hidden = side.hidden;
    if !side.kept.was_read_only() {
        return;
    }
    let change = jobs.graph().change(vec![hidden], move |c| {
        c.read_only_if_may(hidden);
        Ok(())
    });
    if let Err(e) = change.await {
        tracing::warn!("the hidden disk stays writable: {e}");
    }
}

/// Ends replication where the other side is well: the disk is what the primary side wrote.
async fn stop(jobs: &Arc<Jobs>, replica: &Replica) -> Result<(), QError> {
    let side = replica.state.lock().side.take();
    replica.become_(Stage::Done, false);
    let Some(side) = side else { return Ok(()) };
    end(jobs, &side).await;
    let done = forget(jobs, &side).await;
    seal(jobs, &side).await;
    done
}

/// How the active disk is merged into the secondary one. An export of that one may still be there, for a primary side that is
/// gone.
fn merge(side: &Side) -> Mirrored {
    Mirrored {
        failover: true,
        others: vec![side.hidden, side.secondary],
        between: vec![side.hidden],
        ..merging(side.active, side.hidden, side.secondary)
    }
}

/// Ends replication where the other side has failed: the disk is what this side's machine wrote.
async fn fail_over(jobs: &Arc<Jobs>, replica: &Arc<Replica>) -> Result<(), QError> {
    let Some(side) = replica.state.lock().side.take() else {
        replica.become_(Stage::Done, false);
        return Ok(());
    };
    replica.become_(Stage::Failover, true);
    end(jobs, &side).await;
    seal(jobs, &side).await;
    let merged = async {
        let job = jobs.create(internal(JobType::Commit), None)?;
        let body = mirror::set_up(jobs.graph(), &job, merge(&side)).await;
        Ok::<_, QError>(Made::new(jobs, job, body)?.start())
    };
    match merged.await {
        Err(e) => {
            replica.become_(Stage::FailoverFailed, true);
            Err(e)
        }
        Ok(job) => {
            let replica = replica.clone();
            drop(rt::spawn_local(async move {
                job.ended().await;
                match job.error() {
                    None => replica.become_(Stage::Done, false),
                    Some(e) => {
                        tracing::error!("the active disk could not be merged into the secondary disk: {e}");
                        replica.become_(Stage::FailoverFailed, true);
                    }
                }
            }));
            Ok(())
        }
    }
}
