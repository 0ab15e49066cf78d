//! Every transcript, against Rhea and against the reference.

use rules::{Peer, Reference, Rhea, run};
use std::path::{Path, PathBuf};

/// A folder that goes when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let dir = std::env::temp_dir().join(format!("rhea-rules-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Folder(dir.canonicalize().unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn transcripts() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let mut all: Vec<(String, String)> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.file_name().to_string_lossy().into_owned(), std::fs::read_to_string(e.path()).unwrap()))
        .collect();
    all.sort();
    // One while working on it.
    if let Ok(only) = std::env::var("RHEA_RULE") {
        all.retain(|(name, _)| name.contains(&only));
    }
    assert!(!all.is_empty());
    all
}

fn each(who: &str, start: impl Fn() -> Option<Box<dyn Peer>>) {
    let mut failed = Vec::new();
    for (name, text) in transcripts() {
        let Some(mut peer) = start() else {
            return println!("skipped: qemu-storage-daemon is not installed");
        };
        let folder = Folder::new(&format!("{who}-{name}"));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(&name, &text, &folder.0, peer.as_mut());
        }));
        if done.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{who}: {failed:?}");
}

#[test]
fn rhea_keeps_the_rules() {
    each("rhea", || Some(Box::new(Rhea::start())));
}

#[test]
fn the_reference_says_the_same() {
    each("reference", || Reference::start().map(|r| Box::new(r) as Box<dyn Peer>));
}
