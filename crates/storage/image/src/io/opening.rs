//! Opening an image: by its name, by options, or both.

use super::session::{DRIVE, Done, Image, Session};
use crate::create::{NewImage, create};
use crate::open::{Cache, new_graph};
use api::block_core::BlockdevOptions;
use block::{BlockGraph, Drive, Policy};
use qapi::{Dict, QError, Value, qerr};
use std::path::PathBuf;
use std::sync::Arc;

/// The node of the file that takes what is not to stay.
const OVERLAY: &str = "overlay";

/// What is to be opened.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// A file's name.
    pub(super) name: Option<String>,
    /// Options of the node, as texts.
    pub(super) given: Dict,
    read_only: bool,
    snapshot: bool,
    copy_on_read: bool,
    force_share: bool,
    cache: Cache,
    unmap: Option<bool>,
    aio: Option<String>,
}

impl Default for Request {
    /// What no option is given for: every write is stable when it ends.
    fn default() -> Request {
        Request {
            name: None,
            given: Dict::new(),
            read_only: false,
            snapshot: false,
            copy_on_read: false,
            force_share: false,
            cache: Cache { write_through: true, ..Cache::default() },
            unmap: None,
            aio: None,
        }
    }
}

impl Request {
    /// Takes an option of one letter; others than its own are left alone. The error is the message.
    pub(super) fn letter(&mut self, c: char, v: &str) -> Result<(), String> {
        match c {
            'r' => self.read_only = true,
            's' => self.snapshot = true,
            'C' => self.copy_on_read = true,
            'U' => self.force_share = true,
            'n' => self.cache = Cache { direct: true, ..Cache::default() },
            'k' => self.aio = Some("native".into()),
            't' => self.cache = Cache::parse(v).ok_or_else(|| format!("Invalid cache option: {v}"))?,
            'd' => match v {
                "unmap" | "on" => self.unmap = Some(true),
                "ignore" | "off" => self.unmap = Some(false),
                _ => return Err(format!("Invalid discard option: {v}")),
            },
            'i' if ["threads", "native", "io_uring"].contains(&v) => self.aio = Some(v.into()),
            'i' => return Err(format!("Invalid aio option: {v}")),
            _ => {}
        }
        Ok(())
    }

    /// Takes options of the node.
    pub(super) fn options(&mut self, s: &Session, text: &str) -> Result<(), QError> {
        pairs(s, text).into_iter().try_for_each(|(k, v)| enter(&mut self.given, &k, v))
    }
}

/// Puts an option among those that were given.
///
/// # Errors
/// It says by another name something else than one that is there.
pub(super) fn enter(given: &mut Dict, key: &str, value: String) -> Result<(), QError> {
    const WHOLE: &str = "overlap-check";
    let there = given.get(WHOLE).and_then(|v| v.as_str().or_else(|| v.get("template")?.as_str()));
    let (whole, template) = match (key, there) {
        ("overlap-check.template", Some(whole)) => (whole, value.as_str()),
        (WHOLE, Some(template)) => (value.as_str(), template),
        _ => ("", ""),
    };
    if whole != template {
        return Err(qerr!(
            "Conflicting values for qcow2 options 'overlap-check' ('{whole}') and 'overlap-check.template' ('{template}')"
        ));
    }
    block::create::put(given, key, Value::from(value));
    Ok(())
}

/// The pairs of `a=b,c=d`. One without a value is `on`, or, with `no` before it, `off`; that is told.
pub(super) fn pairs(s: &Session, text: &str) -> Vec<(String, String)> {
    for warning in qapi::opts_short_forms(text, None) {
        s.error(&warning);
    }
    qapi::opts_parse(text, None)
}

/// Opens, and tells what went wrong.
pub(super) async fn open(s: &mut Session, request: Request) -> Done {
    if s.image.is_some() {
        s.error("file open already, try 'help close'");
        return Done::Failed;
    }
    if request.force_share && request.given.get("force-share").is_some_and(|v| v.as_str() != Some("on")) {
        s.error("-U conflicts with image options");
        return Done::Failed;
    }
    let about = match &request.name {
        Some(name) => format!("can't open device {name}"),
        None => "can't open".to_owned(),
    };
    let graph = new_graph();
    graph.set_policy(Policy { own_names: false, late_bitmaps: true, ..graph.policy() });
    graph.set_objects(s.objects.clone());
    match open_in(s, &graph, request).await {
        Ok(image) => {
            s.image = Some(image);
            Done::Well
        }
        Err(e) => {
            graph.close_all().await;
            s.error_of(&e.prepend(&about))
        }
    }
}

