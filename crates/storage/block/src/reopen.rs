//! `blockdev-reopen`: new options and new children for nodes that are in use, all or none.
//!
//! The list is one transaction. What each entry asks is written into one next graph, which is then checked whole, so
//! that the order of the entries does not matter.

use crate::control::BlockGraph;
use crate::driver::{ChildOption, ChildSlot, Cx, NodeFlags};
use crate::graph::{Graph, Node, NodeId};
use crate::open::new_edge;
use crate::options::{
    ChildGiven, Flat, NodeOptions, check_reset, check_unchanged, flags, inherited, split, to_dict,
};
use crate::perm::Role;
use crate::txn::{Txn, cycle, frozen};
use api::block_core::BlockdevOptions;
use qapi::{Dict, QError, qerr};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is asked of one node.
#[derive(Clone, Debug, Default)]
struct Asked {
    own: Flat,
    children: BTreeMap<&'static str, ChildGiven>,
    /// What is not said stays as it is (the node is only reached through its parent's reference to it).
    keep: bool,
    /// The parent through which it is reached, and the role of the link: options are inherited along it.
    parent: Option<(NodeId, Role)>,
}

impl BlockGraph {
    pub(crate) async fn do_reopen(&self, list: Vec<BlockdevOptions>) -> Result<(), QError> {
        let about: Vec<NodeId> = ask_all(&self.snapshot(), &list)?.into_keys().collect();
        self.sound(&about).await;
        let _one = self.changing.lock().await;
        let mut txn = Txn::new(self);
        let queue = ask_all(&txn.base, &list)?;
        let ids: Vec<NodeId> = queue.keys().copied().collect();
        txn.drain(&ids).await;
        let base = txn.base.clone();
        for id in &ids {
            let Some(node) = base.node(*id) else { continue };
            if let Err(e) = (Cx { graph: &base, node }).node_flush().await {
                return Err(qerr!("Error flushing drive: {e}"));
            }
        }
        // Parents first: children inherit from what their parents will be.
        for id in base.topological().unwrap_or_default() {
            if let Some(asked) = queue.get(&id) {
                prepare(&mut txn, &queue, id, asked)?;
            }
        }
        txn.finish().await?;
        txn.commit().await;
        Ok(())
    }
}

/// What a list of options asks of which nodes.
fn ask_all(base: &Graph, list: &[BlockdevOptions]) -> Result<BTreeMap<NodeId, Asked>, QError> {
    let mut queue = BTreeMap::new();
    for options in list {
        let name = options.node_name.as_deref().ok_or_else(|| qerr!("node-name not specified"))?;
        let node = base.by_name(name);
        let id = node.ok_or_else(|| qerr!("Failed to find node with node-name='{name}'"))?.id;
        ask(base, &mut queue, id, Given::Dict(to_dict(options)), None)?;
    }
    Ok(queue)
}

/// How a node came into the queue.
enum Given {
    /// By options of its own.
    Dict(Dict),
    /// By its parent's reference to it.
    Keep,
}

/// Enters a node and the children that it defined inline into the queue.
fn ask(
    base: &Graph,
    queue: &mut BTreeMap<NodeId, Asked>,
    id: NodeId,
    given: Given,
    parent: Option<(NodeId, Role)>,
) -> Result<(), QError> {
    let Some(node) = base.node(id) else { return Ok(()) };
    let specs = (node.ty.children)(&node.options.typed);
    let (own, children, keep) = match given {
        Given::Dict(d) => {
            // A driver of another name takes other children, but that is refused anyway.
            let s = split(d, &specs);
            (s.own, s.children, false)
        }
        Given::Keep => (Flat::new(), BTreeMap::new(), true),
    };
    let fresh = !queue.contains_key(&id);
    let asked = queue.entry(id).or_default();
    // A node may be in the list twice, or be reached through its parent too; what is said must fit together.
    let twice =
        |key: &str| qerr!("Option '{key}' of node '{}' is given twice with different values", node.name);
    for (key, value) in own {
        if asked.own.get(&key).is_some_and(|v| *v != value) {
            return Err(twice(&key));
        }
        asked.own.insert(key, value);
    }
    for (name, child) in children {
        match asked.children.get(name) {
            Some(said) if *said != ChildGiven::Absent && child != ChildGiven::Absent && *said != child => {
                return Err(twice(name));
            }
            Some(said) if *said != ChildGiven::Absent => {}
            _ => drop(asked.children.insert(name, child)),
        }
    }
    // Options of its own say more than a parent's reference, whichever comes first.
    asked.keep = keep && (fresh || asked.keep);
    asked.parent = asked.parent.or(parent);
    let (children, keep) = (asked.children.clone(), asked.keep);
    for edge in &node.edges {
        let Some(child) = base.node(edge.child).filter(|c| c.inherits_from == Some(id)) else { continue };
        let parent = Some((id, edge.role));
        match children.get(edge.name) {
            Some(ChildGiven::Reference(n)) if *n == child.name => {
                ask(base, queue, child.id, Given::Keep, parent)?;
            }
            Some(ChildGiven::Definition(d)) => ask(base, queue, child.id, Given::Dict(d.clone()), parent)?,
            None | Some(ChildGiven::Absent) if keep => ask(base, queue, child.id, Given::Keep, parent)?,
            _ => {}
        }
    }
    Ok(())
}

