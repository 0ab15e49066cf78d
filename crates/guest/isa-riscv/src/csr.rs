//! Control and status registers. An access that the standard does not allow, or a register that does not
//! exist, is an illegal instruction.

use crate::cpu::Cpu;
use crate::insn::Ext;
use crate::pmp;
use crate::semantics::CsrOp;
use crate::spec::{Mode, csr, envcfg, irq, mstatus, paging};

/// An access that is an illegal instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Illegal;

/// What the interpreter has to do after an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing.
    GoOn,
    /// An interrupt may be deliverable now, or instructions translate differently.
    Look,
}

/// Exceptions that `medeleg` can delegate.
const DELEGABLE: u64 = 0xb3ff;

impl Cpu {
    /// Does a CSR instruction; gives the old value.
    pub(crate) fn csr_access(
        &mut self,
        op: CsrOp,
        n: u16,
        operand: Option<u64>,
        read: bool,
    ) -> Result<(u64, After), Illegal> {
        if u64::from(n >> 8 & 3) > self.mode as u64 {
            return Err(Illegal);
        }
        if operand.is_some() && n >> 10 == 3 {
            return Err(Illegal); // read-only
        }
        // Reading has no side effects, so it may serve as the check that the register exists.
        let old = self.csr_read(n)?;
        let Some(v) = operand else { return Ok((old, After::GoOn)) };
        // `touched`: bits that others may change at any time are written only where the instruction names them.
        let (new, touched) = match op {
            CsrOp::Write => (v, !0),
            // The software bit of SEIP is what a read-modify-write works on, not the wire.
            CsrOp::Set => (self.modified(n, old) | v, v),
            CsrOp::Clear => (self.modified(n, old) & !v, v),
        };
        let after = self.csr_write(n, new, touched)?;
        Ok((if read { old } else { 0 }, after))
    }

    fn modified(&self, n: u16, old: u64) -> u64 {
        if n == csr::MIP { old & !irq::SEI | self.mip_soft & irq::SEI } else { old }
    }

    fn need_fp(&self) -> Result<(), Illegal> {
        if self.mstatus & mstatus::FS == 0 { Err(Illegal) } else { Ok(()) }
    }

    /// Whether the counter `n` (0 cycle, 1 time, 2 instret, …) is open to the current mode.
    fn need_counter(&self, n: u16) -> Result<(), Illegal> {
        let bit = 1u64 << n;
        let open = match self.mode {
            Mode::M => true,
            Mode::S => self.mcounteren & bit != 0,
            Mode::U => self.mcounteren & self.scounteren & bit != 0,
        };
        if open { Ok(()) } else { Err(Illegal) }
    }

    fn need_stimecmp(&self) -> Result<(), Illegal> {
        if !self.opts.ext.has(Ext::SSTC) {
            return Err(Illegal);
        }
        if self.mode == Mode::S && !(self.sstc() && self.mcounteren & 2 != 0) {
            return Err(Illegal);
        }
        Ok(())
    }

    fn need_satp(&self) -> Result<(), Illegal> {
        if self.mode == Mode::S && self.mstatus & mstatus::TVM != 0 { Err(Illegal) } else { Ok(()) }
    }

