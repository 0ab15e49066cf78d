use crate::{Memory, Mmio, PAGE_SIZE, RamPage, Size};
use std::fmt;
use std::sync::Arc;

/// An access that nothing on the bus answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError {
    /// The guest physical address at which it failed.
    pub addr: u64,
    /// Whether it was a write.
    pub write: bool,
    /// Why.
    pub kind: BusErrorKind,
}

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusErrorKind {
    /// Nothing is mapped there.
    Unassigned,
    /// The device does not answer this width or direction there, or the access runs over its end.
    Refused,
    /// A DMA access to something that is not (writable) RAM.
    NotRam,
    /// The DMA handle was revoked.
    Revoked,
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = if self.write { "write to" } else { "read from" };
        let why = match self.kind {
            BusErrorKind::Unassigned => "nothing is mapped there",
            BusErrorKind::Refused => "the device does not take it",
            BusErrorKind::NotRam => "no RAM there",
            BusErrorKind::Revoked => "the handle was revoked",
        };
        write!(f, "{dir} {:#x} failed: {why}", self.addr)
    }
}

impl std::error::Error for BusError {}

/// What answers in a range of a [`FlatMap`].
#[derive(Clone)]
pub enum FlatKind {
    /// Memory; the range's first byte is at `off` of the block.
    Ram {
        /// The block.
        mem: Arc<Memory>,
        /// Offset of the range's first byte in the block.
        off: u64,
        /// Writes are dropped.
        read_only: bool,
        /// Writes go to these registers (at that offset for the range's first byte) and not to the memory.
        writes: Option<(Arc<dyn Mmio>, u64)>,
    },
    /// Registers; the range's first byte is at `off` of the region.
    Io {
        /// The device.
        dev: Arc<dyn Mmio>,
        /// Offset of the range's first byte in the device's region.
        off: u64,
    },
}

impl FlatKind {
    /// The same, `by` bytes further on.
    fn advanced(&self, by: u64) -> FlatKind {
        match self {
            FlatKind::Ram { mem, off, read_only, writes } => FlatKind::Ram {
                mem: mem.clone(),
                off: off + by,
                read_only: *read_only,
                writes: writes.as_ref().map(|(d, o)| (d.clone(), o + by)),
            },
            FlatKind::Io { dev, off } => FlatKind::Io { dev: dev.clone(), off: off + by },
        }
    }
}

/// A range of a [`FlatMap`]: addresses `start..=last`.
#[derive(Clone)]
pub struct FlatRange {
    /// The first address.
    pub start: u64,
    /// The last address (inclusive, so that the top of the address space can be said).
    pub last: u64,
    /// What answers there.
    pub kind: FlatKind,
}

/// An address space as seen at one moment: sorted disjoint ranges. Immutable.
#[derive(Clone, Default)]
pub struct FlatMap {
    ranges: Vec<FlatRange>,
}

impl FlatMap {
    /// The ranges in the order of their addresses.
    pub fn ranges(&self) -> &[FlatRange] {
        &self.ranges
    }

    /// Adds `kind` wherever in `start..=last` nothing is yet: the caller goes from what is in front to the back.
    pub(crate) fn add_behind(&mut self, start: u64, last: u64, kind: &FlatKind) {
        let mut at = start;
        let mut i = self.ranges.partition_point(|r| r.last < start);
        loop {
            // `at` is the first address not looked at; `i` the first range that ends at or behind it.
            let gap_last = match self.ranges.get(i) {
                Some(r) if r.start <= at => {
                    if r.last >= last {
                        return;
                    }
                    at = r.last + 1;
                    i += 1;
                    continue;
                }
                Some(r) => last.min(r.start - 1),
                None => last,
            };
            self.ranges.insert(i, FlatRange { start: at, last: gap_last, kind: kind.advanced(at - start) });
            if gap_last == last {
                return;
            }
            at = gap_last + 1;
            i += 1;
        }
    }

    /// The range that `gpa` lies in.
    #[inline]
    pub fn find(&self, gpa: u64) -> Option<&FlatRange> {
        let i = self.ranges.partition_point(|r| r.last < gpa);
        self.ranges.get(i).filter(|r| r.start <= gpa)
    }

    /// A vCPU's load of `size` bytes at `gpa`: RAM or registers.
    pub fn load(&self, gpa: u64, size: Size) -> Result<u64, BusError> {
        let n = size.bytes() as u64;
        let err = |kind| BusError { addr: gpa, write: false, kind };
        let r = self.find(gpa).ok_or(err(BusErrorKind::Unassigned))?;
        if r.last - gpa < n - 1 {
            return self.load_crossing(gpa, size);
        }
        let rel = gpa - r.start;
        match &r.kind {
            FlatKind::Ram { mem, off, .. } => Ok(match size {
                Size::B1 => mem.load::<u8>(off + rel).into(),
                Size::B2 => mem.load::<u16>(off + rel).into(),
                Size::B4 => mem.load::<u32>(off + rel).into(),
                Size::B8 => mem.load::<u64>(off + rel),
            }),
            FlatKind::Io { dev, off } => {
                if !dev.accepts(off + rel, size, false) {
                    return Err(err(BusErrorKind::Refused));
                }
                Ok(dev.read(off + rel, size) & size.mask())
            }
        }
    }

