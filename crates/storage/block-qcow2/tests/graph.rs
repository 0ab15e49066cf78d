//! The driver in a graph: opening, reopening, repairing, over a disk that remembers what was made stable.

mod common;
mod encrypted;

use std::sync::Arc;

use api::block_core::{BlockdevDriver, BlockdevOptions, ImageInfoSpecific};
use block::driver::{SnapshotOp, WriteFlags, ZeroFlags};
use block::testing::{SIM_FILE, SIM_NULL, SIM_RAW, World, WorldGuard};
use block::{BlockGraph, Perm, Root, RootConfig};
use block_qcow2::QCOW2;
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Value, from_json};
use rt::sim::Sim;

struct Bench {
    world: Arc<World>,
    graph: Arc<BlockGraph>,
    _here: WorldGuard,
}

fn options(text: &str) -> BlockdevOptions {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

impl Bench {
    fn new() -> Bench {
        let world = World::new();
        let here = world.enter();
        let graph = BlockGraph::new(&[&SIM_FILE, &SIM_RAW, &SIM_NULL, &QCOW2], EventBus::new());
        Bench { world, graph, _here: here }
    }

    async fn add(&self, text: &str) -> Result<(), String> {
        self.graph.add(options(text)).await.map_err(|e| e.desc().to_string())
    }

    async fn reopen(&self, text: &str) -> Result<(), String> {
        self.graph.reopen(vec![options(text)]).await.map_err(|e| e.desc().to_string())
    }

    async fn root(&self, node: &str, perm: Perm) -> Arc<Root> {
        let config = RootConfig { perm, shared: Perm::all(), desc: "test".into(), ..RootConfig::default() };
        self.graph.attach(node, config).await.unwrap()
    }

    fn specific(&self, node: &str) -> api::block_core::ImageInfoSpecificQCow2 {
        match self.graph.image_info(node).and_then(|i| i.base.format_specific) {
            Some(ImageInfoSpecific::Qcow2(q)) => q,
            other => panic!("{other:?}"),
        }
    }
}

const RW: Perm = Perm::CONSISTENT_READ.union(Perm::WRITE).union(Perm::RESIZE);

#[test]
fn a_node_reads_writes_and_tells_of_itself() {
    Sim::new(1).block_on(async {
        let b = Bench::new();
        b.world.create("a", common::image(&common::options(1 << 20, 4096, None)));
        b.add("{'driver':'qcow2','node-name':'a','file':{'driver':'file','filename':'a'}}").await.unwrap();
        let root = b.root("a", RW).await;
        assert_eq!(root.len(), 1 << 20);
        root.write(5000, IoBuf::from_bytes(&[7; 3000]), WriteFlags::FUA).await.unwrap();
        root.write_zeroes(5500, 500, ZeroFlags::empty()).await.unwrap();
        let buf = IoBuf::zeroed(4000);
        root.read(4900, buf.clone()).await.unwrap();
        let mut want = vec![0u8; 4000];
        want[100..3100].fill(7);
        want[600..1100].fill(0);
        assert!(buf.to_vec() == want);
        assert!(root.map(0, 4096).await.unwrap().zero);
        root.truncate(2 << 20, true, block::driver::Prealloc::Off).await.unwrap();
        assert_eq!(root.len(), 2 << 20);
        let q = b.specific("a");
        assert_eq!((q.compat.as_str(), q.refcount_bits, q.corrupt), ("1.1", 16, Some(false)));
        root.detach().await;
        b.graph.close_all().await;
    });
}

#[test]
fn read_only_and_back_and_cache_sizes() {
    Sim::new(2).block_on(async {
        let b = Bench::new();
        let mut o = common::options(1 << 20, 4096, None);
        o.lazy_refcounts = Some(true);
        b.world.create("a", common::image(&o));
        let node = |more: &str| {
            format!("{{'driver':'qcow2','node-name':'a','file':{{'driver':'file','filename':'a'}}{more}}}")
        };
        b.add(&node("")).await.unwrap();
        let root = b.root("a", RW).await;
        root.write(0, IoBuf::from_bytes(&[1; 4096]), WriteFlags::empty()).await.unwrap();
        assert_eq!(b.graph.image_info("a").unwrap().base.dirty_flag, Some(true));
        root.detach().await;
        let entry = "L2 cache entry size must be a power of two between 512 and the cluster size (4096)";
        assert_eq!(b.reopen(&node(",'l2-cache-entry-size':100")).await.unwrap_err(), entry);
        b.reopen(&node(",'l2-cache-entry-size':512,'cache-size':65536")).await.unwrap();
        b.reopen(&node(",'read-only':true")).await.unwrap();
        // Everything is in the file now, and the file says so.
        assert_eq!(b.graph.image_info("a").unwrap().base.dirty_flag, Some(false));
        let reader = b.root("a", Perm::CONSISTENT_READ).await;
        let e = reader.write(0, IoBuf::from_bytes(&[1; 512]), WriteFlags::empty()).await;
        assert_eq!(e, Err(base::Errno::PERM));
        reader.detach().await;
        b.reopen(&node(",'read-only':false")).await.unwrap();
        let root = b.root("a", RW).await;
        root.write(8192, IoBuf::from_bytes(&[2; 512]), WriteFlags::empty()).await.unwrap();
        let buf = IoBuf::zeroed(12288);
        root.read(0, buf.clone()).await.unwrap();
        let got = buf.to_vec();
        assert!(got[..4096].iter().all(|b| *b == 1) && got[8192..8704].iter().all(|b| *b == 2));
        root.detach().await;
        b.graph.close_all().await;
    });
}

#[test]
fn a_dirty_image_is_repaired_before_it_is_written() {
    Sim::new(3).block_on(async {
        let b = Bench::new();
        let mut o = common::options(1 << 20, 4096, None);
        o.lazy_refcounts = Some(true);
        b.world.create("a", common::image(&o));
        let node = "{'driver':'qcow2','node-name':'a','file':{'driver':'file','filename':'a'}}";
        b.add(node).await.unwrap();
        let root = b.root("a", RW).await;
        for i in 0..20u8 {
            root.write(u64::from(i) * 9000, IoBuf::from_bytes(&[i + 1; 5000]), WriteFlags::empty())
                .await
                .unwrap();
        }
        root.flush().await.unwrap();
        // The lights go out: refcounts are behind.
        let disk = b.world.disk("a").unwrap();
        let left = disk.stable_bytes();
        let again = Bench::new();
        again.world.create("a", left);
        again.add(node).await.unwrap();
        assert_eq!(again.graph.image_info("a").unwrap().base.dirty_flag, Some(false));
        let root = again.root("a", RW).await;
        root.write(500_000, IoBuf::from_bytes(&[99; 5000]), WriteFlags::empty()).await.unwrap();
        for i in 0..20u8 {
            let buf = IoBuf::zeroed(5000);
            root.read(u64::from(i) * 9000, buf.clone()).await.unwrap();
            assert!(buf.to_vec() == [i + 1; 5000], "{i}");
        }
        root.detach().await;
        again.graph.close_all().await;
    });
}

#[test]
fn the_header_names_the_backing_file() {
    Sim::new(4).block_on(async {
        let b = Bench::new();
        b.world.create("base", vec![5; 1 << 20]);
        let o = common::options(1 << 20, 4096, Some(("base", BlockdevDriver::Raw)));
        b.world.create("a", common::image(&o));
        b.add("{'driver':'raw','node-name':'other','file':{'driver':'null-co','size':1048576,'read-zeroes':true}}")
            .await
            .unwrap();
        let node = |backing: &str| {
            format!("{{'driver':'qcow2','node-name':'a','file':{{'driver':'file','filename':'a'}}{backing}}}")
        };
        b.add(&node(",'backing':{'driver':'raw','file':{'driver':'file','filename':'base'}}")).await.unwrap();
        let root = b.root("a", RW).await;
        root.write(10, IoBuf::from_bytes(&[1; 10]), WriteFlags::empty()).await.unwrap();
        let buf = IoBuf::zeroed(30);
        root.read(0, buf.clone()).await.unwrap();
        assert!(buf.to_vec() == [[5; 10], [1; 10], [5; 10]].concat());
        assert_eq!(b.reopen(&node("")).await.unwrap_err(), "backing is missing for 'a'");
        b.reopen(&node(",'backing':'other'")).await.unwrap();
        // What was written stays, what was copied with it stays, the rest comes from the new one.
        root.read(0, buf.clone()).await.unwrap();
        assert!(buf.to_vec() == [[5; 10], [1; 10], [5; 10]].concat());
        root.read(4096, buf.clone()).await.unwrap();
        assert!(buf.is_zero());
        root.detach().await;
        b.graph.close_all().await;
    });
}

#[test]
fn what_is_no_image_is_refused() {
    Sim::new(5).block_on(async {
        let b = Bench::new();
        let mut bytes = common::image(&common::options(1 << 20, 4096, None));
        b.world.create("no", vec![0; 4096]);
        bytes[79] = 2;
        b.world.create("corrupt", bytes.clone());
        bytes[79] = 32;
        b.world.create("new", bytes);
        let node = |f: &str, more: &str| {
            format!("{{'driver':'qcow2','node-name':'n','file':{{'driver':'file','filename':'{f}'}}{more}}}")
        };
        assert_eq!(b.add(&node("no", "")).await.unwrap_err(), "Image is not in qcow2 format");
        let e = b.add(&node("new", "")).await.unwrap_err();
        assert_eq!(e, "Unsupported qcow2 feature(s): Unknown incompatible feature: 20");
        let e = b.add(&node("corrupt", "")).await.unwrap_err();
        assert_eq!(e, "qcow2: Image is corrupt; cannot be opened read/write");
        b.add(&node("corrupt", ",'read-only':true")).await.unwrap();
        assert_eq!(b.specific("n").corrupt, Some(true));
        let e = b.reopen(&node("corrupt", ",'read-only':false")).await.unwrap_err();
        assert_eq!(e, "qcow2: Image is corrupt; cannot be opened read/write");
        b.graph.close_all().await;
    });
}

#[test]
fn resizing_and_internal_snapshots_by_the_monitor() {
    Sim::new(6).block_on(async {
        use block::driver::Prealloc;
        let b = Bench::new();
        b.world.create("a", common::image(&common::options(1 << 20, 4096, None)));
        let node = |more: &str| {
            format!("{{'driver':'qcow2','node-name':'a','file':{{'driver':'file','filename':'a'}}{more}}}")
        };
        b.add(&node("")).await.unwrap();
        b.add("{'driver':'null-co','node-name':'n'}").await.unwrap();
        let resize = async |node: &str, size| {
            b.graph.resize("", node, size, Prealloc::Off).await.map_err(|e| e.desc().to_owned())
        };
        assert_eq!(resize("zz", 512).await.unwrap_err(), "Cannot find device='' nor node-name='zz'");
        assert_eq!(resize("a", 1000).await.unwrap_err(), "The new size must be a multiple of 512");
        assert_eq!(resize("n", 512).await.unwrap_err(), "Image format driver does not support resize");
        assert_eq!(resize("a", 1 << 62).await.unwrap_err(), "Failed to grow the L1 table: File too large");
        let root = b.root("a", RW).await;
        b.graph.bitmap_add("a", "m", None, false, false).await.unwrap();
        resize("a", 2 << 20).await.unwrap();
        assert_eq!(root.len(), 2 << 20);
        root.write((2 << 20) - 512, IoBuf::from_bytes(&[1; 512]), WriteFlags::empty()).await.unwrap();
        let make = |name: &str| SnapshotOp::Create {
            name: name.into(),
            date: std::time::Duration::from_secs(7),
            again: false,
        };
        assert_eq!(b.graph.internal_snapshot("a", make("s")).await.unwrap().unwrap().id, "1");
        assert_eq!(b.graph.internal_snapshot("a", make("s")).await.unwrap(), None);
        let e = b.graph.internal_snapshot("n", make("s")).await.unwrap_err();
        assert_eq!(e.desc(), "Block format 'null-co' used by device 'n' does not support internal snapshots");
        assert_eq!(b.graph.image_info("a").unwrap().base.snapshots.unwrap()[0].name, "s");
        root.write(0, IoBuf::from_bytes(&[2; 8192]), WriteFlags::empty()).await.unwrap();
        let apply = SnapshotOp::Apply { id: None, name: Some("s".into()) };
        assert!(b.graph.internal_snapshot("a", apply).await.unwrap().is_some());
        let buf = IoBuf::zeroed(8192);
        root.read(0, buf.clone()).await.unwrap();
        assert!(buf.is_zero());
        let m = b.graph.bitmap("a", "m", Default::default()).unwrap();
        assert_eq!((m.size(), m.dirty_bytes()), (2 << 20, 2 << 20));
        let delete = SnapshotOp::Delete { id: Some("1".into()), name: None };
        assert_eq!(b.graph.internal_snapshot("a", delete.clone()).await.unwrap().unwrap().name, "s");
        assert_eq!(b.graph.internal_snapshot("a", delete).await.unwrap(), None);
        resize("a", 1 << 20).await.unwrap();
        assert_eq!(root.len(), 1 << 20);
        root.detach().await;
        b.reopen(&node(",'read-only':true")).await.unwrap();
        assert_eq!(resize("a", 512).await.unwrap_err(), "Image is read-only");
        let e = b.graph.internal_snapshot("a", make("x")).await.unwrap_err();
        assert_eq!(e.desc(), "Device 'a' is read only");
        b.graph.close_all().await;
    });
}

#[test]
fn the_dirty_bit_stands_as_soon_as_refcounts_become_lazy() {
    Sim::new(11).block_on(async {
        let b = Bench::new();
        b.world.create("a", common::image(&common::options(1 << 20, 4096, None)));
        let node = |more: &str| {
            format!("{{'driver':'qcow2','node-name':'a','file':{{'driver':'file','filename':'a'}}{more}}}")
        };
        let dirty = || b.world.disk("a").unwrap().bytes()[79] & 1 != 0;
        b.add(&node("")).await.unwrap();
        let root = b.root("a", RW).await;
        root.write(0, IoBuf::from_bytes(&[1; 512]), WriteFlags::empty()).await.unwrap();
        assert!(!dirty());
        b.reopen(&node(",'lazy-refcounts':true")).await.unwrap();
        root.write(1 << 16, IoBuf::from_bytes(&[1; 512]), WriteFlags::empty()).await.unwrap();
        assert!(dirty());
        b.reopen(&node("")).await.unwrap();
        assert!(!dirty());
        root.detach().await;
        b.graph.close_all().await;
    });
}

#[test]
fn persistent_bitmaps_live_with_the_image() {
    Sim::new(7).block_on(async {
        let b = Bench::new();
        b.world.create("base", vec![5; 1 << 20]);
        let o = common::options(1 << 20, 4096, Some(("base", BlockdevDriver::Raw)));
        b.world.create("a", common::image(&o));
        let node = |more: &str| {
            let file = "'file':{'driver':'file','filename':'a'},'backing':null";
            format!("{{'driver':'qcow2','node-name':'a',{file}{more}}}")
        };
        let dirty = |b: &Bench, name: &str| {
            let any = block::bitmap::Tolerate { read_only: true, inconsistent: true };
            b.graph.bitmap("a", name, any).map(|m| (m.dirty_bytes(), m.enabled(), m.inconsistent()))
        };
        b.add(&node("")).await.unwrap();
        b.graph.bitmap_add("a", "m", Some(65536), true, false).await.unwrap();
        b.graph.bitmap_add("a", "idle", None, true, true).await.unwrap();
        b.graph.bitmap_add("a", "gone", None, false, false).await.unwrap();
        let root = b.root("a", RW).await;
        root.write(70_000, IoBuf::from_bytes(&[1; 10]), WriteFlags::empty()).await.unwrap();
        root.flush().await.unwrap();
        root.detach().await;
        // Read-only: stored, and not to be changed.
        b.reopen(&node(",'read-only':true")).await.unwrap();
        assert_eq!(b.specific("a").bitmaps.unwrap().len(), 2);
        let e = b.graph.bitmap_clear("a", "m").await.unwrap_err();
        assert_eq!(e.desc(), "Bitmap 'm' is readonly and cannot be modified");
        let e = b.graph.bitmap_remove("a", "m").await.unwrap_err();
        assert_eq!(e.desc(), "Bitmap 'm' is readonly and cannot be modified");
        b.reopen(&node("")).await.unwrap();
        let flags = b.specific("a").bitmaps.unwrap()[0].flags.clone();
        assert!(flags.contains(&api::block_core::Qcow2BitmapInfoFlags::InUse));
        // The lights go out.
        let left = b.world.disk("a").unwrap().stable_bytes();
        b.graph.close_all().await;
        // Closed properly.
        let again = Bench::new();
        again.world.create("a", b.world.disk("a").unwrap().stable_bytes());
        again.add(&node("")).await.unwrap();
        assert_eq!(dirty(&again, "m").unwrap(), (65536, true, false));
        assert_eq!(dirty(&again, "idle").unwrap(), (0, false, false));
        assert_eq!(dirty(&again, "gone").unwrap_err().desc(), "Dirty bitmap 'gone' not found");
        again.graph.bitmap_remove("a", "idle").await.unwrap();
        again.graph.close_all().await;
        drop(again);
        // Not closed properly: kept all the same, if less exact; the image as such is sound.
        let again = Bench::new();
        again.world.create("a", left);
        again.add(&node("")).await.unwrap();
        let (bytes, enabled, inconsistent) = dirty(&again, "m").unwrap();
        assert!(bytes >= 65536 && enabled && !inconsistent);
        assert_eq!(dirty(&again, "idle").unwrap(), (0, false, false));
        let any = block::bitmap::Tolerate::default();
        assert!(again.graph.bitmap("a", "m", any).unwrap().is_dirty(70_000));
        again.graph.bitmap_clear("a", "m").await.unwrap();
        again.graph.bitmap_remove("a", "m").await.unwrap();
        again.graph.close_all().await;
        let host = common::Bytes::default();
        *host.0.borrow_mut() = again.world.disk("a").unwrap().stable_bytes();
        let r = common::at_once(block_qcow2::check::check(&host, block_qcow2::check::Fix::None, &mut |l| {
            println!("{l}")
        }));
        let r = r.unwrap();
        assert_eq!((r.corruptions, r.leaks), (0, 0));
    });
}

#[test]
fn damage_is_an_event() {
    Sim::new(8).block_on(async {
        let world = World::new();
        let _here = world.enter();
        let mut bytes = common::image(&common::options(1 << 20, 4096, None));
        // The L1 table leads to a place that is no cluster's start.
        let l1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap()) as usize;
        bytes[l1..l1 + 8].copy_from_slice(&0x8000_0000_0000_1200u64.to_be_bytes());
        world.create("a", bytes);
        let bus = EventBus::new();
        let events = bus.listen(8);
        let graph = BlockGraph::new(&[&SIM_FILE, &QCOW2], bus);
        let node = "{'driver':'qcow2','node-name':'a','file':{'driver':'file','filename':'a'}}";
        graph.add(options(node)).await.unwrap();
        let shared = Perm::all();
        let root = graph.attach("a", RootConfig { perm: RW, shared, ..RootConfig::default() }).await.unwrap();
        for _ in 0..2 {
            assert!(root.read(0, IoBuf::zeroed(512)).await.is_err());
        }
        let e = events.try_next().expect("an event");
        assert_eq!(e.name, "BLOCK_IMAGE_CORRUPTED");
        let data = e.data.clone().unwrap();
        assert_eq!(data.get("fatal"), Some(&Value::Bool(true)));
        let msg = "L2 table offset 0x1200 unaligned (L1 index: 0)";
        assert_eq!(data.get("msg").and_then(Value::as_str), Some(msg));
        assert!(events.try_next().is_none());
        root.detach().await;
        graph.close_all().await;
    });
}

