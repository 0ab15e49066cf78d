//! Opening nodes: `blockdev-add`, children defined inline, and backing files that headers name.

use crate::control::BlockGraph;
use crate::driver::{BackingHint, ChildOption, ChildSlot, Cx, DriverType, Kind, NodeFlags, OpenCx};
use crate::filename::{self, Named};
use crate::graph::{Edge, Graph, Node, NodeId};
use crate::options::{ChildGiven, NodeOptions, check_node_name, flags, inherited, split, to_dict};
use crate::perm::{PermPair, Role};
use crate::policy::no_plain_name;
use crate::probe;
use crate::track::Live;
use crate::txn::{Published, Txn, cycle};
use api::block_core::BlockdevOptions;
use qapi::{Dict, QError, Value, from_json, qerr};
use smallvec::SmallVec;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

/// The place in a tree of nodes at which one is opened.
#[derive(Clone)]
pub(crate) struct Place {
    /// The parent's id, its flags and the role of the link; `None` at the top.
    parent: Option<(NodeId, NodeFlags, Role)>,
    depth: usize,
    /// The image files further up, to notice a chain that bites its tail.
    files: Vec<PathBuf>,
    /// The image at the top may be written.
    writing: bool,
    /// What was said of the node's backing file without naming its driver ([`partial_backing`]).
    backing: Option<Dict>,
}

/// Takes out of `dict` what is said of the backing file, if no driver is named there: it is to be put over what the image's
/// header tells of that file.
pub(crate) fn partial_backing(dict: &mut Dict) -> Option<Dict> {
    match dict.get("backing") {
        Some(Value::Dict(d)) if !d.contains_key("driver") && !d.contains_key("filename") => {}
        _ => return None,
    }
    match dict.remove("backing") {
        Some(Value::Dict(d)) => Some(d),
        _ => None,
    }
}

impl Place {
    /// The place of a node that stands for itself.
    pub(crate) fn top() -> Place {
        Place { parent: None, depth: 0, files: Vec::new(), writing: false, backing: None }
    }

    /// The same, of one over a backing file of which something was said.
    pub(crate) fn over_backing(backing: Option<Dict>) -> Place {
        Place { backing, ..Place::top() }
    }

    /// Whether the image at the top may be written, for the place of a node with these flags.
    fn writing(&self, flags: NodeFlags) -> bool {
        if self.depth == 0 { !flags.read_only } else { self.writing }
    }

    fn below(&self, id: NodeId, flags: NodeFlags, role: Role) -> Place {
        let (files, writing) = (self.files.clone(), self.writing(flags));
        let backing = self.backing.clone();
        Place { parent: Some((id, flags, role)), depth: self.depth + 1, files, writing, backing }
    }
}

impl BlockGraph {
    pub(crate) async fn do_add(&self, options: BlockdevOptions) -> Result<(), QError> {
        let name = options
            .node_name
            .clone()
            .ok_or_else(|| qerr!("'node-name' must be specified for the root node"))?;
        let mut txn = Txn::aside(self);
        let opened = txn.open(to_dict(&options), Place::top()).await;
        let (mut txn, joined, id) = txn.join(opened).await?;
        if let Some(n) = txn.next.edit(id) {
            n.monitor_owned = true;
        }
        let done = joined.end(self.settle(txn).await).await;
        done.inspect_err(|e| tracing::debug!(node = %name, "blockdev-add: {e}"))
    }

    /// Commits a transaction that opened nodes, and activates them. If a node cannot be activated, the graph becomes what
    /// it was before.
    pub(crate) async fn settle(&self, mut txn: Txn<'_>) -> Result<(), QError> {
        txn.finish().await?;
        let mut done = self.settle_held(txn).await?;
        std::mem::take(&mut done.bitmaps).commit();
        Ok(())
    }

    /// As [`BlockGraph::settle`], of a transaction that is staged; bitmaps wait, and the users are kept off until the
    /// answer is dropped.
    pub(crate) async fn settle_held(&self, txn: Txn<'_>) -> Result<Published, QError> {
        let done = txn.publish().await;
        for id in &done.opened {
            let Some(node) = done.graph.node(*id) else { continue };
            let cx = Cx { graph: &done.graph, node };
            let Some(driver) = &node.driver else { continue };
            if let Err(e) = driver.activate(&cx).await {
                self.go_back(&done).await;
                return Err(e);
            }
        }
        Ok(done)
    }

