//! Address translation: "Supervisor-Level ISA", sections on Sv39 and Sv48.

use crate::cpu::{Cpu, Stop};
use crate::insn::Ext;
use crate::pmp::Access;
use crate::spec::{Mode, cause, envcfg, mstatus, paging};
use crate::tlb::{class, pages_of};
use mem::{RamPage, Size};

/// Entries of the cache of physical pages.
const PHYS: usize = 256;

/// Why there is no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The page tables say no.
    Page,
    /// Physical memory protection says no, or nothing is there.
    Access,
}

impl Fault {
    /// The exception code.
    pub(crate) fn cause(self, access: Access) -> u64 {
        match (self, access) {
            (Fault::Page, Access::Read) => cause::LOAD_PAGE,
            (Fault::Page, Access::Write) => cause::STORE_PAGE,
            (Fault::Page, Access::Fetch) => cause::FETCH_PAGE,
            (Fault::Access, Access::Read) => cause::LOAD_ACCESS,
            (Fault::Access, Access::Write) => cause::STORE_ACCESS,
            (Fault::Access, Access::Fetch) => cause::FETCH_ACCESS,
        }
    }
}

/// Recently used physical pages, so that page walks and TLB fills need not look at the memory map.
pub(crate) struct PhysCache {
    pages: Vec<Option<(u64, RamPage, bool)>>,
}

impl PhysCache {
    pub(crate) fn new() -> PhysCache {
        PhysCache { pages: vec![None; PHYS] }
    }

    pub(crate) fn flush(&mut self) {
        self.pages.fill(None);
    }
}

impl Cpu {
    /// The mode of loads and stores, which MPRV changes in machine mode.
    pub(crate) fn data_mode(&self) -> Mode {
        if self.mode == Mode::M && self.mstatus & mstatus::MPRV != 0 {
            Mode::from_bits(self.mstatus >> mstatus::MPP_SHIFT).unwrap_or(Mode::U)
        } else {
            self.mode
        }
    }

    /// Brings the TLB contexts up to date; to be called when the mode, SUM, MXR, MPRV, MPP or `satp` changed.
    pub(crate) fn update_context(&mut self) {
        if self.tlb.select(self.satp) {
            self.jumps.forget();
        }
        let fetch = match self.mode {
            Mode::U => class::USER,
            Mode::S => class::SUPER,
            Mode::M => class::MACHINE,
        };
        let mxr = if self.mstatus & mstatus::MXR != 0 { class::MXR } else { 0 };
        let data = match self.data_mode() {
            Mode::U => class::USER | mxr,
            Mode::S if self.mstatus & mstatus::SUM != 0 => class::SUPER_SUM | mxr,
            Mode::S => class::SUPER | mxr,
            Mode::M => class::MACHINE,
        };
        let context = self.tlb.enter(fetch, data);
        self.jumps.select(context.id());
    }

    /// The RAM page at a physical address and whether it may be written; `None` for registers and holes.
    pub(crate) fn phys_page(&mut self, pa: u64) -> Option<(&RamPage, bool)> {
        let page = pa >> 12;
        let slot = &mut self.phys.pages[page as usize & (PHYS - 1)];
        if !matches!(slot, Some((p, ..)) if *p == page) {
            let (ram, writable) = self.mem.ram_page(pa)?;
            *slot = Some((page, ram, writable));
        }
        slot.as_ref().map(|(_, ram, w)| (ram, *w))
    }

