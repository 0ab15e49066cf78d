//! Resizing nodes, and snapshots inside images: things that the monitor has done to one node while it rests.

use crate::control::BlockGraph;
use crate::driver::{Cx, Prealloc, SnapshotOp};
use crate::graph::{Graph, Node};
use crate::perm::{Perm, Role};
use crate::root::RootConfig;
use crate::transaction::actions::InternalSnapshot;
use crate::txn::Txn;
use api::block_core::{
    BlockImageCorruptedEvent, BlockResize, BlockdevAmendOptions, BlockdevDriverOptions,
    BlockdevSnapshotDeleteInternalSync, BlockdevSnapshotInternalSync, ImageInfoSpecific, SnapshotInfo,
};
use base::Errno;
use monitor::CommandTable;
use qapi::{QError, qerr};
use std::sync::Arc;

/// The greatest length of a node, bytes: what offsets of 63 bits leave when rounded down to 1 GiB.
const MAX_LEN: u64 = i64::MAX as u64 - ((1 << 30) - 1);

fn find<'g>(graph: &'g Graph, device: &str, node: &str) -> Result<&'g Arc<Node>, QError> {
    if graph.drive(device).is_some_and(|d| d.node.is_none()) {
        return Err(qerr!("Device '{device}' has no medium"));
    }
    let drive = graph.drive(device).and_then(|d| d.node).and_then(|n| graph.node(n));
    drive
        .or_else(|| graph.by_name(device).filter(|_| node.is_empty()))
        .or_else(|| graph.by_name(node))
        .ok_or_else(|| qerr!("Cannot find device='{device}' nor node-name='{node}'"))
}

impl BlockGraph {
    /// Sets a node's length, bytes (`block_resize`). What the other users of the node do not share is refused.
    pub async fn resize(
        &self,
        device: &str,
        node: &str,
        size: u64,
        prealloc: Prealloc,
    ) -> Result<(), QError> {
        if size > MAX_LEN {
            find(&self.snapshot(), device, node)?;
            return Err(qerr!("offset({size}) exceeds maximum({MAX_LEN})"));
        }
        let name = {
            let graph = self.snapshot();
            let node = find(&graph, device, node)?;
            graph.no_job_on(node.id)?;
            if let Some(p) = graph.overlay_of(node.id) {
                return Err(qerr!(
                    "Node '{}' is busy: node is used as backing hd of '{}'",
                    node.name,
                    p.name
                ));
            }
            node.name.clone()
        };
        let config = RootConfig { perm: Perm::RESIZE, shared: Perm::all(), ..RootConfig::default() };
        let root = self.attach(&name, config).await?;
        let done = match self.snapshot().by_name(&name).is_some_and(|n| n.writable()) {
            true => root.truncate(size, false, prealloc).await,
            false => Err(Errno::ROFS),
        };
        let failure = if done.is_err() { root.truncate_failure() } else { None };
        root.detach().await;
        done.map_err(|e| match e {
            Errno::NOTSUP if self.old_snapshots(&name) => {
                qerr!("Can't resize a v2 image which has snapshots")
            }
            e if let Some(text) = self.cannot_resize(&name, size, e) => qerr!("{text}"),
            _ if let Some(text) = &failure => qerr!("{text}"),
            Errno::ROFS => qerr!("Image is read-only"),
            Errno::NOMEDIUM => qerr!("No medium inserted"),
            Errno::NOTSUP if prealloc == Prealloc::Metadata => {
                match self.snapshot().by_name(&name).map(|n| n.ty.name) {
                    // Nothing of their kind has another length, whatever is done about its space.
                    Some("qcow" | "vmdk" | "vhdx" | "vpc" | "vdi" | "parallels") => {
                        qerr!("Image format driver does not support resize")
                    }
                    _ => qerr!("Unsupported preallocation mode: metadata"),
                }
            }
            Errno::NOTSUP => qerr!("Image format driver does not support resize"),
            Errno::INVAL if !size.is_multiple_of(512) => qerr!("The new size must be a multiple of 512"),
            Errno::FBIG if self.snapshot().by_name(&name).is_some_and(|n| n.ty.name == "qcow2") => {
                qerr!("Failed to grow the L1 table: File too large")
            }
            Errno::FBIG => qerr!("Could not resize file: File too large"),
            e => qerr!("Could not resize '{name}': {e}"),
        })
    }

