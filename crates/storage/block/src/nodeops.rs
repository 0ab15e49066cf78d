//! Commands on nodes that are about how they are used: giving images away, thresholds, the graph as data.

use crate::control::BlockGraph;
use crate::driver::{Cx, Driver};
use crate::graph::{Graph, NodeId, User};
use crate::perm::Perm;
use crate::txn::Txn;
use api::block_core::{
    BlockPermission, BlockSetWriteThreshold, BlockWriteThresholdEvent, BlockdevSetActive,
    XBlockdevSetIothread, XDbgBlockGraph, XDbgBlockGraphEdge, XDbgBlockGraphNode, XDbgBlockGraphNodeType,
    XDebugQueryBlockGraph,
};
use api::common::StrOrNull;
use monitor::CommandTable;
use qapi::{QError, qerr};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl BlockGraph {
    /// Gives the image of a node (or of all nodes) to another process, or takes it back (`blockdev-set-active`).
    pub async fn set_active(&self, node: Option<&str>, active: bool) -> Result<(), QError> {
        let node = node.map(str::to_owned);
        self.run(|me| async move { me.do_set_active(node.as_deref(), active).await }).await
    }

    async fn do_set_active(&self, name: Option<&str>, active: bool) -> Result<(), QError> {
        let now = self.snapshot();
        let about: Vec<NodeId> = match name {
            Some(n) => now.by_name(n).map(|n| n.id).into_iter().collect(),
            None => now.nodes().map(|n| n.id).collect(),
        };
        self.sound(&about).await;
        let _one = self.changing.lock().await;
        let mut txn = Txn::new(self);
        let base = txn.base.clone();
        let top = match name {
            Some(n) => {
                let node = base.by_name(n);
                Some(node.ok_or_else(|| qerr!("Failed to find node with node-name='{n}'"))?.id)
            }
            None => None,
        };
        let ids = match (active, top) {
            (_, None) => base.nodes().map(|n| n.id).collect(),
            (true, Some(top)) => below(&base, top),
            (false, Some(top)) => {
                if active_parent(&base, top, &BTreeSet::new()) {
                    return Err(qerr!("Node has active parent node"));
                }
                unused_without(&base, top)
            }
        };
        let changed: Vec<NodeId> = base
            .nodes()
            .filter(|n| ids.contains(&n.id) && n.flags.inactive == active)
            .map(|n| n.id)
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let writes = |id: &NodeId| {
            base.users(*id).iter().any(|u| matches!(u, User::Root(r) if base.root(*r).is_some_and(|r| !r.rests && r.pair.perm.intersects(Perm::WRITES | Perm::RESIZE))))
        };
        if !active && changed.iter().any(writes) {
            let what = if top.is_some() { "node" } else { "all nodes" };
            return Err(qerr!("Failed to inactivate {what}: Operation not permitted"));
        }
        txn.drain(&changed).await;
        for id in &changed {
            let Some(node) = base.node(*id) else { continue };
            if !active && node.writable() {
                let flushed = Cx { graph: &base, node }.node_flush().await;
                flushed.map_err(|e| qerr!("Failed to inactivate node: {e}"))?;
            }
            if let Some(n) = txn.next.edit(*id) {
                n.flags.inactive = !active;
                txn.reopened.insert(*id, n.options.typed.clone());
            }
        }
        txn.finish().await?;
        let published = txn.publish().await;
        let graph = &published.graph;
        let order = graph.topological().unwrap_or_default();
        for id in order.iter().rev().filter(|id| changed.contains(id)) {
            let Some(node) = graph.node(*id) else { continue };
            let cx = Cx { graph, node };
            // Whoever has the image has its bitmaps.
            node.live.bitmaps.forget_stored();
            if active && let Some(d) = &node.driver {
                if let Err(e) = take_over(&cx, d.as_ref()).await {
                    tracing::error!(node = %node.name, "taking the image over: {e}");
                }
                graph.resized(*id);
            }
        }
        Ok(())
    }

    /// Asks for an event once a write ends behind `threshold`, bytes; 0 for none (`block-set-write-threshold`).
    pub fn set_write_threshold(&self, name: &str, threshold: u64) -> Result<(), QError> {
        let graph = self.snapshot();
        let node = graph.by_name(name).ok_or_else(|| qerr!("Device '{name}' not found"))?;
        let (events, node_name) = (self.events().clone(), node.name.clone());
        node.live.set_threshold(
            threshold,
            Box::new(move |write_threshold, amount_exceeded| {
                let node_name = node_name.clone();
                events.emit(BlockWriteThresholdEvent { node_name, amount_exceeded, write_threshold });
            }),
        );
        Ok(())
    }

    /// Checks what `x-blockdev-set-iothread` asks; nodes belong to no thread, so there is nothing to do.
    fn check_iothread(&self, c: &XBlockdevSetIothread) -> Result<(), QError> {
        let graph = self.snapshot();
        let name = &c.node_name;
        let node = graph.by_name(name).ok_or_else(|| qerr!("Failed to find node with node-name='{name}'"))?;
        if !c.force.unwrap_or(false) && graph.roots().any(|r| r.node == Some(node.id)) {
            return Err(qerr!(
                "Node {name} is associated with a BlockBackend and could be in use (use force=true to override this check)"
            ));
        }
        if let StrOrNull::S(id) = &c.iothread {
            let object = self.objects().and_then(|o| o.get(id));
            if object.is_none_or(|o| o.type_name() != "iothread") {
                return Err(qerr!("Cannot find iothread {id}"));
            }
        }
        Ok(())
    }

    /// The graph as data (`x-debug-query-block-graph`).
    pub fn debug_graph(&self) -> XDbgBlockGraph {
        let g = self.snapshot();
        // Numbered as they are first met, from one.
        let mut met = BTreeMap::new();
        let mut number = |id: u64| {
            let next = met.len() as u64 + 1;
            *met.entry(id).or_insert(next)
        };
        let vertex = |id, ty, name: String| XDbgBlockGraphNode { id, r#type: ty, name };
        let mut nodes = Vec::new();
        let mut edges = Vec::new();
        for r in g.roots().filter(|r| r.held.is_none()) {
            let (ty, name) = match &r.job {
                Some(hold) => (XDbgBlockGraphNodeType::BlockJob, hold.job.id().to_owned()),
                None => (XDbgBlockGraphNodeType::BlockBackend, r.name.clone()),
            };
            nodes.push(vertex(number(r.id.0), ty, name));
            edges.extend(r.node.map(|n| XDbgBlockGraphEdge {
                parent: number(r.id.0),
                child: number(n.0),
                name: "root".into(),
                perm: permissions(g.node(n).map_or(r.pair, |n| r.pair_on(n)).perm),
                shared_perm: permissions(r.pair.shared),
            }));
        }
        let mut all: Vec<_> = g.nodes().collect();
        all.sort_by_key(|n| n.born);
        for n in all {
            nodes.push(vertex(number(n.id.0), XDbgBlockGraphNodeType::BlockDriver, n.name.clone()));
            edges.extend(n.edges.iter().rev().map(|e| XDbgBlockGraphEdge {
                parent: number(n.id.0),
                child: number(e.child.0),
                name: e.name.into(),
                perm: permissions(e.pair.perm),
                shared_perm: permissions(e.pair.shared),
            }));
        }
        // The youngest first.
        nodes.reverse();
        edges.reverse();
        XDbgBlockGraph { nodes, edges }
    }
}

/// What an image has for its new owner.
async fn take_over(cx: &Cx<'_>, driver: &dyn Driver) -> Result<(), QError> {
    let stored = driver.stored_bitmaps(cx).await?;
    for b in stored {
        cx.node.live.bitmaps.add(Arc::new(b));
    }
    cx.node.live.bitmaps.resize(cx.len());
    if cx.node.writable() {
        driver.activate(cx).await?;
    }
    Ok(())
}

fn permissions(p: Perm) -> Vec<BlockPermission> {
    let all = [
        (Perm::RESIZE, BlockPermission::Resize),
        (Perm::WRITE_UNCHANGED, BlockPermission::WriteUnchanged),
        (Perm::WRITE, BlockPermission::Write),
        (Perm::CONSISTENT_READ, BlockPermission::ConsistentRead),
    ];
    all.into_iter().filter(|(bit, _)| p.contains(*bit)).map(|(_, name)| name).collect()
}

/// The node and everything below it.
fn below(g: &Graph, top: NodeId) -> BTreeSet<NodeId> {
    g.nodes().filter(|n| g.reaches(top, n.id)).map(|n| n.id).collect()
}

/// Whether an active node apart from `without` uses this one.
fn active_parent(g: &Graph, id: NodeId, without: &BTreeSet<NodeId>) -> bool {
    let mut parents = g.nodes().filter(|p| p.edges.iter().any(|e| e.child == id));
    parents.any(|p| !p.flags.inactive && !without.contains(&p.id))
}

/// The node and those below it that no other active node uses.
pub(crate) fn unused_without(g: &Graph, top: NodeId) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::from([top]);
    for id in g.topological().unwrap_or_default() {
        if id != top && g.reaches(top, id) && !active_parent(g, id, &found) {
            found.insert(id);
        }
    }
    found
}

/// Registers the commands.
pub(crate) fn register(table: &mut CommandTable, graph: &Arc<BlockGraph>) {
    table.event::<BlockWriteThresholdEvent>();
    let g = graph.clone();
    table.register(move |c: BlockdevSetActive| {
        let g = g.clone();
        async move { g.set_active(c.node_name.as_deref(), c.active).await }
    });
    let g = graph.clone();
    table.register(move |c: BlockSetWriteThreshold| {
        let done = g.set_write_threshold(&c.node_name, c.write_threshold);
        async move { done }
    });
    let g = graph.clone();
    table.register(move |c: XBlockdevSetIothread| {
        let done = g.check_iothread(&c);
        async move { done }
    });
    let g = graph.clone();
    table.register(move |_: XDebugQueryBlockGraph| {
        let graph = g.debug_graph();
        async move { Ok(graph) }
    });
}
