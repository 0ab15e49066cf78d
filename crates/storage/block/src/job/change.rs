//! Changes of the graph that jobs make: filters put in and taken out, links frozen, users moved from node to node.
//!
//! Each is a transaction like any other: checked whole, staged, published or dropped.

use super::filter::{JobFilter, SOURCE, TARGET, Watch, is_backup};
use super::{Job, JobRoot, io::JobHold};
use crate::bitmap::{Bitmap, Bits, Busy};
use crate::control::BlockGraph;
use crate::create::ImageMaker;
use crate::drive::ErrorPolicy;
use crate::driver::{BackingHint, ChildSlot, Cx, DriverType, NodeFlags};
use crate::filename::Named;
use crate::gate::Gate;
use crate::graph::{Edge, Graph, Node, NodeId, RootDef, RootEvent, RootId};
use crate::open::new_edge;
use crate::options::{ChildGiven, Flat, NodeOptions, check_node_name};
use crate::perm::{Perm, PermPair, Role};
use crate::track::Live;
use crate::txn::Txn;
use api::job::JobType;
use base::{Errno, IoResult};
use qapi::{QError, QapiEnum, qerr};
use smallvec::smallvec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A transaction in the making.
pub struct Change<'t, 'g> {
    pub(crate) txn: &'t mut Txn<'g>,
    pub(crate) moved: Vec<RootId>,
}

impl<'t, 'g> Change<'t, 'g> {
    pub(crate) fn new(txn: &'t mut Txn<'g>) -> Self {
        Change { txn, moved: Vec::new() }
    }
}

/// A filter to be put in.
pub struct FilterSpec<'a> {
    /// Which.
    pub ty: &'static DriverType,
    /// Who sees the changes.
    pub watch: Arc<dyn Watch>,
    /// Its name; one without is implicit.
    pub name: Option<&'a str>,
    /// The node that it shows.
    pub source: NodeId,
    /// The name of the link to it.
    pub link: &'static str,
    /// The node that the job writes to, with the link's name.
    pub target: Option<(&'static str, NodeId)>,
    /// Whether the job makes that node longer.
    pub grows: bool,
}

impl BlockGraph {
    /// Changes the graph: drains all users of the nodes in `drain`, has `f` edit, and publishes if all agree.
    pub async fn change<T: 'static>(
        &self,
        drain: Vec<NodeId>,
        f: impl FnOnce(&mut Change<'_, '_>) -> Result<T, QError> + 'static,
    ) -> Result<T, QError> {
        self.change_stable(drain, None, f).await
    }

    /// As [`BlockGraph::change`]; what was written to `stable` is made stable once everything is drained.
    pub async fn change_stable<T: 'static>(
        &self,
        drain: Vec<NodeId>,
        stable: Option<NodeId>,
        f: impl FnOnce(&mut Change<'_, '_>) -> Result<T, QError> + 'static,
    ) -> Result<T, QError> {
        self.change_with(drain, stable, async move |c: &mut Change<'_, '_>| f(c)).await
    }

    /// As [`BlockGraph::change_stable`], with an `f` that may wait: for nodes that it opens.
    pub async fn change_with<T: 'static>(
        &self,
        drain: Vec<NodeId>,
        stable: Option<NodeId>,
        f: impl AsyncFnOnce(&mut Change<'_, '_>) -> Result<T, QError> + 'static,
    ) -> Result<T, QError> {
        self.run(|me| async move {
            me.sound(&drain).await;
            let _one = me.changing.lock().await;
            edit(&me, drain, stable, f).await
        })
        .await
    }

    /// As [`BlockGraph::change`] together with what headers say of backing files (see
    /// [`BlockGraph::write_backing_hint`]): no header changes unless the graph may. `f` is called twice, first to find
    /// that out.
    pub async fn change_naming<T: 'static>(
        &self,
        drain: Vec<NodeId>,
        names: Vec<(NodeId, Option<BackingHint>)>,
        f: impl Fn(&mut Change<'_, '_>) -> Result<T, QError> + 'static,
    ) -> Result<T, QError> {
        self.run(|me| async move {
            let all: Vec<NodeId> = drain.iter().copied().chain(names.iter().map(|(n, _)| *n)).collect();
            me.sound(&all).await;
            let _one = me.changing.lock().await;
            if !names.is_empty() {
                let mut txn = Txn::new(&me);
                f(&mut Change::new(&mut txn))?;
                txn.possible()?;
                drop(txn);
                write_names(&me, names).await?;
            }
            edit(&me, drain, None, async move |c: &mut Change<'_, '_>| f(c)).await
        })
        .await
    }

    /// Writes into the header of an image which backing file it has. One that is read-only is made writable for that.
    pub async fn write_backing_hint(&self, node: NodeId, hint: Option<BackingHint>) -> Result<(), QError> {
        self.run(|me| async move {
            me.sound(&[node]).await;
            let _one = me.changing.lock().await;
            write_names(&me, vec![(node, hint)]).await
        })
        .await
    }
}

