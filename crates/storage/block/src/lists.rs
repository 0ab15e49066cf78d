//! Lists of children: an option that is a list of nodes, and `x-blockdev-change`, which adds to such a list or takes away.
//!
//! The child number `n` of the list `children` is the edge `children.n` in the slot `Other(n)`. Numbers are not moved up
//! when a child goes: a name says the same child as long as it is there.

use crate::control::BlockGraph;
use crate::driver::{ChildOption, ChildSlot, Cx};
use crate::graph::{Graph, Node};
use crate::open::new_edge;
use crate::options::{ChildGiven, NodeOptions};
use crate::perm::Role;
use crate::txn::Txn;
use crate::zoned::ZoneModel;
use api::block_core::XBlockdevChange;
use monitor::CommandTable;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

/// The name of the link to child `n` of a list.
///
/// Each name is made once and then kept for ever: there are at most 65536 for each list that a driver has.
pub fn member_name(list: &'static str, n: u16) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let name = format!("{list}.{n}");
    let mut names = NAMES.lock();
    if let Some(known) = names.get(name.as_str()) {
        return known;
    }
    let name: &'static str = Box::leak(name.into_boxed_str());
    names.insert(name);
    name
}

/// The list and the number that a link's name says.
pub(crate) fn member(name: &str) -> Option<(&str, u16)> {
    let (list, n) = name.rsplit_once('.')?;
    Some((list, n.parse().ok()?))
}

/// The number of the first child that is added to the list among these.
pub(crate) fn next(specs: &[ChildOption]) -> u16 {
    specs.iter().filter_map(|s| member(s.name)).map(|(_, n)| n.saturating_add(1)).max().unwrap_or(0)
}

/// What stands for child `n` of a list.
pub fn list_option(list: &'static str, n: u16, role: Role) -> ChildOption {
    ChildOption { name: member_name(list, n), slot: ChildSlot::Other(n), role, required: true }
}

impl<'a> Cx<'a> {
    /// The slots that have a child, in order.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = ChildSlot> + use<'a> {
        self.node.edges.iter().map(|e| e.slot)
    }

    /// The name of the node in `slot`; empty if there is none.
    pub fn child_name(&self, slot: ChildSlot) -> &'a str {
        self.child(slot).map_or("", |c| c.node_name())
    }
}

