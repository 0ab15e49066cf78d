//! The block driver `rbd`: images in Ceph clusters, through Ceph's own libraries.
//!
//! The problem: a cluster is spoken to by `librados` and `librbd`, which are C++ behind an interface in C, start a dozen threads
//! and take longer to load than most programs take to run. So they are looked for when the first node is opened, and a
//! host that has no Ceph needs none. Requests are handed over with the memory that they are about, which the library may use
//! until it calls back, on a thread of its own; whatever else blocks runs on the pool for that.
//!
//! * `library`: finding the libraries, and the functions in them.
//! * `cluster`: a connection to a pool.
//! * `image`: an open image: requests, length, snapshots.
//! * `encryption`: LUKS inside images.
//! * `name`: file names (`rbd:pool/image@snapshot:key=value`).
//! * `driver`, `create`: the driver.
//!
//! Ceph's interface is described in its headers `rados/librados.h` and `rbd/librbd.h`, version 16 and newer.

#![allow(unsafe_code)] // UNSAFETY: functions of C libraries that are found when they are needed, and memory that they are lent

mod cluster;
mod create;
mod driver;
mod encryption;
mod image;
mod library;
mod name;

pub use driver::RBD;

use block::driver::DriverType;

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&RBD];
