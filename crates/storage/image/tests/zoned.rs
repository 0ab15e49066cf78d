//! Copies to and from zoned devices.

use api::block_core::BlockdevOptions;
use block::testing::{Shape, ZONED, ZonedDevice};
use block::zoned::ZoneOp;
use block::{BlockGraph, Perm, Root, RootConfig};
use image::convert::{Plan, copy};
use monitor::EventBus;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

async fn root(graph: &Arc<BlockGraph>, options: &str) -> Arc<Root> {
    let options = qapi::Value::parse_json(&options.replace('\'', "\"")).and_then(qapi::from_json);
    let options: BlockdevOptions = options.unwrap();
    let perm = Perm::CONSISTENT_READ | Perm::WRITE;
    let config = RootConfig { perm, shared: Perm::all(), ..RootConfig::default() };
    graph.attach_new(options, config).await.unwrap()
}

/// Data of several pieces, with zeroes among it that are known and such that must be found.
fn bytes(len: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i / 512 % 251) as u8 | 1).collect();
    for (from, to) in [(64 << 10, 192 << 10), (MIB + (8 << 10), 3 * MIB), (5 * MIB, 5 * MIB + (4 << 10))] {
        bytes[from as usize..to as usize].fill(0);
    }
    bytes
}

#[test]
fn what_is_copied_to_a_zoned_device_is_written_in_order() {
    rt::block_on(async {
        let drivers = [block_file::DRIVERS, block_formats::DRIVERS].concat();
        let mut drivers: Vec<_> = drivers.into_iter().filter(|d| d.name != ZONED.name).collect();
        drivers.push(&ZONED);
        let graph = BlockGraph::new(&drivers, EventBus::new());
        let shape = Shape { len: 8 * MIB, zone_size: 4 * MIB, capacity: 4 * MIB, ..Shape::SMALL };
        let device = ZonedDevice::new("image-convert", shape);
        let target =
            root(&graph, "{'driver':'raw','file':{'driver':'host_device','filename':'image-convert'}}").await;
        let path = std::env::temp_dir().join(format!("rhea-image-zoned-{}", std::process::id()));
        let bytes = bytes(shape.len);
        std::fs::write(&path, &bytes).unwrap();
        // Zeroes that the file system knows of, where there is the program to make them.
        _ = std::process::Command::new("fallocate")
            .args(["-p", "-o", "2M", "-l", "512K"])
            .arg(&path)
            .status();
        let name = path.to_str().unwrap();
        let source =
            root(&graph, &format!("{{'driver':'raw','file':{{'driver':'file','filename':'{name}'}}}}")).await;
        let plan = |from: &Arc<Root>, to: &Arc<Root>, sparse| Plan {
            inputs: vec![from.clone()],
            target: to.clone(),
            skip: 0,
            total: shape.len,
            zero_init: false,
            over_backing: None,
            compress: None,
            cluster: 512,
            sparse,
            parallel: 8,
            salvage: false,
            rate: None,
            telling: false,
        };
        for sparse in [0, 4096] {
            copy(plan(&source, &target, sparse), &mut |_| ()).await.unwrap();
            assert!(device.bytes() == bytes);
            // A second time there is no room.
            assert!(copy(plan(&source, &target, sparse), &mut |_| ()).await.is_err());
            target.zone_manage(ZoneOp::Reset, 0, shape.len).await.unwrap();
        }
        copy(plan(&source, &target, 4096), &mut |_| ()).await.unwrap();
        // And back.
        std::fs::write(&path, vec![9; shape.len as usize]).unwrap();
        copy(plan(&target, &source, 4096), &mut |_| ()).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
        source.detach().await;
        target.detach().await;
        graph.close_all().await;
        std::fs::remove_file(path).unwrap();
    });
}
