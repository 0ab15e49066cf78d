//! Filters: drivers that show the bytes of another node and do something on the way.
//!
//! - `throttle` keeps within the limits of a group; `copy-on-read` stores what comes from backing files.
//! - `copy-before-write` keeps the state of a node at one moment ([`Past`], which jobs use too); `snapshot-access` shows it.
//! - `compress` has all writes stored compressed; `preallocate` allocates ahead where a file grows.
//!
//! A filter's request is for its child unless it says otherwise, so each only implements what it changes.

mod buffers;
mod cbw;
mod compress;
mod cor;
mod past;
mod preallocate;
mod snapshot;
mod throttle;

pub use buffers::{Buffer, Buffers};
pub use cbw::{COPY_BEFORE_WRITE, piece_for};
pub use compress::COMPRESS;
pub use cor::COPY_ON_READ;
pub use past::{MAX_PIECE, MAX_ZEROES, MIN_PIECE, Past, PastSpec};
pub use preallocate::PREALLOCATE;
pub use snapshot::SNAPSHOT_ACCESS;
pub use throttle::THROTTLE;

use api::block_core::BlockdevOptions;
use base::IoResult;
use block::driver::{ChildOption, ChildSlot, Cx, DriverType, Extent, ExtentKind};
use block::perm::Role;
use qapi::{QError, qerr};
use smallvec::{SmallVec, smallvec};

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] =
    &[&THROTTLE, &COPY_ON_READ, &COPY_BEFORE_WRITE, &SNAPSHOT_ACCESS, &COMPRESS, &PREALLOCATE];

/// The child whose bytes are shown.
const FILE: ChildSlot = ChildSlot::File;

/// `file`, filtered.
fn one_child(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let role = Role::FILTERED | Role::PRIMARY;
    smallvec![ChildOption { name: "file", slot: FILE, role, required: true }]
}

/// A filter's answer to where bytes are: in its child, at the same place.
fn in_child(cx: &Cx<'_>, off: u64, len: u64) -> IoResult<Extent> {
    let have = cx.child_len(FILE)?.saturating_sub(off);
    let len = len.min(have.max(1));
    Ok(Extent { len, kind: ExtentKind::Child { slot: FILE, offset: off }, eof: len >= have })
}

/// The cluster size of the image that a node is, or shows.
fn cluster_size(mut cx: Cx<'_>) -> Option<u64> {
    while cx.is_filter() {
        cx = cx.child(FILE).ok()?;
    }
    cx.info().cluster_size
}

/// The options were of another driver: only a bug could do that.
fn not_ours(name: &str) -> QError {
    qerr!("The options are not those of '{name}'")
}