/// A transaction; the caller has the lock on changes.
async fn edit<T>(
    me: &BlockGraph,
    drain: Vec<NodeId>,
    stable: Option<NodeId>,
    f: impl AsyncFnOnce(&mut Change<'_, '_>) -> Result<T, QError>,
) -> Result<T, QError> {
    let mut txn = Txn::new(me);
    txn.drain(&drain).await;
    if let Some(node) = stable.and_then(|n| txn.base.node(n)) {
        let cx = Cx { graph: &txn.base, node };
        cx.node_flush().await.map_err(|e| qerr!("{e}"))?;
    }
    let mut change = Change::new(&mut txn);
    let done = f(&mut change).await?;
    let moved = change.moved;
    txn.finish().await?;
    let graph = txn.commit().await;
    for r in moved {
        if let Some(f) = graph.root(r).and_then(|r| r.on_change.as_ref()) {
            f(RootEvent::Replaced);
        }
    }
    Ok(done)
}

/// Writes into headers which backing files images have; the caller has the lock on changes.
async fn write_names(me: &BlockGraph, names: Vec<(NodeId, Option<BackingHint>)>) -> Result<(), QError> {
    let g = me.snapshot();
    let read_only = |id: &NodeId| g.node(*id).is_some_and(|n| n.flags.read_only);
    let opened: Vec<NodeId> = names.iter().map(|(n, _)| *n).filter(read_only).collect();
    let set = async |to: bool| {
        let nodes = opened.clone();
        let change = async move |c: &mut Change<'_, '_>| {
            nodes.iter().for_each(|n| _ = c.set_read_only(*n, to));
            Ok(())
        };
        if opened.is_empty() { Ok(()) } else { edit(me, opened.clone(), None, change).await }
    };
    set(false).await?;
    let graph = me.snapshot();
    let write = async || {
        for (node, hint) in names {
            let node = graph.node(node).ok_or_else(|| qerr!("The node has gone"))?;
            let cx = Cx { graph: &graph, node };
            let driver = cx.driver().map_err(|e| qerr!("{e}"))?;
            driver.write_backing_hint(&cx, hint).await?;
        }
        Ok(())
    };
    let done = write().await;
    let back = set(true).await;
    done.and(back)
}

/// Has an image hold nothing of its own any more.
async fn empty(graph: &Arc<Graph>, node: NodeId) -> IoResult<()> {
    let cx = graph.cx(node).ok_or(Errno::NOMEDIUM)?;
    if !cx.node.writable() {
        return Err(Errno::ROFS);
    }
    cx.driver()?.make_empty(&cx).await?;
    cx.node.live.wrote();
    cx.node_flush().await
}

impl BlockGraph {
    /// Has several images hold nothing of their own any more while all users of the nodes in `drain` wait, and calls `then`
    /// before they go on. `ENOTSUP` where a format cannot.
    pub async fn make_empty_together(
        &self,
        drain: Vec<NodeId>,
        images: Vec<NodeId>,
        then: impl FnOnce() + 'static,
    ) -> IoResult<()> {
        self.run(|me| async move {
            me.sound(&drain).await;
            let _one = me.changing.lock().await;
            let mut txn = Txn::new(&me);
            txn.drain(&drain).await;
            let graph = txn.base.clone();
            for id in images {
                empty(&graph, id).await?;
            }
            then();
            Ok(())
        })
        .await
    }

