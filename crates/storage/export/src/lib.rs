//! Block exports: nodes of the block graph, served to other programs.
//!
//! The problem: a client is not to be trusted and may vanish at any moment, while the node that it uses may be drained,
//! removed, resized or busy. So an export is a root of the graph like any device's: a drain closes its gate, its
//! permissions are checked (and make a file with dynamic `auto-read-only` writable for as long as the export lives),
//! and a request that is on its way goes on to its end when its client is gone. What one client may occupy of memory
//! is bounded, so it harms only itself.
//!
//! - [`Exports`] adds, removes and lists exports, and holds the NBD server.
//! - [`ExportKind`] is what a crate of a higher floor implements that serves nodes in another way.
//! - [`qmp`] registers the commands.

mod conn;
mod input;
mod kind;
mod nbd_export;
pub mod qmp;
mod registry;
mod server;
mod status;
mod threads;

pub use kind::{ExportKind, LocalFuture, NewExport, Running};
pub use registry::Exports;
