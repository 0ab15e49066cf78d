//! Sizes, units, errno values, small types and printing, which every floor shares.

mod errno;
mod print;
pub mod units;

pub use errno::{Errno, IoResult};
pub use print::{print, print_error};
