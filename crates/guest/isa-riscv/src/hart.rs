//! A hart: its state, its decoded code and the loop that runs it.

use crate::code::{CodeCache, SLOTS};
use crate::cpu::{Cpu, CpuState, HartOptions, Stop};
use crate::debug::Halt;
use crate::decode::decode;
use crate::engine::{Engine, Left};
use crate::interp::Exec;
use crate::pins::{Clock, HartPins};
use crate::pmp::Access;
use crate::semantics::execute;
use crate::spec::{Mode, cause, irq};
use mem::{AddressSpace, Size};
use std::sync::Arc;

/// Instructions between two looks at the clock.
const BURST: u64 = 4096;

/// Why a hart returned from guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its flag was raised.
    Attention,
    /// It waits for an interrupt; [`Hart::wakes`] tells when one is there.
    Wfi,
    /// It calls the firmware that is built in (only with [`HartOptions::sbi`]). The answer goes to `a0` and
    /// `a1` by [`Hart::set_arguments`].
    Sbi {
        /// `a7`: the extension.
        ext: u64,
        /// `a6`: the function.
        func: u64,
        /// `a0` to `a5`.
        args: [u64; 6],
    },
    /// It stops for its debugger.
    Debug(Halt),
}

/// Instructions that native code does between two looks.
const NATIVE_BURST: i64 = 16384;

/// One hart.
pub struct Hart {
    pub(crate) cpu: Cpu,
    code: CodeCache,
    /// Makes native code, and its generation as far as this hart has followed.
    engine: Option<Arc<dyn Engine>>,
    generation: u64,
}

impl Hart {
    /// A hart in its reset state.
    pub fn new(
        opts: HartOptions,
        mem: Arc<AddressSpace>,
        pins: Arc<HartPins>,
        clock: Arc<dyn Clock>,
    ) -> Hart {
        Hart {
            cpu: Cpu::new(opts, mem, pins, clock),
            code: CodeCache::default(),
            engine: None,
            generation: 0,
        }
    }

    /// Has `engine` translate what was reached `hot` times. To be called before the hart runs.
    pub fn set_engine(&mut self, engine: Arc<dyn Engine>, hot: u16) {
        self.cpu.heat.set_hot(hot);
        self.generation = engine.generation();
        self.engine = Some(engine);
    }

    /// Power-on: registers as after a reset, caches empty.
    pub fn reset(&mut self) {
        self.cpu.reset();
        self.code.clear();
    }

    /// Begins at `pc` in `mode` with the given `a0` and `a1`, paging off and interrupts masked; other
    /// registers are as after a reset.
    pub fn start(&mut self, pc: u64, a0: u64, a1: u64, mode: Mode) {
        self.cpu.reset();
        self.cpu.pc = pc;
        self.cpu.x[10] = a0;
        self.cpu.x[11] = a1;
        self.cpu.mode = mode;
        self.cpu.update_context();
    }

    /// Sets `a0` and `a1`.
    pub fn set_arguments(&mut self, a0: u64, a1: u64) {
        self.cpu.x[10] = a0;
        self.cpu.x[11] = a1;
    }

    /// All registers.
    pub fn state(&self) -> CpuState {
        self.cpu.state()
    }

    /// Sets all registers.
    pub fn set_state(&mut self, s: &CpuState) {
        self.cpu.set_state(s);
    }

    /// Whether an interrupt ends a `wfi`.
    pub fn wakes(&self) -> bool {
        self.cpu.wakes()
    }

    /// When the hart's own timer will raise an interrupt that it waits for, in ticks; `None` if never.
    pub fn deadline(&self) -> Option<u64> {
        let enabled = self.cpu.mie & irq::STI != 0;
        Some(self.cpu.deadline()).filter(|&d| enabled && d != u64::MAX)
    }

    /// What `fence.i` does: later fetches see memory as it is now.
    pub fn fence_i(&mut self) {
        self.cpu.suspect_code();
    }

    /// What `sfence.vma` does, for a range of `(start, bytes)` (all: `None`) of one address space (all: `None`).
    pub fn sfence_vma(&mut self, range: Option<(u64, u64)>, asid: Option<u64>) {
        self.cpu.flush_tlb(range, asid);
    }

    /// The physical address that a load in the current mode would go to; `None` if it would trap. For
    /// debuggers; sets accessed bits as a load does.
    pub fn translate(&mut self, addr: u64) -> Option<u64> {
        let mode = self.cpu.data_mode();
        self.cpu.translate(addr, Access::Read, mode).ok()
    }