    /// Translates a virtual address for an access in `mode`; sets the accessed and dirty bits.
    pub(crate) fn translate(&mut self, addr: u64, access: Access, mode: Mode) -> Result<u64, Fault> {
        if mode == Mode::M {
            return Ok(addr);
        }
        let levels = match self.satp >> paging::SATP_MODE_SHIFT {
            paging::SV39 => 3,
            paging::SV48 => 4,
            _ => return Ok(addr),
        };
        let unused = 64 - (12 + 9 * levels);
        if ((addr << unused) as i64 >> unused) as u64 != addr {
            return Err(Fault::Page);
        }
        'walk: loop {
            let mut table = (self.satp & paging::SATP_PPN) << 12;
            for level in (0..levels as u64).rev() {
                let at = table + ((addr >> (12 + 9 * level)) & 0x1ff) * 8;
                let pte = self.read_pte(at)?;
                if pte & paging::V == 0
                    || pte & (paging::R | paging::W) == paging::W
                    || pte & paging::RESERVED != 0
                    || !self.allows_type(pte)
                {
                    return Err(Fault::Page);
                }
                let base = (pte >> paging::PPN_SHIFT & paging::SATP_PPN) << 12;
                if pte & (paging::R | paging::X) == 0 {
                    if pte & (paging::A | paging::D | paging::U | paging::PBMT | paging::N) != 0 {
                        return Err(Fault::Page); // reserved in a pointer
                    }
                    table = base;
                    continue;
                }
                let napot = pte & paging::N != 0;
                let ok = level == 0
                    && self.opts.ext.has(Ext::SVNAPOT)
                    && base >> 12 & paging::NAPOT_MASK == paging::NAPOT_64K;
                if napot && !ok {
                    return Err(Fault::Page);
                }
                let (base, span) = if napot {
                    (base & !(paging::NAPOT_MASK << 12), (paging::NAPOT_MASK << 12) | 0xfff)
                } else {
                    (base, (1u64 << (12 + 9 * level)) - 1)
                };
                if base & span != 0 || !self.permits(pte, access, mode) {
                    return Err(Fault::Page);
                }
                let want = pte | paging::A | if access == Access::Write { paging::D } else { 0 };
                if want != pte && !self.updates_pte() {
                    return Err(Fault::Page);
                }
                if want != pte && !self.update_pte(at, pte, want)? {
                    continue 'walk; // somebody else changed it
                }
                // One of a group is flushed as if it were of the next larger size.
                self.superpages.note(addr, if napot { 1 } else { level });
                return Ok(base | addr & span);
            }
            return Err(Fault::Page);
        }
    }

    /// Where the page tables lead, whatever they permit; nothing is changed.
    pub(crate) fn look_up(&mut self, addr: u64) -> Option<u64> {
        let mode = self.data_mode();
        let levels = match self.satp >> paging::SATP_MODE_SHIFT {
            paging::SV39 if mode != Mode::M => 3,
            paging::SV48 if mode != Mode::M => 4,
            _ => return Some(addr),
        };
        let unused = 64 - (12 + 9 * levels);
        if ((addr << unused) as i64 >> unused) as u64 != addr {
            return None;
        }
        let mut table = (self.satp & paging::SATP_PPN) << 12;
        for level in (0..levels as u64).rev() {
            let at = table + ((addr >> (12 + 9 * level)) & 0x1ff) * 8;
            let pte = match self.phys_page(at) {
                Some((page, _)) => page.load::<u64>((at & 0xff8) as usize),
                None => return None,
            };
            if pte & paging::V == 0 {
                return None;
            }
            table = (pte >> paging::PPN_SHIFT & paging::SATP_PPN) << 12;
            if pte & (paging::R | paging::X) != 0 {
                let group = if pte & paging::N != 0 { paging::NAPOT_MASK << 12 } else { 0 };
                let span = ((1u64 << (12 + 9 * level)) - 1) | group;
                return Some(table & !span | addr & span);
            }
        }
        None
    }

    /// Whether an entry's memory type is one. All types are the same here: there is no cache that could be kept from
    /// devices.
    fn allows_type(&self, pte: u64) -> bool {
        let on = self.opts.ext.has(Ext::SVPBMT) && self.menvcfg & envcfg::PBMTE != 0;
        pte & paging::PBMT == 0 || on && pte & paging::PBMT != paging::PBMT
    }

    /// Whether the hart sets accessed and dirty bits itself; otherwise it faults where they are not set.
    fn updates_pte(&self) -> bool {
        if self.opts.ext.has(Ext::SVADU) {
            self.menvcfg & envcfg::ADUE != 0
        } else {
            !self.opts.ext.has(Ext::SVADE)
        }
    }

    fn permits(&self, pte: u64, access: Access, mode: Mode) -> bool {
        if pte & paging::U != 0 {
            let sum = self.mstatus & mstatus::SUM != 0 && access != Access::Fetch;
            if mode == Mode::S && !sum {
                return false;
            }
        } else if mode == Mode::U {
            return false;
        }
        match access {
            Access::Fetch => pte & paging::X != 0,
            Access::Write => pte & paging::W != 0,
            Access::Read => pte & paging::R != 0 || pte & paging::X != 0 && self.mstatus & mstatus::MXR != 0,
        }
    }

    fn read_pte(&mut self, at: u64) -> Result<u64, Fault> {
        if !self.pmp.allows(at, 8, Access::Read, Mode::S) {
            return Err(Fault::Access);
        }
        match self.phys_page(at) {
            Some((page, _)) => Ok(page.load::<u64>((at & 0xff8) as usize)),
            None => self.mem.load(at, Size::B8).map_err(|_| Fault::Access),
        }
    }

    /// Sets bits of an entry unless it changed meanwhile; false if it did.
    fn update_pte(&mut self, at: u64, old: u64, new: u64) -> Result<bool, Fault> {
        if !self.pmp.allows(at, 8, Access::Write, Mode::S) {
            return Err(Fault::Access);
        }
        match self.phys_page(at) {
            Some((page, true)) => Ok(page.cmpxchg_u64((at & 0xff8) as usize, old, new).is_ok()),
            _ => Err(Fault::Access),
        }
    }

    /// Translates, checks physical memory protection, and tells whether the answer holds for the whole page.
    pub(crate) fn resolve(
        &mut self,
        addr: u64,
        len: u64,
        access: Access,
        mode: Mode,
    ) -> Result<(u64, bool), Fault> {
        let pa = self.translate(addr, access, mode)?;
        if !self.pmp.allows(pa, len, access, mode) {
            return Err(Fault::Access);
        }
        Ok((pa, self.pmp.uniform(pa & !0xfff)))
    }

    /// A load that missed the TLB.
    #[cold]
    #[inline(never)]
    pub(crate) fn load_slow(&mut self, addr: u64, size: Size) -> Result<u64, Stop> {
        let len = size.bytes() as u64;
        self.watch(addr, len, Access::Read)?;
        let off = addr & 0xfff;
        if off + len > 0x1000 {
            let mut v = 0;
            for i in 0..len {
                let a = addr.wrapping_add(i);
                v |= self.load_at(a, Size::B1).map_err(|f| self.fault(f, Access::Read, a))? << (8 * i);
            }
            return Ok(v);
        }
        self.load_at(addr, size).map_err(|f| self.fault(f, Access::Read, addr))
    }

    fn load_at(&mut self, addr: u64, size: Size) -> Result<u64, Fault> {
        let (pa, uniform) = self.resolve(addr, size.bytes() as u64, Access::Read, self.data_mode())?;
        let keep = uniform && !self.debug.watches_page(addr);
        if let Some((page, _)) = self.phys_page(pa) {
            let off = (addr & 0xfff) as usize;
            let v = match size {
                Size::B1 => u64::from(page.load::<u8>(off)),
                Size::B2 => u64::from(page.load::<u16>(off)),
                Size::B4 => u64::from(page.load::<u32>(off)),
                Size::B8 => page.load::<u64>(off),
            };
            if keep {
                let page = page.clone();
                self.tlb.set_data(addr, &page, false);
            }
            return Ok(v);
        }
        let len = size.bytes() as u64;
        if addr.is_multiple_of(len) {
            return self.mem.load(pa, size).map_err(|_| Fault::Access);
        }
        let mut v = 0;
        for i in 0..len {
            v |= self.mem.load(pa + i, Size::B1).map_err(|_| Fault::Access)? << (8 * i);
        }
        Ok(v)
    }

    /// A store that missed the TLB.
    #[cold]
    #[inline(never)]
    pub(crate) fn store_slow(&mut self, addr: u64, v: u64, size: Size) -> Result<(), Stop> {
        let len = size.bytes() as u64;
        self.watch(addr, len, Access::Write)?;
        let off = addr & 0xfff;
        if off + len > 0x1000 {
            // Nothing is written unless both pages can be.
            let second = (addr | 0xfff).wrapping_add(1);
            for a in [addr, second] {
                let mode = self.data_mode();
                self.resolve(a, 1, Access::Write, mode).map_err(|f| self.fault(f, Access::Write, a))?;
            }
            for i in 0..len {
                let a = addr.wrapping_add(i);
                self.store_at(a, v >> (8 * i) & 0xff, Size::B1)
                    .map_err(|f| self.fault(f, Access::Write, a))?;
            }
            return Ok(());
        }
        self.store_at(addr, v, size).map_err(|f| self.fault(f, Access::Write, addr))
    }

    fn store_at(&mut self, addr: u64, v: u64, size: Size) -> Result<(), Fault> {
        let len = size.bytes() as u64;
        let (pa, uniform) = self.resolve(addr, len, Access::Write, self.data_mode())?;
        let keep = uniform && !self.debug.watches_page(addr);
        if let Some((page, true)) = self.phys_page(pa) {
            let off = (addr & 0xfff) as usize;
            match size {
                Size::B1 => page.store(off, v as u8),
                Size::B2 => page.store(off, v as u16),
                Size::B4 => page.store(off, v as u32),
                Size::B8 => page.store(off, v),
            }
            if keep {
                let page = page.clone();
                self.tlb.set_data(addr, &page, true);
            }
            return Ok(());
        }
        if addr.is_multiple_of(len) {
            return self.mem.store(pa, v & size.mask(), size).map_err(|_| Fault::Access);
        }
        for i in 0..len {
            self.mem.store(pa + i, v >> (8 * i) & 0xff, Size::B1).map_err(|_| Fault::Access)?;
        }
        Ok(())
    }

    /// The RAM page of an atomic access, which fails anywhere else.
    #[cold]
    #[inline(never)]
    pub(crate) fn atomic_page(&mut self, addr: u64, len: u64, access: Access) -> Result<RamPage, Stop> {
        self.watch(addr, len, access)?;
        let mode = self.data_mode();
        let r = self.resolve(addr, len, access, mode).and_then(|(pa, uniform)| {
            let page = match self.phys_page(pa) {
                Some((page, writable)) if writable || access == Access::Read => page.clone(),
                _ => return Err(Fault::Access),
            };
            if uniform && !self.debug.watches_page(addr) {
                self.tlb.set_data(addr, &page, access == Access::Write);
            }
            Ok(page)
        });
        r.map_err(|f| self.fault(f, access, addr))
    }

    /// Checks that a cache block may be managed: that it may be read or written. What it raises is a store's.
    pub(crate) fn check_block(&mut self, addr: u64) -> Result<(), Stop> {
        let mode = self.data_mode();
        if self.resolve(addr, 1, Access::Read, mode).is_ok() {
            return Ok(());
        }
        let done = self.resolve(addr, 1, Access::Write, mode).map(|_| ());
        done.map_err(|f| self.fault(f, Access::Write, addr))
    }

    fn fault(&mut self, f: Fault, access: Access, addr: u64) -> Stop {
        self.raise(f.cause(access), addr)
    }

    /// `sfence.vma` of a range of `(start, bytes)` (all: `None`) and an address space (all: `None`).
    pub(crate) fn flush_tlb(&mut self, range: Option<(u64, u64)>, asid: Option<u64>) {
        let range = range.and_then(|(start, len)| self.superpages.widen(start, len));
        self.tlb.flush_range(range, asid);
        if range.is_none_or(|(start, len)| self.jumps.leads_to(pages_of(start, len))) {
            self.jumps.forget();
        }
        if range.is_none() && asid.is_none() {
            self.superpages = Superpages::default();
        }
    }
}

