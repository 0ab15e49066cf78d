//! Opening an image by its name in a graph of its own.

use std::sync::Arc;

use api::block_core::{
    BlockdevDriverOptions, BlockdevOptions, BlockdevOptionsFile, BlockdevOptionsLUKS, BlockdevOptionsQcow2,
    BlockdevOptionsRaw, BlockdevQcow2Encryption, BlockdevRef, BlockdevRefOrNull,
};
use base::Errno;
use block::driver::Prealloc;
use block::{BlockGraph, Perm, Policy, Root, RootConfig};
use crypto::Secret;
use mem::IoBuf;
use monitor::EventBus;
use qapi::{QError, QapiEnum, Union, qerr};
use qom::ObjectTree;

use crate::drivers;

/// How to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// For writing.
    pub write: bool,
    /// Also where somebody else has it open for writing (read-only).
    pub force_share: bool,
    /// Only to tell about the image: no data is read, so that no key is needed.
    pub no_io: bool,
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

/// The node names that an opened image has.
const TOP: &str = "image";
const FILE: &str = "image-file";

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
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("node", &self.node)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// What is known about a driver's place in this tool.
fn is_protocol(name: &str) -> bool {
    drivers().iter().any(|d| d.name == name && d.kind == block::driver::Kind::Protocol)
}

/// A graph for one image.
fn graph(flags: OpenFlags, objects: Option<&Arc<ObjectTree>>) -> Arc<BlockGraph> {
    let graph = BlockGraph::new(&drivers(), EventBus::new());
    graph.set_policy(Policy { no_io: flags.no_io, ..graph.policy() });
    if let Some(o) = objects {
        graph.set_objects(o.clone());
    }
    graph
}

async fn file_options(name: &str, flags: OpenFlags) -> BlockdevOptions {
    let plain = block_file::strip_prefix(name);
    let path = if plain.is_empty() { name } else { plain };
    let file = BlockdevOptionsFile { filename: path.to_string(), ..BlockdevOptionsFile::default() };
    let mut o = BlockdevOptions::new(match block::probe::protocol_of(path.to_string()).await {
        "host_device" => BlockdevDriverOptions::HostDevice(file),
        _ => BlockdevDriverOptions::File(file),
    });
    o.read_only = Some(!flags.write);
    o.force_share = Some(flags.force_share);
    o
}

/// Opens the node of a file: no format. The file must exist.
pub async fn open_file(name: &str, flags: OpenFlags) -> Result<Opened, QError> {
    let graph = graph(flags, None);
    let mut o = file_options(name, flags).await;
    o.node_name = Some(FILE.into());
    let format =
        if matches!(o.driver, BlockdevDriverOptions::HostDevice(_)) { "host_device" } else { "file" };
    graph.add(o).await?;
    Ok(Opened { graph, node: FILE.into(), format: format.into(), file: None, password: None })
}

/// Opens an image without its backing files. Messages are those of the cause: the caller says whose image it was.
pub async fn open(source: &Source, flags: OpenFlags) -> Result<Opened, QError> {
    if source.image_opts {
        return open_described(source, flags).await;
    }
    let mut opened = open_container(source, flags).await?;
    if is_protocol(&opened.format) {
        return Ok(opened);
    }
    let format = opened.format.clone();
    let file = BlockdevRef::Reference(FILE.into());
    let mut o = BlockdevOptions::new(match format.as_str() {
        "qcow2" => {
            let mut q = BlockdevOptionsQcow2::new(file);
            q.backing = Some(BlockdevRefOrNull::Null);
            BlockdevDriverOptions::Qcow2(q)
        }
        "raw" => BlockdevDriverOptions::Raw(BlockdevOptionsRaw { file, offset: None, size: None }),
        "luks" => BlockdevDriverOptions::Luks(BlockdevOptionsLUKS { file, key_secret: None, header: None }),
        other => return Err(qerr!("Unknown driver '{other}'")),
    });
    o.node_name = Some(TOP.into());
    o.read_only = Some(!flags.write);
    o.force_share = Some(flags.force_share);
    opened.graph.add(o).await?;
    opened.file = Some(FILE.into());
    opened.node = TOP.into();
    Ok(opened)
}

