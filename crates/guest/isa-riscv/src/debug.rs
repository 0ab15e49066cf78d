//! What a debugger asks of a hart: where to stop, single steps, registers by number, memory as the guest sees it.
//!
//! Nothing of this costs anything where no debugger asks. Code of a page with a breakpoint is neither cached nor run
//! natively: its instructions take the way that looks at every one. Data of a page with a watchpoint has no entry in the
//! TLB, so every access to it takes the slow path, which looks.

use crate::cpu::{Cpu, Stop};
use crate::hart::Hart;
use crate::pmp::Access;
use crate::semantics::CsrOp;
use crate::spec::{Mode, csr, mstatus};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// The cause under which a watched access is recorded until the hart looks at it; no exception has it.
const WATCHED: u64 = u64::MAX;

/// Which accesses a watchpoint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WatchKind {
    /// Stores.
    Write,
    /// Loads.
    Read,
    /// Both.
    Access,
}

/// Memory whose accesses a debugger wants to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watch {
    /// The virtual address.
    pub addr: u64,
    /// Bytes, at least 1.
    pub len: u64,
    /// The accesses.
    pub kind: WatchKind,
}

impl Watch {
    fn last(&self) -> u64 {
        self.addr.saturating_add(self.len.max(1) - 1)
    }

    fn concerns(&self, addr: u64, len: u64, write: bool) -> bool {
        let kind = match self.kind {
            WatchKind::Write => write,
            WatchKind::Read => !write,
            WatchKind::Access => true,
        };
        kind && addr <= self.last() && self.addr <= addr.saturating_add(len - 1)
    }
}

/// Where the harts of a machine are to stop; virtual addresses, in whatever address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// Addresses of instructions before which to stop.
    pub breakpoints: BTreeSet<u64>,
    /// Memory before whose access to stop.
    pub watches: BTreeSet<Watch>,
}

/// Why a hart stopped for its debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The instruction at the pc has a breakpoint; it has not been executed.
    Breakpoint,
    /// The instruction at the pc accesses watched memory; it has not been executed, and goes through when the hart goes on.
    /// (So do RISC-V's own triggers, and so debuggers expect it.)
    Watch(Watch),
    /// One instruction was done.
    Step,
}

/// What a hart does at its next instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stepping {
    #[default]
    No,
    /// Does an instruction, and more while the pc stays in the range.
    Due(Range<u64>),
    /// Did what it was to do.
    Done,
}

/// A hart's part in debugging.
#[derive(Default)]
pub(crate) struct Debug {
    stops: Arc<Stops>,
    /// The watchpoint that was met.
    met: Option<Watch>,
    /// The instruction at the pc was stopped at for its access: it goes through.
    passes: bool,
    /// It is being done.
    passing: bool,
    stepping: Stepping,
}

impl Debug {
    /// Whether there is a breakpoint in the page of `pc`.
    pub(crate) fn breaks_page(&self, pc: u64) -> bool {
        !self.stops.breakpoints.is_empty()
            && self.stops.breakpoints.range(pc & !0xfff..=pc | 0xfff).next().is_some()
    }

    fn breaks_at(&self, pc: u64) -> bool {
        !self.stops.breakpoints.is_empty() && self.stops.breakpoints.contains(&pc)
    }

    /// Whether data of the page of `addr` is watched.
    pub(crate) fn watches_page(&self, addr: u64) -> bool {
        self.stops.watches.iter().any(|w| addr & !0xfff <= w.last() && w.addr <= addr | 0xfff)
    }
}

impl Cpu {
    /// To be called before an access that missed the TLB.
    ///
    /// # Errors
    /// The access is watched: it is not to be done.
    pub(crate) fn watch(&mut self, addr: u64, len: u64, access: Access) -> Result<(), Stop> {
        if self.debug.stops.watches.is_empty() || self.debug.passing {
            return Ok(());
        }
        let write = access == Access::Write;
        match self.debug.stops.watches.iter().find(|w| w.concerns(addr, len, write)) {
            None => Ok(()),
            Some(w) => {
                self.debug.met = Some(*w);
                Err(self.raise(WATCHED, addr))
            }
        }
    }
}

/// A register as debuggers number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// An integer register, 0 to 31.
    X(u8),
    /// The program counter.
    Pc,
    /// A floating-point register, 0 to 31.
    F(u8),
    /// A control and status register, by its address.
    Csr(u16),
    /// The privilege mode: 0, 1 or 3.
    Mode,
}

impl Hart {
    /// Says where to stop from now on.
    pub fn set_stops(&mut self, stops: Arc<Stops>) {
        self.cpu.debug.stops = stops;
        self.cpu.debug.passes = false;
        self.cpu.flush_translations();
    }

    /// Has the next [`Hart::run`] do an instruction, and more while the pc stays in the range, without taking interrupts, and
    /// return [`Halt::Step`]. `None`: it runs as always.
    pub fn set_step(&mut self, while_in: Option<Range<u64>>) {
        self.cpu.debug.stepping = while_in.map_or(Stepping::No, Stepping::Due);
    }

