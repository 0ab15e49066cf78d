//! `vmdk`: images of VMware: one file, or a descriptor that lists others (flat or sparse), or a compressed stream.

mod check;
mod create;
pub mod desc;
mod sparse;
pub mod spec;

use self::desc::Descriptor;
use self::sparse::Sparse;
use self::spec::{Header, SECTOR};
use crate::blockmap::{Engine, Io, Place, clamp_len};
use api::block_core::{ImageInfoSpecific, ImageInfoSpecificVmdk, VmdkExtentInfo};
use base::{Errno, IoResult};
use block::check::{Fix, Report};
use block::driver::{
    BackingHint, Below, Caps, ChildOption, ChildSlot, CtlFuture, Cx, Driver, DriverInfo, DriverType, Extent,
    ExtentKind, FileHint, IoFuture, Kind, NodePlan, OpenCx, OpenFuture, Staged, Support, WriteFlags,
    ZeroFlags, default_child_perm,
};
use block::lists::list_option;
use block::perm::Role;
use mem::IoBuf;
use parking_lot::{Mutex, RwLock};
use qapi::{QError, qerr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// `vmdk`.
pub static VMDK: DriverType = DriverType {
    name: "vmdk",
    kind: Kind::Format,
    supports_backing: true,
    supports_reopen: true,
    children: crate::file_and_backing,
    child_perm: default_child_perm,
    open,
    probe: Some(probe),
    create: Some(&create::CREATION),
    may_compress: true,
    ..DriverType::BASE
};

fn probe(b: &[u8], _name: &str) -> u32 {
    if b.starts_with(spec::MAGIC) || desc::is_descriptor(b) { 100 } else { 0 }
}

/// How a part of the disk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    /// Plainly, from this offset of the file on.
    Flat(u64),
    /// With grain tables.
    Sparse,
}

/// A part of the disk, and the child that has it.
struct Part {
    start: u64,
    len: u64,
    slot: ChildSlot,
    storage: Storage,
    /// As the descriptor has it; empty where the image is one file.
    kind: String,
    file: String,
    /// Made when it is first used: extents are opened after their descriptor.
    engine: RwLock<Option<Arc<Engine<Sparse>>>>,
}

/// Where the descriptor stands.
#[derive(Clone, Copy, Debug)]
struct DescriptorPlace {
    off: u64,
    /// Bytes that it may have; `None`: it is the whole file.
    room: Option<u64>,
}

/// An open image.
struct Vmdk {
    parts: Vec<Part>,
    len: u64,
    desc: Mutex<Descriptor>,
    place: Option<DescriptorPlace>,
    /// The content id was changed since the node was opened.
    renamed: AtomicBool,
    renaming: rt::sync::Mutex<()>,
    /// The backing file is the one that the overlay was made for.
    parent_known: AtomicBool,
    opening: rt::sync::Mutex<()>,
}

fn open(o: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async move {
        let io = Io::file(&o.cx);
        let fail = |_: Errno| QError::new("Could not read from file");
        let file_len = io.file_len().map_err(fail)?;
        if file_len == 0 {
            return Err(QError::new("File is too small, not a valid image"));
        }
        let first = io.read_vec(0, file_len.min(spec::HEADER as u64) as usize).await.map_err(fail)?;
        let vmdk = match Header::parse(&first) {
            // Only a descriptor can say what such a file is.
            Some(h) if h.capacity == 0 && h.descriptor_offset > 0 => {
                let at = h.descriptor_offset.saturating_mul(SECTOR);
                let room = h.descriptor_size.saturating_mul(SECTOR);
                listed(&io, at, room.min(file_len.saturating_sub(at))).await?
            }
            Some(h) if !h.grows_tables => one_file(&io, &h, file_len, o.flags.read_only).await?,
            None if desc::is_descriptor(&first) => listed(&io, 0, file_len).await?,
            _ => return Err(QError::new("invalid VMDK image descriptor")),
        };
        Ok(Arc::new(vmdk) as Arc<dyn Driver>)
    })
}

