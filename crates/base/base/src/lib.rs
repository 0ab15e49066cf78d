//! Sizes, units, errno values and small types that every floor shares.

mod errno;
pub mod units;

pub use errno::{Errno, IoResult};