#[test]
fn the_data_file_of_a_header_is_opened_by_the_rules() {
    Sim::new(9).block_on(async {
        let b = Bench::new();
        let named = |name: &str| {
            let o = common::options(1 << 20, 16384, None);
            let host = common::Bytes::default();
            common::at_once(block_qcow2::create::create_with(&host, &o, Some(name), None)).unwrap();
            host.0.take()
        };
        b.world.create("a", named("d"));
        b.world.create("d", vec![0; 1 << 20]);
        b.world.create("other", vec![0; 1 << 20]);
        b.world.create("json", named("json:{}"));
        b.world.create("plain", common::image(&common::options(1 << 20, 4096, None)));
        let node = |f: &str, more: &str| {
            format!("{{'driver':'qcow2','node-name':'n','file':{{'driver':'file','filename':'{f}'}}{more}}}")
        };
        let data = ",'data-file':{'driver':'file','filename':'other'}";
        let e = b.add(&node("json", "")).await.unwrap_err();
        assert_eq!(
            e,
            "Could not open the external data file: The image names 'json:{}', which is no plain file name"
        );
        let e = b.add(&node("plain", data)).await.unwrap_err();
        assert_eq!(e, "'data-file' can only be set for images with an external data file");
        b.graph.set_policy(block::Policy { allow_implicit_children: false, ..Default::default() });
        let e = b.add(&node("a", "")).await.unwrap_err();
        let text =
            "The image names the data file 'd', but images may not have other files opened; give 'data-file'";
        assert_eq!(e, text);
        // Given by the user, it is not the header's name that counts.
        for (more, file) in [(data, "other"), ("", "d")] {
            b.add(&node("a", more)).await.unwrap();
            let info = b.specific("n");
            assert_eq!((info.data_file.as_deref(), info.data_file_raw), (Some("d"), Some(false)));
            let root = b.root("n", RW).await;
            root.write(70_000, IoBuf::from_bytes(&[7; 5000]), WriteFlags::empty()).await.unwrap();
            root.flush().await.unwrap();
            let left = b.world.disk(file).unwrap().stable_bytes();
            assert!(left[70_000..75_000] == [7; 5000]);
            let buf = IoBuf::zeroed(9000);
            root.read(68_000, buf.clone()).await.unwrap();
            assert!(buf.to_vec()[2000..7000] == [7; 5000] && buf.slice(0..2000).is_zero());
            root.detach().await;
            b.graph.del("n").await.unwrap();
            b.graph.set_policy(Default::default());
        }
    });
}

