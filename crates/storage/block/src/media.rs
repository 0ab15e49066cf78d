//! Media of block devices. No device of this machine has a tray: those of a guest keep the medium that they began with,
//! and only a drive without a device can change its own.

use crate::control::{BlockGraph, Hurried};
use crate::drive::Drive;
use crate::graph::{NodeId, RootDef};
use crate::open::Place;
use crate::options::to_dict;
use crate::txn::Txn;
use api::block_core::{
    BlockdevChangeMedium, BlockdevChangeReadOnlyMode, BlockdevCloseTray, BlockdevInsertMedium,
    BlockdevOpenTray, BlockdevRemoveMedium, Eject,
};
use monitor::CommandTable;
use qapi::{ErrorClass, QError, qerr};
use std::sync::Arc;

/// The device that one of two names means, with the name.
pub(crate) fn device(
    graph: &BlockGraph,
    device: Option<&str>,
    id: Option<&str>,
) -> Result<(Arc<RootDef>, String), QError> {
    let g = graph.snapshot();
    let (found, name) = match (device, id) {
        (Some(d), None) => (g.drive(d).cloned(), d),
        (None, Some(i)) => (g.roots().find(|r| r.is_device(i)).cloned(), i),
        _ => return Err(qerr!("Need exactly one of 'device' and 'id'")),
    };
    let not_found = || QError::with_class(ErrorClass::DeviceNotFound, format!("Device '{name}' not found"));
    Ok((found.ok_or_else(not_found)?, name.to_owned()))
}

/// As [`device`], for what only devices with removable media can do.
fn removable(graph: &BlockGraph, given: Option<&str>, id: Option<&str>) -> Result<Arc<RootDef>, QError> {
    let (root, name) = device(graph, given, id)?;
    if root.qdev.is_some() { Err(qerr!("Device '{name}' is not removable")) } else { Ok(root) }
}

impl BlockGraph {
    /// Takes the medium out of a drive that no device uses, or puts another one in.
    async fn do_change_medium(&self, root: Arc<RootDef>, drive: Option<Drive>) -> Result<(), QError> {
        let mut txn = Txn::aside(self);
        let opened = self.open_medium(&mut txn, drive).await;
        self.sound(root.node.as_slice()).await;
        let (mut txn, joined, node) = txn.join(opened).await?;
        let Some(def) = txn.base.root(root.id).cloned() else {
            return joined.end(Err(qerr!("The drive has gone"))).await;
        };
        let closed = (def.gate.close(), Hurried::new(&txn.base, def.node));
        def.gate.idle().await;
        txn.next.roots.insert(def.id, Arc::new(RootDef { node, seq: self.next_id(), ..(*def).clone() }));
        let done = joined.end(self.settle(txn).await).await;
        drop(closed);
        done
    }

    async fn open_medium(&self, txn: &mut Txn<'_>, drive: Option<Drive>) -> Result<Option<NodeId>, QError> {
        let Some(drive) = drive else { return Ok(None) };
        let named = drive.named(self.drivers()).await?;
        let format = match (&drive.format, &named) {
            (Some(f), _) => f.clone(),
            (None, Some(named)) => txn.format_of(named).await?.0,
            (None, None) => "raw".into(),
        };
        self.driver_type(&format).map_err(|_| qerr!("Unknown driver '{format}'"))?;
        let options = drive.node_options(self.drivers(), &format, named).await?;
        txn.open(to_dict(&options), Place::top()).await.map(Some)
    }

    async fn change_medium(&self, root: Arc<RootDef>, drive: Option<Drive>) -> Result<(), QError> {
        self.run(|me| async move { me.do_change_medium(root, drive).await }).await
    }

    fn insert_medium(&self, c: &BlockdevInsertMedium) -> Result<(), QError> {
        device(self, None, Some(&c.id))?;
        let g = self.snapshot();
        let node = g.by_name(&c.node_name).ok_or_else(|| qerr!("Node '{}' not found", c.node_name))?;
        if g.roots().any(|r| r.node == Some(node.id)) {
            return Err(qerr!("Node '{}' is already in use", c.node_name));
        }
        removable(self, None, Some(&c.id)).map(drop).map_err(|_| qerr!("Device is not removable"))
    }

    async fn exchange_medium(&self, c: BlockdevChangeMedium) -> Result<(), QError> {
        let root = removable(self, c.device.as_deref(), c.id.as_deref())?;
        let read_only = match c.read_only_mode.unwrap_or_default() {
            BlockdevChangeReadOnlyMode::ReadOnly => true,
            BlockdevChangeReadOnlyMode::ReadWrite => false,
            BlockdevChangeReadOnlyMode::Retain => {
                let g = self.snapshot();
                root.node.and_then(|n| g.node(n)).is_some_and(|n| n.flags.read_only)
            }
        };
        let mut drive = Drive::parse(if read_only { "readonly=on" } else { "readonly=off" })?;
        (drive.file, drive.format) = (Some(c.filename), c.format);
        self.change_medium(root, Some(drive)).await
    }
}

/// Registers the commands.
pub(crate) fn register(table: &mut CommandTable, graph: &Arc<BlockGraph>) {
    let g = graph.clone();
    table.register(move |c: Eject| {
        let g = g.clone();
        async move {
            let root = removable(&g, c.device.as_deref(), c.id.as_deref())?;
            g.change_medium(root, None).await
        }
    });
    let g = graph.clone();
    table.register(move |c: BlockdevOpenTray| {
        // A drive without a device has no tray that could be closed.
        let done = removable(&g, c.device.as_deref(), c.id.as_deref()).map(drop);
        async move { done }
    });
    let g = graph.clone();
    table.register(move |c: BlockdevCloseTray| {
        let done = removable(&g, c.device.as_deref(), c.id.as_deref()).map(drop);
        async move { done }
    });
    let g = graph.clone();
    table.register(move |c: BlockdevRemoveMedium| {
        let done = removable(&g, None, Some(&c.id)).map(drop);
        async move { done }
    });
    let g = graph.clone();
    table.register(move |c: BlockdevInsertMedium| {
        let done = g.insert_medium(&c);
        async move { done }
    });
    let g = graph.clone();
    table.register(move |c: BlockdevChangeMedium| {
        let g = g.clone();
        async move { g.exchange_medium(c).await }
    });
}
