//! Cache entries that nobody uses are given up after the interval that the options say.

mod common;

use api::block_core::BlockdevOptions;
use block::driver::{WriteFlags, ZeroFlags};
use block::testing::{SIM_FILE, World};
use block::{BlockGraph, Perm, RootConfig};
use block_qcow2::QCOW2;
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Value, from_json};
use rt::sim::Sim;
use std::time::Duration;

fn options(interval: &str) -> BlockdevOptions {
    let text =
        format!("{{'driver':'qcow2','node-name':'a','file':{{'driver':'file','filename':'i'}}{interval}}}");
    Value::parse_json(&text).and_then(from_json).unwrap()
}

#[test]
fn an_unused_table_is_read_again() {
    Sim::new(1).block_on(async {
        let world = World::new();
        let _here = world.enter();
        let graph = BlockGraph::new(&[&SIM_FILE, &QCOW2], EventBus::new());
        world.create("i", common::image(&common::options(1 << 20, 4096, None)));
        for bad in ["-1", "4294967296"] {
            let e = graph.add(options(&format!(",'cache-clean-interval':{bad}"))).await.unwrap_err();
            assert_eq!(e.desc(), "Cache clean interval too big");
        }
        graph.add(options(",'cache-clean-interval':10")).await.unwrap();
        let config = RootConfig {
            perm: Perm::CONSISTENT_READ | Perm::WRITE,
            shared: Perm::all(),
            ..RootConfig::default()
        };
        let root = graph.attach("a", config).await.unwrap();
        root.write(0, IoBuf::from_bytes(&[1; 4096]), WriteFlags::empty()).await.unwrap();
        root.write_zeroes(0, 4096, ZeroFlags::empty()).await.unwrap();
        root.flush().await.unwrap();
        // What reads as zeroes needs the tables only: where the disk does not answer, they were in memory.
        let disk = world.disk("i").unwrap();
        let cached = async || {
            disk.set_stuck(true);
            let done = rt::timeout(Duration::from_millis(100), root.read(0, IoBuf::zeroed(512))).await;
            disk.set_stuck(false);
            done.is_some()
        };
        for _ in 0..20 {
            rt::sleep(Duration::from_secs(4)).await;
            assert!(cached().await, "it is in use");
        }
        rt::sleep(Duration::from_secs(21)).await;
        assert!(!cached().await);
        root.read(0, IoBuf::zeroed(512)).await.unwrap();
        assert!(cached().await);
        // Another interval counts at once.
        graph.reopen(vec![options(",'cache-clean-interval':0")]).await.unwrap();
        root.read(0, IoBuf::zeroed(512)).await.unwrap();
        rt::sleep(Duration::from_secs(10_000)).await;
        assert!(cached().await);
        graph.reopen(vec![options("")]).await.unwrap();
        rt::sleep(Duration::from_secs(1201)).await;
        assert!(!cached().await, "600 seconds unless given");
        root.detach().await;
        graph.close_all().await;
    });
}
