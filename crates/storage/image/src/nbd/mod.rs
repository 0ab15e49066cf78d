//! `rhea nbd`, and the same binary called as `qemu-nbd`: serves one image over NBD, or lists what another server has.
//!
//! [`parse`] understands the command line, [`list()`] asks a server, [`serve()`] serves, also devices of the kernel;
//! [`disconnect()`] ends those. Signals, going to the background and
//! the pid file are the program's.

mod device;
mod getopt;
mod list;
mod options;
mod serve;
mod snapshot;

pub use device::disconnect;
pub use list::list;
pub use options::{Bad, Connection, Image, Options, Wanted, help, parse, version};
pub use serve::{bind, serve};
