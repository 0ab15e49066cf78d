//! An image of any of the other formats that somebody made: opened, read, checked, and written. The first byte says which
//! format.

use block::check::Fix;
use block::create::CreateCx;
use block::driver::{DriverType, WriteFlags, ZeroFlags};
use block::testing::{SIM_FILE, SIM_NULL, SIM_RAW, World};
use block::{BlockGraph, Perm, Root, RootConfig};
use block_formats::{BOCHS, CLOOP, DMG, PARALLELS, QCOW, QED, VDI, VHDX, VMDK, VPC};
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Value, from_json};
use rt::sim::Sim;
use std::sync::Arc;

/// The longest image that is tried.
const MAX_INPUT: usize = 256 << 10;
/// How far a file may grow.
const MAX_FILE: u64 = 24 << 20;

/// By the first byte.
static FORMATS: [&DriverType; 10] = [&VDI, &VPC, &VMDK, &VHDX, &QCOW, &QED, &PARALLELS, &BOCHS, &CLOOP, &DMG];

fn graph() -> Arc<BlockGraph> {
    let drivers = [&[&SIM_FILE, &SIM_RAW, &SIM_NULL][..], &FORMATS[..]].concat();
    BlockGraph::new(&drivers, EventBus::new())
}

async fn open(graph: &Arc<BlockGraph>, format: &str, read_only: bool) -> Option<Arc<Root>> {
    let text = format!(
        "{{'driver':'{format}','node-name':'image','read-only':{read_only},'discard':'unmap','file':{{'driver':'file','filename':'image'}}}}"
    );
    graph.add(Value::parse_json(&text).and_then(from_json).ok()?).await.ok()?;
    let mut perm = Perm::CONSISTENT_READ;
    if !read_only {
        perm |= Perm::WRITE | Perm::RESIZE;
    }
    let config = RootConfig { perm, shared: Perm::all(), desc: "fuzz".into(), ..RootConfig::default() };
    graph.attach("image", config).await.ok()
}

async fn use_it(root: &Root, write: bool) {
    let len = root.len();
    let places = [0, len / 3, len / 2 + 777, len.saturating_sub(40_000)];
    for at in places {
        let n = len.saturating_sub(at).min(40_000);
        _ = root.read(at, IoBuf::zeroed(n as usize)).await;
        _ = root.map(at, n).await;
    }
    if !write {
        return;
    }
    for at in places {
        let n = len.saturating_sub(at).min(9_000);
        let bytes = IoBuf::from_bytes(&vec![0x5a; n as usize]);
        _ = root.write(at, bytes.clone(), WriteFlags::empty()).await;
        _ = root.write(at, bytes, WriteFlags::COMPRESSED).await;
        _ = root.write_zeroes(at, n, ZeroFlags::MAY_UNMAP).await;
        _ = root.discard(at, n / 2).await;
    }
    _ = root.flush().await;
    _ = root.truncate(len.saturating_add(65536), true, block::driver::Prealloc::Off).await;
    for at in places {
        let n = len.saturating_sub(at).min(9_000);
        _ = root.read(at, IoBuf::zeroed(n as usize)).await;
    }
}

/// Opens the bytes behind the first as an image of the format that the first says, for reading and for writing, uses it, and
/// checks it.
pub fn formats(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    if data.len() > MAX_INPUT {
        return;
    }
    let format = FORMATS[usize::from(*which) % FORMATS.len()].name;
    Sim::new(1).block_on(async {
        let world = World::new();
        let _here = world.enter();
        // What a descriptor may lead to.
        for name in ["image-flat.vmdk", "image-s001.vmdk"] {
            world.create(name, data.to_vec()).set_max_len(MAX_FILE);
        }
        for (read_only, fix) in
            [(true, None), (false, None), (true, Some(Fix::None)), (false, Some(Fix::All))]
        {
            world.create("image", data.to_vec()).set_max_len(MAX_FILE);
            let graph = graph();
            if let Some(root) = open(&graph, format, read_only).await {
                _ = graph.image_info("image");
                if fix.is_none() {
                    use_it(&root, !read_only).await;
                }
                root.detach().await;
                if let Some(fix) = fix {
                    _ = graph.check("image", fix, &mut |_| ()).await;
                }
            }
            graph.close_all().await;
        }
    });
}

/// Options of the images to begin with.
const SEEDS: &[(&str, &[(&str, &str)])] = &[
    ("vdi", &[("size", "3145728")]),
    ("vdi", &[("size", "512"), ("static", "on")]),
    ("vpc", &[("size", "5242880")]),
    ("vpc", &[("size", "34816"), ("subformat", "fixed")]),
    ("vmdk", &[("size", "1048576")]),
    ("vmdk", &[("size", "1048576"), ("zeroed_grain", "on")]),
    ("vmdk", &[("size", "1048576"), ("subformat", "streamOptimized")]),
    ("qcow", &[("size", "1048576")]),
    ("qed", &[("size", "1048576"), ("cluster_size", "4096"), ("table_size", "2")]),
    ("parallels", &[("size", "1048576"), ("cluster_size", "4096")]),
];

/// Small images of each kind, empty and with data.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    for (format, options) in SEEDS {
        let which = FORMATS.iter().position(|f| f.name == *format).expect("a format");
        let creation = FORMATS[which].create.expect("it can be made");
        Sim::new(1).block_on(async {
            let world = World::new();
            let _here = world.enter();
            let disk = world.create("image", Vec::new());
            let graph = graph();
            let node = "{'driver':'file','node-name':'file','filename':'image'}";
            let node = Value::parse_json(node).and_then(from_json).expect("options");
            graph.add(node).await.expect("a file");
            let dict = creation.contract_dict(options).expect("options");
            let contract = creation.contract(format, "file", &[], dict).expect("a contract");
            let create = creation.create.expect("a function");
            create(&CreateCx::new(graph.clone()), &contract).await.expect("an image");
            graph.close_all().await;
            let seed = |bytes: Vec<u8>| [vec![which as u8], bytes].concat();
            made.push(seed(disk.bytes()));
            let graph = self::graph();
            let root = open(&graph, format, false).await.expect("a seed opens");
            let words: Vec<u8> = (0..16384u32).map(|i| (i / 97) as u8).collect();
            let n = (root.len() as usize).min(4096);
            // A compressed stream takes whole grains alone.
            _ = root.write(0, IoBuf::from_bytes(&words[..n]), WriteFlags::COMPRESSED).await;
            _ = root.write(0, IoBuf::from_bytes(&words[..n]), WriteFlags::empty()).await;
            root.detach().await;
            graph.close_all().await;
            if disk.bytes().len() < MAX_INPUT {
                made.push(seed(disk.bytes()));
            }
        });
    }
    for (which, text) in [
        (
            2,
            "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 64 FLAT \"image-flat.vmdk\" 0\n",
        ),
        (8, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"),
        (9, "koly"),
    ] {
        let mut bytes = vec![which];
        bytes.extend(text.as_bytes());
        bytes.resize(1024, 0);
        made.push(bytes);
    }
    made
}
