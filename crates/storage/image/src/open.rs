//! Opening an image by its name, or by a description, in a graph of its own: whatever its format.

use std::sync::Arc;

use api::block_core::{BlockdevDriverOptions, BlockdevOptions, BlockdevQcow2Encryption};
use base::Errno;
use block::driver::{BackingHint, DriverType, Kind, Prealloc};
use block::{BlockGraph, Perm, Policy, Root, RootConfig};
use crypto::Secret;
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Dict, QError, Value, qerr};
use qom::ObjectTree;

use crate::drivers;

/// How the host's cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    /// Not at all.
    pub direct: bool,
    /// Nothing need be stable, ever.
    pub no_flush: bool,
    /// Every write is stable when it ends.
    pub write_through: bool,
}

impl Cache {
    /// A mode's name, as `-t` and `-T` take it.
    pub fn parse(name: &str) -> Option<Cache> {
        let c = Cache::default();
        Some(match name {
            "none" | "off" => Cache { direct: true, ..c },
            "directsync" => Cache { direct: true, write_through: true, ..c },
            "writeback" => c,
            "unsafe" => Cache { no_flush: true, ..c },
            "writethrough" => Cache { write_through: true, ..c },
            _ => return None,
        })
    }
}

/// How to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// For writing.
    pub write: bool,
    /// Also where somebody else has it open for writing (read-only).
    pub force_share: bool,
    /// Only to tell about the image: no data is read, so that no key is needed.
    pub no_io: bool,
    /// To check the image: it stays as it is until then.
    pub checking: bool,
    /// With the backing files that headers name.
    pub chain: bool,
    /// Nothing that headers name is opened, whatever it is; together with `no_io`.
    pub alone: bool,
    /// How the host's cache is used.
    pub cache: Cache,
    /// Zeroes that are written are written as such, and space is given back where that is possible.
    pub unmap_zeroes: bool,
    /// Discards reach the file.
    pub unmap: bool,
    /// Dirty bitmaps are stored when the image closes, and not before.
    pub late_bitmaps: bool,
}

/// What the user named.
#[derive(Clone)]
pub struct Source {
    /// A file name, or with `image_opts` a description (`driver=…,file.filename=…`).
    pub name: String,
    /// The format; found out by probing where it is not given.
    pub format: Option<String>,
    /// Whether `name` is a description.
    pub image_opts: bool,
    /// The objects that a description may name.
    pub objects: Option<Arc<ObjectTree>>,
}

impl Source {
    /// A file of a format (or of one to be found out).
    pub fn file(name: &str, format: Option<&str>) -> Source {
        Source { name: name.into(), format: format.map(Into::into), image_opts: false, objects: None }
    }
}

/// The other files that an image's header names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The backing file.
    pub backing: Option<BackingHint>,
    /// The file that holds the data.
    pub data_file: Option<String>,
    /// The files that hold parts of the data.
    pub extents: Vec<String>,
}

/// The node names that an opened image has.
///
/// Nobody has given them any: messages show them as such.
const TOP: &str = "#block901";
pub(crate) const FILE: &str = "#block900";

/// An image that is open in a graph of its own.
pub struct Opened {
    /// The graph that holds it.
    pub graph: Arc<BlockGraph>,
    /// The node that shows the image's bytes.
    pub node: String,
    /// The name of its format driver.
    pub format: String,
    /// The node of the file that holds it.
    pub file: Option<String>,
    /// The password that it was opened with.
    pub password: Option<Secret>,
    /// Its format was found out, and it is to be written.
    guessed: bool,
    /// Roots write through.
    write_through: bool,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("node", &self.node)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// The driver of this name.
///
/// # Errors
/// There is none.
pub fn driver(name: &str) -> Result<&'static DriverType, QError> {
    drivers().into_iter().find(|d| d.name == name).ok_or_else(|| qerr!("Unknown driver '{name}'"))
}

/// A graph for one image.
fn graph(flags: OpenFlags, objects: Option<&Arc<ObjectTree>>) -> Arc<BlockGraph> {
    let graph = new_graph();
    let policy = graph.policy();
    graph.set_policy(Policy {
        no_io: flags.no_io,
        checking: flags.checking,
        late_bitmaps: flags.late_bitmaps,
        allow_implicit_children: policy.allow_implicit_children && !flags.alone,
        ..policy
    });
    if let Some(o) = objects {
        graph.set_objects(o.clone());
    }
    graph
}

/// An empty graph whose nodes the tools name.
pub(crate) fn new_graph() -> Arc<BlockGraph> {
    let graph = BlockGraph::new(&drivers(), EventBus::new());
    // Who runs the tools has refused a value that nobody knows.
    let allowed = Policy::of_environment().unwrap_or(Policy::strict());
    graph.set_policy(Policy { own_names: true, ..allowed });
    graph
}

