//! The commands of the block layer, for QMP and for the human monitor.

use crate::control::BlockGraph;
use api::block_core::{
    BlockDeviceInfo, BlockDeviceIoStatus, BlockInfo, BlockdevAdd, BlockdevDel, BlockdevDetectZeroesOptions,
    BlockdevReopen, ImageInfo, ImageInfoSpecific, QueryBlock, QueryNamedBlockNodes,
};
use base::units::human_size;
use monitor::{CommandTable, HmpTable};
use qapi::{QapiEnum, Value, to_value};
use std::fmt::Write as _;
use std::sync::Arc;

/// Registers the commands about devices of a machine, which a program without one does not have. `interface`: what a drive is
/// for whose options do not say it.
pub fn register_devices(
    table: &mut CommandTable,
    hmp: &mut HmpTable,
    graph: &Arc<BlockGraph>,
    interface: &'static str,
) {
    crate::hotplug::register(hmp, graph, interface);
    crate::media::register(table, graph);
    crate::brake::register(table, graph);
    crate::query_stats::register_devices(table, graph);
}

/// Registers the commands.
pub fn register(table: &mut CommandTable, hmp: &mut HmpTable, graph: &Arc<BlockGraph>) {
    crate::bitmap::qmp::register(table, graph);
    crate::resize::register(table, graph);
    crate::nodeops::register(table, graph);
    crate::lists::register(table, graph);
    crate::query_stats::register(table, graph);
    let g = graph.clone();
    table.register(move |c: BlockdevAdd| {
        let g = g.clone();
        async move { g.add(c.0).await }
    });
    let g = graph.clone();
    table.register(move |c: BlockdevDel| {
        let g = g.clone();
        async move { g.del(&c.node_name).await }
    });
    let g = graph.clone();
    table.register(move |c: BlockdevReopen| {
        let g = g.clone();
        async move { g.reopen(c.options).await }
    });
    let g = graph.clone();
    table.register(move |c: QueryNamedBlockNodes| {
        let nodes = g.query_named_block_nodes(c.flat.unwrap_or(false));
        async move { Ok(nodes) }
    });
    let g = graph.clone();
    table.register(move |_: QueryBlock| {
        let devices = g.query_block();
        async move { Ok(devices) }
    });
    let g = graph.clone();
    hmp.register(
        "info block",
        "[-n] [-v] [device]",
        "show info of one block device or all block devices (-n: show named nodes; -v: show details)",
        move |a| {
            let text = info_block(&g, a.flag('n'), a.flag('v'), a.get("device"));
            async move { text }
        },
    );
    let g = graph.clone();
    hmp.register("info block-graph", "", "show the block graph as a drawing", move |_| {
        let text = g.describe();
        async move { text }
    });
}

/// The text of `info block`.
pub fn info_block(graph: &BlockGraph, nodes: bool, verbose: bool, device: Option<&str>) -> String {
    let mut out = String::new();
    let devices = graph.query_block();
    // A name that no device has may be a node's.
    let nodes = nodes || device.is_some_and(|d| !devices.iter().any(|b| b.device == d));
    let mut entry = |first: bool, name: &str, show: &dyn Fn(&mut String)| {
        if device.is_none_or(|d| d == name) {
            // The blank line stands between entries of the whole list, shown or not.
            if !first {
                out.push('\n');
            }
            show(&mut out);
        }
    };
    if nodes {
        for (i, n) in graph.query_named_block_nodes(false).iter().enumerate() {
            let name = n.node_name.as_deref().unwrap_or("");
            entry(i == 0, name, &|out| device_text(out, None, Some(n), verbose));
        }
    } else {
        for (i, b) in devices.iter().enumerate() {
            entry(i == 0, &b.device, &|out| device_text(out, Some(b), b.inserted.as_ref(), verbose));
        }
    }
    out
}

// Writing to a String cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => { let _ = writeln!($out, $($arg)*); };
}