async fn open_in(s: &Session, graph: &Arc<BlockGraph>, request: Request) -> Result<Image, QError> {
    if request.force_share && !request.read_only && !request.snapshot {
        return Err(qerr!("force-share=on can only be used with read-only images"));
    }
    if request.copy_on_read && request.read_only {
        return Err(qerr!("Can't use copy-on-read on read-only device"));
    }
    let (write, cache, snapshot) = (!request.read_only, request.cache, request.snapshot);
    // Who describes an image means what is said.
    let named = request.name.is_some();
    let drive = drive(request)?;
    if let Some(warning) = graph.add_drive(drive).await?
        && named
        && write
        && !snapshot
    {
        s.text.warn(&format!("WARNING: {warning}"));
    }
    let held = graph.snapshot();
    let top = held.drive(DRIVE).and_then(|d| d.node).and_then(|n| held.node(n));
    let mut node = top.map(|n| n.name.clone()).ok_or_else(|| qerr!("No medium found"))?;
    if snapshot {
        node = overlay(graph, &node, write).await?;
    }
    if write && graph.snapshot().by_name(&node).is_some_and(|n| !n.writable()) {
        return Err(qerr!("Block node is read-only"));
    }
    let root = Image::attach(graph, &node, write, true, cache, "qemu-io").await?;
    Ok(Image { graph: graph.clone(), node, root, cache })
}

/// The request as a drive.
fn drive(r: Request) -> Result<Drive, QError> {
    let mut o = r.given;
    if r.name.is_none() && o.is_empty() {
        return Err(qerr!("Must specify either driver or file"));
    }
    let mut put = |name: &str, value: &str| {
        let (head, rest) = name.split_once('.').unwrap_or((name, ""));
        let there = match o.get(head) {
            Some(Value::Dict(d)) => d.contains_key(rest),
            other => other.is_some(),
        };
        if !there {
            block::create::put(&mut o, name, Value::from(value));
        }
    };
    if r.read_only || r.snapshot {
        put("read-only", "on");
    }
    if r.force_share {
        put("force-share", "on");
    }
    for (name, on) in [("cache.direct", r.cache.direct), ("cache.no-flush", r.cache.no_flush)] {
        if on {
            put(name, "on");
        }
    }
    put("discard", if r.unmap == Some(false) { "ignore" } else { "unmap" });
    let mut d = Drive::parse("")?;
    d.options = Dict::new();
    d.copy_on_read = r.copy_on_read;
    d.writeback = !r.cache.write_through;
    d.aio = r.aio;
    match r.name {
        Some(name) => {
            d.format = o.remove("driver").and_then(|d| d.as_str().map(str::to_owned));
            d.file = Some(name);
            d.options = o;
        }
        None => d.file = Some(format!("json:{}", Value::Dict(o).to_json())),
    }
    Ok(d)
}

/// Puts an image over `base` that nobody finds once it is closed.
async fn overlay(graph: &BlockGraph, base: &str, write: bool) -> Result<String, QError> {
    let size = graph.image_info(base).map_or(0, |i| i.base.virtual_size.max(0) as u64);
    let path = temporary();
    let name = path.display().to_string();
    let done = match create(&NewImage::new(&name, "qcow2", size)).await {
        Ok(()) => graph.add(overlay_options(&name, base, write)?).await,
        Err(e) => Err(e.prepend(&format!("Could not create temporary overlay '{name}'"))),
    };
    let _ = rt::unblock(move || std::fs::remove_file(path)).await;
    done.map(|()| OVERLAY.to_owned())
}

fn overlay_options(name: &str, base: &str, write: bool) -> Result<BlockdevOptions, QError> {
    let mut d = Dict::new();
    d.insert("driver", "qcow2");
    d.insert("node-name", OVERLAY);
    d.insert("read-only", if write { "off" } else { "on" });
    d.insert("backing", base);
    for (k, v) in [("file.driver", "file"), ("file.filename", name)] {
        block::create::put(&mut d, k, Value::from(v));
    }
    qapi::from_keyval_dict(d)
}

fn temporary() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    base::temporary_dir().join(format!("rhea-{}-{}.qcow2", std::process::id(), NEXT.fetch_add(1, Relaxed)))
}
