//! Opening nodes while the graph may go on changing.
//!
//! To open a node may take long: a server does not answer, storage hangs. So a transaction that opens nodes does that
//! *aside*, without the lock on changes, and [`Txn::join`]s the others only when all is open. What it opens is known to
//! nobody else before it is published, but for the names, which are reserved.
//!
//! Where a new node uses one that is there already, that link must be in force while the new node's driver reads. So
//! it is published at once, as a root (a *hold*) that asks for what the link will ask for. It keeps the node from being
//! deleted and from users that do not go with the new one; and as the driver reads inside of the gate of that root,
//! whoever drains the node waits for it. When the transaction joins, links take the place of the holds.

use crate::control::{BlockGraph, Hurried};
use crate::drive::ErrorPolicy;
use crate::driver::{ChildSlot, Cx};
use crate::gate::{Gate, Inside};
use crate::graph::{Effective, NodeId, RootDef, RootId};
use crate::perm::PermPair;
use crate::txn::Txn;
use qapi::{QError, qerr};
use rt::sync::MutexGuard;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What a transaction that runs aside has taken.
pub(crate) struct Aside {
    /// How often everything was closed before it began.
    closings: u64,
    /// By the link that each stands for.
    holds: BTreeMap<(NodeId, ChildSlot), Hold>,
}

/// A root in the place of a link that is not published yet.
struct Hold {
    root: RootId,
    pair: PermPair,
    gate: Arc<Gate>,
}

/// A name that a node under way will have.
pub(crate) struct Reserved<'g>(&'g BlockGraph, String);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.0.reserved.lock().remove(&self.1);
    }
}

/// A link of a new node to one that was there before.
struct Wanted {
    at: (NodeId, ChildSlot),
    child: NodeId,
    pair: PermPair,
    desc: String,
    edge: &'static str,
}

/// The lock on changes, for a transaction that has joined.
pub(crate) struct Joined<'g> {
    ctl: &'g BlockGraph,
    holds: Vec<RootId>,
    _one: MutexGuard<'g, ()>,
}

impl Joined<'_> {
    /// Ends it; when the transaction was not published, what it held is let go.
    pub(crate) async fn end<T>(self, done: Result<T, QError>) -> Result<T, QError> {
        if done.is_err() {
            let_go(self.ctl, &self.holds).await;
        }
        done
    }
}

impl BlockGraph {
    /// Waits until the users of these nodes have been quiet for a moment and what was written is stable, without the
    /// lock on changes: before a change that drains and flushes them with it. Storage that hangs is found out here,
    /// where nobody waits for it but the command that is about it. Errors are for the change itself to meet.
    pub(crate) async fn sound(&self, nodes: &[NodeId]) {
        let graph = self.snapshot();
        let roots: Vec<_> = graph.roots_over(nodes).iter().filter_map(|r| graph.root(*r).cloned()).collect();
        let closed: Vec<_> = roots.iter().map(|r| (r.gate.close(), Hurried::new(&graph, r.node))).collect();
        for r in &roots {
            r.gate.idle().await;
        }
        for node in nodes.iter().filter_map(|id| graph.node(*id)) {
            _ = (Cx { graph: &graph, node }).node_flush().await;
        }
        drop(closed);
    }
}

/// Removes holds. The lock on changes is held.
async fn let_go(ctl: &BlockGraph, holds: &[RootId]) {
    let mut txn = Txn::new(ctl);
    let before = txn.next.roots.len();
    txn.next.roots.retain(|id, _| !holds.contains(id));
    if txn.next.roots.len() == before {
        return;
    }
    // Letting go cannot conflict with anybody; a driver that fails to stage less keeps what it has.
    match txn.finish().await {
        Ok(()) => drop(txn.commit().await),
        Err(e) => tracing::error!("letting go of a node that was not used after all: {e}"),
    }
}

