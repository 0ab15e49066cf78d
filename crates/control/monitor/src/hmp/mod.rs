//! The human monitor: a table of commands, their arguments, and sessions with line editing.

mod args;
mod readline;
mod session;
mod table;

pub use args::HmpArgs;
pub(crate) use session::{run, terminal};
pub use table::{HmpOutput, HmpTable};
