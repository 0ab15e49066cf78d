//! Events that formats raise below which a `blkdebug` listens: which of these operations fail when errors begin with an
//! event. What is expected is what the reference does in the same places.

use api::block_core::{BlockdevCreateOptionsQcow2, BlockdevDriver, BlockdevOptions, BlockdevRef};
use block::driver::{DriverType, SnapshotOp, WriteFlags};
use block::testing::{SIM_FILE, World};
use block::{BlockGraph, Perm, Root, RootConfig};
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Value, from_json};
use std::sync::Arc;

const SIZE: u64 = 1 << 20;

fn options(text: &str) -> BlockdevOptions {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn graph() -> Arc<BlockGraph> {
    let own: &[&DriverType] = &[&SIM_FILE];
    let others = [block_formats::DRIVERS, block_test::DRIVERS, block_qcow2::DRIVERS];
    let all: Vec<_> = [own].into_iter().chain(others).flatten().copied().collect();
    BlockGraph::new(&all, EventBus::new())
}

async fn root(g: &BlockGraph, node: &str) -> Arc<Root> {
    let perm = Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE;
    g.attach(node, RootConfig { perm, shared: Perm::all(), ..Default::default() }).await.unwrap()
}

/// An image over a plain one, with this done to it.
async fn prepare(world: &World, first: Before) {
    world.create("base", vec![5; SIZE as usize]);
    world.create("i", Vec::new());
    let g = graph();
    g.add(options("{'driver':'file','node-name':'f','filename':'i'}")).await.unwrap();
    let r = root(&g, "f").await;
    let o = BlockdevCreateOptionsQcow2 {
        file: BlockdevRef::Reference("f".into()),
        data_file: None,
        data_file_raw: None,
        extended_l2: None,
        size: SIZE,
        version: None,
        backing_file: Some("base".into()),
        backing_fmt: Some(BlockdevDriver::Raw),
        encrypt: None,
        cluster_size: None,
        preallocation: None,
        lazy_refcounts: None,
        refcount_bits: None,
        compression_type: None,
    };
    block_qcow2::create::create(&block_qcow2::host::RootHost(&r), &o).await.unwrap();
    r.detach().await;
    g.add(options("{'driver':'qcow2','node-name':'q','file':'f'}")).await.unwrap();
    let r = root(&g, "q").await;
    let one = IoBuf::from_bytes(&vec![3; 65536]);
    match first {
        Before::Nothing => {}
        Before::Written | Before::Snapshot => r.write(0, one, WriteFlags::empty()).await.unwrap(),
        Before::Compressed => r.write(0, one, WriteFlags::COMPRESSED).await.unwrap(),
    }
    r.flush().await.unwrap();
    if first == Before::Snapshot {
        let op = SnapshotOp::Create { name: "s".into(), date: Default::default(), again: false };
        g.internal_snapshot("q", op).await.unwrap();
    }
    r.detach().await;
    g.close_all().await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Written,
    Compressed,
    Snapshot,
}

use Before::{Compressed, Nothing, Snapshot, Written};

/// What is tried: a name, what was there before, and what is done.
const OPERATIONS: &[(&str, Before)] = &[
    ("alloc", Nothing),
    ("part", Nothing),
    ("below", Nothing),
    ("rewrite", Written),
    ("read", Written),
    ("more", Written),
    ("discard", Written),
    ("unpack", Compressed),
    ("pack", Compressed),
    ("shared", Snapshot),
];

/// Which of them fail where errors begin with the event. Writes are flushed.
const WANT: &[(&str, &str)] = &[
    ("l1_update", "alloc part shared"),
    ("l2_load", "rewrite read more discard unpack pack shared"),
    ("l2_update", "alloc part more discard pack shared"),
    ("l2_update_compressed", "pack"),
    ("l2_alloc_cow_read", "shared"),
    ("l2_alloc_write", "alloc part shared"),
    ("read_aio", "read shared"),
    ("read_backing_aio", "part"),
    ("read_compressed", "unpack"),
    ("write_aio", "alloc part rewrite more shared"),
    ("write_compressed", "pack"),
    ("cow_read", "part shared"),
    ("cow_write", "part shared"),
    ("reftable_load", "alloc part below rewrite read more discard unpack pack shared"),
    ("refblock_load", "alloc part more discard pack shared"),
    ("refblock_update_part", "alloc part more discard pack shared"),
    ("refblock_alloc", "alloc part more discard pack shared"),
    ("cluster_alloc", "alloc part more shared"),
    ("cluster_alloc_bytes", "pack"),
    ("cluster_free", "discard shared"),
    ("flush_to_os", "alloc part rewrite more discard pack shared"),
    ("pwritev", "alloc part rewrite more discard pack shared"),
];

async fn try_it(g: &BlockGraph, what: &str) -> Result<(), base::Errno> {
    let r = root(g, "q").await;
    let whole = IoBuf::from_bytes(&vec![7; 65536]);
    let part = whole.slice(0..512);
    let done = match what {
        "alloc" => r.write(0, whole, WriteFlags::empty()).await,
        "part" => r.write(512, part, WriteFlags::empty()).await,
        "rewrite" | "shared" => r.write(0, part, WriteFlags::empty()).await,
        "more" => r.write(65536, whole, WriteFlags::empty()).await,
        "pack" => r.write(65536, whole, WriteFlags::COMPRESSED).await,
        "discard" => r.discard(0, 65536).await,
        _ => r.read(0, part).await,
    };
    let done = done.and(r.flush().await);
    r.detach().await;
    done
}

async fn fails(event: &str, what: &str, before: Before) -> bool {
    let world = World::new();
    let _here = world.enter();
    prepare(&world, before).await;
    let g = graph();
    let node = format!(
        "{{'driver':'qcow2','node-name':'q','discard':'unmap','file':{{'driver':'blkdebug','image':\
         {{'driver':'file','filename':'i','discard':'unmap'}},'inject-error':[{{'event':'{event}'}}]}}}}"
    );
    if g.add(options(&node)).await.is_err() {
        return true;
    }
    let done = try_it(&g, what).await;
    g.close_all().await;
    done.is_err()
}

#[test]
fn formats_raise_events_where_the_reference_does() {
    let mut wrong = Vec::new();
    for (event, want) in WANT {
        for (what, before) in OPERATIONS {
            let failed = rt::sim::Sim::new(1).block_on(fails(event, what, *before));
            if failed != want.split(' ').any(|w| w == *what) {
                wrong.push(format!("{event}: {what} {}", if failed { "failed" } else { "did not fail" }));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn permissions_on_top() {
    rt::sim::Sim::new(1).block_on(async {
        let world = World::new();
        let _here = world.enter();
        world.create("i", vec![0; 4096]);
        let g = graph();
        g.add(options("{'driver':'file','node-name':'f','filename':'i'}")).await.unwrap();
        g.add(options(
            "{'driver':'blkdebug','node-name':'a','image':'f','take-child-perms':['write'],\
             'unshare-child-perms':['resize']}",
        ))
        .await
        .unwrap();
        assert!(g.describe().contains("image -w--/rwu- → f"), "{}", g.describe());
        let other = "{'driver':'blkdebug','node-name':'b','image':'f','unshare-child-perms':['write']}";
        let e = g.add(options(other)).await.unwrap_err();
        assert_eq!(
            e.desc(),
            "Permission conflict on node 'f': permissions 'write' are both required by node 'a' (uses node 'f' as \
             'image' child) and unshared by node 'b' (uses node 'f' as 'image' child)."
        );
        g.close_all().await;
    });
}