    /// Has an image that nobody uses hold nothing of its own any more. `ENOTSUP` where its format cannot.
    pub async fn make_empty(&self, node: NodeId) -> IoResult<()> {
        self.run(|me| async move {
            me.sound(&[node]).await;
            let _one = me.changing.lock().await;
            empty(&me.snapshot(), node).await
        })
        .await
    }
}

impl BlockGraph {
    /// An error where no filter, perhaps of this name, can stand over a node because the name is taken or the node is not
    /// active. `link`: how the filter calls the node.
    pub fn may_filter(&self, node: NodeId, link: &str, name: Option<&str>) -> Result<(), QError> {
        let g = self.snapshot();
        if let Some(name) = name.filter(|n| g.by_name(n).is_some()) {
            return Err(qerr!("Duplicate nodes with node-name='{name}'"));
        }
        match g.node(node).filter(|n| n.flags.inactive) {
            Some(n) => {
                let filter = name.map_or_else(|| self.auto_name(&g), str::to_owned);
                Err(qerr!("Inactive '{}' can't be a {link} child of active '{filter}'", n.name))
            }
            None => Ok(()),
        }
    }
}

impl Graph {
    /// The job that is about this node or works with it: its kind, and whether it is about it.
    pub fn job_on(&self, node: NodeId) -> Option<(JobType, bool)> {
        self.hold_on(node).map(|(h, about)| (h.job.ty(), about))
    }

    /// Whether a job that nobody sees is about this node or works with it.
    pub(crate) fn internal_job_on(&self, node: NodeId) -> bool {
        self.hold_on(node).is_some_and(|(h, _)| h.job.is_internal())
    }

    fn hold_on(&self, node: NodeId) -> Option<(&JobHold, bool)> {
        let holds = || self.roots.values().filter_map(|r| r.job.as_ref());
        let main = holds().find(|h| h.main == node).map(|h| (h, true));
        main.or_else(|| holds().find(|h| h.others.contains(&node)).map(|h| (h, false)))
    }

    /// An error where a job is about this node or works with it.
    pub fn no_job_on(&self, node: NodeId) -> Result<(), QError> {
        self.no_job_on_called(node, self.node(node).map_or("", |n| n.name.as_str()))
    }

    /// As [`Graph::no_job_on`], with the name by which the message calls the node.
    pub(crate) fn no_job_on_called(&self, node: NodeId, name: &str) -> Result<(), QError> {
        let Some((hold, _)) = self.hold_on(node) else { return Ok(()) };
        let ty = hold.job.ty();
        if hold.job.is_internal() {
            return Err(qerr!(
                "Node '{name}' is busy: Block device is in use by internal {} job",
                ty.as_str()
            ));
        }
        Err(qerr!("Node '{name}' is busy: block device is in use by block job: {}", ty.as_str()))
    }

    /// A node whose backing file this one is.
    pub fn overlay_of(&self, node: NodeId) -> Option<&Arc<Node>> {
        let backs = |p: &Node| p.edge(ChildSlot::Backing).is_some_and(|e| e.child == node);
        self.nodes.values().find(|p| backs(p))
    }

    /// A node as its driver sees it.
    pub fn cx(self: &Arc<Self>, node: NodeId) -> Option<Cx<'_>> {
        Some(Cx { graph: self, node: self.node(node)? })
    }

    /// The node's backing file, seen through filters.
    pub fn cow_child(self: &Arc<Self>, node: NodeId) -> Option<NodeId> {
        let cx = Cx { graph: self, node: self.node(node)? };
        cx.cow_child().map(|c| c.node.id)
    }
}

impl Change<'_, '_> {
    /// Has an image whose users wait hold nothing of its own any more, at once and whatever becomes of the change.
    /// `ENOTSUP` where its format cannot.
    pub async fn make_empty(&self, node: NodeId) -> IoResult<()> {
        empty(&self.txn.base, node).await
    }

    /// A dirty bitmap as the transaction has it so far. Bits that it merges into it are there once it is committed.
    pub fn bitmap(&self, node: NodeId, name: &str) -> Result<Arc<Bitmap>, QError> {
        let n = self.txn.next.node(node).ok_or_else(|| qerr!("The node has gone"))?;
        self.txn.bitmaps.find(n, name)
    }