/// Polls all futures together until each has ended; the answers are in their order.
pub async fn join_all<'a, T>(
    futures: impl IntoIterator<Item = Pin<Box<dyn Future<Output = T> + 'a>>>,
) -> Vec<T> {
    let mut all: Vec<_> = futures.into_iter().map(|f| (Some(f), None)).collect();
    poll_fn(|cx| {
        let mut pending = false;
        for (future, answer) in &mut all {
            if let Some(f) = future {
                match f.as_mut().poll(cx) {
                    Poll::Ready(v) => (*future, *answer) = (None, Some(v)),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    all.into_iter().filter_map(|(_, answer)| answer).collect()
}

impl BlockGraph {
    /// Adds a node to a parent's list of children, or takes a child away (`x-blockdev-change`).
    pub async fn change_children(
        &self,
        parent: &str,
        child: Option<&str>,
        node: Option<&str>,
    ) -> Result<(), QError> {
        let (parent, child, node) = (parent.to_owned(), child.map(str::to_owned), node.map(str::to_owned));
        self.run(|me| async move {
            let _one = me.changing.lock().await;
            let mut txn = Txn::new(&me);
            let parent = find(&txn.base, &parent)?;
            match (child, node) {
                (Some(_), Some(_)) => return Err(qerr!("The parameters child and node are in conflict")),
                (None, None) => return Err(qerr!("Either child or node must be specified")),
                (Some(child), None) => take(&mut txn, &parent, &child).await?,
                (None, Some(node)) => add(&mut txn, &parent, &node).await?,
            }
            txn.finish().await?;
            txn.commit().await;
            Ok(())
        })
        .await
    }
}

fn find(graph: &Graph, name: &str) -> Result<Arc<Node>, QError> {
    let drive = graph.drive(name).and_then(|d| d.node).and_then(|n| graph.node(n));
    let found = drive.or_else(|| graph.by_name(name));
    found.cloned().ok_or_else(|| qerr!("Cannot find device='{name}' nor node-name='{name}'"))
}

async fn add(txn: &mut Txn<'_>, parent: &Node, name: &str) -> Result<(), QError> {
    let base = txn.base.clone();
    let child = base.by_name(name).ok_or_else(|| qerr!("Node '{name}' not found"))?;
    let no = || qerr!("The node {} does not support adding a child", parent.name);
    let node = base.node(parent.id).ok_or_else(no)?;
    let cx = Cx { graph: &base, node };
    let driver = parent.driver.clone().ok_or_else(no)?;
    let lists = driver.child_list(&cx).ok_or_else(no)?;
    let zones = Cx { graph: &base, node: child }.zones();
    if zones.is_some_and(|z| z.model == ZoneModel::HostManaged) {
        // No driver with a list keeps to the order in which zones are written.
        return Err(qerr!("Cannot add a zoned child to a not support zoned children parent"));
    }
    if child.id != parent.id && !base.users(child.id).is_empty() {
        return Err(qerr!("The node {name} already has a parent"));
    }
    driver.may_add_child(&cx)?;
    let n = parent.next_member;
    let after = n.checked_add(1).ok_or_else(|| qerr!("Too many children"))?;
    txn.drain(&[parent.id, child.id]).await;
    let option = list_option(lists.name, n, lists.role);
    txn.link(parent.id, new_edge(&option), child.id);
    // What is no graph at all is said before anybody looks at the child.
    txn.perms()?;
    driver.fits_child(&cx, &Cx { graph: &base, node: child })?;
    let mut children = parent.options.children.clone();
    children.insert(option.name, ChildGiven::Reference(child.name.clone()));
    listed(txn, parent, children, after)
}

async fn take(txn: &mut Txn<'_>, parent: &Node, name: &str) -> Result<(), QError> {
    let base = txn.base.clone();
    let edge = parent.edge_named(name);
    let edge = edge.ok_or_else(|| qerr!("Node '{}' does not have child '{name}'", parent.name))?;
    let no = || qerr!("The node {} does not support removing a child", parent.name);
    let node = base.node(parent.id).ok_or_else(no)?;
    let cx = Cx { graph: &base, node };
    let driver = parent.driver.clone().ok_or_else(no)?;
    let list = driver.child_list(&cx).ok_or_else(no)?;
    let (_, n) = member(edge.name).filter(|(l, _)| *l == list.name).ok_or_else(no)?;
    driver.may_take_child(&cx)?;
    txn.drain(&[parent.id]).await;
    txn.unlink(parent.id, edge.slot);
    let mut children = parent.options.children.clone();
    children.remove(edge.name);
    // The number that was given last is free again.
    let next = if n.checked_add(1) == Some(parent.next_member) { n } else { parent.next_member };
    listed(txn, parent, children, next)
}

/// Writes down the list as it is now.
fn listed(
    txn: &mut Txn<'_>,
    parent: &Node,
    children: std::collections::BTreeMap<&'static str, ChildGiven>,
    next: u16,
) -> Result<(), QError> {
    let options = NodeOptions::new(&parent.name, parent.options.own.clone(), children)?;
    if let Some(n) = txn.next.edit(parent.id) {
        n.options = Arc::new(options);
        n.next_member = next;
    }
    Ok(())
}

/// Registers the command.
pub(crate) fn register(table: &mut CommandTable, graph: &Arc<BlockGraph>) {
    let g = graph.clone();
    table.register(move |c: XBlockdevChange| {
        let g = g.clone();
        async move { g.change_children(&c.parent, c.child.as_deref(), c.node.as_deref()).await }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_once() {
        let a = member_name("things", 7);
        assert_eq!(a, "things.7");
        assert!(std::ptr::eq(a, member_name("things", 7)));
        assert_eq!(member(a), Some(("things", 7)));
        assert_eq!(member("file"), None);
        assert_eq!(member("things.70000"), None);
    }

    #[test]
    fn all_end_and_keep_their_order() {
        let slow = |n: u32| {
            let f: Pin<Box<dyn Future<Output = u32>>> = Box::pin(async move {
                for _ in 0..n {
                    rt::yield_now().await;
                }
                n
            });
            f
        };
        assert_eq!(rt::block_on(join_all([slow(5), slow(0), slow(2)])), [5, 0, 2]);
    }
}
