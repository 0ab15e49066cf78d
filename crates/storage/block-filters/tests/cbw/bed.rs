//! What the tests stand on: a simulated disk `s`, a target `t`, the filter `cbw` and its `past`.

use api::block_core::BlockdevOptions;
use base::IoResult;
use block::testing::{DRIVERS, World, WorldGuard};
use block::{BlockGraph, Perm, Root, RootConfig};
use mem::IoBuf;
use qapi::{Value, from_json};
use std::sync::Arc;

pub const PIECE: u64 = 65536;
/// Sixteen pieces, and a short one.
pub const SIZE: u64 = 16 * PIECE + 1536;

pub struct Bed {
    pub graph: Arc<BlockGraph>,
    pub world: Arc<World>,
    /// What the disk held at first.
    pub old: Vec<u8>,
    _guard: WorldGuard,
}

pub fn sim<F: Future>(seed: u64, f: F) -> F::Output {
    rt::sim::Sim::new(seed).block_on(f)
}

pub fn options(text: &str) -> BlockdevOptions {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

impl Bed {
    /// Disk and target only.
    pub async fn bare() -> Bed {
        let world = World::new();
        let guard = world.enter();
        let mut old: Vec<u8> = (0..SIZE).map(|_| rt::sim::rng().below(255) as u8 + 1).collect();
        // Some of it is zeroes.
        old[10 * PIECE as usize..12 * PIECE as usize].fill(0);
        world.create("s", old.clone());
        world.create("t", vec![0; SIZE as usize]);
        let graph = BlockGraph::new(&[DRIVERS, block_filters::DRIVERS].concat(), monitor::EventBus::new());
        let bed = Bed { graph, world, old, _guard: guard };
        for n in ["s", "t"] {
            bed.add(&format!("{{'driver':'file','node-name':'{n}','filename':'{n}','discard':'unmap'}}"))
                .await
                .unwrap();
        }
        bed
    }

    /// With the filter and these options of it (`,'name':value`…).
    pub async fn with(more: &str) -> Bed {
        let bed = Bed::bare().await;
        let filter = format!(
            "{{'driver':'copy-before-write','node-name':'cbw','file':'s','target':'t','discard':'unmap'{more}}}"
        );
        bed.add(&filter).await.unwrap();
        bed.add("{'driver':'snapshot-access','node-name':'past','file':'cbw','discard':'unmap'}")
            .await
            .unwrap();
        bed
    }

    pub async fn add(&self, text: &str) -> Result<(), String> {
        self.graph.add(options(text)).await.map_err(|e| e.desc().to_owned())
    }

    pub async fn root(&self, node: &str, perm: Perm) -> Arc<Root> {
        let config = RootConfig { perm, shared: Perm::all(), ..RootConfig::default() };
        self.graph.attach(node, config).await.unwrap()
    }

    pub async fn guest(&self) -> Arc<Root> {
        self.root("cbw", Perm::all()).await
    }

    pub async fn reader(&self, node: &str) -> Arc<Root> {
        self.root(node, Perm::CONSISTENT_READ).await
    }

    pub async fn writer(&self, node: &str) -> Arc<Root> {
        self.root(node, Perm::CONSISTENT_READ | Perm::WRITE).await
    }

    pub async fn read(&self, root: &Root, off: u64, len: u64) -> IoResult<Vec<u8>> {
        let buf = IoBuf::zeroed(len as usize);
        root.read(off, buf.clone()).await?;
        Ok(buf.to_vec())
    }

    /// Asserts that `root` shows the disk as it was, and tells no wrong zeroes.
    pub async fn is_past(&self, root: &Root) {
        assert!(self.read(root, 0, SIZE).await.unwrap() == self.old);
        let mut pos = 0;
        while pos < SIZE {
            let st = root.map(pos, SIZE - pos).await.unwrap();
            assert!(st.len > 0 && pos + st.len <= SIZE);
            let part = &self.old[pos as usize..(pos + st.len) as usize];
            assert!(!st.zero || part.iter().all(|b| *b == 0), "wrong zeroes at {pos}");
            pos += st.len;
        }
    }
}
