//! Commands about the open image: what it is, what is allocated, and how it is open.

use super::letters::letters;
use super::number::shown;
use super::opening::{self, Request};
use super::session::{Done, Image, Session};
use super::table::Words;
use crate::open::Cache;
use base::Errno;
use block::Root;
use qapi::{Dict, QError, Value, qerr};

/// The length that a question about allocation has where nothing is said.
const SECTOR: u64 = 512;

pub(super) async fn open(s: &mut Session, w: Words<'_>) -> Done {
    let l = match letters("snCro:ki:t:d:U", w.words) {
        Ok(l) => l,
        Err(e) => return s.wrong(&w, &e),
    };
    let mut request = Request::default();
    for (c, v) in &l.options {
        if let Err(e) = request.letter(*c, v) {
            return s.error(&e);
        }
        if *c == 'o' && s.image_opts {
            s.text.print("--image-opts and 'open -o' are mutually exclusive\n");
            return Done::Failed;
        }
        if *c == 'o'
            && let Err(e) = request.options(s, v)
        {
            return s.error_of(&e);
        }
    }
    match &l.rest[..] {
        [] => {}
        [description] if s.image_opts => {
            if let Err(e) = request.options(s, description) {
                return s.error_of(&e);
            }
        }
        [name] => request.name = Some(name.clone()),
        _ => return s.usage(w.command),
    }
    opening::open(s, request).await
}

pub(super) async fn close(s: &mut Session, _: Words<'_>) -> Done {
    s.close().await;
    Done::Well
}

pub(super) async fn length(s: &mut Session, _: Words<'_>) -> Done {
    let Ok(root) = s.root() else { return Done::Failed };
    if !root.has_medium() {
        return s.fail(&format!("getlength: {}", Errno::NOMEDIUM));
    }
    s.text.line(&shown(root.len() as f64));
    Done::Well
}

pub(super) async fn info(s: &mut Session, _: Words<'_>) -> Done {
    let Some(i) = &s.image else { return Done::Failed };
    let snapshot = i.graph.snapshot();
    let Some(node) = snapshot.by_name(&i.node) else {
        return s.error(&format!("{}", Errno::NOMEDIUM));
    };
    let mut text = format!("format name: {}\n", node.ty.name);
    if node.ty.kind == block::driver::Kind::Protocol {
        text.push_str(&format!("format name: {}\n", node.ty.name));
    }
    let info = i.root.info();
    // A format that keeps its clusters to itself has nothing to tell.
    if !tells_clusters(&snapshot, node) {
        s.text.print(&text);
        return Done::Failed;
    }
    text.push_str(&format!("cluster size: {}\n", shown(info.cluster_size.unwrap_or(0) as f64)));
    text.push_str(&format!("vm state offset: {}\n", shown(info.vm_state_offset.unwrap_or(0) as f64)));
    if let Some(x) = &info.format_specific {
        text.push_str(&crate::info::specific_text(x, 0));
    }
    s.text.print(&text);
    Done::Well
}

/// Whether a node knows of clusters: filters and `raw` know what the node below does.
fn tells_clusters(graph: &block::Graph, node: &block::Node) -> bool {
    match node.ty.name {
        "raw" | "blkdebug" => {}
        _ if node.ty.kind == block::driver::Kind::Filter => {}
        name => {
            let silent =
                ["parallels", "null-co", "null-aio", "nbd", "bochs", "cloop", "dmg", "vvfat", "quorum"];
            return !silent.contains(&name) && !["blkverify", "http", "https", "ssh"].contains(&name);
        }
    }
    node.primary().and_then(|e| graph.node(e.child)).is_none_or(|below| tells_clusters(graph, below))
}

/// Whether the image itself holds the bytes from `at` on, and for how many that is so.
async fn allocated(root: &Root, at: u64, len: u64) -> base::IoResult<(bool, u64)> {
    let st = root.map(at, len).await?;
    Ok(((st.allocated || st.compressed) && st.depth == 0, st.len.min(len)))
}

