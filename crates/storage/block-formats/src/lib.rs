//! Small drivers: `raw`, which shows the bytes of its child, and `null-co` and `null-aio`, which have none.

mod null;
mod raw;

pub use null::{NULL_AIO, NULL_CO};
pub use raw::RAW;

use block::driver::DriverType;
use qapi::{QError, qerr};

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&RAW, &NULL_CO, &NULL_AIO];

/// A size or offset that an option says; the schema has it as a signed number.
fn size_option(name: &str, value: Option<i64>) -> Result<Option<u64>, QError> {
    value
        .map(|v| u64::try_from(v).map_err(|_| qerr!("Value '{v}' is out of range for parameter '{name}'")))
        .transpose()
}
