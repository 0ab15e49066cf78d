//! What queries tell of the graph. All of it is computed from one snapshot; nothing waits for storage.

use crate::control::BlockGraph;
use crate::driver::{BackingHint, ChildSlot, Cx, DetectZeroes, DriverInfo, DriverType, Kind};
use crate::graph::{Graph, Node, NodeId, RootDef};
use crate::lists::member;
use crate::open::resolve;
use crate::perm::Role;
use crate::resize::snapshot_holder;
use api::block_core::{
    BlockDeviceInfo, BlockDeviceIoStatus, BlockInfo, BlockNodeInfo, BlockdevCacheInfo,
    BlockdevDetectZeroesOptions, ImageInfo,
};
use qapi::order::ranked;
use qapi::{Dict, Value};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options that say which bytes a node shows; all others only say how it works.
const STRONG: [&str; 33] = [
    "throttle-group",
    "key-secret",
    "filename",
    "size",
    "offset",
    "vote-threshold",
    "blkverify",
    "rewrite-corrupted",
    "read-pattern",
    "read-zeroes",
    "server",
    "export",
    "tls-creds",
    "tls-hostname",
    "url",
    "username",
    "password-secret",
    "proxy-username",
    "proxy-password-secret",
    "cookie",
    "cookie-secret",
    "sslverify",
    "bucket",
    "object",
    "endpoint",
    "region",
    "access-key-id",
    "secret-key-secret",
    "session-token-secret",
    "anonymous",
    "inject-error",
    "set-state",
    NAMED,
];

/// The one of these that a driver puts into the name of its node ([`crate::driver::Driver::name_over`]).
const NAMED: &str = "config";

/// Whether an option of a driver, by its dotted name, is one of them.
fn strong(ty: &DriverType, key: &str) -> bool {
    let head = key.split_once('.').map_or(key, |(head, _)| head);
    if let Some(telling) = ty.telling {
        return telling.contains(&head);
    }
    // How an image is encrypted it says itself, but not where its key is.
    STRONG.contains(&head) || key == "encrypt.key-secret"
}

impl BlockGraph {
    /// All nodes, youngest first. `flat` leaves out the images behind each.
    pub fn query_named_block_nodes(&self, flat: bool) -> Vec<BlockDeviceInfo> {
        let graph = self.snapshot();
        let mut nodes: Vec<_> = graph.nodes().collect();
        let names = Names::new(&graph);
        nodes.sort_by_key(|n| std::cmp::Reverse(n.born));
        nodes.into_iter().map(|n| device_info(&names, Cx { graph: &graph, node: n }, true, flat)).collect()
    }

    /// All block devices and drives.
    pub fn query_block(&self) -> Vec<BlockInfo> {
        let graph = self.snapshot();
        let shown = |r: &&Arc<RootDef>| !r.name.is_empty() || r.qdev.is_some();
        let names = Names::new(&graph);
        graph.roots().filter(shown).map(|r| block_info(&names, &graph, r)).collect()
    }

    /// The information on one node's image, as `rhea img info` shows it.
    pub fn image_info(&self, node: &str) -> Option<ImageInfo> {
        let graph = self.snapshot();
        let id = graph.by_name(node)?.id;
        image_info_of(&graph, id)
    }
}

/// The information on one node's image in a snapshot of the graph.
pub(crate) fn image_info_of(graph: &Arc<Graph>, id: NodeId) -> Option<ImageInfo> {
    let cx = Cx { graph, node: graph.node(id)? };
    Some(image_info(&Names::new(graph), cx, false))
}

fn block_info(names: &Names, graph: &Arc<Graph>, r: &RootDef) -> BlockInfo {
    let node = r.node.and_then(|n| graph.node(n)).map(|n| explicit(graph, n));
    BlockInfo {
        device: r.name.clone(),
        qdev: r.device().map(str::to_owned),
        r#type: "unknown".into(),
        // A drive without a device is said to be removable; devices with media to change are to come.
        removable: r.qdev.is_none(),
        locked: false,
        inserted: node.map(|n| {
            let mut info = device_info(names, Cx { graph, node: n }, r.writeback, false);
            crate::brake::tell(r, &mut info);
            info
        }),
        tray_open: None,
        // Of a device that tells its guest of every error there is nothing to say.
        io_status: r.qdev.as_ref().filter(|_| stops(r)).map(|_| BlockDeviceIoStatus::Ok),
    }
}

