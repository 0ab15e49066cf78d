//! The block graph as an immutable value, and the pure checks on it.
//!
//! A [`Graph`] never changes once it is published. A transaction clones it (the nodes are shared), edits the clone,
//! has it checked as a whole by [`Graph::check`], and publishes it; the order of the edits never matters.

use crate::drive::ErrorPolicy;
use crate::driver::{ChildDef, ChildSlot, Driver, DriverType, NodeFlags};
use crate::gate::Gate;
use crate::options::NodeOptions;
use crate::perm::{Perm, PermPair, Role};
use crate::stats::Stats;
use crate::track::Live;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Identifies a node for its whole life; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u64);

/// Identifies a root for its whole life; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootId(pub(crate) u64);

/// A link from a node to a child.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The child.
    pub child: NodeId,
    /// The link's name (`file`, `backing`, …).
    pub name: &'static str,
    /// How the parent's driver calls it.
    pub slot: ChildSlot,
    /// What the link is for.
    pub role: Role,
    /// How many users (jobs) forbid that the link changes.
    pub frozen: u32,
    /// Age: a younger link has a greater number. Messages name the youngest user first.
    pub seq: u64,
    /// What the parent requires and shares through this link. Computed by [`Graph::check`].
    pub pair: PermPair,
}

impl Edge {
    fn def(&self) -> ChildDef {
        ChildDef { name: self.name, slot: self.slot, role: self.role }
    }
}

/// A node of the graph.
#[derive(Clone)]
pub struct Node {
    /// Its identity.
    pub id: NodeId,
    /// Its unique name; `#block…` where the user gave none.
    pub name: String,
    /// Its driver's description.
    pub ty: &'static DriverType,
    /// The settings in force.
    pub flags: NodeFlags,
    /// The options as given.
    pub options: Arc<NodeOptions>,
    /// The links to its children.
    pub edges: SmallVec<[Edge; 2]>,
    /// The number of the next child that is added to its list of children.
    pub next_member: u16,
    /// What all its users together require and share. Computed by [`Graph::check`].
    pub pair: PermPair,
    /// Created by the monitor as a node of its own (`blockdev-add`), which keeps it alive.
    pub monitor_owned: bool,
    /// The parent that defined this node inline: its reopen reaches this node, and options are inherited from it.
    pub inherits_from: Option<NodeId>,
    /// Put in by a job on its own account, not by the user: queries look through it.
    pub implicit: bool,
    /// Set where the format was guessed to be raw: the drivers whose formats its first bytes must not look like.
    pub guessed: Option<Arc<Vec<&'static DriverType>>>,
    /// Counts openings: a node that was opened later has a greater number.
    pub born: u64,
    /// The open driver; `None` only inside a transaction that is about to open it.
    pub driver: Option<Arc<dyn Driver>>,
    /// What requests share: tracked requests and flush generations. The same through all versions of the node.
    pub(crate) live: Arc<Live>,
}

impl Node {
    /// The link in `slot`.
    pub fn edge(&self, slot: ChildSlot) -> Option<&Edge> {
        self.edges.iter().find(|e| e.slot == slot)
    }

    /// The link called `name`.
    pub fn edge_named(&self, name: &str) -> Option<&Edge> {
        self.edges.iter().find(|e| e.name == name)
    }

    /// The child that stands for the node (length, file name), if one does.
    pub fn primary(&self) -> Option<&Edge> {
        self.edges.iter().find(|e| e.role.contains(Role::PRIMARY))
    }

    /// Whether requests may write, as far as the node itself is concerned.
    pub fn writable(&self) -> bool {
        !self.flags.read_only && !self.flags.inactive
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("driver", &self.ty.name)
            .field("flags", &self.flags)
            .field("edges", &self.edges)
            .field("pair", &self.pair)
            .finish_non_exhaustive()
    }
}

