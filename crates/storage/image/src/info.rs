//! What there is to know about an image.

use api::block_core::{BlockChildInfo, BlockGraphInfo, ImageInfoSpecific, SnapshotInfo};
use base::units::human_size;
use block::{BlockGraph, NodeId, Policy};
use qapi::order::by_rank;
use qapi::{QError, Value, qerr};
use std::collections::HashSet;

use crate::open::{OpenFlags, Source, open};

/// Longest chain of backing files that is followed.
const MAX_CHAIN: usize = 1000;

/// Describes an image, and with `chain` all those behind it. Errors say which image it was.
pub async fn info(source: &Source, flags: OpenFlags, chain: bool) -> Result<Vec<BlockGraphInfo>, QError> {
    let flags = OpenFlags { no_io: true, ..flags };
    let allowed = Policy::of_environment()?;
    let mut list: Vec<BlockGraphInfo> = Vec::new();
    let mut seen = HashSet::new();
    let mut next = Some(source.clone());
    while let Some(s) = next.take() {
        if !seen.insert(s.name.clone()) || list.len() >= MAX_CHAIN {
            return Err(qerr!("Backing file '{}' creates an infinite loop.", s.name));
        }
        let context = format!("Could not open '{}'", s.name);
        let image = open(&s, flags).await.map_err(|e| e.prepend(&context))?;
        let mut one = image
            .graph
            .snapshot()
            .by_name(&image.node)
            .and_then(|n| describe(&image.graph, n.id, 0))
            .ok_or_else(|| qerr!("{context}"))?;
        if !crate::open::is_described(&s) {
            name(&mut one.base.filename, &s.name);
        }
        image.close().await;
        if chain && let Some(name) = &one.base.backing_filename {
            allowed.check_name(name).map_err(|e| e.prepend(&format!("Could not open '{name}'")))?;
            let full = one.base.full_backing_filename.clone().unwrap_or_else(|| name.clone());
            next = Some(Source {
                name: full,
                format: one.base.backing_filename_format.clone(),
                image_opts: false,
                objects: source.objects.clone(),
            });
        }
        list.push(one);
    }
    Ok(list)
}

/// What an image is called: what the user called it, if that is a path; else what its protocol calls it.
fn name(filename: &mut String, given: &str) {
    match block::filename::prefix(given) {
        Some("file") => *filename = block::filename::plain(given.strip_prefix("file:").unwrap_or(given)),
        Some(_) if !filename.is_empty() && !filename.starts_with("json:") => {}
        // No name says all of it.
        Some("rbd") => {}
        _ => given.clone_into(filename),
    }
}

fn describe(graph: &BlockGraph, id: NodeId, depth: usize) -> Option<BlockGraphInfo> {
    let snapshot = graph.snapshot();
    let node = snapshot.node(id)?;
    let info = graph.image_info(&node.name)?;
    let children = if depth > 64 {
        Vec::new()
    } else {
        // The youngest first.
        node.edges
            .iter()
            .rev()
            .filter_map(|e| {
                Some(BlockChildInfo { name: e.name.to_string(), info: describe(graph, e.child, depth + 1)? })
            })
            .collect()
    };
    Some(BlockGraphInfo { base: info.base, children })
}

/// One image as JSON text, or a list where a chain was asked for.
pub fn json(list: &[BlockGraphInfo], chain: bool) -> String {
    let mut values: Vec<Value> = list.iter().map(qapi::to_value).collect();
    let value = if chain { Value::List(values) } else { values.pop().unwrap_or(Value::Null) };
    value.to_json_ranked(true) + "\n"
}

/// Images as people read them.
pub fn human(list: &[BlockGraphInfo]) -> String {
    let each: Vec<String> = list.iter().map(|i| node(i, 0, "", false)).collect();
    each.join("\n")
}

