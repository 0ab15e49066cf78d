//! `transaction` and overlays on simulated storage: all or nothing, also where storage fails; one moment for all disks.

mod common;

use block::testing::{Faults, create_cow};
use common::{Bed, SIZE, arg, run, run_seed};
use mem::IoBuf;
use monitor::{CommandTable, HmpTable};
use qapi::Value;
use std::time::Duration;

fn table(b: &Bed) -> CommandTable {
    let mut t = CommandTable::new();
    block::qmp::register(&mut t, &mut HmpTable::new(), &b.graph);
    block_jobs::register(&mut t, &b.jobs);
    t
}

async fn qmp(b: &Bed, command: &str, text: &str) -> Result<Value, String> {
    let args = Value::parse_json(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    table(b).call(command, args).await.map_err(|e| e.desc().to_owned())
}

/// Everything that can be told of the graph, its bitmaps and its images.
fn state(b: &Bed) -> String {
    let nodes = b.graph.query_named_block_nodes(true);
    let owners: Vec<_> = b.graph.snapshot().nodes().map(|n| (n.name.clone(), n.monitor_owned)).collect();
    format!("{}\n{nodes:#?}\n{owners:?}", b.graph.describe())
}

async fn fails(b: &Bed, actions: &str) -> String {
    let before = state(b);
    let e = qmp(b, "transaction", &format!("{{'actions':[{actions}]}}")).await.expect_err(actions);
    assert_eq!(state(b), before, "{actions} failed but left traces");
    assert_eq!(b.world.staged(), 0);
    e
}

const ABORT: &str = "{'type':'abort','data':{}}";

#[test]
fn bitmaps_all_or_none() {
    run(|b| async move {
        let on = |ty: &str, more: &str| {
            format!("{{'type':'block-dirty-bitmap-{ty}','data':{{'node':'hd2'{more}}}}}")
        };
        let (add_a, add_b) = (on("add", ",'name':'a','granularity':4096"), on("add", ",'name':'b'"));
        let merge = on("merge", ",'target':'a','bitmaps':['b','c']");
        let e = fails(&b, &format!("{add_a},{add_a}")).await;
        assert_eq!(e, "Bitmap already exists: a");
        assert_eq!(
            fails(&b, &format!("{add_a},{add_b},{ABORT}")).await,
            "Transaction aborted using Abort action"
        );
        assert_eq!(fails(&b, &format!("{add_a},{add_b},{merge}")).await, "Dirty bitmap 'c' not found");
        b.graph.bitmap_add("hd2", "c", Some(4096), false, false).await.unwrap();
        b.put("hd2", 0, 9, 10).await;
        let (clear, off) = (on("clear", ",'name':'c'"), on("disable", ",'name':'c'"));
        let remove = on("remove", ",'name':'c'");
        fails(&b, &format!("{clear},{off},{remove},{ABORT}")).await;
        let busy = "Bitmap 'c' is currently in use by another operation and cannot be used";
        assert_eq!(fails(&b, &format!("{remove},{clear}")).await, busy);
        let again = on("add", ",'name':'c'");
        assert_eq!(fails(&b, &format!("{remove},{again}")).await, "Bitmap already exists: c");
        // What a checkpoint is: a new bitmap takes over what an old one has, which stops.
        let all = format!("{add_a},{add_b},{merge},{off},{clear}");
        qmp(&b, "transaction", &format!("{{'actions':[{all}]}}")).await.unwrap();
        let bit = |n: &str| b.graph.bitmap("hd2", n, Default::default()).unwrap();
        assert_eq!(bit("a").next_dirty(0, u64::MAX), Some((0, 4096)));
        assert_eq!((bit("c").dirty_bytes(), bit("c").enabled(), bit("a").enabled()), (0, false, true));
        // A merge after a clear sees the cleared one, before it what was there.
        let merge = on("merge", ",'target':'c','bitmaps':['a']");
        let clear_a = on("clear", ",'name':'a'");
        qmp(&b, "transaction", &format!("{{'actions':[{clear_a},{merge}]}}")).await.unwrap();
        assert_eq!(bit("c").dirty_bytes(), 0);
        qmp(&b, "transaction", &format!("{{'actions':[{remove}]}}")).await.unwrap();
        assert!(b.graph.bitmap("hd2", "c", Default::default()).is_err());
    });
}

#[test]
fn overlays_take_over_all_users() {
    run(|b| async move {
        create_cow(&b.world, "o1", SIZE, None);
        create_cow(&b.world, "o2", SIZE, None);
        for n in ["o1", "o2"] {
            let text = format!(
                "{{'driver':'qcow2','node-name':'{n}','file':{{'driver':'file','filename':'{n}'}},'backing':null}}"
            );
            b.graph.add(arg(&text)).await.unwrap();
        }
        let writer = b.user("hd2").await;
        let other = b.user("hd3").await;
        writer.write(0, IoBuf::from_bytes(&[1; 4096]), Default::default()).await.unwrap();
        let snap = |n: &str, o: &str| {
            format!("{{'type':'blockdev-snapshot','data':{{'node':'{n}','overlay':'{o}'}}}}")
        };
        // The second cannot be: the first is not done either.
        let twice = format!("{},{}", snap("hd2", "o1"), snap("hd3", "o1"));
        assert_eq!(fails(&b, &twice).await, "The overlay is already in use");
        create_cow(&b.world, "o3", SIZE, None);
        let o3 =
            "{'driver':'qcow2','node-name':'o3','file':{'driver':'file','filename':'o3'},'backing':'hd0'}";
        b.graph.add(arg(o3)).await.unwrap();
        let backed = format!("{},{}", snap("hd2", "o1"), snap("hd3", "o3"));
        assert_eq!(fails(&b, &backed).await, "The overlay already has a backing image");
        let busy = format!("{},{}", snap("hd3", "o1"), snap("hd1", "o2"));
        assert_eq!(fails(&b, &busy).await, "Node 'hd1' is busy: node is used as backing hd of 'hd2'");
        assert_eq!(fails(&b, &snap("zz", "o1")).await, "Cannot find device='zz' nor node-name='zz'");
        assert_eq!(fails(&b, &snap("hd2", "zz")).await, "Cannot find device='zz' nor node-name='zz'");
        assert_eq!(
            fails(&b, &format!("{},{}", snap("hd2", "o1"), snap("o1", "o1"))).await,
            "The overlay is already in use"
        );
        let both = format!("{{'actions':[{},{}]}}", snap("hd2", "o1"), snap("hd3", "o2"));
        qmp(&b, "transaction", &both).await.unwrap();
        assert_eq!((writer.node_name().unwrap(), other.node_name().unwrap()), ("o1".into(), "o2".into()));
        assert_eq!(
            (b.child("o1", "backing").unwrap(), b.child("o2", "backing").unwrap()),
            ("hd2".into(), "hd3".into())
        );
        let g = b.graph.snapshot();
        assert!(g.by_name("hd2").unwrap().flags.read_only && !g.by_name("o1").unwrap().flags.read_only);
        drop(g);
        writer.write(0, IoBuf::from_bytes(&[2; 512]), Default::default()).await.unwrap();
        assert_eq!(b.bytes("hd2").await[0], 1);
        assert_eq!(b.bytes("o1").await[..1024], [[2u8; 512], [1; 512]].concat());
        writer.detach().await;
        other.detach().await;
    });
}

#[test]
fn a_snapshot_is_one_moment_for_all_disks() {
    // A writer numbers its writes, alternating between two disks and never ahead by more than one: what the snapshot
    // has of both must have been so at one moment.
    for seed in 0..30 {
        run_seed(seed, |b| async move {
            for n in ["o1", "o2"] {
                create_cow(&b.world, n, SIZE, None);
                let text = format!(
                    "{{'driver':'qcow2','node-name':'{n}','file':{{'driver':'file','filename':'{n}'}},'backing':null}}"
                );
                b.graph.add(arg(&text)).await.unwrap();
            }
            let (x, y) = (b.user("hd2").await, b.user("hd3").await);
            let writing = rt::spawn_local(async move {
                for i in 1..=60u8 {
                    for r in [&x, &y] {
                        r.write(0, IoBuf::from_bytes(&[i; 512]), Default::default()).await.unwrap();
                    }
                }
                x.detach().await;
                y.detach().await;
            });
            rt::sleep(Duration::from_micros(200 * seed)).await;
            let snap = "{'actions':[
                {'type':'blockdev-snapshot','data':{'node':'hd2','overlay':'o1'}},
                {'type':'blockdev-snapshot','data':{'node':'hd3','overlay':'o2'}}]}";
            qmp(&b, "transaction", snap).await.unwrap();
            writing.await;
            let (x, y) = (b.bytes("hd2").await[0], b.bytes("hd3").await[0]);
            // hd2 held other bytes at first.
            let x = if x == 0x10 || x == 0x20 || x == 0x30 { 0 } else { x };
            assert!(x == y || x == y + 1, "seed {seed}: {x} {y}");
            assert_eq!((b.bytes("o1").await[0], b.bytes("o2").await[0]), (60, 60));
        });
    }
}

