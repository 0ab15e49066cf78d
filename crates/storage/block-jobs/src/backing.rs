//! `change-backing-file`: what an image's header says of its backing file.

use crate::commit::chain;
use crate::setup::{find, find_node, is_root};
use api::block_core::ChangeBackingFile;
use block::driver::{BackingHint, Kind};
use block::job::Jobs;
use qapi::{QError, qerr};
use std::sync::Arc;

/// Writes another name into the header; the graph stays as it is.
pub async fn change_backing_file(jobs: &Arc<Jobs>, c: ChangeBackingFile) -> Result<(), QError> {
    let graph = jobs.graph();
    let g = graph.snapshot();
    let top = find(&g, &c.device)?.id;
    let image = find_node(&g, &c.image_node_name)?;
    is_root(&g, top)?;
    let Some(backing) = g.cow_child(image.id).and_then(|b| g.node(b)) else {
        return Err(qerr!("not allowing backing file change on an image without a backing file"));
    };
    if !chain(&g, top).contains(&image.id) {
        return Err(qerr!("'{}' and image file are not in the same chain", c.device));
    }
    g.no_job_on(image.id)?;
    let format = if backing.ty.kind == Kind::Protocol { "raw" } else { backing.ty.name };
    let name = c.backing_file;
    let hint = (!name.is_empty()).then(|| BackingHint { filename: name, format: Some(format.to_owned()) });
    graph.write_backing_hint(image.id, hint).await
}