fn node(i: &BlockGraphInfo, depth: usize, path: &str, protocol: bool) -> String {
    let pad = "    ".repeat(depth);
    let b = &i.base;
    let mut s = String::new();
    let mut line = |text: String| {
        s.push_str(&pad);
        s.push_str(&text);
        s.push('\n');
    };
    let (name, format, length) = if protocol {
        ("filename", "protocol type", "file length")
    } else {
        ("image", "file format", "virtual size")
    };
    line(format!("{name}: {}", b.filename));
    line(format!("{format}: {}", b.format));
    line(format!("{length}: {} ({} bytes)", human_size(b.virtual_size as u64), b.virtual_size));
    line(match b.actual_size {
        Some(n) => format!("disk size: {}", human_size(n as u64)),
        None => "disk size: unavailable".into(),
    });
    if b.encrypted == Some(true) {
        line("encrypted: yes".into());
    }
    if let Some(n) = b.cluster_size {
        line(format!("cluster_size: {n}"));
    }
    if b.dirty_flag == Some(true) {
        line("cleanly shut down: no".into());
    }
    if let Some(name) = &b.backing_filename {
        match &b.full_backing_filename {
            Some(full) if full != name => line(format!("backing file: {name} (actual path: {full})")),
            None => line(format!("backing file: {name} (cannot determine actual path)")),
            _ => line(format!("backing file: {name}")),
        }
        if let Some(f) = &b.backing_filename_format {
            line(format!("backing file format: {f}"));
        }
    }
    if let Some(list) = &b.snapshots {
        snapshot_list(list).lines().for_each(|l| line(l.to_owned()));
    }
    if let Some(x) = &b.format_specific {
        let mut text = String::new();
        specific(&mut text, x, depth + 1);
        if !text.is_empty() {
            line("Format specific information:".into());
            s.push_str(&text);
        }
    }
    for c in &i.children {
        let path = format!("{path}/{}", c.name);
        s.push_str(&format!("{pad}Child node '{path}':\n"));
        s.push_str(&node(&c.info, depth + 1, &path, c.info.children.is_empty()));
    }
    s
}

/// What only the format has, as people read it, with its heading; nothing where there is nothing.
pub(crate) fn specific_text(x: &ImageInfoSpecific, depth: usize) -> String {
    let mut text = String::new();
    specific(&mut text, x, depth + 1);
    if !text.is_empty() {
        text.insert_str(0, &format!("{}Format specific information:\n", "    ".repeat(depth)));
    }
    text
}

/// What only the format has, as the schema orders it.
fn specific(out: &mut String, x: &ImageInfoSpecific, depth: usize) {
    if let Value::Dict(mut d) = qapi::to_value(x)
        && let Some(data) = d.remove("data")
    {
        dump(out, &data, depth);
    }
}

fn dump(out: &mut String, v: &Value, depth: usize) {
    let pad = "    ".repeat(depth);
    let mut entry = |key: String, v: &Value| match v {
        Value::Dict(_) | Value::List(_) => {
            out.push_str(&format!("{pad}{key}:\n"));
            dump(out, v, depth + 1);
        }
        v => out.push_str(&format!("{pad}{key}: {}\n", scalar(v))),
    };
    match v {
        // Dashes of member names read as spaces.
        Value::Dict(d) => by_rank(d).into_iter().for_each(|(k, v)| entry(k.replace('-', " "), v)),
        Value::List(l) => l.iter().enumerate().for_each(|(i, v)| entry(format!("[{i}]"), v)),
        _ => {}
    }
}

fn scalar(v: &Value) -> String {
    match v {
        Value::Str(s) => s.clone(),
        v => v.to_json(),
    }
}

/// A table of snapshots.
pub fn snapshot_list(list: &[SnapshotInfo]) -> String {
    let mut s = String::from("Snapshot list:\n");
    s.push_str(&format!(
        "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}\n",
        "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"
    ));
    for x in list {
        s.push_str(&snapshot(x));
        s.push('\n');
    }
    s
}

fn snapshot(x: &SnapshotInfo) -> String {
    let clock = x.vm_clock_sec;
    let time = format!(
        "{:04}:{:02}:{:02}.{:03}",
        clock / 3600,
        clock / 60 % 60,
        clock % 60,
        x.vm_clock_nsec / 1_000_000
    );
    let icount = x.icount.map_or_else(|| "--".to_string(), |n| n.to_string());
    format!(
        "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}",
        x.id,
        x.name,
        human_size(x.vm_state_size as u64),
        date(x.date_sec),
        time,
        icount
    )
}

/// Local time as `YYYY-MM-DD hh:mm:ss`.
fn date(seconds: i64) -> String {
    crate::img::local_time(seconds)
}