/// Whether an error may stop the machine.
fn stops(r: &RootDef) -> bool {
    use crate::drive::ErrorAction::{Enospc, Stop};
    r.on_error.read == Stop || matches!(r.on_error.write, Stop | Enospc)
}

/// The node that the user put there: the first below it that is not there on somebody else's account.
pub(crate) fn explicit<'g>(graph: &'g Graph, mut node: &'g Arc<Node>) -> &'g Arc<Node> {
    while node.implicit
        && let Some(child) = node.primary().and_then(|e| graph.node(e.child))
    {
        node = child;
    }
    node
}

fn device_info(names: &Names, cx: Cx<'_>, writeback: bool, flat: bool) -> BlockDeviceInfo {
    let flags = cx.flags();
    let image = image_info(names, cx, flat);
    let (mut depth, mut below) = (0, cx);
    // Without the layers below the answer does not say how many there are.
    while let Some(next) = behind(below).filter(|_| !flat) {
        depth += 1;
        below = next;
    }
    BlockDeviceInfo {
        file: image.base.filename.clone(),
        node_name: Some(cx.node_name().to_owned()),
        ro: flags.read_only,
        drv: cx.node.ty.name.to_owned(),
        backing_file: cx.child(ChildSlot::Backing).ok().map(|b| names.filename(b)),
        backing_file_depth: depth,
        active: !flags.inactive,
        encrypted: image.base.encrypted.unwrap_or(false),
        detect_zeroes: match flags.detect_zeroes {
            DetectZeroes::Off => BlockdevDetectZeroesOptions::Off,
            DetectZeroes::On => BlockdevDetectZeroesOptions::On,
            DetectZeroes::Unmap => BlockdevDetectZeroesOptions::Unmap,
        },
        image,
        write_threshold: int(cx.node.live.threshold()),
        dirty_bitmaps: cx.node.live.bitmaps.info(),
        cache: BlockdevCacheInfo { writeback, direct: flags.direct, no_flush: flags.no_flush },
        ..BlockDeviceInfo::default()
    }
}

/// What the driver tells, filled up with what a filter's child tells.
fn driver_info(cx: Cx<'_>) -> DriverInfo {
    let mut info = cx.driver().map(|d| d.info(&cx)).unwrap_or_default();
    if let Some(e) = cx.node.edges.iter().find(|e| e.role.contains(Role::FILTERED))
        && let Ok(child) = cx.child(e.slot)
    {
        let below = driver_info(child);
        info.cluster_size = info.cluster_size.or(below.cluster_size);
        info.dirty = info.dirty.or(below.dirty.map(|_| false));
    }
    if cx.node.ty.name == "luks"
        && let Ok(child) = cx.child(ChildSlot::File)
    {
        info.cluster_size = info.cluster_size.or(driver_info(child).cluster_size);
    }
    if info.actual_size.is_none() && cx.node.ty.file_names.is_none() {
        // What a node takes is what its children take, backing files apart; what stands for a file says itself what it takes.
        let own = cx.node.edges.iter().filter(|e| !e.role.contains(Role::COW));
        let sizes: Vec<u64> = own.filter_map(|e| driver_info(cx.child(e.slot).ok()?).actual_size).collect();
        info.actual_size = (!sizes.is_empty()).then(|| sizes.iter().sum());
    }
    info
}

/// Bytes that a node and what it stores them in take on the host.
pub(crate) fn allocated(cx: Cx<'_>) -> Option<u64> {
    driver_info(cx).actual_size
}

fn int(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}

