//! The commands on dirty bitmaps.

use super::BitmapSource;
use crate::control::BlockGraph;
use api::block_core::{
    BlockDirtyBitmapAdd, BlockDirtyBitmapClear, BlockDirtyBitmapDisable, BlockDirtyBitmapEnable,
    BlockDirtyBitmapMerge, BlockDirtyBitmapOrStr, BlockDirtyBitmapRemove, BlockDirtyBitmapSha256,
    XDebugBlockDirtyBitmapSha256,
};
use monitor::CommandTable;
use qapi::QError;
use std::sync::Arc;

/// Registers the commands.
pub fn register(table: &mut CommandTable, graph: &Arc<BlockGraph>) {
    let g = graph.clone();
    table.register(move |c: BlockDirtyBitmapAdd| {
        let g = g.clone();
        async move {
            let (persistent, disabled) = (c.persistent.unwrap_or(false), c.disabled.unwrap_or(false));
            g.bitmap_add(&c.node, &c.name, c.granularity, persistent, disabled).await
        }
    });
    let g = graph.clone();
    table.register(move |c: BlockDirtyBitmapRemove| {
        let g = g.clone();
        async move { g.bitmap_remove(&c.0.node, &c.0.name).await }
    });
    let g = graph.clone();
    table.register(move |c: BlockDirtyBitmapClear| {
        let g = g.clone();
        async move { g.bitmap_clear(&c.0.node, &c.0.name).await }
    });
    let g = graph.clone();
    table.register(move |c: BlockDirtyBitmapEnable| {
        let g = g.clone();
        async move { g.bitmap_enable(&c.0.node, &c.0.name, true).await }
    });
    let g = graph.clone();
    table.register(move |c: BlockDirtyBitmapDisable| {
        let g = g.clone();
        async move { g.bitmap_enable(&c.0.node, &c.0.name, false).await }
    });
    let g = graph.clone();
    table.register(move |c: BlockDirtyBitmapMerge| {
        let g = g.clone();
        async move {
            let sources: Vec<BitmapSource> = c.bitmaps.into_iter().map(source).collect();
            g.bitmap_merge(&c.node, &c.target, &sources).await
        }
    });
    let g = graph.clone();
    table.register(move |c: XDebugBlockDirtyBitmapSha256| {
        let sum = g.bitmap_sha256(&c.0.node, &c.0.name);
        async move { Ok::<_, QError>(BlockDirtyBitmapSha256 { sha256: sum? }) }
    });
}

/// The bitmap that an entry of a merge's list names.
pub fn source(s: BlockDirtyBitmapOrStr) -> BitmapSource {
    match s {
        BlockDirtyBitmapOrStr::Local(name) => BitmapSource { node: None, name },
        BlockDirtyBitmapOrStr::External(b) => BitmapSource { node: Some(b.node), name: b.name },
    }
}
