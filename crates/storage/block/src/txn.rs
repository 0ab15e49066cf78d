//! Transactions: the one way in which the graph changes.
//!
//! A transaction holds the graph as it is (`base`) and edits a copy (`next`). [`Txn::stage`] checks the copy whole and
//! has the drivers prepare; [`Txn::commit`] makes it real. Dropping a transaction at any time before that leaves
//! everything as it was.

use crate::aside::{Aside, Reserved};
use crate::bitmap::BitmapPlan;
use crate::control::{BlockGraph, Hurried};
use crate::driver::{ChildSlot, Cx, NodePlan, Staged};
use crate::gate::Closed;
use crate::graph::{Edge, Graph, GraphError, NodeId, RootDef, User};
use crate::job::Job;
use crate::perm::{Perm, PermPair};
use api::block_core::BlockdevOptions;
use qapi::{QError, QapiEnum, qerr};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A change of the graph in the making.
pub(crate) struct Txn<'g> {
    pub(crate) ctl: &'g BlockGraph,
    pub(crate) base: Arc<Graph>,
    pub(crate) next: Graph,
    /// The links that this transaction has set: for the message when they close a cycle.
    pub(crate) changed: Vec<(NodeId, ChildSlot)>,
    /// Nodes that are being reopened, with their new options.
    pub(crate) reopened: BTreeMap<NodeId, Arc<BlockdevOptions>>,
    /// Nodes that this transaction opens, in that order (children first).
    pub(crate) opened: Vec<NodeId>,
    /// The flags and permissions for which a node's driver stands now: those of `base`, or those a new node was
    /// opened with.
    pub(crate) stands: BTreeMap<NodeId, (crate::driver::NodeFlags, PermPair)>,
    staged: BTreeMap<NodeId, (NodePlan, Box<dyn Staged>)>,
    /// Frozen links that their job lets change in this transaction.
    pub(crate) thawed: std::collections::BTreeSet<(NodeId, ChildSlot)>,
    /// Changes of dirty bitmaps, which become real with the graph.
    pub(crate) bitmaps: BitmapPlan,
    /// Set while nodes are opened without the lock on changes.
    pub(crate) aside: Option<Aside>,
    /// The names of the nodes that it opens.
    pub(crate) names: Vec<Reserved<'g>>,
    rest: Rest,
}

/// A published transaction, whose users are still kept off.
pub(crate) struct Published {
    pub(crate) graph: Arc<Graph>,
    /// The graph before.
    pub(crate) base: Arc<Graph>,
    pub(crate) opened: Vec<NodeId>,
    pub(crate) reopened: Vec<NodeId>,
    /// To be made real.
    pub(crate) bitmaps: BitmapPlan,
    _rest: Rest,
}

/// What a transaction keeps quiet until it is over.
#[derive(Default)]
pub(crate) struct Rest {
    drained: Vec<(Closed, Hurried)>,
    /// Jobs that are paused by the drain.
    resting: Vec<Resting>,
}

/// A job whose nodes are drained.
struct Resting(Arc<Job>);

impl Drop for Resting {
    fn drop(&mut self) {
        self.0.drain_end();
    }
}

