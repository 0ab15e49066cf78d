//! The drivers `file`, `host_device` and `host_cdrom`: an image that is a file, a device, or the disc in a drive of the host.
//!
//! One open descriptor does the I/O ([`rt::file::File`]). What makes this more than `pread` and `pwrite`:
//! - *When it may write.* With `auto-read-only` the descriptor is open for reading only as long as nobody above
//!   writes; the writable one is opened while the change of permissions is staged, so that a refusal (`EACCES`) fails
//!   the whole transaction before anything has changed. See `stage.rs`.
//! - *Who else uses the file.* The permissions of the node are published to other programs as byte locks that follow
//!   the descriptor. See `lock.rs`.
//! - *Direct I/O* needs alignment that only the file system knows. See `open.rs`.
//! - *Zoned devices* are written at pointers, which must be followed. See `zoned.rs`.

#![allow(unsafe_code)] // UNSAFETY: byte locks and ioctls of block devices, which no safe wrapper offers

mod cdrom;
mod create;
mod driver;
mod known;
mod lock;
mod name;
pub mod nbd_device;
mod open;
mod stage;
mod sys;
mod zoned;

pub use name::strip_prefix;

use api::block_core::{BlockdevDriverOptions, BlockdevOptionsFile};
use block::driver::{DriverType, Kind, OpenCx, OpenFuture, default_child_perm, no_children};
use block::filename::{FileNames, of_prefix};
use qapi::{QError, qerr};
use std::sync::Arc;

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&FILE, &HOST_DEVICE, &HOST_CDROM];

/// What a reopen may change besides the options that all nodes have.
const MUTABLE: &[&str] = &["drop-cache", "x-check-cache-dropped"];

/// `file`: a regular file.
pub static FILE: DriverType = DriverType {
    name: "file",
    kind: Kind::Protocol,
    mutable_opts: MUTABLE,
    supports_backing: false,
    supports_reopen: true,
    file_names: Some(FileNames {
        prefixes: &["file"],
        parse: |name| Ok(of_prefix("file:", name)),
        older: None,
    }),
    children: no_children,
    child_perm: default_child_perm,
    open: open_node,
    create: Some(&create::FILE),
    ..DriverType::BASE
};

/// `host_device`: a block or character device.
pub static HOST_DEVICE: DriverType = DriverType {
    name: "host_device",
    kind: Kind::Protocol,
    mutable_opts: MUTABLE,
    supports_backing: false,
    supports_reopen: true,
    file_names: Some(FileNames {
        prefixes: &["host_device"],
        parse: |name| Ok(of_prefix("host_device:", name)),
        older: None,
    }),
    children: no_children,
    child_perm: default_child_perm,
    open: open_node,
    create: Some(&create::DEVICE),
    ..DriverType::BASE
};

/// `host_cdrom`: a drive whose disc comes and goes. Without a disc requests fail with ENOMEDIUM.
pub static HOST_CDROM: DriverType = DriverType {
    name: "host_cdrom",
    kind: Kind::Protocol,
    mutable_opts: MUTABLE,
    supports_backing: false,
    supports_reopen: true,
    file_names: Some(FileNames {
        prefixes: &["host_cdrom"],
        parse: |name| Ok(of_prefix("host_cdrom:", name)),
        older: None,
    }),
    children: no_children,
    child_perm: default_child_perm,
    open: open_node,
    create: Some(&create::DEVICE),
    ..DriverType::BASE
};

fn open_node<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    let (want, options) = match &o.options.driver {
        BlockdevDriverOptions::File(f) => (open::Want::File, f.clone()),
        BlockdevDriverOptions::HostDevice(f) => (open::Want::Device, f.clone()),
        BlockdevDriverOptions::HostCdrom(f) => (open::Want::Cdrom, f.clone()),
        _ => return Box::pin(async { Err(QError::new("The options are not those of a file")) }),
    };
    let flags = o.flags;
    Box::pin(async move {
        let config = driver::Config::new(want, &options, flags)?;
        let driver = rt::unblock_short(move || driver::FileDriver::open(config, flags)).await?;
        Ok(Arc::new(driver) as Arc<dyn block::driver::Driver>)
    })
}

/// Refuses what this version does not have.
fn check_supported(options: &BlockdevOptionsFile) -> Result<(), QError> {
    match &options.pr_manager {
        Some(id) => Err(qerr!("No persistent reservation manager with id '{id}'")),
        None => Ok(()),
    }
}