/// A user of the graph from outside: a device, an export, a named drive.
#[derive(Clone)]
pub struct RootDef {
    /// Its identity.
    pub id: RootId,
    /// The name of the drive, or empty.
    pub name: String,
    /// The device's path in the object tree (empty where it has none), if a device uses it.
    pub qdev: Option<String>,
    /// What a message calls it where it has no name.
    pub desc: String,
    /// The node that it stands on; `None` without medium.
    pub node: Option<NodeId>,
    /// What it requires and shares.
    pub pair: PermPair,
    /// It stays on a node that is not active, and does not write as long.
    pub rests: bool,
    /// Age, as [`Edge::seq`].
    pub seq: u64,
    /// A drive of the command line, which lives without a device and is found by its name.
    pub drive: bool,
    /// Whether writes are acknowledged before they are stable (`cache.writeback`).
    pub writeback: bool,
    /// What the device does about I/O errors.
    pub on_error: ErrorPolicy,
    /// Told of changes.
    pub(crate) on_change: Option<OnChange>,
    /// The name that it had as a drive, until the drive was deleted under its device: nobody else gets it.
    pub(crate) reserves: String,
    /// The job that it belongs to, if it does.
    pub(crate) job: Option<crate::job::io::JobHold>,
    /// It stands for the link of this name, of a node that is just being opened.
    pub(crate) held: Option<&'static str>,
    pub(crate) gate: Arc<Gate>,
    /// What its device has done, all its versions together.
    pub stats: Arc<Stats>,
}

/// What a root's user is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootEvent {
    /// The length may have changed.
    Resized,
    /// The root stands on another node, or on none.
    Replaced,
}

/// A user's callback. Called on whatever thread made the change; must not block.
pub type OnChange = Arc<dyn Fn(RootEvent) + Send + Sync>;

/// Where the devices stand that users named: the last part of the path is the name.
const NAMED_DEVICES: &str = "/machine/peripheral/";

impl RootDef {
    /// The device that uses it: its id where the user gave one, or its path.
    pub fn device(&self) -> Option<&str> {
        let path = self.qdev.as_deref().filter(|q| !q.is_empty())?;
        let id = path.strip_prefix(NAMED_DEVICES).filter(|id| !id.contains('/'));
        Some(id.unwrap_or(path))
    }

    /// Whether `name` is the id or the path of the device that uses it.
    pub fn is_device(&self, name: &str) -> bool {
        !name.is_empty() && (self.device() == Some(name) || self.qdev.as_deref() == Some(name))
    }

    /// What it requires and shares on such a node.
    pub fn pair_on(&self, node: &Node) -> PermPair {
        let mut pair = self.pair;
        if self.rests && node.flags.inactive {
            pair.perm -= Perm::WRITES | Perm::RESIZE;
        }
        pair
    }

    /// What its job shares of a node that it works between.
    fn pair_between(&self, node: NodeId) -> PermPair {
        let between = self.job.iter().flat_map(|j| &j.between);
        let shared = between.filter(|(n, _)| *n == node).fold(Perm::all(), |all, (_, s)| all & *s);
        PermPair { perm: Perm::empty(), shared }
    }

    /// How messages call this user.
    pub fn user_desc(&self) -> String {
        let name = if self.name.is_empty() { self.device().unwrap_or("") } else { &self.name };
        if name.is_empty() {
            if self.desc.is_empty() { "an unnamed block device".into() } else { self.desc.clone() }
        } else {
            format!("block device '{name}'")
        }
    }
}

impl fmt::Debug for RootDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootDef")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("node", &self.node)
            .field("pair", &self.pair)
            .finish_non_exhaustive()
    }
}

/// Who uses a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// A parent node, through its link number `.1`.
    Edge(NodeId, usize),
    /// A root.
    Root(RootId),
    /// The job of a root, which has the node between those that it works with.
    Between(RootId),
}

/// Why a graph cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GraphError {
    /// These nodes reach themselves (or are reached only through such).
    Cycle(Vec<NodeId>),
    /// A link or root leads to a node that is not there.
    Dangling(User),
    /// Two nodes of one name.
    Duplicate(String),
    /// More than one primary child, or a filter without exactly one filtered primary child.
    Roles(NodeId),
    /// `required` asks for bits that `unshared` does not share.
    Conflict {
        /// The node that both use.
        node: NodeId,
        /// The bits in question.
        perm: Perm,
        /// Who requires them.
        required: User,
        /// Who does not share them.
        unshared: User,
    },
    /// Somebody would write to a read-only node.
    ReadOnly(NodeId),
    /// Somebody would use `perm` of an inactive node.
    Inactive(NodeId, Perm),
    /// An active node would stand on an inactive one.
    InactiveChild(NodeId, usize),
}