    fn csr_read(&self, n: u16) -> Result<u64, Illegal> {
        Ok(match n {
            csr::FFLAGS => {
                self.need_fp()?;
                u64::from(self.fflags)
            }
            csr::FRM => {
                self.need_fp()?;
                u64::from(self.frm)
            }
            csr::FCSR => {
                self.need_fp()?;
                u64::from(self.frm) << 5 | u64::from(self.fflags)
            }
            csr::SSTATUS => self.read_mstatus() & mstatus::S_VISIBLE,
            csr::SIE => self.mie & self.mideleg,
            csr::STVEC => self.stvec,
            csr::SCOUNTEREN => self.scounteren,
            csr::SENVCFG => self.senvcfg,
            csr::SSCRATCH => self.sscratch,
            csr::SEPC => self.sepc,
            csr::SCAUSE => self.scause,
            csr::STVAL => self.stval,
            csr::SIP => self.mip() & self.mideleg,
            csr::STIMECMP => {
                self.need_stimecmp()?;
                self.stimecmp
            }
            csr::SATP => {
                self.need_satp()?;
                self.satp
            }
            csr::MSTATUS => self.read_mstatus(),
            csr::MISA => self.misa(),
            csr::MEDELEG => self.medeleg,
            csr::MIDELEG => self.mideleg,
            csr::MIE => self.mie,
            csr::MTVEC => self.mtvec,
            csr::MCOUNTEREN => self.mcounteren,
            csr::MENVCFG => self.menvcfg,
            csr::MCOUNTINHIBIT => self.mcountinhibit,
            csr::MHPMEVENT3..=csr::MHPMEVENT31 => 0,
            csr::MSCRATCH => self.mscratch,
            csr::MEPC => self.mepc,
            csr::MCAUSE => self.mcause,
            csr::MTVAL => self.mtval,
            csr::MIP => self.mip(),
            csr::PMPCFG0..=csr::PMPCFG14
                if n & 1 == 0 && ((n - csr::PMPCFG0) as usize) < pmp::ENTRIES / 4 =>
            {
                self.pmp.read_cfg((n - csr::PMPCFG0) as usize)
            }
            csr::PMPADDR0..=csr::PMPADDR63 if ((n - csr::PMPADDR0) as usize) < pmp::ENTRIES => {
                self.pmp.read_addr((n - csr::PMPADDR0) as usize)
            }
            csr::MCYCLE => self.read_counter(0),
            csr::MINSTRET => self.read_counter(1),
            csr::MHPMCOUNTER3..=csr::MHPMCOUNTER31 => 0,
            csr::CYCLE => {
                self.need_counter(0)?;
                self.read_counter(0)
            }
            csr::TIME => {
                self.need_counter(1)?;
                self.clock.ticks()
            }
            csr::INSTRET => {
                self.need_counter(2)?;
                self.read_counter(1)
            }
            csr::HPMCOUNTER3..=csr::HPMCOUNTER31 => {
                self.need_counter(n - csr::CYCLE)?;
                0
            }
            csr::MVENDORID => self.opts.vendor[0],
            csr::MARCHID => self.opts.vendor[1],
            csr::MIMPID => self.opts.vendor[2],
            csr::MHARTID => self.opts.id,
            csr::MCONFIGPTR => 0,
            _ => return Err(Illegal),
        })
    }

    fn csr_write(&mut self, n: u16, v: u64, touched: u64) -> Result<After, Illegal> {
        match n {
            csr::FFLAGS => {
                self.fflags = (v & 31) as u8;
                self.mstatus |= mstatus::FS;
            }
            csr::FRM => {
                self.frm = (v & 7) as u8;
                self.mstatus |= mstatus::FS;
            }
            csr::FCSR => {
                self.fflags = (v & 31) as u8;
                self.frm = (v >> 5 & 7) as u8;
                self.mstatus |= mstatus::FS;
            }
            csr::SSTATUS => return Ok(self.write_mstatus(v, mstatus::S_WRITABLE)),
            csr::SIE => {
                self.mie = self.mie & !self.mideleg | v & self.mideleg;
                return Ok(After::Look);
            }
            csr::STVEC => self.stvec = tvec(self.stvec, v),
            csr::SCOUNTEREN => self.scounteren = v & 0xffff_ffff,
            csr::SENVCFG => self.senvcfg = self.envcfg(self.senvcfg, v) & envcfg::S,
            csr::SSCRATCH => self.sscratch = v,
            csr::SEPC => self.sepc = v & self.pc_mask(),
            csr::SCAUSE => self.scause = v,
            csr::STVAL => self.stval = v,
            csr::SIP => {
                self.write_ssip(v, self.mideleg & touched);
                return Ok(After::Look);
            }
            csr::STIMECMP => {
                self.stimecmp = v;
                return Ok(After::Look);
            }
            csr::SATP => return Ok(self.write_satp(v)),
            csr::MSTATUS => return Ok(self.write_mstatus(v, mstatus::WRITABLE)),
            csr::MISA => {}
            csr::MEDELEG => self.medeleg = v & DELEGABLE,
            csr::MIDELEG => {
                self.mideleg = v & irq::S;
                return Ok(After::Look);
            }
            csr::MIE => {
                self.mie = v & irq::ALL;
                return Ok(After::Look);
            }
            csr::MTVEC => self.mtvec = tvec(self.mtvec, v),
            csr::MCOUNTEREN => self.mcounteren = v & 0xffff_ffff,
            csr::MENVCFG => {
                let new = self.envcfg(self.menvcfg, v);
                if (new ^ self.menvcfg) & (envcfg::ADUE | envcfg::PBMTE) != 0 {
                    self.flush_translations();
                }
                self.menvcfg = new;
                return Ok(After::Look);
            }
            csr::MCOUNTINHIBIT => {
                let now = [self.read_counter(0), self.read_counter(1)];
                self.mcountinhibit = v & 5;
                self.write_counter(0, now[0]);
                self.write_counter(1, now[1]);
            }
            csr::MHPMEVENT3..=csr::MHPMEVENT31 | csr::MHPMCOUNTER3..=csr::MHPMCOUNTER31 => {}
            csr::MSCRATCH => self.mscratch = v,
            csr::MEPC => self.mepc = v & self.pc_mask(),
            csr::MCAUSE => self.mcause = v,
            csr::MTVAL => self.mtval = v,
            csr::MIP => {
                self.write_ssip(v, touched);
                self.mip_soft = v & (irq::SEI | if self.sstc() { 0 } else { irq::STI });
                return Ok(After::Look);
            }
            csr::PMPCFG0..=csr::PMPCFG14 => {
                self.pmp.write_cfg((n - csr::PMPCFG0) as usize, v);
                self.flush_translations();
                return Ok(After::Look);
            }
            csr::PMPADDR0..=csr::PMPADDR63 => {
                self.pmp.write_addr((n - csr::PMPADDR0) as usize, v);
                self.flush_translations();
                return Ok(After::Look);
            }
            // The value counts from after this instruction, which itself is about to retire.
            csr::MCYCLE => self.write_counter(0, v.wrapping_sub(1)),
            csr::MINSTRET => self.write_counter(1, v.wrapping_sub(1)),
            _ => return Err(Illegal),
        }
        Ok(After::GoOn)
    }

