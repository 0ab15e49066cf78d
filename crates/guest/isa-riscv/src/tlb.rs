//! The software TLB: direct-mapped, one compare in the fast path.
//!
//! Each context (an address space with a class of access: mode, SUM, MXR) has tables of its own, so that a context switch or a
//! change of mode only changes which tables are the present ones, and an entry's tag is the page's address alone. Where the
//! low bits of an access's address are compared too, an unaligned access misses.

use crate::spec::paging;
use mem::{Memory, RamPage};

/// Entries of each table.
pub(crate) const ENTRIES: usize = 512;
const SLOTS: usize = 64;
/// No access has this for a tag: the bits between the page's and those of the alignment are set.
const EMPTY: u64 = u64::MAX;
pub(crate) const PAGE_MASK: u64 = !0xfff;
/// Contexts whose tables are kept.
const CONTEXTS: usize = 24;
/// Flushing more pages than this empties tables instead.
const MANY: u64 = 64;

/// Classes of access; the third bit is MXR.
pub(crate) mod class {
    pub(crate) const USER: u64 = 0;
    pub(crate) const SUPER: u64 = 1;
    pub(crate) const SUPER_SUM: u64 = 2;
    pub(crate) const MACHINE: u64 = 3;
    pub(crate) const MXR: u64 = 4;
}

/// A context: the slot of an address space, and a class of access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Context(u16);

impl Context {
    fn new(slot: usize, class: u64) -> Context {
        Context((slot as u16) << 3 | class as u16)
    }

    fn slot(self) -> usize {
        usize::from(self.0 >> 3)
    }

    /// A number that tells contexts apart, below 4096.
    pub(crate) fn id(self) -> u64 {
        self.0.into()
    }
}

/// The index of an address's entry.
#[inline(always)]
fn index(addr: u64) -> usize {
    (addr >> 12) as usize & (ENTRIES - 1)
}

/// A page of memory, as native code sees it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    /// Its virtual address.
    tag: u64,
    /// What added to a virtual address of the page gives the host address.
    addend: u64,
}

const NO_ENTRY: Entry = Entry { tag: EMPTY, addend: 0 };

/// What a context knows of some kind of access.
trait Table {
    fn new(dummy: &RamPage) -> Self;
    /// Forgets everything.
    fn clear(&mut self);
    /// Forgets the page at an address.
    fn clear_page(&mut self, page: u64);
}

/// Entries for loads, and for stores. Native code reads the first two arrays.
#[repr(C)]
pub(crate) struct DataTable {
    read: [Entry; ENTRIES],
    write: [Entry; ENTRIES],
    /// The memory that entries lead to.
    read_pages: Vec<RamPage>,
    write_pages: Vec<RamPage>,
    used: bool,
}

impl Table for DataTable {
    fn new(dummy: &RamPage) -> DataTable {
        DataTable {
            read: [NO_ENTRY; ENTRIES],
            write: [NO_ENTRY; ENTRIES],
            read_pages: vec![dummy.clone(); ENTRIES],
            write_pages: vec![dummy.clone(); ENTRIES],
            used: false,
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.used) {
            self.read.fill(NO_ENTRY);
            self.write.fill(NO_ENTRY);
        }
    }

    fn clear_page(&mut self, page: u64) {
        for table in [&mut self.read, &mut self.write] {
            let e = &mut table[index(page)];
            if e.tag == page {
                *e = NO_ENTRY;
            }
        }
    }
}

/// Where native code finds what it needs; bytes.
pub(crate) mod layout {
    use super::{DataTable, Entry, Pool, Tlb};
    use std::mem::offset_of;

    pub(crate) const ENTRY: usize = size_of::<Entry>();
    pub(crate) const ENTRY_TAG: usize = offset_of!(Entry, tag);
    pub(crate) const ENTRY_ADDEND: usize = offset_of!(Entry, addend);
    /// A pointer to the present tables, in which those for loads and for stores are.
    pub(crate) const TABLES: usize = offset_of!(Tlb, data) + offset_of!(Pool<DataTable>, now);
    pub(crate) const READ: usize = offset_of!(DataTable, read);
    pub(crate) const WRITE: usize = offset_of!(DataTable, write);
}

/// For instruction fetches: indexes into the code cache.
pub(crate) struct FetchTable {
    entries: [(u64, u32); ENTRIES],
    used: bool,
}

impl Table for FetchTable {
    fn new(_: &RamPage) -> FetchTable {
        FetchTable { entries: [(EMPTY, 0); ENTRIES], used: false }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.used) {
            self.entries.fill((EMPTY, 0));
        }
    }

    fn clear_page(&mut self, page: u64) {
        let e = &mut self.entries[index(page)];
        if e.0 == page {
            e.0 = EMPTY;
        }
    }
}

