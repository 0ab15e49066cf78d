//! Images that a board puts into guest memory: ELF files, RISC-V kernel `Image`s, raw binaries, initial RAM disks.
//!
//! Everything here works on bytes that were read before and on numbers; [`read_file`] is the only access to files, with
//! a limit on their size.

mod elf;
mod image;
mod place;

pub use image::ImageHeader;
pub use place::{Kernel, Placed, RamRange, place_dtb, place_firmware, place_initrd, place_kernel};

use qapi::QError;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// The largest file that is loaded: 2 GiB.
pub const MAX_FILE: u64 = 2 << 30;

/// Bytes for guest memory, and zeros behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address.
    pub addr: u64,
    /// The file's part.
    pub data: Arc<[u8]>,
    /// Zero bytes behind `data`.
    pub zero: u64,
}

impl Segment {
    /// Bytes without zeros behind them.
    pub fn new(addr: u64, data: impl Into<Arc<[u8]>>) -> Segment {
        Segment { addr, data: data.into(), zero: 0 }
    }

    /// The first address behind it; `None` beyond the address space.
    pub fn end(&self) -> Option<u64> {
        self.addr.checked_add(self.data.len() as u64)?.checked_add(self.zero)
    }
}

/// Reads a whole file of at most [`MAX_FILE`] bytes.
///
/// # Errors
/// `what`, for instance "could not load kernel", with the path and the cause.
pub fn read_file(path: &Path, what: &str) -> Result<Vec<u8>, QError> {
    let fail = |why: String| QError::new(format!("{what} '{}': {why}", path.display()));
    let text = |e: std::io::Error| fail(base::Errno::from(e).to_string());
    let file = std::fs::File::open(path).map_err(text)?;
    let meta = file.metadata().map_err(text)?;
    if meta.is_dir() {
        return Err(fail(base::Errno::ISDIR.to_string()));
    }
    if meta.len() > MAX_FILE {
        return Err(fail(format!("it has {} bytes, more than the limit of {MAX_FILE}", meta.len())));
    }
    // A file may grow, and a pipe has no length: read on no further than the limit.
    let mut data = Vec::with_capacity(meta.len() as usize);
    file.take(MAX_FILE + 1).read_to_end(&mut data).map_err(text)?;
    if data.len() as u64 > MAX_FILE {
        return Err(fail(format!("it is larger than the limit of {MAX_FILE} bytes")));
    }
    Ok(data)
}
