//! `vvfat`: a directory of the host as a disk with a FAT volume. With `rw` the disk is written, too (`writer`), and the directory
//! is brought to what the volume holds (`bring`): when the disk is flushed, when it is closed, and when nothing has been written for
//! a while.

mod bring;
mod folder;
mod names;
mod overlay;
pub mod spec;
mod tree;
pub mod volume;
mod writer;

use self::spec::{Fat, Geometry, SECTOR};
use self::tree::{Content, Run, Tree};
use api::block_core::{BlockdevDriverOptions, BlockdevOptions, BlockdevOptionsVVFAT};
use base::{Errno, IoResult};
use block::driver::{
    Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits, OpenCx, OpenFuture, WriteFlags,
    default_child_perm, no_children,
};
use block::filename::FileNames;
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::{Dict, QError, Value, qerr};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use volume::{Disk, Wrong};
use writer::Writer;

/// `vvfat`.
pub static VVFAT: DriverType = DriverType {
    name: "vvfat",
    kind: Kind::Protocol,
    file_names: Some(FileNames { prefixes: &["fat"], parse: named, older: None }),
    children: no_children,
    child_perm: default_child_perm,
    open,
    ..DriverType::BASE
};

/// The name of new volumes.
const LABEL: &str = "QEMU VVFAT";

/// How long nothing is written before the directory is brought to the volume though nobody asks.
const QUIET: Duration = Duration::from_secs(1);

/// What `fat:[rw:][floppy:][12:|16:|32:]DIR` means.
fn named(name: &str) -> Result<Dict, QError> {
    let rest = name.strip_prefix("fat:");
    let mut rest = rest.ok_or_else(|| QError::new("File name string must start with 'fat:'"))?;
    let mut d = Dict::new();
    // The directory stands behind the last colon. Words that mean nothing are let pass.
    while let Some((word, behind)) = rest.split_once(':') {
        match word {
            "floppy" => drop(d.insert("floppy", Value::from(true))),
            "12" | "16" | "32" => drop(d.insert("fat-type", Value::from(word.parse::<i64>().unwrap_or(0)))),
            "rw" => drop(d.insert("rw", Value::from(true))),
            _ => {}
        }
        rest = behind;
    }
    d.insert("dir", rest);
    Ok(d)
}

fn options(o: &BlockdevOptions) -> Result<&BlockdevOptionsVVFAT, QError> {
    match &o.driver {
        BlockdevDriverOptions::Vvfat(v) => Ok(v),
        _ => Err(QError::new("The options are not those of 'vvfat'")),
    }
}

/// The disk as it is read.
struct Vvfat {
    g: Geometry,
    front: Arc<[u8]>,
    tree: Tree,
}

fn open(o: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async move {
        let v = options(o.options)?;
        let rw = v.rw == Some(true);
        if !rw {
            crate::readonly::may_open(&o.flags, "Image is read-only")?;
        }
        let text = v.label.as_deref().unwrap_or(LABEL);
        if text.len() > 11 {
            return Err(QError::new("vvfat label cannot be longer than 11 bytes"));
        }
        let fat = match v.fat_type.unwrap_or(0) {
            0 => None,
            12 => Some(Fat::Fat12),
            16 => Some(Fat::Fat16),
            32 => Some(Fat::Fat32),
            _ => return Err(QError::new("Valid FAT types are only 12, 16 and 32")),
        };
        if rw && o.flags.read_only {
            return Err(QError::new("Unable to set VVFAT to 'rw' when drive is read-only"));
        }
        let mut label = [b' '; 11];
        label[..text.len()].copy_from_slice(text.as_bytes());
        let g = Geometry::new(fat, v.floppy == Some(true));
        let dir = PathBuf::from(&v.dir);
        rt::unblock(move || {
            let tree = Tree::read(&g, &dir, &label, rw)?;
            let front = front(&g, &label, &tree).into();
            if !rw {
                return Ok(Arc::new(Vvfat { g, front, tree }) as Arc<dyn Driver>);
            }
            let w = Writer::new(g, front, tree, &dir);
            let writer =
                w.map_err(|e| qerr!("Could not open directory {} for writing: {e}", dir.display()))?;
            let shared = Shared {
                turn: rt::sync::Mutex::new(()),
                writer: Mutex::new(writer),
                quiet: Mutex::default(),
            };
            Ok(Arc::new(Live { g, shared: Arc::new(shared) }) as Arc<dyn Driver>)
        })
        .await
    })
}

