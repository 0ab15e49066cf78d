//! A front end that remembers what it got, and waiting with a limit.

use chardev::{Chardevs, Config, Kind};
use device::{CharBackend, CharEvent, CharFrontend};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub struct Probe {
    pub got: Mutex<Vec<u8>>,
    pub events: Mutex<Vec<CharEvent>>,
    pub room: AtomicUsize,
}

impl Probe {
    pub fn new(room: usize) -> Arc<Probe> {
        Arc::new(Probe { got: Mutex::default(), events: Mutex::default(), room: room.into() })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.got.lock()).into_owned()
    }

    pub fn clear(&self) {
        self.got.lock().clear();
    }
}

impl CharFrontend for Probe {
    fn room(&self) -> usize {
        self.room.load(Ordering::SeqCst)
    }
    fn receive(&self, bytes: &[u8]) {
        let room = self.room.fetch_sub(bytes.len(), Ordering::SeqCst);
        assert!(bytes.len() <= room, "no more than there is room for");
        self.got.lock().extend_from_slice(bytes);
    }
    fn event(&self, event: CharEvent) {
        self.events.lock().push(event);
    }
}

pub const PLENTY: usize = 1 << 40;

pub fn eventually(what: &str, mut f: impl FnMut() -> bool) {
    let start = Instant::now();
    while !f() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("rhea-chardev-{}-{name}", std::process::id()))
}

pub fn rig() -> (rt::IoThread, Chardevs) {
    let thread = rt::IoThread::spawn("chardev").unwrap();
    let devices = Chardevs::new(thread.handle());
    (thread, devices)
}

pub fn add(devices: &Chardevs, text: &str) -> Arc<dyn CharBackend> {
    let config = Config::parse(text).unwrap();
    let id = config.id.clone();
    rt::block_on(devices.add(config)).unwrap_or_else(|e| panic!("{text}: {e}"));
    devices.claim(&id).unwrap()
}

pub fn null(id: &str) -> Config {
    Config::new(id, Kind::Null)
}
