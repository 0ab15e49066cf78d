//! Image formats, a folder each, and small drivers: `raw`, which shows the bytes of its child, and `null-co` and
//! `null-aio`, which have none.

pub mod blockmap;
pub mod bochs;
pub mod cloop;
pub mod dmg;
mod fields;
mod making;
mod null;
pub mod parallels;
pub mod qcow;
pub mod qed;
mod raw;
mod readonly;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;
pub mod vvfat;

pub use bochs::BOCHS;
pub use cloop::CLOOP;
pub use dmg::DMG;
pub use null::{NULL_AIO, NULL_CO};
pub use parallels::PARALLELS;
pub use qcow::QCOW;
pub use qed::QED;
pub use raw::RAW;
pub use vdi::VDI;
pub use vhdx::VHDX;
pub use vmdk::VMDK;
pub use vpc::VPC;
pub use vvfat::VVFAT;

use api::block_core::BlockdevOptions;
use base::Errno;
use block::driver::{ChildOption, ChildSlot, Cx, DriverType};
use block::perm::Role;
use qapi::{QError, qerr};
use smallvec::{SmallVec, smallvec};

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[
    &RAW, &NULL_CO, &NULL_AIO, &BOCHS, &CLOOP, &DMG, &PARALLELS, &QCOW, &QED, &VDI, &VHDX, &VMDK, &VPC,
    &VVFAT,
];

/// A size or offset that an option says; the schema has it as a signed number.
fn size_option(name: &str, value: Option<i64>) -> Result<Option<u64>, QError> {
    value
        .map(|v| u64::try_from(v).map_err(|_| qerr!("Value '{v}' is out of range for parameter '{name}'")))
        .transpose()
}

/// Why an image cannot be opened.
enum Fault {
    /// With a sentence.
    Said(QError),
    /// With a number alone.
    Plain(Errno),
}

impl From<QError> for Fault {
    fn from(e: QError) -> Fault {
        Fault::Said(e)
    }
}

impl From<Errno> for Fault {
    fn from(e: Errno) -> Fault {
        Fault::Plain(e)
    }
}

impl Fault {
    /// What is told to whoever opens the node.
    fn of(self, cx: &Cx<'_>) -> QError {
        match (self, cx.filename()) {
            (Fault::Said(e), _) => e,
            (Fault::Plain(e), Some(name)) => qerr!("Could not open '{name}': {e}"),
            (Fault::Plain(e), None) => qerr!("Could not open image: {e}"),
        }
    }
}

/// The children of a format that keeps everything in `file`.
fn one_file(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let role = Role::DATA | Role::METADATA | Role::PRIMARY;
    smallvec![ChildOption { name: "file", slot: ChildSlot::File, role, required: true }]
}

/// The same, and a backing file.
fn file_and_backing(o: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let mut all = one_file(o);
    all.push(ChildOption { name: "backing", slot: ChildSlot::Backing, role: Role::COW, required: false });
    all
}
