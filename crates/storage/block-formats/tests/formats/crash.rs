//! What is left of an image after a crash: everything that was flushed, in an image that can be used on.

use crate::bed::*;
use block::check::Fix;
use block::create::CreateCx;
use block::driver::{DriverType, WriteFlags, ZeroFlags};
use block::perm::Perm;
use block::testing::{SIM_FILE, World};
use block::{BlockGraph, Root};
use mem::IoBuf;
use rt::sim::{Rng, Sim};
use std::sync::Arc;

const SECTOR: u64 = 512;

const KINDS: &[(&str, &[(&str, &str)])] = &[
    ("vdi", &[("size", "5242880")]),
    ("vpc", &[("size", "5242880")]),
    ("vmdk", &[("size", "2097152")]),
    ("vmdk", &[("size", "2097152"), ("zeroed_grain", "on")]),
    ("vhdx", &[("size", "5242880"), ("block_size", "1048576")]),
    ("qcow", &[("size", "1048576")]),
    ("qed", &[("size", "1048576"), ("cluster_size", "4096"), ("table_size", "2")]),
    ("parallels", &[("size", "1048576"), ("cluster_size", "4096")]),
];

fn sim_graph() -> Arc<BlockGraph> {
    let drivers: Vec<&'static DriverType> = [&[&SIM_FILE][..], block_formats::DRIVERS].concat();
    graph(&drivers)
}

async fn opened_sim(format: &str) -> (Arc<BlockGraph>, Arc<Root>) {
    let g = sim_graph();
    let text = format!(
        "{{'driver':'{format}','node-name':'n','discard':'unmap','file':{{'driver':'file','filename':'image'}}}}"
    );
    g.add(options(&text)).await.expect("the image opens");
    let root = attach(&g, "n", Perm::all(), Perm::all()).await.expect("a root");
    (g, root)
}

async fn make(format: &str, pairs: &[(&str, &str)]) {
    let g = sim_graph();
    g.add(options("{'driver':'file','node-name':'f','filename':'image'}")).await.unwrap();
    let creation = drivers().into_iter().find(|d| d.name == format).unwrap().create.unwrap();
    let dict = creation.contract_dict(pairs).unwrap();
    let contract = creation.contract(format, "f", &[], dict).unwrap();
    (creation.create.unwrap())(&CreateCx::new(g.clone()), &contract).await.unwrap();
    g.close_all().await;
}

/// What each sector may hold: a byte that fills it.
struct Model(Vec<Vec<u8>>);

impl Model {
    /// Changes some places at random, all at once.
    async fn change(&mut self, root: &Arc<Root>, rng: &mut Rng, round: u8) {
        let sectors = self.0.len() as u64;
        let mut tasks = Vec::new();
        let mut taken = vec![false; sectors as usize];
        for _ in 0..12 {
            let (at, n) = (rng.below(sectors), rng.range(1, 200));
            let n = n.min(sectors - at);
            let places = at as usize..(at + n) as usize;
            if taken[places.clone()].iter().any(|t| *t) {
                continue;
            }
            taken[places.clone()].fill(true);
            let byte = if rng.chance(1, 5) { 0 } else { round };
            self.0[places].iter_mut().for_each(|s| s.push(byte));
            let root = root.clone();
            tasks.push(rt::spawn_local(async move {
                let (at, n) = (at * SECTOR, n * SECTOR);
                if byte == 0 {
                    root.write_zeroes(at, n, ZeroFlags::MAY_UNMAP).await.unwrap();
                } else {
                    let buf = IoBuf::from_bytes(&vec![byte; n as usize]);
                    root.write(at, buf, WriteFlags::empty()).await.unwrap();
                }
            }));
        }
        for t in tasks {
            t.await;
        }
    }

    /// From now on only what was written last counts.
    fn settle(&mut self) {
        self.0.iter_mut().for_each(|s| drop(s.drain(..s.len() - 1)));
    }

    /// Each sector holds one of what it may; that is what it holds from now on.
    async fn check(&mut self, root: &Root, what: &str) {
        let bytes = read(root, 0, root.len() as usize).await;
        for (i, (may, got)) in self.0.iter_mut().zip(bytes.chunks(SECTOR as usize)).enumerate() {
            assert!(got.iter().all(|b| *b == got[0]), "{what}: sector {i} is torn");
            assert!(may.contains(&got[0]), "{what}: sector {i} has {}, not one of {may:?}", got[0]);
            *may = vec![got[0]];
        }
    }
}

#[test]
fn a_crash_loses_nothing_that_was_flushed() {
    for (format, pairs) in KINDS {
        for seed in 0..12 {
            let what = format!("{format} {pairs:?} seed {seed}");
            Sim::new(seed).block_on(async {
                let mut rng = Rng::new(seed);
                let world = World::new();
                let _here = world.enter();
                world.create("image", Vec::new());
                make(format, pairs).await;
                let (mut g, mut root) = opened_sim(format).await;
                let mut model = Model(vec![vec![0]; (root.len() / SECTOR) as usize]);
                for round in 1..4u8 {
                    model.change(&root, &mut rng, round).await;
                    root.flush().await.unwrap();
                    model.settle();
                    model.change(&root, &mut rng, round + 10).await;
                    let left = world.disk("image").unwrap().crash_bytes(&mut rng);
                    // The program before the crash goes on with a file that nobody sees.
                    world.create("image", left);
                    closed(g, root).await;
                    (g, root) = opened_sim(format).await;
                    model.check(&root, &what).await;
                }
                model.change(&root, &mut rng, 99).await;
                model.settle();
                model.check(&root, &what).await;
                closed(g, root).await;
                let g = sim_graph();
                let text = format!(
                    "{{'driver':'{format}','node-name':'n','read-only':true,'file':{{'driver':'file','filename':'image'}}}}"
                );
                g.add(options(&text)).await.unwrap();
                if let Some(r) = g.check("n", Fix::None, &mut |line| println!("{line}")).await.unwrap() {
                    assert_eq!((r.corruptions, r.check_errors), (0, 0), "{what}");
                }
                g.close_all().await;
            });
        }
    }
}
