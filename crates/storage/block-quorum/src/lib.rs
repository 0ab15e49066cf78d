//! Block drivers that keep the same bytes several times: `quorum`, where the copies vote.

mod quorum;
mod report;
mod vote;

pub use quorum::QUORUM;

use api::block_core::{QuorumFailureEvent, QuorumReportBadEvent};
use block::driver::DriverType;
use monitor::CommandTable;

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&QUORUM];

/// Declares the events of these drivers.
pub fn register(table: &mut CommandTable) {
    table.event::<QuorumFailureEvent>();
    table.event::<QuorumReportBadEvent>();
}