    /// What drivers with words of their own say of an error.
    fn cannot_resize(&self, name: &str, size: u64, e: Errno) -> Option<&'static str> {
        let graph = self.snapshot();
        let mut node = graph.by_name(name)?;
        loop {
            let shorter = || Cx { graph: &graph, node }.len() > size;
            match (node.ty.name, &node.options.typed.driver) {
                ("raw", BlockdevDriverOptions::Raw(r)) if r.size.is_some() && e == Errno::NOTSUP => {
                    return Some("Cannot resize fixed-size raw disks");
                }
                ("qed", _) if matches!(e, Errno::NOTSUP | Errno::INVAL) => {
                    let odd = !size.is_multiple_of(512);
                    return (odd || shorter()).then_some(match odd {
                        true => "Invalid image size specified",
                        false => "Shrinking images is currently not supported",
                    });
                }
                ("ssh", _) if e == Errno::NOTSUP && shorter() => {
                    return Some("ssh driver does not support shrinking files");
                }
                ("host_device" | "host_cdrom", _) if e == Errno::INVAL => {
                    return Some("Cannot grow device files");
                }
                _ => node = graph.node(node.primary()?.child)?,
            }
        }
    }

    /// Whether the node is a qcow2 image of a version in which snapshots do not record how long the disk was.
    fn old_snapshots(&self, node: &str) -> bool {
        let info = self.image_info(node).map(|i| i.base);
        info.is_some_and(|i| {
            let old = matches!(&i.format_specific, Some(ImageInfoSpecific::Qcow2(q)) if q.compat == "0.10");
            old && i.snapshots.is_some_and(|s| !s.is_empty())
        })
    }

    /// Changes the format's options in a node's image (`x-blockdev-amend`), while its users go on.
    pub async fn amend(&self, node: &str, options: &BlockdevAmendOptions, force: bool) -> Result<(), QError> {
        let config = RootConfig {
            perm: Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED,
            shared: Perm::all(),
            desc: "the change of an image's options".into(),
            ..RootConfig::default()
        };
        let root = self.attach(node, config).await?;
        let (name, options) = (node.to_owned(), options.clone());
        // To its end, whoever waits for it.
        let amended = self.run(|me| async move {
            let graph = me.snapshot();
            let Some(node) = graph.by_name(&name) else {
                return Err(qerr!("Cannot find device='' nor node-name='{name}'"));
            };
            let cx = Cx { graph: &graph, node };
            cx.driver().map_err(|e| qerr!("{e}"))?.amend(&cx, &options, force).await
        });
        let done = amended.await;
        root.detach().await;
        done
    }

    /// Does something with a snapshot inside the image of a device or node.
    pub async fn internal_snapshot(
        &self,
        device: &str,
        op: SnapshotOp,
    ) -> Result<Option<SnapshotInfo>, QError> {
        let device = device.to_owned();
        self.run(|me| async move { me.do_internal_snapshot(&device, &op).await }).await
    }

    /// Whether a node's image, or the one whose bytes it shows, can hold snapshots.
    pub fn has_internal_snapshots(&self, node: &str) -> bool {
        let graph = self.snapshot();
        let Some(node) = graph.by_name(node) else { return false };
        let cx = snapshot_holder(Cx { graph: &graph, node });
        cx.driver().is_ok_and(|d| d.has_internal_snapshots())
    }

    /// Has a read-only node without users show what a snapshot in its image shows, from now on.
    ///
    /// # Errors
    /// There is no such snapshot; the format has none.
    pub async fn show_snapshot(
        &self,
        node: &str,
        id: Option<String>,
        name: Option<String>,
    ) -> Result<(), QError> {
        let graph = self.snapshot();
        let node = find(&graph, "", node)?;
        if node.writable() {
            return Err(qerr!("Device is not readonly"));
        }
        let cx = Cx { graph: &graph, node };
        let driver = cx.driver().map_err(|e| qerr!("{e}"))?;
        driver.show_snapshot(&cx, id.as_deref(), name.as_deref()).await
    }

    /// Whether a node can store compressed.
    pub fn compresses(&self, node: &str) -> bool {
        let graph = self.snapshot();
        graph.by_name(node).is_some_and(|node| Cx { graph: &graph, node }.compresses())
    }

    /// The length of the backing file of a node, if it has one.
    pub fn backing_len(&self, node: &str) -> Option<u64> {
        let graph = self.snapshot();
        Cx { graph: &graph, node: graph.by_name(node)? }.cow_child().map(|c| c.len())
    }

    /// Whether an image that was just made and is this node reads as zeroes all over: it stands in plain files, which are empty
    /// when they are made.
    pub fn fresh_files_are_zero(&self, node: &str) -> bool {
        let graph = self.snapshot();
        let Some(node) = graph.by_name(node) else { return false };
        let mut todo = vec![node];
        while let Some(n) = todo.pop() {
            let mut below = n.edges.iter().filter(|e| !e.role.contains(Role::COW)).peekable();
            if below.peek().is_none() && n.ty.name != "file" {
                return false;
            }
            todo.extend(below.filter_map(|e| graph.node(e.child)));
        }
        true
    }

    async fn do_internal_snapshot(
        &self,
        device: &str,
        op: &SnapshotOp,
    ) -> Result<Option<SnapshotInfo>, QError> {
        let about = find(&self.snapshot(), device, device)?.id;
        self.sound(&[about]).await;
        let _one = self.changing.lock().await;
        let mut txn = Txn::new(self);
        let base = txn.base.clone();
        let node = find(&base, device, device)?;
        if !node.writable() {
            return Err(qerr!("Device '{device}' is read only"));
        }
        txn.drain(&[node.id]).await;
        let cx = Cx { graph: &base, node };
        cx.node_flush().await.map_err(|e| qerr!("Error flushing drive: {e}"))?;
        let cx = snapshot_holder(cx);
        let done = cx.driver().map_err(|e| qerr!("{e}"))?.internal_snapshot(&cx, op).await;
        // Whatever was written is to be stable, and may have changed the length.
        let flushed = cx.flush_children().await.map_err(|e| qerr!("Error flushing drive: {e}"));
        let done = done.and_then(|done| flushed.map(|()| done));
        if matches!(op, SnapshotOp::Apply { .. }) {
            node.live.dirtied(0, u64::MAX);
            node.live.bitmaps.resize(cx.len());
            base.resized(node.id);
        }
        done
    }
}

