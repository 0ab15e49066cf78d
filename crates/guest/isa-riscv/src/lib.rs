//! RISC-V: decoder, semantics, CPU state, CSRs, MMU, PMP and interpreter.
//!
//! What is emulated is RV64GC with the extensions that [`Ext`] names, Zicsr, Zifencei, Zicntr and Zihpm (counters that read
//! zero); machine, supervisor and user mode; Sv39 and Sv48; sixteen PMP entries.
//!
//! - [`table`] names every instruction; [`decode`] finds it; [`Insn`] is the decoded form.
//! - [`semantics`] says what each does, once, generic over [`semantics::RvSem`].
//! - [`Hart`] runs them: the interpreter over decodes cached by physical page, and native code of an [`engine::Engine`]
//!   where there is some.
//! - [`HartPins`] are a hart's interrupt inputs, for boards.

pub mod compressed;
pub mod decode;
pub mod encode;
pub mod engine;
pub mod insn;
pub mod pmp;
pub mod semantics;
pub mod spec;
pub mod table;
pub mod text;

mod code;
mod cpu;
mod csr;
mod csr_names;
mod debug;
mod hart;
mod interp;
mod jumps;
mod mmu;
mod pins;
mod tlb;
mod trap;

pub use code::SLOTS;
pub use cpu::{Cpu, CpuState, HartOptions};
pub use csr_names::{csr_name, csr_names};
pub use debug::{Halt, Register, Stops, Watch, WatchKind};
pub use hart::{Exit, Hart};
pub use insn::{Ext, Insn};
pub use pins::{Clock, HartPins};
pub use spec::Mode;
