//! A disk that is written: what was written covers what the directory shows. What a sector reads as changes by writing it alone,
//! whatever becomes of the files that it was read from.

use super::folder::Folder;
use super::overlay::Overlay;
use super::spec::{Geometry, SECTOR};
use super::tree::{Content, Print, Tree};
use super::volume::Disk;
use super::{Piece, piece};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A file or directory of the host, as it was when disk and directory were last the same.
#[derive(Debug)]
pub struct Node {
    /// The node of the directory that has it. The first node has itself.
    pub parent: usize,
    /// Its name on the host.
    pub name: OsString,
    /// Its name on the disk.
    pub shown: String,
    /// It is a directory.
    pub dir: bool,
    /// The clusters that it had.
    pub chain: Vec<u32>,
    /// Bytes of a file.
    pub size: u32,
    /// The time that the disk had.
    pub stamp: [u8; 4],
    /// It was not to be written.
    pub read_only: bool,
    /// By what it is known again.
    pub print: Print,
    /// Nothing that the host has of it counts.
    pub whole: bool,
    /// How many bytes of it the disk may still show, of those that it was opened with.
    pub source: u64,
}

/// The disk.
#[derive(Debug)]
pub struct Writer {
    pub(super) g: Geometry,
    pub(super) front: Arc<[u8]>,
    tree: Tree,
    pub(super) overlay: Overlay,
    pub(super) folder: Folder,
    /// The first is the directory itself. Those of the items follow.
    pub(super) nodes: Vec<Option<Node>>,
    /// Places among the nodes that may be given again.
    pub(super) free: Vec<usize>,
    /// What failed, or had to wait, is to be tried again.
    pub(super) again: bool,
    /// Warnings that were given.
    pub(super) told: HashSet<String>,
    /// How many nodes the disk was opened with, the first apart.
    items: usize,
    /// The file that was read last.
    open: Option<(usize, File)>,
}

/// How many bytes are moved at once.
pub const CHUNK: u64 = 256 << 10;

impl Writer {
    /// The disk that shows what was read of the directory at `dir`. Blocks.
    ///
    /// # Errors
    /// The directory cannot be opened, or there can be no temporary file.
    pub fn new(g: Geometry, front: Arc<[u8]>, mut tree: Tree, dir: &Path) -> io::Result<Writer> {
        let overlay = Overlay::new(g.disk_len())?;
        let none = Print { dev: 0, ino: 0, len: 0, changed: (0, 0) };
        let root = Node {
            parent: 0,
            name: OsString::new(),
            shown: String::new(),
            dir: true,
            chain: Vec::new(),
            size: 0,
            stamp: [0; 4],
            read_only: false,
            print: none,
            whole: false,
            source: 0,
        };
        let items = std::mem::take(&mut tree.items).into_iter().map(|i| Node {
            parent: i.parent.map_or(0, |p| p + 1),
            name: i.name,
            shown: i.shown,
            dir: i.dir,
            chain: (i.clusters.0..i.clusters.0 + i.clusters.1).collect(),
            size: i.size,
            stamp: i.stamp,
            read_only: i.read_only,
            print: i.print,
            whole: false,
            source: u64::from(i.size),
        });
        let nodes: Vec<_> = std::iter::once(root).chain(items).map(Some).collect();
        Ok(Writer {
            g,
            front,
            tree,
            overlay,
            folder: Folder::open(dir)?,
            items: nodes.len() - 1,
            nodes,
            free: Vec::new(),
            again: false,
            told: HashSet::new(),
            open: None,
        })
    }

    /// How many nodes the disk was opened with, the first apart: it may show bytes of theirs.
    pub(super) fn items(&self) -> usize {
        self.items
    }

