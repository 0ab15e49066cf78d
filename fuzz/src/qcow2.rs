//! A qcow2 image that somebody made: opened, read, written, and checked.

use api::block_core::{BlockdevCreateOptionsQcow2, BlockdevOptions};
use block::driver::{SnapshotOp, WriteFlags, ZeroFlags};
use block::testing::{SIM_FILE, SIM_NULL, SIM_RAW, World};
use block::{BlockGraph, Perm, Root, RootConfig};
use block_qcow2::QCOW2;
use block_qcow2::check::{Fix, check};
use block_qcow2::create::create;
use block_qcow2::host::RootHost;
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Value, from_json};
use rt::sim::Sim;
use std::sync::Arc;

/// The longest image that is tried.
const MAX_INPUT: usize = 256 << 10;
/// How far the file may grow.
const MAX_FILE: u64 = 8 << 20;

fn options(text: &str) -> Option<BlockdevOptions> {
    Value::parse_json(text).and_then(from_json).ok()
}

async fn open(graph: &Arc<BlockGraph>, read_only: bool) -> Option<Arc<Root>> {
    let text = format!(
        "{{'driver':'qcow2','node-name':'image','read-only':{read_only},'backing':null,'file':{{'driver':'file','filename':'image'}}}}"
    );
    graph.add(options(&text)?).await.ok()?;
    let mut perm = Perm::CONSISTENT_READ;
    if !read_only {
        perm |= Perm::WRITE | Perm::RESIZE;
    }
    let config = RootConfig { perm, shared: Perm::all(), desc: "fuzz".into(), ..RootConfig::default() };
    graph.attach("image", config).await.ok()
}

async fn use_it(root: &Root, write: bool) {
    let len = root.len();
    let places = [0, len / 3, len / 2 + 777, len.saturating_sub(40_000)];
    for at in places {
        let n = len.saturating_sub(at).min(40_000);
        _ = root.read(at, IoBuf::zeroed(n as usize)).await;
        _ = root.map(at, n).await;
    }
    if !write {
        return;
    }
    for at in places {
        let n = len.saturating_sub(at).min(9_000);
        _ = root.write(at, IoBuf::from_bytes(&vec![0x5a; n as usize]), WriteFlags::empty()).await;
        _ = root.write_zeroes(at, n, ZeroFlags::MAY_UNMAP).await;
        _ = root.discard(at, n / 2).await;
    }
    _ = root.flush().await;
    for at in places {
        let n = len.saturating_sub(at).min(9_000);
        _ = root.read(at, IoBuf::zeroed(n as usize)).await;
    }
}

/// Opens the bytes as an image, for reading and for writing, uses it, and checks it.
pub fn qcow2(data: &[u8]) {
    if data.len() > MAX_INPUT {
        return;
    }
    Sim::new(1).block_on(async {
        let world = World::new();
        let _here = world.enter();
        for read_only in [true, false] {
            let disk = world.create("image", data.to_vec());
            disk.set_max_len(MAX_FILE);
            let drivers = [&SIM_FILE, &SIM_RAW, &SIM_NULL, &QCOW2];
            let graph = BlockGraph::new(&drivers, EventBus::new());
            if let Some(root) = open(&graph, read_only).await {
                _ = graph.image_info("image");
                use_it(&root, !read_only).await;
                root.detach().await;
            }
            graph.close_all().await;
        }
        for fix in [Fix::None, Fix::All] {
            let disk = world.create("image", data.to_vec());
            disk.set_max_len(MAX_FILE);
            let (graph, root) = file(Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE).await;
            _ = check(&RootHost(&root), fix, &mut |_| ()).await;
            root.detach().await;
            graph.close_all().await;
        }
    });
}

/// The file of the image alone.
async fn file(perm: Perm) -> (Arc<BlockGraph>, Arc<Root>) {
    let graph = BlockGraph::new(&[&SIM_FILE, &SIM_RAW, &SIM_NULL, &QCOW2], EventBus::new());
    let node = options("{'driver':'file','node-name':'file','filename':'image'}");
    graph.add(node.expect("options")).await.expect("a file");
    let config = RootConfig { perm, shared: Perm::all(), desc: "fuzz".into(), ..RootConfig::default() };
    let root = graph.attach("file", config).await.expect("attach");
    (graph, root)
}

/// Options of the images to begin with.
const SEEDS: &[&str] = &[
    "{'file':'file','size':65536,'cluster-size':512}",
    "{'file':'file','size':1048576,'cluster-size':4096,'version':'v2'}",
    "{'file':'file','size':300032,'cluster-size':512,'refcount-bits':1,'lazy-refcounts':true}",
    "{'file':'file','size':1048576,'cluster-size':4096,'compression-type':'zstd'}",
    "{'file':'file','size':1048576,'cluster-size':16384,'extended-l2':true}",
    "{'file':'file','size':1048576,'cluster-size':4096,'backing-file':'b','backing-fmt':'raw'}",
];

/// Small images of each kind, empty and with data, compressed data, a snapshot and a bitmap in them.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    for text in SEEDS {
        Sim::new(1).block_on(async {
            let world = World::new();
            let _here = world.enter();
            let disk = world.create("image", Vec::new());
            let (graph, root) = file(Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE).await;
            let options: BlockdevCreateOptionsQcow2 =
                Value::parse_json(text).and_then(from_json).expect("a seed's options");
            create(&RootHost(&root), &options).await.expect("a seed");
            root.detach().await;
            graph.close_all().await;
            made.push(disk.bytes());

            let graph = BlockGraph::new(&[&SIM_FILE, &SIM_RAW, &SIM_NULL, &QCOW2], EventBus::new());
            let root = open(&graph, false).await.expect("a seed opens");
            let words: Vec<u8> = (0..16384u32).map(|i| (i / 97) as u8).collect();
            root.write(0, IoBuf::from_bytes(&words), WriteFlags::COMPRESSED).await.expect("compressed");
            root.write(20_000, IoBuf::from_bytes(&words[..5000]), WriteFlags::empty()).await.expect("data");
            root.write_zeroes(40_000, 8192, ZeroFlags::empty()).await.expect("zeroes");
            let (name, date) = ("snap".to_owned(), std::time::Duration::from_secs(1));
            // Not every kind of image has snapshots and bitmaps.
            _ = graph.internal_snapshot("image", SnapshotOp::Create { name, date, again: false }).await;
            _ = graph.bitmap_add("image", "bits", None, true, false).await;
            root.write(2048, IoBuf::from_bytes(&words[..512]), WriteFlags::empty()).await.expect("data");
            root.detach().await;
            graph.close_all().await;
            made.push(disk.bytes());
        });
    }
    made
}