/// Opens the node of the file that holds an image, and finds out the image's format where it is not given: the
/// answer's `format` is the image's, though only the file is open. A described image is opened whole.
pub async fn open_container(source: &Source, flags: OpenFlags) -> Result<Opened, QError> {
    if flags.force_share && flags.write {
        return Err(qerr!("force-share=on can only be used with read-only images"));
    }
    if source.image_opts {
        return open_described(source, flags).await;
    }
    if let Some(f) = &source.format
        && !drivers().iter().any(|d| d.name == f)
    {
        return Err(qerr!("Unknown driver '{f}'"));
    }
    let mut opened = open_file(&source.name, flags).await?;
    if let Some(o) = &source.objects {
        opened.graph.set_objects(o.clone());
    }
    opened.format = match &source.format {
        Some(f) => f.clone(),
        None => opened.probe(&source.name).await?,
    };
    Ok(opened)
}

/// Opens only the file that holds an image.
pub async fn open_below(source: &Source, flags: OpenFlags) -> Result<Opened, QError> {
    if !source.image_opts {
        return open_file(&source.name, flags).await;
    }
    let file = match described(source)?.driver {
        BlockdevDriverOptions::Qcow2(q) => q.file,
        _ => return Err(qerr!("The image's format has no file of its own")),
    };
    let BlockdevRef::Definition(mut o) = file else {
        return Err(qerr!("'file' must be described with the image"));
    };
    o.node_name = Some(FILE.into());
    o.read_only = Some(!flags.write);
    if flags.force_share {
        o.force_share = Some(true);
    }
    let graph = graph(flags, source.objects.as_ref());
    graph.add(*o).await?;
    Ok(Opened { graph, node: FILE.into(), format: "file".into(), file: None, password: None })
}

/// What a description says.
fn described(source: &Source) -> Result<BlockdevOptions, QError> {
    let unknown = |e: qapi::QError| match e.desc().strip_prefix("Parameter 'driver' does not accept value ") {
        Some(name) => qerr!("Unknown driver {name}"),
        None => e,
    };
    let mut text = source.name.clone();
    let mut parsed = qapi::from_arg::<BlockdevOptions>(&text, Some("file"));
    // What need not be said: the image knows itself how it is encrypted, and most of them lie in files.
    let defaults = [("encrypt.format", "luks"), ("file.driver", "file")];
    for _ in &defaults {
        let missing = |name: &str, e: &QError| e.desc() == format!("Parameter '{name}' is missing");
        let Err(e) = &parsed else { break };
        let Some((name, value)) = defaults.iter().find(|(n, _)| missing(n, e)) else { break };
        text.push_str(&format!(",{name}={value}"));
        parsed = qapi::from_arg(&text, Some("file"));
    }
    parsed.map_err(unknown)
}

/// The format that a description names.
pub fn described_format(source: &Source) -> Result<&'static str, QError> {
    Ok(described(source)?.driver.tag().as_str())
}

/// The password that a description names.
fn password_of(o: &BlockdevOptions, objects: Option<&Arc<ObjectTree>>) -> Option<Secret> {
    let BlockdevDriverOptions::Qcow2(q) = &o.driver else { return None };
    let Some(BlockdevQcow2Encryption::Luks(l)) = &q.encrypt else { return None };
    // One that is not there is told of when the image is opened.
    objects?.password(l.key_secret.as_deref()?).ok()
}

async fn open_described(source: &Source, flags: OpenFlags) -> Result<Opened, QError> {
    let mut o = described(source)?;
    let password = password_of(&o, source.objects.as_ref());
    o.node_name.get_or_insert_with(|| TOP.into());
    let node = o.node_name.clone().unwrap_or_default();
    o.read_only = Some(!flags.write);
    if flags.force_share {
        o.force_share = Some(true);
    }
    if let BlockdevDriverOptions::Qcow2(q) = &mut o.driver {
        q.backing.get_or_insert(BlockdevRefOrNull::Null);
    }
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
    Ok(Opened { graph, node, format, file, password })
}

impl Opened {
    /// A user of a node with these permissions; others may do what `shared` says.
    pub async fn root(&self, node: &str, perm: Perm, shared: Perm) -> Result<Arc<Root>, QError> {
        let config = RootConfig { perm, shared, desc: "image tool".into(), ..RootConfig::default() };
        self.graph.attach(node, config).await
    }

    async fn probe(&self, name: &str) -> Result<String, QError> {
        let root = self.root(&self.node, Perm::CONSISTENT_READ, Perm::all()).await?;
        let n = root.len().min(block::probe::PROBE_BYTES as u64) as usize;
        let buf = IoBuf::zeroed(n.max(1));
        let buf = buf.slice(0..n);
        let read = if n > 0 { root.read(0, buf.clone()).await } else { Ok(()) };
        root.detach().await;
        read.map_err(|e: Errno| qerr!("Could not read image for determining its format: {e}"))?;
        Ok(block::probe::probe(&drivers(), &buf.to_vec(), name).to_string())
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
