//! What only jobs will do: frozen links, and filters put in behind the user's back.

use crate::control::BlockGraph;
use crate::driver::ChildSlot;
use crate::testing::{DRIVERS, World, create_cow};
use crate::txn::Txn;
use api::block_core::BlockdevOptions;
use monitor::EventBus;
use qapi::{Value, from_json};
use std::sync::Arc;

fn opt(text: &str) -> BlockdevOptions {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn image(n: u32, backing: &str) -> BlockdevOptions {
    opt(&format!(
        "{{'driver':'qcow2','node-name':'hd{n}','file':{{'driver':'file','filename':'h{n}'}},'backing':{backing}}}"
    ))
}

async fn chain() -> (Arc<World>, Arc<BlockGraph>) {
    let world = World::new();
    let guard = world.enter();
    for n in 0..3 {
        create_cow(&world, &format!("h{n}"), 65536, None);
    }
    let g = BlockGraph::new(DRIVERS, EventBus::new());
    g.add(image(0, "null")).await.expect("add");
    g.add(image(1, "'hd0'")).await.expect("add");
    drop(guard);
    (world, g)
}

async fn edit(g: &BlockGraph, f: impl FnOnce(&mut Txn<'_>)) {
    let mut txn = Txn::new(g);
    f(&mut txn);
    txn.finish().await.expect("the edit is fine");
    txn.commit().await;
}

#[test]
fn r12_a_frozen_link_cannot_change() {
    rt::sim::Sim::new(1).block_on(async {
        let (_world, g) = chain().await;
        edit(&g, |t| {
            let id = t.base.by_name("hd1").expect("it is there").id;
            let n = t.next.edit(id).expect("it is there");
            n.edges.iter_mut().filter(|e| e.slot == ChildSlot::Backing).for_each(|e| e.frozen = 1);
        })
        .await;
        let want = "Cannot change frozen 'backing' link from 'hd1' to 'hd0'";
        let e = g.reopen(vec![image(1, "null")]).await.expect_err("frozen");
        assert_eq!(e.desc(), want);
        // The whole graph is looked at: no other way around it either.
        let mut txn = Txn::new(&g);
        let id = txn.base.by_name("hd1").expect("it is there").id;
        txn.unlink(id, ChildSlot::Backing);
        assert_eq!(txn.finish().await.expect_err("frozen").desc(), want);
        drop(txn);
        let mut txn = Txn::new(&g);
        txn.next.edit(id).expect("it is there").monitor_owned = false;
        assert_eq!(txn.finish().await.expect_err("frozen").desc(), want);
        drop(txn);
        // Saying what is so is fine.
        g.reopen(vec![image(1, "'hd0'")]).await.expect("nothing changes");
    });
}

#[test]
fn r13_implicit_filters_are_looked_through() {
    rt::sim::Sim::new(1).block_on(async {
        let (_world, g) = chain().await;
        g.add(opt("{'driver':'raw','node-name':'cf','file':'hd0'}")).await.expect("add");
        g.reopen(vec![image(1, "'cf'")]).await.expect("explicit: like any node");
        edit(&g, |t| {
            let id = t.base.by_name("cf").expect("it is there").id;
            t.next.edit(id).expect("it is there").implicit = true;
        })
        .await;
        g.reopen(vec![image(1, "'hd0'")]).await.expect("the node below: unchanged");
        let s = g.snapshot();
        let hd1 = s.by_name("hd1").expect("it is there");
        let below = hd1.edge(ChildSlot::Backing).and_then(|e| s.node(e.child)).expect("backing");
        assert_eq!(below.name, "cf");
        for backing in ["null", "'hd1'"] {
            let e = g.reopen(vec![image(1, backing)]).await.expect_err("implicit");
            assert_eq!(e.desc(), "Cannot replace implicit backing child of hd1");
        }
    });
}

#[test]
fn dropping_a_transaction_changes_nothing() {
    rt::sim::Sim::new(1).block_on(async {
        let (world, g) = chain().await;
        let before = (g.describe(), g.snapshot().version());
        let mut txn = Txn::new(&g);
        let id = txn.base.by_name("hd1").expect("it is there").id;
        txn.unlink(id, ChildSlot::Backing);
        txn.finish().await.expect("fine");
        drop(txn);
        assert_eq!((g.describe(), g.snapshot().version()), before);
        assert_eq!(world.staged(), 0);
    });
}
