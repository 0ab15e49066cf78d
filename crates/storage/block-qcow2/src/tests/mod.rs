//! Tests of whole images over memory.

mod crash;
mod malformed;
mod mem;
mod random;
mod reference;
mod snapshots;