/// The tables of contexts, one of which is the present one.
struct Pool<T> {
    now: Box<T>,
    context: Context,
    others: Vec<(Context, Box<T>)>,
    /// Which of the others is the next to give up its tables.
    victim: usize,
}

impl<T: Table> Pool<T> {
    fn new(dummy: &RamPage) -> Pool<T> {
        Pool { now: Box::new(T::new(dummy)), context: Context::default(), others: Vec::new(), victim: 0 }
    }

    /// Makes a context the present one.
    fn select(&mut self, context: Context, dummy: &RamPage) {
        if self.context == context {
            return;
        }
        let n = match self.others.iter().position(|(c, _)| *c == context) {
            Some(n) => n,
            None if self.others.len() < CONTEXTS - 1 => {
                self.others.push((context, Box::new(T::new(dummy))));
                self.others.len() - 1
            }
            None => {
                self.victim = (self.victim + 1) % self.others.len();
                self.others[self.victim].1.clear();
                self.victim
            }
        };
        let other = &mut self.others[n];
        std::mem::swap(&mut self.now, &mut other.1);
        other.0 = std::mem::replace(&mut self.context, context);
    }

    /// The tables of address spaces whose slots are in the set.
    fn of_slots(&mut self, slots: u64) -> impl Iterator<Item = &mut T> {
        let now = (self.context, &mut self.now);
        let all = std::iter::once(now).chain(self.others.iter_mut().map(|(c, t)| (*c, t)));
        all.filter(move |(c, _)| slots >> c.slot() & 1 != 0).map(|(_, t)| &mut **t)
    }

    /// Forgets pages (all: `None`) of the address spaces whose slots are in the set.
    fn flush(&mut self, slots: u64, pages: Option<(u64, u64)>) {
        for table in self.of_slots(slots) {
            match pages {
                Some((first, last)) => {
                    (first..=last).step_by(0x1000).for_each(|page| table.clear_page(page));
                }
                None => table.clear(),
            }
        }
    }
}

/// The tables of one hart.
pub(crate) struct Tlb {
    data: Pool<DataTable>,
    fetch: Pool<FetchTable>,
    /// The `satp` that each slot stands for.
    spaces: [Option<u64>; SLOTS],
    next: usize,
    current: usize,
    dummy: RamPage,
}

impl Tlb {
    pub(crate) fn new() -> Tlb {
        let dummy = Memory::buffer(4096, 4096).page(0);
        let mut tlb = Tlb {
            data: Pool::new(&dummy),
            fetch: Pool::new(&dummy),
            spaces: [None; SLOTS],
            next: 0,
            current: 0,
            dummy,
        };
        let _ = tlb.select(0);
        tlb
    }

    /// Makes `satp` the current address space; whether contexts mean something else now than they did. Then
    /// [`Tlb::enter`] is to be called.
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
            self.data.flush(1 << slot, None);
            self.fetch.flush(1 << slot, None);
        }
        self.current = slot;
        another
    }

    /// Makes classes of access in the current address space the present ones: the context of fetches.
    pub(crate) fn enter(&mut self, fetch: u64, data: u64) -> Context {
        self.data.select(Context::new(self.current, data), &self.dummy);
        let context = Context::new(self.current, fetch);
        self.fetch.select(context, &self.dummy);
        context
    }

    /// The page for an aligned load of `len` bytes.
    #[inline(always)]
    pub(crate) fn read(&self, addr: u64, len: u64) -> Option<&RamPage> {
        let (t, i) = (&*self.data.now, index(addr));
        (t.read[i].tag == addr & (PAGE_MASK | (len - 1))).then(|| &t.read_pages[i])
    }

    /// The page for an aligned store.
    #[inline(always)]
    pub(crate) fn write(&self, addr: u64, len: u64) -> Option<&RamPage> {
        let (t, i) = (&*self.data.now, index(addr));
        (t.write[i].tag == addr & (PAGE_MASK | (len - 1))).then(|| &t.write_pages[i])
    }

    /// Remembers the page of an address for loads, or for stores.
    pub(crate) fn set_data(&mut self, addr: u64, page: &RamPage, write: bool) {
        let (t, i) = (&mut *self.data.now, index(addr));
        let tag = addr & PAGE_MASK;
        let entry = Entry { tag, addend: (page.host_addr() as u64).wrapping_sub(tag) };
        if write {
            (t.write[i], t.write_pages[i]) = (entry, page.clone());
        } else {
            (t.read[i], t.read_pages[i]) = (entry, page.clone());
        }
        t.used = true;
    }

    /// The index of the code page for a fetch.
    #[inline(always)]
    pub(crate) fn fetch(&self, pc: u64) -> Option<u32> {
        let (tag, code) = self.fetch.now.entries[index(pc)];
        (tag == pc & PAGE_MASK).then_some(code)
    }

    /// Remembers the index of the code page for fetches.
    pub(crate) fn set_fetch(&mut self, pc: u64, code: u32) {
        self.fetch.now.entries[index(pc)] = (pc & PAGE_MASK, code);
        self.fetch.now.used = true;
    }

    /// Forgets everything, and lets go of all memory.
    pub(crate) fn flush(&mut self) {
        self.data.flush(u64::MAX, None);
        for t in self.data.of_slots(u64::MAX) {
            t.read_pages.fill(self.dummy.clone());
            t.write_pages.fill(self.dummy.clone());
        }
        self.flush_fetch();
    }

    /// Forgets all translations for fetches.
    pub(crate) fn flush_fetch(&mut self) {
        self.fetch.flush(u64::MAX, None);
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
        let pages = range.map(|(start, len)| pages_of(start, len));
        let pages = pages.filter(|(first, last)| last - first < MANY << 12);
        self.data.flush(slots, pages);
        self.fetch.flush(slots, pages);
    }
}

