//! Exports as the kernel shows them; or what is said where it does not.

use api::block_core::BlockdevOptions;
use api::block_export::BlockExportOptions;
use block::BlockGraph;
use export::Exports;
use monitor::EventBus;
use qapi::{Value, from_json};
use qom::ObjectTree;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Bed {
    path: PathBuf,
    graph: Arc<BlockGraph>,
    exports: Arc<Exports>,
}

fn from<T: qapi::Qapi>(text: &str) -> T {
    let text = text.replace('\'', "\"");
    Value::parse_json(&text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

impl Bed {
    async fn new(name: &str, bytes: &[u8]) -> Bed {
        let path = std::env::temp_dir().join(format!("rhea-ublk-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let graph = BlockGraph::new(&[block_file::DRIVERS, block_formats::DRIVERS].concat(), EventBus::new());
        let node = format!("{{'driver':'file','node-name':'n','filename':'{}'}}", path.display());
        graph.add(from::<BlockdevOptions>(&node)).await.unwrap();
        let exports = Exports::new(graph.clone(), Arc::new(ObjectTree::new()));
        exports.register(Arc::new(ublk::Ublk));
        Bed { path, graph, exports }
    }

    async fn export(&self, options: &str) -> Result<(), String> {
        let options = format!("{{'type':'x-rhea-ublk','node-name':'n',{options}}}");
        let options: BlockExportOptions = from(&options);
        self.exports.add(options).await.map_err(|e| e.desc().to_owned())
    }

    async fn end(self) {
        self.exports.close_all().await;
        self.graph.close_all().await;
        std::fs::remove_file(self.path).unwrap();
    }
}

fn is_here() -> bool {
    Path::new("/dev/ublk-control").exists()
}

/// One clear error; the node is as free as before, and nothing is listed.
#[test]
fn without_the_driver_nothing_is_made() {
    rt::block_on(async {
        let bed = Bed::new("none", &[0; 4096]).await;
        let wrong = bed.export("'id':'x','queue-size':0").await;
        assert_eq!(wrong.unwrap_err(), "queue-size must be between 1 and 1024");
        if is_here() {
            println!("skipped: there is a /dev/ublk-control");
        } else {
            let no = bed.export("'id':'x','writable':true").await.unwrap_err();
            assert_eq!(no, "This host makes no ublk devices: '/dev/ublk-control': No such file or directory");
        }
        assert_eq!(bed.exports.query(), []);
        bed.graph.del("n").await.unwrap();
        bed.end().await;
    });
}

#[test]
fn the_node_is_a_device() {
    let root = is_root();
    if !is_here() || !root {
        println!("skipped: /dev/ublk-control is missing, or needs root");
        return;
    }
    rt::block_on(async {
        let bytes: Vec<u8> = (0..4 << 20).map(|i| (i / 512 * 7 + i) as u8).collect();
        let bed = Bed::new("device", &bytes).await;
        bed.export("'id':'x','writable':true,'num-queues':2,'queue-size':16").await.unwrap();
        let device = bed.exports.query()[0].x_rhea_device.clone().unwrap();
        assert!(device.starts_with("/dev/ublkb"), "{device}");
        let number = device["/dev/ublkb".len()..].to_owned();
        let taken = bed.export(&format!("'id':'y','dev-id':{number}")).await.unwrap_err();
        assert_eq!(taken, format!("There already is a ublk device {number}"));
        let (name, expected) = (device.clone(), bytes.clone());
        rt::unblock(move || {
            const O_DIRECT: i32 = 0o40000;
            assert!(std::fs::read(&name).unwrap() == expected);
            let flags = if cfg!(target_arch = "x86_64") { O_DIRECT } else { 0 };
            let file = std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(&name);
            let file = file.unwrap();
            // Memory that is aligned, for direct I/O.
            let block = vec![0x5au8; 8192];
            let at = block.as_ptr().align_offset(4096);
            file.write_all_at(&block[at..at + 4096], 1 << 20).unwrap();
            file.sync_all().unwrap();
        })
        .await;
        bed.exports.del("x", None).await.unwrap();
        assert!(!Path::new(&device).exists());
        assert_eq!(bed.exports.query(), []);
        let mut expected = bytes;
        expected[1 << 20..][..4096].fill(0x5a);
        assert!(std::fs::read(&bed.path).unwrap() == expected);
        bed.end().await;
    });
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}
