//! What the tests share: a graph over simulated files, jobs on it, and their events.
#![allow(dead_code)] // Each test uses its part.

use block::job::Jobs;
use block::testing::{DRIVERS, World, WorldGuard, create_cow};
use block::{BlockGraph, Perm, Root, RootConfig};
use mem::IoBuf;
use monitor::{EventBus, EventStream};
use qapi::{QError, Qapi, Value, from_json};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub const SIZE: u64 = 256 * 1024;

pub struct Bed {
    pub world: Arc<World>,
    pub graph: Arc<BlockGraph>,
    pub jobs: Arc<Jobs>,
    pub events: EventStream,
    _here: WorldGuard,
}

/// Arguments from JSON, which may use single quotes.
pub fn arg<T: Qapi>(text: &str) -> T {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

impl Bed {
    /// Images h0 … h2, each on the one before, with bytes of their own; h3 alone and empty; nodes hd0 … hd3 and
    /// hd0-file ….
    pub async fn new() -> Bed {
        let world = World::new();
        let here = world.enter();
        create_cow(&world, "h0", SIZE, None);
        create_cow(&world, "h1", SIZE, Some("h0"));
        create_cow(&world, "h2", SIZE, Some("h1"));
        create_cow(&world, "h3", SIZE, None);
        let events = EventBus::new();
        let stream = events.listen(10_000);
        let graph = BlockGraph::new(&[DRIVERS, block_test::DRIVERS].concat(), events);
        let jobs = Jobs::new(graph.clone());
        let bed = Bed { world, graph, jobs, events: stream, _here: here };
        for n in 0..4 {
            let below = if n % 3 == 0 { String::new() } else { format!(",'backing':'hd{}'", n - 1) };
            bed.add(n, &below).await;
            if n < 3 {
                bed.put(&format!("hd{n}"), u64::from(n) * 32 * 1024, 0x10 * (n as u8 + 1), 64 * 1024).await;
            }
        }
        bed
    }

    async fn add(&self, n: u32, more: &str) {
        let text = format!(
            "{{'driver':'qcow2','node-name':'hd{n}','file':{{'driver':'file','node-name':'hd{n}-file','filename':'h{n}'}}{more}}}"
        );
        self.graph.add(arg(&text)).await.unwrap_or_else(|e| panic!("{text}: {e}"));
    }

    pub async fn put(&self, node: &str, off: u64, byte: u8, len: usize) {
        let w = self.user(node).await;
        let done = w.write(off, IoBuf::from_bytes(&vec![byte; len]), Default::default()).await;
        done.unwrap_or_else(|e| panic!("{node}: {e}"));
        w.detach().await;
    }

    /// All bytes that a reader of the node sees.
    pub async fn bytes(&self, node: &str) -> Vec<u8> {
        let config = RootConfig { perm: Perm::empty(), shared: Perm::all(), ..RootConfig::default() };
        let r = self.graph.attach(node, config).await.unwrap_or_else(|e| panic!("{node}: {e}"));
        let buf = IoBuf::zeroed(r.len() as usize);
        r.read(0, buf.clone()).await.unwrap_or_else(|e| panic!("{node}: {e}"));
        r.detach().await;
        buf.to_vec()
    }

    /// A user that reads and writes.
    pub async fn user(&self, node: &str) -> Arc<Root> {
        let config = RootConfig {
            perm: Perm::CONSISTENT_READ | Perm::WRITE,
            shared: Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED,
            ..RootConfig::default()
        };
        self.graph.attach(node, config).await.unwrap_or_else(|e| panic!("{node}: {e}"))
    }

    pub fn names(&self) -> Vec<String> {
        let g = self.graph.snapshot();
        let mut n: Vec<_> = g.nodes().map(|n| n.name.clone()).filter(|n| !n.ends_with("-file")).collect();
        n.sort();
        n
    }

    pub fn child(&self, node: &str, edge: &str) -> Option<String> {
        let g = self.graph.snapshot();
        let e = g.by_name(node)?.edge_named(edge)?;
        Some(g.node(e.child)?.name.clone())
    }

    pub async fn commit(&self, text: &str) -> Result<(), QError> {
        block_jobs::commit::commit(&self.jobs, arg(text)).await
    }

    pub async fn mirror(&self, text: &str) -> Result<(), QError> {
        block_jobs::mirror::mirror(&self.jobs, arg(text)).await
    }

    pub async fn backup(&self, text: &str) -> Result<(), QError> {
        block_jobs::backup::backup(&self.jobs, arg(text)).await
    }

    pub async fn stream(&self, text: &str) -> Result<(), QError> {
        block_jobs::stream::stream(&self.jobs, arg(text)).await
    }

    /// Lets time pass until the job's state is `status`, or it has gone.
    pub async fn until(&self, id: &str, status: &str) {
        use qapi::QapiEnum;
        for _ in 0..100_000 {
            match self.jobs.get(id) {
                Ok(j) if j.status().as_str() != status => rt::sleep(Duration::from_millis(1)).await,
                _ => return,
            }
        }
        panic!("job {id} never became {status}: {:?}", self.jobs);
    }

    /// What was told since the last call: states as they are, other events in capitals.
    pub fn told(&self) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(e) = self.events.try_next() {
            let v = e.to_value();
            let name = v.get("event").and_then(Value::as_str).unwrap_or("").to_owned();
            let status = v.get("data").and_then(|d| d.get("status")).and_then(Value::as_str);
            out.push(match name.as_str() {
                "JOB_STATUS_CHANGE" => status.unwrap_or("?").to_owned(),
                n => n.to_owned(),
            });
        }
        out
    }
}

pub fn run<F: Future>(f: impl FnOnce(Bed) -> F) -> F::Output {
    run_seed(7, f)
}

pub fn run_seed<F: Future>(seed: u64, f: impl FnOnce(Bed) -> F) -> F::Output {
    rt::sim::Sim::new(seed).block_on(async { f(Bed::new().await).await })
}
