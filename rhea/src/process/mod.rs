//! What every program that runs until it is told to end does: going to the background, its pid file, signals, and what
//! is traced.

pub(crate) mod daemon;
mod pidfile;
mod signals;
mod stop;
mod tracing;

pub(crate) use pidfile::PidFile;
pub(crate) use signals::on_signals;
pub(crate) use stop::Stop;
pub(crate) use tracing::{HELP as TRACE_HELP, add_patterns};
