//! `blklogwrites`: the log is replayed, and must give the image.

use api::block_core::BlockdevOptions;
use base::Errno;
use block::driver::{WriteFlags, ZeroFlags};
use block::{BlockGraph, Perm, Root, RootConfig};
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Value, from_json};
use std::path::PathBuf;
use std::sync::Arc;

const LEN: usize = 256 << 10;

struct Bed {
    dir: PathBuf,
    graph: Arc<BlockGraph>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Bed {
    /// An image `f` of bytes 7 and an empty log `l`.
    fn new(name: &str) -> Bed {
        let dir = std::env::temp_dir().join(format!("rhea-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("f"), vec![7; LEN]).unwrap();
        std::fs::write(dir.join("l"), []).unwrap();
        let drivers = [block_file::DRIVERS, block_formats::DRIVERS, block_test::DRIVERS].concat();
        Bed { dir, graph: BlockGraph::new(&drivers, EventBus::new()) }
    }

    async fn try_add(&self, more: &str) -> Result<(), String> {
        self.add_over("{'driver':'file','filename':'@f','discard':'unmap'}", more).await
    }

    async fn add_over(&self, file: &str, more: &str) -> Result<(), String> {
        let log = "{'driver':'file','filename':'@l','discard':'unmap'}";
        let text = format!(
            "{{'driver':'blklogwrites','node-name':'w','discard':'unmap','file':{file},'log':{log}{more}}}"
        );
        let text = text.replace('@', &format!("{}/", self.dir.display())).replace('\'', "\"");
        let options: BlockdevOptions =
            Value::parse_json(&text).and_then(from_json).unwrap_or_else(|e| panic!("{text}: {e}"));
        self.graph.add(options).await.map_err(|e| e.desc().to_owned())
    }

    async fn open(&self, more: &str) -> Arc<Root> {
        self.try_add(more).await.unwrap();
        self.root().await
    }

    async fn root(&self) -> Arc<Root> {
        let perm = Perm::CONSISTENT_READ | Perm::WRITE;
        self.graph.attach("w", RootConfig { perm, shared: Perm::all(), ..Default::default() }).await.unwrap()
    }

    async fn close(&self, r: Arc<Root>) {
        r.detach().await;
        self.graph.del("w").await.unwrap();
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.join(name)).unwrap()
    }

    fn log(&self) -> Log {
        Log::parse(&self.file("l"))
    }
}

/// A log as another program reads it: by the kernel's documentation, not by the driver's code.
#[derive(Debug)]
struct Log {
    sector: usize,
    entries: Vec<(u64, u64, u64, Vec<u8>)>,
}

impl Log {
    fn parse(b: &[u8]) -> Log {
        let n = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
        assert_eq!((n(0), n(8)), (0x6a736677736872, 1));
        let sector = u32::from_le_bytes(b[24..28].try_into().unwrap()) as usize;
        let mut at = sector;
        let mut entries = Vec::new();
        for _ in 0..n(16) {
            let (first, count, flags, extra) = (n(at), n(at + 8), n(at + 16), n(at + 24));
            assert_eq!(extra, 0);
            at += sector;
            let len = if flags & 4 == 0 { count as usize * sector } else { 0 };
            entries.push((first, count, flags, b[at..at + len].to_vec()));
            at += len;
        }
        Log { sector, entries }
    }

    /// Does again what the first `n` entries say.
    fn replay(&self, image: &mut [u8], n: usize) {
        for (first, count, flags, data) in &self.entries[..n] {
            let at = *first as usize * self.sector;
            if flags & 4 != 0 {
                image[at..at + *count as usize * self.sector].fill(0);
            } else {
                image[at..at + data.len()].copy_from_slice(data);
            }
        }
    }

    fn heads(&self) -> Vec<(u64, u64, u64)> {
        self.entries.iter().map(|(a, b, c, _)| (*a, *b, *c)).collect()
    }
}

fn buf(byte: u8, len: usize) -> IoBuf {
    let b = IoBuf::zeroed(len);
    b.fill(byte);
    b
}

#[test]
fn what_is_in_the_log() {
    rt::block_on(async {
        let bed = Bed::new("content");
        let r = bed.open("").await;
        assert_eq!(bed.log().heads(), [], "the log is there from the beginning");
        let w = |at, len, b| r.write(at, buf(b, len), WriteFlags::empty());
        w(0, 4096, 1).await.unwrap();
        w(512, 512, 2).await.unwrap();
        // Not whole sectors: the sectors as they are then.
        w(100, 100, 3).await.unwrap();
        r.flush().await.unwrap();
        r.write_zeroes(65_536, 65_536, ZeroFlags::empty()).await.unwrap();
        r.discard(131_072, 65_536).await.unwrap();
        r.write(200 << 10, buf(9, 1024), WriteFlags::FUA).await.unwrap();
        let log = bed.log();
        let want = [
            (0, 8, 0),
            (1, 1, 0),
            (0, 1, 0),
            (0, 0, 1),
            (128, 128, 0),
            (256, 128, 4),
            (400, 2, 0),
            (0, 0, 1),
        ];
        assert_eq!(log.heads(), want);
        assert_eq!(log.entries[2].3[98..102], [1, 1, 3, 3]);
        let mut image = vec![7; LEN];
        log.replay(&mut image, log.entries.len());
        assert!(image == bed.file("f"));
        // A flush of nothing is not worth an entry.
        r.flush().await.unwrap();
        assert_eq!(bed.log().entries.len(), 8);
        bed.close(r).await;
    });
}

#[test]
fn the_log_goes_on() {
    rt::block_on(async {
        let bed = Bed::new("append");
        for (i, more) in [",'log-append':true"; 3].into_iter().enumerate() {
            let r = bed.open(more).await;
            r.write(512 * i as u64, buf(i as u8, 512), WriteFlags::empty()).await.unwrap();
            bed.close(r).await;
            // Closing is as good as a flush.
            assert_eq!(bed.log().entries.iter().filter(|e| e.2 == 0).count(), i + 1);
        }
        let mut image = vec![7; LEN];
        let log = bed.log();
        log.replay(&mut image, log.entries.len());
        assert!(image == bed.file("f"));
        // A new one takes its place, whatever the old one had.
        let r = bed.open(",'log-sector-size':4096").await;
        assert_eq!(bed.log().heads(), []);
        r.write(9 << 10, buf(5, 512), WriteFlags::FUA).await.unwrap();
        assert_eq!(bed.log().heads(), [(2, 1, 0), (0, 0, 1)]);
        let before = image.clone();
        bed.log().replay(&mut image, 1);
        assert!(image == bed.file("f") && image != before);
        bed.close(r).await;
    });
}

#[test]
fn the_superblock_follows() {
    rt::block_on(async {
        let bed = Bed::new("super");
        let r = bed.open(",'log-super-update-interval':3").await;
        for i in 0..7u64 {
            r.write(i * 512, buf(1, 512), WriteFlags::empty()).await.unwrap();
            assert_eq!(bed.log().entries.len() as u64, (i + 1) / 3 * 3);
        }
        r.flush().await.unwrap();
        assert_eq!(bed.log().entries.len(), 8);
        bed.close(r).await;
    });
}

/// Every state at a flush contains what was acknowledged before it, and the end is the image, with many writers at a
/// time.
#[test]
fn overlapping_writes_are_logged_in_their_order() {
    rt::block_on(async {
        let bed = Bed::new("order");
        let r = bed.open("").await;
        let mut tasks = Vec::new();
        for i in 0..48u64 {
            let r = r.clone();
            tasks.push(rt::spawn_local(async move {
                for n in 0..6 {
                    let at = (i * 7919 + n * 104_729) % 8192;
                    match (i + n) % 7 {
                        0 => r.write_zeroes(at, 3000, ZeroFlags::empty()).await.unwrap(),
                        1 => r.discard(at, 5000).await.unwrap(),
                        2 => r.flush().await.unwrap(),
                        _ => r
                            .write(at, buf(i as u8, 512 + i as usize * 61), WriteFlags::empty())
                            .await
                            .unwrap(),
                    }
                }
            }));
        }
        for t in tasks {
            t.await;
        }
        r.write(100 << 10, buf(42, 512), WriteFlags::empty()).await.unwrap();
        r.flush().await.unwrap();
        bed.close(r).await;
        let log = bed.log();
        assert!(log.entries.len() > 100);
        let mut image = vec![7; LEN];
        log.replay(&mut image, log.entries.len());
        assert!(image == bed.file("f"));
        let last = log.entries.iter().rposition(|e| e.2 == 1).unwrap();
        assert!(log.entries[..last].iter().any(|e| e.0 == 200 && e.3.first() == Some(&42)));
    });
}

#[test]
fn logs_that_are_none() {
    rt::block_on(async {
        let bed = Bed::new("bad");
        let e = async |more: &str| bed.try_add(more).await.unwrap_err();
        assert_eq!(e(",'log-sector-size':1000").await, "Invalid log sector size 1000");
        assert_eq!(e(",'log-sector-size':0").await, "Invalid log sector size 0");
        assert_eq!(e(",'log-sector-size':16777216").await, "Invalid log sector size 16777216");
        assert_eq!(e(",'log-super-update-interval':0").await, "Invalid log superblock update interval 0");
        let both = e(",'log-append':true,'log-sector-size':512").await;
        assert_eq!(both, "log-append and log-sector-size are mutually exclusive");
        let head = |version: u64, entries: u64, sector: u32, more: &[u64]| {
            let mut b = 0x6a736677736872u64.to_le_bytes().to_vec();
            b.extend(version.to_le_bytes());
            b.extend(entries.to_le_bytes());
            b.extend(sector.to_le_bytes());
            b.resize(512, 0);
            b.extend(more.iter().flat_map(|n| n.to_le_bytes()));
            b.resize(1024, 0);
            b
        };
        let cases = [
            (b"hello".to_vec(), "Invalid log superblock magic"),
            (vec![0; 4096], "Invalid log superblock magic"),
            (head(2, 0, 512, &[]), "Unsupported log version 2"),
            (head(1, 0, 513, &[]), "Invalid log sector size 513"),
            (head(1, 1, 512, &[0, 1, 256, 0]), "Invalid flags 0x100 in log entry 0"),
            (head(1, u64::MAX, 512, &[0, 1, 0, 0]), "The log ends before its entry 1 does"),
            (head(1, 2, 512, &[0, u64::MAX / 2, 0, 0]), "The log ends before its entry 0 does"),
            (head(1, 2, 512, &[0, u64::MAX / 1024, 0, 0]), "The log ends before its entry 1 does"),
            (head(1, u64::MAX, 512, &[]), "Log entry 0 is empty"),
        ];
        for (bytes, text) in cases {
            std::fs::write(bed.dir.join("l"), bytes).unwrap();
            assert_eq!(e(",'log-append':true").await, text);
        }
        // What fails below is not logged.
        std::fs::write(bed.dir.join("l"), []).unwrap();
        let rule = "{'event':'none','iotype':'write','errno':28,'sector':8}";
        let f = "{'driver':'file','filename':'@f'}";
        let f = format!("{{'driver':'blkdebug','image':{f},'inject-error':[{rule}]}}");
        bed.add_over(&f, "").await.unwrap();
        let r = bed.root().await;
        assert_eq!(r.write(4096, buf(1, 512), WriteFlags::empty()).await, Err(Errno::NOSPC));
        r.write(8192, buf(1, 512), WriteFlags::FUA).await.unwrap();
        assert_eq!(bed.log().heads(), [(16, 1, 0), (0, 0, 1)]);
        bed.close(r).await;
        // A node that nobody may write to leaves the log alone.
        std::fs::write(bed.dir.join("l"), b"hello").unwrap();
        bed.try_add(",'read-only':true").await.unwrap();
        bed.graph.del("w").await.unwrap();
        assert_eq!(bed.file("l"), b"hello");
    });
}