    /// Takes a dirty bitmap for a job, which may change it (`changes`) when it ends: the bitmap, its bits, and whether it
    /// records, all as they will be once the transaction is committed.
    pub async fn take_bitmap(
        &mut self,
        node: NodeId,
        name: &str,
        changes: bool,
    ) -> Result<(Busy, Bits, bool), QError> {
        // The driver's requests go through the graph in which the node is open.
        let open = self.txn.base.node(node).is_some();
        let graph = if open { self.txn.base.clone() } else { self.txn.preview() };
        let cx = graph.cx(node).ok_or_else(|| qerr!("The node has gone"))?;
        self.txn.bitmaps.take(&cx, name, changes).await
    }

    /// Who makes images by the names of their files.
    pub fn image_maker(&self) -> Option<Arc<dyn ImageMaker>> {
        self.txn.ctl.image_maker()
    }

    /// The graph as edited so far, for looking at nodes.
    pub fn preview(&self) -> Arc<Graph> {
        self.txn.preview()
    }

    /// The graph as edited so far.
    pub fn graph(&self) -> &Graph {
        &self.txn.next
    }

    /// The parents of a node by their links, apart from those that `below` reaches.
    fn links_to(&self, node: NodeId, below: Option<NodeId>) -> Vec<(NodeId, ChildSlot)> {
        let g = &self.txn.next;
        let apart = |p: &Node| below.is_some_and(|b| g.reaches(b, p.id));
        let parents = g.nodes.values().filter(|p| !apart(p));
        parents.flat_map(|p| p.edges.iter().filter(|e| e.child == node).map(|e| (p.id, e.slot))).collect()
    }

    /// Moves all users of `old` to `new`: links of nodes that `new` does not reach itself, devices, exports.
    pub fn replace(&mut self, old: NodeId, new: NodeId) {
        self.replace_apart(old, new, Some(new));
    }

    fn replace_apart(&mut self, old: NodeId, new: NodeId, apart: Option<NodeId>) {
        for (parent, slot) in self.links_to(old, apart) {
            let seq = self.txn.ctl.next_id();
            if let Some(e) = self.edge(parent, slot) {
                (e.child, e.seq) = (new, seq);
            }
        }
        for r in self.txn.next.roots.values_mut() {
            if r.node == Some(old) && r.job.is_none() {
                Arc::make_mut(r).node = Some(new);
                self.moved.push(r.id);
            }
        }
    }

    fn edge(&mut self, parent: NodeId, slot: ChildSlot) -> Option<&mut Edge> {
        self.txn.next.edit(parent)?.edges.iter_mut().find(|e| e.slot == slot)
    }

    /// Forbids that a link changes, until [`Change::thaw`].
    pub fn freeze(&mut self, parent: NodeId, slot: ChildSlot) {
        if let Some(e) = self.edge(parent, slot) {
            e.frozen += 1;
        }
    }

    /// Takes one [`Change::freeze`] back; this transaction may then change the link if nobody else froze it.
    pub fn thaw(&mut self, parent: NodeId, slot: ChildSlot) {
        let Some(e) = self.edge(parent, slot) else { return };
        e.frozen = e.frozen.saturating_sub(1);
        if e.frozen == 0 {
            self.txn.thawed.insert((parent, slot));
        }
    }

    /// Every link from `top` down the chain of backing files and filters to `bottom` (or to the end): what a job
    /// freezes.
    pub fn chain_links(&self, top: NodeId, bottom: Option<NodeId>) -> Vec<(NodeId, ChildSlot)> {
        let (mut links, mut at) = (Vec::new(), Some(top));
        while let Some(node) = at.filter(|n| Some(*n) != bottom).and_then(|n| self.txn.next.node(n)) {
            let link = |e: &&Edge| e.slot == ChildSlot::Backing || e.role.contains(Role::FILTERED);
            let edge = node.edges.iter().find(link);
            links.extend(edge.map(|e| (node.id, e.slot)));
            at = edge.map(|e| e.child);
        }
        links
    }

