//! `compress` and `preallocate` under and over a qcow2 image.

#[path = "../../block-qcow2/tests/common/mod.rs"]
mod image;

use base::units::MIB;
use block::driver::{WriteFlags, ZeroFlags};
use block::perm::Perm;
use block::testing::{Faults, SIM_FILE, SIM_RAW, World, WorldGuard};
use block::{BlockGraph, Root, RootConfig};
use mem::IoBuf;
use qapi::{Value, from_json};
use std::sync::Arc;

const CLUSTER: u64 = 4096;

struct Bed {
    graph: Arc<BlockGraph>,
    world: Arc<World>,
    _guard: WorldGuard,
}

impl Bed {
    /// A file `f` that holds a qcow2 image of `size` bytes, as the node `f`.
    async fn new(size: u64) -> Bed {
        let world = World::new();
        let guard = world.enter();
        world.create("f", image::image(&image::options(size, CLUSTER, None)));
        let drivers = [&[&SIM_FILE, &SIM_RAW], block_filters::DRIVERS, block_qcow2::DRIVERS].concat();
        let bed = Bed { graph: BlockGraph::new(&drivers, monitor::EventBus::new()), world, _guard: guard };
        bed.add("{'driver':'file','node-name':'f','filename':'f'}").await.unwrap();
        bed
    }

    async fn add(&self, text: &str) -> Result<(), String> {
        let o = Value::parse_json(text).and_then(from_json).map_err(|e: qapi::QError| e.desc().to_owned())?;
        self.graph.add(o).await.map_err(|e| e.desc().to_owned())
    }

    async fn reopen(&self, text: &str) -> Result<(), String> {
        let o = Value::parse_json(text).and_then(from_json).unwrap();
        self.graph.reopen(vec![o]).await.map_err(|e| e.desc().to_owned())
    }

    async fn root(&self, node: &str) -> Arc<Root> {
        let config = RootConfig { perm: Perm::all(), shared: Perm::all(), ..RootConfig::default() };
        self.graph.attach(node, config).await.unwrap()
    }

    fn file_len(&self) -> u64 {
        self.world.disk("f").unwrap().bytes().len() as u64
    }
}

async fn read(root: &Root, off: u64, len: u64) -> Vec<u8> {
    let buf = IoBuf::zeroed(len as usize);
    root.read(off, buf.clone()).await.unwrap();
    buf.to_vec()
}

fn below(n: u64) -> u64 {
    rt::sim::rng().below(n)
}

#[test]
fn all_writes_are_compressed() {
    for seed in 0..12 {
        rt::sim::Sim::new(seed).block_on(async {
            // The last cluster is short.
            let size = 40 * CLUSTER + 512;
            let bed = Bed::new(size).await;
            bed.add("{'driver':'qcow2','node-name':'q','file':'f'}").await.unwrap();
            bed.add("{'driver':'compress','node-name':'z','file':'q'}").await.unwrap();
            bed.world.set_faults(Faults { delay: 200, ..Faults::default() });
            let root = bed.root("z").await;
            let mut model = vec![0u8; size as usize];
            for _ in 0..60 {
                let off = below(size);
                let len = (1 + below(3 * CLUSTER)).min(size - off);
                let range = off as usize..(off + len) as usize;
                if below(5) == 0 {
                    root.write_zeroes(off, len, ZeroFlags::empty()).await.unwrap();
                    model[range].fill(0);
                } else {
                    let byte = below(256) as u8;
                    let data = vec![byte; len as usize];
                    root.write(off, IoBuf::from_bytes(&data), WriteFlags::empty()).await.unwrap();
                    model[range].fill(byte);
                }
            }
            assert!(read(&root, 0, size).await == model, "seed {seed}");
            root.write(0, IoBuf::from_bytes(&[1; 2 * CLUSTER as usize]), WriteFlags::empty()).await.unwrap();
            root.write(size - 512, IoBuf::from_bytes(&[2; 512]), WriteFlags::empty()).await.unwrap();
            for off in [0, CLUSTER, size - 512] {
                assert!(root.map(off, 512).await.unwrap().compressed, "at {off}");
            }
            assert_eq!(read(&root, size - 512, 512).await, [2; 512]);
            root.detach().await;
        });
    }
}

#[test]
fn compressing_needs_a_format_that_can() {
    rt::sim::Sim::new(1).block_on(async {
        let bed = Bed::new(MIB).await;
        let no = |d: &str| format!("Compression is not supported for underlying format: {d}");
        assert_eq!(
            bed.add("{'driver':'compress','node-name':'z','file':'f'}").await.unwrap_err(),
            no("file")
        );
        let raw = "{'driver':'compress','node-name':'z','file':{'driver':'raw','file':'f'}}";
        assert_eq!(bed.add(raw).await.unwrap_err(), no("raw"));
    });
}