/// The first and the last page that a range touches.
pub(crate) fn pages_of(start: u64, len: u64) -> (u64, u64) {
    (start & PAGE_MASK, start.saturating_add(len.saturating_sub(1)) & PAGE_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_found_before_it_was_entered() {
        let tlb = Tlb::new();
        for len in [1, 2, 4, 8] {
            for addr in (0..16).chain(u64::MAX - 16..=u64::MAX) {
                assert!(tlb.read(addr, len).is_none() && tlb.write(addr, len).is_none(), "{addr:x} {len}");
            }
        }
    }

    #[test]
    fn contexts_keep_their_pages_apart_and_flushes_find_them() {
        let mut tlb = Tlb::new();
        let ram = Memory::buffer(0x2000, 4096);
        let (one, two) = (ram.page(0), ram.page(0x1000));
        let (a, b) = (1 << 44, 2 << 44);
        let enter = |tlb: &mut Tlb, satp, class| {
            let _ = tlb.select(satp);
            tlb.enter(class, class);
        };
        enter(&mut tlb, a, class::USER);
        tlb.set_data(0x5000, &one, false);
        tlb.set_fetch(0x5000, 7);
        enter(&mut tlb, a, class::SUPER);
        assert!(tlb.read(0x5000, 8).is_none() && tlb.fetch(0x5000).is_none());
        tlb.set_data(0x5000, &two, true);
        enter(&mut tlb, b, class::USER);
        tlb.set_data(0x5000, &two, false);
        tlb.set_data(0x6000, &two, false);
        // The same pages of another address space, and another page.
        tlb.flush_range(Some((0x5ff8, 16)), Some(3));
        tlb.flush_range(Some((0x7000, 1)), None);
        assert!(tlb.read(0x5000, 8).is_some() && tlb.read(0x6000, 8).is_some(), "none of it was named");
        enter(&mut tlb, a, class::USER);
        assert_eq!(tlb.read(0x5000, 8).map(RamPage::host_addr), Some(one.host_addr()));
        assert_eq!((tlb.read(0x5001, 2).is_some(), tlb.fetch(0x5ffe)), (false, Some(7)));
        tlb.flush_range(Some((0x5ff8, 16)), None);
        assert!(tlb.read(0x5000, 8).is_none() && tlb.fetch(0x5000).is_none());
        enter(&mut tlb, a, class::SUPER);
        assert!(tlb.write(0x5000, 8).is_none());
        enter(&mut tlb, b, class::USER);
        assert!(tlb.read(0x5000, 8).is_none() && tlb.read(0x6000, 8).is_none());
    }

    #[test]
    fn more_contexts_than_there_are_tables_for() {
        let mut tlb = Tlb::new();
        let ram = Memory::buffer(0x1000, 4096);
        for n in 0..2 * CONTEXTS as u64 {
            let _ = tlb.select(n << 44);
            tlb.enter(class::USER, class::USER);
            assert!(tlb.read(0x1000, 1).is_none());
            tlb.set_data(0x1000, &ram.page(0), false);
        }
        let _ = tlb.select((2 * CONTEXTS as u64 - 2) << 44);
        tlb.enter(class::USER, class::USER);
        assert!(tlb.read(0x1000, 1).is_some(), "the one before the last is kept");
    }
}