/// Where entries of the TLB were made from superpages: flushing one address of a superpage has to flush them
/// all. Sets of hashes, so they may name too much.
#[derive(Default)]
pub(crate) struct Superpages {
    mega: [u64; 16],
    giga: [u64; 16],
    larger: bool,
}

impl Superpages {
    fn bit(n: u64) -> (usize, u64) {
        let h = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        (h as usize >> 6, 1 << (h & 63))
    }

    fn note(&mut self, addr: u64, level: u64) {
        match level {
            0 => {}
            1 => {
                let (i, b) = Self::bit(addr >> 21);
                self.mega[i] |= b;
            }
            2 => {
                let (i, b) = Self::bit(addr >> 30);
                self.giga[i] |= b;
            }
            _ => self.larger = true,
        }
    }

    /// The range with every superpage that it touches; `None` for everything.
    fn widen(&self, start: u64, len: u64) -> Option<(u64, u64)> {
        let last = start.checked_add(len.saturating_sub(1))?;
        if self.larger || len > 1 << 30 {
            return None;
        }
        let touches = |set: &[u64; 16], shift: u32| {
            (start >> shift..=last >> shift).any(|n| {
                let (i, b) = Self::bit(n);
                set[i] & b != 0
            })
        };
        let shift = if touches(&self.giga, 30) {
            30
        } else if touches(&self.mega, 21) {
            21
        } else {
            return Some((start, len));
        };
        let first = start >> shift << shift;
        Some((first, (last | ((1 << shift) - 1)) - first + 1))
    }
}
