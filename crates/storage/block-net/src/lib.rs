//! Block drivers for storage on the network: `nbd`, an export of an NBD server.
//!
//! The problem: many requests share one connection, which may be slow, lie, or go away. Each request is written by
//! whoever makes it and waits for its answer; one task reads all answers. What the server says is checked against what
//! was asked before a byte of it is used, and a connection on which something does not fit is given up. When
//! a connection is lost, another task gets a new one, and requests wait for that as long as the user said.

mod conn;
mod driver;
mod lanes;
mod link;
mod name;

pub use driver::NBD;

use block::driver::DriverType;

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&NBD];
