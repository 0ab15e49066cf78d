//! Image formats, a folder each, and small drivers: `raw`, which shows the bytes of its child, and `null-co` and
//! `null-aio`, which have none.

pub mod blockmap;
mod fields;
mod making;
mod null;
mod raw;
pub mod vdi;
pub mod vpc;

pub use null::{NULL_AIO, NULL_CO};
pub use raw::RAW;
pub use vdi::VDI;
pub use vpc::VPC;

use api::block_core::BlockdevOptions;
use block::driver::{ChildOption, ChildSlot, DriverType};
use block::perm::Role;
use qapi::{QError, qerr};
use smallvec::{SmallVec, smallvec};

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&RAW, &NULL_CO, &NULL_AIO, &VDI, &VPC];

/// A size or offset that an option says; the schema has it as a signed number.
fn size_option(name: &str, value: Option<i64>) -> Result<Option<u64>, QError> {
    value
        .map(|v| u64::try_from(v).map_err(|_| qerr!("Value '{v}' is out of range for parameter '{name}'")))
        .transpose()
}

/// The children of a format that keeps everything in `file`.
fn one_file(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let role = Role::DATA | Role::METADATA | Role::PRIMARY;
    smallvec![ChildOption { name: "file", slot: ChildSlot::File, role, required: true }]
}