    /// What `menvcfg` becomes when `v` is written to it.
    fn envcfg(&self, old: u64, v: u64) -> u64 {
        let mut writable = envcfg::FIOM;
        for (ext, bits) in [
            (Ext::SSTC, envcfg::STCE),
            (Ext::SVADU, envcfg::ADUE),
            (Ext::SVPBMT, envcfg::PBMTE),
            (Ext::ZICBOM, envcfg::CBCFE),
            (Ext::ZICBOZ, envcfg::CBZE),
        ] {
            if self.opts.ext.has(ext) {
                writable |= bits;
            }
        }
        // A reserved value leaves the old one.
        if self.opts.ext.has(Ext::ZICBOM) && v >> envcfg::CBIE_SHIFT & 3 != 2 {
            writable |= envcfg::CBIE;
        }
        v & writable | if writable & envcfg::CBIE == 0 { old & envcfg::CBIE } else { 0 }
    }

    fn misa(&self) -> u64 {
        let letter = |c: u8| 1u64 << (c - b'a');
        let mut v = 2 << 62 | letter(b'i') | letter(b's') | letter(b'u');
        for (e, c) in [(Ext::M, b'm'), (Ext::A, b'a'), (Ext::F, b'f'), (Ext::D, b'd'), (Ext::C, b'c')] {
            if self.opts.ext.has(e) {
                v |= letter(c);
            }
        }
        v
    }

    /// Addresses that `mepc` and `sepc` hold are aligned to the shortest instruction.
    fn pc_mask(&self) -> u64 {
        if self.opts.ext.has(Ext::C) { !1 } else { !3 }
    }

    fn write_ssip(&mut self, v: u64, writable: u64) {
        if writable & irq::SSI != 0 {
            self.pins.set_ssi_by_guest(v & irq::SSI != 0);
        }
    }

    fn write_mstatus(&mut self, v: u64, mask: u64) -> After {
        let mut mask = mask;
        if mask & mstatus::MPP != 0 && Mode::from_bits(v >> mstatus::MPP_SHIFT).is_none() {
            mask &= !mstatus::MPP; // a reserved mode leaves the old one
        }
        if !self.opts.ext.has(Ext::F) {
            mask &= !mstatus::FS;
        }
        let old = self.mstatus;
        self.mstatus = old & !mask | v & mask;
        let changed = old ^ self.mstatus;
        if changed & (mstatus::SUM | mstatus::MXR | mstatus::MPRV | mstatus::MPP) != 0 {
            self.update_context();
        }
        // Only enabling needs a look.
        if changed & self.mstatus & (mstatus::SIE | mstatus::MIE) != 0 { After::Look } else { After::GoOn }
    }

    /// An unsupported mode leaves the register as it was.
    fn write_satp(&mut self, v: u64) -> After {
        let mode = v >> paging::SATP_MODE_SHIFT;
        let known = match mode {
            paging::BARE | paging::SV39 => true,
            paging::SV48 => self.opts.ext.has(Ext::SV48),
            _ => false,
        };
        if known && v != self.satp {
            self.satp = v;
            self.update_context();
            return After::Look;
        }
        After::GoOn
    }
}

/// Modes beyond direct and vectored are reserved and leave the register as it was.
fn tvec(old: u64, v: u64) -> u64 {
    if v & 3 > 1 { old } else { v }
}
