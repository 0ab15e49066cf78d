//! `blockdev-snapshot-sync`: an overlay whose image is made, or opened, in the same step.

use api::block_core::{BlockdevDriver, BlockdevSnapshotSync, NewImageMode};
use block::driver::{CtlFuture, Kind};
use block::job::Change;
use block::transaction::Action;
use block::{Graph, NodeId};
use image::create::{NewImage, qcow2_defaults};
use qapi::{Dict, QError, QapiEnum, qerr};

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
        let format = c.format.as_deref().unwrap_or("qcow2");
        if c.mode.unwrap_or_default() == NewImageMode::AbsolutePaths {
            let image = new_image(change, old, format)?;
            image::create::create(&c.snapshot_file, &image).await?;
        }
        let overlay = change.open(options(change, old, c, format).await?).await?;
        // Without users the image would go again at once.
        if !change.is_used(old) {
            change.keep(overlay);
        }
        change.put_overlay(old, overlay)
    }
}

/// The image to be made: empty, as long as the node, with the node as its backing file.
fn new_image(change: &Change<'_, '_>, old: NodeId, format: &str) -> Result<NewImage, QError> {
    if BlockdevDriver::from_str(format).is_none() {
        return Err(qerr!("Unknown file format '{format}'"));
    }
    match format {
        "qcow2" => {}
        "raw" | "file" | "host_device" => {
            return Err(qerr!("Backing file not supported for file format '{format}'"));
        }
        _ => return Err(qerr!("Format driver '{format}' does not support image creation")),
    }
    let info = change.image_info(old).ok_or_else(|| qerr!("The node has gone"))?;
    let size = u64::try_from(info.base.virtual_size).unwrap_or(0);
    let mut image = qcow2_defaults(size);
    image.backing_fmt = BlockdevDriver::from_str(&info.base.format);
    image.backing_file = Some(info.base.filename);
    Ok(NewImage::Qcow2(Box::new(image)))
}

/// The options of the overlay's node: what concerns requests is as for the old one.
async fn options(
    change: &Change<'_, '_>,
    old: NodeId,
    c: &BlockdevSnapshotSync,
    format: &str,
) -> Result<Dict, QError> {
    let graph = change.graph();
    let flags = graph.node(old).map(|n| n.flags).unwrap_or_default();
    let ty = change.driver_type(format)?;
    let path = c.snapshot_file.strip_prefix("file:").unwrap_or(&c.snapshot_file);
    let mut file = Dict::new();
    file.insert("driver", block::probe::protocol_of(path.to_owned()).await);
    file.insert("filename", path);
    let mut dict = Dict::new();
    dict.insert("driver", format);
    if let Some(n) = &c.snapshot_node_name {
        dict.insert("node-name", n.as_str());
    }
    let mut cache = Dict::new();
    cache.insert("direct", flags.direct);
    cache.insert("no-flush", flags.no_flush);
    dict.insert("cache", cache);
    dict.insert("auto-read-only", flags.auto_read_only);
    dict.insert("discard", if flags.unmap { "unmap" } else { "ignore" });
    if ty.kind == Kind::Protocol {
        dict.insert("filename", path);
    } else {
        dict.insert("file", file);
    }
    if ty.supports_backing {
        dict.insert("backing", qapi::Value::Null);
    }
    Ok(dict)
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
