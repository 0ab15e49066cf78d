//! Finding bitmaps for those who show them to others.

use super::{Bitmap, Busy, Tolerate};
use crate::control::BlockGraph;
use crate::driver::ChildSlot;
use crate::graph::Node;
use crate::perm::Role;
use api::block_core::BlockDirtyBitmapOrStr;
use qapi::{QError, qerr};
use std::sync::Arc;

/// What a filter shows, or else what the node is an overlay of.
fn below(node: &Node) -> Option<crate::graph::NodeId> {
    let filtered = node.edges.iter().find(|e| e.role.contains(Role::FILTERED));
    filtered.or_else(|| node.edge(ChildSlot::Backing)).map(|e| e.child)
}

impl BlockGraph {
    /// Takes bitmaps for an export of this node, which only reads them: by name those of the node or else of the nearest
    /// one below it that has a bitmap of this name, or those of any node. One that is named twice is taken once.
    ///
    /// # Errors
    /// One of them is not there, is in use or not to be trusted, or would change unseen while a read-only export shows it.
    pub fn bitmaps_to_show(
        &self,
        node_name: &str,
        writable: bool,
        which: &[BlockDirtyBitmapOrStr],
    ) -> Result<Vec<Busy>, QError> {
        let graph = self.snapshot();
        let top = graph
            .by_name(node_name)
            .ok_or_else(|| qerr!("Cannot find device='' nor node-name='{node_name}'"))?;
        let mut found: Vec<Arc<Bitmap>> = Vec::new();
        for w in which {
            let bitmap = match w {
                BlockDirtyBitmapOrStr::Local(name) => {
                    let mut at = Some(top);
                    loop {
                        let node = at.ok_or_else(|| qerr!("Bitmap '{name}' is not found"))?;
                        if let Some(b) = node.live.bitmaps.find(name) {
                            break b;
                        }
                        at = below(node).and_then(|id| graph.node(id));
                    }
                }
                BlockDirtyBitmapOrStr::External(b) => {
                    let node =
                        graph.drive_or_node(&b.node).ok_or_else(|| qerr!("Node '{}' not found", b.node))?;
                    let bitmap = node.live.bitmaps.find(&b.name);
                    bitmap.ok_or_else(|| qerr!("Dirty bitmap '{}' not found", b.name))?
                }
            };
            bitmap.check(false, Tolerate { read_only: true, ..Tolerate::default() })?;
            if !writable && top.writable() && bitmap.enabled() {
                return Err(qerr!("Enabled bitmap '{}' incompatible with readonly export", bitmap.name()));
            }
            if !found.iter().any(|b| Arc::ptr_eq(b, &bitmap)) {
                found.push(bitmap);
            }
        }
        let busy = |b: &Arc<Bitmap>| {
            let text = "is currently in use by another operation and cannot be used";
            b.occupy().ok_or_else(|| qerr!("Bitmap '{}' {text}", b.name()))
        };
        found.iter().map(busy).collect()
    }
}
