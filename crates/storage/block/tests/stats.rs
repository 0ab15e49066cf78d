//! What devices have done: figures, histograms, and whose they are.

mod common;

use api::block_core::BlockStats;
use block::driver::{WriteFlags, ZeroFlags};
use block::{Perm, Root, RootConfig};
use common::Bed;
use mem::IoBuf;
use std::sync::Arc;

async fn device(b: &Bed, node: &str, id: Option<&str>) -> Arc<Root> {
    let config = RootConfig {
        qdev: id.map(Into::into),
        perm: Perm::CONSISTENT_READ | Perm::WRITE,
        shared: Perm::all(),
        desc: "a user".into(),
        ..RootConfig::default()
    };
    b.graph.attach(node, config).await.unwrap()
}

async fn chain(b: &Bed) {
    b.add("{'driver':'file','node-name':'f0','filename':'h0','read-only':true}").await;
    b.add("{'driver':'file','node-name':'f1','filename':'h1'}").await;
}

fn of<'a>(all: &'a [BlockStats], qdev: &str) -> &'a BlockStats {
    all.iter().find(|s| s.qdev.as_deref() == Some(qdev)).unwrap()
}

#[test]
fn a_devices_requests_are_counted_and_an_exports_are_not() {
    rt::sim::Sim::new(1).block_on(async {
        let b = Bed::new();
        b.add("{'driver':'raw','node-name':'n','file':{'driver':'file','node-name':'f','filename':'r0'},'discard':'unmap'}")
            .await;
        let (disk, export) = (device(&b, "n", Some("disk")).await, device(&b, "n", None).await);
        let buf = || IoBuf::zeroed(512);
        disk.read(0, buf()).await.unwrap();
        disk.read(512, buf()).await.unwrap();
        disk.write(4096, buf(), WriteFlags::empty()).await.unwrap();
        disk.write_zeroes(1024, 512, ZeroFlags::empty()).await.unwrap();
        disk.discard(0, 1024).await.unwrap();
        disk.flush().await.unwrap();
        assert!(disk.read(1 << 30, buf()).await.is_err());
        disk.refused(block::Access::Write);
        export.write(8192, buf(), WriteFlags::empty()).await.unwrap();
        export.refused(block::Access::Write);
        let all = b.graph.query_blockstats(false);
        assert_eq!(all.len(), 1, "an export is no device");
        let d = of(&all, "disk");
        let s = &d.stats;
        assert_eq!((s.rd_operations, s.rd_bytes, s.failed_rd_operations), (2, 1024, 1));
        assert_eq!((s.wr_operations, s.wr_bytes, s.invalid_wr_operations), (2, 1024, 1));
        assert_eq!((s.unmap_operations, s.unmap_bytes, s.flush_operations), (1, 1024, 1));
        assert!(s.account_failed && s.account_invalid && s.idle_time_ns.is_some() && s.timed_stats.is_empty());
        // The node's own figure is of all its users.
        assert_eq!(s.wr_highest_offset, 8704);
        assert_eq!((d.device.as_deref(), d.node_name.as_deref()), (Some(""), Some("n")));
        let file = d.parent.as_ref().unwrap();
        assert_eq!((file.node_name.as_deref(), file.stats.wr_highest_offset), (Some("f"), 8704));
        assert_eq!((file.stats.wr_operations, file.device.as_ref()), (0, None));
        let nodes = b.graph.query_blockstats(true);
        let names: Vec<_> = nodes.iter().map(|n| n.node_name.as_deref().unwrap()).collect();
        assert_eq!(names.len(), 2);
        assert!(names.contains(&"n") && names.contains(&"f"), "{names:?}");
        export.detach().await;
        disk.detach().await;
        assert!(b.graph.query_blockstats(false).is_empty());
    });
}

#[test]
fn the_chain_behind_an_image_is_told_of_devices_only() {
    rt::sim::Sim::new(1).block_on(async {
        let b = Bed::new();
        chain(&b).await;
        b.add("{'driver':'qcow2','node-name':'n0','file':'f0','read-only':true}").await;
        b.add("{'driver':'qcow2','node-name':'n1','file':'f1','backing':'n0'}").await;
        let disk = device(&b, "n1", Some("disk")).await;
        let all = b.graph.query_blockstats(false);
        let d = of(&all, "disk");
        let name =
            |s: &Option<Box<BlockStats>>| s.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        assert_eq!((name(&d.parent).as_str(), name(&d.backing).as_str()), ("f1", "n0"));
        assert_eq!(name(&d.backing.as_ref().unwrap().parent), "f0");
        let nodes = b.graph.query_blockstats(true);
        let n1 = nodes.iter().find(|n| n.node_name.as_deref() == Some("n1")).unwrap();
        assert_eq!((name(&n1.parent).as_str(), n1.backing.is_none()), ("f1", true));
        disk.detach().await;
    });
}

/// The answer to a command, as a line.
fn ask(b: &Bed, line: &str) -> String {
    let command = qapi::Value::parse_json(line).and_then(qapi::from_json).unwrap();
    match b.graph.set_latency_histograms(&command) {
        Ok(()) => "ok".into(),
        Err(e) => format!("{:?}: {}", e.class(), e.desc()),
    }
}

#[test]
fn histograms_are_set_by_the_devices_id() {
    rt::sim::Sim::new(1).block_on(async {
        let b = Bed::new();
        b.add("{'driver':'file','node-name':'f','filename':'r0'}").await;
        let disk = device(&b, "f", Some("disk")).await;
        let histograms = || {
            let all = b.graph.query_blockstats(false);
            let s = &of(&all, "disk").stats;
            let some = [
                &s.rd_latency_histogram,
                &s.wr_latency_histogram,
                &s.zone_append_latency_histogram,
                &s.flush_latency_histogram,
            ];
            some.map(|h| h.as_ref().map(|h| h.bins.len()))
        };
        assert_eq!(histograms(), [None; 4]);
        assert_eq!(ask(&b, "{'id':'disk','boundaries':[10,50,100]}"), "ok");
        assert_eq!(histograms(), [Some(4); 4]);
        assert_eq!(ask(&b, "{'id':'disk','boundaries-read':[5],'boundaries-flush':[]}"), "ok");
        assert_eq!(histograms(), [Some(2), Some(4), Some(4), Some(1)]);
        disk.flush().await.unwrap();
        let all = b.graph.query_blockstats(false);
        assert_eq!(of(&all, "disk").stats.flush_latency_histogram.as_ref().unwrap().bins, [1]);
        for (line, error) in [
            ("{'id':'nope','boundaries':[1]}", "DeviceNotFound: Device 'nope' not found"),
            ("{'id':'f','boundaries':[1]}", "DeviceNotFound: Device 'f' not found"),
            ("{'id':'disk','boundaries':[10,5]}", "GenericError: Device 'disk' set read boundaries fail"),
            (
                "{'id':'disk','boundaries':[1],'boundaries-write':[0,5]}",
                "GenericError: Device 'disk' set write boundaries fail",
            ),
            (
                "{'id':'disk','boundaries-zap':[2,2]}",
                "GenericError: Device 'disk' set append write boundaries fail",
            ),
        ] {
            assert_eq!(ask(&b, line), error);
        }
        assert_eq!(histograms(), [Some(2), Some(4), Some(4), Some(1)], "all or none");
        assert_eq!(ask(&b, "{'id':'disk'}"), "ok");
        assert_eq!(histograms(), [None; 4]);
        disk.detach().await;
    });
}
