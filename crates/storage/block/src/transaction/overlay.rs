//! Putting an image above a node.

use crate::driver::{ChildSlot, Cx, DriverType, Kind};
use crate::graph::NodeId;
use crate::job::Change;
use crate::nodeops::unused_without;
use crate::open::{Place, new_edge};
use crate::perm::Perm;
use crate::query::image_info_of;
use api::block_core::ImageInfo;
use qapi::{Dict, QError, qerr};

impl Change<'_, '_> {
    /// The node of a block device or, where there is none of that name, of a node name, as the transaction has it so
    /// far. Either may be empty.
    pub fn find(&self, device: &str, node: &str) -> Result<NodeId, QError> {
        let g = &self.txn.next;
        match g.drive(device) {
            Some(d) => d.node.ok_or_else(|| qerr!("Device '{device}' has no medium")),
            None => {
                let found = g.by_name(node).map(|n| n.id);
                found.ok_or_else(|| qerr!("Cannot find device='{device}' nor node-name='{node}'"))
            }
        }
    }

    /// An error unless the node may get an overlay; makes what was written to it stable.
    pub async fn may_get_overlay(&self, node: NodeId) -> Result<(), QError> {
        let g = &self.txn.next;
        g.no_job_on(node)?;
        let Some(n) = g.node(node) else { return Err(qerr!("The node has gone")) };
        if let Some(p) = g.overlay_of(node) {
            return Err(qerr!("Node '{}' is busy: node is used as backing hd of '{}'", n.name, p.name));
        }
        // One that this transaction opens has nothing to be written back.
        if let Some(now) = self.txn.base.node(node)
            && now.writable()
        {
            let flushed = Cx { graph: &self.txn.base, node: now }.node_flush().await;
            flushed.map_err(|e| {
                tracing::debug!(node = %now.name, "flushing before a snapshot: {e}");
                qerr!("An IO error has occurred")
            })?;
        }
        Ok(())
    }

    /// The driver of this name.
    pub fn driver_type(&self, name: &str) -> Result<&'static DriverType, QError> {
        self.txn.ctl.driver_type(name)
    }

    /// What queries tell of a node's image, as the transaction has it so far.
    pub fn image_info(&self, node: NodeId) -> Option<ImageInfo> {
        image_info_of(&self.txn.preview(), node)
    }

    /// Opens a node as part of the transaction. It goes again where that fails, or where nothing uses it.
    pub async fn open(&mut self, options: Dict) -> Result<NodeId, QError> {
        self.txn.open(options, Place::top()).await
    }

    /// Makes the monitor keep a node, as `blockdev-add` does.
    pub fn keep(&mut self, node: NodeId) {
        if let Some(n) = self.txn.next.edit(node) {
            n.monitor_owned = true;
        }
    }

    /// Whether anything uses a node.
    pub fn is_used(&self, node: NodeId) -> bool {
        !self.txn.next.users(node).is_empty()
    }

    /// Makes an image that is to stand above an inactive node inactive, too, as the process is that has the other.
    ///
    /// # Errors
    /// It cannot be flushed.
    pub async fn rest_above(&mut self, old: NodeId, overlay: NodeId) -> Result<(), QError> {
        let rests = |n: NodeId| self.txn.next.node(n).is_some_and(|n| n.flags.inactive);
        if !rests(old) || rests(overlay) {
            return Ok(());
        }
        let base = self.txn.base.clone();
        for id in unused_without(&self.txn.next, overlay) {
            // One that this transaction opens has nothing to be written back.
            if let Some(now) = base.node(id).filter(|n| n.writable()) {
                let flushed = Cx { graph: &base, node: now }.node_flush().await;
                flushed.map_err(|e| qerr!("Failed to inactivate node: {e}"))?;
            }
            if let Some(n) = self.txn.next.edit(id) {
                n.flags.inactive = true;
                let typed = n.options.typed.clone();
                self.txn.reopened.insert(id, typed);
            }
        }
        Ok(())
    }

    /// Puts the image `overlay` above `old`: all users of `old` use it from now on. `old` becomes read-only, unless
    /// somebody else writes to it.
    pub fn put_overlay(&mut self, old: NodeId, overlay: NodeId) -> Result<(), QError> {
        let perm = self.txn.perms()?.nodes.get(&overlay).map_or(Perm::empty(), |p| p.perm);
        // A user that only writes (a mirror's target) does not care what is behind the image.
        if perm.contains(Perm::CONSISTENT_READ) {
            return Err(qerr!("The overlay is already in use"));
        }
        let Some(image) = self.txn.next.node(overlay).cloned() else {
            return Err(qerr!("The node has gone"));
        };
        if image.ty.kind == Kind::Filter {
            return Err(qerr!("Filters cannot be used as overlays"));
        }
        if image.edge(ChildSlot::Backing).is_some() {
            return Err(qerr!("The overlay already has a backing image"));
        }
        let specs = (image.ty.children)(&image.options.typed);
        let spec = specs.iter().find(|s| s.slot == ChildSlot::Backing);
        let Some(spec) = spec.filter(|_| image.ty.supports_backing) else {
            return Err(qerr!("The overlay does not support backing images"));
        };
        self.replace(old, overlay);
        let parent = self.txn.next.node(old).and_then(|n| n.inherits_from);
        let still = |p| self.txn.next.node(p).is_some_and(|n| n.edges.iter().any(|e| e.child == old));
        if parent.is_some_and(|p| !still(p))
            && let Some(n) = self.txn.next.edit(old)
        {
            n.inherits_from = None;
        }
        self.txn.link(overlay, new_edge(spec), old);
        self.read_only_if_may(old);
        Ok(())
    }
}
