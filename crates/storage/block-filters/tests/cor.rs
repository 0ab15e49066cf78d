//! `copy-on-read`: what is copied, what is not, and guests that write meanwhile.

use block::driver::WriteFlags;
use block::testing::{DRIVERS, World, create_cow};
use block::{BlockGraph, Perm, Root, RootConfig};
use mem::IoBuf;
use qapi::{Value, from_json};
use std::sync::Arc;

const SIZE: u64 = 64 * 1024;

struct Bed {
    graph: Arc<BlockGraph>,
    _world: (Arc<World>, block::testing::WorldGuard),
}

impl Bed {
    /// A chain `top` on `mid` on `base`; `base` is full of ones from 0, `mid` of twos in its second half.
    async fn new() -> Bed {
        let world = World::new();
        let guard = world.enter();
        create_cow(&world, "b", SIZE, None);
        create_cow(&world, "m", SIZE, Some("b"));
        create_cow(&world, "t", SIZE, Some("m"));
        let drivers = [DRIVERS, block_filters::DRIVERS].concat();
        let graph = BlockGraph::new(&drivers, monitor::EventBus::new());
        let bed = Bed { graph, _world: (world, guard) };
        for (name, file, backing) in [("base", "b", "null"), ("mid", "m", "'base'"), ("top", "t", "'mid'")] {
            bed.add(&format!(
                "{{'driver':'qcow2','node-name':'{name}','backing':{backing},'file':{{'driver':'file','filename':'{file}'}}}}"
            ))
            .await
            .unwrap();
            if name != "top" {
                let root = bed.root(name, Perm::all()).await;
                let (off, byte) = if name == "base" { (0, 1) } else { (SIZE / 2, 2) };
                let data = vec![byte; (SIZE - off) as usize];
                root.write(off, IoBuf::from_bytes(&data), WriteFlags::empty()).await.unwrap();
                root.detach().await;
            }
        }
        bed
    }

    async fn add(&self, text: &str) -> Result<(), String> {
        let o = Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"));
        self.graph.add(o).await.map_err(|e| e.desc().to_owned())
    }

    async fn root(&self, node: &str, perm: Perm) -> Arc<Root> {
        let config = RootConfig { perm, shared: Perm::all(), ..RootConfig::default() };
        self.graph.attach(node, config).await.unwrap()
    }

    /// How many bytes of `top` are its own.
    async fn own(&self, root: &Root) -> u64 {
        let (mut pos, mut own) = (0, 0);
        while pos < SIZE {
            let s = root.map(pos, SIZE - pos).await.unwrap();
            own += if s.depth == 0 && s.allocated { s.len } else { 0 };
            pos += s.len;
        }
        own
    }
}

async fn read(root: &Root, off: u64, len: u64) -> Vec<u8> {
    let buf = IoBuf::zeroed(len as usize);
    root.read(off, buf.clone()).await.unwrap();
    buf.to_vec()
}

fn sim<F: Future>(seed: u64, f: F) -> F::Output {
    rt::sim::Sim::new(seed).block_on(f)
}

#[test]
fn what_is_read_is_stored() {
    sim(1, async {
        let bed = Bed::new().await;
        bed.add("{'driver':'copy-on-read','node-name':'c','file':'top'}").await.unwrap();
        let root = bed.root("c", Perm::CONSISTENT_READ).await;
        assert_eq!(bed.own(&root).await, 0);
        assert_eq!(read(&root, 100, 1000).await, [1; 1000]);
        let some = bed.own(&root).await;
        assert!(some > 0 && some < SIZE);
        let all = read(&root, 0, SIZE).await;
        assert!(all[..SIZE as usize / 2].iter().all(|b| *b == 1));
        assert!(all[SIZE as usize / 2..].iter().all(|b| *b == 2));
        assert_eq!(bed.own(&root).await, SIZE);
        root.detach().await;
    });
}

#[test]
fn nothing_is_copied_from_below_the_bottom() {
    sim(2, async {
        let bed = Bed::new().await;
        let add = |bottom: &'static str| {
            format!("{{'driver':'copy-on-read','node-name':'c','file':'top','bottom':'{bottom}'}}")
        };
        assert_eq!(bed.add(&add("nope")).await.unwrap_err(), "Bottom node 'nope' not found");
        bed.add("{'driver':'raw','node-name':'r','file':'base'}").await.unwrap();
        assert!(bed.add(&add("r")).await.is_err());
        bed.add(&add("mid")).await.unwrap();
        let root = bed.root("c", Perm::CONSISTENT_READ).await;
        let all = read(&root, 0, SIZE).await;
        assert!(all[0] == 1 && all[SIZE as usize - 1] == 2);
        assert_eq!(bed.own(&root).await, SIZE / 2);
        root.detach().await;
    });
}

