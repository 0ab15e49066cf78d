//! `query-blockstats` and `block-latency-histogram-set`.

use crate::control::BlockGraph;
use crate::driver::{ChildSlot, Cx, Kind};
use crate::graph::{Graph, RootDef};
use crate::perm::Role;
use crate::stats::{Access, Histogram};
use api::block_core::{BlockLatencyHistogramSet, BlockStats, QueryBlockstats};
use monitor::CommandTable;
use qapi::{ErrorClass, QError, qerr};
use std::sync::Arc;

/// Registers the commands.
pub(crate) fn register(table: &mut CommandTable, graph: &Arc<BlockGraph>) {
    let g = graph.clone();
    table.register(move |c: QueryBlockstats| {
        let stats = g.query_blockstats(c.query_nodes.unwrap_or(false));
        async move { Ok(stats) }
    });
}

/// Registers the command about devices.
pub(crate) fn register_devices(table: &mut CommandTable, graph: &Arc<BlockGraph>) {
    let g = graph.clone();
    table.register(move |c: BlockLatencyHistogramSet| std::future::ready(g.set_latency_histograms(&c)));
}

impl BlockGraph {
    /// What all block devices and drives have done, with the nodes below each; or what all nodes have.
    pub fn query_blockstats(&self, nodes: bool) -> Vec<BlockStats> {
        let graph = self.snapshot();
        if nodes {
            let mut all: Vec<_> = graph.nodes().collect();
            all.sort_by_key(|n| std::cmp::Reverse(n.born));
            return all.into_iter().map(|n| node_stats(Cx { graph: &graph, node: n }, false)).collect();
        }
        let shown = |r: &&Arc<RootDef>| !r.name.is_empty() || r.qdev.is_some();
        graph.roots().filter(shown).map(|r| device_stats(&graph, r)).collect()
    }
}

fn int(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}

fn device_stats(graph: &Arc<Graph>, r: &RootDef) -> BlockStats {
    let node = r.node.and_then(|n| graph.node(n));
    let mut below = node.map(|n| node_stats(visible(Cx { graph, node: n }), true)).unwrap_or_default();
    below.device = Some(r.name.clone());
    below.qdev = r.device().map(str::to_owned);
    let highest = below.stats.wr_highest_offset;
    below.stats = r.stats.info();
    below.stats.wr_highest_offset = highest;
    below
}

/// The node that users see in the place of one that a job put there.
fn visible(cx: Cx<'_>) -> Cx<'_> {
    let filtered = cx.node.edges.iter().find(|e| e.role.contains(Role::FILTERED));
    match filtered.filter(|_| cx.node.implicit).and_then(|e| cx.child(e.slot).ok()) {
        Some(child) => visible(child),
        None => cx,
    }
}

/// What a node and those below it did; `chain`: those behind the image too.
fn node_stats(cx: Cx<'_>, chain: bool) -> BlockStats {
    let filtered = cx.node.edges.iter().find(|e| e.role.contains(Role::FILTERED)).map(|e| e.slot);
    let backing = cx.has_child(ChildSlot::Backing).then_some(ChildSlot::Backing);
    // A filter's node stands in both places, as in the reference.
    let behind = if cx.node.ty.kind == Kind::Filter { filtered } else { backing };
    let parent = cx.node.primary().map(|e| e.slot);
    let below = |slot: Option<ChildSlot>| {
        let child = cx.child(slot?).ok()?;
        Some(Box::new(node_stats(if chain { visible(child) } else { child }, chain)))
    };
    let mut out = BlockStats {
        node_name: Some(cx.node_name().to_owned()),
        driver_specific: cx.driver().ok().and_then(|d| d.stats()),
        parent: below(parent),
        backing: below(behind.filter(|_| chain)),
        ..BlockStats::default()
    };
    out.stats.wr_highest_offset = int(cx.node.live.highest());
    out
}

impl BlockGraph {
    /// Has latencies of a device's requests counted in bins: all that is asked for or, where something is wrong, nothing.
    ///
    /// # Errors
    /// There is no such device; boundaries that are not ascending.
    pub fn set_latency_histograms(&self, c: &BlockLatencyHistogramSet) -> Result<(), QError> {
        set_histograms(&self.snapshot(), c)
    }
}

fn set_histograms(snapshot: &Graph, c: &BlockLatencyHistogramSet) -> Result<(), QError> {
    let root = snapshot.roots().find(|r| r.is_device(&c.id));
    let stats = match root {
        Some(r) => &r.stats,
        None => {
            let text = format!("Device '{}' not found", c.id);
            return Err(QError::with_class(ErrorClass::DeviceNotFound, text));
        }
    };
    let own = [&c.boundaries_read, &c.boundaries_write, &c.boundaries_zap, &c.boundaries_flush];
    let none = c.boundaries.is_none() && own.iter().all(|b| b.is_none());
    let kinds = [
        ("read", Access::Read),
        ("write", Access::Write),
        ("append write", Access::Append),
        ("flush", Access::Flush),
    ];
    // All are looked at before one is set.
    let mut new = Vec::new();
    for (own, (what, access)) in own.into_iter().zip(kinds) {
        match own.as_ref().or(c.boundaries.as_ref()) {
            Some(b) => {
                let fail = || qerr!("Device '{}' set {what} boundaries fail", c.id);
                new.push((access, Some(Histogram::new(b).ok_or_else(fail)?)));
            }
            None if none => new.push((access, None)),
            None => {}
        }
    }
    for (access, histogram) in new {
        stats.set_histogram(access, histogram);
    }
    Ok(())
}
