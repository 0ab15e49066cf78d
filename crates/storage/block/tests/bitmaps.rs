//! Dirty bitmaps over QMP: what is recorded, the rules, and the texts of the errors.

mod common;

use block::driver::{Prealloc, WriteFlags, ZeroFlags};
use block::{Perm, RootConfig};
use common::{Bed, o, run};
use mem::IoBuf;
use monitor::{CommandTable, HmpTable};

async fn add(b: &Bed, name: &str, granularity: Option<u32>) -> Result<(), String> {
    let done = b.graph.bitmap_add("hd0", name, granularity, false, false).await;
    done.map_err(|e| e.desc().to_owned())
}

fn dirty(b: &Bed, name: &str) -> Vec<(u64, u64)> {
    let g = b.graph.snapshot();
    let all = b.graph.query_named_block_nodes(true);
    let info =
        all.iter().find(|n| n.node_name.as_deref() == Some("hd0")).unwrap().dirty_bitmaps.clone().unwrap();
    let info = info.into_iter().find(|i| i.name.as_deref() == Some(name)).unwrap();
    assert!(g.by_name("hd0").is_some());
    let map =
        b.graph.bitmap("hd0", name, block::bitmap::Tolerate { read_only: true, inconsistent: true }).unwrap();
    let (mut runs, mut at) = (Vec::new(), 0);
    while let Some((off, len)) = map.next_dirty(at, u64::MAX) {
        runs.push((off, len));
        at = off + len;
    }
    assert_eq!(info.count as u64, map.dirty_bytes());
    runs
}

#[test]
fn writes_zeroes_and_discards_are_recorded() {
    run(|b| async move {
        b.add(&o(0, ",'discard':'unmap'")).await;
        add(&b, "a", Some(4096)).await.unwrap();
        b.graph.bitmap_add("hd0", "off", Some(4096), false, true).await.unwrap();
        let shared = Perm::all();
        let perm = Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE;
        let root = b.graph.attach("hd0", RootConfig { perm, shared, ..RootConfig::default() }).await.unwrap();
        root.write(5000, IoBuf::from_bytes(&[1; 10]), WriteFlags::empty()).await.unwrap();
        root.write_zeroes(16384, 8192, ZeroFlags::empty()).await.unwrap();
        root.discard(32768, 4096).await.unwrap();
        root.read(0, IoBuf::zeroed(4096)).await.unwrap();
        assert_eq!(dirty(&b, "a"), [(4096, 4096), (16384, 8192), (32768, 4096)]);
        assert_eq!(dirty(&b, "off"), []);
        // Clear, and put back.
        let was = b.graph.bitmap("hd0", "a", Default::default()).unwrap().bits();
        b.graph.bitmap_clear("hd0", "a").await.unwrap();
        assert_eq!(dirty(&b, "a"), []);
        b.graph.bitmap("hd0", "a", Default::default()).unwrap().put_back(&was);
        assert_eq!(dirty(&b, "a").len(), 3);
        b.graph.bitmap_enable("hd0", "a", false).await.unwrap();
        root.write(0, IoBuf::from_bytes(&[1; 10]), WriteFlags::empty()).await.unwrap();
        assert_eq!(dirty(&b, "a").len(), 3);
        root.detach().await;
        // A bitmap follows the node's length.
        b.add("{'driver':'file','node-name':'r0','filename':'r0'}").await;
        b.graph.bitmap_add("r0", "f", Some(4096), false, false).await.unwrap();
        let root = b.graph.attach("r0", RootConfig { perm, shared, ..RootConfig::default() }).await.unwrap();
        root.write(0, IoBuf::zeroed(20_000), WriteFlags::empty()).await.unwrap();
        root.truncate(10_240, true, Prealloc::Off).await.unwrap();
        let f = b.graph.bitmap("r0", "f", Default::default()).unwrap();
        assert_eq!((f.size(), f.next_dirty(0, u64::MAX)), (10_240, Some((0, 10_240))));
        root.truncate(100_000, true, Prealloc::Off).await.unwrap();
        assert_eq!((f.size(), f.dirty_bytes()), (100_000, 12_288));
        root.detach().await;
    });
}

#[test]
fn rules_and_texts() {
    run(|b| async move {
        b.add(&o(0, "")).await;
        b.add("{'driver':'file','node-name':'r0','filename':'r0'}").await;
        let mut table = CommandTable::new();
        block::qmp::register(&mut table, &mut HmpTable::new(), &b.graph);
        assert_eq!(add(&b, "", None).await.unwrap_err(), "Bitmap name cannot be empty");
        let long = "x".repeat(1024);
        assert_eq!(add(&b, &long, None).await.unwrap_err(), format!("Bitmap name too long: {long}"));
        for g in [0, 100, 256, 768] {
            let e = add(&b, "x", Some(g)).await.unwrap_err();
            assert_eq!(e, "Granularity must be power of 2 and at least 512");
        }
        add(&b, "x", None).await.unwrap();
        assert_eq!(add(&b, "x", None).await.unwrap_err(), "Bitmap already exists: x");
        add(&b, "fine", Some(512)).await.unwrap();
        let e = b.graph.bitmap_add("r0", "p", None, true, false).await.unwrap_err();
        assert_eq!(e.desc(), "Can't store persistent bitmaps to r0: Operation not supported");
        let e = b.graph.bitmap_add("zz", "p", None, true, false).await.unwrap_err();
        assert_eq!(e.desc(), "Cannot find device='zz' nor node-name='zz'");
        let e = b.graph.bitmap_remove("hd0", "zz").await.unwrap_err();
        assert_eq!(e.desc(), "Dirty bitmap 'zz' not found");
        let src = |node: Option<&str>, name: &str| block::bitmap::BitmapSource {
            node: node.map(Into::into),
            name: name.into(),
        };
        b.graph.bitmap("hd0", "fine", Default::default()).unwrap().set(1024, 512);
        b.graph.bitmap_merge("hd0", "x", &[src(None, "fine"), src(None, "x")]).await.unwrap();
        assert_eq!(dirty(&b, "x"), [(0, 4096)]);
        let e = b.graph.bitmap_merge("hd0", "x", &[src(Some("zz"), "x")]).await.unwrap_err();
        assert_eq!(e.desc(), "Node 'zz' not found");
        b.add("{'driver':'null-co','node-name':'n','size':1048576}").await;
        b.graph.bitmap_add("n", "p", None, false, false).await.unwrap();
        // All or nothing.
        b.graph.bitmap_clear("hd0", "x").await.unwrap();
        let e =
            b.graph.bitmap_merge("hd0", "x", &[src(None, "fine"), src(Some("n"), "p")]).await.unwrap_err();
        assert_eq!(
            e.desc(),
            "Bitmaps are of different sizes (destination size is 65536, source size is 1048576) and can't be merged"
        );
        assert_eq!(dirty(&b, "x"), []);
        // 16 clean bits of 64 KiB each: one word.
        assert_eq!(
            b.graph.bitmap_sha256("n", "p").unwrap(),
            "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"
        );
        let busy = b.graph.bitmap("hd0", "x", Default::default()).unwrap().occupy().unwrap();
        let e = b.graph.bitmap_clear("hd0", "x").await.unwrap_err();
        assert_eq!(e.desc(), "Bitmap 'x' is currently in use by another operation and cannot be used");
        assert!(busy.bitmap().occupy().is_none());
        drop(busy);
        b.graph.bitmap_remove("hd0", "x").await.unwrap();
        let e = b.graph.bitmap_clear("hd0", "x").await.unwrap_err();
        assert_eq!(e.desc(), "Dirty bitmap 'x' not found");
    });
}
