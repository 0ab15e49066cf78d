//! `throttle` in a graph: options, shared limits, drain, and the conformance suite without limits.

#[path = "../../block-file/tests/conformance/mod.rs"]
mod conformance;

use api::block_core::{BlockdevDriverOptions, BlockdevOptions, BlockdevOptionsThrottle, BlockdevRef};
use block::BlockGraph;
use block::driver::{DriverType, WriteFlags};
use block::perm::Perm;
use conformance::*;
use mem::IoBuf;
use qapi::{Value, from_json};
use qom::ObjectTree;
use std::sync::Arc;
use std::time::Duration;

fn drivers() -> Vec<&'static DriverType> {
    [block_file::DRIVERS, block_formats::DRIVERS, block_filters::DRIVERS].concat()
}

fn throttle(name: &str, file: &str, group: &str) -> BlockdevOptions {
    let o =
        BlockdevOptionsThrottle { throttle_group: group.into(), file: BlockdevRef::Reference(file.into()) };
    named(name, BlockdevDriverOptions::Throttle(o))
}

fn with_groups(groups: &[&str]) -> (Arc<BlockGraph>, Arc<ObjectTree>) {
    let (g, objects) = (graph(&drivers()), Arc::new(ObjectTree::new()));
    for text in groups {
        objects.add(&from_json(Value::parse_json(text).unwrap()).unwrap()).unwrap();
    }
    g.set_objects(objects.clone());
    (g, objects)
}

fn null(name: &str) -> BlockdevOptions {
    let text = format!("{{'driver':'null-co','node-name':'{name}','size':1048576,'read-zeroes':true}}");
    from_json(Value::parse_json(&text).unwrap()).unwrap()
}

#[test]
fn throttle_without_limits_conforms() {
    let dir = Dir::new("conform-throttle");
    on_each_backend(async || {
        let path = dir.path("image");
        for (_, options) in file_variants(&path).into_iter().take(2) {
            dir.file("image", 600 << 10);
            let (g, _) = with_groups(&["{'qom-type':'throttle-group','id':'g'}"]);
            g.add(options).await.unwrap();
            g.add(throttle("t", "n", "g")).await.unwrap();
            conformance(&g, "t", Traits { resizes: true }).await;
        }
    });
}

#[test]
fn groups_are_found_kept_and_changed() {
    rt::sim::Sim::new(5).block_on(async {
        let (g, objects) = with_groups(&[
            "{'qom-type':'throttle-group','id':'g'}",
            "{'qom-type':'throttle-group','id':'h','limits':{'iops-total':10}}",
            "{'qom-type':'rng-builtin','id':'rng'}",
        ]);
        g.add(null("n")).await.unwrap();
        for bad in ["nope", "rng"] {
            let e = g.add(throttle("t", "n", bad)).await.unwrap_err();
            assert_eq!(e.desc(), format!("Throttle group '{bad}' does not exist"));
        }
        g.add(throttle("t", "n", "g")).await.unwrap();
        assert_eq!(objects.del("g").unwrap_err().desc(), "object 'g' is in use, can not be deleted");
        let e = g.reopen(vec![throttle("t", "n", "nope")]).await.unwrap_err();
        assert_eq!(e.desc(), "Throttle group 'nope' does not exist");
        let root = attach(&g, "t", Perm::all() - Perm::RESIZE, Perm::all()).await.unwrap();
        let start = rt::now();
        for _ in 0..20 {
            read(&root, 0, 512).await;
        }
        assert_eq!(rt::now(), start);
        g.reopen(vec![throttle("t", "n", "h")]).await.unwrap();
        objects.del("g").unwrap();
        for _ in 0..20 {
            read(&root, 0, 512).await;
            root.write(0, IoBuf::zeroed(512), WriteFlags::empty()).await.unwrap();
        }
        assert!(rt::now() - start > Duration::from_secs(3));
        root.detach().await;
        g.del("t").await.unwrap();
        objects.del("h").unwrap();
    });
}

#[test]
fn two_nodes_share_a_group_and_a_drain_lets_requests_go() {
    rt::sim::Sim::new(6).block_on(async {
        let (g, _objects) =
            with_groups(&["{'qom-type':'throttle-group','id':'g','limits':{'iops-total':1}}"]);
        for n in ["a", "b"] {
            g.add(null(n)).await.unwrap();
            g.add(throttle(&format!("t{n}"), n, "g")).await.unwrap();
        }
        let a = attach(&g, "ta", Perm::CONSISTENT_READ, Perm::all()).await.unwrap();
        let b = attach(&g, "tb", Perm::CONSISTENT_READ, Perm::all()).await.unwrap();
        let start = rt::now();
        let reads: Vec<_> = [a.clone(), b.clone()]
            .into_iter()
            .flat_map(|r| std::iter::repeat_n(r, 50))
            .map(|r| rt::spawn_local(async move { drop(read(&r, 0, 512).await) }))
            .collect();
        rt::sleep(Duration::from_secs(10)).await;
        let done = reads.iter().filter(|t| t.is_finished()).count();
        assert!((9..13).contains(&done), "{done}");
        assert_eq!(g.query_named_block_nodes(true).len(), 4);
        // Ninety seconds' worth of requests do not hold the reopen up.
        g.reopen(vec![throttle("ta", "a", "g"), throttle("tb", "b", "g")]).await.unwrap();
        for r in reads {
            r.await;
        }
        assert!(rt::now() - start < Duration::from_secs(12));
        a.detach().await;
        b.detach().await;
    });
}
