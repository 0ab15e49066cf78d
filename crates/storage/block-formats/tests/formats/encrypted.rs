//! qcow images with the old encryption, in a graph.

use crate::bed::*;
use block::create::CreateCx;
use block::driver::{DriverType, WriteFlags, ZeroFlags};
use block::perm::Perm;
use block::testing::{SIM_FILE, World};
use block::{BlockGraph, Policy};
use mem::IoBuf;
use qapi::{Value, from_json};
use rt::sim::Sim;
use std::sync::Arc;

fn sim_graph() -> Arc<BlockGraph> {
    let drivers: Vec<&'static DriverType> = [&[&SIM_FILE][..], block_formats::DRIVERS].concat();
    let g = graph(&drivers);
    let tree = qom::ObjectTree::new();
    let secret = Value::parse_json("{'qom-type':'secret','id':'s','data':'geheim'}").unwrap();
    tree.add(&from_json(secret).unwrap()).unwrap();
    g.set_objects(Arc::new(tree));
    g
}

async fn make(world: &World, size: &str) {
    world.create("image", Vec::new());
    let g = sim_graph();
    g.add(options("{'driver':'file','node-name':'f','filename':'image'}")).await.unwrap();
    let creation = drivers().into_iter().find(|d| d.name == "qcow").unwrap().create.unwrap();
    let pairs = [("size", size), ("encryption", "on"), ("encrypt.key-secret", "s")];
    let dict = creation.contract_dict(&pairs).unwrap();
    let contract = creation.contract("qcow", "f", &[], dict).unwrap();
    (creation.create.unwrap())(&CreateCx::new(g.clone()), &contract).await.unwrap();
    g.close_all().await;
}

fn node(more: &str) -> String {
    format!("{{'driver':'qcow','node-name':'n','file':{{'driver':'file','filename':'image'}}{more}}}")
}

const KEY: &str = ",'encrypt':{'format':'aes','key-secret':'s'}";

#[test]
fn an_encrypted_image_keeps_its_key() {
    Sim::new(1).block_on(async {
        let world = World::new();
        let _here = world.enter();
        make(&world, "1048576").await;
        let g = sim_graph();
        let add = async |more: &str| g.add(options(&node(more))).await.map_err(|e| e.desc().to_string());
        let needed = Err("Parameter 'encrypt.key-secret' is required for cipher".into());
        assert_eq!(add("").await, needed);
        assert_eq!(add(",'encrypt':{'format':'aes'}").await, needed);
        add(KEY).await.unwrap();
        assert_eq!(g.image_info("n").and_then(|i| i.base.encrypted), Some(true));
        let root = attach(&g, "n", Perm::all(), Perm::all()).await.unwrap();
        // Any bytes, not only sectors; over several clusters, and where there is something already.
        root.write(70_001, IoBuf::from_bytes(&[7; 9000]), WriteFlags::empty()).await.unwrap();
        root.write_zeroes(71_000, 100, ZeroFlags::MAY_UNMAP).await.unwrap();
        // As much as stays what it was; what is discarded may be anything, but here nothing changes.
        root.discard(69_632, 4096).await.unwrap();
        root.write(0, IoBuf::from_bytes(&[7; 4096]), WriteFlags::COMPRESSED).await.unwrap();
        let mut want = vec![0u8; 20_000];
        want[1..9001].fill(7);
        want[1000..1100].fill(0);
        let check = async |root: &block::Root, what: &str| {
            same(&read(root, 70_000, 20_000).await, &want, what);
            same(&read(root, 0, 4096).await, &[7; 4096], what);
        };
        check(&root, "written").await;
        // Nobody reads around the driver.
        let status = root.map(70_656, 512).await.unwrap();
        assert!(status.data && !status.zero && status.offset.is_none(), "{status:?}");
        root.flush().await.unwrap();
        let stored = world.disk("image").unwrap().stable_bytes();
        assert!(!stored.windows(64).any(|w| w == [7; 64]), "it is there in plain");
        root.detach().await;
        // Somebody else has the image meanwhile.
        for active in [false, true] {
            g.set_active(Some("n"), active).await.unwrap();
        }
        let root = attach(&g, "n", Perm::all(), Perm::all()).await.unwrap();
        check(&root, "active again").await;
        root.detach().await;
        g.close_all().await;
    });
}

#[test]
fn a_machine_refuses_it() {
    Sim::new(1).block_on(async {
        let world = World::new();
        let _here = world.enter();
        make(&world, "1048576").await;
        let g = sim_graph();
        g.set_policy(Policy { machine: true, ..g.policy() });
        for more in ["", KEY] {
            let e = g.add(options(&node(more))).await.unwrap_err();
            assert_eq!(
                e.desc(),
                "Use of AES-CBC encrypted qcow images is no longer supported in system emulators"
            );
        }
        g.close_all().await;
    });
}

#[test]
fn a_disk_of_no_whole_sectors_loses_the_rest() {
    Sim::new(1).block_on(async {
        let world = World::new();
        let _here = world.enter();
        make(&world, "4096").await;
        let mut image = world.disk("image").unwrap().stable_bytes();
        image[24..32].copy_from_slice(&1700u64.to_be_bytes());
        world.create("image", image);
        let g = sim_graph();
        g.add(options(&node(KEY))).await.unwrap();
        let root = attach(&g, "n", Perm::all(), Perm::all()).await.unwrap();
        assert_eq!(root.len(), 1536);
        root.write(1000, IoBuf::from_bytes(&[3; 536]), WriteFlags::empty()).await.unwrap();
        let mut want = vec![0; 1536];
        want[1000..].fill(3);
        same(&read(&root, 0, 1536).await, &want, "written");
        root.detach().await;
        g.close_all().await;
    });
}