/// The next image behind a node: its backing file, or what a filter shows. Filters that nobody put there on purpose are no
/// images.
fn behind(cx: Cx<'_>) -> Option<Cx<'_>> {
    fn next(cx: Cx<'_>) -> Option<Cx<'_>> {
        match cx.node.primary() {
            Some(e) if cx.node.ty.kind == Kind::Filter && e.role.contains(Role::FILTERED) => {
                cx.child(e.slot).ok()
            }
            _ => cx.child(ChildSlot::Backing).ok(),
        }
    }
    let mut at = next(cx)?;
    while at.node.implicit
        && let Some(below) = next(at)
    {
        at = below;
    }
    Some(at)
}

/// The image, without those behind it if `flat`.
fn image_info(names: &Names, cx: Cx<'_>, flat: bool) -> ImageInfo {
    if flat {
        ImageInfo { base: node_info(names, cx), backing_image: None }
    } else {
        (*image(names, cx)).clone()
    }
}

/// The image with those behind it, each described once.
fn image(names: &Names, cx: Cx<'_>) -> Arc<ImageInfo> {
    let known = names.images.borrow().get(&cx.node.id).cloned();
    known.unwrap_or_else(|| {
        let backing_image = behind(cx).map(|b| image(names, b));
        let info = Arc::new(ImageInfo { base: node_info(names, cx), backing_image });
        names.images.borrow_mut().insert(cx.node.id, info.clone());
        info
    })
}

fn node_info(names: &Names, cx: Cx<'_>) -> BlockNodeInfo {
    let info = driver_info(cx);
    let holder = snapshot_holder(cx);
    let snapshots = match holder.node.id == cx.node.id {
        true => info.snapshots,
        false => driver_info(holder).snapshots,
    };
    let hint = hint(cx);
    let own = names.names.get(&cx.node.id).and_then(|n| n.plain.clone());
    BlockNodeInfo {
        filename: names.filename(cx),
        format: cx.node.ty.name.to_owned(),
        dirty_flag: info.dirty,
        actual_size: info.actual_size.map(int),
        virtual_size: int(cx.len()),
        cluster_size: info.cluster_size.map(int),
        encrypted: info.encrypted.filter(|e| *e),
        compressed: info.compressed.filter(|c| *c),
        full_backing_filename: hint.as_ref().and_then(|h| resolve(h, own.as_deref()).ok()),
        backing_filename_format: hint.as_ref().and_then(|h| h.format.clone()),
        backing_filename: hint.map(|h| h.filename),
        snapshots: (!snapshots.is_empty()).then_some(snapshots),
        format_specific: info.format_specific,
    }
}

fn hint(cx: Cx<'_>) -> Option<BackingHint> {
    cx.driver().ok()?.backing_hint()
}

/// How one node is called.
#[derive(Clone, Default)]
struct Name {
    /// The plain name of the file that stands for the node, whatever else is set.
    plain: Option<String>,
    /// That name, where it alone describes the node.
    exact: Option<String>,
    /// The options from which somebody could open the same bytes again.
    description: Dict,
}

impl Name {
    fn filename(&self) -> String {
        let json = || format!("json:{}", Value::Dict(self.description.clone()).to_json());
        self.exact.clone().unwrap_or_else(json)
    }
}

/// The names of all nodes. Computed from the bottom up, each once: a name may contain all those below it.
struct Names {
    names: BTreeMap<NodeId, Name>,
    /// What was told of images so far: in the list of all nodes, each image of a chain stands behind all those above it.
    images: RefCell<BTreeMap<NodeId, Arc<ImageInfo>>>,
}

impl Names {
    fn new(graph: &Arc<Graph>) -> Names {
        let mut names = Names { names: BTreeMap::new(), images: RefCell::default() };
        for id in graph.topological().unwrap_or_default().into_iter().rev() {
            if let Some(node) = graph.node(id) {
                let name = names.name(Cx { graph, node });
                names.names.insert(id, name);
            }
        }
        names
    }

    fn filename(&self, cx: Cx<'_>) -> String {
        self.names.get(&cx.node.id).map(Name::filename).unwrap_or_default()
    }

    fn name(&self, cx: Cx<'_>) -> Name {
        let own = &cx.node.options.own;
        let below = |slot| cx.node.edge(slot).and_then(|e| self.names.get(&e.child));
        // A filter that nobody put there on purpose is called what it stands for.
        if cx.node.implicit
            && let Some(name) = cx.node.primary().and_then(|e| below(e.slot))
        {
            return name.clone();
        }
        let primary = cx.node.primary().map(|e| below(e.slot));
        let plain = match primary {
            Some(child) => child.and_then(|c| c.plain.clone()),
            None => cx.driver().ok().and_then(|d| d.filename()),
        };
        let hint = hint(cx);
        let named =
            hint.as_ref().map(|h| resolve(h, plain.as_deref()).unwrap_or_else(|_| h.filename.clone()));
        // Who only looks at an image opens none that it names, and that says nothing.
        let as_named = cx.graph.looks_only || named == below(ChildSlot::Backing).map(Name::filename);
        let exact = match primary {
            None => plain.clone(),
            Some(_) if own.keys().any(|k| strong(cx.node.ty, k) && k != NAMED) || !as_named => None,
            Some(_) => {
                let driver = cx.driver().ok();
                driver.and_then(|d| d.name_over(&|slot| below(slot)?.exact.clone()))
            }
        };
        let mut all = BTreeMap::from([("driver".to_owned(), Value::from(cx.node.ty.name))]);
        all.extend(own.iter().filter(|(k, _)| strong(cx.node.ty, k)).map(|(k, v)| (k.clone(), v.clone())));
        for e in &cx.node.edges {
            // A backing file that the header names anyway need not be said.
            if let Some(child) = self.names.get(&e.child)
                && (e.slot != ChildSlot::Backing || !as_named)
            {
                let child = Value::Dict(child.description.clone());
                match member(e.name) {
                    None => drop(all.insert(e.name.to_owned(), child)),
                    Some((list, _)) => {
                        let list = all.entry(list.to_owned()).or_insert_with(|| Value::List(Vec::new()));
                        if let Value::List(l) = list {
                            l.push(child);
                        }
                    }
                }
            }
        }
        if hint.is_some() && !cx.has_child(ChildSlot::Backing) && !cx.graph.looks_only {
            all.insert("backing".to_owned(), Value::Null);
        }
        Name { plain, exact, description: ranked(all.into_iter().collect()) }
    }
}

impl BlockGraph {
    /// The graph as a drawing in text: every root with the nodes below it, every link with its role and permissions.
    ///
    /// Permissions are four letters (`r` consistent read, `w` write, `u` write unchanged, `s` resize): required, `/`,
    /// shared. A node that stands in several places is drawn once and then only named.
    pub fn describe(&self) -> String {
        let graph = self.snapshot();
        let mut d = Drawing { graph: &graph, drawn: Vec::new(), out: String::new() };
        for r in graph.roots() {
            let node = r.node.and_then(|n| graph.node(n));
            d.out += &format!("[{}] {}/{}\n", r.user_desc(), r.pair.perm, r.pair.shared);
            match node {
                Some(n) => d.node(n, "", true, ""),
                None => d.out += "└─ (no medium)\n",
            }
        }
        for n in graph.nodes() {
            let used = graph.nodes().any(|p| p.edges.iter().any(|e| e.child == n.id));
            if !used && !d.drawn.contains(&n.id) {
                d.out += "[monitor]\n";
                d.node(n, "", true, "");
            }
        }
        d.out
    }
}

struct Drawing<'g> {
    graph: &'g Arc<Graph>,
    drawn: Vec<NodeId>,
    out: String,
}

impl Drawing<'_> {
    fn node(&mut self, n: &Arc<Node>, indent: &str, last: bool, link: &str) {
        let cx = Cx { graph: self.graph, node: n };
        let branch = if last { "└─ " } else { "├─ " };
        let again = self.drawn.contains(&n.id);
        self.out += &format!("{indent}{branch}{link}{} ({}", n.name, n.ty.name);
        if again {
            self.out += ", see above)\n";
            return;
        }
        self.drawn.push(n.id);
        if n.flags.read_only {
            self.out += ", read-only";
        } else if n.flags.auto_read_only {
            self.out += ", auto-read-only";
        }
        if n.flags.inactive {
            self.out += ", inactive";
        }
        self.out += ")";
        if n.edges.is_empty()
            && let Some(f) = cx.driver().ok().and_then(|d| d.filename())
        {
            self.out += &format!(" {f}");
        }
        self.out += "\n";
        let indent = format!("{indent}{}", if last { "   " } else { "│  " });
        for (i, e) in n.edges.iter().enumerate() {
            let Some(child) = self.graph.node(e.child) else { continue };
            let frozen = if e.frozen > 0 { " frozen" } else { "" };
            let link = format!("{}{frozen} {}/{} → ", e.name, e.pair.perm, e.pair.shared);
            self.node(child, &indent, i + 1 == n.edges.len(), &link);
        }
    }
}