    /// Runs guest code until the flag of its pins is raised (the flag stays raised) or something has to be
    /// done for it.
    pub fn run(&mut self) -> Exit {
        loop {
            let generation = self.cpu.mem.generation();
            if generation != self.cpu.mem_generation {
                self.cpu.mem_generation = generation;
                self.cpu.flush_all();
                self.code.clear();
            }
            if self.cpu.pins.flag().is_raised() {
                return Exit::Attention;
            }
            self.follow_engine();
            if let Some(exit) = self.debug_step() {
                return exit;
            }
            self.cpu.take_interrupt();
            if let Some(exit) = self.burst() {
                return exit;
            }
        }
    }

    /// Forgets translations when the engine does, and sees to code that got hot.
    fn follow_engine(&mut self) {
        let Some(engine) = self.engine.clone() else { return };
        if engine.generation() != self.generation {
            self.generation = engine.generation();
            self.code.clear();
            self.cpu.tlb.flush_fetch();
            self.cpu.forget_native();
        }
        if std::mem::take(&mut self.cpu.heat.tripped)
            && let Some(page) = self.enter_page(self.cpu.pc)
        {
            let slot = (self.cpu.pc & 0xfff) as usize / 2;
            self.code.pages[page as usize].heat(slot, &*engine, self.cpu.opts.ext);
        }
    }

    /// Runs at most [`BURST`] instructions, and [`NATIVE_BURST`] by native code.
    fn burst(&mut self) -> Option<Exit> {
        let mut left = BURST;
        let mut limit = self.cpu.retired + BURST;
        let mut native_left = NATIVE_BURST;
        self.cpu.link = 0;
        let mut from_native = self.engine.is_some();
        loop {
            let pc = self.cpu.pc;
            let Some(page) = self.enter_page(pc) else {
                // Not in the cache: do one instruction the slow way, and look around.
                return self.step();
            };
            if std::mem::take(&mut from_native) {
                self.code.pages[page as usize].adopt();
            }
            let code = &self.code.pages[page as usize];
            if let Some(native) = code.native((pc & 0xfff) as usize / 2)
                && let Some(engine) = &self.engine
            {
                let cpu = &mut self.cpu;
                let link = std::mem::take(&mut cpu.link);
                if link != 0 {
                    engine.link(link, native);
                }
                cpu.jumps.set(pc, native);
                cpu.left = native_left;
                let why = engine.run(cpu, native);
                let done = (native_left - cpu.left) as u64;
                cpu.retired += done;
                limit += done;
                native_left = cpu.left;
                match why {
                    Left::On if native_left > 0 => {
                        if cpu.heat.count(cpu.pc) {
                            return None;
                        }
                        from_native = true;
                        continue;
                    }
                    Left::On | Left::Budget => return None,
                    Left::Trap => return self.finish(Stop::Trap, pc),
                    Left::Step => return self.step(),
                }
            }
            self.cpu.link = 0;
            let ops = &*code.ops;
            let base = pc & !0xfff;
            let mut ex = Exec { cpu: &mut self.cpu, pc, next: pc, left, limit };
            let stop = loop {
                let off = (ex.pc ^ base) as usize;
                if off >= SLOTS * 2 {
                    break Stop::Page;
                }
                let insn = ops[off / 2];
                ex.next = ex.pc.wrapping_add(insn.len());
                if let Err(stop) = execute(&mut ex, insn) {
                    break stop;
                }
                ex.pc = ex.next;
                ex.left -= 1;
                if ex.left == 0 {
                    break Stop::Budget;
                }
            };
            let (at, next) = (ex.pc, ex.next);
            (left, limit) = (ex.left, ex.limit);
            self.cpu.pc = at;
            self.cpu.retired = limit - left;
            match stop {
                Stop::Page => {
                    if self.cpu.pins.flag().is_raised() {
                        return None;
                    }
                }
                Stop::Undecoded => {
                    let slot = (at & 0xfff) as usize / 2;
                    let ext = self.cpu.opts.ext;
                    let page = &mut self.code.pages[page as usize];
                    let end = page.decode_from(slot, ext);
                    trace::log!(InAsm, "----------------\nIN: \n{}\n", page.listing(slot, end, at & !0xfff));
                }
                Stop::Illegal => {
                    let raw = code.raw((at & 0xfff) as usize / 2);
                    self.cpu.take_exception(cause::ILLEGAL, u64::from(raw));
                }
                Stop::Native => {}
                Stop::Straddle => return self.step(),
                Stop::Budget => return None,
                stop => return self.finish(stop, next),
            }
        }
    }

