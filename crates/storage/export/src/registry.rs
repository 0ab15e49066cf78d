//! All exports of the program, by id.

use crate::kind::{ExportKind, NewExport, Running};
use crate::nbd_export::{NbdExport, Parts};
use crate::server::{Names, Server, Tls, named};
use api::block_core::BlockDirtyBitmapOrStr;
use api::block_export::{
    BlockExportDeletedEvent, BlockExportInfo, BlockExportKind, BlockExportOptions, BlockExportOptionsNbd,
    BlockExportRemoveMode, BlockExportType, NbdServerAdd, NbdServerOptions,
};
use block::{BlockGraph, Perm, RootConfig};
use io::Listener;
use io::tls::Role;
use nbd::spec::MAX_STRING;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use qom::ObjectTree;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a command waits for the last requests of clients that were disconnected. The rest happens afterwards.
const PATIENCE: Duration = Duration::from_secs(5);

/// The exports and the NBD server. Used on the control thread; queries may come from anywhere.
pub struct Exports {
    graph: Arc<BlockGraph>,
    objects: Arc<ObjectTree>,
    state: Mutex<State>,
    names: Names,
    /// Changes come one after another.
    changing: rt::sync::Mutex<()>,
    me: Weak<Exports>,
}

#[derive(Default)]
struct State {
    /// In the order in which they were made.
    list: Vec<Arc<Entry>>,
    kinds: Vec<Arc<dyn ExportKind>>,
    server: Option<Arc<Server>>,
    /// Where clients are served; lives as long as this does, so that no client's request is cut off.
    thread: Option<Arc<rt::IoThread>>,
}

/// An export of any kind.
struct Entry {
    id: String,
    ty: BlockExportType,
    node_name: String,
    running: Arc<dyn Running>,
}

impl Exports {
    /// No exports yet. `objects` holds the iothreads that they may name.
    pub fn new(graph: Arc<BlockGraph>, objects: Arc<ObjectTree>) -> Arc<Exports> {
        Arc::new_cyclic(|me| Exports {
            graph,
            objects,
            state: Mutex::default(),
            names: Names::default(),
            changing: rt::sync::Mutex::new(()),
            me: me.clone(),
        })
    }

    /// Makes a kind of export known.
    pub fn register(&self, kind: Arc<dyn ExportKind>) {
        self.state.lock().kinds.push(kind);
    }

    /// Runs a change to its end, whatever happens to the caller.
    async fn run<T: 'static, Fut>(&self, change: impl FnOnce(Arc<Exports>) -> Fut) -> T
    where
        Fut: Future<Output = T> + 'static,
    {
        let me = self.me.upgrade().expect("a method is called through a live Arc");
        rt::spawn_local(change(me)).await
    }

    /// Starts the NBD server.
    ///
    /// # Errors
    /// It runs already, or cannot listen there.
    pub async fn start_server(&self, options: NbdServerOptions) -> Result<(), QError> {
        self.run(|me| async move { me.do_start_server(options).await }).await
    }

    async fn do_start_server(&self, options: NbdServerOptions) -> Result<(), QError> {
        let _one = self.changing.lock().await;
        if self.state.lock().server.is_some() {
            return Err(qerr!("NBD server already running"));
        }
        let server = self.new_server(&options)?;
        let addr = nbd::addr::to_io(&options.addr)?;
        let listener = Listener::bind(&addr).await.map_err(|e| QError::new(e.to_string()))?;
        server.begin(listener, &self.thread()?.handle());
        self.state.lock().server = Some(server);
        Ok(())
    }

    /// A server as the options say, but for the address.
    fn new_server(&self, options: &NbdServerOptions) -> Result<Arc<Server>, QError> {
        let tls = match (&options.tls_creds, &options.tls_authz) {
            (Some(id), authz) => {
                let creds = self.objects.tls(id, Role::Server)?;
                let authz = authz.as_deref().map(|id| self.objects.authz(id)).transpose()?;
                Some(Tls { creds, authz })
            }
            (None, Some(_)) => return Err(qerr!("'tls-authz' needs 'tls-creds'")),
            (None, None) => None,
        };
        Ok(Server::new(
            self.names.clone(),
            options.max_connections.unwrap_or(100),
            options.handshake_max_seconds.unwrap_or(10),
            tls,
        ))
    }

