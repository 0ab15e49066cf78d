//! Virtual CPUs: the run loop, threads, pause and resume.
//!
//! [`CpuSet`] holds a machine's harts, one thread each. A hart's thread is at any time either *in guest code*,
//! holding its vCPU, or outside, holding nothing. Whoever wants something of a hart (a pause, its registers, a
//! fence) writes that down in the hart's control block and raises its flag; the thread looks at the block
//! whenever it is about to enter guest code. So a request to a hart that is outside is as good as done.
//!
//! [`Vcpu`] is what a way of running guest code has to offer; the interpreter is the first.

mod accel;
mod clock;
mod debug;
mod set;
mod slot;

pub use accel::{Vcpu, VmExit};
pub use clock::{CpuClock, TIMEBASE_HZ};
pub use debug::{OnHalt, Plan};
pub use isa_riscv::csr_names;
pub use isa_riscv::engine::Engine;
pub use isa_riscv::insn::CACHE_BLOCK;
pub use isa_riscv::text::{F_NAMES, X_NAMES};
pub use isa_riscv::{CpuState, Ext, Halt, HartPins, Mode, Register, Stops, Watch, WatchKind};
pub use set::{CpuSet, HartConfig, HartMask, HartState, SbiHandler, SbiResult, StartError};
