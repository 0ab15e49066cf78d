//! Limits of devices: `-drive`, `block_set_io_throttle`, groups, and what queries show.

mod common;

use block::{Drive, Perm, Root, RootConfig};
use common::{Bed, run};
use mem::IoBuf;
use monitor::{CommandTable, HmpTable};
use qapi::Value;
use qom::ObjectTree;
use std::sync::Arc;
use std::time::Duration;

async fn qmp(b: &Bed, command: &str, text: &str) -> Result<Value, String> {
    let mut t = CommandTable::new();
    block::qmp::register(&mut t, &mut HmpTable::new(), &b.graph);
    block::qmp::register_devices(&mut t, &mut HmpTable::new(), &b.graph, "none");
    let args = Value::parse_json(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    t.call(command, args).await.map_err(|e| e.desc().to_owned())
}

fn limits(who: &str, bps: u64, more: &str) -> String {
    format!("{{{who},'bps':{bps},'bps_rd':0,'bps_wr':0,'iops':0,'iops_rd':0,'iops_wr':0{more}}}")
}

async fn drive(b: &Bed, text: &str) -> Arc<Root> {
    let d = Drive::parse(text).unwrap();
    let name = d.name();
    b.graph.add_drive(d).await.unwrap();
    let config = RootConfig {
        qdev: Some(format!("dev-{name}")),
        perm: Perm::CONSISTENT_READ | Perm::WRITE,
        shared: Perm::CONSISTENT_READ,
        ..RootConfig::default()
    };
    b.graph.attach(&name, config).await.unwrap()
}

/// How long some reads of 4 KiB take.
async fn time(root: &Root, n: u64) -> Duration {
    let begin = rt::now();
    for _ in 0..n {
        root.read(0, IoBuf::zeroed(4096)).await.unwrap();
    }
    rt::now() - begin
}

async fn shown(b: &Bed, name: &str, key: &str) -> Option<Value> {
    let Value::List(all) = qmp(b, "query-block", "{}").await.unwrap() else { panic!() };
    let one = all.into_iter().find(|d| d.get("device").and_then(Value::as_str) == Some(name)).unwrap();
    one.get("inserted").unwrap().get(key).cloned()
}

#[test]
fn a_drive_keeps_to_its_limits_until_they_change() {
    run(|b| async move {
        // 100 reads of 4 KiB a second.
        let root = drive(&b, "file=r0,format=raw,id=d,bps=409600,throttling.bps-total-max=819200").await;
        let t = time(&root, 300).await;
        // 200 of them are the burst of the first second.
        assert!(t > Duration::from_millis(900) && t < Duration::from_secs(2), "{t:?}");
        assert_eq!(shown(&b, "d", "bps").await, Some(Value::from(409_600i64)));
        assert_eq!(shown(&b, "d", "bps_max").await, Some(Value::from(819_200i64)));
        assert_eq!(shown(&b, "d", "bps_max_length").await, Some(Value::from(1i64)));
        assert_eq!(shown(&b, "d", "bps_rd_max").await, None);
        assert_eq!(shown(&b, "d", "group").await, Some(Value::from("d")));
        qmp(&b, "block_set_io_throttle", &limits("'id':'dev-d'", 4096, "")).await.unwrap();
        assert_eq!(shown(&b, "d", "bps").await, Some(Value::from(4096i64)));
        assert_eq!(shown(&b, "d", "bps_max").await, None);
        let t = time(&root, 3).await;
        assert!(t > Duration::from_millis(1500), "{t:?}");
        // What is held back goes on when there are no limits any more.
        let r = root.clone();
        let waiting = rt::spawn_local(async move { time(&r, 10).await });
        rt::sleep(Duration::from_millis(10)).await;
        qmp(&b, "block_set_io_throttle", &limits("'device':'d'", 0, "")).await.unwrap();
        assert!(waiting.await < Duration::from_secs(1));
        assert_eq!(shown(&b, "d", "group").await, None);
        root.detach().await;
    });
}

#[test]
fn a_drain_waits_for_no_limit() {
    run(|b| async move {
        let root = drive(&b, "file=r0,format=raw,id=d,throttling.iops-total=1").await;
        let users: Vec<_> = (0..20)
            .map(|_| {
                let r = root.clone();
                rt::spawn_local(async move { r.read(0, IoBuf::zeroed(512)).await })
            })
            .collect();
        rt::sleep(Duration::from_millis(1)).await;
        assert!(root.in_flight() > 10);
        let begin = rt::now();
        let drained = b.graph.drain_all().await;
        assert_eq!(root.in_flight(), 0);
        assert!(rt::now() - begin < Duration::from_secs(1));
        drop(drained);
        for u in users {
            u.await.unwrap();
        }
        root.detach().await;
    });
}

#[test]
fn groups_are_shared_with_objects_and_with_each_other() {
    run(|b| async move {
        let objects = Arc::new(ObjectTree::new());
        b.graph.set_objects(objects.clone());
        let group = "{'qom-type':'throttle-group','id':'g','limits':{'iops-total':1000}}";
        objects.add(&common::arg(group)).unwrap();
        let one = drive(&b, "file=r0,format=raw,id=a,throttling.iops-total=20,throttling.group=g").await;
        let two = drive(&b, "file=r1,format=raw,id=b,iops=20,group=g").await;
        // The object shows what the drives said, and cannot go.
        let limits_of = objects.get_property("/objects/g", "limits").unwrap();
        assert_eq!(limits_of.get("iops-total"), Some(&Value::from(20i64)));
        assert_eq!(objects.del("g").unwrap_err().desc(), "object 'g' is in use, can not be deleted");
        let (o, t) = (one.clone(), two.clone());
        let begin = rt::now();
        let other = rt::spawn_local(async move { time(&o, 20).await });
        time(&t, 20).await;
        other.await;
        let both = rt::now() - begin;
        assert!(both > Duration::from_millis(1500), "{both:?}");
        // One leaves, to a group without an object.
        qmp(&b, "block_set_io_throttle", &limits("'device':'a'", 1 << 20, ",'group':'own'")).await.unwrap();
        assert_eq!(shown(&b, "a", "group").await, Some(Value::from("own")));
        assert_eq!(shown(&b, "b", "iops").await, Some(Value::from(20i64)));
        one.detach().await;
        two.detach().await;
    });
}

#[test]
fn messages() {
    run(|b| async move {
        let root = drive(&b, "file=r0,format=raw,id=d").await;
        b.graph.add_drive(Drive::parse("if=none,id=empty").unwrap()).await.unwrap();
        for (who, more, text) in [
            ("'device':'nope'", "", "Device 'nope' not found"),
            ("'device':'empty'", "", "Device has no medium"),
            ("'device':'d','id':'dev-d'", "", "Need exactly one of 'device' and 'id'"),
            (
                "'device':'d'",
                ",'bps_rd_max':7",
                "bps/iops/max total values and read/write values cannot be used at the same time",
            ),
            ("'device':'d'", ",'bps_max':1", "bps_max/iops_max cannot be lower than bps/iops"),
            ("'device':'d'", ",'iops_size':1", "iops size requires an iops value to be set"),
        ] {
            let more = if more.contains("rd_max") { ",'bps_rd_max':7,'bps_max':8" } else { more };
            let e = qmp(&b, "block_set_io_throttle", &limits(who, 4096, more)).await.unwrap_err();
            assert_eq!(e, text, "{who} {more}");
        }
        assert_eq!(shown(&b, "d", "bps").await, Some(Value::from(0i64)));
        root.detach().await;
    });
}