#[test]
fn a_refused_snapshot_forgets_no_reference_count() {
    Sim::new(9).block_on(async {
        let b = Bench::new();
        let mut o = common::options(300_032, 512, None);
        (o.refcount_bits, o.lazy_refcounts) = (Some(1), Some(true));
        b.world.create("a", common::image(&o));
        b.add("{'driver':'qcow2','node-name':'a','file':{'driver':'file','filename':'a'}}").await.unwrap();
        let root = b.root("a", RW).await;
        root.write(0, IoBuf::from_bytes(&[1; 20_000]), WriteFlags::empty()).await.unwrap();
        let op = SnapshotOp::Create { name: "s".into(), date: std::time::Duration::ZERO, again: false };
        let e = b.graph.internal_snapshot("a", op).await.unwrap_err();
        assert_eq!(e.desc(), "Invalid argument");
        // New clusters do not fall on those whose counts were only in memory.
        root.write(100_000, IoBuf::from_bytes(&[2; 30_000]), WriteFlags::empty()).await.unwrap();
        let buf = IoBuf::zeroed(20_000);
        root.read(0, buf.clone()).await.unwrap();
        assert!(buf.to_vec() == [1; 20_000]);
        root.detach().await;
        b.graph.close_all().await;
    });
}

#[test]
fn an_encrypted_image_keeps_its_key() {
    Sim::new(12).block_on(async {
        let b = Bench::new();
        b.world.create("a", encrypted::image(&common::options(1 << 20, 4096, None)));
        let file = "'file':{'driver':'file','filename':'a'}";
        let node = |more: &str| format!("{{'driver':'qcow2','node-name':'a',{file}{more}}}");
        let key = ",'encrypt':{'format':'luks','key-secret':'s'}";
        assert_eq!(b.add(&node(key)).await.unwrap_err(), "No secret with id 's'");
        let objects = qom::ObjectTree::new();
        for (id, data) in [("s", block::testing::PASSWORD), ("w", "wrong")] {
            let text = format!("{{'qom-type':'secret','id':'{id}','data':'{data}'}}");
            objects.add(&Value::parse_json(&text).and_then(from_json).unwrap()).unwrap();
        }
        b.graph.set_objects(Arc::new(objects));
        let wrong = ",'encrypt':{'format':'luks','key-secret':'w'}";
        for (more, says) in [
            ("", "Parameter 'encrypt.key-secret' is required for cipher"),
            (wrong, "Invalid password, cannot unlock any keyslot"),
        ] {
            assert_eq!(b.add(&node(more)).await.unwrap_err(), says);
        }
        b.add(&node(key)).await.unwrap();
        let root = b.root("a", RW).await;
        // Any bytes, not only sectors.
        root.write(70_001, IoBuf::from_bytes(&[7; 5000]), WriteFlags::empty()).await.unwrap();
        root.write_zeroes(71_000, 100, ZeroFlags::empty()).await.unwrap();
        let check = async |root: &Root| {
            let buf = IoBuf::zeroed(6000);
            root.read(69_501, buf.clone()).await.unwrap();
            let mut want = vec![0u8; 6000];
            want[500..5500].fill(7);
            want[1499..1599].fill(0);
            assert!(buf.to_vec() == want);
        };
        check(&root).await;
        // Nobody reads around the driver.
        let status = root.map(70_656, 512).await.unwrap();
        assert!(status.data && !status.zero && status.offset.is_none(), "{status:?}");
        root.flush().await.unwrap();
        let stored = b.world.disk("a").unwrap().stable_bytes();
        assert!(!stored.windows(512).any(|w| w == [7; 512]));
        root.detach().await;
        for more in [",'read-only':true", ",'read-only':false,'l2-cache-size':4096"] {
            b.reopen(&node(&format!("{key}{more}"))).await.unwrap();
            let root = b.root("a", Perm::CONSISTENT_READ).await;
            check(&root).await;
            root.detach().await;
        }
        for (more, says) in [
            ("", "Option 'encrypt.format' cannot be reset to its default value"),
            (
                ",'encrypt':{'format':'luks'}",
                "Option 'encrypt.key-secret' cannot be reset to its default value",
            ),
        ] {
            assert_eq!(b.reopen(&node(more)).await.unwrap_err(), says);
        }
        // Somebody else has the image meanwhile.
        for active in [false, true] {
            b.graph.set_active(Some("a"), active).await.unwrap();
        }
        let root = b.root("a", RW).await;
        check(&root).await;
        root.write(0, IoBuf::from_bytes(&[1; 100]), WriteFlags::empty()).await.unwrap();
        root.detach().await;
        b.graph.close_all().await;
    });
}

