//! The state of a hart.

use crate::debug::Debug;
use crate::insn::Ext;
use crate::jumps::{Heat, JumpCache};
use crate::mmu::{PhysCache, Superpages};
use crate::pins::{Clock, HartPins};
use crate::pmp::Pmp;
use crate::spec::{Mode, cause, envcfg, irq, mstatus};
use crate::tlb::Tlb;
use mem::AddressSpace;
use std::sync::Arc;

/// What a hart is and what it is connected to.
#[derive(Clone)]
pub struct HartOptions {
    /// `mhartid`.
    pub id: u64,
    /// Its extensions.
    pub ext: Ext,
    /// There is no M-mode software: the hart starts in S-mode, every trap from U and S goes to S, and an
    /// `ecall` from S leaves guest code.
    pub sbi: bool,
    /// Where it starts after a reset if `sbi` is false.
    pub reset_pc: u64,
    /// `mvendorid`, `marchid` and `mimpid`.
    pub vendor: [u64; 3],
}

/// A snapshot of a hart's registers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields have the standard's names
pub struct CpuState {
    pub hart: u64,
    pub pc: u64,
    pub mode: Mode,
    pub x: [u64; 32],
    pub f: [u64; 32],
    pub fcsr: u64,
    pub mstatus: u64,
    pub mip: u64,
    pub mie: u64,
    pub mideleg: u64,
    pub medeleg: u64,
    pub mtvec: u64,
    pub mscratch: u64,
    pub mepc: u64,
    pub mcause: u64,
    pub mtval: u64,
    pub mcounteren: u64,
    pub mcountinhibit: u64,
    pub menvcfg: u64,
    pub stvec: u64,
    pub sscratch: u64,
    pub sepc: u64,
    pub scause: u64,
    pub stval: u64,
    pub scounteren: u64,
    pub senvcfg: u64,
    pub stimecmp: u64,
    pub satp: u64,
    pub cycle: u64,
    pub instret: u64,
}

/// Why the interpreter's inner loop stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// An exception, described in [`Cpu::trap`].
    Trap,
    /// An illegal instruction, whose bits are to be looked up.
    Illegal,
    /// The instruction is done; interrupts or the code cache are to be looked at again.
    Leave,
    /// A slot of the code page is not decoded yet.
    Undecoded,
    /// The instruction goes on in the next page.
    Straddle,
    /// `wfi` is done.
    Wfi,
    /// `ecall` from S to the firmware that is built in; done.
    Sbi,
    /// There is native code for the instruction.
    Native,
    /// Left the page.
    Page,
    /// Time to look around.
    Budget,
}

/// What `lr` remembers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reservation {
    /// The host address, which is the same through whatever mapping.
    pub(crate) at: usize,
    pub(crate) len: u64,
    pub(crate) value: u64,
}

/// The state of a hart, which native code works on.
pub struct Cpu {
    pub(crate) x: [u64; 32],
    pub(crate) f: [u64; 32],
    pub(crate) mstatus: u64,
    pub(crate) fflags: u8,
    pub(crate) frm: u8,
    pub(crate) mode: Mode,
    pub(crate) tlb: Tlb,
    pub(crate) pc: u64,
    pub(crate) trap: (u64, u64),
    pub(crate) reservation: Option<Reservation>,
    /// Counts `fence.i`: code pages that were checked earlier may be stale.
    pub(crate) code_epoch: u64,
    /// Instructions that native code may still do before it has to look around.
    pub(crate) left: i64,
    /// The virtual address of the page that native code is in.
    pub(crate) page: u64,
    /// Where native code wants to be linked on; 0: nowhere.
    pub(crate) link: u64,
    /// Native code writes here what it computes for the effects of computing it.
    pub(crate) scratch: u64,
    pub(crate) jumps: JumpCache,
    pub(crate) heat: Heat,
    pub(crate) debug: Debug,
    pub(crate) superpages: Superpages,
    pub(crate) phys: PhysCache,
    pub(crate) pmp: Pmp,

    pub(crate) mie: u64,
    /// SEIP and STIP as M-mode software writes them.
    pub(crate) mip_soft: u64,
    pub(crate) mideleg: u64,
    pub(crate) medeleg: u64,
    pub(crate) mtvec: u64,
    pub(crate) mscratch: u64,
    pub(crate) mepc: u64,
    pub(crate) mcause: u64,
    pub(crate) mtval: u64,
    pub(crate) mcounteren: u64,
    pub(crate) mcountinhibit: u64,
    pub(crate) menvcfg: u64,
    pub(crate) stvec: u64,
    pub(crate) sscratch: u64,
    pub(crate) sepc: u64,
    pub(crate) scause: u64,
    pub(crate) stval: u64,
    pub(crate) scounteren: u64,
    pub(crate) senvcfg: u64,
    pub(crate) stimecmp: u64,
    pub(crate) satp: u64,

