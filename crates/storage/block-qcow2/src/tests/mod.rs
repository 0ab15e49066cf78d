//! Tests of whole images over memory.

mod bitmaps;
mod crash;
mod malformed;
mod mem;
mod random;
mod reference;
mod snapshots;
