//! How a job makes requests.

use super::Job;
use crate::control::BlockGraph;
use crate::driver::{ChildSlot, Cx};
use crate::gate::{Gate, Inside};
use crate::graph::{Graph, Node, NodeId, RootId};
use crate::perm::Perm;
use crate::request::Status;
use base::{Errno, IoResult};
use std::sync::Arc;

/// What keeps a job's nodes in the graph, and the job out of them while they are drained.
#[derive(Clone)]
pub struct JobHold {
    /// The job.
    pub(crate) job: Arc<Job>,
    /// The node that the job is about.
    pub(crate) main: NodeId,
    /// Others that it works with.
    pub(crate) others: Vec<NodeId>,
    /// Those among them that it works between, and what it shares of them.
    pub(crate) between: Vec<(NodeId, Perm)>,
}

/// A job's root: on its filter.
pub struct JobRoot {
    pub(crate) ctl: Arc<BlockGraph>,
    pub(crate) id: RootId,
    pub(crate) gate: Arc<Gate>,
}

/// A piece of a job's work: it stands inside the gate and sees one snapshot of the graph. Whoever locks ranges against
/// other users of the filter does so inside: one who held such a lock before the gate would keep a drain waiting.
pub struct Op {
    graph: Arc<Graph>,
    node: Arc<Node>,
    _inside: Inside,
}

impl JobRoot {
    /// The root's id.
    pub fn id(&self) -> RootId {
        self.id
    }

    /// Begins a piece of work, after waiting for drained sections to end.
    pub async fn enter(&self) -> IoResult<Op> {
        let inside = self.gate.enter().await;
        let graph = self.ctl.snapshot();
        let node = graph.root(self.id).and_then(|r| r.node).ok_or(Errno::NOMEDIUM)?;
        let node = graph.node(node).ok_or(Errno::NOMEDIUM)?.clone();
        Ok(Op { graph, node, _inside: inside })
    }
}

impl Op {
    /// The job's filter, through which its children are reached.
    pub fn cx(&self) -> Cx<'_> {
        Cx { graph: &self.graph, node: &self.node }
    }

    /// Where the bytes of a child from `off` on are: in the chain of images from it down to `bottom`, or to the end.
    pub async fn status(
        &self,
        slot: ChildSlot,
        off: u64,
        len: u64,
        bottom: Option<NodeId>,
    ) -> IoResult<Status> {
        self.cx().child(slot)?.status_down_to(off, len, bottom).await
    }
}