#[test]
fn the_old_encryption_is_not_for_machines() {
    Sim::new(12).block_on(async {
        let b = Bench::new();
        let mut image = encrypted::image(&common::options(1 << 20, 4096, None));
        // The method in the header; the extension that leads to the LUKS header ends the extensions.
        image[32..36].copy_from_slice(&1u32.to_be_bytes());
        image[112..116].fill(0);
        b.world.create("a", image);
        let objects = qom::ObjectTree::new();
        let text = "{'qom-type':'secret','id':'s','data':'geheim'}";
        objects.add(&Value::parse_json(text).and_then(from_json).unwrap()).unwrap();
        b.graph.set_objects(Arc::new(objects));
        let node = |more: &str| {
            let file = "'file':{'driver':'file','filename':'a'}";
            format!("{{'driver':'qcow2','node-name':'a',{file}{more}}}")
        };
        let key = ",'encrypt':{'format':'aes','key-secret':'s'}";
        b.graph.set_policy(block::Policy { machine: true, ..b.graph.policy() });
        for more in ["", key, ",'encrypt':{'format':'luks'}"] {
            assert_eq!(
                b.add(&node(more)).await.unwrap_err(),
                "Use of AES-CBC encrypted qcow2 images is no longer supported in system emulators"
            );
        }
        b.graph.set_policy(block::Policy::default());
        let needed = "Parameter 'encrypt.key-secret' is required for cipher";
        assert_eq!(b.add(&node("")).await.unwrap_err(), needed);
        b.add(&node(key)).await.unwrap();
        let root = b.root("a", RW).await;
        root.write(70_001, IoBuf::from_bytes(&[7; 5000]), WriteFlags::empty()).await.unwrap();
        root.flush().await.unwrap();
        let stored = b.world.disk("a").unwrap().stable_bytes();
        assert!(!stored.windows(512).any(|w| w == [7; 512]));
        root.detach().await;
        // Somebody else has the image meanwhile.
        for active in [false, true] {
            b.graph.set_active(Some("a"), active).await.unwrap();
        }
        let root = b.root("a", RW).await;
        let buf = IoBuf::zeroed(5000);
        root.read(70_001, buf.clone()).await.unwrap();
        assert!(buf.to_vec() == [7; 5000]);
        root.detach().await;
        b.graph.close_all().await;
    });
}

