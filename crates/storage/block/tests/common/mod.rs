//! What the tests share: a graph over simulated files.
#![allow(dead_code)] // Each test uses its part.

use api::block_core::BlockdevOptions;
use block::testing::{DRIVERS, World, WorldGuard, create_cow};
use block::{BlockGraph, Perm, Root, RootConfig};
use monitor::EventBus;
use qapi::{Value, from_json};
use std::future::Future;
use std::sync::Arc;

pub const SIZE: u64 = 64 * 1024;

pub struct Bed {
    pub world: Arc<World>,
    pub graph: Arc<BlockGraph>,
    _here: WorldGuard,
}

/// Options from JSON, which may use single quotes.
pub fn opt(text: &str) -> BlockdevOptions {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Anything from JSON, which may use single quotes.
pub fn arg<T: qapi::Qapi>(text: &str) -> T {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

impl Bed {
    /// Files h0 … h3 (copy-on-write images, h1 on h0, h2 on h1; h3 bare) and r0, r1 (plain bytes).
    pub fn new() -> Bed {
        let world = World::new();
        let here = world.enter();
        create_cow(&world, "h0", SIZE, None);
        create_cow(&world, "h1", SIZE, Some("h0"));
        create_cow(&world, "h2", SIZE, Some("h1"));
        create_cow(&world, "h3", SIZE, None);
        world.create("r0", vec![0x11; SIZE as usize]);
        world.create("r1", vec![0x22; SIZE as usize]);
        Bed { world, graph: BlockGraph::new(DRIVERS, EventBus::new()), _here: here }
    }

    pub async fn add(&self, text: &str) {
        self.graph.add(opt(text)).await.unwrap_or_else(|e| panic!("{text}: {e}"));
    }

    pub async fn add_err(&self, text: &str) -> String {
        let before = dump(&self.graph);
        let e = self.graph.add(opt(text)).await.expect_err(text).desc().to_owned();
        assert_eq!(dump(&self.graph), before);
        assert_eq!(self.world.staged(), 0);
        e
    }

    pub async fn reopen(&self, list: &[&str]) {
        let done = self.graph.reopen(list.iter().map(|t| opt(t)).collect()).await;
        done.unwrap_or_else(|e| panic!("{list:?}: {e}"));
    }

    /// A reopen that must fail and leave everything as it was; its message.
    pub async fn reopen_err(&self, list: &[&str]) -> String {
        let before = dump(&self.graph);
        let done = self.graph.reopen(list.iter().map(|t| opt(t)).collect()).await;
        let e = done.expect_err(&format!("{list:?}")).desc().to_owned();
        assert_eq!(dump(&self.graph), before, "{list:?} failed but left traces");
        assert_eq!(self.world.staged(), 0);
        e
    }

    pub async fn del_err(&self, name: &str) -> String {
        self.graph.del(name).await.expect_err(name).desc().to_owned()
    }

    pub async fn writer(&self, node: &str) -> Arc<Root> {
        self.graph.attach(node, writer(node)).await.unwrap_or_else(|e| panic!("{node}: {e}"))
    }

    pub fn names(&self) -> Vec<String> {
        let g = self.graph.snapshot();
        let mut n: Vec<_> = g.nodes().map(|n| n.name.clone()).filter(|n| !n.starts_with('#')).collect();
        n.sort();
        n
    }

    pub fn child(&self, node: &str, edge: &str) -> Option<String> {
        let g = self.graph.snapshot();
        let e = g.by_name(node)?.edge_named(edge)?;
        Some(g.node(e.child)?.name.clone())
    }

    pub fn read_only(&self, node: &str) -> bool {
        self.graph.snapshot().by_name(node).unwrap_or_else(|| panic!("no {node}")).flags.read_only
    }
}

pub fn writer(name: &str) -> RootConfig {
    RootConfig {
        name: format!("dev-{name}"),
        perm: Perm::CONSISTENT_READ | Perm::WRITE,
        shared: Perm::CONSISTENT_READ,
        ..RootConfig::default()
    }
}

/// Everything that a query could tell of the graph, and more.
pub fn dump(graph: &BlockGraph) -> String {
    let g = graph.snapshot();
    let nodes: Vec<_> = g.nodes().map(|n| format!("{n:?} {:?} {:?}", n.options, n.inherits_from)).collect();
    format!("{}\n{nodes:#?}\n{:#?}", graph.describe(), graph.query_named_block_nodes(true))
}

/// `hN` as a format node with its file defined inline.
pub fn o(n: u32, more: &str) -> String {
    format!(
        "{{'driver':'qcow2','node-name':'hd{n}','file':{{'driver':'file','node-name':'hd{n}-file','filename':'h{n}'}}{more}}}"
    )
}

pub fn run<F: Future>(f: impl FnOnce(Bed) -> F) -> F::Output {
    rt::sim::Sim::new(7).block_on(async { f(Bed::new()).await })
}
