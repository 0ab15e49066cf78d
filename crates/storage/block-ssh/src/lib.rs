//! The block driver `ssh`: files of other hosts, read and written over SFTP.
//!
//! The problem: the file lies behind a connection that takes its time and may break, with a server that may answer anything.
//! Authentication, encryption and the keys of hosts are the business of the program `ssh`, with all that its user has
//! configured: it is started for each node, and SFTP (version 3) is spoken over its standard input and output. Requests are cut
//! into pieces that servers take, many on their way at a time, and each reply is checked against its request before it counts.
//!
//! * `name`: file names (`ssh://user@host/path`).
//! * `program`: how `ssh` is called, and what it says when it fails.
//! * `sftp`: the messages, without I/O.
//! * `session`: requests and replies over a stream.
//! * `file`: the file that a conversation is about.
//! * `driver`, `create`: the driver.

mod create;
mod driver;
mod file;
mod name;
mod program;
mod session;
mod sftp;

pub use driver::SSH;

use block::driver::DriverType;

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&SSH];