    /// Puts a filter above a node: all its users then use the filter.
    pub fn insert_filter(&mut self, spec: FilterSpec<'_>) -> Result<NodeId, QError> {
        if let Some(name) = spec.name {
            check_node_name(name)?;
            if self.txn.next.by_name(name).is_some() {
                return Err(qerr!("Duplicate nodes with node-name='{name}'"));
            }
        }
        let name = spec.name.map_or_else(|| self.txn.ctl.auto_name(&self.txn.next), str::to_owned);
        let source = self.txn.next.node(spec.source).ok_or_else(|| qerr!("The node has gone"))?.clone();
        let id = NodeId(self.txn.ctl.next_id());
        // The filter has no options of its own; these say which bytes it shows.
        let mut own = Flat::new();
        own.insert("driver".into(), "raw".into());
        let children = BTreeMap::from([("file", ChildGiven::Reference(source.name.clone()))]);
        let mut edges =
            smallvec![self.new_edge(spec.source, spec.link, SOURCE, Role::FILTERED | Role::PRIMARY)];
        if let Some((link, target)) = spec.target {
            let takes = if spec.grows { Perm::RESIZE } else { Perm::empty() };
            edges.push(self.new_edge(target, link, TARGET, Role::with_perms(takes, Perm::empty())));
        }
        let node = Node {
            id,
            ty: spec.ty,
            // An image that is not ours is nothing to work on.
            flags: NodeFlags { inactive: false, ..source.flags },
            options: Arc::new(NodeOptions::new(&name, own, children)?),
            name,
            edges,
            next_member: 0,
            pair: PermPair::NONE,
            monitor_owned: false,
            inherits_from: None,
            implicit: spec.name.is_none(),
            guessed: None,
            born: self.txn.ctl.next_id(),
            driver: Some(Arc::new(JobFilter(spec.watch))),
            live: Arc::new(Live::default()),
        };
        let apart = spec.target.map(|(_, t)| t);
        for (parent, slot) in self.links_to(spec.source, apart) {
            // A backup that goes on sees the same bytes, and every change of them, through the new filter.
            if slot == SOURCE && self.txn.next.node(parent).is_some_and(|p| is_backup(p.ty)) {
                self.txn.thawed.insert((parent, slot));
            }
        }
        self.replace_apart(spec.source, id, apart);
        self.txn.next.nodes.insert(id, Arc::new(node));
        for (parent, slot) in self.links_to(id, None) {
            self.freeze(parent, slot);
        }
        Ok(id)
    }

    fn new_edge(&self, child: NodeId, name: &'static str, slot: ChildSlot, role: Role) -> Edge {
        Edge { child, name, slot, role, frozen: 0, seq: self.txn.ctl.next_id(), pair: PermPair::NONE }
    }

    /// The node that a filter shows now: another job may have put its own filter between.
    pub fn shown_by(&self, filter: NodeId) -> Option<NodeId> {
        self.txn.next.node(filter).and_then(|n| n.edge(SOURCE)).map(|e| e.child)
    }

    /// Takes a filter out: its users then use `heir`.
    pub fn remove_filter(&mut self, filter: NodeId, heir: NodeId) {
        let links = self.links_to(filter, None);
        let shown = self.shown_by(filter);
        for (parent, slot) in &links {
            self.thaw(*parent, *slot);
            if shown == Some(heir) {
                // Another job may have frozen the link as well; it sees the same bytes through it, and keeps it frozen.
                self.txn.thawed.insert((*parent, *slot));
            }
        }
        for slot in [SOURCE, TARGET] {
            self.thaw(filter, slot);
            self.txn.thawed.insert((filter, slot));
        }
        self.replace_apart(filter, heir, None);
        self.txn.next.nodes.remove(&filter);
    }

