//! Boards and the machine's life: riscv64 virt, run states, reset and shutdown.
//!
//! [`MachineConfig`] says what a machine is to be, [`Machine::build`] makes it. vCPUs, devices and signals note what they
//! want in [`Requests`]; a task on the control thread does it, so that stopping, resetting and ending come one after the
//! other. [`qmp::register`] gives monitors their commands.

mod config;
mod host;
mod identity;
mod machine;
pub mod options;
pub mod qmp;
mod registers;
mod requests;
mod roms;
mod runstate;
pub mod virt;

pub use config::{Bios, MachineConfig, MachineKind};
pub use identity::{BadUuid, Uuid};
pub use jit::{JitInfo, JitOptions};
pub use machine::{Machine, MachineEnv};
pub use options::MachineOptions;
pub use requests::Requests;
pub use runstate::{Actions, PanicAction, RebootAction, RunState, ShutdownAction, ShutdownCause};