/// An image in one file, maybe with its descriptor inside.
async fn one_file(io: &Io<'_>, first: &Header, file_len: u64, read_only: bool) -> Result<Vmdk, QError> {
    let (sparse, space) = Sparse::open(io).await?;
    if sparse.header.version == 3 && !sparse.compressed() && !read_only {
        return Err(QError::new("VMDK version 3 must be read only"));
    }
    let mut place = None;
    let mut text = Vec::new();
    let off = first.descriptor_offset.saturating_mul(SECTOR);
    if off > 0 && off < file_len {
        let room = first.descriptor_size.saturating_mul(SECTOR);
        if room > spec::MAX_DESCRIPTOR {
            return Err(QError::new("VMDK description file too big"));
        }
        let n = clamp_len(off, room, file_len) as usize;
        text = io.read_vec(off, n).await.map_err(|_| QError::new("Could not read from file"))?;
        place = Some(DescriptorPlace { off, room: Some(n as u64) });
    }
    let len = sparse.header.capacity * SECTOR;
    let part = Part {
        start: 0,
        len,
        slot: ChildSlot::File,
        storage: Storage::Sparse,
        kind: String::new(),
        file: String::new(),
        engine: RwLock::new(Some(Arc::new(Engine::new(sparse, space)))),
    };
    Ok(Vmdk::new(vec![part], Descriptor::parse(&text), place))
}