    /// Instructions retired since the hart was made.
    pub(crate) retired: u64,
    /// What `mcycle` and `minstret` add to that, or what they stand at while inhibited.
    pub(crate) counter: [u64; 2],

    pub(crate) opts: HartOptions,
    pub(crate) mem: Arc<AddressSpace>,
    pub(crate) mem_generation: u64,
    pub(crate) pins: Arc<HartPins>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Cpu {
    pub(crate) fn new(
        opts: HartOptions,
        mem: Arc<AddressSpace>,
        pins: Arc<HartPins>,
        clock: Arc<dyn Clock>,
    ) -> Cpu {
        let mut cpu = Cpu {
            x: [0; 32],
            f: [0; 32],
            mstatus: 0,
            fflags: 0,
            frm: 0,
            mode: Mode::M,
            tlb: Tlb::new(),
            pc: 0,
            trap: (0, 0),
            reservation: None,
            code_epoch: 0,
            left: 0,
            page: 0,
            link: 0,
            scratch: 0,
            jumps: JumpCache::new(),
            heat: Heat::new(),
            debug: Debug::default(),
            superpages: Superpages::default(),
            phys: PhysCache::new(),
            pmp: Pmp::default(),
            mie: 0,
            mip_soft: 0,
            mideleg: 0,
            medeleg: 0,
            mtvec: 0,
            mscratch: 0,
            mepc: 0,
            mcause: 0,
            mtval: 0,
            mcounteren: 0,
            mcountinhibit: 0,
            menvcfg: 0,
            stvec: 0,
            sscratch: 0,
            sepc: 0,
            scause: 0,
            stval: 0,
            scounteren: 0,
            senvcfg: 0,
            stimecmp: u64::MAX,
            satp: 0,
            retired: 0,
            counter: [0; 2],
            opts,
            mem_generation: mem.generation(),
            mem,
            pins,
            clock,
        };
        cpu.reset();
        cpu
    }

    /// The state after power-on: in M-mode at the reset vector, or in S-mode with everything delegated.
    pub(crate) fn reset(&mut self) {
        self.x = [0; 32];
        self.f = [0; 32];
        self.pc = self.opts.reset_pc;
        self.mstatus = mstatus::UXL64 | mstatus::SXL64;
        (self.fflags, self.frm) = (0, 0);
        self.mode = Mode::M;
        self.reservation = None;
        self.pmp = Pmp::default();
        for r in [
            &mut self.mie,
            &mut self.mip_soft,
            &mut self.mideleg,
            &mut self.medeleg,
            &mut self.mtvec,
            &mut self.mscratch,
            &mut self.mepc,
            &mut self.mcause,
            &mut self.mtval,
            &mut self.mcounteren,
            &mut self.mcountinhibit,
            &mut self.menvcfg,
            &mut self.stvec,
            &mut self.sscratch,
            &mut self.sepc,
            &mut self.scause,
            &mut self.stval,
            &mut self.scounteren,
            &mut self.senvcfg,
            &mut self.satp,
        ] {
            *r = 0;
        }
        self.stimecmp = u64::MAX;
        self.retired = 0;
        self.counter = [0; 2];
        // As the reference begins: firmware that knows nothing of these finds them on.
        if self.opts.ext.has(Ext::SVADU) && !self.opts.ext.has(Ext::SVADE) {
            self.menvcfg |= envcfg::ADUE;
        }
        if self.opts.ext.has(Ext::SVPBMT) {
            self.menvcfg |= envcfg::PBMTE;
        }
        if self.opts.sbi {
            self.mode = Mode::S;
            self.pmp.absent = true;
            self.mideleg = irq::S;
            self.medeleg = 0xb3ff & !(1 << cause::ECALL_S);
            self.mcounteren = 7;
            if self.opts.ext.has(Ext::SSTC) {
                self.menvcfg |= envcfg::STCE;
            }
            if self.opts.ext.has(Ext::ZICBOM) {
                self.menvcfg |= envcfg::CBIE | envcfg::CBCFE;
            }
            if self.opts.ext.has(Ext::ZICBOZ) {
                self.menvcfg |= envcfg::CBZE;
            }
        }
        self.suspect_code();
        self.flush_all();
        self.update_context();
    }

    /// Forgets all translations of addresses.
    pub(crate) fn flush_translations(&mut self) {
        self.tlb.flush();
        self.jumps.forget();
    }

    /// Forgets where native code is.
    pub(crate) fn forget_native(&mut self) {
        self.jumps.forget();
        self.link = 0;
    }

    /// Makes every copy of code suspect, as `fence.i` does.
    pub(crate) fn suspect_code(&mut self) {
        self.code_epoch += 1;
        self.jumps.forget();
    }

    /// Forgets everything that was derived from the memory map.
    pub(crate) fn flush_all(&mut self) {
        self.phys.flush();
        self.flush_translations();
        self.superpages = Superpages::default();
    }

    /// Records an exception.
    #[cold]
    pub(crate) fn raise(&mut self, cause: u64, tval: u64) -> Stop {
        self.trap = (cause, tval);
        Stop::Trap
    }

    /// `mstatus` with the summary bit.
    pub(crate) fn read_mstatus(&self) -> u64 {
        let dirty = self.mstatus & mstatus::FS == mstatus::FS;
        self.mstatus | if dirty { mstatus::SD } else { 0 }
    }

    /// Counter 0 (cycle) or 1 (instret).
    pub(crate) fn read_counter(&self, n: usize) -> u64 {
        if self.mcountinhibit >> (2 * n) & 1 != 0 {
            self.counter[n]
        } else {
            self.counter[n].wrapping_add(self.retired)
        }
    }

    pub(crate) fn write_counter(&mut self, n: usize, v: u64) {
        self.counter[n] =
            if self.mcountinhibit >> (2 * n) & 1 != 0 { v } else { v.wrapping_sub(self.retired) };
    }

    pub(crate) fn state(&self) -> CpuState {
        CpuState {
            hart: self.opts.id,
            pc: self.pc,
            mode: self.mode,
            x: self.x,
            f: self.f,
            fcsr: u64::from(self.frm) << 5 | u64::from(self.fflags),
            mstatus: self.read_mstatus(),
            mip: self.mip(),
            mie: self.mie,
            mideleg: self.mideleg,
            medeleg: self.medeleg,
            mtvec: self.mtvec,
            mscratch: self.mscratch,
            mepc: self.mepc,
            mcause: self.mcause,
            mtval: self.mtval,
            mcounteren: self.mcounteren,
            mcountinhibit: self.mcountinhibit,
            menvcfg: self.menvcfg,
            stvec: self.stvec,
            sscratch: self.sscratch,
            sepc: self.sepc,
            scause: self.scause,
            stval: self.stval,
            scounteren: self.scounteren,
            senvcfg: self.senvcfg,
            stimecmp: self.stimecmp,
            satp: self.satp,
            cycle: self.read_counter(0),
            instret: self.read_counter(1),
        }
    }

    /// Takes over registers; `hart` and the interrupt inputs (`mip`'s bits from outside) are not part of what
    /// is set.
    pub(crate) fn set_state(&mut self, s: &CpuState) {
        self.pc = s.pc;
        self.mode = s.mode;
        self.x = s.x;
        self.x[0] = 0;
        self.f = s.f;
        self.fflags = (s.fcsr & 31) as u8;
        self.frm = (s.fcsr >> 5 & 7) as u8;
        self.mstatus = s.mstatus & mstatus::WRITABLE | mstatus::UXL64 | mstatus::SXL64;
        self.mie = s.mie & irq::ALL;
        self.mip_soft = s.mip & (irq::STI | irq::SEI) & !self.pins.levels();
        self.mideleg = s.mideleg & irq::S;
        self.medeleg = s.medeleg;
        self.mtvec = s.mtvec;
        self.mscratch = s.mscratch;
        self.mepc = s.mepc & !1;
        self.mcause = s.mcause;
        self.mtval = s.mtval;
        self.mcounteren = s.mcounteren;
        self.mcountinhibit = s.mcountinhibit & 5;
        self.menvcfg = s.menvcfg;
        self.stvec = s.stvec;
        self.sscratch = s.sscratch;
        self.sepc = s.sepc & !1;
        self.scause = s.scause;
        self.stval = s.stval;
        self.scounteren = s.scounteren;
        self.senvcfg = s.senvcfg;
        self.stimecmp = s.stimecmp;
        self.satp = s.satp;
        self.write_counter(0, s.cycle);
        self.write_counter(1, s.instret);
        self.reservation = None;
        self.suspect_code();
        self.flush_all();
        self.update_context();
    }
}
