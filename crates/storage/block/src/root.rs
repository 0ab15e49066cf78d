//! Roots: how a device, an export or a tool uses the graph.

use crate::control::{BlockGraph, Hurried};
use crate::drive::ErrorPolicy;
use crate::driver::{Cx, DriverInfo, Limits, Prealloc, WriteFlags, ZeroFlags};
use crate::gate::{Gate, Inside};
use crate::graph::{Graph, Node, NodeId, OnChange, RootDef, RootEvent, RootId};
use crate::open::Place;
use crate::options::to_dict;
use crate::perm::{Perm, PermPair};
use crate::request::{Status, end_of};
use crate::stats::{Access, Stats};
use crate::txn::Txn;
use crate::zoned::{Zone, ZoneLimits, ZoneOp};
use api::block_core::BlockdevOptions;
use base::{Errno, IoResult};
use mem::IoBuf;
use qapi::{QError, qerr};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What a user of the graph asks for.
#[derive(Clone, Default)]
pub struct RootConfig {
    /// The name of the block backend; may be empty. A drive that is attached by its name keeps its own.
    pub name: String,
    /// The path of the guest device in the object tree.
    pub qdev: Option<String>,
    /// What the user will do.
    pub perm: Perm,
    /// What others may do meanwhile.
    pub shared: Perm,
    /// How messages call the user where it has neither name nor device.
    pub desc: String,
    /// The node may be, or become, inactive: as long as it is, nothing is written.
    pub rests: bool,
    /// Every write is stable when it ends.
    pub write_through: bool,
    /// Told of changes.
    pub on_change: Option<OnChange>,
}

/// A user's hold on the graph. Requests may be made from any executor thread.
///
/// Every request passes the root's gate, takes the graph as it is then, and keeps that to its end. Dropping a
/// request's future never stops it half-way: it goes on in the background, and a drain waits for it.
///
/// Call [`Root::detach`] when done; a dropped root stays in the graph.
pub struct Root {
    ctl: Arc<BlockGraph>,
    id: RootId,
    gate: Arc<Gate>,
    name: String,
    stats: Option<Arc<Stats>>,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A request that goes on in the background when its future is dropped.
struct Detached<T: 'static>(Option<Pin<Box<dyn Future<Output = T>>>>);

impl<T> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(inner) = &mut self.0 else { return Poll::Pending };
        let done = std::task::ready!(inner.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(done)
    }
}

impl<T> Drop for Detached<T> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.take()
            && rt::in_executor()
        {
            drop(rt::spawn_local(inner));
        }
    }
}

/// The graph, the root's node and permissions, for one request.
struct Pinned {
    graph: Arc<Graph>,
    node: Arc<Node>,
    perm: Perm,
    /// Every write is to be stable when it ends.
    through: bool,
    _inside: Inside,
}

impl Pinned {
    fn cx(&self) -> Cx<'_> {
        Cx { graph: &self.graph, node: &self.node }
    }

    /// Whether the range lies within the node. A root never grows it by writing.
    fn inside(&self, off: u64, len: u64) -> IoResult<()> {
        if end_of(off, len).map_err(|_| Errno::IO)? > self.cx().len() { Err(Errno::IO) } else { Ok(()) }
    }
}

impl Root {
    /// Passes the gate and takes the graph as it is now.
    async fn pin(&self) -> IoResult<Pinned> {
        let inside = self.gate.enter().await;
        let graph = self.ctl.snapshot();
        let def = graph.root(self.id).ok_or(Errno::NOMEDIUM)?;
        let (node, perm, through) = (def.node.ok_or(Errno::NOMEDIUM)?, def.pair.perm, !def.writeback);
        let node = graph.node(node).ok_or(Errno::NOMEDIUM)?.clone();
        Ok(Pinned { graph, node, perm, through, _inside: inside })
    }

    /// The same for a request that is counted.
    async fn counted<T, Fut>(
        &self,
        access: Access,
        len: u64,
        f: impl FnOnce(Pinned) -> Fut + 'static,
    ) -> IoResult<T>
    where
        T: 'static,
        Fut: Future<Output = IoResult<T>> + 'static,
    {
        if access != Access::Flush
            && let Some(brake) = self.gate.brake()
        {
            let held = move |p: Pinned| async move {
                brake.admit(access == Access::Read, len).await;
                f(p).await
            };
            return self.measured(access, len, held).await;
        }
        self.measured(access, len, f).await
    }

