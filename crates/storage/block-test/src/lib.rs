//! Block drivers for tests: `blkdebug`, which fails and holds back requests by rules, and `blkverify`, which compares two
//! nodes, `blklogwrites`, which keeps a log of writes, and `blkreplay`, for record and replay.

mod blkdebug;
mod blklogwrites;
mod blkreplay;
mod blkverify;
mod breakpoints;
mod config;
mod dm_log;
mod rules;

pub use blkdebug::BLKDEBUG;
pub use blklogwrites::BLKLOGWRITES;
pub use blkreplay::BLKREPLAY;
pub use blkverify::{BLKVERIFY, disagreed};
pub use breakpoints::Breakpoints;

use block::driver::DriverType;

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&BLKDEBUG, &BLKVERIFY, &BLKLOGWRITES, &BLKREPLAY];