    /// The steps that the debugger asked for, if it did: why the hart returns then.
    pub(crate) fn debug_step(&mut self) -> Option<crate::Exit> {
        let exit = match &self.cpu.debug.stepping {
            Stepping::No if self.cpu.debug.passes => return self.step_on(),
            Stepping::No => return None,
            Stepping::Due(range) => self.debug_steps(range.clone()),
            Stepping::Done => crate::Exit::Debug(Halt::Step),
        };
        if matches!(exit, crate::Exit::Debug(_)) {
            self.cpu.debug.stepping = Stepping::No;
        }
        Some(exit)
    }

    fn debug_steps(&mut self, range: Range<u64>) -> crate::Exit {
        loop {
            match self.step_on() {
                // A call of the firmware is done outside; what it answers belongs to the step.
                Some(exit @ crate::Exit::Sbi { .. }) => {
                    self.cpu.debug.stepping = Stepping::Done;
                    return exit;
                }
                Some(exit @ crate::Exit::Debug(_)) => return exit,
                // `wfi` waits for nothing here.
                Some(crate::Exit::Wfi | crate::Exit::Attention) | None => {}
            }
            if !range.contains(&self.cpu.pc) {
                return crate::Exit::Debug(Halt::Step);
            }
            if self.breaks_here() {
                return crate::Exit::Debug(Halt::Breakpoint);
            }
            if self.cpu.pins.flag().is_raised() {
                return crate::Exit::Attention;
            }
        }
    }

    /// Whether to stop before the instruction at the pc.
    pub(crate) fn breaks_here(&self) -> bool {
        self.cpu.debug.breaks_at(self.cpu.pc)
    }

    /// What the recorded trap means if it is a watchpoint's.
    pub(crate) fn watch_met(&mut self) -> Option<crate::Exit> {
        if self.cpu.trap.0 != WATCHED {
            return None;
        }
        self.cpu.trap = (0, 0);
        self.cpu.debug.passes = true;
        self.cpu.debug.met.take().map(|w| crate::Exit::Debug(Halt::Watch(w)))
    }

    /// Does one instruction; without watching it, if it was stopped at.
    fn step_on(&mut self) -> Option<crate::Exit> {
        self.cpu.debug.passing = std::mem::take(&mut self.cpu.debug.passes);
        let exit = self.step_once();
        self.cpu.debug.passing = false;
        exit
    }

    /// The physical address of `addr` for a debugger: as loads and fetches of the current mode find it, but without regard
    /// to permissions and without a trace in the page tables.
    pub fn debug_translate(&mut self, addr: u64) -> Option<u64> {
        self.cpu.look_up(addr)
    }

    /// A register; `None` if there is none of that number.
    pub fn register(&mut self, r: Register) -> Option<u64> {
        let cpu = &mut self.cpu;
        Some(match r {
            Register::X(n) => *cpu.x.get(usize::from(n))?,
            Register::Pc => cpu.pc,
            Register::F(n) => *cpu.f.get(usize::from(n))?,
            Register::Mode => cpu.mode as u64,
            Register::Csr(n) => {
                with_all_rights(cpu, n, |cpu| cpu.csr_access(CsrOp::Set, n, None, true).ok().map(|(v, _)| v))?
            }
        })
    }

    /// Sets a register; false if there is none of that number or it cannot be set.
    pub fn set_register(&mut self, r: Register, v: u64) -> bool {
        let cpu = &mut self.cpu;
        match r {
            Register::X(0) => {}
            Register::X(n) if n < 32 => cpu.x[usize::from(n)] = v,
            Register::F(n) if n < 32 => {
                cpu.f[usize::from(n)] = v;
                cpu.mstatus |= mstatus::FS;
            }
            Register::Pc => {
                cpu.pc = v & !1;
                cpu.debug.passes = false;
            }
            Register::Mode => {
                let Some(mode) = Mode::from_bits(v).filter(|m| v < 4 && !(cpu.opts.sbi && *m == Mode::M))
                else {
                    return false;
                };
                cpu.mode = mode;
                cpu.update_context();
            }
            Register::Csr(n) => {
                return with_all_rights(cpu, n, |cpu| {
                    cpu.csr_access(CsrOp::Write, n, Some(v), false).ok().map(|_| ())
                })
                .is_some();
            }
            _ => return false,
        }
        true
    }
}

/// Does `f` to the CSR `n` as machine-mode software with floating point on could.
fn with_all_rights<T>(cpu: &mut Cpu, n: u16, f: impl FnOnce(&mut Cpu) -> T) -> T {
    let mode = std::mem::replace(&mut cpu.mode, Mode::M);
    let float = matches!(n, csr::FFLAGS | csr::FRM | csr::FCSR);
    let off = float && cpu.mstatus & mstatus::FS == 0;
    if off {
        cpu.mstatus |= mstatus::FS;
    }
    let r = f(cpu);
    if off {
        cpu.mstatus &= !mstatus::FS;
    }
    cpu.mode = mode;
    cpu.update_context();
    r
}