/// Puts what `flags` say into a node's options, where they say nothing of their own.
fn set_flags(d: &mut Dict, flags: OpenFlags) {
    d.insert("read-only", !flags.write);
    if flags.force_share {
        d.insert("force-share", true);
    }
    let mut put = |name: &str, on: bool, value: Value| {
        if on && !d.contains_key(name) {
            d.insert(name, value);
        }
    };
    let mut cache = Dict::new();
    cache.insert("direct", flags.cache.direct);
    cache.insert("no-flush", flags.cache.no_flush);
    put("cache", flags.cache.direct || flags.cache.no_flush, Value::Dict(cache));
    put("discard", flags.unmap, Value::from("unmap"));
    put("detect-zeroes", flags.unmap_zeroes, Value::from("unmap"));
}

/// The driver and its options that a file name stands for.
async fn name_options(name: &str) -> Result<Dict, QError> {
    let drivers = drivers();
    let dict = block::filename::protocol(&drivers, name).await?;
    Ok(block::options::to_dict(&block::filename::options(&drivers, dict).await?))
}

/// Options of a node for a bare file.
pub(crate) async fn node_of_file(
    name: &str,
    node: &str,
    flags: OpenFlags,
) -> Result<BlockdevOptions, QError> {
    let mut d = name_options(name).await?;
    d.insert("node-name", node);
    set_flags(&mut d, flags);
    qapi::from_json(Value::Dict(d))
}

/// Opens the node of a file: no format. The file must exist.
pub async fn open_file(name: &str, flags: OpenFlags) -> Result<Opened, QError> {
    open_node(name_options(name).await?, flags, None).await
}

/// Opens the node that holds an image.
async fn open_node(
    mut d: Dict,
    flags: OpenFlags,
    objects: Option<&Arc<ObjectTree>>,
) -> Result<Opened, QError> {
    let graph = graph(flags, objects);
    if !d.contains_key("driver") {
        let path = d.get("filename").and_then(Value::as_str).unwrap_or_default().to_owned();
        d.insert("driver", block::probe::protocol_of(path).await);
    }
    let format = d.get("driver").and_then(Value::as_str).unwrap_or_default().to_owned();
    d.insert("node-name", FILE);
    set_flags(&mut d, flags);
    graph.add(typed(d).await?).await?;
    let write_through = flags.cache.write_through;
    Ok(Opened { graph, node: FILE.into(), format, file: None, password: None, guessed: false, write_through })
}

/// Opens an image; without `flags.chain` it is open without its backing files. Messages are those of the cause: the caller
/// says whose image it was.
pub async fn open(source: &Source, flags: OpenFlags) -> Result<Opened, QError> {
    open_with(source, flags, &[]).await
}

/// [`open`] with options of the image's format (dotted names, as in a description), such as the secret of an image that was just
/// made.
pub async fn open_with(
    source: &Source,
    flags: OpenFlags,
    options: &[(String, String)],
) -> Result<Opened, QError> {
    if described_by_options(source) {
        return open_described(source, flags).await;
    }
    open_container(source, flags).await?.with_format(flags, options).await
}

/// Whether the name is a description, in either form.
fn described_by_options(source: &Source) -> bool {
    source.image_opts || source.name.starts_with("json:")
}

/// Opens the node of the file that holds an image, and finds out the image's format where it is not given: the
/// answer's `format` is the image's, though only the file is open. A described image is opened whole.
pub async fn open_container(source: &Source, flags: OpenFlags) -> Result<Opened, QError> {
    check_flags(flags)?;
    if described_by_options(source) {
        return open_described(source, flags).await;
    }
    let format = source.format.as_deref().map(driver).transpose()?;
    // A format that has clusters to give up decides that itself: what it says passes, as below any node.
    let unmap = flags.unmap || format.is_none_or(|ty| ty.kind != Kind::Protocol);
    let mut opened = open_file(&source.name, OpenFlags { unmap, ..flags }).await?;
    if let Some(o) = &source.objects {
        opened.graph.set_objects(o.clone());
    }
    opened.guessed = flags.write && source.format.is_none();
    opened.format = match &source.format {
        Some(f) => f.clone(),
        None => opened.probe(&source.name).await?,
    };
    Ok(opened)
}

fn check_flags(flags: OpenFlags) -> Result<(), QError> {
    match flags.force_share && flags.write {
        true => Err(qerr!("force-share=on can only be used with read-only images")),
        false => Ok(()),
    }
}