impl<'g> Txn<'g> {
    pub(crate) fn new(ctl: &'g BlockGraph) -> Txn<'g> {
        let base = ctl.snapshot();
        let stands = base.nodes.values().map(|n| (n.id, (n.flags, n.pair))).collect();
        Txn {
            ctl,
            next: (*base).clone(),
            base,
            changed: Vec::new(),
            reopened: BTreeMap::new(),
            opened: Vec::new(),
            stands,
            staged: BTreeMap::new(),
            thawed: std::collections::BTreeSet::new(),
            bitmaps: BitmapPlan::default(),
            aside: None,
            names: Vec::new(),
            rest: Rest::default(),
        }
    }

    /// The edited graph as a snapshot for requests of this transaction.
    pub(crate) fn preview(&self) -> Arc<Graph> {
        let mut next = self.next.clone();
        next.look_for_listeners();
        Arc::new(next)
    }

    /// Says that the driver of a new node has been opened, with these flags and no user.
    pub(crate) fn has_opened(&mut self, id: NodeId) {
        if let Some(n) = self.next.node(id) {
            self.stands.insert(id, (n.flags, PermPair::NONE));
            self.opened.push(id);
        }
    }

    /// Sets a link of `parent` to lead to `child`.
    pub(crate) fn link(&mut self, parent: NodeId, mut edge: Edge, child: NodeId) {
        edge.child = child;
        edge.frozen = 0;
        edge.seq = self.ctl.next_id();
        let slot = edge.slot;
        self.unlink(parent, slot);
        if let Some(n) = self.next.edit(parent) {
            n.edges.push(edge);
            n.edges.sort_by_key(|e| e.slot);
        }
        self.changed.push((parent, slot));
    }

    /// Takes away a link of `parent`.
    pub(crate) fn unlink(&mut self, parent: NodeId, slot: ChildSlot) {
        let Some(n) = self.next.edit(parent) else { return };
        let Some(at) = n.edges.iter().position(|e| e.slot == slot) else { return };
        let old = n.edges.remove(at).child;
        let still = n.edges.iter().any(|e| e.child == old);
        if !still && self.next.node(old).is_some_and(|c| c.inherits_from == Some(parent)) {
            // It is nobody's inline child any more.
            if let Some(c) = self.next.edit(old) {
                c.inherits_from = None;
            }
        }
    }

    /// Closes the gates of all roots over `ids` and waits for their requests to end. They stay closed until the
    /// transaction is over.
    pub(crate) async fn drain(&mut self, ids: &[NodeId]) {
        let over = self.base.roots_over(ids);
        let roots: Vec<_> = over.iter().filter_map(|r| self.base.root(*r)).collect();
        let close = |r: &&Arc<RootDef>| (r.gate.close(), Hurried::new(&self.base, r.node));
        self.rest.drained.extend(roots.iter().map(close));
        for r in &roots {
            if let Some(hold) = &r.job {
                hold.job.drain_begin();
                self.rest.resting.push(Resting(hold.job.clone()));
            }
        }
        for r in roots {
            r.gate.idle().await;
        }
    }

    /// Checks the edited graph whole and has every driver prepare whose node changes. May be called again after more
    /// edits.
    pub(crate) async fn stage(&mut self) -> Result<(), QError> {
        self.hold_references().await?;
        if let Some((id, at)) = self.next.broken_frozen_link(&self.base, &self.thawed) {
            return Err(frozen(&self.base, id, at));
        }
        let eff = self.next.check().map_err(|e| self.explain(&e))?;
        self.next.apply(&eff);
        let preview = self.preview();
        for id in eff.order.iter().rev() {
            let Some(node) = preview.node(*id) else { continue };
            let Some(driver) = node.driver.clone() else { continue };
            // Nodes that others know change only with the lock; holds have done it.
            if self.aside.is_some() && self.base.node(*id).is_some() {
                continue;
            }
            let Some((old_flags, old_perm)) = self.stands.get(id).copied() else { continue };
            let reopen = self.reopened.get(id);
            let plan = NodePlan {
                node_name: node.name.clone(),
                flags: node.flags,
                old_flags,
                perm: node.pair,
                old_perm,
                options: reopen.cloned().unwrap_or_else(|| node.options.typed.clone()),
                reopen: reopen.is_some(),
            };
            if let Some((done, _)) = self.staged.get(id)
                && same_plan(done, &plan)
            {
                continue;
            }
            // What was staged for another plan goes first: it may hold locks that are in the way.
            self.staged.remove(id);
            if !plan.reopen && plan.perm == plan.old_perm && plan.flags == plan.old_flags {
                continue;
            }
            let graph = if self.base.node(*id).is_some() { &self.base } else { &preview };
            let Some(now) = graph.node(*id) else { continue };
            let cx = Cx { graph, node: now };
            let writes_within =
                plan.perm.perm.intersects(Perm::WRITES) && !plan.perm.perm.contains(Perm::RESIZE);
            if writes_within && !cx.len().is_multiple_of(u64::from(cx.limits().request_alignment)) {
                return Err(qerr!(
                    "Cannot get 'write' permission without 'resize': Image size is not a multiple of request alignment"
                ));
            }
            let staged = driver.stage(&cx, &plan).await?;
            self.staged.insert(*id, (plan, staged));
        }
        Ok(())
    }

    /// Whether the graph may be so; drivers are not asked.
    pub(crate) fn possible(&self) -> Result<(), QError> {
        if let Some((id, at)) = self.next.broken_frozen_link(&self.base, &self.thawed) {
            return Err(frozen(&self.base, id, at));
        }
        self.perms().map(drop)
    }

    /// The permissions of the edited graph.
    pub(crate) fn perms(&self) -> Result<crate::graph::Effective, QError> {
        self.next.check().map_err(|e| self.explain(&e))
    }

    /// Drops everything but the rest of the users, which ends with the answer.
    pub(crate) fn give_up(self) -> Rest {
        self.rest
    }

    /// Drops the nodes that nothing keeps, and stages the rest: the last step before [`Txn::commit`].
    pub(crate) async fn finish(&mut self) -> Result<(), QError> {
        for id in self.next.garbage() {
            self.next.nodes.remove(&id);
            self.staged.remove(&id);
        }
        self.stage().await
    }

    /// Makes the staged change real and publishes the graph. Cannot fail.
    pub(crate) async fn commit(self) -> Arc<Graph> {
        let mut done = self.publish().await;
        std::mem::take(&mut done.bitmaps).commit().keep(&done.graph).await;
        done.graph
    }

    /// As [`Txn::commit`], but bitmaps wait, and the users are kept off until the answer is dropped.
    pub(crate) async fn publish(mut self) -> Published {
        // Parents first, so that what a format writes back on closing finds its children.
        for id in self.base.topological().unwrap_or_default() {
            if self.next.node(id).is_none()
                && let Some(node) = self.base.node(id)
            {
                close_node(&Cx { graph: &self.base, node }).await;
            }
        }
        let order = self.next.topological().unwrap_or_default();
        for id in order.iter().rev() {
            if let Some((_, staged)) = self.staged.remove(id) {
                staged.commit();
            }
        }
        self.next.version += 1;
        self.next.look_for_listeners();
        let graph = Arc::new(self.next);
        self.ctl.publish(graph.clone());
        for id in order.iter().rev() {
            let Some(node) = graph.node(*id) else { continue };
            let became = self.stands.get(id).is_some_and(|(f, _)| f.read_only != node.flags.read_only);
            if !self.opened.contains(id) && became && node.writable() {
                let cx = Cx { graph: &graph, node };
                if let Some(d) = &node.driver
                    && let Err(e) = d.activate(&cx).await
                {
                    tracing::warn!(node = %node.name, "after the reopen: {e}");
                }
            }
        }
        let reopened = self.reopened.into_keys().collect();
        let (base, opened, bitmaps) = (self.base, self.opened, self.bitmaps);
        Published { graph, base, opened, reopened, bitmaps, _rest: self.rest }
    }

    /// The message for a graph that cannot be.
    fn explain(&self, e: &GraphError) -> QError {
        let g = &self.next;
        let name = |id: &NodeId| g.node(*id).map_or_else(String::new, |n| n.name.clone());
        match e {
            GraphError::Cycle(_) => {
                let closing = self.changed.iter().find_map(|(p, slot)| {
                    let e = g.node(*p)?.edge(*slot)?;
                    g.reaches(e.child, *p).then_some((e.child, e.name, *p))
                });
                match closing {
                    Some((c, edge, p)) => cycle(&name(&c), edge, &name(&p)),
                    None => qerr!("The block graph would contain a cycle"),
                }
            }
            GraphError::Dangling(_) => qerr!("A block node is used that does not exist"),
            GraphError::Duplicate(n) => qerr!("Duplicate nodes with node-name='{n}'"),
            GraphError::Roles(id) => {
                let n = name(id);
                qerr!("Node '{n}' cannot have these children")
            }
            GraphError::Conflict { node, perm, required, unshared } => {
                let n = name(node);
                qerr!(
                    "Permission conflict on node '{n}': permissions '{}' are both required by {} and unshared by {}.",
                    perm.names(),
                    describe_user(g, *node, required),
                    describe_user(g, *node, unshared)
                )
            }
            GraphError::ReadOnly(id) => {
                if self.base.node(*id).is_some_and(|n| n.writable()) {
                    qerr!("Read-only block node '{}' cannot support read-write users", name(id))
                } else {
                    qerr!("Block node is read-only")
                }
            }
            GraphError::Inactive(_, perm) => {
                let first = perm.list().first().copied().unwrap_or("write");
                qerr!("Permission '{first}' unavailable on inactive node")
            }
            GraphError::InactiveChild(id, at) => {
                let edge = g.node(*id).and_then(|n| n.edges.get(*at));
                let (child, edge) = edge.map_or((String::new(), ""), |e| (name(&e.child), e.name));
                qerr!("Inactive '{child}' can't be a {edge} child of active '{}'", name(id))
            }
        }
    }
}

fn same_plan(a: &NodePlan, b: &NodePlan) -> bool {
    a.flags == b.flags
        && a.perm == b.perm
        && a.reopen == b.reopen
        && (!a.reopen || Arc::ptr_eq(&a.options, &b.options))
}

/// The last call to a node's driver; what fails is only logged, since there is nobody left to take care.
pub(crate) async fn close_node(cx: &Cx<'_>) {
    let Ok(driver) = cx.driver() else { return };
    let closed = driver.close(cx).await;
    let flushed = cx.node_flush().await;
    if let Err(e) = closed.and(flushed) {
        tracing::error!(node = %cx.node_name(), "closing: {e}");
    }
}

pub(crate) fn frozen(g: &Graph, id: NodeId, at: usize) -> QError {
    let Some(n) = g.node(id) else { return qerr!("Cannot change a frozen link") };
    let child = n.edges.get(at).and_then(|e| g.node(e.child)).map_or("", |c| c.name.as_str());
    let edge = n.edges.get(at).map_or("", |e| e.name);
    qerr!("Cannot change frozen '{edge}' link from '{}' to '{child}'", n.name)
}

pub(crate) fn cycle(child: &str, edge: &str, parent: &str) -> QError {
    qerr!("Making '{child}' a {edge} child of '{parent}' would create a cycle")
}

/// How a message calls a user of a node: `node 'top' (uses node 'base' as 'backing' child)`.
fn describe_user(g: &Graph, node: NodeId, user: &User) -> String {
    let child = g.node(node).map_or("", |n| n.name.as_str());
    let (who, edge) = match user {
        User::Edge(id, at) => {
            let n = g.node(*id);
            let edge = n.and_then(|n| n.edges.get(*at)).map_or("", |e| e.name);
            (format!("node '{}'", n.map_or("", |n| n.name.as_str())), edge)
        }
        User::Root(id) => {
            let root = g.root(*id);
            let edge = root.and_then(|r| r.held).unwrap_or("root");
            (root.map_or_else(String::new, |r| r.user_desc()), edge)
        }
        User::Between(id) => {
            let job = g.root(*id).and_then(|r| r.job.as_ref()).map(|j| &j.job);
            let who = job.map_or_else(String::new, |j| format!("{} job '{}'", j.ty().as_str(), j.id()));
            (who, "intermediate node")
        }
    };
    format!("{who} (uses node '{child}' as '{edge}' child)")
}