fn device_text(out: &mut String, info: Option<&BlockInfo>, node: Option<&BlockDeviceInfo>, verbose: bool) {
    let name = node.and_then(|n| n.node_name.as_deref()).unwrap_or("");
    let device = info.map_or("", |i| i.device.as_str());
    match (device.is_empty(), name.is_empty()) {
        (false, false) => out.push_str(&format!("{device} ({name})")),
        (false, true) => out.push_str(device),
        (true, false) => out.push_str(name),
        (true, true) => {
            out.push_str(info.and_then(|i| i.qdev.as_deref()).unwrap_or("<anonymous>"));
        }
    }
    match node {
        Some(n) => {
            let ro = if n.ro { ", read-only" } else { "" };
            let enc = if n.encrypted { ", encrypted" } else { "" };
            put!(out, ": {} ({}{ro}{enc})", n.file, n.drv);
        }
        None => out.push_str(": [not inserted]\n"),
    }
    if let Some(i) = info {
        if let Some(q) = &i.qdev {
            put!(out, "    Attached to:      {q}");
        }
        if let Some(s) = i.io_status.filter(|s| *s != BlockDeviceIoStatus::Ok) {
            put!(out, "    I/O status:       {}", s.as_str());
        }
        if i.removable {
            let locked = if i.locked { "" } else { "not " };
            let tray = if i.tray_open == Some(true) { "open" } else { "closed" };
            put!(out, "    Removable device: {locked}locked, tray {tray}");
        }
    }
    let Some(n) = node else { return };
    let mode = if n.cache.writeback { "writeback" } else { "writethrough" };
    let direct = if n.cache.direct { ", direct" } else { "" };
    let no_flush = if n.cache.no_flush { ", ignore flushes" } else { "" };
    put!(out, "    Cache mode:       {mode}{direct}{no_flush}");
    if let Some(b) = &n.backing_file {
        put!(out, "    Backing file:     {b} (chain depth: {})", n.backing_file_depth);
    }
    if n.detect_zeroes != BlockdevDetectZeroesOptions::Off {
        put!(out, "    Detect zeroes:    {}", n.detect_zeroes.as_str());
    }
    if verbose {
        out.push_str("\nImages:\n");
        let mut image = Some(&n.image);
        while let Some(i) = image {
            image_text(out, i);
            image = i.backing_image.as_deref();
        }
    }
}

fn image_text(out: &mut String, image: &ImageInfo) {
    let i = &image.base;
    let size = |v: i64| human_size(u64::try_from(v).unwrap_or(0));
    put!(out, "image: {}", i.filename);
    put!(out, "file format: {}", i.format);
    put!(out, "virtual size: {} ({} bytes)", size(i.virtual_size), i.virtual_size);
    put!(out, "disk size: {}", i.actual_size.map_or("unavailable".into(), size));
    if i.encrypted == Some(true) {
        out.push_str("encrypted: yes\n");
    }
    if let Some(c) = i.cluster_size {
        put!(out, "cluster_size: {c}");
    }
    if i.dirty_flag == Some(true) {
        out.push_str("cleanly shut down: no\n");
    }
    if let Some(b) = &i.backing_filename {
        match i.full_backing_filename.as_ref().filter(|f| *f != b) {
            Some(full) => put_line(out, &format!("backing file: {b} (actual path: {full})")),
            None => put_line(out, &format!("backing file: {b}")),
        }
        if let Some(f) = &i.backing_filename_format {
            put!(out, "backing file format: {f}");
        }
    }
    if let Some(s) = &i.format_specific {
        specific_text(out, s);
    }
}

fn put_line(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

fn specific_text(out: &mut String, specific: &ImageInfoSpecific) {
    let value = to_value(specific);
    let Some(data) = value.get("data").and_then(Value::as_dict) else { return };
    if data.is_empty() {
        return;
    }
    out.push_str("Format specific information:\n");
    dict_text(out, data, 1);
}

/// The order in which people are used to see the members; others follow.
const SHOWN_FIRST: [&str; 6] =
    ["compat", "compression-type", "lazy-refcounts", "refcount-bits", "corrupt", "extended-l2"];

/// A dictionary as indented lines; dashes in keys are shown as blanks.
fn dict_text(out: &mut String, dict: &qapi::Dict, depth: usize) {
    let mut members: Vec<_> = dict.iter().collect();
    members.sort_by_key(|(k, _)| SHOWN_FIRST.iter().position(|s| s == k).unwrap_or(SHOWN_FIRST.len()));
    for (key, value) in members {
        let key = key.replace('-', " ");
        let _ = write!(out, "{:w$}{key}:", "", w = depth * 4);
        value_text(out, value, depth);
    }
}

fn value_text(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Dict(d) => {
            out.push('\n');
            dict_text(out, d, depth + 1);
        }
        Value::List(l) => {
            out.push('\n');
            for (i, v) in l.iter().enumerate() {
                let _ = write!(out, "{:w$}[{i}]:", "", w = (depth + 1) * 4);
                value_text(out, v, depth + 1);
            }
        }
        Value::Str(s) => put_line(out, &format!(" {s}")),
        other => put_line(out, &format!(" {}", other.to_json())),
    }
}
