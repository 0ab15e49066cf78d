//! The loop that serves a tag, against a queue that is none of the kernel's.

use api::block_core::BlockdevOptions;
use base::{Errno, IoResult};
use block::{BlockGraph, Perm, RootConfig};
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Value, from_json};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use ublk::disk::{Disk, Tags};

const MOST: usize = 64 << 10;

/// What the kernel asks for: a word, sectors, the first sector; and a write's bytes.
type Asked = (u32, u32, u64, Vec<u8>);

/// Brings requests one after another, and keeps the answers with what was read.
#[derive(Default)]
struct Script {
    asked: RefCell<VecDeque<Asked>>,
    now: RefCell<Asked>,
    answers: RefCell<Vec<(i32, Vec<u8>)>>,
}

impl Tags for Script {
    async fn next(&self, tag: u16, answer: Option<i32>, data: &IoBuf) -> IoResult<()> {
        assert_eq!((tag, data.len()), (5, MOST));
        rt::yield_now().await;
        if let Some(n) = answer {
            let read = self.now.borrow().0 as u8 == 0;
            let bytes = data.slice(0..usize::try_from(n).unwrap_or(0)).to_vec();
            self.answers.borrow_mut().push((n, if read { bytes } else { Vec::new() }));
        }
        let Some(next) = self.asked.borrow_mut().pop_front() else { return Err(Errno::NODEV) };
        // Whatever was there before must not be seen again.
        data.fill(0xee);
        data.copy_from(0, &next.3);
        *self.now.borrow_mut() = next;
        Ok(())
    }

    fn descriptor(&self, tag: u16) -> [u8; 24] {
        assert_eq!(tag, 5);
        let (word, sectors, at, _) = &*self.now.borrow();
        let mut b = [0; 24];
        b[..4].copy_from_slice(&word.to_ne_bytes());
        b[4..8].copy_from_slice(&sectors.to_ne_bytes());
        b[8..16].copy_from_slice(&at.to_ne_bytes());
        b
    }
}

fn from<T: qapi::Qapi>(text: &str) -> T {
    Value::parse_json(text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Plays `asked` over a file that holds `bytes`; the answers, and what the file holds then.
fn play(name: &str, bytes: &[u8], writable: bool, asked: Vec<Asked>) -> (Vec<(i32, Vec<u8>)>, Vec<u8>) {
    let path: PathBuf = std::env::temp_dir().join(format!("rhea-ublk-{name}-{}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    let answers = rt::block_on(async {
        let graph = BlockGraph::new(&[block_file::DRIVERS, block_formats::DRIVERS].concat(), EventBus::new());
        let options =
            format!("{{\"driver\":\"file\",\"node-name\":\"n\",\"filename\":\"{}\"}}", path.display());
        graph.add(from::<BlockdevOptions>(&options)).await.unwrap();
        let mut perm = Perm::CONSISTENT_READ;
        perm.set(Perm::WRITE, writable);
        let config = RootConfig { perm, shared: Perm::all(), ..RootConfig::default() };
        let root = graph.attach("n", config).await.unwrap();
        let script = Script { asked: RefCell::new(asked.into()), ..Script::default() };
        let end = Disk::new(Arc::clone(&root), writable).serve(&script, 5, MOST).await;
        assert_eq!(end, Errno::NODEV);
        root.detach().await;
        graph.close_all().await;
        script.answers.into_inner()
    });
    let after = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    (answers, after)
}

fn ask(word: u32, sectors: u32, at: u64) -> Asked {
    (word, sectors, at, Vec::new())
}

fn codes(answers: &[(i32, Vec<u8>)]) -> Vec<i32> {
    answers.iter().map(|a| a.0).collect()
}

#[test]
fn requests_reach_the_node() {
    let bytes: Vec<u8> = (0..1 << 20).map(|i| (i / 512 * 7 + i) as u8).collect();
    let new = vec![0x5a; 4096];
    let asked = vec![
        ask(0, 2, 3),
        (1, 8, 16, new.clone()),
        // With FUA, and hints.
        (1 | 1 << 13 | 1 << 8, 1, 100, vec![9; 512]),
        ask(2, 0, u64::MAX),
        ask(0, 8, 16),
        // Zeroes, and zeroes whose space stays.
        ask(5, 8, 32),
        ask(5 | 1 << 15, 8, 48),
        ask(3, 8, 64),
        ask(0, (MOST / 512) as u32, 0),
    ];
    let (answers, after) = play("all", &bytes, true, asked);
    assert_eq!(codes(&answers), [1024, 4096, 512, 0, 4096, 0, 0, 0, MOST as i32]);
    assert!(answers[0].1 == bytes[3 * 512..5 * 512]);
    assert!(answers[4].1 == new);
    let mut expected = bytes;
    expected[16 * 512..][..4096].fill(0x5a);
    expected[100 * 512..][..512].fill(9);
    expected[32 * 512..][..4096].fill(0);
    expected[48 * 512..][..4096].fill(0);
    // What was discarded may be anything.
    expected[64 * 512..][..4096].copy_from_slice(&after[64 * 512..][..4096]);
    assert!(after == expected);
    assert!(answers[8].1 == expected[..MOST]);
}

/// Whatever stands in the descriptions: an error, and the next request is served.
#[test]
fn what_does_not_fit_is_refused() {
    let bytes = vec![1; 8192];
    let asked = vec![
        ask(0, 1, 16),
        ask(0, 17, 0),
        ask(0, (MOST / 512) as u32 + 1, 0),
        ask(1, u32::MAX, 0),
        ask(1, 1, u64::MAX / 512),
        ask(5, 1, u64::MAX),
        ask(3, 1, 1 << 54),
        ask(4, 1, 0),
        ask(0xff, 1, 0),
        ask(0, 1, 15),
    ];
    let (answers, after) = play("wrong", &bytes, true, asked);
    let codes = codes(&answers);
    assert!(codes[..9].iter().all(|c| *c < 0), "{codes:?}");
    assert_eq!((codes[0], codes[2], codes[8]), (-Errno::IO.raw(), -Errno::INVAL.raw(), -Errno::NOTSUP.raw()));
    assert_eq!(answers[9], (512, vec![1; 512]));
    assert!(after == bytes);
}

#[test]
fn what_is_read_only_stays_so() {
    let bytes = vec![3; 8192];
    let asked = vec![(1, 1, 0, vec![9; 512]), ask(5, 1, 0), ask(3, 1, 0), ask(2, 0, 0), ask(0, 1, 0)];
    let (answers, after) = play("readonly", &bytes, false, asked);
    let no = -Errno::ROFS.raw();
    assert_eq!(codes(&answers), [no, no, no, 0, 512]);
    assert!(after == bytes);
}