#[test]
fn it_needs_a_node_that_can_be_written() {
    sim(3, async {
        let bed = Bed::new().await;
        bed.add("{'driver':'qcow2','node-name':'ro','read-only':true,'backing':null,'file':{'driver':'file','filename':'b','read-only':true}}")
            .await
            .unwrap();
        let e = bed.add("{'driver':'copy-on-read','node-name':'c','file':'ro'}").await.unwrap_err();
        assert!(e.contains("read-only"), "{e}");
        bed.add("{'driver':'copy-on-read','node-name':'c','file':'top'}").await.unwrap();
        let o = "{'driver':'copy-on-read','node-name':'c','file':'top','read-only':true}";
        let o = Value::parse_json(o).and_then(from_json).unwrap();
        let e = bed.graph.reopen(vec![o]).await.unwrap_err();
        assert_eq!(e.desc(), "Can't set node 'c' to r/o with copy-on-read enabled");
    });
}

/// Guests that write while others read the same places through the filter: no write is undone by a copy.
#[test]
fn a_copy_never_undoes_a_write() {
    for seed in 0..60 {
        sim(seed, async {
            let bed = Bed::new().await;
            bed.add("{'driver':'copy-on-read','node-name':'c','file':'top'}").await.unwrap();
            let root = bed.root("c", Perm::all() - Perm::RESIZE).await;
            let direct = bed.root("top", Perm::all() - Perm::RESIZE).await;
            let mut tasks = Vec::new();
            for i in 0..16u64 {
                let (root, direct) = (root.clone(), direct.clone());
                let at = i * 4096 + (i % 3) * 512;
                tasks.push(rt::spawn_local(async move {
                    let reader = root.clone();
                    let r = rt::spawn_local(async move { read(&reader, i * 4096, 4096).await });
                    let writer = if i % 2 == 0 { &root } else { &direct };
                    let data = IoBuf::from_bytes(&[100 + i as u8; 512]);
                    writer.write(at, data, WriteFlags::empty()).await.unwrap();
                    assert_eq!(read(&root, at, 512).await, [100 + i as u8; 512], "before the copy ended");
                    r.await;
                    assert_eq!(read(&root, at, 512).await, [100 + i as u8; 512], "after the copy ended");
                }));
            }
            for t in tasks {
                t.await;
            }
            let all = read(&root, 0, SIZE).await;
            for (o, b) in all.iter().enumerate() {
                let i = o as u64 / 4096;
                let within = (o as u64 % 4096).wrapping_sub((i % 3) * 512) < 512;
                let old = if o as u64 >= SIZE / 2 { 2 } else { 1 };
                assert_eq!(*b, if within { 100 + i as u8 } else { old }, "seed {seed} at {o}");
            }
            root.detach().await;
            direct.detach().await;
        });
    }
}

#[test]
fn a_drive_that_copies_on_read() {
    sim(5, async {
        let b = Bed::new().await;
        b.graph.del("top").await.unwrap();
        let drive = "file=t,format=qcow2,if=none,id=d,copy-on-read=on,node-name=top";
        b.graph.add_drive(block::Drive::parse(drive).unwrap()).await.unwrap();
        let root = b.root("d", Perm::CONSISTENT_READ | Perm::WRITE).await;
        assert_eq!(b.own(&root).await, 0);
        assert_eq!(read(&root, 0, 4096).await, [1; 4096]);
        let top = b.root("top", Perm::empty()).await;
        assert_eq!(b.own(&top).await, 4096);
        // The filter is nobody's business.
        let shown = b.graph.query_block();
        let shown = shown.iter().find(|i| i.device == "d").unwrap();
        let shown = shown.inserted.as_ref().unwrap();
        assert_eq!((shown.node_name.as_deref(), shown.drv.as_str()), (Some("top"), "qcow2"));
        top.detach().await;
        root.detach().await;
        b.graph.close_all().await;
        assert_eq!(b.graph.snapshot().nodes().count(), 0);
    });
}
