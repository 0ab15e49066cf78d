//! Tests of whole images over memory.

mod amend;
mod crash;
mod crypt;
mod header;
mod kept;
mod malformed;
mod mem;
mod order;
mod races;
mod random;
mod reference;
mod snapshots;
mod subclusters;