    /// Makes the graph what it was before a transaction, while its users are still kept off.
    async fn go_back(&self, done: &Published) {
        let mut undo = Txn::new(self);
        let version = undo.next.version;
        undo.next = Graph { version, ..(*done.base).clone() };
        for id in &done.reopened {
            if let Some(n) = done.base.node(*id) {
                undo.reopened.insert(*id, n.options.typed.clone());
            }
        }
        match undo.finish().await {
            Ok(()) => drop(undo.commit().await),
            Err(e) => tracing::error!("the block graph stays as it is: {e}"),
        }
    }
}

impl Txn<'_> {
    /// Opens the node that `dict` describes, and its children, into the edited graph.
    pub(crate) fn open<'a>(
        &'a mut self,
        dict: Dict,
        place: Place,
    ) -> Pin<Box<dyn Future<Output = Result<NodeId, QError>> + 'a>> {
        Box::pin(self.open_inner(dict, place))
    }

    async fn open_inner(&mut self, dict: Dict, mut place: Place) -> Result<NodeId, QError> {
        if place.depth > self.ctl.policy().max_depth {
            return Err(qerr!("More than {} block nodes stand on one another", self.ctl.policy().max_depth));
        }
        let name = match dict.get("node-name").and_then(Value::as_str) {
            Some(n) => {
                if !(self.ctl.policy().own_names && n.starts_with('#')) {
                    check_node_name(n)?;
                }
                n.to_owned()
            }
            None => self.ctl.auto_name(&self.next),
        };
        let backing = place.backing.take();
        self.rebase()?;
        if self.next.by_name(&name).is_some() {
            return Err(qerr!("Duplicate nodes with node-name='{name}'"));
        }
        if self.next.drive(&name).is_some() {
            return Err(qerr!("node-name={name} is conflicting with a device id"));
        }
        self.reserve(&name)?;
        let ty = self.ctl.driver_type(dict.get("driver").and_then(Value::as_str).unwrap_or(""))?;
        let typed: BlockdevOptions = from_json(Value::Dict(dict.clone()))?;
        let specs = (ty.children)(&typed);
        let parts = split(dict, &specs);
        let base = place.parent.map_or(NodeFlags::default(), |(_, f, role)| inherited(&f, role));
        let node_flags = flags(&parts.own, base)?;
        let id = NodeId(self.ctl.next_id());
        let options = NodeOptions::new(&name, parts.own, parts.children.clone())?;
        let node = Node {
            id,
            name,
            ty,
            flags: node_flags,
            options: Arc::new(options),
            edges: SmallVec::new(),
            next_member: crate::lists::next(&specs),
            pair: PermPair::NONE,
            monitor_owned: false,
            inherits_from: place.parent.map(|(p, _, _)| p),
            implicit: false,
            guessed: None,
            born: 0,
            driver: None,
            live: Arc::new(Live::default()),
        };
        self.next.nodes.insert(id, Arc::new(node));
        for spec in specs.iter().filter(|s| s.slot != ChildSlot::Backing) {
            let given = parts.children.get(spec.name).cloned().unwrap_or_default();
            self.open_child(id, spec, given, &place).await?;
        }
        // The children's permissions are in force before the driver reads a byte.
        self.stage().await?;
        self.open_driver(id, ty, &typed).await?;
        if let Some(file) = self.filename(id) {
            place.files.push(canonical(&file).await);
        }
        if let Some(spec) = specs.iter().find(|s| s.name == "data-file")
            && parts.children.get(spec.name).is_none_or(|c| *c == ChildGiven::Absent)
        {
            self.open_data_file(id, spec, &place).await?;
        }
        self.open_named_files(id, &place).await?;
        if let Some(spec) = specs.iter().find(|s| s.slot == ChildSlot::Backing) {
            let given = parts.children.get(spec.name).cloned().unwrap_or_default();
            self.open_backing(id, spec, given, place, backing).await?;
        }
        Ok(id)
    }

    async fn open_driver(
        &mut self,
        id: NodeId,
        ty: &DriverType,
        typed: &BlockdevOptions,
    ) -> Result<(), QError> {
        let _inside = self.enter_holds().await?;
        let graph = self.preview();
        let node = graph.node(id).ok_or_else(|| qerr!("The node has gone"))?;
        let cx = Cx { graph: &graph, node };
        let (flags, objects) = (node.flags, self.ctl.objects());
        let events = self.ctl.events().clone();
        let crate::Policy { no_io, checking, machine, late_bitmaps, .. } = self.ctl.policy();
        let open = OpenCx {
            cx,
            options: typed,
            flags,
            node_name: &node.name,
            objects,
            no_io,
            checking,
            machine,
            late_bitmaps,
            events,
        };
        let driver = (ty.open)(open).await?;
        let stored = driver.stored_bitmaps(&Cx { graph: &graph, node }).await?;
        for b in stored {
            node.live.bitmaps.add(Arc::new(b));
        }
        let born = self.ctl.next_id();
        if let Some(n) = self.next.edit(id) {
            n.born = born;
            n.flags.read_only |= driver.forced_read_only();
            n.driver = Some(driver);
        }
        self.has_opened(id);
        Ok(())
    }

    async fn open_child(
        &mut self,
        id: NodeId,
        spec: &ChildOption,
        given: ChildGiven,
        place: &Place,
    ) -> Result<(), QError> {
        let backing = |e: QError| match spec.slot {
            ChildSlot::Backing => e.prepend("Could not open backing file"),
            _ => e,
        };
        let Some(child) = self.child_node(id, spec, given, place).await.map_err(backing)? else {
            return Ok(());
        };
        if self.next.reaches(child, id) {
            let name = |id| self.next.node(id).map_or("", |n| n.name.as_str());
            return Err(cycle(name(child), spec.name, name(id)));
        }
        self.link(id, new_edge(spec), child);
        self.hold_references().await
    }

    /// The node that is to be a child: one that is there, or a new one; none where none is wanted.
    async fn child_node(
        &mut self,
        id: NodeId,
        spec: &ChildOption,
        given: ChildGiven,
        place: &Place,
    ) -> Result<Option<NodeId>, QError> {
        let parent_flags = self.next.node(id).map_or_else(NodeFlags::default, |n| n.flags);
        match given {
            ChildGiven::Absent if spec.required => Err(qerr!("Parameter '{}' is missing", spec.name)),
            ChildGiven::Absent | ChildGiven::Null => Ok(None),
            ChildGiven::Reference(name) => {
                self.rebase()?;
                let not_found = || qerr!("Cannot find device='{name}' nor node-name='{name}'");
                let found = self.next.by_name(&name).filter(|n| n.driver.is_some());
                Ok(Some(found.ok_or_else(not_found)?.id))
            }
            ChildGiven::Definition(dict) => {
                self.open(dict, place.below(id, parent_flags, spec.role)).await.map(Some)
            }
        }
    }

    /// Opens the file that an image's header names as the holder of its data, by the rules for backing files' names.
    async fn open_data_file(&mut self, id: NodeId, spec: &ChildOption, place: &Place) -> Result<(), QError> {
        let Some(name) = self.next.node(id).and_then(|n| n.driver.as_ref()).and_then(|d| d.data_file_hint())
        else {
            return Ok(());
        };
        if self.ctl.policy().no_io {
            return Ok(());
        }
        if !self.ctl.policy().allow_implicit_children {
            return Err(qerr!(
                "The image names the data file '{name}', but images may not have other files opened; give 'data-file'"
            ));
        }
        let own = self.filename(id);
        let path = resolve(&BackingHint { filename: name, format: None }, own.as_deref())
            .map_err(|e| e.prepend("Could not open the external data file"))?;
        let mut dict = Dict::new();
        // It may be written: only a file, never a device.
        dict.insert("driver", "file");
        dict.insert("filename", path);
        self.open_child(id, spec, ChildGiven::Definition(dict), place)
            .await
            .map_err(|e| e.prepend("Could not open the external data file"))
    }

    /// Opens the files that an image's header names as holders of parts of its data.
    async fn open_named_files(&mut self, id: NodeId, place: &Place) -> Result<(), QError> {
        let driver = self.next.node(id).and_then(|n| n.driver.clone());
        let own = self.filename(id);
        let policy = self.ctl.policy();
        if policy.no_io && !policy.allow_implicit_children {
            return Ok(());
        }
        for hint in driver.map(|d| d.file_hints()).unwrap_or_default() {
            let name = hint.filename;
            if !policy.allow_implicit_children {
                return Err(qerr!(
                    "The image names the file '{name}', but images may not have other files opened"
                ));
            }
            let path = resolve(&BackingHint { filename: name, format: None }, own.as_deref())?;
            let mut dict = Dict::new();
            // It may be written: only a file, never a device.
            dict.insert("driver", "file");
            dict.insert("filename", path);
            self.open_child(id, &hint.child, ChildGiven::Definition(dict), place).await?;
        }
        Ok(())
    }

    async fn open_backing(
        &mut self,
        id: NodeId,
        spec: &ChildOption,
        given: ChildGiven,
        mut place: Place,
        said: Option<Dict>,
    ) -> Result<(), QError> {
        if given != ChildGiven::Absent {
            return self.open_child(id, spec, given, &place).await;
        }
        let found = match said {
            None => self.implicit_backing(id, &place).await,
            Some(mut said) => {
                place.backing = partial_backing(&mut said);
                self.completed_backing(id, said, &place).await.map(Some)
            }
        };
        match found {
            Ok(None) => Ok(()),
            Ok(Some((dict, guessed))) => {
                let raw = guessed && dict.get("driver").and_then(Value::as_str) == Some("raw");
                self.open_child(id, spec, ChildGiven::Definition(dict), &place).await?;
                let below = self.next.node(id).and_then(|n| n.edge(spec.slot)).map(|e| e.child);
                if raw && let Some(n) = below.and_then(|b| self.next.edit(b)) {
                    n.guessed = Some(Arc::new(self.ctl.drivers().to_vec()));
                }
                Ok(())
            }
            Err(e) => Err(e.prepend("Could not open backing file")),
        }
    }

    /// The options of a backing file of which a part was said, and whether its format was guessed: another file, whose format
    /// is to be found out, or something about that which the image's header names.
    async fn completed_backing(
        &mut self,
        id: NodeId,
        said: Dict,
        place: &Place,
    ) -> Result<(Dict, bool), QError> {
        let (named, guessed) = if said.contains_key("file") {
            let (format, guessed) = self.format_of(&Named::Whole(said.clone())).await?;
            (Dict::from_iter([("driver", format)]), guessed)
        } else {
            let none = || qerr!("Must specify either driver or file");
            self.implicit_backing(id, place).await?.ok_or_else(none)?
        };
        let dict = filename::over(self.ctl.drivers(), named, said);
        Ok((to_dict(&filename::options(self.ctl.drivers(), dict).await?), guessed))
    }

    /// The options of the backing file that an image's header names, and whether its format was guessed.
    async fn implicit_backing(&mut self, id: NodeId, place: &Place) -> Result<Option<(Dict, bool)>, QError> {
        let Some(hint) = self.next.node(id).and_then(|n| n.driver.as_ref()).and_then(|d| d.backing_hint())
        else {
            return Ok(None);
        };
        let policy = self.ctl.policy();
        if policy.no_io && !policy.allow_implicit_children {
            return Ok(None);
        }
        policy.check_name(&hint.filename)?;
        if policy.implicit_protocols && filename::prefix(&hint.filename).is_some_and(|p| p != "file") {
            return self.protocol_backing(&hint).await.map(|dict| Some((dict, hint.format.is_none())));
        }
        let guessed = hint.format.is_none();
        let own = self.filename(id);
        let path = resolve(&hint, own.as_deref())?;
        let file = canonical(&path).await;
        if place.files.contains(&file) {
            // One that is written is in nobody else's hands, nor in ours a second time.
            let flags = self.next.node(id).map_or_else(NodeFlags::default, |n| n.flags);
            return Err(match place.writing(flags) {
                true => qerr!("Failed to get shared \"write\" lock")
                    .with_hint(format!("Is another process using the image [{path}]?")),
                false => qerr!("The chain of backing files comes back to '{path}'"),
            });
        }
        // A name that is relative to that of an image on a server is one on that server.
        if !path.starts_with('/') && self.is_remote(id) {
            return self
                .protocol_backing(&BackingHint { filename: path, format: hint.format })
                .await
                .map(|dict| Some((dict, guessed)));
        }
        let format = match hint.format {
            Some(f) => f,
            None if policy.probe_implicit => self.probe_path(&path).await?,
            None => return Err(qerr!("The image does not say the format of its backing file '{path}'")),
        };
        self.describe_file(&path, &format).await.map(|dict| Some((dict, guessed)))
    }

    /// The options of a backing file whose name is a URL or `json:`.
    async fn protocol_backing(&mut self, hint: &BackingHint) -> Result<Dict, QError> {
        let named = filename::named(self.ctl.drivers(), &hint.filename).await?;
        let format = match &hint.format {
            Some(f) => f.clone(),
            None => self.format_of(&named).await?.0,
        };
        let mut dict = match named {
            Named::Whole(dict) => dict,
            Named::Protocol(file) if self.ctl.driver_type(&format)?.kind == Kind::Protocol => file,
            Named::Protocol(file) => Dict::from_iter([("file", file)]),
        };
        if !dict.contains_key("driver") {
            dict.insert("driver", format);
        }
        Ok(to_dict(&filename::options(self.ctl.drivers(), dict).await?))
    }

    /// Opens the backing file that the header of a node that is open already names, unless it has one open.
    pub(crate) async fn open_own_backing(&mut self, id: NodeId) -> Result<(), QError> {
        let Some(n) = self.next.node(id).filter(|n| n.edge(ChildSlot::Backing).is_none()) else {
            return Ok(());
        };
        let specs = (n.ty.children)(&n.options.typed);
        let Some(spec) = specs.iter().find(|s| s.slot == ChildSlot::Backing) else { return Ok(()) };
        let mut place = Place::top();
        if let Some(file) = self.filename(id) {
            place.files.push(canonical(&file).await);
        }
        let opened = self.open_backing(id, spec, ChildGiven::Absent, place, None).await;
        opened.map_err(|e| e.prepend("Could not open backing file"))
    }

    /// Options for an image file of a format.
    async fn describe_file(&self, path: &str, format: &str) -> Result<Dict, QError> {
        let ty = self.ctl.driver_type(format)?;
        let mut file = Dict::new();
        file.insert("driver", probe::protocol_of(path.to_owned()).await);
        file.insert("filename", path);
        if ty.kind == Kind::Protocol {
            file.insert("driver", format);
            return Ok(file);
        }
        let mut dict = Dict::new();
        dict.insert("driver", format);
        dict.insert("file", file);
        Ok(dict)
    }

    /// The format of what a file name stands for, and whether it was guessed.
    pub(crate) async fn format_of(&mut self, named: &Named) -> Result<(String, bool), QError> {
        let file = match named {
            Named::Protocol(file) => file,
            Named::Whole(dict) => match (dict.get("driver"), dict.get("file")) {
                (Some(Value::Str(driver)), _) => return Ok((driver.clone(), false)),
                (None, Some(Value::Dict(file))) => file,
                (None, Some(Value::Str(node))) if self.next.by_name(node).is_none() => {
                    return Err(qerr!("Cannot find device='{node}' nor node-name='{node}'"));
                }
                _ => return Err(qerr!("Must specify either driver or file")),
            },
        };
        let mut file = file.clone();
        if !file.contains_key("driver") {
            let path = file.get("filename").and_then(Value::as_str).unwrap_or("").to_owned();
            file.insert("driver", probe::protocol_of(path).await);
        }
        Ok((self.probe_file(file).await?, true))
    }

    /// Guesses the format of a file from its first bytes. The file is opened for this alone.
    pub(crate) async fn probe_path(&mut self, path: &str) -> Result<String, QError> {
        let mut file = Dict::new();
        file.insert("driver", probe::protocol_of(path.to_owned()).await);
        file.insert("filename", path);
        self.probe_file(file).await
    }

    /// The same for the node of a protocol, described by the options of a name.
    async fn probe_file(&mut self, mut file: Dict) -> Result<String, QError> {
        let path = file.get("filename").and_then(Value::as_str).unwrap_or("").to_owned();
        file.insert("read-only", true);
        let file = to_dict(&filename::options(self.ctl.drivers(), file).await?);
        let mut aside = Txn::aside(self.ctl);
        let id = aside.open(file, Place::top()).await?;
        let graph = aside.preview();
        let node = graph.node(id).ok_or_else(|| qerr!("The node has gone"))?;
        let found = probe::probe_node(self.ctl.drivers(), &Cx { graph: &graph, node }, &path).await;
        found.map_err(|e| qerr!("Could not read image for determining its format: {e}"))
    }

    /// Whether what stands for a node is no file of this host, but has a name with a protocol.
    fn is_remote(&self, id: NodeId) -> bool {
        let mut node = self.next.node(id);
        while let Some(below) = node.and_then(|n| n.primary()) {
            node = self.next.node(below.child);
        }
        node.is_some_and(|n| !matches!(n.ty.name, "file" | "host_device" | "host_cdrom"))
            && self.filename(id).is_some_and(|f| filename::prefix(&f).is_some())
    }

    /// The name of the file that stands for a node.
    pub(crate) fn filename(&self, id: NodeId) -> Option<String> {
        let mut node = self.next.node(id)?;
        while let Some(e) = node.primary() {
            node = self.next.node(e.child)?;
        }
        node.driver.as_ref()?.filename()
    }
}

