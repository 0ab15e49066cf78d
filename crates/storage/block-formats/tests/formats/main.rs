//! Image formats: conformance, cross-reading with the reference, crashes, damaged headers.

#[path = "../../../block-file/tests/conformance/mod.rs"]
mod conformance;

mod bed;
mod chains;
mod crash;
mod cross;
mod encrypted;
mod fixed;
mod repair;
mod vvfat;
mod vvfat_rw;