    /// The thread on which clients are served.
    fn thread(&self) -> Result<Arc<rt::IoThread>, QError> {
        let running = self.state.lock().thread.clone();
        if let Some(thread) = running {
            return Ok(thread);
        }
        let thread = rt::IoThread::spawn("nbd").map_err(|e| qerr!("cannot start a thread: {e}"))?;
        let thread = Arc::new(thread);
        self.state.lock().thread = Some(thread.clone());
        Ok(thread)
    }

    /// Starts the NBD server with one NBD export, which the first client finds already. The clients come to `listener`:
    /// the address in the options is not looked at.
    ///
    /// # Errors
    /// As for [`Exports::start_server`] and [`Exports::add`].
    pub async fn serve(
        &self,
        listener: Listener,
        server: NbdServerOptions,
        export: BlockExportOptions,
    ) -> Result<(), QError> {
        self.run(|me| async move {
            let server = {
                let _one = me.changing.lock().await;
                let server = me.new_server(&server)?;
                let slot = &mut me.state.lock().server;
                if slot.is_some() {
                    return Err(qerr!("NBD server already running"));
                }
                *slot = Some(server.clone());
                server
            };
            me.do_add(export).await?;
            server.begin(listener, &me.thread()?.handle());
            Ok(())
        })
        .await
    }

    /// Waits until an NBD export has had clients and has none any more; for ever, if it goes before that.
    pub async fn visited(&self, name: &str) {
        let export = named(&self.names, name);
        match export {
            Some(export) => export.visited().await,
            None => std::future::pending().await,
        }
    }

    /// Stops the NBD server: disconnects its clients and removes its exports.
    ///
    /// # Errors
    /// It does not run.
    pub async fn stop_server(&self) -> Result<(), QError> {
        self.run(|me| async move { me.do_stop_server().await }).await
    }

    async fn do_stop_server(&self) -> Result<(), QError> {
        let _one = self.changing.lock().await;
        let server = self.state.lock().server.take().ok_or_else(|| qerr!("NBD server not running"))?;
        server.stop().await;
        self.end_all(|e| e.ty == BlockExportType::Nbd).await;
        Ok(())
    }

    /// Has the NBD server leave its socket behind when it stops. That is how it is where a program with a monitor ends, so
    /// that whoever removes the socket then finds it; the next server at that place replaces it.
    pub fn leave_socket(&self) {
        if let Some(server) = &self.state.lock().server {
            server.leave_socket();
        }
    }

    /// Ends the exports that `which` chooses.
    async fn end_all(&self, which: impl Fn(&Entry) -> bool) {
        let list = self.state.lock().list.clone();
        // All begin to end before one is waited for.
        let chosen = list.iter().rev().filter(|e| which(e));
        let ending: Vec<_> = chosen.map(|e| self.begin_end(e, true)).collect();
        for task in ending.into_iter().flatten() {
            _ = rt::timeout(PATIENCE, task).await;
        }
    }

    /// Adds an export.
    ///
    /// # Errors
    /// The id or name is taken or malformed, there is no such node or iothread, or the node's other users do not
    /// admit it.
    pub async fn add(&self, options: BlockExportOptions) -> Result<(), QError> {
        self.run(|me| async move { me.do_add(options).await }).await
    }