/// The partition table, the boot sectors, and both FATs with the root directory: up to the first cluster.
fn front(g: &Geometry, label: &[u8; 11], tree: &Tree) -> Vec<u8> {
    let mut front = g.partition_table();
    front.resize((g.begin * SECTOR) as usize, 0);
    front.extend(g.boot_sectors(label));
    let table = g.fat_bytes(&tree.chain(g));
    front.extend(&table);
    front.extend(&table);
    front.extend(&tree.root);
    front.resize(g.data_at() as usize, 0);
    front
}

/// What a piece of the disk is.
enum Piece<'a> {
    Front,
    /// A run, and where in it.
    Run(&'a Run, u64),
    Zero,
}

/// What the bytes from `off` on are, and how many of `len`.
fn piece<'a>(g: &Geometry, tree: &'a Tree, off: u64, len: u64) -> (Piece<'a>, u64) {
    let data = g.data_at();
    if off < data {
        return (Piece::Front, len.min(data - off));
    }
    let cl = g.cluster_len();
    let cluster = u32::try_from((off - data) / cl + 2).unwrap_or(u32::MAX);
    match tree.run(cluster) {
        Some(r) => {
            let start = g.cluster_at(r.first);
            (Piece::Run(r, off - start), len.min(start + u64::from(r.count) * cl - off))
        }
        None => {
            let next = tree.runs.get(tree.runs.partition_point(|r| r.first <= cluster));
            (Piece::Zero, next.map_or(len, |r| len.min(g.cluster_at(r.first) - off)))
        }
    }
}

/// Copies what there is of `from`; the rest is zeroes.
fn put(part: &IoBuf, from: &[u8]) {
    let n = from.len().min(part.len());
    part.copy_from(0, &from[..n]);
    part.slice(n..part.len()).fill(0);
}

async fn read_file(path: &std::path::Path, at: u64, len: usize) -> IoResult<Vec<u8>> {
    let path = path.to_owned();
    let read = move || {
        let file = std::fs::File::open(path)?;
        let mut out = vec![0; len];
        let mut done = 0;
        while done < len {
            match file.read_at(&mut out[done..], at + done as u64)? {
                0 => break,
                n => done += n,
            }
        }
        out.truncate(done);
        Ok(out)
    };
    rt::unblock(read).await.map_err(|e: std::io::Error| Errno::from(e))
}

impl Driver for Vvfat {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.g.disk_len()
    }

    fn limits(&self, _cx: &Cx<'_>) -> Limits {
        Limits { max_transfer: 1 << 20, ..Limits::default() }
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let (piece, n) = piece(&self.g, &self.tree, off, len);
            let zero = matches!(piece, Piece::Zero);
            let eof = off + n >= self.len(cx);
            Ok(Extent { len: n, kind: ExtentKind::Own { offset: None, zero }, eof })
        })
    }

    fn read<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            let mut done = 0;
            while done < buf.len() {
                let at = off + done as u64;
                let (piece, n) = piece(&self.g, &self.tree, at, (buf.len() - done) as u64);
                let part = buf.slice(done..done + n as usize);
                match piece {
                    Piece::Zero => part.fill(0),
                    Piece::Front => put(&part, &self.front[at as usize..]),
                    Piece::Run(r, within) => match &r.content {
                        Content::Directory(b) => put(&part, b.get(within as usize..).unwrap_or(&[])),
                        Content::File { path, size, .. } => {
                            let want = size.saturating_sub(within).min(n) as usize;
                            put(&part, &read_file(path, within, want).await?);
                        }
                    },
                }
                done += n as usize;
            }
            Ok(())
        })
    }

    fn forced_read_only(&self) -> bool {
        true
    }
}

/// The disk as it is written.
struct Live {
    g: Geometry,
    shared: Arc<Shared>,
}

struct Shared {
    /// One after another: whoever waits holds up no thread.
    turn: rt::sync::Mutex<()>,
    writer: Mutex<Writer>,
    quiet: Mutex<Quiet>,
}