pub(super) async fn map(s: &mut Session, _: Words<'_>) -> Done {
    let Ok(root) = s.root() else { return Done::Failed };
    if !root.has_medium() {
        return s.error(&format!("Failed to query image length: {}", Errno::NOMEDIUM));
    }
    let (mut at, end) = (0, root.len());
    while at < end {
        let mut run = 0;
        let mut kind = None;
        while at + run < end {
            match allocated(&root, at + run, end - at - run).await {
                Ok((_, 0)) => break,
                Ok((is, n)) if kind.is_none_or(|k| k == is) => {
                    kind = Some(is);
                    run += n;
                }
                Ok(_) => break,
                Err(e) => return s.error(&format!("Failed to get allocation status: {e}")),
            }
        }
        let Some(is) = kind else {
            return s.error("Unexpected end of image");
        };
        let is = if is { "    allocated" } else { "not allocated" };
        let (len, offset) = (shown(run as f64), shown(at as f64));
        s.text.line(&format!("{len} ({run:#x}) bytes {is} at offset {offset} ({at:#x})"));
        at += run;
    }
    Done::Well
}

pub(super) async fn alloc(s: &mut Session, w: Words<'_>) -> Done {
    alloc_inner(s, w).await.unwrap_or_else(|failed| failed)
}

async fn alloc_inner(s: &Session, w: Words<'_>) -> Result<Done, Done> {
    let root = s.root()?;
    let start = s.size(&w.words[0])?;
    let count = w.words.get(1).map_or(Ok(SECTOR), |t| s.size(t))?;
    if !root.has_medium() {
        return Err(s.fail(&format!("is_allocated failed: {}", Errno::NOMEDIUM)));
    }
    let end = start.saturating_add(count).min(root.len());
    let (mut at, mut sum) = (start, 0);
    while at < end {
        let (is, n) =
            allocated(&root, at, end - at).await.map_err(|e| s.fail(&format!("is_allocated failed: {e}")))?;
        if n == 0 {
            break;
        }
        sum += if is { n } else { 0 };
        at += n;
    }
    s.text.line(&format!("{sum}/{} bytes allocated at offset {}", at - start, shown(start as f64)));
    Ok(Done::Well)
}

pub(super) async fn reopen(s: &mut Session, w: Words<'_>) -> Done {
    let l = match letters("c:o:rw", w.words) {
        Ok(l) => l,
        Err(e) => return s.wrong(&w, &e),
    };
    if !l.rest.is_empty() {
        return s.usage(w.command);
    }
    let (mut cache, mut write, mut given) = (None, None, Dict::new());
    for (c, v) in &l.options {
        match c {
            'c' => match Cache::parse(v) {
                Some(c) => cache = Some(c),
                None => return s.error(&format!("Invalid cache option: {v}")),
            },
            'o' => {
                for (k, v) in opening::pairs(s, v) {
                    if let Err(e) = opening::enter(&mut given, &k, v) {
                        return s.error_of(&e);
                    }
                }
            }
            _ if write.is_some() => return s.error("Only one -r/-w option may be given"),
            c => write = Some(*c == 'w'),
        }
    }
    match change(s, cache, write, given).await {
        Ok(()) => Done::Well,
        Err(e) => s.error_of(&e),
    }
}

async fn change(
    s: &mut Session,
    cache: Option<Cache>,
    write: Option<bool>,
    mut given: Dict,
) -> Result<(), QError> {
    super::debug::release(s);
    s.background.idle().await;
    let borrowed = s.borrowed();
    let Some(i) = &mut s.image else { return Err(qerr!("no file open")) };
    if !i.root.has_medium() {
        return Err(qerr!("No medium inserted"));
    }
    if write.is_some() && given.contains_key("read-only") {
        return Err(qerr!("Cannot set both -r/-w and 'read-only'"));
    }
    let cached = given.get("cache").is_some_and(|c| c.get("direct").or(c.get("no-flush")).is_some());
    if cache.is_some() && cached {
        return Err(qerr!("Cannot set both -c and the cache options"));
    }
    if let Some(w) = write {
        given.insert("read-only", if w { "off" } else { "on" });
    }
    if let Some(c) = cache {
        for (name, on) in [("cache.direct", c.direct), ("cache.no-flush", c.no_flush)] {
            block::create::put(&mut given, name, Value::from(if on { "on" } else { "off" }));
        }
    }
    let options = whole(i, given).await?;
    let was = !i.root.read_only();
    let now_writing = write.unwrap_or(was);
    let next = cache.unwrap_or(i.cache);
    if borrowed {
        // The user is a guest's device, say: it stays as it is, and the change must suit it.
        let through = i.graph.snapshot().root(i.root.id()).is_some_and(|r| !r.writeback);
        if cache.is_some_and(|c| c.write_through != through) {
            return Err(qerr!("Cannot change cache.writeback: Device attached"));
        }
        return i.graph.reopen(vec![options]).await;
    }
    if write.is_none() && next == i.cache {
        return i.graph.reopen(vec![options]).await;
    }
    // Its user must not be in the way of the change.
    i.root.detach().await;
    let done = i.graph.reopen(vec![options]).await;
    let (writes, cache) = if done.is_ok() { (now_writing, next) } else { (was, i.cache) };
    i.root = Image::attach(&i.graph, &i.node, writes, true, cache, "qemu-io").await?;
    i.cache = cache;
    done
}

