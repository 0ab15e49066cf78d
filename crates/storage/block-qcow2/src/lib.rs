//! The qcow2 format, versions 2 and 3.
//!
//! A qcow2 image maps guest clusters to clusters of its file by two levels of tables, and counts the references to
//! each cluster of the file. What an image does not have itself shows through from its backing file.
//!
//! - [`spec`]: names and numbers of the public specification; [`geometry`]: its arithmetic; [`header`]: the header.
//! - [`image`]: an open image over a [`host::Host`]: its locks and the order of its writes are explained there.
//! - [`driver`]: the driver of the block graph; [`mod@create`], [`mod@amend`] and [`check`]: new images, changes of what an image is,
//!   checks and repairs.
//! - [`snapshots`]: internal snapshots; [`bitmaps`]: persistent dirty bitmaps; `live`: how they survive a crash; `pack`:
//!   compressed writes.
//!
//! - [`crypt`]: encryption: LUKS inside the image, or the old way.

mod alloc;
pub mod amend;
pub mod bitmap;
pub mod bitmaps;
pub mod check;
pub(crate) mod clean;
pub mod compress;
pub mod create;
mod creation;
pub mod crypt;
pub mod driver;
mod epoch;
pub mod geometry;
pub mod header;
mod header_write;
pub mod host;
pub mod image;
pub mod info;
mod io;
pub mod l2map;
mod live;
mod measure;
pub mod opts;
pub mod overlap;
mod pack;
pub mod snapshot;
pub mod snapshots;
pub mod spec;
mod table;
mod vmstate;
mod zero;

pub use driver::{DRIVERS, QCOW2};

#[cfg(test)]
mod tests;