    /// Makes the root by which a job holds its nodes.
    pub fn add_root(&mut self, job: &Arc<Job>, on: NodeId, main: NodeId, others: Vec<NodeId>) -> JobRoot {
        let id = RootId(self.txn.ctl.next_id());
        let gate = Gate::new();
        let def = RootDef {
            id,
            name: String::new(),
            qdev: None,
            desc: format!("block job '{}'", job.id()),
            node: Some(on),
            // Jobs know the length that they began with; a longer or shorter node would not be what they copy.
            pair: PermPair { shared: Perm::all() - Perm::RESIZE, ..PermPair::NONE },
            seq: self.txn.ctl.next_id(),
            rests: false,
            drive: false,
            writeback: true,
            on_error: ErrorPolicy::default(),
            on_change: None,
            reserves: String::new(),
            job: Some(JobHold { job: job.clone(), main, others, between: Vec::new() }),
            held: None,
            gate: gate.clone(),
            stats: Arc::default(),
        };
        self.txn.next.roots.insert(id, Arc::new(def));
        JobRoot { ctl: self.txn.ctl.me(), id, gate }
    }

    /// Says of a job that what these nodes show makes no sense by itself while it works: nobody may rely on it.
    pub fn set_between(&mut self, root: &JobRoot, nodes: Vec<NodeId>) {
        self.share_between(root, nodes, Perm::all() - Perm::CONSISTENT_READ);
    }

    /// Says of a job that it reads these nodes, whose bytes nobody may change while it works.
    pub fn set_still(&mut self, root: &JobRoot, nodes: Vec<NodeId>) {
        self.share_between(root, nodes, Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED);
    }

    fn share_between(&mut self, root: &JobRoot, nodes: Vec<NodeId>, shared: Perm) {
        if let Some(r) = self.txn.next.roots.get_mut(&root.id)
            && let Some(hold) = &mut Arc::make_mut(r).job
        {
            hold.between = nodes.into_iter().map(|n| (n, shared)).collect();
        }
    }

    /// Gives an image another backing file, or none.
    pub fn set_backing(&mut self, node: NodeId, backing: Option<NodeId>) {
        let Some(b) = backing else { return self.txn.unlink(node, ChildSlot::Backing) };
        let Some(n) = self.txn.next.node(node) else { return };
        let edge = n.edge(ChildSlot::Backing).cloned().or_else(|| {
            let specs = (n.ty.children)(&n.options.typed);
            specs.iter().find(|s| s.slot == ChildSlot::Backing).map(new_edge)
        });
        if let Some(edge) = edge {
            self.txn.link(node, edge, b);
        }
    }

    /// Opens the backing file that an image's header names, unless the image has one open.
    pub async fn open_backing(&mut self, node: NodeId) -> Result<(), QError> {
        self.txn.open_own_backing(node).await
    }

    /// The format of the image that a name stands for; guessed where the name does not say it.
    pub async fn probe(&mut self, named: &Named) -> Result<String, QError> {
        Ok(self.txn.format_of(named).await?.0)
    }

    /// The drivers that there are.
    pub fn drivers(&self) -> &[&'static DriverType] {
        self.txn.ctl.drivers()
    }

    /// Lets go of what [`Change::add_root`] held.
    pub fn drop_root(&mut self, id: RootId) {
        self.txn.next.roots.remove(&id);
    }

    /// Makes a node, and the files under it that follow it, read-only or writable. Returns how it was.
    pub fn set_read_only(&mut self, node: NodeId, read_only: bool) -> bool {
        let Some(n) = self.txn.next.edit(node) else { return read_only };
        let was = std::mem::replace(&mut n.flags.read_only, read_only);
        if was == read_only {
            return was;
        }
        let (typed, edges) = (n.options.typed.clone(), n.edges.clone());
        self.txn.reopened.insert(node, typed);
        for e in edges.iter().filter(|e| !e.role.contains(Role::COW)) {
            let follows =
                |c: &Arc<Node>| c.inherits_from == Some(node) && !c.options.own.contains_key("read-only");
            if self.txn.next.node(e.child).is_some_and(follows) {
                self.set_read_only(e.child, read_only);
            }
        }
        was
    }

    /// Makes a node read-only, unless somebody writes to it.
    pub fn read_only_if_may(&mut self, node: NodeId) {
        let (nodes, reopened) = (self.txn.next.clone(), self.txn.reopened.clone());
        self.set_read_only(node, true);
        if self.txn.next.check().is_err() {
            (self.txn.next, self.txn.reopened) = (nodes, reopened);
        }
    }
}
