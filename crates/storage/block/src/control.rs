//! The control handle of the block layer.

use crate::create::ImageMaker;
use crate::driver::{Cx, Driver, DriverType};
use crate::graph::{Graph, NodeId};
use crate::policy::Policy;
use crate::txn::Txn;
use api::block_core::BlockdevOptions;
use api::job::JobType;
use arc_swap::ArcSwap;
use monitor::EventBus;
use parking_lot::{Mutex, RwLock};
use qapi::{QError, QapiEnum, qerr};
use qom::{ObjectTree, ThrottleGroup};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long the end of the program waits for requests in flight.
const CLOSE_PATIENCE: Duration = Duration::from_secs(60);

/// The block layer: holds the graph and changes it.
///
/// Queries may come from any thread and never wait. Changes come from the control thread; they run one after another,
/// and each to its end even if whoever asked for it loses interest.
pub struct BlockGraph {
    drivers: Vec<&'static DriverType>,
    current: ArcSwap<Graph>,
    ids: AtomicU64,
    names: AtomicU64,
    policy: RwLock<Policy>,
    pub(crate) changing: rt::sync::Mutex<()>,
    events: EventBus,
    objects: RwLock<Option<Arc<ObjectTree>>>,
    maker: RwLock<Option<Arc<dyn ImageMaker>>>,
    /// Throttle groups without objects.
    pub(crate) groups: Mutex<BTreeMap<String, Weak<ThrottleGroup>>>,
    /// Names of nodes that are being opened.
    pub(crate) reserved: Mutex<BTreeSet<String>>,
    /// How often everything was closed.
    pub(crate) closings: AtomicU64,
    me: Weak<BlockGraph>,
}

impl BlockGraph {
    /// An empty graph that knows these drivers and tells `events` what happens.
    pub fn new(drivers: &[&'static DriverType], events: EventBus) -> Arc<BlockGraph> {
        Arc::new_cyclic(|me| BlockGraph {
            drivers: drivers.to_vec(),
            current: ArcSwap::from_pointee(Graph::default()),
            ids: AtomicU64::new(1),
            names: AtomicU64::new(0),
            policy: RwLock::new(Policy::default()),
            changing: rt::sync::Mutex::new(()),
            events,
            objects: RwLock::new(None),
            maker: RwLock::new(None),
            groups: Mutex::default(),
            reserved: Mutex::default(),
            closings: AtomicU64::new(0),
            me: me.clone(),
        })
    }

    /// The graph as it is now.
    pub fn snapshot(&self) -> Arc<Graph> {
        self.current.load_full()
    }

    /// The drivers that there are.
    pub fn drivers(&self) -> &[&'static DriverType] {
        &self.drivers
    }

    /// Where events go.
    pub fn events(&self) -> &EventBus {
        &self.events
    }

    /// The objects that options may refer to.
    pub fn objects(&self) -> Option<Arc<ObjectTree>> {
        self.objects.read().clone()
    }

    /// Says where the objects are that options may refer to, for nodes that are opened from now on.
    pub fn set_objects(&self, objects: Arc<ObjectTree>) {
        *self.objects.write() = Some(objects);
    }

    /// Who makes images by the names of their files.
    pub fn image_maker(&self) -> Option<Arc<dyn ImageMaker>> {
        self.maker.read().clone()
    }

    /// Says who makes images by the names of their files, for commands that do.
    pub fn set_image_maker(&self, maker: Arc<dyn ImageMaker>) {
        *self.maker.write() = Some(maker);
    }

    /// The policy for what images name.
    pub fn policy(&self) -> Policy {
        *self.policy.read()
    }

    /// Sets the policy for nodes that are opened from now on.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.write() = policy;
        let graph = self.snapshot();
        if graph.looks_only != policy.no_io {
            self.publish(Arc::new(Graph { looks_only: policy.no_io, ..(*graph).clone() }));
        }
    }