/// A link as `spec` describes it, not yet leading anywhere.
pub(crate) fn new_edge(spec: &ChildOption) -> Edge {
    Edge {
        child: NodeId(0),
        name: spec.name,
        slot: spec.slot,
        role: spec.role,
        frozen: 0,
        seq: 0,
        pair: PermPair::NONE,
    }
}

/// The backing file's path. Only plain file names are taken from an image: no `json:` and no URL.
pub(crate) fn resolve(hint: &BackingHint, own: Option<&str>) -> Result<String, QError> {
    let name = hint.filename.strip_prefix("file:").unwrap_or(&hint.filename);
    let protocol = name.find(':').is_some_and(|at| !name[..at].contains('/'));
    if protocol {
        return Err(no_plain_name(name));
    }
    if name.is_empty() || name.contains('\0') {
        return Err(qerr!("The image's backing file name is empty or broken"));
    }
    if name.starts_with('/') {
        return Ok(name.to_owned());
    }
    let own = own.ok_or_else(|| qerr!("Cannot use relative backing file names for '{name}'"))?;
    Ok(match Path::new(own).parent() {
        Some(dir) if dir.as_os_str().is_empty() => name.to_owned(),
        Some(dir) => format!("{}/{name}", dir.display().to_string().trim_end_matches('/')),
        None => name.to_owned(),
    })
}

