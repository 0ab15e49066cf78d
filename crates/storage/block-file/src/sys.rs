//! System calls without a safe wrapper: locks of byte ranges and ioctls of block devices.

use base::{Errno, IoResult};
use std::os::fd::{AsRawFd, BorrowedFd};

fn flock(kind: i32, byte: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

fn control(fd: BorrowedFd<'_>, cmd: i32, lock: &mut libc::flock) -> IoResult<()> {
    loop {
        // SAFETY: `lock` is a valid `struct flock`, which the call reads and writes.
        if unsafe { libc::fcntl(fd.as_raw_fd(), cmd, &raw mut *lock) } == 0 {
            return Ok(());
        }
        match Errno::last() {
            Errno::INTR => {}
            e => return Err(e),
        }
    }
}

/// Takes a shared lock on one byte, which belongs to the open file description.
pub(crate) fn lock_byte(fd: BorrowedFd<'_>, byte: u64) -> IoResult<()> {
    control(fd, libc::F_OFD_SETLK, &mut flock(libc::F_RDLCK, byte))
}

/// Gives the lock on one byte back.
pub(crate) fn unlock_byte(fd: BorrowedFd<'_>, byte: u64) -> IoResult<()> {
    control(fd, libc::F_OFD_SETLK, &mut flock(libc::F_UNLCK, byte))
}

/// Whether another open file description has a lock on the byte.
pub(crate) fn is_locked(fd: BorrowedFd<'_>, byte: u64) -> IoResult<bool> {
    let mut l = flock(libc::F_WRLCK, byte);
    control(fd, libc::F_OFD_GETLK, &mut l)?;
    Ok(i32::from(l.l_type) != libc::F_UNLCK)
}

// linux/fs.h; libc does not have them.
const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127f;

/// Tells a block device that a range's content does not matter.
pub(crate) fn device_discard(fd: BorrowedFd<'_>, off: u64, len: u64) -> IoResult<()> {
    device_range(fd, BLKDISCARD, off, len)
}

/// Makes a block device write zeroes.
pub(crate) fn device_zero(fd: BorrowedFd<'_>, off: u64, len: u64) -> IoResult<()> {
    device_range(fd, BLKZEROOUT, off, len)
}

fn device_range(fd: BorrowedFd<'_>, request: libc::c_ulong, off: u64, len: u64) -> IoResult<()> {
    let range = [off, len];
    loop {
        // SAFETY: both requests read two 64-bit numbers and nothing else.
        if unsafe { libc::ioctl(fd.as_raw_fd(), request as _, range.as_ptr()) } == 0 {
            return Ok(());
        }
        match Errno::last() {
            Errno::INTR => {}
            e => return Err(e),
        }
    }
}
