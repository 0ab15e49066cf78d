//! Block drivers that keep the same bytes several times: `quorum`, where the copies vote.

mod quorum;
mod report;
mod vote;

pub use quorum::QUORUM;

use block::driver::DriverType;

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&QUORUM];