/// Opens only the file that holds an image.
pub async fn open_below(source: &Source, flags: OpenFlags) -> Result<Opened, QError> {
    check_flags(flags)?;
    if !described_by_options(source) {
        return open_file(&source.name, flags).await;
    }
    match described(source).await?.remove("file") {
        Some(Value::Dict(file)) => open_node(file, flags, source.objects.as_ref()).await,
        Some(_) => Err(qerr!("'file' must be described with the image")),
        None => Err(qerr!("The image's format has no file of its own")),
    }
}

/// Whether a description says of `force-share` anything but that it is on. One that cannot be read says nothing.
pub(crate) fn shares_otherwise(description: &str) -> bool {
    let said = qapi::keyval_parse(description, Some("file"));
    said.is_ok_and(|d| d.get("force-share").is_some_and(|v| v.as_str() != Some("on")))
}

/// What a description says.
async fn described(source: &Source) -> Result<Dict, QError> {
    let mut d = match source.name.starts_with("json:") && !source.image_opts {
        true => match block::filename::named(&drivers(), &source.name).await? {
            block::filename::Named::Whole(d) | block::filename::Named::Protocol(d) => d,
        },
        false => qapi::keyval_parse(&qapi::opts_as_keyval(&source.name, Some("file")), None)?,
    };
    // An image knows itself how it is encrypted.
    graph(OpenFlags::default(), source.objects.as_ref()).fill_encryption(&mut d).await?;
    if let Some(f) = &source.format {
        d.insert("driver", f.as_str());
    }
    block::filename::modern(&drivers(), &mut d)?;
    Ok(d)
}

/// A node's options from those of a description, which may be texts.
async fn typed(d: Dict) -> Result<BlockdevOptions, QError> {
    block::filename::options(&drivers(), d).await
}

/// The format that a description names.
pub async fn described_format(source: &Source) -> Result<String, QError> {
    let d = described(source).await?;
    match d.get("driver").and_then(Value::as_str) {
        Some(f) => Ok(driver(f)?.name.to_owned()),
        None => {
            let opened = open_container(source, OpenFlags { no_io: true, ..OpenFlags::default() }).await?;
            let format = opened.format.clone();
            opened.close().await;
            Ok(format)
        }
    }
}

/// Whether the source is a description.
pub fn is_described(source: &Source) -> bool {
    described_by_options(source)
}

/// The password that a description names.
fn password_of(o: &BlockdevOptions, objects: Option<&Arc<ObjectTree>>) -> Option<Secret> {
    let id = match &o.driver {
        BlockdevDriverOptions::Qcow2(q) => match q.encrypt.as_ref()? {
            BlockdevQcow2Encryption::Aes(a) => &a.key_secret,
            BlockdevQcow2Encryption::Luks(l) => &l.key_secret,
        },
        _ => return None,
    };
    // One that is not there is told of when the image is opened.
    objects?.password(id.as_deref()?).ok()
}

async fn open_described(source: &Source, flags: OpenFlags) -> Result<Opened, QError> {
    let mut d = described(source).await?;
    if d.get("driver").and_then(Value::as_str).is_none() {
        match d.get("file").cloned() {
            Some(Value::Dict(file)) => {
                let below = open_node(file, OpenFlags { write: false, ..flags }, source.objects.as_ref());
                let below = below.await?;
                let found = below.probe(&source.name).await;
                below.close().await;
                d.insert("driver", found?);
            }
            Some(Value::Str(node)) => {
                return Err(qerr!("Cannot find device='{node}' nor node-name='{node}'"));
            }
            _ => return Err(qerr!("Must specify either driver or file")),
        }
    }
    let ty = driver(d.get("driver").and_then(Value::as_str).unwrap_or_default())?;
    match d.get("node-name").and_then(Value::as_str) {
        Some(name) => block::options::check_node_name(name)?,
        None => {
            d.insert("node-name", TOP);
        }
    }
    set_flags(&mut d, flags);
    if ty.supports_backing && !flags.chain && !d.contains_key("backing") {
        d.insert("backing", Value::Null);
    }
    let o = typed(d).await?;
    let password = password_of(&o, source.objects.as_ref());
    let node = o.node_name.clone().unwrap_or_default();
    let graph = graph(flags, source.objects.as_ref());
    graph.add(o).await?;
    let snapshot = graph.snapshot();
    let (format, file) = match snapshot.by_name(&node) {
        Some(n) => {
            let below = n.primary().and_then(|e| snapshot.node(e.child)).map(|c| c.name.to_string());
            (n.ty.name.to_string(), below)
        }
        None => return Err(qerr!("Cannot find device='' nor node-name='{node}'")),
    };
    let write_through = flags.cache.write_through;
    Ok(Opened { graph, node, format, file, password, guessed: false, write_through })
}

