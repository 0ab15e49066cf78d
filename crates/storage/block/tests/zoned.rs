//! Zoned nodes: what is asked of their drivers and what is not, what is recorded, and who waits for whom.

mod common;

use base::Errno;
use block::driver::WriteFlags;
use block::testing::{Shape, TOO_MANY_ACTIVE, TOO_MANY_OPEN, ZonedDevice};
use block::zoned::{ZoneCondition, ZoneModel, ZoneOp};
use block::{Perm, Root, RootConfig};
use common::{Bed, run};
use mem::IoBuf;
use std::sync::Arc;

const ZONE: u64 = 1 << 16;

async fn zoned(b: &Bed, name: &str, shape: Shape) -> (Arc<ZonedDevice>, Arc<Root>) {
    let device = ZonedDevice::new(name, shape);
    b.add(&format!("{{'driver':'host_device','node-name':'z','filename':'{name}'}}")).await;
    (device, b.writer("z").await)
}

fn buf(byte: u8, len: usize) -> IoBuf {
    IoBuf::from_bytes(&vec![byte; len])
}

fn condition(device: &ZonedDevice, zone: u64) -> ZoneCondition {
    device.report(zone * ZONE, 1)[0].condition
}

#[test]
fn what_is_not_zoned_says_so() {
    run(|b| async move {
        b.add("{'driver':'file','node-name':'f','filename':'r0'}").await;
        let root = b.writer("f").await;
        assert_eq!(root.zones(), None);
        assert_eq!(root.zone_report(0, 1).await, Err(Errno::NOTSUP));
        // Also where the request would make no sense.
        assert_eq!(root.zone_manage(ZoneOp::Reset, 3, 1).await, Err(Errno::NOTSUP));
        assert_eq!(root.zone_manage(ZoneOp::Reset, 1 << 40, 0).await, Err(Errno::IO), "but behind the end");
        assert_eq!(root.zone_append(1 << 40, buf(1, 512)).await, Err(Errno::NOTSUP));
        assert_eq!(root.zone_append(u64::MAX, buf(1, 512)).await, Err(Errno::IO));
        root.detach().await;
    });
}

#[test]
fn reports_end_with_the_last_zone() {
    run(|b| async move {
        // The last zone is smaller, and of each but 48 KiB can be written.
        let shape = Shape { len: 3 * ZONE + 4096, capacity: 48 << 10, conventional: 1, ..Shape::SMALL };
        let (_device, root) = zoned(&b, "zoned-report", shape).await;
        let limits = root.zones().unwrap();
        assert_eq!((limits.zones, limits.zone_size, limits.model), (4, ZONE, ZoneModel::HostManaged));
        let all = root.zone_report(0, u32::MAX).await.unwrap();
        let shown: Vec<_> = all.iter().map(|z| (z.start, z.len, z.capacity)).collect();
        let room = 48 << 10;
        assert_eq!(
            shown,
            [(0, ZONE, ZONE), (ZONE, ZONE, room), (2 * ZONE, ZONE, room), (3 * ZONE, 4096, 4096)]
        );
        // From within a zone on.
        assert_eq!(root.zone_report(ZONE + 5, 1).await.unwrap(), all[1..2]);
        assert_eq!(root.zone_report(2 * ZONE, 9).await.unwrap(), all[2..]);
        assert_eq!(root.zone_report(4 * ZONE, 9).await.unwrap(), []);
        assert_eq!(root.zone_report(u64::MAX, 9).await.unwrap(), []);
        assert_eq!(root.zone_report(0, 0).await.unwrap(), []);
        root.detach().await;
    });
}

#[test]
fn ranges_are_whole_zones() {
    run(|b| async move {
        let shape = Shape { len: 3 * ZONE + 4096, conventional: 1, ..Shape::SMALL };
        let (device, root) = zoned(&b, "zoned-ranges", shape).await;
        let len = shape.len;
        for (off, n) in [(512, ZONE), (ZONE, 512), (ZONE, 0), (len, 0), (3 * ZONE, 512)] {
            assert_eq!(root.zone_manage(ZoneOp::Finish, off, n).await, Err(Errno::INVAL), "{off}+{n}");
        }
        let last = u64::MAX - u64::MAX % ZONE;
        for (off, n) in [(3 * ZONE, ZONE), (4 * ZONE, ZONE), (4 * ZONE, 0), (ZONE, u64::MAX), (last, ZONE)] {
            assert_eq!(root.zone_manage(ZoneOp::Finish, off, n).await, Err(Errno::IO), "{off}+{n}");
        }
        assert_eq!(root.zone_manage(ZoneOp::Finish, 0, ZONE).await, Err(Errno::IO), "conventional");
        root.zone_manage(ZoneOp::Finish, ZONE, 2 * ZONE + 4096).await.unwrap();
        for zone in 1..4 {
            assert_eq!(condition(&device, zone), ZoneCondition::Full);
        }
        root.zone_manage(ZoneOp::Reset, 3 * ZONE, 4096).await.unwrap();
        assert_eq!(condition(&device, 3), ZoneCondition::Empty);
        // All of it, conventional zones and those that cannot be written too: they stay.
        root.write(0, buf(7, 512), WriteFlags::empty()).await.unwrap();
        device.set_condition(2, ZoneCondition::ReadOnly);
        root.zone_manage(ZoneOp::Reset, 0, len).await.unwrap();
        assert_eq!(condition(&device, 1), ZoneCondition::Empty);
        assert_eq!(condition(&device, 2), ZoneCondition::ReadOnly);
        assert_eq!(device.bytes()[..512], [7; 512]);
        root.detach().await;
    });
}