    /// A vCPU's store of `size` bytes at `gpa`: RAM or registers. A store to read-only memory is dropped.
    pub fn store(&self, gpa: u64, v: u64, size: Size) -> Result<(), BusError> {
        let n = size.bytes() as u64;
        let err = |kind| BusError { addr: gpa, write: true, kind };
        let r = self.find(gpa).ok_or(err(BusErrorKind::Unassigned))?;
        if r.last - gpa < n - 1 {
            return self.store_crossing(gpa, v, size);
        }
        let rel = gpa - r.start;
        match &r.kind {
            FlatKind::Ram { mem, off, read_only: false, writes: None } => match size {
                Size::B1 => mem.store(off + rel, v as u8),
                Size::B2 => mem.store(off + rel, v as u16),
                Size::B4 => mem.store(off + rel, v as u32),
                Size::B8 => mem.store(off + rel, v),
            },
            FlatKind::Ram { writes: None, .. } => {}
            FlatKind::Ram { writes: Some((dev, off)), .. } | FlatKind::Io { dev, off } => {
                if !dev.accepts(off + rel, size, true) {
                    return Err(err(BusErrorKind::Refused));
                }
                dev.write(off + rel, v & size.mask(), size);
            }
        }
        Ok(())
    }

    /// A load that begins in one range and ends in another: by bytes, and only where all of it is RAM.
    #[cold]
    fn load_crossing(&self, gpa: u64, size: Size) -> Result<u64, BusError> {
        let mut v = 0;
        for i in 0..size.bytes() as u64 {
            let err = |kind| BusError { addr: gpa, write: false, kind };
            let addr = gpa.checked_add(i).ok_or(err(BusErrorKind::Unassigned))?;
            let r = self.find(addr).ok_or(err(BusErrorKind::Unassigned))?;
            match &r.kind {
                FlatKind::Ram { mem, off, .. } => {
                    v |= u64::from(mem.load::<u8>(off + (addr - r.start))) << (8 * i);
                }
                FlatKind::Io { .. } => return Err(err(BusErrorKind::Refused)),
            }
        }
        Ok(v)
    }

    #[cold]
    fn store_crossing(&self, gpa: u64, v: u64, size: Size) -> Result<(), BusError> {
        // Two passes, so that a store that fails changes nothing.
        for commit in [false, true] {
            for i in 0..size.bytes() as u64 {
                let err = |kind| BusError { addr: gpa, write: true, kind };
                let addr = gpa.checked_add(i).ok_or(err(BusErrorKind::Unassigned))?;
                let r = self.find(addr).ok_or(err(BusErrorKind::Unassigned))?;
                match &r.kind {
                    FlatKind::Ram { mem, off, read_only, writes: None } => {
                        if commit && !read_only {
                            mem.store(off + (addr - r.start), (v >> (8 * i)) as u8);
                        }
                    }
                    _ => return Err(err(BusErrorKind::Refused)),
                }
            }
        }
        Ok(())
    }

    /// Calls `f(range, offset in the range, length, bytes done before)` for the pieces of `len` bytes at `gpa`.
    pub(crate) fn pieces(
        &self,
        gpa: u64,
        len: u64,
        write: bool,
        mut f: impl FnMut(&FlatRange, u64, u64, u64) -> Result<(), BusError>,
    ) -> Result<(), BusError> {
        let unassigned = |addr| BusError { addr, write, kind: BusErrorKind::Unassigned };
        let mut done = 0;
        while done < len {
            let addr = gpa.checked_add(done).ok_or(unassigned(gpa))?;
            let r = self.find(addr).ok_or(unassigned(addr))?;
            // The range may hold 2^64 bytes; `room - 1` always fits.
            let n = (len - done - 1).min(r.last - addr) + 1;
            f(r, addr - r.start, n, done)?;
            done += n;
        }
        Ok(())
    }

    /// The page of RAM that `gpa` lies in, and whether a vCPU may store to it directly. `None` where not all of
    /// the page is one piece of RAM.
    pub fn ram_page(&self, gpa: u64) -> Option<(RamPage, bool)> {
        let first = gpa & !(PAGE_SIZE as u64 - 1);
        let r = self.find(first)?;
        if r.last - first < PAGE_SIZE as u64 - 1 {
            return None;
        }
        match &r.kind {
            FlatKind::Ram { mem, off, read_only, writes } => {
                let at = off + (first - r.start);
                at.is_multiple_of(PAGE_SIZE as u64).then(|| (mem.page(at), !read_only && writes.is_none()))
            }
            FlatKind::Io { .. } => None,
        }
    }
}
