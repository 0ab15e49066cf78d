//! The block device on a real block graph, made through the device tree.

mod common;

use block::BlockGraph;
use common::{Guest, RAM_BASE, Regs, wait_for};
use device::{
    CharBackend, ClockSource, DeviceTree, Instance, IrqLine, NoHost, PlugEnv, RawValue, Registry, Resources,
    TimerService,
};
use qapi::{QError, Value, from_json};
use std::sync::Arc;
use virtio::VirtioMmio;
use virtio::spec::feature::VERSION_1;

struct Things {
    graph: Arc<BlockGraph>,
    objects: qom::ObjectTree,
}

impl Resources for Things {
    fn chardev(&self, _id: &str) -> Option<Arc<dyn CharBackend>> {
        None
    }

    fn block(&self) -> Option<Arc<BlockGraph>> {
        Some(self.graph.clone())
    }

    fn object(&self, id: &str) -> Option<Arc<dyn qom::Object>> {
        self.objects.get(id)
    }
}

struct Still;

impl ClockSource for Still {
    fn now_ns(&self) -> u64 {
        0
    }
}

async fn plug(
    tree: &DeviceTree,
    things: &Things,
    io: &rt::IoThread,
    text: &str,
) -> Result<Arc<Instance>, QError> {
    let options: Vec<_> = format!("driver={text}")
        .split(',')
        .filter_map(|o| o.split_once('='))
        .map(|(k, v)| (k.to_owned(), RawValue::Text(v.into())))
        .collect();
    let env = PlugEnv {
        resources: things,
        timers: &TimerService::manual(Arc::new(Still)),
        io: io.handle(),
        host: Arc::new(NoHost),
        hotplug: false,
    };
    tree.plug(&Registry::new(virtio::DEVICES.iter().copied()), &options, env).await
}

#[test]
fn a_disk_takes_its_node_and_serves_from_its_iothread() {
    let io = rt::IoThread::spawn("io").unwrap();
    rt::block_on(async {
        let g = Guest::new();
        let graph = BlockGraph::new(block_formats::DRIVERS, monitor::EventBus::new());
        for node in [
            "{'driver':'null-co','node-name':'n0','size':1048576,'read-zeroes':true}",
            "{'driver':'null-co','node-name':'ro','size':4096,'read-zeroes':true,'read-only':true}",
        ] {
            graph.add(from_json(Value::parse_json(node).unwrap()).unwrap()).await.unwrap();
        }
        let things = Things { graph, objects: qom::ObjectTree::new() };
        things.objects.add(&qapi::from_arg("iothread,id=t", Some("qom-type")).unwrap()).unwrap();
        let tree = DeviceTree::new();
        let buses: Vec<_> =
            (0..4).map(|i| VirtioMmio::new(i, IrqLine::disconnected(), g.dma(), false)).collect();
        for b in &buses {
            tree.add_bus(b.clone());
        }
        let err = |r: Result<Arc<Instance>, QError>| r.err().unwrap().desc().to_owned();
        assert_eq!(
            err(plug(&tree, &things, &io, "virtio-blk-device,drive=nope").await),
            "Property 'virtio-blk-device.drive' can't find value 'nope'"
        );
        plug(&tree, &things, &io, "virtio-blk-device,drive=n0,iothread=t,serial=abc").await.unwrap();
        assert_eq!(
            err(plug(&tree, &things, &io, "virtio-blk-device,drive=n0").await),
            "Permission conflict on node 'n0': permissions 'write' are both required by block device \
             '/machine/peripheral-anon/device[0]' (uses node 'n0' as 'root' child) and unshared by block device \
             '/machine/peripheral-anon/device[1]' (uses node 'n0' as 'root' child)."
        );
        // The device holds its thread.
        assert!(things.objects.del("t").unwrap_err().desc().contains("in use"));
        plug(&tree, &things, &io, "virtio-blk-device,drive=ro,id=cd").await.unwrap();
        let ro = Regs(buses[1].clone(), g.ram.clone());
        assert_eq!(ro.offered() & 1 << 5, 1 << 5);

        let regs = Regs(buses[0].clone(), g.ram.clone());
        let mut ring = regs.start(VERSION_1, 1, 16).remove(0);
        let at = RAM_BASE + (8 << 20);
        for (kind, write, sector, status) in
            [(0u32, true, 0u64, 0u8), (1, false, 2047, 0), (0, true, 2048, 1)]
        {
            let mut h = Vec::from(kind.to_le_bytes());
            h.extend([0; 4]);
            h.extend(sector.to_le_bytes());
            g.write(at, &h);
            g.write(at + 512, &[0xee; 512]);
            ring.add(&g, &[(at, 16, false), (at + 512, 512, write), (at + 16, 1, true)], false).unwrap();
            regs.set(0x50, 0);
            wait_for(|| ring.reap(&g));
            assert_eq!(g.read(at + 16, 1)[0], status, "type {kind} at {sector}");
            if write && status == 0 {
                assert_eq!(g.read(at + 512, 512), [0; 512]);
            }
        }
        let all = things.graph.query_blockstats(false);
        let disk = all.iter().find(|s| s.node_name.as_deref() == Some("n0")).unwrap();
        let s = &disk.stats;
        assert_eq!((s.rd_operations, s.rd_bytes, s.invalid_rd_operations), (1, 512, 1));
        assert_eq!((s.wr_operations, s.wr_bytes, s.wr_highest_offset), (1, 512, 1 << 20));
        regs.set(0x70, 0);
    });
}