impl<'g> Txn<'g> {
    /// A transaction that opens nodes without the lock on changes.
    pub(crate) fn aside(ctl: &'g BlockGraph) -> Txn<'g> {
        let mut txn = Txn::new(ctl);
        txn.aside = Some(Aside { closings: ctl.closings.load(Relaxed), holds: BTreeMap::new() });
        txn
    }

    /// Does not wait for those who are opening nodes, when it drains: that may take for ever.
    pub(crate) fn ignore_holds(&mut self) {
        let mut base = (*self.base).clone();
        base.roots.retain(|_, r| r.held.is_none());
        self.base = Arc::new(base);
    }

    /// Takes the lock on changes, and brings what was opened into the graph as it is now; then the transaction goes on
    /// like any other. `opened` is how the opening ended; where it failed, everything is given back.
    pub(crate) async fn join<T>(
        mut self,
        opened: Result<T, QError>,
    ) -> Result<(Txn<'g>, Joined<'g>, T), QError> {
        let _one = self.ctl.changing.lock().await;
        let opened = opened.and_then(|t| self.rebase().map(|()| t));
        let holds = self.aside.take().map(|a| a.holds.values().map(|h| h.root).collect()).unwrap_or_default();
        let joined = Joined { ctl: self.ctl, holds, _one };
        match opened {
            Ok(t) => Ok((self, joined, t)),
            Err(e) => {
                // What it staged may hold locks that letting go needs.
                drop(self);
                joined.end(Err(e)).await
            }
        }
    }

    /// Reserves a name for a node that is opened aside; an error where another transaction has reserved it.
    pub(crate) fn reserve(&mut self, name: &str) -> Result<(), QError> {
        let mut reserved = self.ctl.reserved.lock();
        if reserved.contains(name) {
            return Err(qerr!("Duplicate nodes with node-name='{name}'"));
        }
        if self.aside.is_some() {
            reserved.insert(name.to_owned());
            self.names.push(Reserved(self.ctl, name.to_owned()));
        }
        Ok(())
    }

    /// Carries the nodes of a transaction that runs aside over to the graph as it is now.
    pub(crate) fn rebase(&mut self) -> Result<(), QError> {
        let Some(aside) = &self.aside else { return Ok(()) };
        if self.ctl.closings.load(Relaxed) != aside.closings {
            return Err(qerr!("All block nodes were closed meanwhile"));
        }
        let now = self.ctl.snapshot();
        if Arc::ptr_eq(&now, &self.base) {
            return Ok(());
        }
        let mut next = (*now).clone();
        for (id, node) in self.next.nodes.iter().filter(|(id, _)| !self.base.nodes.contains_key(id)) {
            if now.by_name(&node.name).is_some() {
                return Err(qerr!("Duplicate nodes with node-name='{}'", node.name));
            }
            if now.drive(&node.name).is_some() {
                return Err(qerr!("node-name={} is conflicting with a device id", node.name));
            }
            next.nodes.insert(*id, node.clone());
        }
        for ((parent, slot), hold) in &aside.holds {
            // Whoever took the place of the node that is used has taken it here too.
            let gone = || qerr!("A block node went away while it was about to be used");
            let child = now.root(hold.root).and_then(|r| r.node).ok_or_else(gone)?;
            next.roots.remove(&hold.root);
            let edge = next.edit(*parent).and_then(|n| n.edges.iter_mut().find(|e| e.slot == *slot));
            edge.ok_or_else(gone)?.child = child;
        }
        let new = |id: &NodeId| next.nodes.contains_key(id) && !now.nodes.contains_key(id);
        self.stands.retain(|id, _| new(id));
        self.stands.extend(now.nodes.values().map(|n| (n.id, (n.flags, n.pair))));
        (self.base, self.next) = (now, next);
        Ok(())
    }

    /// Makes the links in force that lead from nodes of this transaction to others, if it runs aside.
    pub(crate) async fn hold_references(&mut self) -> Result<(), QError> {
        if self.aside.is_none() {
            return Ok(());
        }
        let eff = self.perms()?;
        if self.missing(&eff).is_empty() {
            return Ok(());
        }
        let _one = self.ctl.changing.lock().await;
        self.rebase()?;
        let eff = self.perms()?;
        let mut txn = Txn::new(self.ctl);
        let mut taken = Vec::new();
        for w in self.missing(&eff) {
            let old = self.aside.as_ref().and_then(|a| a.holds.get(&w.at));
            let (root, gate) = match old {
                Some(h) => (h.root, h.gate.clone()),
                None => (RootId(self.ctl.next_id()), Gate::new()),
            };
            let def = RootDef {
                id: root,
                name: String::new(),
                qdev: None,
                desc: w.desc,
                node: Some(w.child),
                pair: w.pair,
                seq: self.ctl.next_id(),
                rests: false,
                drive: false,
                writeback: true,
                on_error: ErrorPolicy::default(),
                on_change: None,
                reserves: String::new(),
                job: None,
                held: Some(w.edge),
                gate: gate.clone(),
                stats: Arc::default(),
            };
            txn.next.roots.insert(root, Arc::new(def));
            taken.push((w.at, Hold { root, pair: w.pair, gate }));
        }
        // (A box, as that calls this again; there it does nothing.)
        Box::pin(txn.finish()).await?;
        txn.commit().await;
        if let Some(aside) = &mut self.aside {
            aside.holds.extend(taken);
        }
        self.rebase()
    }

    /// The links to other nodes for which no hold, or another one, is there.
    fn missing(&self, eff: &Effective) -> Vec<Wanted> {
        let Some(aside) = &self.aside else { return Vec::new() };
        let mut wanted = Vec::new();
        for n in self.next.nodes.values().filter(|n| !self.base.nodes.contains_key(&n.id)) {
            for (e, pair) in n.edges.iter().zip(eff.edges.get(&n.id).into_iter().flatten()) {
                let at = (n.id, e.slot);
                let held = aside.holds.get(&at).is_some_and(|h| h.pair == *pair);
                if self.base.nodes.contains_key(&e.child) && !held {
                    let desc = format!("node '{}'", n.name);
                    wanted.push(Wanted { at, child: e.child, pair: *pair, desc, edge: e.name });
                }
            }
        }
        wanted
    }

    /// Waits until nobody drains the nodes that this transaction uses, and keeps them from being drained while the
    /// answer lives. Nothing may be waited for meanwhile but the drivers of these nodes.
    pub(crate) async fn enter_holds(&mut self) -> Result<Vec<Inside>, QError> {
        let Some(aside) = &self.aside else { return Ok(Vec::new()) };
        let gates: Vec<_> = aside.holds.values().map(|h| h.gate.clone()).collect();
        let mut inside = Vec::with_capacity(gates.len());
        // One that waits at a gate is inside of no other: else two that drain could wait for each other.
        'all: loop {
            inside.clear();
            for gate in &gates {
                match gate.try_enter() {
                    Some(i) => inside.push(i),
                    None => {
                        inside.clear();
                        drop(gate.enter().await);
                        continue 'all;
                    }
                }
            }
            break;
        }
        self.rebase()?;
        Ok(inside)
    }
}
