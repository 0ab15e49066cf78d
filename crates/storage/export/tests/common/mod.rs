//! A block layer with exports, and a client node in a second one.
#![allow(dead_code)] // Each test uses its part.

use api::block_core::BlockdevOptions;
use api::block_export::{BlockExportOptions, NbdServerOptions};
use block::BlockGraph;
use export::Exports;
use monitor::EventBus;
use qapi::{Value, from_json};
use qom::ObjectTree;
use std::path::PathBuf;
use std::sync::Arc;

pub struct Bed {
    pub dir: PathBuf,
    pub events: EventBus,
    pub graph: Arc<BlockGraph>,
    pub exports: Arc<Exports>,
    pub objects: Arc<ObjectTree>,
}

fn from<T: qapi::Qapi>(text: &str) -> T {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

impl Drop for Bed {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Bed {
    pub fn new(name: &str) -> Bed {
        let dir = std::env::temp_dir().join(format!("rhea-export-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let events = EventBus::new();
        let drivers = [block_file::DRIVERS, block_formats::DRIVERS, block_net::DRIVERS].concat();
        let graph = BlockGraph::new(&drivers, events.clone());
        let objects = Arc::new(ObjectTree::new());
        graph.set_objects(objects.clone());
        let exports = Exports::new(graph.clone(), objects.clone());
        Bed { dir, events, graph, exports, objects }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Makes a file of `len` bytes that count.
    pub fn file(&self, name: &str, len: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..len).map(|i| (i / 512 * 7 + i) as u8).collect();
        std::fs::write(self.dir.join(name), &bytes).unwrap();
        bytes
    }

    fn here(&self, text: &str) -> String {
        text.replace('\'', "\"").replace("@", &format!("{}/", self.dir.display()))
    }

    pub fn object(&self, options: &str) {
        self.objects.add(&from(&self.here(options))).unwrap();
    }

    pub async fn try_add(&self, options: &str) -> Result<(), String> {
        let o: BlockdevOptions = from(&self.here(options));
        self.graph.add(o).await.map_err(|e| e.desc().to_owned())
    }

    pub async fn add(&self, options: &str) {
        self.try_add(options).await.unwrap();
    }

    pub async fn listen(&self) {
        self.try_listen("'path':'@s','type':'unix'", "").await.unwrap();
    }

    pub async fn try_listen(&self, addr: &str, more: &str) -> Result<(), String> {
        let o: NbdServerOptions = from(&self.here(&format!("{{'addr':{{{addr}}}{more}}}")));
        self.exports.start_server(o).await.map_err(|e| e.desc().to_owned())
    }

    pub async fn try_export(&self, options: &str) -> Result<(), String> {
        let o: BlockExportOptions = from(&self.here(&format!("{{'type':'nbd',{options}}}")));
        self.exports.add(o).await.map_err(|e| e.desc().to_owned())
    }

    pub async fn export(&self, options: &str) {
        self.try_export(options).await.unwrap();
    }

    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path("s"))
    }

    /// Runs a tool; its standard output, or `None` where it is missing.
    pub async fn tool(&self, line: &str) -> Option<Result<String, String>> {
        let mut words =
            line.split(' ').map(|w| w.replace('@', &format!("{}/", self.dir.display())).replace('_', " "));
        let program = words.next().unwrap();
        let args: Vec<String> = words.collect();
        let shown = program.clone();
        let done = rt::unblock(move || std::process::Command::new(program).args(args).output()).await;
        let out = match done {
            Ok(out) => out,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                println!("skipped: {shown} is not installed");
                return None;
            }
            Err(e) => panic!("{shown}: {e}"),
        };
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        Some(if out.status.success() { Ok(text) } else { Err(format!("{text}{err}")) })
    }

    pub async fn end(self) {
        self.exports.close_all().await;
        self.graph.close_all().await;
    }
}