/// Writes what is asked of a node into the transaction's graph.
fn prepare(
    txn: &mut Txn<'_>,
    queue: &BTreeMap<NodeId, Asked>,
    id: NodeId,
    asked: &Asked,
) -> Result<(), QError> {
    let base = txn.base.clone();
    let Some(node) = base.node(id) else { return Ok(()) };
    let old = &node.options.own;
    let mut own = if asked.keep { old.clone() } else { Flat::new() };
    own.extend(asked.own.clone());
    // A node that its parent reaches takes from it what it does not say itself.
    let parent = asked.parent.filter(|(p, _)| queue.contains_key(p)).and_then(|(p, role)| {
        let p = txn.next.node(p)?;
        Some(inherited(&p.flags, role))
    });
    let fixed = NodeFlags {
        inactive: node.flags.inactive,
        force_share: node.flags.force_share,
        ..parent.unwrap_or_default()
    };
    if own.get("force-share").is_some_and(|v| v.as_bool() != Some(node.flags.force_share)) {
        return Err(qerr!("Cannot change the option 'force-share'"));
    }
    let mut new_flags = flags(&own, fixed)?;
    if !node.ty.supports_reopen {
        return Err(qerr!(
            "Block format '{}' used by node '{}' does not support reopening files",
            node.ty.name,
            node.name
        ));
    }
    check_reset(old, &own, node.ty.mutable_opts)?;
    let specs = (node.ty.children)(&node.options.typed);
    let mut children = node.options.children.clone();
    for spec in &specs {
        let given = asked.children.get(spec.name).cloned().unwrap_or_default();
        let now = child(txn, node, spec, given, asked.keep)?;
        children.insert(spec.name, now);
    }
    check_unchanged(&node.name, &node.flags, old, &own, node.ty.mutable_opts)?;
    // These are as they were, whether they were said or not.
    new_flags.inactive = node.flags.inactive;
    new_flags.force_share = node.flags.force_share;
    let options = Arc::new(NodeOptions::new(&node.name, own, children)?);
    // A link's role may follow from the options (`raw` with an offset is no plain filter).
    let roles = (node.ty.children)(&options.typed);
    if let Some(n) = txn.next.edit(id) {
        n.flags = new_flags;
        for e in &mut n.edges {
            if let Some(spec) = roles.iter().find(|s| s.slot == e.slot) {
                e.role = spec.role;
            }
        }
        n.options = options.clone();
    }
    txn.reopened.insert(id, options.typed.clone());
    Ok(())
}

/// Does what is asked of one child; returns what the options say of it from now on.
fn child(
    txn: &mut Txn<'_>,
    node: &Node,
    spec: &ChildOption,
    given: ChildGiven,
    keep: bool,
) -> Result<ChildGiven, QError> {
    let base = txn.base.clone();
    let edge = node.edge(spec.slot);
    let current = edge.and_then(|e| base.node(e.child));
    let said = node.options.children.get(spec.name).cloned().unwrap_or_default();
    match given {
        ChildGiven::Absent => {
            let hinted = || node.driver.as_ref().is_some_and(|d| d.backing_hint().is_some());
            if !keep && spec.slot == ChildSlot::Backing && (current.is_some() || hinted()) {
                return Err(qerr!("backing is missing for '{}'", node.name));
            }
            Ok(said)
        }
        ChildGiven::Definition(dict) => {
            // Only a child that this node defined is reached this way.
            if current.is_none_or(|c| c.inherits_from != Some(node.id)) {
                return Err(qerr!("Cannot change the option '{}.driver'", spec.name));
            }
            Ok(ChildGiven::Definition(dict))
        }
        ChildGiven::Null => {
            if let Some(c) = current {
                changeable(txn, node, spec, c, None)?;
                txn.unlink(node.id, spec.slot);
            }
            Ok(ChildGiven::Null)
        }
        ChildGiven::Reference(name) => {
            let new = txn.next.by_name(&name).map(|n| n.id);
            let new = new.ok_or_else(|| qerr!("Cannot find device='' nor node-name='{name}'"))?;
            if let Some(c) = current {
                if c.id == new || below_implicit(&base, c) == new {
                    // As it is. An inline child stays one.
                    let inline =
                        matches!(said, ChildGiven::Definition(_)) && c.inherits_from == Some(node.id);
                    return Ok(if inline { said } else { ChildGiven::Reference(name) });
                }
                changeable(txn, node, spec, c, Some(new))?;
            }
            if new == node.id {
                return Err(cycle(&name, spec.name, &node.name));
            }
            let link = edge.cloned().unwrap_or_else(|| new_edge(spec));
            txn.link(node.id, link, new);
            Ok(ChildGiven::Reference(name))
        }
    }
}

/// The first node at or below `node` that no job put in on its own account.
fn below_implicit(g: &Graph, node: &Arc<Node>) -> NodeId {
    let mut n = node;
    while n.implicit {
        match n.primary().and_then(|e| g.node(e.child)) {
            Some(below) => n = below,
            None => break,
        }
    }
    n.id
}

/// Whether the link to the child `c` may lead elsewhere.
fn changeable(
    txn: &Txn<'_>,
    node: &Node,
    spec: &ChildOption,
    c: &Node,
    new: Option<NodeId>,
) -> Result<(), QError> {
    if c.implicit {
        return Err(qerr!("Cannot replace implicit {} child of {}", spec.name, node.name));
    }
    let at = node.edges.iter().position(|e| e.slot == spec.slot);
    if let Some(at) = at.filter(|at| node.edges[*at].frozen > 0 && new != Some(c.id)) {
        return Err(frozen(&txn.base, node.id, at));
    }
    Ok(())
}