/// Of the options that an image of qcow2 has, `all`, those are given up that what is given now replaces by other names.
fn join_qcow2(all: &mut Dict, given: &mut Dict) {
    const SIZES: [&str; 3] = ["cache-size", "l2-cache-size", "refcount-cache-size"];
    if SIZES.iter().any(|s| given.contains_key(s)) {
        SIZES.iter().for_each(|s| drop(all.remove(s)));
    }
    const CHECK: &str = "overlap-check";
    if !given.contains_key(CHECK) {
        return;
    }
    // A word alone is the template of what is not said one by one.
    for options in [all, given] {
        if let Some(Value::Str(template)) = options.get(CHECK).cloned() {
            options.insert(CHECK, Value::Dict(Dict::from_iter([("template", template)])));
        }
    }
}

/// All options of the open node: those that it has, and over them those that were given.
async fn whole(i: &Image, mut given: Dict) -> Result<api::block_core::BlockdevOptions, QError> {
    let snapshot = i.graph.snapshot();
    let node = snapshot.by_name(&i.node).ok_or_else(|| qerr!("The node has gone"))?;
    let Value::Dict(mut all) = qapi::to_value(&*node.options.typed) else {
        return Err(qerr!("The node has no options"));
    };
    all.insert("node-name", i.node.as_str());
    let backing = node.edges.iter().find(|e| e.name == "backing").and_then(|e| snapshot.node(e.child));
    if let Some(child) = backing.filter(|_| !all.contains_key("backing")) {
        all.insert("backing", child.name.as_str());
    }
    if node.ty.supports_backing && !all.contains_key("backing") {
        all.insert("backing", Value::Null);
    }
    if given.get("driver").is_some_and(|d| d.as_str() != Some(node.ty.name)) {
        return Err(qerr!("Cannot change the option 'driver'"));
    }
    if given.get("node-name").is_some_and(|n| n.as_str() != Some(&i.node)) {
        return Err(qerr!("Cannot change the option 'node-name'"));
    }
    for edge in &node.edges {
        let Some(child) = snapshot.node(edge.child) else { continue };
        let Some(Value::Dict(said)) = given.get_mut(edge.name) else { continue };
        for (name, is) in [("driver", child.ty.name), ("node-name", child.name.as_str())] {
            if said.remove(name).is_some_and(|v| v.as_str() != Some(is)) {
                return Err(qerr!("Cannot change the option '{name}'"));
            }
        }
        if said.is_empty() {
            given.remove(edge.name);
        } else if matches!(all.get(edge.name), Some(Value::Str(_))) && child.inherits_from == Some(node.id) {
            // A backing file that the header named: what is said is put over all that it has.
            let mut own = qapi::to_value(&*child.options.typed);
            if let Value::Dict(d) = &mut own {
                d.insert("node-name", child.name.as_str());
            }
            all.insert(edge.name, own);
        }
    }
    if node.ty.name == "qcow2" {
        join_qcow2(&mut all, &mut given);
    }
    for (name, v) in qapi::flatten(&Value::Dict(given)) {
        block::create::put(&mut all, &name, v);
    }
    let typed = block::filename::options(i.graph.drivers(), all).await;
    typed.map_err(|e| match e.desc().split_once("support the option '") {
        Some((_, key)) => qerr!("Cannot change the option '{key}"),
        None => e,
    })
}