#[test]
fn zones_go_through_their_conditions() {
    run(|b| async move {
        let shape = Shape { max_open: 2, max_active: 3, capacity: 32 << 10, ..Shape::SMALL };
        let (device, root) = zoned(&b, "zoned-conditions", shape).await;
        root.zone_manage(ZoneOp::Open, 0, ZONE).await.unwrap();
        assert_eq!(condition(&device, 0), ZoneCondition::ExplicitlyOpen);
        root.zone_manage(ZoneOp::Close, 0, ZONE).await.unwrap();
        assert_eq!(condition(&device, 0), ZoneCondition::Empty, "nothing was written");
        assert_eq!(root.zone_append(0, buf(1, 1024)).await, Ok(0));
        assert_eq!(condition(&device, 0), ZoneCondition::ImplicitlyOpen);
        root.zone_manage(ZoneOp::Close, 0, ZONE).await.unwrap();
        assert_eq!(condition(&device, 0), ZoneCondition::Closed);
        root.zone_manage(ZoneOp::Open, ZONE, 2 * ZONE).await.unwrap();
        assert_eq!(root.zone_manage(ZoneOp::Open, 3 * ZONE, ZONE).await, Err(TOO_MANY_ACTIVE));
        assert_eq!(root.zone_append(0, buf(1, 512)).await, Err(TOO_MANY_OPEN));
        root.zone_manage(ZoneOp::Finish, ZONE, ZONE).await.unwrap();
        assert_eq!(root.zone_append(0, buf(1, 512)).await, Ok(1024));
        // To the end of what can be written, and no further.
        assert_eq!(root.zone_append(0, buf(2, 32 << 10)).await, Err(Errno::IO));
        assert_eq!(root.zone_append(0, buf(2, (32 << 10) - 1536)).await, Ok(1536));
        let full = device.report(0, 1)[0];
        assert_eq!((full.condition, full.write_pointer), (ZoneCondition::Full, ZONE));
        assert_eq!(root.zone_append(0, buf(2, 512)).await, Err(Errno::IO));
        assert_eq!(root.zone_manage(ZoneOp::Open, 0, ZONE).await, Err(Errno::IO));
        device.set_condition(5, ZoneCondition::ReadOnly);
        device.set_condition(6, ZoneCondition::Offline);
        for zone in [5, 6] {
            assert_eq!(root.zone_manage(ZoneOp::Reset, zone * ZONE, ZONE).await, Err(Errno::IO));
            assert_eq!(root.zone_append(zone * ZONE, buf(3, 512)).await, Err(Errno::IO));
        }
        assert_eq!(root.read(6 * ZONE, buf(0, 512)).await, Err(Errno::IO));
        // Elsewhere than at the pointer nothing is written.
        assert_eq!(root.write(7 * ZONE + 512, buf(4, 512), WriteFlags::empty()).await, Err(Errno::IO));
        root.detach().await;
    });
}

#[test]
fn appends_are_checked() {
    run(|b| async move {
        let shape = Shape { conventional: 1, block: 4096, ..Shape::SMALL };
        let (device, root) = zoned(&b, "zoned-appends", shape).await;
        assert_eq!(root.zone_append(ZONE + 4096, buf(1, 4096)).await, Err(Errno::INVAL));
        assert_eq!(root.zone_append(ZONE, buf(1, 512)).await, Err(Errno::INVAL));
        // Each piece by itself.
        let mut pieces = buf(1, 2048);
        pieces.append(buf(1, 2048));
        assert_eq!(root.zone_append(ZONE, pieces).await, Err(Errno::INVAL));
        assert_eq!(root.zone_append(0, buf(1, 4096)).await, Err(Errno::INVAL), "conventional");
        assert_eq!(root.zone_append(shape.len, buf(1, 4096)).await, Err(Errno::IO), "behind the end");
        // From an odd place in memory.
        let mut bytes = vec![9; 8193];
        bytes[0] = 0;
        let odd = IoBuf::from_bytes(&bytes).slice(1..8193);
        assert_eq!(root.zone_append(ZONE, odd).await, Ok(ZONE));
        assert_eq!(root.zone_append(ZONE, buf(8, 4096)).await, Ok(ZONE + 8192));
        assert_eq!(device.bytes()[ZONE as usize..][..8192], [9; 8192]);
        assert_eq!(device.report(ZONE, 1)[0].write_pointer, ZONE + 12288);
        root.detach().await;
    });
}

