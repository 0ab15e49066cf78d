//! Device trees (Devicetree Specification 0.4) as values: built, parsed, changed and written.
//!
//! A board builds a [`Node`]; a user's blob is parsed into one, so that the loader's changes (command line, initial RAM
//! disk) are made in one way to both.

mod blob;
mod node;

pub use blob::{FdtError, MAX_BLOB, parse, write};
pub use node::{Node, Phandles, cells};
