//! The software TLB: direct-mapped, one compare in the fast path.
//!
//! An entry's tag is the page's virtual address with, in its low bits, *where* the translation holds: the
//! address space's slot and the class of the access (mode, SUM, MXR). A context switch or a change of mode
//! only changes what is compared with. The lowest three bits of a tag are zero, and an access ORs the low
//! bits of its address in, so that an unaligned access misses and takes the slow path.

use crate::spec::paging;
use mem::{Memory, RamPage};

/// Entries of each of the three tables.
pub(crate) const ENTRIES: usize = 512;
const SLOTS: usize = 64;
/// Never equal to what an access compares with: class 7 is not used.
const EMPTY: u64 = 0xfff;
pub(crate) const PAGE_MASK: u64 = !0xfff;

/// Classes of access; the third bit is MXR.
pub(crate) mod class {
    pub(crate) const USER: u64 = 0;
    pub(crate) const SUPER: u64 = 1;
    pub(crate) const SUPER_SUM: u64 = 2;
    pub(crate) const MACHINE: u64 = 3;
    pub(crate) const MXR: u64 = 4;
}

/// What the tags of the current context have in their low bits, and where its entries start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Context {
    tag: u64,
    mix: u64,
}

impl Context {
    fn new(slot: usize, class: u64) -> Context {
        let id = (slot as u64) << 3 | class;
        Context { tag: id << 3, mix: (slot as u64).wrapping_mul(29) ^ class.wrapping_mul(173) }
    }

    /// The index of an address's entry.
    #[inline(always)]
    pub(crate) fn index(self, addr: u64) -> usize {
        ((addr >> 12) ^ self.mix) as usize & (ENTRIES - 1)
    }

    /// A number that tells contexts apart, below 4096.
    pub(crate) fn id(self) -> u64 {
        self.tag
    }

    /// What the tag of the entry for an aligned access of `size` bytes at `addr` is.
    #[inline(always)]
    pub(crate) fn tag(self, addr: u64, size: u64) -> u64 {
        addr & (PAGE_MASK | (size - 1)) | self.tag
    }
}

/// An entry for loads or stores. Native code reads the first two fields.
#[repr(C)]
pub(crate) struct DataEntry {
    pub(crate) tag: u64,
    /// What added to a virtual address of the page gives the host address.
    addend: u64,
    pub(crate) page: RamPage,
}

impl DataEntry {
    fn empty(dummy: &RamPage) -> DataEntry {
        DataEntry { tag: EMPTY, addend: 0, page: dummy.clone() }
    }

    /// Makes it the entry of the page at `addr` in context `cx`.
    pub(crate) fn set(&mut self, cx: Context, addr: u64, page: &RamPage) {
        self.tag = cx.tag(addr, 1);
        self.addend = (page.host_addr() as u64).wrapping_sub(addr & PAGE_MASK);
        self.page = page.clone();
    }
}

/// Where native code finds what it needs of an entry, of a [`Context`] and of the tables; bytes.
pub(crate) mod layout {
    use super::{Context, DataEntry, Tlb};
    use std::mem::offset_of;

    pub(crate) const ENTRY: usize = size_of::<DataEntry>();
    pub(crate) const ENTRY_TAG: usize = offset_of!(DataEntry, tag);
    pub(crate) const ENTRY_ADDEND: usize = offset_of!(DataEntry, addend);
    pub(crate) const CONTEXT_TAG: usize = offset_of!(Context, tag);
    pub(crate) const CONTEXT_MIX: usize = offset_of!(Context, mix);
    pub(crate) const READ: usize = offset_of!(Tlb, read);
    pub(crate) const WRITE: usize = offset_of!(Tlb, write);
}

/// An entry for instruction fetches: an index into the code cache.
#[derive(Clone, Copy)]
pub(crate) struct FetchEntry {
    pub(crate) tag: u64,
    pub(crate) code: u32,
}

