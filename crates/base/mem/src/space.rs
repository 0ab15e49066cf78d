use crate::{BusError, FlatKind, FlatMap, Memory, Mmio, RamPage, Size};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a region of one address space; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(u64);

/// Why a region cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The length is 0.
    Empty,
    /// It ends beyond the address space.
    Overflow,
    /// It ends beyond its memory block.
    OutOfBlock,
    /// There is no such container.
    NoContainer,
}

impl std::fmt::Display for MapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            MapError::Empty => "the region is empty",
            MapError::Overflow => "the region ends beyond the address space",
            MapError::OutOfBlock => "the region ends beyond its memory",
            MapError::NoContainer => "there is no such container",
        })
    }
}

impl std::error::Error for MapError {}

/// A guest physical address space: a tree of regions, published as a [`FlatMap`].
///
/// Regions may overlap: the higher priority is in front, at equal priority the later one. A container groups
/// regions, moves and clips them; its priority counts against its siblings. Every change publishes a whole new
/// map; [`AddressSpace::update`] makes several changes one. Any thread may call anything.
pub struct AddressSpace {
    name: Box<str>,
    tree: Mutex<Tree>,
    flat: ArcSwap<FlatMap>,
    generation: AtomicU64,
    listeners: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
}

#[derive(Default)]
struct Tree {
    next: u64,
    regions: BTreeMap<RegionId, Region>,
    /// Changes are being collected by `update`; publish at its end.
    held: bool,
    changed: bool,
}

struct Region {
    parent: Option<RegionId>,
    /// Relative to the parent.
    base: u64,
    len: u64,
    priority: i32,
    enabled: bool,
    name: Box<str>,
    what: What,
}

enum What {
    Container,
    Leaf(FlatKind),
    /// Memory that is read directly and written through registers; in register mode both go there.
    RomDevice {
        mem: Arc<Memory>,
        off: u64,
        dev: Arc<dyn Mmio>,
        direct: bool,
    },
}