/// An image whose descriptor lists other files.
async fn listed(io: &Io<'_>, at: u64, len: u64) -> Result<Vmdk, QError> {
    if len > spec::MAX_DESCRIPTOR {
        return Err(QError::new("VMDK description file too big"));
    }
    let text = io.read_vec(at, len as usize).await;
    let desc = Descriptor::parse(&text.map_err(|_| QError::new("Could not read from file"))?);
    let ty = desc.create_type.as_deref().ok_or_else(|| QError::new("invalid VMDK image descriptor"))?;
    let known = ["monolithicFlat", "vmfs", "vmfsSparse", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
    if !known.contains(&ty) {
        return Err(qerr!("Unsupported image type '{ty}'"));
    }
    let mut parts: Vec<Part> = Vec::new();
    let mut start = 0u64;
    for (n, line) in desc.extents()?.into_iter().enumerate() {
        let storage = match line.kind.as_str() {
            "FLAT" | "VMFS" => Storage::Flat(line.offset),
            "SPARSE" | "VMFSSPARSE" => Storage::Sparse,
            other => return Err(qerr!("Unsupported extent type '{other}'")),
        };
        let slot = ChildSlot::Other(u16::try_from(n).map_err(|_| QError::new("Too many extents"))?);
        let (len, kind, file) = (line.len, line.kind, line.file);
        parts.push(Part { start, len, slot, storage, kind, file, engine: RwLock::new(None) });
        start = start
            .checked_add(len)
            .filter(|e| *e <= block::MAX_OFFSET)
            .ok_or_else(|| QError::new("The image is too large"))?;
    }
    if parts.is_empty() {
        return Err(QError::new("invalid VMDK image descriptor"));
    }
    Ok(Vmdk::new(parts, desc, Some(DescriptorPlace { off: 0, room: None })))
}

impl Vmdk {
    fn new(parts: Vec<Part>, desc: Descriptor, place: Option<DescriptorPlace>) -> Vmdk {
        Vmdk {
            len: parts.last().map_or(0, |p| p.start + p.len),
            parts,
            desc: Mutex::new(desc),
            place,
            renamed: AtomicBool::new(false),
            renaming: rt::sync::Mutex::new(()),
            parent_known: AtomicBool::new(false),
            opening: rt::sync::Mutex::new(()),
        }
    }

    /// The part that has a byte, and how many of `len` bytes from there on it has.
    fn part(&self, off: u64, len: u64) -> IoResult<(&Part, u64)> {
        let i = self.parts.partition_point(|p| p.start + p.len <= off);
        let part = self.parts.get(i).ok_or(Errno::IO)?;
        Ok((part, clamp_len(off, len, part.start + part.len)))
    }

    fn io<'a>(&self, cx: &Cx<'a>, part: &Part) -> Io<'a> {
        Io { cx: *cx, slot: part.slot, start: part.start }
    }

    /// The engine of a sparse part; reads its header the first time.
    async fn load(&self, cx: &Cx<'_>, part: &Part) -> Result<Arc<Engine<Sparse>>, QError> {
        if let Some(e) = part.engine.read().clone() {
            return Ok(e);
        }
        let _one = self.opening.lock().await;
        if let Some(e) = part.engine.read().clone() {
            return Ok(e);
        }
        let (sparse, space) = Sparse::open(&self.io(cx, part)).await?;
        if sparse.header.capacity.saturating_mul(SECTOR) < part.len {
            return Err(qerr!("The extent '{}' is shorter than its descriptor says", part.file));
        }
        let engine = Arc::new(Engine::one_of(self.parts.len(), sparse, space));
        *part.engine.write() = Some(engine.clone());
        Ok(engine)
    }

    async fn engine(&self, cx: &Cx<'_>, part: &Part) -> IoResult<Arc<Engine<Sparse>>> {
        self.load(cx, part).await.map_err(|_| Errno::IO)
    }

    /// An overlay must not show another state of its parent than the one that it was made for.
    fn know_parent(&self, cx: &Cx<'_>) -> IoResult<()> {
        if self.parent_known.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Ok(parent) = cx.child(ChildSlot::Backing) else { return Ok(()) };
        if let Some(ImageInfoSpecific::Vmdk(i)) = parent.driver_info().format_specific
            && i.cid != i64::from(self.desc.lock().parent_cid)
        {
            return Err(Errno::INVAL);
        }
        self.parent_known.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The content is about to change: so does its id.
    async fn rename(&self, cx: &Cx<'_>) -> IoResult<()> {
        if self.renamed.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = self.renaming.lock().await;
        let Some(place) = self.place.filter(|_| !self.renamed.load(Ordering::Acquire)) else { return Ok(()) };
        let cid = create::new_cid().map_err(|_| Errno::IO)?;
        let text = self.desc.lock().with_cid(cid);
        let mut bytes = text.clone().into_bytes();
        let io = Io::file(cx);
        match place.room {
            Some(room) if bytes.len() as u64 > room => return Err(Errno::IO),
            Some(room) => bytes.resize(room as usize, 0),
            // Nothing of a longer text may be left behind.
            None => bytes.resize(bytes.len().max(io.file_len()? as usize), b'\n'),
        }
        io.write_bytes(place.off, &bytes).await?;
        let mut desc = self.desc.lock();
        (desc.cid, desc.text) = (cid, text);
        self.renamed.store(true, Ordering::Release);
        Ok(())
    }

    /// A compressed stream is written grain by grain, each once.
    async fn write_stream(&self, io: Io<'_>, engine: &Engine<Sparse>, off: u64, buf: IoBuf) -> IoResult<()> {
        let grain = engine.map().header.grain * SECTOR;
        let end = off + buf.len() as u64;
        let whole = off.is_multiple_of(grain)
            && (end.is_multiple_of(grain) || end == engine.map().header.capacity * SECTOR);
        let (place, _) = engine.lookup(io, off, 1).await?;
        match place {
            Place::Packed { .. } | Place::Data(_) => {
                tracing::error!(target: "report", "Could not write to allocated cluster for streamOptimized");
                Err(Errno::IO)
            }
            _ if whole => engine.write_packed(io, off, buf).await,
            _ => Err(Errno::INVAL),
        }
    }

    async fn each_engine<'a>(
        &'a self,
        cx: &'a Cx<'a>,
        f: impl AsyncFn(Io<'a>, &Engine<Sparse>) -> IoResult<()>,
    ) -> IoResult<()> {
        for part in &self.parts {
            let engine = part.engine.read().clone();
            if let Some(e) = engine {
                f(self.io(cx, part), &e).await?;
            }
        }
        Ok(())
    }
}

