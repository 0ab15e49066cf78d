//! The actions that need nothing but the graph.

use super::Action;
use crate::bitmap::{BitmapPlan, BitmapSource, NewBitmap};
use crate::driver::{CtlFuture, Cx, Driver, SnapshotOp};
use crate::graph::{Graph, Node, NodeId};
use crate::job::{Change, DoneFuture};
use crate::resize::snapshot_holder;
use api::block_core::{BlockdevSnapshot, BlockdevSnapshotInternalSync};
use qapi::{QError, qerr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The node that a drive's or node's name means, if there is one.
pub fn named(graph: &Graph, name: &str) -> Option<NodeId> {
    graph.drive_or_node(name).map(|n| n.id)
}

/// `abort`: fails.
pub struct Abort;

impl Action for Abort {
    fn rests(&self, _: &Graph) -> Vec<NodeId> {
        Vec::new()
    }

    fn prepare<'a>(&'a mut self, _: &'a mut Change<'_, '_>) -> CtlFuture<'a> {
        Box::pin(async { Err(qerr!("Transaction aborted using Abort action")) })
    }
}

/// What is to be done with a bitmap.
#[derive(Clone, Debug)]
pub enum BitmapOp {
    /// Add one.
    Add(NewBitmap),
    /// Remove the one of this name.
    Remove(String),
    /// Make it clean.
    Clear(String),
    /// Make it record, or not.
    Enable(String, bool),
    /// Add to it what is dirty in others.
    Merge(String, Vec<BitmapSource>),
}

/// A change of a dirty bitmap.
pub struct OnBitmap {
    /// The node, or the block device on it.
    pub node: String,
    /// What is to be done.
    pub op: BitmapOp,
}

impl Action for OnBitmap {
    fn rests(&self, graph: &Graph) -> Vec<NodeId> {
        named(graph, &self.node).into_iter().collect()
    }

    fn prepare<'a>(&'a mut self, change: &'a mut Change<'_, '_>) -> CtlFuture<'a> {
        Box::pin(async move {
            let id = change.find(&self.node, &self.node).map_err(|e| match self.op {
                BitmapOp::Add(_) => e,
                _ => qerr!("Node '{}' not found", self.node),
            })?;
            let txn = &mut *change.txn;
            // The driver's requests go through the graph in which the node is open.
            let graph = if txn.base.node(id).is_some() { txn.base.clone() } else { txn.preview() };
            let node = graph.node(id).ok_or_else(|| qerr!("The node has gone"))?;
            let (cx, plan): (_, &mut BitmapPlan) = (Cx { graph: &graph, node }, &mut txn.bitmaps);
            match &self.op {
                BitmapOp::Add(new) => plan.add(&cx, new),
                BitmapOp::Remove(name) => plan.remove(&cx, name).await,
                BitmapOp::Clear(name) => plan.clear(&cx, name).await,
                BitmapOp::Enable(name, on) => plan.enable(&cx, name, *on).await,
                BitmapOp::Merge(name, sources) => plan.merge(&cx, name, sources).await,
            }
        })
    }
}

/// `blockdev-snapshot`: puts a node above another.
pub struct Snapshot(pub BlockdevSnapshot);

impl Action for Snapshot {
    fn rests(&self, graph: &Graph) -> Vec<NodeId> {
        named(graph, &self.0.node).into_iter().chain(named(graph, &self.0.overlay)).collect()
    }

    fn prepare<'a>(&'a mut self, change: &'a mut Change<'_, '_>) -> CtlFuture<'a> {
        Box::pin(async move {
            let old = change.find(&self.0.node, &self.0.node)?;
            change.may_get_overlay(old).await?;
            let overlay = change.find(&self.0.overlay, &self.0.overlay)?;
            change.rest_above(old, overlay).await?;
            change.put_overlay(old, overlay)
        })
    }
}

/// `blockdev-snapshot-internal-sync`: a snapshot inside the image.
pub struct InternalSnapshot {
    asked: BlockdevSnapshotInternalSync,
    taken: Option<Taken>,
}

/// A snapshot that was taken, and what is needed to delete it again.
struct Taken {
    graph: Arc<Graph>,
    node: Arc<Node>,
    driver: Arc<dyn Driver>,
    id: String,
}

impl InternalSnapshot {
    /// The action.
    pub fn new(asked: BlockdevSnapshotInternalSync) -> InternalSnapshot {
        InternalSnapshot { asked, taken: None }
    }

    async fn take(&mut self, change: &mut Change<'_, '_>) -> Result<(), QError> {
        let BlockdevSnapshotInternalSync { device, name } = &self.asked;
        let id = change.find(device, device)?;
        let g = change.graph();
        let about = g.job_on(id).is_some_and(|(_, about)| about);
        if about || g.nodes().any(|p| p.edges.iter().any(|e| e.child == id)) {
            return Err(qerr!("Need a root block node"));
        }
        g.no_job_on(id)?;
        let graph = change.txn.base.clone();
        let Some(node) = graph.node(id) else {
            // It cannot be written before the transaction is over.
            return Err(qerr!("Device '{device}' is made by the same transaction"));
        };
        if !node.writable() {
            return Err(qerr!("Device '{device}' is read only"));
        }
        if name.is_empty() {
            return Err(qerr!("Name is empty"));
        }
        let cx = Cx { graph: &graph, node };
        cx.node_flush().await.map_err(|e| qerr!("Error flushing drive: {e}"))?;
        let cx = snapshot_holder(cx);
        let node = cx.node;
        let driver = node.driver.clone().ok_or_else(|| qerr!("Node '{}' is not open", node.name))?;
        let date = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let op = SnapshotOp::Create { name: name.clone(), date, again: false };
        let made = driver.internal_snapshot(&cx, &op).await?;
        let exists = || qerr!("Snapshot with name '{name}' already exists on device '{device}'");
        let made = made.ok_or_else(exists)?;
        let taken = Taken { graph: graph.clone(), node: node.clone(), driver, id: made.id };
        if let Err(e) = cx.flush_children().await {
            taken.delete().await;
            return Err(qerr!("Error flushing drive: {e}"));
        }
        self.taken = Some(taken);
        Ok(())
    }
}

impl Taken {
    async fn delete(self) {
        let cx = Cx { graph: &self.graph, node: &self.node };
        let op = SnapshotOp::Delete { id: Some(self.id), name: None };
        let done = self.driver.internal_snapshot(&cx, &op).await;
        let flushed = cx.flush_children().await;
        if let Err(e) = done.and(flushed.map_err(|e| qerr!("{e}"))) {
            tracing::error!(node = %self.node.name, "a snapshot of a failed transaction stays: {e}");
        }
    }
}

impl Action for InternalSnapshot {
    fn rests(&self, graph: &Graph) -> Vec<NodeId> {
        named(graph, &self.asked.device).into_iter().collect()
    }

    fn prepare<'a>(&'a mut self, change: &'a mut Change<'_, '_>) -> CtlFuture<'a> {
        Box::pin(self.take(change))
    }

    fn abort(self: Box<Self>) -> DoneFuture<'static> {
        Box::pin(async move {
            if let Some(taken) = self.taken {
                taken.delete().await;
            }
        })
    }
}