    /// What is left to do after an instruction stopped the loop; `next` is where its successor is.
    fn finish(&mut self, stop: Stop, next: u64) -> Option<Exit> {
        if stop == Stop::Trap {
            if let Some(exit) = self.watch_met() {
                return Some(exit);
            }
            let cpu = &mut self.cpu;
            let (code, tval) = cpu.trap;
            cpu.take_exception(code, tval);
            return None;
        }
        let cpu = &mut self.cpu;
        cpu.pc = next;
        cpu.retired += 1;
        cpu.heat.count(next);
        match stop {
            Stop::Wfi if !cpu.wakes() => Some(Exit::Wfi),
            Stop::Sbi => {
                let x = &cpu.x;
                let args = [x[10], x[11], x[12], x[13], x[14], x[15]];
                Some(Exit::Sbi { ext: x[17], func: x[16], args })
            }
            _ => None,
        }
    }

    /// The index of the code page of `pc`; `None` if it cannot be cached, or cannot be fetched at all.
    #[inline(always)]
    fn enter_page(&mut self, pc: u64) -> Option<u32> {
        if let Some(code) = self.cpu.tlb.fetch(pc)
            && self.code.is_fresh(code, self.cpu.code_epoch)
        {
            return Some(code);
        }
        self.enter_page_slow(pc)
    }

    #[inline(never)]
    fn enter_page_slow(&mut self, pc: u64) -> Option<u32> {
        let cpu = &mut self.cpu;
        if cpu.debug.breaks_page(pc) {
            return None;
        }
        let (pa, uniform) = cpu.resolve(pc, 2, Access::Fetch, cpu.mode).ok()?;
        if !uniform {
            return None;
        }
        let ram = cpu.phys_page(pa)?.0.clone();
        let epoch = cpu.code_epoch;
        let code = match self.code.enter(pa >> 12, &ram, epoch) {
            Some(i) => i,
            None => {
                // With the pages goes the hold on their native code.
                cpu.tlb.flush_fetch();
                cpu.forget_native();
                self.code.enter(pa >> 12, &ram, epoch)?
            }
        };
        cpu.tlb.set_fetch(pc, code);
        Some(code)
    }

    /// Fetches two bytes of code straight from memory.
    fn fetch_half(&mut self, addr: u64) -> Result<u16, u64> {
        let cpu = &mut self.cpu;
        let mode = cpu.mode;
        let pa = match cpu.resolve(addr, 2, Access::Fetch, mode) {
            Ok((pa, _)) => pa,
            Err(f) => return Err(f.cause(Access::Fetch)),
        };
        cpu.mem.load(pa, Size::B2).map(|v| v as u16).map_err(|_| cause::FETCH_ACCESS)
    }

    /// Does one instruction without the cache of decoded code, unless there is a breakpoint.
    fn step(&mut self) -> Option<Exit> {
        if self.breaks_here() {
            return Some(Exit::Debug(Halt::Breakpoint));
        }
        self.step_once()
    }

    /// Does one instruction without the cache of decoded code.
    pub(crate) fn step_once(&mut self) -> Option<Exit> {
        let pc = self.cpu.pc;
        let mut raw = 0;
        for i in 0..2 {
            match self.fetch_half(pc.wrapping_add(2 * i)) {
                Ok(half) => raw |= u32::from(half) << (16 * i),
                Err(code) => {
                    self.cpu.take_exception(code, pc.wrapping_add(2 * i));
                    return None;
                }
            }
            if raw & 3 != 3 {
                break;
            }
        }
        let insn = decode(raw, self.cpu.opts.ext);
        let limit = self.cpu.retired + 1;
        let next = pc.wrapping_add(insn.len());
        let mut ex = Exec { cpu: &mut self.cpu, pc, next, left: 1, limit };
        let done = execute(&mut ex, insn);
        let next = ex.next;
        match done {
            Ok(()) => {
                self.cpu.pc = next;
                self.cpu.retired += 1;
                None
            }
            Err(Stop::Illegal) => {
                self.cpu.take_exception(cause::ILLEGAL, u64::from(raw));
                None
            }
            Err(stop) => self.finish(stop, next),
        }
    }
}