impl Driver for Vmdk {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.len
    }

    fn caps(&self, _cx: &Cx<'_>) -> Caps {
        Caps { fua: Support::Emulate, write_zeroes: Support::Native, discard: Support::Native }
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let (part, len) = self.part(off, len)?;
            let within = off - part.start;
            let (kind, len) = match part.storage {
                Storage::Flat(base) => (ExtentKind::Child { slot: part.slot, offset: base + within }, len),
                Storage::Sparse => {
                    let engine = self.engine(cx, part).await?;
                    let (place, n) = engine.lookup(self.io(cx, part), within, len).await?;
                    let kind = match place {
                        Place::Unallocated => ExtentKind::Unallocated,
                        Place::Zero => ExtentKind::Zero { offset: None },
                        Place::Data(offset) => ExtentKind::Child { slot: part.slot, offset },
                        Place::Packed { .. } => ExtentKind::Compressed,
                    };
                    (kind, n)
                }
            };
            if kind == ExtentKind::Unallocated {
                self.know_parent(cx)?;
            }
            Ok(Extent { len, kind, eof: off + len >= self.len })
        })
    }

    fn below(&self, off: u64) -> Below {
        match self.part(off, 1) {
            Ok((Part { storage: Storage::Flat(_), .. }, _)) => Below::Room,
            _ => Below::Data,
        }
    }

    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            let mut done = 0;
            while done < buf.len() {
                let at = off + done as u64;
                let (part, n) = self.part(at, (buf.len() - done) as u64)?;
                let piece = buf.slice(done..done + n as usize);
                let io = self.io(cx, part);
                match part.storage {
                    Storage::Flat(base) => io.read(base + (at - part.start), piece).await?,
                    Storage::Sparse => {
                        self.engine(cx, part).await?.read(io, at - part.start, piece).await?;
                    }
                }
                done += n as usize;
            }
            Ok(())
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.rename(cx).await?;
            let mut done = 0;
            while done < buf.len() {
                let at = off + done as u64;
                let (part, n) = self.part(at, (buf.len() - done) as u64)?;
                let piece = buf.slice(done..done + n as usize);
                let (io, within) = (self.io(cx, part), at - part.start);
                match part.storage {
                    Storage::Flat(base) => io.write(base + within, piece).await?,
                    Storage::Sparse => {
                        let engine = self.engine(cx, part).await?;
                        self.know_parent(cx)?;
                        match engine.map().compressed() {
                            true => self.write_stream(io, &engine, within, piece).await?,
                            false => engine.write(io, within, piece).await?,
                        }
                    }
                }
                done += n as usize;
            }
            Ok(())
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            if flags.contains(ZeroFlags::NO_FALLBACK) {
                return Err(Errno::NOTSUP);
            }
            self.rename(cx).await?;
            let mut done = 0;
            while done < len {
                let at = off + done;
                let (part, n) = self.part(at, len - done)?;
                let (io, within) = (self.io(cx, part), at - part.start);
                match part.storage {
                    // A hole would be shown: only where it is asked for.
                    Storage::Flat(_) if !flags.contains(ZeroFlags::MAY_UNMAP) => return Err(Errno::NOTSUP),
                    Storage::Flat(base) => io.write_zeroes(base + within, n, flags).await?,
                    Storage::Sparse => {
                        let engine = self.engine(cx, part).await?;
                        // What a stream has is there for good.
                        if engine.map().compressed() {
                            return Err(Errno::NOTSUP);
                        }
                        self.know_parent(cx)?;
                        engine.write_zeroes(io, within, n, flags).await?;
                    }
                }
                done += n;
            }
            Ok(())
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move {
            let mut done = 0;
            while done < len {
                let at = off + done;
                let (part, n) = self.part(at, len - done)?;
                let (io, within) = (self.io(cx, part), at - part.start);
                match part.storage {
                    Storage::Flat(base) => cx.child_discard(part.slot, base + within, n).await?,
                    Storage::Sparse => self.engine(cx, part).await?.discard(io, within, n).await?,
                }
                done += n;
            }
            Ok(())
        })
    }

    fn flush<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(self.each_engine(cx, async |io, e| e.flush(io).await))
    }

    fn compresses(&self, _cx: &Cx<'_>) -> bool {
        // Only streams are smaller for it; other grains are taken as they are, which users of the format rely on.
        self.parts.iter().all(|p| matches!(p.storage, Storage::Sparse))
    }

    fn stage<'a>(&'a self, cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            if next.flags.read_only || next.flags.inactive {
                let done = self.each_engine(cx, async |io, e| e.finish(io).await).await;
                done.map_err(|e| qerr!("Failed to write the metadata of '{}' back: {e}", next.node_name))?;
            } else if next.old_flags.inactive {
                return Err(QError::new("The image cannot be activated again"));
            }
            Ok(Box::new(block::driver::NothingStaged) as Box<dyn Staged>)
        })
    }

    fn activate<'a>(&'a self, cx: &'a Cx<'a>) -> CtlFuture<'a> {
        Box::pin(async move {
            for part in &self.parts {
                // Without its file it is only told about.
                if part.storage == Storage::Sparse && cx.has_child(part.slot) {
                    self.load(cx, part).await?;
                }
            }
            Ok(())
        })
    }

    fn close<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(self.each_engine(cx, async |io, e| e.finish(io).await))
    }

    fn check<'a>(
        &'a self,
        cx: &'a Cx<'a>,
        fix: Fix,
        log: &'a mut dyn FnMut(&str),
    ) -> CtlFuture<'a, Option<Report>> {
        Box::pin(async move {
            if fix != Fix::None {
                return Ok(None);
            }
            check::check(self, cx, log).await.map(Some)
        })
    }

    fn backing_hint(&self) -> Option<BackingHint> {
        let filename = self.desc.lock().parent.clone().filter(|p| !p.is_empty())?;
        Some(BackingHint { filename, format: Some("vmdk".into()) })
    }

    fn file_hints(&self) -> Vec<FileHint> {
        let listed = self.parts.iter().filter_map(|p| {
            let ChildSlot::Other(n) = p.slot else { return None };
            let metadata = if p.storage == Storage::Sparse { Role::METADATA } else { Role::empty() };
            let child = ChildOption { required: false, ..list_option("extents", n, Role::DATA | metadata) };
            Some(FileHint { child, filename: p.file.clone() })
        });
        listed.collect()
    }

    fn info(&self, cx: &Cx<'_>) -> DriverInfo {
        let mut extents = Vec::new();
        let mut clusters = Vec::new();
        for p in &self.parts {
            let engine = p.engine.read().clone();
            let grain = engine.as_ref().map(|e| e.map().header.grain * SECTOR);
            let compressed = engine.as_ref().is_some_and(|e| e.map().compressed());
            let child = cx.child(p.slot).ok();
            extents.push(VmdkExtentInfo {
                filename: child.and_then(|c| c.filename()).unwrap_or_else(|| p.file.clone()),
                format: p.kind.clone(),
                virtual_size: p.len as i64,
                cluster_size: grain.map(|g| g as i64),
                compressed: compressed.then_some(true),
            });
            clusters.push(grain);
        }
        let desc = self.desc.lock();
        let specific = ImageInfoSpecificVmdk {
            create_type: desc.create_type.clone().unwrap_or_default(),
            cid: i64::from(desc.cid),
            parent_cid: i64::from(desc.parent_cid),
            extents,
        };
        let same = clusters.windows(2).all(|w| w[0] == w[1]);
        DriverInfo {
            cluster_size: clusters.first().copied().flatten().filter(|_| same),
            dirty: Some(false),
            format_specific: Some(ImageInfoSpecific::Vmdk(specific)),
            ..DriverInfo::default()
        }
    }
}
