//! Drivers and a simulation for tests (feature `testing`): storage that is slow, reordered, torn and failing on
//! purpose, a small copy-on-write format, and random graphs checked against a flat model.
//!
//! The drivers answer to the names of real ones (`file`, `raw`, `null-co`, `qcow2`), so that options are what users
//! write. Another crate's driver can stand in for any of them.

mod cow;
mod disk;
mod model;
mod plain;
mod sim;
mod zoned;

pub use cow::{COW, create_cow};
pub use disk::{Disk, Faults, SIM_FILE, World, WorldGuard};
pub use plain::{SIM_NULL, SIM_RAW};
pub use sim::{PASSWORD, SimFormat, run_many, run_one};
pub use zoned::{Shape, TOO_MANY_ACTIVE, TOO_MANY_OPEN, ZONED, ZonedDevice};

use crate::driver::DriverType;

/// The drivers of this module.
pub static DRIVERS: &[&DriverType] = &[&SIM_FILE, &SIM_RAW, &SIM_NULL, &COW, &ZONED];