#[test]
fn storage_that_fails_leaves_everything_as_it_was() {
    let mut done = [0, 0];
    for seed in 0..60 {
        done[run_seed(seed, |b| async move {
            create_cow(&b.world, "o1", SIZE, None);
            let text =
                "{'driver':'qcow2','node-name':'o1','file':{'driver':'file','filename':'o1'},'backing':null}";
            b.graph.add(arg(text)).await.unwrap();
            let w = b.user("hd2").await;
            w.write(0, IoBuf::from_bytes(&[7; 9000]), Default::default()).await.unwrap();
            let before = state(&b);
            b.world.set_faults(Faults { write: 60, flush: 60, stage: 60, read: 30, ..Faults::default() });
            let all = "{'actions':[
                {'type':'block-dirty-bitmap-add','data':{'node':'hd2','name':'a'}},
                {'type':'blockdev-snapshot','data':{'node':'hd2','overlay':'o1'}},
                {'type':'block-dirty-bitmap-add','data':{'node':'o1','name':'a'}}]}";
            let ok = qmp(&b, "transaction", all).await.is_ok();
            b.world.set_faults(Faults::default());
            assert_eq!(b.world.staged(), 0);
            if !ok {
                assert_eq!(state(&b), before);
            }
            w.write(4096, IoBuf::from_bytes(&[8; 4096]), Default::default()).await.unwrap();
            assert_eq!(b.bytes(if ok { "o1" } else { "hd2" }).await[4095..4097], [7, 8]);
            w.detach().await;
            usize::from(ok)
        })] += 1;
    }
    assert!(done[0] > 0 && done[1] > 0, "{done:?}");
}