/// The tables of one hart.
pub(crate) struct Tlb {
    pub(crate) read: Box<[DataEntry; ENTRIES]>,
    pub(crate) write: Box<[DataEntry; ENTRIES]>,
    pub(crate) fetch: Box<[FetchEntry; ENTRIES]>,
    /// The `satp` that each slot stands for.
    spaces: [Option<u64>; SLOTS],
    next: usize,
    current: usize,
    dummy: RamPage,
}

impl Tlb {
    pub(crate) fn new() -> Tlb {
        let dummy = Memory::buffer(4096, 4096).page(0);
        let data = || {
            let v: Vec<DataEntry> = (0..ENTRIES).map(|_| DataEntry::empty(&dummy)).collect();
            let v: Result<Box<[DataEntry; ENTRIES]>, _> = v.into_boxed_slice().try_into();
            v.unwrap_or_else(|_| unreachable!("collected as many"))
        };
        let mut tlb = Tlb {
            read: data(),
            write: data(),
            fetch: Box::new([FetchEntry { tag: EMPTY, code: 0 }; ENTRIES]),
            spaces: [None; SLOTS],
            next: 0,
            current: 0,
            dummy,
        };
        let _ = tlb.select(0);
        tlb
    }

    /// Makes `satp` the current address space; whether contexts mean something else now than they did.
    #[must_use]
    pub(crate) fn select(&mut self, satp: u64) -> bool {
        if self.spaces[self.current] == Some(satp) {
            return false;
        }
        if let Some(slot) = self.spaces.iter().position(|s| *s == Some(satp)) {
            self.current = slot;
            return false;
        }
        let slot = self.next;
        self.next = (self.next + 1) % SLOTS;
        let another = self.spaces[slot].replace(satp).is_some();
        if another {
            self.retain(|tag| tag >> 6 & (SLOTS as u64 - 1) != slot as u64);
        }
        self.current = slot;
        another
    }

    /// The context of accesses of class `class` in the current address space.
    pub(crate) fn context(&self, class: u64) -> Context {
        Context::new(self.current, class)
    }

    fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        for e in self.read.iter_mut().chain(self.write.iter_mut()) {
            if e.tag != EMPTY && !keep(e.tag) {
                *e = DataEntry::empty(&self.dummy);
            }
        }
        for e in self.fetch.iter_mut() {
            if e.tag != EMPTY && !keep(e.tag) {
                e.tag = EMPTY;
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        self.retain(|_| false);
    }

    /// Forgets all translations for fetches.
    pub(crate) fn flush_fetch(&mut self) {
        for e in self.fetch.iter_mut() {
            e.tag = EMPTY;
        }
    }

    /// Forgets what `sfence.vma` names: pages that overlap `start..start + len` (all: `None`) of the address
    /// space `asid` (all: `None`).
    ///
    /// A translation made from a superpage counts with its own 4 KiB only, so the caller names the whole of a
    /// superpage where one may have been.
    pub(crate) fn flush_range(&mut self, range: Option<(u64, u64)>, asid: Option<u64>) {
        let mut slots = 0u64;
        for (i, s) in self.spaces.iter().enumerate() {
            let Some(satp) = s else { continue };
            let its = (satp & paging::SATP_ASID) >> paging::SATP_ASID_SHIFT;
            if asid.is_none_or(|a| a == its) {
                slots |= 1 << i;
            }
        }
        match range {
            None if asid.is_none() => self.flush(),
            None => self.retain(|tag| slots >> (tag >> 6 & 63) & 1 == 0),
            Some((start, len)) => {
                let first = start & PAGE_MASK;
                let last = start.saturating_add(len.saturating_sub(1)) & PAGE_MASK;
                self.retain(|tag| {
                    let page = tag & PAGE_MASK;
                    page < first || page > last || slots >> (tag >> 6 & 63) & 1 == 0
                });
            }
        }
    }
}
