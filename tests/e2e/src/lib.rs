//! The harness of the end-to-end tests and of `cargo xtask demo`: starts `rhea`, talks QMP to it, and holds a
//! conversation with the guest on its serial console.
//!
//! Everything here is synchronous and has a time limit: a test that waits in vain says for what.

mod console;
mod daemon;
mod guests;
pub mod nbd;
mod qmp;
mod vm;

pub use console::Console;
pub use daemon::StorageDaemon;
pub use guests::{DebianGuest, embedded_guest, workspace};
pub use qmp::{Qmp, QmpError};
pub use vm::{ScratchDir, Vm, VmBuilder, rhea_binary, run_tool};

/// Says that a test is left out, and why: what it needs is not on this machine.
///
/// Returns from the test. A test must not pass silently for want of its tool.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        eprintln!("skipped: {}", format_args!($($why)*));
        return;
    }};
}