    /// The node, which is there.
    pub(super) fn node(&self, id: usize) -> io::Result<&Node> {
        self.nodes.get(id).and_then(Option::as_ref).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The names that lead to a node.
    pub(super) fn names(&self, mut id: usize) -> io::Result<Vec<&OsStr>> {
        let mut names = Vec::new();
        while id != 0 {
            let n = self.node(id)?;
            names.push(n.name.as_os_str());
            id = n.parent;
            if names.len() > self.nodes.len() {
                return Err(io::ErrorKind::NotFound.into());
            }
        }
        names.reverse();
        Ok(names)
    }

    /// What the bytes from `off` on are, and how many of `len`, one layer alone.
    pub fn extent(&self, off: u64, len: u64) -> (bool, u64) {
        match self.overlay.state(off, len) {
            (true, n) => (false, n),
            (false, n) => {
                let (p, n) = piece(&self.g, &self.tree, off, n);
                (matches!(p, Piece::Zero), n)
            }
        }
    }

    /// Forgets the file that was read last.
    pub(super) fn let_go(&mut self) {
        self.open = None;
    }

    /// Bytes of a file of the host; what it does not have is zeroes.
    fn read_file(&mut self, id: usize, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let source = self.nodes.get(id).and_then(Option::as_ref).map_or(0, |n| n.source);
        let want = source.saturating_sub(at).min(buf.len() as u64) as usize;
        let (buf, rest) = buf.split_at_mut(want);
        rest.fill(0);
        if buf.is_empty() {
            return Ok(());
        }
        if self.open.as_ref().is_none_or(|(o, _)| *o != id) {
            let names = self.names(id)?;
            let (name, dirs) = names.split_last().ok_or(io::ErrorKind::NotFound)?;
            let file = self.folder.dir(dirs)?.file(name, false)?;
            self.open = Some((id, file));
        }
        let (_, file) = self.open.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut done = 0;
        while done < buf.len() {
            match file.read_at(&mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        buf[done..].fill(0);
        Ok(())
    }

    /// What the directory shows.
    fn read_below(&mut self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = off + done as u64;
            let (p, n) = piece(&self.g, &self.tree, at, (buf.len() - done) as u64);
            let part = &mut buf[done..done + n as usize];
            let put = |part: &mut [u8], from: &[u8]| {
                let n = from.len().min(part.len());
                part[..n].copy_from_slice(&from[..n]);
                part[n..].fill(0);
            };
            match p {
                Piece::Zero => part.fill(0),
                Piece::Front => put(part, &self.front[at as usize..]),
                Piece::Run(r, within) => match &r.content {
                    Content::Directory(b) => put(part, b.get(within as usize..).unwrap_or(&[])),
                    Content::File { item, .. } => {
                        let id = item + 1;
                        self.read_file(id, within, part)?;
                    }
                },
            }
            done += n as usize;
        }
        Ok(())
    }

    /// Writes anywhere within the disk.
    ///
    /// # Errors
    /// It cannot be kept, or what stands around it cannot be read.
    pub fn write(&mut self, off: u64, bytes: &[u8]) -> io::Result<()> {
        let end = off + bytes.len() as u64;
        let (first, last) = (off / SECTOR * SECTOR, end.next_multiple_of(SECTOR));
        if (first, last) == (off, end) {
            return self.overlay.write(off, bytes, true);
        }
        let mut whole = vec![0; (last - first) as usize];
        self.read(first, &mut whole)?;
        whole[(off - first) as usize..][..bytes.len()].copy_from_slice(bytes);
        self.overlay.write(first, &whole, true)
    }

    /// Keeps what the disk shows of a file from byte `from` on, which the host is about to lose.
    pub(super) fn preserve(&mut self, id: usize, from: u64) -> io::Result<()> {
        let from = from / SECTOR * SECTOR;
        let source = self.node(id)?.source;
        if source <= from {
            return Ok(());
        }
        let run =
            self.tree.runs.iter().find(|r| matches!(r.content, Content::File { item, .. } if item + 1 == id));
        let Some(start) = run.map(|r| self.g.cluster_at(r.first)) else { return Ok(()) };
        let (mut at, end) = (start + from, start + source.next_multiple_of(SECTOR));
        while at < end {
            let (here, n) = self.overlay.state(at, (end - at).min(CHUNK));
            if !here {
                let mut bytes = vec![0; n as usize];
                self.read_below(at, &mut bytes)?;
                self.overlay.write(at, &bytes, false)?;
            }
            at += n;
        }
        if let Some(n) = self.nodes[id].as_mut() {
            n.source = from;
        }
        Ok(())
    }

    /// Where on the disk bytes of a chain of clusters are, in pieces that follow one another.
    pub(super) fn places(&self, chain: &[u32], bytes: Range<u64>) -> Vec<(u64, Range<u64>)> {
        let len = self.g.cluster_len();
        let mut all: Vec<(u64, Range<u64>)> = Vec::new();
        let mut at = bytes.start;
        while at < bytes.end {
            let Some(cluster) = chain.get((at / len) as usize) else { break };
            let end = (at / len * len + len).min(bytes.end);
            let place = self.g.cluster_at(*cluster) + at % len;
            match all.last_mut().filter(|(p, r)| *p + (r.end - r.start) == place && r.end - r.start < CHUNK) {
                Some((_, r)) => r.end = end,
                None => all.push((place, at..end)),
            }
            at = end;
        }
        all
    }
}

impl Disk for Writer {
    fn read(&mut self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = off + done as u64;
            let (here, n) = self.overlay.state(at, (buf.len() - done) as u64);
            let part = &mut buf[done..done + n as usize];
            if here {
                self.overlay.read(at, part)?;
            } else {
                self.read_below(at, part)?;
            }
            done += n as usize;
        }
        Ok(())
    }
}
