//! Encrypted block nodes.
//!
//! - [`volume`]: opening and making a LUKS volume, wherever its header lies; [`amend()`] changes its key slots.
//! - [`Transform`]: encrypts and decrypts what passes between a node and its child.
//! - `luks`, the driver, is both.

mod amend;
mod create;
mod creation;
mod luks;
mod old;
mod transform;
pub mod volume;

pub use amend::amend;
pub use create::{Place, create};
pub use luks::{LUKS, new_volume};
pub use old::adapt_old;
pub use transform::Transform;

use block::driver::DriverType;

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&LUKS];
