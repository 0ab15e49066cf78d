//! `blockdev-snapshot-sync`: an overlay whose image is made, or opened, in the same step.

use crate::target::{Backing, NewTarget};
use api::block_core::BlockdevSnapshotSync;
use block::driver::CtlFuture;
use block::job::Change;
use block::transaction::Action;
use block::{Graph, NodeId};
use qapi::{QError, qerr};

/// The action.
pub struct SnapshotSync(pub BlockdevSnapshotSync);

impl SnapshotSync {
    async fn set_up(&self, change: &mut Change<'_, '_>) -> Result<(), QError> {
        let c = &self.0;
        let (device, node) = (c.device.as_deref().unwrap_or(""), c.node_name.as_deref().unwrap_or(""));
        let old = change.find(device, node)?;
        change.may_get_overlay(old).await?;
        let name = c.snapshot_node_name.as_deref();
        if c.node_name.is_some() && name.is_none() {
            return Err(qerr!("New overlay node-name missing"));
        }
        if name.is_some_and(|n| change.graph().by_name(n).is_some()) {
            return Err(qerr!("New overlay node-name already in use"));
        }
        if let Some(n) = name {
            block::options::check_node_name(n)?;
        }
        let image = NewTarget {
            path: &c.snapshot_file,
            format: Some(c.format.as_deref().unwrap_or("qcow2")),
            node_name: name,
            mode: c.mode.unwrap_or_default(),
            like: old,
            below: Some(old),
            backing: Backing::Later,
            unmap: false,
            read_only: change.graph().node(old).is_some_and(|n| n.flags.read_only),
        };
        let overlay = image.open(change).await?;
        // Without users the image would go again at once.
        if !change.is_used(old) {
            change.keep(overlay);
        }
        change.rest_above(old, overlay).await?;
        change.put_overlay(old, overlay)
    }
}

impl Action for SnapshotSync {
    fn rests(&self, graph: &Graph) -> Vec<NodeId> {
        let drive = self.0.device.as_deref().and_then(|d| graph.drive(d)).and_then(|d| d.node);
        let node = self.0.node_name.as_deref().and_then(|n| graph.by_name(n)).map(|n| n.id);
        drive.or(node).into_iter().collect()
    }

    fn prepare<'a>(&'a mut self, change: &'a mut Change<'_, '_>) -> CtlFuture<'a> {
        Box::pin(self.set_up(change))
    }
}
