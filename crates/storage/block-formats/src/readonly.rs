//! What formats share that can only be read.

use crate::blockmap::Space;
use block::driver::NodeFlags;
use qapi::QError;

/// A node of such a format is read-only; one that asks for writing is opened for reading only where it may be.
///
/// # Errors
/// It asks for writing.
pub fn may_open(flags: &NodeFlags, what: &str) -> Result<(), QError> {
    if flags.read_only || flags.auto_read_only { Ok(()) } else { Err(QError::new(what)) }
}

/// There is no place for anything new.
pub const NO_SPACE: Space = Space { next: 0, zero_from: 0 };
