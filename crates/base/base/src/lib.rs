//! Sizes, units, errno values, small types and printing, which every floor shares.

mod errno;
mod print;
pub mod units;

pub use errno::{Errno, IoResult};
pub use print::{print, print_error};

/// The folder for temporary files: `TMPDIR`, else `/var/tmp`, since they may grow large.
pub fn temporary_dir() -> std::path::PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), Into::into)
}