    async fn do_add(&self, options: BlockExportOptions) -> Result<(), QError> {
        let _one = self.changing.lock().await;
        let ty = type_of(&options.kind);
        if qom::check_id(&options.id).is_err() {
            return Err(qerr!("Invalid block export id"));
        }
        if self.find(&options.id).is_some() {
            return Err(qerr!("Block export id '{}' is already in use", options.id));
        }
        let graph = self.graph.snapshot();
        let node = graph
            .by_name(&options.node_name)
            .ok_or_else(|| qerr!("Cannot find device='' nor node-name='{}'", options.node_name))?;
        let rests = options.allow_inactive.unwrap_or(false);
        if rests && ty != BlockExportType::Nbd {
            return Err(qerr!("Export type does not support inactive exports"));
        }
        if !rests && node.flags.inactive {
            self.graph.set_active(Some(&options.node_name), true).await?;
        }
        let writable = options.writable.unwrap_or(false);
        if writable && node.flags.read_only {
            return Err(qerr!("Cannot export read-only node as writable"));
        }
        let iothread = match &options.iothread {
            None => None,
            Some(id) => {
                let object = self.objects.get(id).filter(|o| o.iothread().is_some());
                Some(object.ok_or_else(|| qerr!("iothread \"{id}\" not found"))?)
            }
        };
        let mut perm = Perm::CONSISTENT_READ;
        perm.set(Perm::WRITE, writable);
        let root = RootConfig { perm, shared: Perm::all(), rests, ..RootConfig::default() };
        let new = NewExport { options: &options, graph: &self.graph, root, iothread };
        let running: Arc<dyn Running> = if let BlockExportKind::Nbd(nbd) = &options.kind {
            self.start_nbd(nbd, new).await?
        } else {
            let kind = self.state.lock().kinds.iter().find(|k| k.ty() == ty).cloned();
            let kind = kind.ok_or_else(|| qerr!("This program has no block exports of this type"))?;
            kind.start(new).await?
        };
        let entry = Entry { id: options.id, ty, node_name: options.node_name, running };
        self.state.lock().list.push(Arc::new(entry));
        Ok(())
    }

    async fn start_nbd(
        &self,
        nbd: &BlockExportOptionsNbd,
        new: NewExport<'_>,
    ) -> Result<Arc<NbdExport>, QError> {
        let NewExport { options, mut root, iothread, .. } = new;
        // Clients are told the length once.
        root.shared -= Perm::RESIZE;
        let server = self.state.lock().server.clone();
        let multi = server.ok_or_else(|| qerr!("NBD server not running"))?.max_connections != 1;
        let name = nbd.name.clone().unwrap_or_else(|| options.node_name.clone());
        if name.len() > MAX_STRING {
            return Err(qerr!("export name '{name}' too long"));
        }
        let description = nbd.description.clone().unwrap_or_default();
        if description.len() > MAX_STRING {
            return Err(qerr!("description '{description}' too long"));
        }
        if named(&self.names, &name).is_some() {
            return Err(qerr!("NBD server already has export named '{name}'"));
        }
        let writable = options.writable.unwrap_or(false);
        let bitmaps = nbd.bitmaps.clone().unwrap_or_default();
        let bitmaps = self.graph.bitmaps_to_show(&options.node_name, writable, &bitmaps)?;
        let root = self.graph.attach(&options.node_name, root).await?;
        let parts = Parts {
            name,
            description,
            writable,
            through: options.writethrough.unwrap_or(false),
            depth: nbd.allocation_depth.unwrap_or(false),
            bitmaps,
            multi,
            iothread,
            names: self.names.clone(),
        };
        let export = NbdExport::new(parts, root);
        self.names.lock().push(export.clone());
        Ok(export)
    }

