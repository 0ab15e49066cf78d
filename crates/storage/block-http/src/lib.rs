//! Block drivers for images on web servers, to be read: `http` and `https`; and for those in object stores, which are web servers that
//! want requests to be signed: `x-rhea-s3`.
//!
//! The problem: an image of many gigabytes lies behind a server that answers requests for ranges of bytes, slowly, maybe by way of
//! others, and that may answer anything. Each request takes a connection of its own for as long as it lasts (HTTP/1.1, RFC 9112;
//! ranges: RFC 9110, section 14), several at a time. What comes is checked against what was asked before it counts as the
//! image's bytes. Small reads are taken from pieces that are read ahead.

mod ahead;
mod client;
mod conn;
mod driver;
mod head;
mod proxy;
mod s3;
mod sign;
mod url;

pub use driver::{HTTP, HTTPS};
pub use s3::S3;

use block::driver::DriverType;

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&HTTP, &HTTPS, &S3];