    pub(crate) fn publish(&self, graph: Arc<Graph>) {
        self.current.store(graph);
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Relaxed)
    }

    /// A name for a node that the user did not name; not used by any node of `graph`.
    pub(crate) fn auto_name(&self, graph: &Graph) -> String {
        loop {
            let name = format!("#block{:03}", self.names.fetch_add(1, Relaxed));
            if graph.by_name(&name).is_none() {
                return name;
            }
        }
    }

    pub(crate) fn driver_type(&self, name: &str) -> Result<&'static DriverType, QError> {
        self.drivers.iter().find(|d| d.name == name).copied().ok_or_else(|| qerr!("Unknown driver '{name}'"))
    }

    pub(crate) fn me(&self) -> Arc<BlockGraph> {
        self.me.upgrade().expect("a method is called through a live Arc")
    }

    /// Runs a change to its end, whatever happens to the caller.
    pub(crate) async fn run<T: 'static, F, Fut>(&self, change: F) -> T
    where
        F: FnOnce(Arc<BlockGraph>) -> Fut,
        Fut: Future<Output = T> + 'static,
    {
        rt::spawn_local(change(self.me())).await
    }

    /// Adds a node (`blockdev-add`), with those that its options define and, where the policy lets it, those that its
    /// image names.
    pub async fn add(&self, options: BlockdevOptions) -> Result<(), QError> {
        self.run(|me| async move { me.do_add(options).await }).await
    }

    /// Removes a node that nothing uses (`blockdev-del`).
    pub async fn del(&self, node: &str) -> Result<(), QError> {
        let node = node.to_owned();
        self.run(|me| async move { me.do_del(&node).await }).await
    }

    /// Changes the options and children of nodes, all or none (`blockdev-reopen`).
    pub async fn reopen(&self, list: Vec<BlockdevOptions>) -> Result<(), QError> {
        self.run(|me| async move { me.do_reopen(list).await }).await
    }

    /// Checks the image of a node that has no user ([`Driver::check`]). `None`: its format has no checks.
    ///
    /// # Errors
    /// There is no such node; the check failed.
    pub async fn check(
        &self,
        node: &str,
        fix: crate::check::Fix,
        log: &mut dyn FnMut(&str),
    ) -> Result<Option<crate::check::Report>, QError> {
        let graph = self.snapshot();
        let node = graph.by_name(node).ok_or_else(|| qerr!("Failed to find node with node-name='{node}'"))?;
        let driver = node.driver.as_ref().ok_or_else(|| qerr!("The node has gone"))?;
        driver.check(&Cx { graph: &graph, node }, fix, log).await
    }

    async fn do_del(&self, name: &str) -> Result<(), QError> {
        let now = self.snapshot();
        if let Some(node) = now.by_name(name) {
            // It is closed with the lock held.
            _ = (Cx { graph: &now, node }).node_flush().await;
        }
        let _one = self.changing.lock().await;
        let mut txn = Txn::new(self);
        let node = txn
            .base
            .by_name(name)
            .ok_or_else(|| qerr!("Failed to find node with node-name='{name}'"))?
            .clone();
        let job = txn.base.job_on(node.id);
        // The source of a backup is kept by the filter above it, as any child is.
        let filtered = matches!(job, Some((JobType::Backup, true))) && !txn.base.internal_job_on(node.id);
        if (job.is_some_and(|(_, about)| about) && !filtered) || txn.base.internal_job_on(node.id) {
            txn.base.no_job_on(node.id)?;
        }
        if (job.is_some() && !filtered)
            || txn.base.roots().any(|r| r.job.is_none() && r.node == Some(node.id))
        {
            return Err(qerr!("Node {name} is in use"));
        }
        let parents: Vec<_> = txn
            .base
            .nodes()
            .flat_map(|p| p.edges.iter().filter(|e| e.child == node.id).map(move |e| (p, e)))
            .collect();
        if let Some((p, _)) = parents.iter().find(|(_, e)| e.slot == crate::driver::ChildSlot::Backing) {
            return Err(qerr!("Node '{name}' is busy: node is used as backing hd of '{}'", p.name));
        }
        let by = txn.base.roots().find(|r| r.node == Some(node.id)).and_then(|r| r.job.as_ref());
        match by.map(|hold| hold.job.ty()) {
            Some(ty @ (JobType::Commit | JobType::Mirror)) => {
                let ty = ty.as_str();
                return Err(qerr!("Node '{name}' is busy: block device is in use by block job: {ty}"));
            }
            Some(_) => return Err(qerr!("Node {name} is in use")),
            None => {}
        }
        if !node.monitor_owned {
            return Err(qerr!("Node {name} is not owned by the monitor"));
        }
        if !parents.is_empty() {
            return Err(qerr!("Block device {name} is in use"));
        }
        if let Some(n) = txn.next.edit(node.id) {
            n.monitor_owned = false;
        }
        txn.finish().await?;
        txn.commit().await;
        Ok(())
    }

    /// Makes everything that was written stable, in all nodes; the first error, after all were tried.
    pub async fn flush_all(&self) -> Result<(), QError> {
        let graph = self.snapshot();
        let mut result = Ok(());
        for id in graph.topological().unwrap_or_default() {
            let Some(node) = graph.node(id) else { continue };
            if let Err(e) = (Cx { graph: &graph, node }).node_flush().await {
                result = result.and(Err(qerr!("Flushing node '{}': {e}", node.name)));
            }
        }
        result
    }

    /// Closes the gates of all roots and waits until no request is in flight. New requests wait until the returned
    /// value is dropped.
    pub async fn drain_all(&self) -> Drained {
        let graph = self.snapshot();
        // A node that is being opened only reads.
        let gates: Vec<_> = graph.roots().filter(|r| r.held.is_none()).map(|r| r.gate.clone()).collect();
        let closed = gates.iter().map(|g| g.close()).collect();
        let hurried = Hurried::new(&graph, graph.roots().filter_map(|r| r.node));
        for g in gates {
            g.idle().await;
        }
        Drained { _closed: closed, _hurried: hurried }
    }

    /// Ends everything, for the end of the program: waits for requests, then closes every node, parents first, with
    /// all that they have to write back. Roots answer `ENOMEDIUM` afterwards.
    pub async fn close_all(&self) {
        self.closings.fetch_add(1, Relaxed);
        self.run(|me| async move {
            let _one = me.changing.lock().await;
            let mut txn = Txn::new(&me);
            txn.ignore_holds();
            let ids: Vec<NodeId> = txn.base.nodes().map(|n| n.id).collect();
            // A request that never ends must not keep everything else from being written back.
            if rt::timeout(CLOSE_PATIENCE, txn.drain(&ids)).await.is_none() {
                tracing::error!("closing block nodes although requests are still in flight");
            }
            for root in txn.next.roots.values_mut() {
                Arc::make_mut(root).node = None;
            }
            txn.next.nodes.clear();
            txn.commit().await;
        })
        .await;
    }
}

/// A drained section: ends when dropped.
#[derive(Debug)]
pub struct Drained {
    _closed: Vec<crate::gate::Closed>,
    _hurried: Hurried,
}

/// Drivers that were told to let go of requests that they hold back; they may hold them again when it is dropped.
pub(crate) struct Hurried(Vec<Arc<dyn Driver>>);

impl Hurried {
    /// Tells the drivers of all nodes at and below `tops`.
    pub(crate) fn new(graph: &Graph, tops: impl IntoIterator<Item = NodeId>) -> Hurried {
        let mut seen = std::collections::BTreeSet::new();
        let mut todo: Vec<NodeId> = tops.into_iter().collect();
        let mut told = Vec::new();
        while let Some(id) = todo.pop() {
            if let Some(node) = graph.node(id)
                && seen.insert(id)
            {
                todo.extend(node.edges.iter().map(|e| e.child));
                if let Some(driver) = &node.driver {
                    driver.drain(true);
                    told.push(driver.clone());
                }
            }
        }
        Hurried(told)
    }
}

impl std::fmt::Debug for Hurried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hurried({})", self.0.len())
    }
}

impl Drop for Hurried {
    fn drop(&mut self) {
        for driver in &self.0 {
            driver.drain(false);
        }
    }
}
