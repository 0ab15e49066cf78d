//! Exceptions, interrupts and the returns from them.

use crate::cpu::Cpu;
use crate::insn::Ext;
use crate::spec::{Mode, cause, envcfg, irq, mstatus};

impl Cpu {
    /// Whether `stimecmp` drives STIP.
    pub(crate) fn sstc(&self) -> bool {
        self.menvcfg & envcfg::STCE != 0 && self.opts.ext.has(Ext::SSTC)
    }

    /// `mip` as software reads it.
    pub(crate) fn mip(&self) -> u64 {
        let mut v = self.pins.levels() | self.mip_soft;
        if self.sstc() {
            v &= !irq::STI;
        }
        let deadline = self.deadline();
        if deadline != u64::MAX && self.clock.ticks() >= deadline {
            v |= irq::STI;
        }
        v
    }

    /// When the hart's own timer raises STI, in ticks; all ones: never.
    pub(crate) fn deadline(&self) -> u64 {
        let own = if self.sstc() { self.stimecmp } else { u64::MAX };
        if self.opts.sbi { own.min(self.pins.sbi_timer()) } else { own }
    }

    /// The enabled interrupts that the current mode does not mask, of the highest privilege that has any;
    /// and whether they go to S-mode.
    pub(crate) fn deliverable(&self) -> Option<(u64, bool)> {
        let pending = if self.mie == 0 { 0 } else { self.mip() & self.mie };
        if pending == 0 {
            return None;
        }
        let m = pending & !self.mideleg;
        if m != 0 && (self.mode < Mode::M || self.mstatus & mstatus::MIE != 0) {
            return Some((m, false));
        }
        let s = pending & self.mideleg;
        let open = self.mode < Mode::S || self.mode == Mode::S && self.mstatus & mstatus::SIE != 0;
        (s != 0 && open).then_some((s, true))
    }

    /// Whether an interrupt is pending and enabled by `mie`, masked by the mode or not: what ends a `wfi`.
    pub(crate) fn wakes(&self) -> bool {
        self.mie != 0 && self.mip() & self.mie != 0
    }

    /// Takes an interrupt if one is due.
    pub(crate) fn take_interrupt(&mut self) -> bool {
        let Some((set, to_s)) = self.deliverable() else { return false };
        let order = [irq::MEI, irq::MSI, irq::MTI, irq::SEI, irq::SSI, irq::STI];
        let Some(bit) = order.into_iter().find(|b| set & b != 0) else { return false };
        self.enter(cause::INTERRUPT | u64::from(bit.trailing_zeros()), 0, to_s);
        true
    }

    /// Takes the exception `code` at the current pc.
    pub(crate) fn take_exception(&mut self, code: u64, tval: u64) {
        let to_s = self.mode <= Mode::S && (self.opts.sbi || self.medeleg >> code & 1 != 0);
        self.enter(code, tval, to_s);
    }

    fn enter(&mut self, code: u64, tval: u64, to_s: bool) {
        self.report(code, tval, to_s);
        self.reservation = None;
        let from = self.mode as u64;
        let tvec;
        if to_s {
            let sie = self.mstatus & mstatus::SIE != 0;
            self.mstatus &= !(mstatus::SIE | mstatus::SPIE | mstatus::SPP);
            if sie {
                self.mstatus |= mstatus::SPIE;
            }
            if from != 0 {
                self.mstatus |= mstatus::SPP;
            }
            self.sepc = self.pc;
            self.scause = code;
            self.stval = tval;
            self.mode = Mode::S;
            tvec = self.stvec;
        } else {
            let mie = self.mstatus & mstatus::MIE != 0;
            self.mstatus &= !(mstatus::MIE | mstatus::MPIE | mstatus::MPP);
            if mie {
                self.mstatus |= mstatus::MPIE;
            }
            self.mstatus |= from << mstatus::MPP_SHIFT;
            self.mepc = self.pc;
            self.mcause = code;
            self.mtval = tval;
            self.mode = Mode::M;
            tvec = self.mtvec;
        }
        let base = tvec & !3;
        self.pc = if tvec & 1 != 0 && code & cause::INTERRUPT != 0 {
            base.wrapping_add(4 * (code & !cause::INTERRUPT))
        } else {
            base
        };
        self.heat.count(self.pc);
        self.update_context();
    }

    /// The log items that a trap belongs to.
    #[inline]
    fn report(&self, code: u64, tval: u64, to_s: bool) {
        trace::log!(
            Int,
            "trap: hart:{}, async:{}, cause:{:016x}, epc:0x{:016x}, tval:0x{tval:016x}, to:{}",
            self.opts.id,
            code >> 63,
            code & !cause::INTERRUPT,
            self.pc,
            if to_s { 'S' } else { 'M' }
        );
        match code {
            1 | 5 | 7 => trace::log!(
                InvalidMem,
                "hart {}: no access to 0x{tval:x} at pc 0x{:x}",
                self.opts.id,
                self.pc
            ),
            12 | 13 | 15 => {
                trace::log!(Mmu, "hart {}: page fault at 0x{tval:x}, pc 0x{:x}", self.opts.id, self.pc)
            }
            _ => {}
        }
    }

    /// `mret`: where it goes; `None` if it is illegal here.
    pub(crate) fn mret(&mut self) -> Option<u64> {
        if self.mode != Mode::M {
            return None;
        }
        let to = Mode::from_bits(self.mstatus >> mstatus::MPP_SHIFT).unwrap_or(Mode::U);
        let mpie = self.mstatus & mstatus::MPIE != 0;
        self.mstatus &= !(mstatus::MIE | mstatus::MPP);
        self.mstatus |= mstatus::MPIE | if mpie { mstatus::MIE } else { 0 };
        if to != Mode::M {
            self.mstatus &= !mstatus::MPRV;
        }
        self.mode = to;
        self.reservation = None;
        self.update_context();
        Some(self.mepc)
    }

    /// `sret`: where it goes; `None` if it is illegal here.
    pub(crate) fn sret(&mut self) -> Option<u64> {
        if self.mode == Mode::U || self.mode == Mode::S && self.mstatus & mstatus::TSR != 0 {
            return None;
        }
        let to = if self.mstatus & mstatus::SPP != 0 { Mode::S } else { Mode::U };
        let spie = self.mstatus & mstatus::SPIE != 0;
        self.mstatus &= !(mstatus::SIE | mstatus::SPP | mstatus::MPRV);
        self.mstatus |= mstatus::SPIE | if spie { mstatus::SIE } else { 0 };
        self.mode = to;
        self.reservation = None;
        self.update_context();
        Some(self.sepc)
    }
}