impl AddressSpace {
    /// An empty address space.
    pub fn new(name: &str) -> Arc<AddressSpace> {
        Arc::new(AddressSpace {
            name: name.into(),
            tree: Mutex::default(),
            flat: ArcSwap::default(),
            generation: AtomicU64::new(1),
            listeners: Mutex::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Maps `len` bytes of `mem` from `off` at `base`; with `ro`, writes are dropped.
    ///
    /// # Errors
    /// A range that is empty or leaves the block or the address space.
    pub fn map_ram(
        &self,
        base: u64,
        mem: Arc<Memory>,
        off: u64,
        len: u64,
        ro: bool,
        priority: i32,
        name: &str,
    ) -> Result<RegionId, MapError> {
        self.map_ram_in(None, base, mem, off, len, ro, priority, name)
    }

    /// As [`AddressSpace::map_ram`], inside a container (`base` is relative to it).
    pub fn map_ram_in(
        &self,
        parent: Option<RegionId>,
        base: u64,
        mem: Arc<Memory>,
        off: u64,
        len: u64,
        ro: bool,
        priority: i32,
        name: &str,
    ) -> Result<RegionId, MapError> {
        if off > mem.len() || len > mem.len() - off {
            return Err(MapError::OutOfBlock);
        }
        let kind = FlatKind::Ram { mem, off, read_only: ro, writes: None };
        self.insert(parent, base, len, priority, name, What::Leaf(kind))
    }

    /// Maps a device's registers at `base`.
    ///
    /// # Errors
    /// A range that is empty or leaves the address space.
    pub fn map_io(
        &self,
        base: u64,
        len: u64,
        dev: Arc<dyn Mmio>,
        priority: i32,
    ) -> Result<RegionId, MapError> {
        self.map_io_in(None, base, len, dev, priority)
    }

    /// As [`AddressSpace::map_io`], inside a container (`base` is relative to it).
    pub fn map_io_in(
        &self,
        parent: Option<RegionId>,
        base: u64,
        len: u64,
        dev: Arc<dyn Mmio>,
        priority: i32,
    ) -> Result<RegionId, MapError> {
        let name = dev.name().to_owned();
        self.insert(parent, base, len, priority, &name, What::Leaf(FlatKind::Io { dev, off: 0 }))
    }

    /// Maps memory that is read directly while its writes go to `dev` (flash). [`AddressSpace::set_rom_mode`]
    /// sends reads there too.
    ///
    /// # Errors
    /// A range that is empty or leaves the block or the address space.
    pub fn map_rom_device(
        &self,
        base: u64,
        mem: Arc<Memory>,
        off: u64,
        len: u64,
        dev: Arc<dyn Mmio>,
        priority: i32,
    ) -> Result<RegionId, MapError> {
        if off > mem.len() || len > mem.len() - off {
            return Err(MapError::OutOfBlock);
        }
        let name = dev.name().to_owned();
        self.insert(None, base, len, priority, &name, What::RomDevice { mem, off, dev, direct: true })
    }

    /// Adds a container of `len` bytes at `base`.
    ///
    /// # Errors
    /// A range that is empty or leaves the address space.
    pub fn map_container(
        &self,
        parent: Option<RegionId>,
        base: u64,
        len: u64,
        priority: i32,
        name: &str,
    ) -> Result<RegionId, MapError> {
        self.insert(parent, base, len, priority, name, What::Container)
    }

    fn insert(
        &self,
        parent: Option<RegionId>,
        base: u64,
        len: u64,
        priority: i32,
        name: &str,
        what: What,
    ) -> Result<RegionId, MapError> {
        if len == 0 {
            return Err(MapError::Empty);
        }
        base.checked_add(len - 1).ok_or(MapError::Overflow)?;
        let mut tree = self.tree.lock();
        if let Some(p) = parent
            && !matches!(tree.regions.get(&p), Some(Region { what: What::Container, .. }))
        {
            return Err(MapError::NoContainer);
        }
        let id = RegionId(tree.next);
        tree.next += 1;
        let region = Region { parent, base, len, priority, enabled: true, name: name.into(), what };
        tree.regions.insert(id, region);
        self.publish(tree);
        Ok(id)
    }

    /// Removes a region, and what is inside a container. Nothing happens where it is gone already.
    pub fn unmap(&self, id: RegionId) {
        let mut tree = self.tree.lock();
        if tree.regions.remove(&id).is_none() {
            return;
        }
        let mut gone = vec![id];
        while let Some(parent) = gone.pop() {
            let kids: Vec<_> =
                tree.regions.iter().filter(|(_, r)| r.parent == Some(parent)).map(|(i, _)| *i).collect();
            for k in kids {
                tree.regions.remove(&k);
                gone.push(k);
            }
        }
        self.publish(tree);
    }

    /// Hides a region, or shows it again.
    pub fn set_enabled(&self, id: RegionId, enabled: bool) {
        let mut tree = self.tree.lock();
        if let Some(r) = tree.regions.get_mut(&id)
            && r.enabled != enabled
        {
            r.enabled = enabled;
            self.publish(tree);
        }
    }

    /// For a region of [`AddressSpace::map_rom_device`]: whether reads go to the memory (else to the registers).
    pub fn set_rom_mode(&self, id: RegionId, rom: bool) {
        let mut tree = self.tree.lock();
        if let Some(Region { what: What::RomDevice { direct, .. }, .. }) = tree.regions.get_mut(&id)
            && *direct != rom
        {
            *direct = rom;
            self.publish(tree);
        }
    }

    /// Makes all changes that `f` does visible at once. Do not nest.
    pub fn update<T>(&self, f: impl FnOnce(&AddressSpace) -> T) -> T {
        self.tree.lock().held = true;
        let out = f(self);
        let mut tree = self.tree.lock();
        tree.held = false;
        if std::mem::take(&mut tree.changed) {
            self.publish(tree);
        }
        out
    }

    /// Calls `f` after every published change, on the thread that made it: for holders of [`RamPage`]s.
    pub fn on_change(&self, f: Arc<dyn Fn() + Send + Sync>) {
        self.listeners.lock().push(f);
    }

    fn publish(&self, mut tree: parking_lot::MutexGuard<'_, Tree>) {
        if tree.held {
            tree.changed = true;
            return;
        }
        let mut flat = FlatMap::default();
        tree.render(None, 0, (0, u64::MAX), &mut flat);
        self.flat.store(Arc::new(flat));
        self.generation.fetch_add(1, Ordering::SeqCst);
        drop(tree);
        let listeners = self.listeners.lock().clone();
        for l in listeners {
            l();
        }
    }

    /// The map as it is now.
    pub fn map(&self) -> Arc<FlatMap> {
        self.flat.load_full()
    }

    pub(crate) fn guard(&self) -> arc_swap::Guard<Arc<FlatMap>> {
        self.flat.load()
    }

    /// Goes up with every published change, after the new map can be seen.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Reads bytes, by words from registers: for debuggers and loaders.
    ///
    /// # Errors
    /// Where a byte of the range is not mapped or a device refuses; `dst` may have been written in part.
    pub fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), BusError> {
        let flat = self.guard();
        flat.pieces(gpa, dst.len() as u64, false, |r, rel, n, done| {
            let dst = &mut dst[done as usize..(done + n) as usize];
            match &r.kind {
                FlatKind::Ram { mem, off, .. } => mem.read(off + rel, dst),
                FlatKind::Io { .. } => {
                    for (at, size) in accesses(r.start + rel, n) {
                        let v = flat.load(at, size)?.to_le_bytes();
                        let i = (at - r.start - rel) as usize;
                        dst[i..i + size.bytes()].copy_from_slice(&v[..size.bytes()]);
                    }
                }
            }
            Ok(())
        })
    }

    /// Writes bytes, by words to registers; what goes to read-only memory is dropped.
    ///
    /// # Errors
    /// Where a byte of the range is not mapped or a device refuses; a part may have been written.
    pub fn write(&self, gpa: u64, src: &[u8]) -> Result<(), BusError> {
        self.write_as(gpa, src, false)
    }

    /// Writes bytes to memory, read-only or not: for loaders, before the guest runs.
    ///
    /// # Errors
    /// Where a byte of the range is not mapped or a device refuses; a part may have been written.
    pub fn write_rom(&self, gpa: u64, src: &[u8]) -> Result<(), BusError> {
        self.write_as(gpa, src, true)
    }

    fn write_as(&self, gpa: u64, src: &[u8], rom: bool) -> Result<(), BusError> {
        let flat = self.guard();
        flat.pieces(gpa, src.len() as u64, true, |r, rel, n, done| {
            let src = &src[done as usize..(done + n) as usize];
            match &r.kind {
                FlatKind::Ram { mem, off, read_only, writes } if rom || (!read_only && writes.is_none()) => {
                    mem.write(off + rel, src);
                }
                FlatKind::Ram { writes: None, .. } => {}
                _ => {
                    for (at, size) in accesses(r.start + rel, n) {
                        let i = (at - r.start - rel) as usize;
                        let mut v = [0; 8];
                        v[..size.bytes()].copy_from_slice(&src[i..i + size.bytes()]);
                        flat.store(at, u64::from_le_bytes(v), size)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// A vCPU's load of RAM or registers.
    ///
    /// # Errors
    /// Where nothing answers.
    #[inline]
    pub fn load(&self, gpa: u64, size: Size) -> Result<u64, BusError> {
        self.guard().load(gpa, size)
    }

    /// A vCPU's store to RAM or registers; what goes to read-only memory is dropped.
    ///
    /// # Errors
    /// Where nothing answers.
    #[inline]
    pub fn store(&self, gpa: u64, v: u64, size: Size) -> Result<(), BusError> {
        self.guard().store(gpa, v, size)
    }

    /// The page of RAM around `gpa` and whether it may be written directly; `None` for registers, a hole, or a
    /// page that is not one piece of RAM ([`AddressSpace::load`] serves all of these). Valid while
    /// [`AddressSpace::generation`], taken before, stays the same.
    pub fn ram_page(&self, gpa: u64) -> Option<(RamPage, bool)> {
        self.guard().ram_page(gpa)
    }

    /// The tree as a drawing, a region a line.
    pub fn mtree(&self) -> String {
        let tree = self.tree.lock();
        let mut out =
            format!("address-space: {}\n  {:016x}-{:016x} (prio 0, i/o): system\n", self.name, 0, u64::MAX);
        tree.draw(None, 0, 2, &mut out);
        out
    }
}

/// The register accesses, at most four bytes wide and aligned, that make up `len` bytes at `gpa`.
fn accesses(gpa: u64, len: u64) -> impl Iterator<Item = (u64, Size)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (at, left) = (gpa + done, len - done);
        let size = [Size::B4, Size::B2, Size::B1]
            .into_iter()
            .find(|s| at.is_multiple_of(s.bytes() as u64) && left >= s.bytes() as u64)?;
        done += size.bytes() as u64;
        Some((at, size))
    })
}

impl Tree {
    /// The children of `parent`, what is in front first.
    fn children(&self, parent: Option<RegionId>) -> Vec<(RegionId, &Region)> {
        let mut v: Vec<_> =
            self.regions.iter().filter(|(_, r)| r.parent == parent).map(|(i, r)| (*i, r)).collect();
        v.sort_by_key(|(id, r)| (std::cmp::Reverse(r.priority), std::cmp::Reverse(*id)));
        v
    }

    /// Adds the regions inside `parent`, whose address 0 is at `base`, as far as they lie in `clip`.
    fn render(&self, parent: Option<RegionId>, base: u64, clip: (u64, u64), flat: &mut FlatMap) {
        for (id, r) in self.children(parent) {
            // A region of a container may start beyond the address space; then nothing of it shows.
            let Some(start) = base.checked_add(r.base).filter(|_| r.enabled) else { continue };
            let last = start.saturating_add(r.len - 1);
            let (lo, hi) = (start.max(clip.0), last.min(clip.1));
            if lo > hi {
                continue;
            }
            let skip = lo - start;
            let kind = match &r.what {
                What::Container => {
                    self.render(Some(id), start, (lo, hi), flat);
                    continue;
                }
                What::Leaf(FlatKind::Ram { mem, off, read_only, .. }) => {
                    FlatKind::Ram { mem: mem.clone(), off: off + skip, read_only: *read_only, writes: None }
                }
                What::Leaf(FlatKind::Io { dev, off }) => FlatKind::Io { dev: dev.clone(), off: off + skip },
                What::RomDevice { mem, off, dev, direct: true } => FlatKind::Ram {
                    mem: mem.clone(),
                    off: off + skip,
                    read_only: true,
                    writes: Some((dev.clone(), skip)),
                },
                What::RomDevice { dev, direct: false, .. } => FlatKind::Io { dev: dev.clone(), off: skip },
            };
            flat.add_behind(lo, hi, &kind);
        }
    }

    fn draw(&self, parent: Option<RegionId>, base: u64, depth: usize, out: &mut String) {
        let mut kids = self.children(parent);
        kids.sort_by_key(|(_, r)| (r.base, std::cmp::Reverse(r.priority)));
        for (id, r) in kids {
            let start = base.wrapping_add(r.base);
            let what = match &r.what {
                What::Container | What::Leaf(FlatKind::Io { .. }) => "i/o",
                What::Leaf(FlatKind::Ram { read_only: false, .. }) => "ram",
                What::Leaf(FlatKind::Ram { .. }) => "rom",
                What::RomDevice { .. } => "romd",
            };
            let off = if r.enabled { "" } else { " [disabled]" };
            let last = start.wrapping_add(r.len - 1);
            let _ = writeln!(
                out,
                "{:w$}{start:016x}-{last:016x} (prio {}, {what}): {}{off}",
                "",
                r.priority,
                r.name,
                w = depth * 2
            );
            self.draw(Some(id), start, depth + 1, out);
        }
    }
}
