//! `transaction`: several actions as one change of the graph.
//!
//! All actions are prepared, one after another, against one transaction of the graph, while the users of all nodes that
//! they name are kept off. Each sees what those before it did. When all could be prepared, the whole is checked, staged
//! and published at once; when one could not, everything that was prepared is dropped, and each prepared action undoes,
//! last first, what it did outside of the graph.
//!
//! An action is whatever implements [`Action`]. Those on bitmaps and snapshots stand in [`actions`]; the crates above
//! bring their own (jobs, overlays that are made).

pub mod actions;
mod overlay;

use crate::control::BlockGraph;
use crate::driver::{CtlFuture, Cx};
use crate::graph::{Graph, NodeId, RootEvent};
use crate::job::{Change, DoneFuture};
use crate::txn::Txn;
use qapi::QError;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One action of a transaction. Everything runs on the control executor.
///
/// Exactly one of these happens: [`Action::prepare`] fails (and has itself undone what it did outside of the graph), or
/// it succeeds and [`Action::commit`] or [`Action::abort`] follows.
pub trait Action: 'static {
    /// The nodes whose users are kept off from before the first action is prepared until all are committed. Names that
    /// mean nothing are for [`Action::prepare`] to complain about.
    fn rests(&self, graph: &Graph) -> Vec<NodeId>;

    /// Does everything that can fail. What it edits becomes real with the rest or is dropped with it.
    fn prepare<'a>(&'a mut self, change: &'a mut Change<'_, '_>) -> CtlFuture<'a>;

    /// The new graph is published; users are still kept off. A job is started here: its first request waits.
    fn commit(self: Box<Self>, graph: &Arc<Graph>) {
        let _ = graph;
    }

    /// Another action failed, and the graph is as it was: undoes what was done outside of it.
    fn abort(self: Box<Self>) -> DoneFuture<'static> {
        Box::pin(async {})
    }
}

impl BlockGraph {
    /// Does all actions or none.
    pub async fn transact(&self, actions: Vec<Box<dyn Action>>) -> Result<(), QError> {
        self.run(|me| async move { me.do_transact(actions).await }).await
    }

    async fn do_transact(&self, mut actions: Vec<Box<dyn Action>>) -> Result<(), QError> {
        let now = self.snapshot();
        self.sound(&actions.iter().flat_map(|a| a.rests(&now)).collect::<Vec<_>>()).await;
        let _one = self.changing.lock().await;
        let mut txn = Txn::new(self);
        let rests: BTreeSet<NodeId> = actions.iter().flat_map(|a| a.rests(&txn.base)).collect();
        txn.drain(&rests.into_iter().collect::<Vec<_>>()).await;
        let (mut prepared, mut moved) = (0, Vec::new());
        let ready = async {
            for a in &mut actions {
                let mut change = Change::new(&mut txn);
                a.prepare(&mut change).await?;
                moved.append(&mut change.moved);
                prepared += 1;
            }
            txn.finish().await
        }
        .await;
        let published = match ready {
            Ok(()) => self.settle_held(txn).await,
            Err(e) => {
                // What it staged may hold locks that undoing needs; the users are let on only after that.
                let rest = txn.give_up();
                undo(actions, prepared).await;
                drop(rest);
                return Err(e);
            }
        };
        let mut published = match published {
            Ok(p) => p,
            Err(e) => {
                undo(actions, prepared).await;
                return Err(e);
            }
        };
        let changed = std::mem::take(&mut published.bitmaps).commit();
        changed.keep(&published.graph).await;
        for a in actions {
            a.commit(&published.graph);
        }
        let graph = published.graph.clone();
        drop(published);
        for r in moved {
            if let Some(f) = graph.root(r).and_then(|r| r.on_change.as_ref()) {
                f(RootEvent::Replaced);
            }
        }
        for (node, name) in changed.gone {
            let Some(node) = graph.node(node) else { continue };
            let Some(driver) = &node.driver else { continue };
            // The image says already that what it has stored is out of date.
            if let Err(e) = driver.remove_bitmap(&Cx { graph: &graph, node }, &name).await {
                tracing::warn!(node = %node.name, "a removed bitmap stays in the image: {e}");
            }
        }
        Ok(())
    }
}

/// Undoes the first `prepared` actions, last first.
async fn undo(mut actions: Vec<Box<dyn Action>>, prepared: usize) {
    actions.truncate(prepared);
    while let Some(a) = actions.pop() {
        a.abort().await;
    }
}
