//! A client that goes away in the middle of a command leaves nothing half-done.

mod common;

use api::block_core::BlockdevOptions;
use block::bitmap::Tolerate;
use block::driver::WriteFlags;
use block::testing::{Faults, SIM_FILE, World};
use block::{BlockGraph, Perm, RootConfig};
use block_qcow2::QCOW2;
use block_qcow2::check::{Fix, check};
use common::{Bytes, at_once};
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Value, from_json};
use rt::sim::{Sim, rng};
use std::time::Duration;

fn options(text: &str) -> BlockdevOptions {
    Value::parse_json(text).and_then(from_json).unwrap()
}

#[test]
fn changes_of_persistent_bitmaps_go_on_to_their_end() {
    for seed in 0..30u64 {
        Sim::new(seed).block_on(async {
            let world = World::new();
            let _here = world.enter();
            let graph = BlockGraph::new(&[&SIM_FILE, &QCOW2], EventBus::new());
            let size = 1 << 20;
            world.create("i", common::image(&common::options(size, 4096, None)));
            let node = "{'driver':'qcow2','node-name':'a','file':{'driver':'file','filename':'i'}}";
            graph.add(options(node)).await.unwrap();
            let config = RootConfig {
                perm: Perm::CONSISTENT_READ | Perm::WRITE,
                shared: Perm::all(),
                ..RootConfig::default()
            };
            let root = graph.attach("a", config).await.unwrap();
            graph.bitmap_add("a", "keep", Some(4096), true, false).await.unwrap();
            world.set_faults(Faults { delay: 500, ..Faults::default() });
            for n in 0..20u32 {
                let name = format!("b{}", n / 4);
                let command = async {
                    match n % 4 {
                        0 => graph.bitmap_add("a", &name, Some(512), true, false).await,
                        1 => graph.bitmap_clear("a", "keep").await,
                        2 => graph.bitmap_enable("a", &name, false).await,
                        _ => graph.bitmap_remove("a", &name).await,
                    }
                };
                let patience = Duration::from_micros(rng().below(8000));
                let _ = rt::timeout(patience, command).await;
                // Where a change goes on, this one comes after it.
                let _ = graph.del("nobody").await;
                let off = rng().below(size - 512);
                root.write(off, IoBuf::from_bytes(&[7; 512]), WriteFlags::empty()).await.unwrap();
                let keep = graph.bitmap("a", "keep", Tolerate::default()).unwrap();
                assert!(keep.is_dirty(off), "seed {seed} step {n}");
            }
            root.detach().await;
            graph.close_all().await;
            let bytes = Bytes::default();
            *bytes.0.borrow_mut() = world.disk("i").unwrap().bytes();
            let mut said = Vec::new();
            let report = at_once(check(&bytes, Fix::None, &mut |l| said.push(l.to_owned()))).unwrap();
            assert_eq!((report.corruptions, report.leaks), (0, 0), "seed {seed}: {said:#?}");
        });
    }
}
