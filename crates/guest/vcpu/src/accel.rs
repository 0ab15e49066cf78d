//! The trait behind which the ways of running a guest stand.

use isa_riscv::{CpuState, Exit, Hart, Mode, Register, Stops};
use sem::ExitFlag;
use std::ops::Range;
use std::sync::Arc;

/// Why a vCPU returned from guest code.
pub type VmExit = Exit;

/// One virtual CPU, by whatever means it runs.
pub trait Vcpu: Send {
    /// Runs guest code until `until` is raised (it stays raised) or the guest needs something. `until` is
    /// the flag of the vCPU's own interrupt pins.
    fn run(&mut self, until: &ExitFlag) -> VmExit;
    /// All registers.
    fn state(&self) -> CpuState;
    /// Sets all registers.
    fn set_state(&mut self, s: &CpuState);
    /// Registers as after power-on.
    fn reset(&mut self);
    /// Begins at `pc` with `a0` and `a1` and otherwise fresh registers.
    fn start(&mut self, pc: u64, a0: u64, a1: u64, mode: Mode);
    /// Sets `a0` and `a1`: the answer to a firmware call.
    fn set_arguments(&mut self, a0: u64, a1: u64);
    /// Whether an interrupt is pending that ends a `wfi`.
    fn wakes(&self) -> bool;
    /// When the vCPU's own timer will be pending, in ticks.
    fn deadline(&self) -> Option<u64>;
    /// Later fetches see memory as it is now.
    fn fence_i(&mut self);
    /// Later translations see page tables as they are now: a range of `(start, bytes)` (all: `None`) of an
    /// address space (all: `None`).
    fn sfence_vma(&mut self, range: Option<(u64, u64)>, asid: Option<u64>);
    /// Where to stop for the debugger, from now on.
    fn set_stops(&mut self, stops: Arc<Stops>);
    /// Whether the next run does one instruction, and more only while the pc stays in a range.
    fn set_step(&mut self, while_in: Option<Range<u64>>);
    /// A register; `None` if there is none of that number.
    fn register(&mut self, r: Register) -> Option<u64>;
    /// Sets a register; false if that cannot be.
    fn set_register(&mut self, r: Register, v: u64) -> bool;
    /// The physical address of a virtual one, without regard to permissions; `None` if there is none.
    fn translate(&mut self, addr: u64) -> Option<u64>;
}

/// The interpreter.
impl Vcpu for Hart {
    fn run(&mut self, _until: &ExitFlag) -> VmExit {
        Hart::run(self)
    }

    fn state(&self) -> CpuState {
        Hart::state(self)
    }

    fn set_state(&mut self, s: &CpuState) {
        Hart::set_state(self, s);
    }

    fn reset(&mut self) {
        Hart::reset(self);
    }

    fn start(&mut self, pc: u64, a0: u64, a1: u64, mode: Mode) {
        Hart::start(self, pc, a0, a1, mode);
    }

    fn set_arguments(&mut self, a0: u64, a1: u64) {
        Hart::set_arguments(self, a0, a1);
    }

    fn wakes(&self) -> bool {
        Hart::wakes(self)
    }

    fn deadline(&self) -> Option<u64> {
        Hart::deadline(self)
    }

    fn fence_i(&mut self) {
        Hart::fence_i(self);
    }

    fn sfence_vma(&mut self, range: Option<(u64, u64)>, asid: Option<u64>) {
        Hart::sfence_vma(self, range, asid);
    }

    fn set_stops(&mut self, stops: Arc<Stops>) {
        Hart::set_stops(self, stops);
    }

    fn set_step(&mut self, while_in: Option<Range<u64>>) {
        Hart::set_step(self, while_in);
    }

    fn register(&mut self, r: Register) -> Option<u64> {
        Hart::register(self, r)
    }

    fn set_register(&mut self, r: Register, v: u64) -> bool {
        Hart::set_register(self, r, v)
    }

    fn translate(&mut self, addr: u64) -> Option<u64> {
        Hart::debug_translate(self, addr)
    }
}