/// When the directory is brought to the volume by itself.
#[derive(Default)]
struct Quiet {
    /// Somebody waits for it.
    armed: bool,
    written: Option<Instant>,
}

/// Who waits for quiet; another may when this is dropped.
struct Waiting(Weak<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(s) = self.0.upgrade() {
            s.quiet.lock().armed = false;
        }
    }
}

impl Shared {
    /// Does something with the disk that may block.
    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&mut Writer) -> T + Send + 'static,
    ) -> T {
        let _turn = self.turn.lock().await;
        let shared = self.clone();
        rt::unblock(move || f(&mut shared.writer.lock())).await
    }

    /// Has the directory brought to the volume some time after the last write.
    fn arm(self: &Arc<Self>) {
        let mut q = self.quiet.lock();
        q.written = Some(rt::now());
        if std::mem::replace(&mut q.armed, true) {
            return;
        }
        drop(q);
        let waiting = Waiting(Arc::downgrade(self));
        drop(rt::spawn_local(async move {
            loop {
                let Some(written) = waiting.0.upgrade().map(|s| s.quiet.lock().written) else { return };
                let until = written.unwrap_or_else(rt::now) + QUIET;
                if rt::now() >= until {
                    break;
                }
                rt::sleep_until(until).await;
            }
            let Some(shared) = waiting.0.upgrade() else { return };
            // What is written from here on is waited for by somebody else.
            drop(waiting);
            // What fails is told; the next flush says it to the guest.
            shared
                .with(|w| {
                    if let Ok(Some(wrong)) = w.bring(false) {
                        w.tell(format!(
                            "the directory is left as it is as long as the volume is not whole: {wrong}"
                        ));
                    }
                })
                .await;
        }));
    }
}

impl Driver for Live {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.g.disk_len()
    }

    fn limits(&self, _cx: &Cx<'_>) -> Limits {
        Limits { max_transfer: 1 << 20, ..Limits::default() }
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let (zero, n) = self.shared.with(move |w| w.extent(off, len)).await;
            let eof = off + n >= self.len(cx);
            Ok(Extent { len: n, kind: ExtentKind::Own { offset: None, zero }, eof })
        })
    }

    fn read<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            let len = buf.len().min(self.g.disk_len().saturating_sub(off) as usize);
            let read = move |w: &mut Writer| {
                let mut bytes = vec![0; len];
                w.read(off, &mut bytes).map(|()| bytes)
            };
            // Whether a file of the host is there is nothing that the guest asked for.
            let bytes = self.shared.with(read).await.map_err(|_| Errno::IO)?;
            put(&buf, &bytes);
            Ok(())
        })
    }

    fn write<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            if off + buf.len() as u64 > self.g.disk_len() {
                return Err(Errno::NOSPC);
            }
            let bytes = buf.to_vec();
            let done = self.shared.with(move |w| w.write(off, &bytes)).await;
            self.shared.arm();
            done.map_err(|e| match Errno::from(e) {
                Errno::NOSPC => Errno::NOSPC,
                _ => Errno::IO,
            })
        })
    }

    fn flush<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move { self.shared.with(|w| w.bring(false)).await.map(drop) })
    }

    fn close<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move {
            let last = |w: &mut Writer| -> IoResult<Option<Wrong>> {
                let wrong = w.bring(true)?;
                if let Some(wrong) = wrong {
                    w.tell(format!(
                        "not all that was written is in the directory, for the volume is not whole: {wrong}"
                    ));
                }
                Ok(wrong)
            };
            match self.shared.with(last).await? {
                None => Ok(()),
                Some(_) => Err(Errno::IO),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let d = named("fat:floppy:12:what:/a/b").unwrap();
        assert_eq!(d.get("dir").and_then(Value::as_str), Some("/a/b"));
        assert_eq!(d.get("floppy"), Some(&Value::from(true)));
        assert_eq!(d.get("fat-type"), Some(&Value::from(12i64)));
        assert!(d.get("rw").is_none());
        assert_eq!(named("fat:rw:/a").unwrap().get("rw"), Some(&Value::from(true)));
        assert!(named("/a").is_err());
    }
}