#[test]
fn grouped_is_for_jobs() {
    run(|b| async move {
        let grouped = |a: &str| format!("{{'actions':[{a}],'properties':{{'completion-mode':'grouped'}}}}");
        let e = qmp(&b, "transaction", &grouped(ABORT)).await.unwrap_err();
        assert_eq!(e, "Action 'abort' does not support transaction property completion-mode = grouped");
        assert_eq!(qmp(&b, "transaction", &grouped("")).await.unwrap(), Value::Dict(Default::default()));
        let e = qmp(&b, "transaction", "{'actions':[{'type':'bogus','data':{}}]}").await.unwrap_err();
        assert_eq!(e, "Parameter 'type' does not accept value 'bogus'");
    });
}

/// Management tools look at the introspection for what they may wait for.
#[test]
fn what_jobs_tell_is_declared() {
    run(|b| async move {
        let declared = table(&b).introspect().to_json();
        for event in [
            "JOB_STATUS_CHANGE",
            "BLOCK_JOB_CANCELLED",
            "BLOCK_JOB_COMPLETED",
            "BLOCK_JOB_ERROR",
            "BLOCK_JOB_PENDING",
            "BLOCK_JOB_READY",
        ] {
            assert!(declared.contains(&format!("\"{event}\"")), "{event}");
        }
    });
}