#[test]
fn space_is_allocated_ahead_and_given_back() {
    for seed in 0..8 {
        rt::sim::Sim::new(seed).block_on(async {
            let bed = Bed::new(4 * MIB).await;
            let empty = bed.file_len();
            bed.add(
                "{'driver':'preallocate','node-name':'p','file':'f','prealloc-size':1048576,'prealloc-align':65536}",
            )
            .await
            .unwrap();
            assert_eq!(bed.file_len(), empty);
            bed.add("{'driver':'qcow2','node-name':'q','file':'p'}").await.unwrap();
            bed.world.set_faults(Faults { delay: 300, ..Faults::default() });
            let root = bed.root("q").await;
            let mut model = vec![0u8; 4 * MIB as usize];
            let mut lengths = std::collections::BTreeSet::new();
            for round in 0..8u64 {
                let mut tasks = Vec::new();
                for i in 0..4u64 {
                    let (root, off, byte) = (root.clone(), round * 65536 * 8 + i * 65536, (round * 4 + i + 1) as u8);
                    model[off as usize..off as usize + 40_000].fill(byte);
                    tasks.push(rt::spawn_local(async move {
                        root.write(off, IoBuf::from_bytes(&[byte; 40_000]), WriteFlags::empty()).await.unwrap();
                    }));
                }
                for t in tasks {
                    t.await;
                }
                lengths.insert(bed.file_len());
            }
            // 1.3 MB of data in 32 pieces, but the file grew in few steps.
            assert!(lengths.len() <= 3, "{lengths:?}");
            assert!(lengths.iter().all(|l| l.is_multiple_of(65536)), "{lengths:?}");
            let longest = *lengths.last().unwrap();
            assert!(longest > MIB);
            assert!(read(&root, 0, 4 * MIB).await == model, "seed {seed}");
            // Another size from now on.
            bed.reopen("{'driver':'preallocate','node-name':'p','file':'f','prealloc-size':0,'prealloc-align':512}")
                .await
                .unwrap();
            root.detach().await;
            bed.graph.del("q").await.unwrap();
            let cut = bed.file_len();
            assert!(cut < longest && cut > MIB, "{cut} of {longest}");
            bed.graph.del("p").await.unwrap();
            assert_eq!(bed.file_len(), cut);
            bed.add("{'driver':'qcow2','node-name':'q','file':'f'}").await.unwrap();
            let root = bed.root("q").await;
            assert!(read(&root, 0, 4 * MIB).await == model, "seed {seed}");
            root.detach().await;
        });
    }
}

#[test]
fn the_whole_chain_goes_at_once() {
    rt::sim::Sim::new(1).block_on(async {
        let bed = Bed::new(4 * MIB).await;
        bed.add("{'driver':'qcow2','node-name':'q','file':{'driver':'preallocate','file':'f'}}")
            .await
            .unwrap();
        let root = bed.root("q").await;
        root.write(0, IoBuf::from_bytes(&[7; 100_000]), WriteFlags::empty()).await.unwrap();
        assert!(bed.file_len() > 128 * MIB);
        root.detach().await;
        bed.graph.del("q").await.unwrap();
        assert!(bed.file_len() < MIB);
    });
}

#[test]
fn preallocation_that_makes_no_sense_is_refused() {
    rt::sim::Sim::new(1).block_on(async {
        let bed = Bed::new(MIB).await;
        for (more, message) in [
            ("'prealloc-size':-1", "Value '-1' is out of range for parameter 'prealloc-size'"),
            ("'prealloc-align':3", "prealloc-align parameter of preallocate filter is not aligned to 512"),
        ] {
            let text = format!("{{'driver':'preallocate','node-name':'p','file':'f',{more}}}");
            assert_eq!(bed.add(&text).await.unwrap_err(), message);
        }
        bed.add("{'driver':'preallocate','node-name':'p','file':'f'}").await.unwrap();
        let text = "{'driver':'preallocate','node-name':'p','file':'f','prealloc-align':3}";
        let e = bed.reopen(text).await.unwrap_err();
        assert_eq!(e, "prealloc-align parameter of preallocate filter is not aligned to 512");
    });
}

#[test]
fn what_a_failed_write_leaves_behind_the_end_is_never_taken_for_zeroes() {
    for seed in 0..20 {
        rt::sim::Sim::new(seed).block_on(async {
            let bed = Bed::new(64 * CLUSTER).await;
            bed.add("{'driver':'preallocate','node-name':'p','file':'f'}").await.unwrap();
            bed.add("{'driver':'qcow2','node-name':'q','file':'p'}").await.unwrap();
            let root = bed.root("q").await;
            // The tables are there, and so is space ahead.
            root.write(0, IoBuf::from_bytes(&[1; 512]), WriteFlags::empty()).await.unwrap();
            bed.world.set_faults(Faults { write: 1000, ..Faults::default() });
            let junk = IoBuf::from_bytes(&[0xAA; 4 * CLUSTER as usize]);
            assert!(root.write(4 * CLUSTER, junk, WriteFlags::empty()).await.is_err());
            bed.world.set_faults(Faults::default());
            let at = 20 * CLUSTER + 1000;
            root.write(at, IoBuf::from_bytes(&[7; 10]), WriteFlags::empty()).await.unwrap();
            let got = read(&root, 20 * CLUSTER, CLUSTER).await;
            assert!(got[..1000].iter().chain(&got[1010..]).all(|b| *b == 0), "seed {seed}");
            assert_eq!(got[1000..1010], [7; 10]);
            root.detach().await;
            bed.graph.close_all().await;
        });
    }
}
