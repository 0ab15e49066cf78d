//! Network block devices of this host's kernel, `/dev/nbdN`: the calls of `linux/nbd.h`.
//!
//! The kernel takes a connected socket on which the handshake is done, and speaks the NBD protocol's simple form on it as long
//! as one thread stays in [`NbdDevice::serve`].

use base::{Errno, IoResult};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

// linux/nbd.h: _IO(0xab, N).
const SET_SOCK: libc::c_ulong = 0xab00;
const SET_BLKSIZE: libc::c_ulong = 0xab01;
const DO_IT: libc::c_ulong = 0xab03;
const CLEAR_SOCK: libc::c_ulong = 0xab04;
const SET_SIZE_BLOCKS: libc::c_ulong = 0xab07;
const DISCONNECT: libc::c_ulong = 0xab08;
const SET_FLAGS: libc::c_ulong = 0xab0a;
// linux/fs.h: _IO(0x12, 95).
const BLKRRPART: libc::c_ulong = 0x125f;

/// An open device. Any thread may use it, but the calls from [`NbdDevice::set_socket`] to [`NbdDevice::serve`] must come from one:
/// the kernel keeps the device for the thread that began to set it up.
#[derive(Debug)]
pub struct NbdDevice {
    fd: OwnedFd,
}

impl NbdDevice {
    /// Opens it. Blocks.
    ///
    /// # Errors
    /// The system's. What is no such device opens as well; the calls fail.
    pub fn open(path: &Path) -> IoResult<NbdDevice> {
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        fd.map(|fd| NbdDevice { fd }).map_err(|e| Errno::from_raw(e.raw_os_error()))
    }

    fn control(&self, request: libc::c_ulong, number: u64) -> IoResult<()> {
        // SAFETY: all requests of this module take a number or nothing, never an address.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), request as _, number as libc::c_ulong) } {
            -1 => Err(Errno::last()),
            _ => Ok(()),
        }
    }

    /// Gives the kernel the connection; it keeps its own reference.
    ///
    /// # Errors
    /// `EBUSY` where the device is in use; `ENOTTY` where it is none.
    pub fn set_socket(&self, socket: BorrowedFd<'_>) -> IoResult<()> {
        self.control(SET_SOCK, u64::try_from(socket.as_raw_fd()).map_err(|_| Errno::BADF)?)
    }

    /// Says how long the device is: `count` blocks of `block` bytes, which must be a power of two from 512 to 4096.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_size(&self, block: u32, count: u64) -> IoResult<()> {
        self.control(SET_BLKSIZE, u64::from(block))?;
        self.control(SET_SIZE_BLOCKS, count)
    }

    /// Hands the transmission flags of the handshake over.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_flags(&self, flags: u16) -> IoResult<()> {
        self.control(SET_FLAGS, u64::from(flags))
    }

    /// Has the kernel send the device's requests. Blocks until the device is disconnected, or the connection ends.
    ///
    /// # Errors
    /// The kernel's: it could not begin, or the connection has broken.
    pub fn serve(&self) -> IoResult<()> {
        self.control(DO_IT, 0)
    }

    /// Ends the connection, whoever holds it. Requests on their way are answered first. What cannot be ended is none: there
    /// is no error. Blocks.
    pub fn disconnect(&self) {
        _ = self.control(DISCONNECT, 0);
        _ = self.control(CLEAR_SOCK, 0);
    }

    /// Gives the connection up that was set, where it was not served.
    pub fn clear(&self) {
        _ = self.control(CLEAR_SOCK, 0);
    }

    /// Looks for partitions. Blocks, and reads the device.
    ///
    /// # Errors
    /// The kernel's.
    pub fn find_partitions(&self) -> IoResult<()> {
        self.control(BLKRRPART, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn other_devices_are_none() {
        let device = NbdDevice::open(Path::new("/dev/null")).unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(device.set_socket(socket.as_fd()), Err(Errno::from_raw(libc::ENOTTY)));
        assert_eq!(device.serve(), Err(Errno::from_raw(libc::ENOTTY)));
        device.disconnect();
        assert_eq!(NbdDevice::open(Path::new("/dev/rhea-none")).unwrap_err(), Errno::NOENT);
    }
}