#[test]
fn an_image_that_cannot_be_read_again_after_a_snapshot_is_not_taken_for_corrupt() {
    use block::testing::Faults;
    let (mut good, mut bad) = (0, 0);
    for seed in 0..60 {
        Sim::new(seed).block_on(async {
            let b = Bench::new();
            b.world.create("a", common::image(&common::options(256 << 10, 1024, None)));
            let node = "{'driver':'qcow2','node-name':'a','file':{'driver':'file','filename':'a'}}";
            b.add(node).await.unwrap();
            let root = b.root("a", RW).await;
            let put =
                async |byte: u8| root.write(0, IoBuf::from_bytes(&[byte; 32768]), WriteFlags::empty()).await;
            let snapshot = async |name: &str| {
                let name = name.to_owned();
                let op = SnapshotOp::Create { name, date: std::time::Duration::ZERO, again: false };
                b.graph.internal_snapshot("a", op).await.map(drop)
            };
            put(1).await.unwrap();
            snapshot("s1").await.unwrap();
            put(2).await.unwrap();
            b.world.set_faults(Faults { read: 250, write: 10, ..Default::default() });
            let done = snapshot("s2").await;
            b.world.set_faults(Faults::default());
            // Out of service where the header may lead elsewhere than what is in memory.
            let usable = put(3).await.is_ok();
            if done.is_ok() {
                good += 1;
                assert!(usable, "seed {seed}");
            } else {
                bad += 1;
            }
            for n in 4..8 {
                assert_eq!(put(n).await.is_ok(), usable, "seed {seed}: {done:?}");
            }
            assert_eq!(b.specific("a").corrupt, Some(false), "seed {seed}: {done:?}");
            root.detach().await;
            b.graph.del("a").await.unwrap();
            b.add(node).await.unwrap();
            let root = b.root("a", RW).await;
            root.write(0, IoBuf::from_bytes(&[9; 32768]), WriteFlags::empty()).await.unwrap();
            root.detach().await;
            b.graph.close_all().await;
        });
    }
    assert!(good > 0 && bad > 0, "{good} {bad}");
}