/// What [`Graph::check`] computes: the least permissions that satisfy every rule.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Effective {
    /// For each node, what its users together require and share.
    pub nodes: BTreeMap<NodeId, PermPair>,
    /// For each node, what it requires and shares through each of its links, in their order.
    pub edges: BTreeMap<NodeId, SmallVec<[PermPair; 2]>>,
    /// The nodes, parents before children.
    pub order: Vec<NodeId>,
}

/// A snapshot of the block graph.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(crate) nodes: BTreeMap<NodeId, Arc<Node>>,
    pub(crate) roots: BTreeMap<RootId, Arc<RootDef>>,
    /// Counts published versions; a test of "nothing changed" and of snapshots.
    pub(crate) version: u64,
    /// Whether any driver hears what others do ([`crate::driver::Driver::hears`]), so that requests need not look.
    pub(crate) listens: bool,
    /// Images are opened to be looked at, without those that they name ([`crate::Policy::no_io`]).
    pub(crate) looks_only: bool,
}

impl Graph {
    /// Looks whether any driver hears what others do.
    pub(crate) fn look_for_listeners(&mut self) {
        self.listens = self.nodes.values().any(|n| n.driver.as_ref().is_some_and(|d| d.hears()));
    }

    /// The node.
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// The root.
    pub fn root(&self, id: RootId) -> Option<&Arc<RootDef>> {
        self.roots.get(&id)
    }