/// The node that holds the snapshots of a node: itself, or the one whose bytes it shows.
pub(crate) fn snapshot_holder(cx: Cx<'_>) -> Cx<'_> {
    let mut at = cx;
    while at.driver().is_ok_and(|d| !d.has_internal_snapshots()) {
        let mut holding =
            at.node.edges.iter().filter(|e| e.role.intersects(Role::DATA | Role::METADATA | Role::FILTERED));
        let (Some(only), None) = (holding.next(), holding.next()) else { return cx };
        let Ok(child) = at.child(only.slot) else { return cx };
        at = child;
    }
    at
}

/// Registers the commands.
pub(crate) fn register(table: &mut CommandTable, graph: &Arc<BlockGraph>) {
    table.event::<BlockImageCorruptedEvent>();
    let g = graph.clone();
    table.register(move |c: BlockResize| {
        let g = g.clone();
        async move {
            let size = u64::try_from(c.size).map_err(|_| qerr!("Parameter 'size' expects a >0 size"))?;
            let (device, node) = (c.device.unwrap_or_default(), c.node_name.unwrap_or_default());
            g.resize(&device, &node, size, Prealloc::Off).await
        }
    });
    let g = graph.clone();
    table.register(move |c: BlockdevSnapshotInternalSync| {
        let g = g.clone();
        async move { g.transact(vec![Box::new(InternalSnapshot::new(c))]).await }
    });
    let g = graph.clone();
    table.register(move |c: BlockdevSnapshotDeleteInternalSync| {
        let g = g.clone();
        async move {
            if c.id.is_none() && c.name.is_none() {
                return Err(qerr!("Name or id must be provided"));
            }
            let op = SnapshotOp::Delete { id: c.id.clone(), name: c.name.clone() };
            let gone = g.internal_snapshot(&c.device, op).await?;
            let show = |v: &Option<String>| v.clone().unwrap_or_else(|| "null".into());
            gone.ok_or_else(|| {
                qerr!(
                    "Snapshot with id '{}' and name '{}' does not exist on device '{}'",
                    show(&c.id),
                    show(&c.name),
                    c.device
                )
            })
        }
    });
}