impl Opened {
    /// A user of a node with these permissions; others may do what `shared` says.
    pub async fn root(&self, node: &str, perm: Perm, shared: Perm) -> Result<Arc<Root>, QError> {
        let config = RootConfig {
            perm,
            shared,
            desc: "image tool".into(),
            write_through: self.write_through,
            ..RootConfig::default()
        };
        self.graph.attach(node, config).await
    }

    /// A reader of the image, beside whom others may do what they like.
    pub async fn reader(&self) -> Result<Arc<Root>, QError> {
        self.root(&self.node, Perm::CONSISTENT_READ, Perm::all()).await
    }

    /// A reader of the image who needs it to stay as it is.
    pub async fn only_reader(&self) -> Result<Arc<Root>, QError> {
        let shared = Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED;
        self.root(&self.node, Perm::CONSISTENT_READ, shared).await
    }

    /// A writer of the image, who may resize it.
    pub async fn writer(&self) -> Result<Arc<Root>, QError> {
        let perm = Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE;
        self.root(&self.node, perm, Perm::all()).await
    }

    /// Opens the image, of whose file alone is open, as what `format` says.
    pub(crate) async fn with_format(
        mut self,
        flags: OpenFlags,
        options: &[(String, String)],
    ) -> Result<Opened, QError> {
        let ty = driver(&self.format)?;
        if ty.kind == Kind::Protocol {
            return Ok(self);
        }
        let mut d = Dict::new();
        d.insert("driver", ty.name);
        d.insert("file", FILE);
        d.insert("node-name", TOP);
        if ty.supports_backing && !flags.chain {
            d.insert("backing", Value::Null);
        }
        for (name, value) in options {
            block::create::put(&mut d, name, Value::from(value.as_str()));
        }
        self.graph.fill_encryption(&mut d).await?;
        set_flags(&mut d, flags);
        self.graph.add(typed(d).await?).await?;
        self.file = Some(FILE.into());
        self.node = TOP.into();
        Ok(self)
    }

    /// What the image's header names.
    pub fn named(&self) -> Named {
        let graph = self.graph.snapshot();
        let Some(driver) = graph.by_name(&self.node).and_then(|n| n.driver.as_ref()) else {
            return Named::default();
        };
        Named {
            backing: driver.backing_hint(),
            data_file: driver.data_file_hint(),
            extents: driver.file_hints().into_iter().map(|h| h.filename).collect(),
        }
    }

    pub(crate) async fn probe(&self, name: &str) -> Result<String, QError> {
        let root = self.root(&self.node, Perm::CONSISTENT_READ, Perm::all()).await?;
        let n = root.len().min(block::probe::PROBE_BYTES as u64) as usize;
        let buf = IoBuf::zeroed(n.max(1));
        let buf = buf.slice(0..n);
        let read = if n > 0 { root.read(0, buf.clone()).await } else { Ok(()) };
        root.detach().await;
        read.map_err(|e: Errno| qerr!("Could not read image for determining its format: {e}"))?;
        Ok(block::probe::probe(&drivers(), &buf.to_vec(), name).to_string())
    }

    /// What is to be said of an image to be written whose format nobody named, and that looks like none.
    pub fn warning(&self, source: &Source) -> Option<String> {
        (self.guessed && self.format == "raw").then(|| {
            let json = || self.storage_name(0).filter(|n| n.starts_with("json:"));
            let named = block::filename::prefix(&source.name) == Some("rbd");
            let name = named.then(json).flatten().unwrap_or_else(|| source.name.clone());
            format!("WARNING: {}\n", block::probe::raw_warning(&name))
        })
    }

    /// What stores the bytes of the image, or of the one so many backing files down, by its name or by options.
    pub(crate) fn storage_name(&self, depth: u32) -> Option<String> {
        let graph = self.graph.snapshot();
        let mut node = graph.by_name(&self.node)?;
        for _ in 0..depth {
            node = graph.node(node.edge(block::driver::ChildSlot::Backing)?.child)?;
        }
        while let Some(e) = node.primary() {
            node = graph.node(e.child)?;
        }
        self.graph.image_info(&node.name).map(|i| i.base.filename)
    }

    /// The node's virtual size, bytes.
    pub fn len(&self) -> u64 {
        self.graph.image_info(&self.node).map_or(0, |i| i.base.virtual_size as u64)
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes everything.
    pub async fn close(self) {
        self.graph.close_all().await;
    }
}

/// Sets a file's length through its root.
pub async fn truncate(root: &Root, len: u64, mode: Prealloc) -> Result<(), QError> {
    root.truncate(len, true, mode).await.map_err(|e| qerr!("Could not resize file: {e}"))
}