    /// The node of this name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.values().find(|n| n.name == name)
    }

    /// The drive of this name.
    pub fn drive(&self, name: &str) -> Option<&Arc<RootDef>> {
        self.roots.values().find(|r| !name.is_empty() && r.name == name)
    }

    /// The node on which a drive of this name stands, or the node of this name.
    pub fn drive_or_node(&self, name: &str) -> Option<&Arc<Node>> {
        self.drive(name).and_then(|d| self.node(d.node?)).or_else(|| self.by_name(name))
    }

    /// All nodes, oldest first.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// All roots, oldest first.
    pub fn roots(&self) -> impl DoubleEndedIterator<Item = &Arc<RootDef>> {
        self.roots.values()
    }

    /// How often the graph has been changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Tells the roots over `id` that its length may have changed.
    pub(crate) fn resized(&self, id: NodeId) {
        for r in self.roots_over(&[id]) {
            if let Some(f) = self.roots.get(&r).and_then(|r| r.on_change.as_ref()) {
                f(RootEvent::Resized);
            }
        }
    }

    pub(crate) fn effective(&self, id: NodeId) -> PermPair {
        self.nodes.get(&id).map_or(PermPair::NONE, |n| n.pair)
    }

    /// A node to edit.
    pub(crate) fn edit(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(&id).map(Arc::make_mut)
    }

    /// The users of `id`, youngest first.
    pub fn users(&self, id: NodeId) -> Vec<User> {
        let mut found: Vec<(u64, User)> = Vec::new();
        for n in self.nodes.values() {
            for (i, e) in n.edges.iter().enumerate() {
                if e.child == id {
                    found.push((e.seq, User::Edge(n.id, i)));
                }
            }
        }
        for r in self.roots.values() {
            if r.node == Some(id) {
                found.push((r.seq, User::Root(r.id)));
            }
        }
        found.sort_by_key(|(seq, _)| std::cmp::Reverse(*seq));
        found.into_iter().map(|(_, u)| u).collect()
    }

    /// Whether `from` reaches `to` by links (a node reaches itself).
    pub fn reaches(&self, from: NodeId, to: NodeId) -> bool {
        let mut seen = std::collections::BTreeSet::new();
        let mut todo = vec![from];
        while let Some(id) = todo.pop() {
            if id == to {
                return true;
            }
            if seen.insert(id) {
                todo.extend(self.nodes.get(&id).into_iter().flat_map(|n| n.edges.iter().map(|e| e.child)));
            }
        }
        false
    }

    /// The roots from which any of `ids` is reached.
    pub fn roots_over(&self, ids: &[NodeId]) -> Vec<RootId> {
        let hit = |r: &RootDef| r.node.is_some_and(|n| ids.iter().any(|id| self.reaches(n, *id)));
        self.roots.values().filter(|r| hit(r)).map(|r| r.id).collect()
    }

    /// The nodes that nothing keeps alive: not owned by the monitor and not reached from such a node or a root.
    pub fn garbage(&self) -> Vec<NodeId> {
        let mut alive = std::collections::BTreeSet::new();
        let mut todo: Vec<NodeId> = self.nodes.values().filter(|n| n.monitor_owned).map(|n| n.id).collect();
        todo.extend(self.roots.values().filter_map(|r| r.node));
        while let Some(id) = todo.pop() {
            if let Some(n) = self.nodes.get(&id)
                && alive.insert(id)
            {
                todo.extend(n.edges.iter().map(|e| e.child));
            }
        }
        self.nodes.keys().filter(|id| !alive.contains(id)).copied().collect()
    }

    /// Checks the whole graph and computes the permissions. Pure: no I/O, no state, no dependence on order.
    pub fn check(&self) -> Result<Effective, GraphError> {
        self.check_shape()?;
        let order = self.topological()?;
        // One pass over the links, so that a graph of n nodes costs O(n log n), not O(n²).
        let mut users: BTreeMap<NodeId, Vec<(u64, User)>> = BTreeMap::new();
        for r in self.roots.values() {
            if let Some(n) = r.node {
                users.entry(n).or_default().push((r.seq, User::Root(r.id)));
            }
            for (n, _) in r.job.iter().flat_map(|j| &j.between) {
                users.entry(*n).or_default().push((r.seq, User::Between(r.id)));
            }
        }
        for n in self.nodes.values() {
            for (i, e) in n.edges.iter().enumerate() {
                users.entry(e.child).or_default().push((e.seq, User::Edge(n.id, i)));
            }
        }
        let mut eff = Effective { order, ..Effective::default() };
        for id in eff.order.clone() {
            let node = &self.nodes[&id];
            let mut by = users.remove(&id).unwrap_or_default();
            by.sort_by_key(|(seq, _)| std::cmp::Reverse(*seq));
            let pairs: Vec<(User, PermPair)> = by
                .into_iter()
                .map(|(_, u)| match u {
                    User::Root(r) => (u, self.roots[&r].pair_on(node)),
                    User::Between(r) => (u, self.roots[&r].pair_between(id)),
                    User::Edge(p, i) => (u, eff.edges[&p][i]),
                })
                .collect();
            for (unshared, a) in &pairs {
                let shared = if self.is_sole_writer(*unshared) {
                    a.shared - (Perm::WRITES | Perm::RESIZE)
                } else {
                    a.shared
                };
                for (required, b) in &pairs {
                    let perm = b.perm - shared;
                    if required != unshared && !perm.is_empty() {
                        let (required, unshared) = (*required, *unshared);
                        return Err(GraphError::Conflict { node: id, perm, required, unshared });
                    }
                }
            }
            let pair = pairs.iter().fold(PermPair::NONE, |acc, (_, p)| acc.join(*p));
            if pair.perm.intersects(Perm::WRITES) && node.flags.read_only {
                return Err(GraphError::ReadOnly(id));
            }
            if node.flags.inactive && pair.perm.intersects(Perm::WRITES | Perm::RESIZE) {
                return Err(GraphError::Inactive(id, pair.perm & (Perm::WRITES | Perm::RESIZE)));
            }
            let edges = node
                .edges
                .iter()
                .map(|e| {
                    let mut p = (node.ty.child_perm)(&e.def(), pair, &node.flags);
                    if node.flags.force_share {
                        p.shared = Perm::all();
                    }
                    p
                })
                .collect();
            eff.nodes.insert(id, pair);
            eff.edges.insert(id, edges);
        }
        Ok(eff)
    }

    /// Whether a user wants to be the only one that writes the node itself, whatever its link shares with those below.
    fn is_sole_writer(&self, user: User) -> bool {
        let User::Edge(parent, i) = user else { return false };
        let Some(p) = self.nodes.get(&parent) else { return false };
        p.edges.get(i).is_some_and(|e| crate::job::filter::is_sole_writer(p.ty, e.slot))
    }

    fn check_shape(&self) -> Result<(), GraphError> {
        let mut names = std::collections::BTreeSet::new();
        for n in self.nodes.values() {
            if !names.insert(n.name.as_str()) {
                return Err(GraphError::Duplicate(n.name.clone()));
            }
            let primary = n.edges.iter().filter(|e| e.role.contains(Role::PRIMARY)).count();
            let filtered = n.edges.iter().filter(|e| e.role.contains(Role::FILTERED | Role::PRIMARY)).count();
            // One that is just being opened has no link yet.
            let opening = n.driver.is_none() && n.edges.is_empty();
            let filter = n.ty.kind == crate::driver::Kind::Filter && !opening;
            if primary > 1 || (filter && filtered != 1) {
                return Err(GraphError::Roles(n.id));
            }
            for (i, e) in n.edges.iter().enumerate() {
                let Some(child) = self.nodes.get(&e.child) else {
                    return Err(GraphError::Dangling(User::Edge(n.id, i)));
                };
                if child.flags.inactive && !n.flags.inactive {
                    return Err(GraphError::InactiveChild(n.id, i));
                }
            }
        }
        for r in self.roots.values() {
            if r.node.is_some_and(|id| !self.nodes.contains_key(&id)) {
                return Err(GraphError::Dangling(User::Root(r.id)));
            }
        }
        Ok(())
    }

    /// The nodes, parents before children.
    pub(crate) fn topological(&self) -> Result<Vec<NodeId>, GraphError> {
        let mut uses: BTreeMap<NodeId, usize> = self.nodes.keys().map(|id| (*id, 0)).collect();
        for e in self.nodes.values().flat_map(|n| n.edges.iter()) {
            *uses.entry(e.child).or_default() += 1;
        }
        let mut ready: Vec<NodeId> = uses.iter().filter(|(_, n)| **n == 0).map(|(id, _)| *id).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(id) = ready.pop() {
            order.push(id);
            uses.remove(&id);
            for e in &self.nodes[&id].edges {
                if let Some(n) = uses.get_mut(&e.child) {
                    *n -= 1;
                    if *n == 0 {
                        ready.push(e.child);
                    }
                }
            }
        }
        if uses.is_empty() { Ok(order) } else { Err(GraphError::Cycle(uses.into_keys().collect())) }
    }

    /// The first frozen link of `old`, apart from those in `thawed`, that this graph changes: its parent and number
    /// there. A user of a job's filter may go for good: that changes nothing for the job.
    pub(crate) fn broken_frozen_link(
        &self,
        old: &Graph,
        thawed: &std::collections::BTreeSet<(NodeId, ChildSlot)>,
    ) -> Option<(NodeId, usize)> {
        old.nodes.values().find_map(|n| {
            let same = self.nodes.get(&n.id);
            let job_on = |child| old.roots().any(|r| r.job.is_some() && r.node == Some(child));
            n.edges
                .iter()
                .position(|e| {
                    let now = same.and_then(|n| n.edge(e.slot));
                    let left = same.is_none() && e.frozen > 0 && job_on(e.child);
                    let broken = e.frozen > 0 && !left && now.is_none_or(|m| m.child != e.child);
                    broken && !thawed.contains(&(n.id, e.slot))
                })
                .map(|i| (n.id, i))
        })
    }

    /// Writes the computed permissions into the nodes. Only nodes whose numbers change are copied.
    pub(crate) fn apply(&mut self, eff: &Effective) {
        for (id, pair) in &eff.nodes {
            let edges = &eff.edges[id];
            let node = &self.nodes[id];
            if node.pair == *pair && node.edges.iter().zip(edges).all(|(e, p)| e.pair == *p) {
                continue;
            }
            if let Some(node) = self.edit(*id) {
                node.pair = *pair;
                for (e, p) in node.edges.iter_mut().zip(edges) {
                    e.pair = *p;
                }
            }
        }
    }
}