async fn canonical(path: &str) -> PathBuf {
    let path = PathBuf::from(path);
    let p = path.clone();
    rt::unblock_short(move || std::fs::canonicalize(p)).await.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(name: &str) -> BackingHint {
        BackingHint { filename: name.into(), format: None }
    }

    #[test]
    fn names_in_headers_are_relative_to_the_image() {
        assert_eq!(resolve(&hint("b.q"), Some("/x/a.q")).unwrap(), "/x/b.q");
        assert_eq!(resolve(&hint("b.q"), Some("a.q")).unwrap(), "b.q");
        assert_eq!(resolve(&hint("d/b.q"), Some("x/a.q")).unwrap(), "x/d/b.q");
        assert_eq!(resolve(&hint("b.q"), Some("/a.q")).unwrap(), "/b.q");
        assert_eq!(resolve(&hint("/b.q"), None).unwrap(), "/b.q");
        assert_eq!(resolve(&hint("file:b.q"), Some("/x/a.q")).unwrap(), "/x/b.q");
        assert!(resolve(&hint("b.q"), None).is_err());
    }

    #[test]
    fn headers_name_files_only() {
        for bad in ["json:{}", "nbd://host/x", "http://a/b", "", "fat:rw:/etc"] {
            assert!(resolve(&hint(bad), Some("/x/a.q")).is_err(), "{bad}");
        }
        assert!(resolve(&hint("./with:colon"), Some("/x/a.q")).is_ok());
    }
}
