//! A block layer with exports, and what clients do with the mounted file.
#![allow(dead_code)] // Each test uses its part.

use api::block_core::BlockdevOptions;
use api::block_export::BlockExportOptions;
use block::BlockGraph;
use export::Exports;
use monitor::EventBus;
use qapi::{Value, from_json};
use qom::ObjectTree;
use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

pub struct Bed {
    pub dir: PathBuf,
    pub graph: Arc<BlockGraph>,
    pub exports: Arc<Exports>,
    pub objects: Arc<ObjectTree>,
}

fn from<T: qapi::Qapi>(text: &str) -> T {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

impl Drop for Bed {
    fn drop(&mut self) {
        for mount in self.mounts() {
            _ = rustix::mount::unmount(&mount, UnmountFlags::FORCE | UnmountFlags::DETACH);
        }
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Whether file systems can be mounted here; says so where they cannot.
pub fn able() -> bool {
    let fuse = rustix::fs::access("/dev/fuse", rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK);
    let able = fuse.is_ok() && rustix::process::getuid().is_root();
    if !able {
        println!("skipped: /dev/fuse cannot be used, or mounting needs root");
    }
    able
}

impl Bed {
    pub fn new(name: &str) -> Bed {
        let dir = std::env::temp_dir().join(format!("rhea-fuse-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let drivers = [block_file::DRIVERS, block_formats::DRIVERS, block_qcow2::DRIVERS].concat();
        let graph = BlockGraph::new(&drivers, EventBus::new());
        let objects = Arc::new(ObjectTree::new());
        graph.set_objects(objects.clone());
        let exports = Exports::new(graph.clone(), objects.clone());
        exports.register(Arc::new(fuse::Fuse::default()));
        std::fs::write(dir.join("m"), "what stands below").unwrap();
        Bed { dir, graph, exports, objects }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// The file systems that are mounted in the folder.
    pub fn mounts(&self) -> Vec<String> {
        let dir = self.dir.display().to_string();
        let all = std::fs::read_to_string("/proc/mounts").unwrap();
        let points = all.lines().filter_map(|l| l.split(' ').nth(1));
        points.filter(|p| p.starts_with(&dir)).map(str::to_owned).collect()
    }

    /// Makes a file of `len` bytes that count.
    pub fn file(&self, name: &str, len: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..len).map(|i| (i / 512 * 7 + i) as u8).collect();
        std::fs::write(self.dir.join(name), &bytes).unwrap();
        bytes
    }

    fn here(&self, text: &str) -> String {
        text.replace('\'', "\"").replace('@', &format!("{}/", self.dir.display()))
    }

    pub fn object(&self, options: &str) {
        self.objects.add(&from(&self.here(options))).unwrap();
    }

    pub async fn add(&self, options: &str) {
        let o: BlockdevOptions = from(&self.here(options));
        self.graph.add(o).await.unwrap();
    }

    pub async fn try_export(&self, options: &str) -> Result<(), String> {
        let o: BlockExportOptions = from(&self.here(&format!("{{'type':'fuse',{options}}}")));
        self.exports.add(o).await.map_err(|e| e.desc().to_owned())
    }

    pub async fn export(&self, options: &str) {
        self.try_export(options).await.unwrap();
    }

    pub async fn end(self) {
        self.exports.close_all().await;
        self.graph.close_all().await;
        assert_eq!(self.mounts(), [""; 0]);
    }

    /// Does with the file `m` what a client would, on a thread of its own.
    pub async fn client<T: Send + 'static>(&self, f: impl FnOnce(&PathBuf) -> T + Send + 'static) -> T {
        let path = self.dir.join("m");
        rt::unblock(move || f(&path)).await
    }
}

pub fn open(path: &PathBuf, flags: OFlags) -> rustix::io::Result<File> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}

pub fn open_rw(path: &PathBuf) -> File {
    open(path, OFlags::RDWR).unwrap()
}
