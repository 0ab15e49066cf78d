//! LUKS version 1 (on-disk format specification 1.2.3): the header, its key slots, new volumes.
//!
//! A volume's sectors are encrypted with a *master key* that never changes. Each of eight *key slots* holds that key, spread by the
//! anti-forensic splitter ([`crate::af`]) and encrypted with a key derived from a password. A digest in the header tells
//! whether a password gave the right master key.
//!
//! Nothing here reads or writes a file. Deriving a key takes as long as the header's counts say ([`MAX_ROUNDS`] bounds it),
//! so it belongs on a thread that may wait.

mod create;
mod header;
mod names;
mod slots;

pub use create::{NewVolume, Volume};
pub use header::{HEADER_LEN, Header, MAX_ROUNDS, SLOTS, STRIPES, Slot, probe};
pub use slots::DEFAULT_ITER_TIME;

#[cfg(test)]
mod tests;