    async fn measured<T, Fut>(&self, access: Access, len: u64, f: impl FnOnce(Pinned) -> Fut) -> IoResult<T>
    where
        T: 'static,
        Fut: Future<Output = IoResult<T>> + 'static,
    {
        let Some(stats) = &self.stats else { return self.request(f).await };
        let begun = Stats::begin();
        let done = self.request(f).await;
        stats.done(access, len, begun, done.is_ok());
        done
    }

    /// Counts a request that the device refused because it made no sense.
    pub fn refused(&self, access: Access) {
        if let Some(stats) = &self.stats {
            stats.invalid(access);
        }
    }

    /// Runs a request to its end, even if the caller goes away.
    async fn request<T, Fut>(&self, f: impl FnOnce(Pinned) -> Fut) -> IoResult<T>
    where
        T: 'static,
        Fut: Future<Output = IoResult<T>> + 'static,
    {
        let pinned = self.pin().await?;
        Detached(Some(Box::pin(f(pinned)))).await
    }

    /// Fills `buf` with the bytes from `off` on. `EIO` beyond the end.
    pub async fn read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.counted(Access::Read, buf.len() as u64, move |p| async move {
            p.inside(off, buf.len() as u64)?;
            p.cx().node_read(off, buf).await
        })
        .await
    }

    /// Writes `buf` at `off`. `EPERM` where the node is read-only or the root has not asked to write; `EIO` beyond
    /// the end.
    pub async fn write(&self, off: u64, buf: IoBuf, flags: WriteFlags) -> IoResult<()> {
        self.counted(Access::Write, buf.len() as u64, move |p| async move {
            p.inside(off, buf.len() as u64)?;
            // What is compressed is written once and seldom flushed one by one.
            let through = p.through && !flags.contains(WriteFlags::COMPRESSED);
            let flags = if through { flags | WriteFlags::FUA } else { flags };
            p.cx().node_write(off, buf, flags, p.perm - Perm::RESIZE).await
        })
        .await
    }

    /// Makes a range read as zeroes.
    pub async fn write_zeroes(&self, off: u64, len: u64, flags: ZeroFlags) -> IoResult<()> {
        self.counted(Access::Write, len, move |p| async move {
            p.inside(off, len)?;
            let flags = if p.through { flags | ZeroFlags::FUA } else { flags };
            p.cx().node_write_zeroes(off, len, flags, p.perm - Perm::RESIZE).await
        })
        .await
    }

    /// Says that the content of a range does not matter any more.
    pub async fn discard(&self, off: u64, len: u64) -> IoResult<()> {
        self.counted(Access::Unmap, len, move |p| async move {
            p.inside(off, len)?;
            p.cx().node_discard(off, len, p.perm).await
        })
        .await
    }

    /// What the node's zones are like; `None` where it is not zoned.
    pub fn zones(&self) -> Option<ZoneLimits> {
        self.with_cx(None, |cx| cx.zones())
    }

    /// The zones from the one that `off` lies in on, `most` at most; none behind the last. `ENOTSUP` where the node is not zoned.
    pub async fn zone_report(&self, off: u64, most: u32) -> IoResult<Vec<Zone>> {
        self.request(move |p| async move { p.cx().node_zone_report(off, most).await }).await
    }

    /// Does something to the zones of a range. `EIO` where it leaves the node, also of one without zones; `EINVAL` where it does
    /// not begin with a zone, or ends within one; `EIO` where it begins with a conventional zone and is not the whole node.
    pub async fn zone_manage(&self, op: ZoneOp, off: u64, len: u64) -> IoResult<()> {
        self.request(move |p| async move {
            p.inside(off, len)?;
            p.cx().node_zone_manage(op, off, len, p.perm).await
        })
        .await
    }

    /// Writes `buf` as a whole at the pointer of the zone that begins at `off`; answers where that was. `EINVAL` where no zone
    /// begins there, where it is conventional, or where a piece of the buffer is no whole number of blocks
    /// ([`ZoneLimits::write_granularity`]); `EIO` where there is no room.
    pub async fn zone_append(&self, off: u64, buf: IoBuf) -> IoResult<u64> {
        self.counted(Access::Append, buf.len() as u64, move |p| async move {
            end_of(off, buf.len() as u64).map_err(|_| Errno::IO)?;
            let at = p.cx().node_zone_append(off, buf, p.perm).await?;
            if p.through {
                p.cx().node_flush().await?;
            }
            Ok(at)
        })
        .await
    }

    /// Reads from the state of a virtual machine that the image keeps. `ENOTSUP` where it keeps none.
    pub async fn read_vm_state(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.request(move |p| async move { p.cx().node_vm_state(off, buf, false).await }).await
    }

    /// Writes to the state of a virtual machine that the image keeps.
    pub async fn write_vm_state(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.request(move |p| async move {
            if !p.cx().node.writable() || !p.perm.contains(Perm::WRITE) {
                return Err(Errno::PERM);
            }
            p.cx().node_vm_state(off, buf, true).await?;
            if p.through { p.cx().node_flush().await } else { Ok(()) }
        })
        .await
    }

    /// Makes all completed writes stable.
    pub async fn flush(&self) -> IoResult<()> {
        self.counted(Access::Flush, 0, |p| async move { p.cx().node_flush().await }).await
    }

    /// Where the bytes from `off` on are, through all backing files.
    pub async fn map(&self, off: u64, len: u64) -> IoResult<Status> {
        self.request(move |p| async move {
            p.inside(off, len)?;
            p.cx().chain_status(off, len).await
        })
        .await
    }

    /// As [`Root::map`], run after run, `most` (at least one) of them: quicker than one request for each. Where one of them fails
    /// that is not the first, those before it are the answer.
    pub async fn map_runs(&self, off: u64, len: u64, most: usize) -> IoResult<Vec<Status>> {
        self.request(move |p| async move {
            p.inside(off, len)?;
            let (mut at, end) = (off, off + len);
            let mut runs = Vec::new();
            loop {
                match p.cx().chain_status(at, end - at).await {
                    Ok(st) => {
                        at += st.len;
                        let ends = st.len == 0;
                        runs.push(st);
                        if ends || at >= end || runs.len() >= most {
                            return Ok(runs);
                        }
                    }
                    Err(e) if runs.is_empty() => return Err(e),
                    Err(_) => return Ok(runs),
                }
            }
        })
        .await
    }

    /// Where the bytes are, as far as the image itself has them: its backing files are not looked at.
    pub async fn map_own(&self, off: u64, len: u64) -> IoResult<Status> {
        self.request(move |p| async move {
            p.inside(off, len)?;
            let own = p.cx().unfiltered().id();
            p.cx().status_down_to(off, len, Some(own)).await
        })
        .await
    }

    /// As [`Root::map`], but the image `bottom` is the last of the chain that is looked at.
    pub async fn map_down_to(&self, off: u64, len: u64, bottom: NodeId) -> IoResult<Status> {
        self.request(move |p| async move {
            p.inside(off, len)?;
            p.cx().status_down_to(off, len, Some(bottom)).await
        })
        .await
    }

    /// Sets the node's length, bytes.
    pub async fn truncate(&self, len: u64, exact: bool, prealloc: Prealloc) -> IoResult<()> {
        self.request(move |p| async move { p.cx().node_truncate(len, exact, prealloc, p.perm).await }).await
    }

    /// What the last truncation that failed could not do, where the image's driver has words for it. Told once.
    pub fn truncate_failure(&self) -> Option<String> {
        self.with_cx(None, |cx| {
            let mut at = cx;
            loop {
                let said = at.driver().ok()?.truncate_failure();
                if said.is_some() {
                    return said;
                }
                at = at.child(at.node.primary()?.slot).ok()?;
            }
        })
    }

    fn with_cx<T>(&self, none: T, f: impl FnOnce(Cx<'_>) -> T) -> T {
        let graph = self.ctl.snapshot();
        match graph.root(self.id).and_then(|r| r.node).and_then(|n| graph.node(n)) {
            Some(node) => f(Cx { graph: &graph, node }),
            None => none,
        }
    }

    /// The length, bytes; 0 without medium.
    pub fn len(&self) -> u64 {
        self.with_cx(0, |cx| cx.len())
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is a node.
    pub fn has_medium(&self) -> bool {
        self.with_cx(false, |_| true)
    }

    /// Whether the node refuses writes.
    pub fn read_only(&self) -> bool {
        self.with_cx(true, |cx| !cx.node.writable())
    }

    /// The needs of requests, should the user want to suit them; it need not.
    pub fn limits(&self) -> Limits {
        self.with_cx(Limits::default(), |cx| cx.limits())
    }

    /// Bytes that are allocated for the node on the host, if that is known.
    pub fn allocated(&self) -> Option<u64> {
        self.with_cx(None, crate::query::allocated)
    }

    /// What the node's driver tells of it; for a filter, that of the node whose bytes it shows.
    pub fn info(&self) -> DriverInfo {
        self.with_cx(DriverInfo::default(), |cx| cx.unfiltered().info())
    }

    /// Whether compressed writes are stored compressed.
    pub fn compresses(&self) -> bool {
        self.with_cx(false, |cx| cx.compresses())
    }

    /// The name of the node, if there is one.
    pub fn node_name(&self) -> Option<String> {
        self.with_cx(None, |cx| Some(cx.node_name().to_owned()))
    }

    /// The name of the block backend; may be empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id in the graph.
    pub fn id(&self) -> RootId {
        self.id
    }

    /// The graph that the root is part of.
    pub fn graph(&self) -> &Arc<BlockGraph> {
        &self.ctl
    }

    /// What the drive's user wants done about I/O errors.
    pub fn error_policy(&self) -> ErrorPolicy {
        self.ctl.snapshot().root(self.id).map_or_else(ErrorPolicy::default, |r| r.on_error)
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> u64 {
        self.gate.in_flight()
    }

    /// Gives the graph back: waits for requests in flight, writes what was written through, and lets go of the node.
    pub async fn detach(&self) {
        let id = self.id;
        self.ctl.run(|me| async move { me.do_detach(id).await }).await;
    }

    /// Puts the root on another node, or on none.
    pub async fn replace(&self, node: Option<&str>) -> Result<(), QError> {
        let (id, node) = (self.id, node.map(str::to_owned));
        self.ctl.run(|me| async move { me.do_replace(id, node.as_deref()).await }).await
    }
}

impl BlockGraph {
    /// Attaches a user to the drive or node of this name. Conflicts with other users are told as such.
    pub async fn attach(&self, name: &str, config: RootConfig) -> Result<Arc<Root>, QError> {
        let name = name.to_owned();
        self.run(|me| async move { me.do_attach(&name, config).await }).await
    }

    /// Opens the node that the options describe for a user of its own: it is closed when that user lets go.
    ///
    /// # Errors
    /// What `blockdev-add` would say.
    pub async fn attach_new(
        &self,
        options: BlockdevOptions,
        config: RootConfig,
    ) -> Result<Arc<Root>, QError> {
        self.run(|me| async move { me.do_attach_new(options, config).await }).await
    }

    /// Whether there is a drive or node of this name.
    pub fn has(&self, name: &str) -> bool {
        let g = self.snapshot();
        g.drive(name).is_some() || g.by_name(name).is_some()
    }

    /// Another handle of the user that has this drive, or of the device of this id: requests are that user's. `None` where
    /// nobody has it. It is never to be detached.
    pub fn user_of(&self, drive: Option<&str>, device: Option<&str>) -> Option<Arc<Root>> {
        let g = self.snapshot();
        let drive = drive.and_then(|d| g.drive(d)).filter(|r| r.qdev.is_some());
        let def = drive.or_else(|| device.and_then(|d| g.roots().find(|r| r.is_device(d))))?;
        let stats = def.qdev.is_some().then(|| def.stats.clone());
        let (gate, name) = (def.gate.clone(), def.name.clone());
        Some(Arc::new(Root { ctl: self.me(), id: def.id, gate, name, stats }))
    }

    async fn do_attach(&self, name: &str, config: RootConfig) -> Result<Arc<Root>, QError> {
        let _one = self.changing.lock().await;
        let mut txn = Txn::new(self);
        let drive = txn.base.drive(name).cloned();
        let def = match drive {
            Some(d) if d.qdev.is_some() || !d.drive => {
                return Err(qerr!("Drive '{name}' is already in use by another device"));
            }
            Some(d) => RootDef {
                qdev: Some(config.qdev.unwrap_or_default()),
                pair: PermPair { perm: config.perm, shared: config.shared },
                rests: config.rests,
                on_change: config.on_change,
                seq: self.next_id(),
                ..(*d).clone()
            },
            None => {
                let not_found = || qerr!("Cannot find device='{name}' nor node-name='{name}'");
                let node = txn.base.by_name(name).ok_or_else(not_found)?.id;
                if txn.base.drive(&config.name).is_some() {
                    return Err(qerr!("Device with id '{}' already exists", config.name));
                }
                self.user_def(node, config)
            }
        };
        let root = self.handle(&def);
        txn.next.roots.insert(def.id, Arc::new(def));
        txn.finish().await?;
        txn.commit().await;
        Ok(root)
    }

    async fn do_attach_new(&self, options: BlockdevOptions, config: RootConfig) -> Result<Arc<Root>, QError> {
        let mut txn = Txn::aside(self);
        let opened = txn.open(to_dict(&options), Place::top()).await;
        let (mut txn, joined, node) = txn.join(opened).await?;
        let def = self.user_def(node, config);
        let root = self.handle(&def);
        txn.next.roots.insert(def.id, Arc::new(def));
        joined.end(self.settle(txn).await).await?;
        Ok(root)
    }

    /// A new user of a node.
    fn user_def(&self, node: NodeId, config: RootConfig) -> RootDef {
        RootDef {
            id: RootId(self.next_id()),
            name: config.name,
            qdev: config.qdev,
            desc: config.desc,
            node: Some(node),
            pair: PermPair { perm: config.perm, shared: config.shared },
            rests: config.rests,
            seq: self.next_id(),
            drive: false,
            writeback: !config.write_through,
            on_error: ErrorPolicy::default(),
            on_change: config.on_change,
            reserves: String::new(),
            job: None,
            held: None,
            gate: Gate::new(),
            stats: Arc::default(),
        }
    }

    fn handle(&self, def: &RootDef) -> Arc<Root> {
        // Requests of devices are counted; those of exports are not.
        let stats = def.qdev.is_some().then(|| def.stats.clone());
        Arc::new(Root { ctl: self.me(), id: def.id, gate: def.gate.clone(), name: def.name.clone(), stats })
    }

    async fn do_detach(&self, id: RootId) {
        let node = self.snapshot().root(id).and_then(|r| r.node);
        self.sound(node.as_slice()).await;
        let _one = self.changing.lock().await;
        let mut txn = Txn::new(self);
        let Some(def) = txn.base.root(id).cloned() else { return };
        let closed = (def.gate.close(), Hurried::new(&txn.base, def.node));
        def.gate.idle().await;
        if let Some(node) = def.node.and_then(|n| txn.base.node(n)) {
            let cx = Cx { graph: &txn.base, node };
            if let Err(e) = cx.node_flush().await {
                tracing::error!(node = %node.name, "flushing on detach: {e}");
            }
        }
        if def.drive {
            // The drive stays, as it was before a device took it.
            let pair = PermPair::NONE;
            let def = RootDef { qdev: None, on_change: None, pair, ..(*def).clone() };
            txn.next.roots.insert(id, Arc::new(def));
        } else {
            txn.next.roots.remove(&id);
        }
        // Letting go cannot conflict with anybody; a driver that fails to stage less keeps what it has.
        match txn.finish().await {
            Ok(()) => drop(txn.commit().await),
            Err(e) => tracing::error!("detaching a block device: {e}"),
        }
        drop(closed);
    }

    async fn do_replace(&self, id: RootId, name: Option<&str>) -> Result<(), QError> {
        let node = self.snapshot().root(id).and_then(|r| r.node);
        self.sound(node.as_slice()).await;
        let _one = self.changing.lock().await;
        let mut txn = Txn::new(self);
        let def = txn.base.root(id).cloned().ok_or_else(|| qerr!("The block device has gone"))?;
        let node = match name {
            Some(n) => {
                let not_found = || qerr!("Cannot find device='{n}' nor node-name='{n}'");
                Some(txn.base.by_name(n).ok_or_else(not_found)?.id)
            }
            None => None,
        };
        let closed = (def.gate.close(), Hurried::new(&txn.base, def.node));
        def.gate.idle().await;
        let seq = self.next_id();
        let on_change = def.on_change.clone();
        txn.next.roots.insert(id, Arc::new(RootDef { node, seq, ..(*def).clone() }));
        txn.finish().await?;
        txn.commit().await;
        if let Some(f) = on_change {
            f(RootEvent::Replaced);
        }
        drop(closed);
        Ok(())
    }
}
