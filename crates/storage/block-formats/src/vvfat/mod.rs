//! `vvfat`: a directory of the host as a disk with a FAT volume, for reading.

mod names;
pub mod spec;
mod tree;

use self::spec::{Fat, Geometry, SECTOR};
use self::tree::{Content, Run, Tree};
use api::block_core::{BlockdevDriverOptions, BlockdevOptions, BlockdevOptionsVVFAT};
use base::{Errno, IoResult};
use block::driver::{
    Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits, OpenCx, OpenFuture,
    default_child_perm, no_children,
};
use block::filename::FileNames;
use mem::IoBuf;
use qapi::{Dict, QError, Value};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

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

/// What `fat:[floppy:][12:|16:|32:]DIR` means.
fn named(name: &str) -> Result<Dict, QError> {
    let rest = name.strip_prefix("fat:");
    let mut rest = rest.ok_or_else(|| QError::new("File name string must start with 'fat:'"))?;
    let mut d = Dict::new();
    // The directory stands behind the last colon. Words that mean nothing are let pass.
    while let Some((word, behind)) = rest.split_once(':') {
        match word {
            "floppy" => drop(d.insert("floppy", Value::from(true))),
            "12" | "16" | "32" => drop(d.insert("fat-type", Value::from(word.parse::<i64>().unwrap_or(0)))),
            "rw" => return Err(QError::new("Unable to set VVFAT to 'rw' when drive is read-only")),
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

/// The disk.
struct Vvfat {
    g: Geometry,
    /// The partition table, the boot sectors, and both FATs with the root directory: up to the first cluster.
    front: Vec<u8>,
    tree: Tree,
}

fn open(o: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async move {
        crate::readonly::may_open(&o.flags, "Image is read-only")?;
        let v = options(o.options)?;
        let fat = match v.fat_type.unwrap_or(0) {
            0 => None,
            12 => Some(Fat::Fat12),
            16 => Some(Fat::Fat16),
            32 => Some(Fat::Fat32),
            _ => return Err(QError::new("Valid FAT types are only 12, 16 and 32")),
        };
        let text = v.label.as_deref().unwrap_or(LABEL);
        if text.len() > 11 {
            return Err(QError::new("vvfat label cannot be longer than 11 bytes"));
        }
        let mut label = [b' '; 11];
        label[..text.len()].copy_from_slice(text.as_bytes());
        let g = Geometry::new(fat, v.floppy == Some(true));
        let dir = PathBuf::from(&v.dir);
        let tree = rt::unblock(move || Tree::read(&g, &dir, &label)).await?;
        let mut front = g.partition_table();
        front.resize((g.begin * SECTOR) as usize, 0);
        front.extend(g.boot_sectors(&label));
        let table = g.fat_bytes(&tree.chain(&g));
        front.extend(&table);
        front.extend(&table);
        front.extend(&tree.root);
        front.resize(g.data_at() as usize, 0);
        Ok(Arc::new(Vvfat { g, front, tree }) as Arc<dyn Driver>)
    })
}

/// What a piece of the disk is.
enum Piece<'a> {
    Front,
    /// A run, and where in it.
    Run(&'a Run, u64),
    Zero,
}

impl Vvfat {
    /// What the bytes from `off` on are, and how many of `len`.
    fn piece(&self, off: u64, len: u64) -> (Piece<'_>, u64) {
        let data = self.g.data_at();
        if off < data {
            return (Piece::Front, len.min(data - off));
        }
        let cl = self.g.cluster_len();
        let cluster = u32::try_from((off - data) / cl + 2).unwrap_or(u32::MAX);
        match self.tree.run(cluster) {
            Some(r) => {
                let start = data + u64::from(r.first - 2) * cl;
                (Piece::Run(r, off - start), len.min(start + u64::from(r.count) * cl - off))
            }
            None => {
                let next = self.tree.runs.iter().map(|r| data + u64::from(r.first - 2) * cl);
                (Piece::Zero, next.filter(|s| *s > off).min().map_or(len, |s| len.min(s - off)))
            }
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
            let (piece, n) = self.piece(off, len);
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
                let (piece, n) = self.piece(at, (buf.len() - done) as u64);
                let part = buf.slice(done..done + n as usize);
                match piece {
                    Piece::Zero => part.fill(0),
                    Piece::Front => put(&part, &self.front[at as usize..]),
                    Piece::Run(r, within) => match &r.content {
                        Content::Directory(b) => put(&part, b.get(within as usize..).unwrap_or(&[])),
                        Content::File(path, size) => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let d = named("fat:floppy:12:what:/a/b").unwrap();
        assert_eq!(d.get("dir").and_then(Value::as_str), Some("/a/b"));
        assert_eq!(d.get("floppy"), Some(&Value::from(true)));
        assert_eq!(d.get("fat-type"), Some(&Value::from(12i64)));
        assert!(named("fat:rw:/a").is_err() && named("/a").is_err());
    }
}