#[test]
fn who_may_not_write_changes_no_zone() {
    run(|b| async move {
        let (device, writer) = zoned(&b, "zoned-reader", Shape::SMALL).await;
        let config = RootConfig { perm: Perm::CONSISTENT_READ, shared: Perm::all(), ..Default::default() };
        let reader = b.graph.attach("z", config).await.unwrap();
        assert_eq!(reader.zone_report(0, 1).await.unwrap().len(), 1);
        for op in [ZoneOp::Open, ZoneOp::Close, ZoneOp::Finish, ZoneOp::Reset] {
            assert_eq!(reader.zone_manage(op, 0, ZONE).await, Err(Errno::PERM));
        }
        assert_eq!(reader.zone_append(0, buf(1, 512)).await, Err(Errno::PERM));
        assert_eq!(condition(&device, 0), ZoneCondition::Empty);
        reader.detach().await;
        writer.detach().await;
    });
}

#[test]
fn what_changes_is_recorded_and_counted() {
    run(|b| async move {
        let (device, writer) = zoned(&b, "zoned-stats", Shape::SMALL).await;
        writer.detach().await;
        let config = RootConfig {
            qdev: Some("disk".into()),
            perm: Perm::CONSISTENT_READ | Perm::WRITE,
            shared: Perm::all(),
            ..RootConfig::default()
        };
        let disk = b.graph.attach("z", config).await.unwrap();
        let boundaries = "{'id':'disk','boundaries-zap':[1]}";
        b.graph.set_latency_histograms(&common::arg(boundaries)).unwrap();
        b.graph.bitmap_add("z", "b", Some(512), false, false).await.unwrap();
        let dirty = || {
            let all = b.graph.query_named_block_nodes(true);
            let z = all.iter().find(|n| n.node_name.as_deref() == Some("z")).unwrap();
            z.dirty_bitmaps.as_ref().unwrap()[0].count
        };
        disk.zone_append(ZONE, buf(1, 1024)).await.unwrap();
        disk.zone_append(ZONE, buf(1, 512)).await.unwrap();
        assert_eq!(dirty(), 1536);
        // Finishing a zone changes no byte; resetting one does.
        disk.zone_manage(ZoneOp::Finish, ZONE, ZONE).await.unwrap();
        assert_eq!(dirty(), 1536);
        disk.zone_manage(ZoneOp::Reset, ZONE, ZONE).await.unwrap();
        assert_eq!(dirty(), ZONE as i64);
        device.set_condition(2, ZoneCondition::ReadOnly);
        assert!(disk.zone_append(2 * ZONE, buf(1, 512)).await.is_err());
        let all = b.graph.query_blockstats(false);
        let s = &all[0].stats;
        let appends = (s.zone_append_operations, s.zone_append_bytes, s.failed_zone_append_operations);
        assert_eq!(appends, (2, 1536, 1));
        assert_eq!((s.wr_operations, s.rd_operations), (0, 0));
        assert_eq!(s.zone_append_latency_histogram.as_ref().unwrap().bins.iter().sum::<u64>(), 3);
        assert_eq!(s.wr_highest_offset, (ZONE + 1536) as i64);
        disk.detach().await;
    });
}

#[test]
fn a_drain_holds_back_requests_to_zones() {
    run(|b| async move {
        let (device, root) = zoned(&b, "zoned-drain", Shape::SMALL).await;
        let drained = b.graph.drain_all().await;
        let append = rt::spawn_local({
            let root = root.clone();
            async move { root.zone_append(0, buf(1, 512)).await }
        });
        let reset = rt::spawn_local({
            let root = root.clone();
            async move { root.zone_manage(ZoneOp::Open, ZONE, ZONE).await }
        });
        rt::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(
            (condition(&device, 0), condition(&device, 1)),
            (ZoneCondition::Empty, ZoneCondition::Empty)
        );
        drop(drained);
        assert_eq!(append.await, Ok(0));
        reset.await.unwrap();
        assert_eq!(condition(&device, 1), ZoneCondition::ExplicitlyOpen);
        root.detach().await;
    });
}