    /// Adds an export as `nbd-server-add` does: by the name of a drive or node, which is the export's id too, and
    /// read-only where the node is.
    ///
    /// # Errors
    /// As for [`Exports::add`].
    pub async fn add_old(&self, options: NbdServerAdd) -> Result<(), QError> {
        if self.state.lock().server.is_none() {
            return Err(qerr!("NBD server not running"));
        }
        let graph = self.graph.snapshot();
        let device = &options.device;
        let node = match graph.drive(device) {
            Some(d) => {
                d.node.and_then(|n| graph.node(n)).ok_or_else(|| qerr!("Device '{device}' has no medium"))?
            }
            None => graph
                .by_name(device)
                .ok_or_else(|| qerr!("Cannot find device='{device}' nor node-name='{device}'"))?,
        };
        let name = options.name.unwrap_or_else(|| device.clone());
        self.add(BlockExportOptions {
            kind: BlockExportKind::Nbd(BlockExportOptionsNbd {
                name: Some(name.clone()),
                description: options.description,
                bitmaps: options.bitmap.map(|b| vec![BlockDirtyBitmapOrStr::Local(b)]),
                allocation_depth: None,
            }),
            id: name,
            fixed_iothread: None,
            iothread: None,
            node_name: node.name.clone(),
            writable: Some(options.writable.unwrap_or(false) && node.writable()),
            writethrough: None,
            allow_inactive: None,
        })
        .await
    }

    fn find(&self, id: &str) -> Option<Arc<Entry>> {
        self.state.lock().list.iter().find(|e| e.id == id).cloned()
    }

    /// Removes an export. Where it has clients: fails, or disconnects them.
    ///
    /// # Errors
    /// There is no such export, or it is in use and `mode` is safe.
    pub async fn del(&self, id: &str, mode: Option<BlockExportRemoveMode>) -> Result<(), QError> {
        let (id, hard) = (id.to_owned(), mode == Some(BlockExportRemoveMode::Hard));
        self.run(|me| async move {
            let _one = me.changing.lock().await;
            let export = me.find(&id).ok_or_else(|| qerr!("Export '{id}' is not found"))?;
            if export.running.is_closed() {
                return Err(qerr!("Export '{id}' is already shutting down"));
            }
            match me.begin_end(&export, hard) {
                Some(task) => drop(rt::timeout(PATIENCE, task).await),
                None => {
                    return Err(qerr!("export '{id}' still in use")
                        .with_hint("Use mode='hard' to force client disconnect\n"));
                }
            }
            Ok(())
        })
        .await
    }

    /// Begins the end of an export; the task is through when it is gone. `None` where it has clients and `hard` is off,
    /// or where its end has begun already.
    fn begin_end(&self, export: &Arc<Entry>, hard: bool) -> Option<rt::JoinHandle<()>> {
        if export.running.is_closed() || !export.running.close(hard) {
            return None;
        }
        let (me, export) = (self.me.upgrade()?, export.clone());
        Some(rt::spawn_local(async move {
            export.running.clone().end().await;
            me.state.lock().list.retain(|e| !Arc::ptr_eq(e, &export));
            me.graph.events().emit(BlockExportDeletedEvent { id: export.id.clone() });
        }))
    }

    /// The exports, newest first.
    pub fn query(&self) -> Vec<BlockExportInfo> {
        let state = self.state.lock();
        let info = |e: &Arc<Entry>| BlockExportInfo {
            id: e.id.clone(),
            r#type: e.ty,
            // Jobs and snapshots move it from node to node.
            node_name: e.running.root().node_name().unwrap_or_else(|| e.node_name.clone()),
            shutting_down: e.running.is_closed(),
            x_rhea_device: e.running.device(),
        };
        state.list.iter().rev().map(info).collect()
    }

    /// Ends everything, before the block graph is closed.
    pub async fn close_all(&self) {
        // Not running is as good.
        _ = self.stop_server().await;
        self.run(|me| async move {
            let _one = me.changing.lock().await;
            me.end_all(|_| true).await;
        })
        .await;
    }
}

fn type_of(kind: &BlockExportKind) -> BlockExportType {
    match kind {
        BlockExportKind::Nbd(_) => BlockExportType::Nbd,
        BlockExportKind::VhostUserBlk(_) => BlockExportType::VhostUserBlk,
        BlockExportKind::Fuse(_) => BlockExportType::Fuse,
        BlockExportKind::RheaUblk(_) => BlockExportType::RheaUblk,
    }
}
