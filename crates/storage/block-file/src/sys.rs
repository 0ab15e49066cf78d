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

// linux/blkzoned.h; of 16 bytes each, as `device_range` has it, and BLKREPORTZONE reads and writes them and what follows.
pub(crate) const BLKREPORTZONE: libc::c_ulong = 0xc010_1282;
pub(crate) const BLKRESETZONE: libc::c_ulong = 0x4010_1283;
pub(crate) const BLKOPENZONE: libc::c_ulong = 0x4010_1286;
pub(crate) const BLKCLOSEZONE: libc::c_ulong = 0x4010_1287;
pub(crate) const BLKFINISHZONE: libc::c_ulong = 0x4010_1288;
/// The length of `struct blk_zone_report` without its zones, in words of 64 bits.
pub(crate) const REPORT_WORDS: usize = 2;
/// The length of `struct blk_zone`, in words of 64 bits.
pub(crate) const ZONE_WORDS: usize = 8;

/// Asks a zoned device for the zones from the one at `sector` on, `most` at most: a `struct blk_zone_report` with its zones.
pub(crate) fn zone_report(fd: BorrowedFd<'_>, sector: u64, most: u32) -> IoResult<Vec<u64>> {
    let mut words = vec![0; REPORT_WORDS + ZONE_WORDS * most as usize];
    loop {
        words[..REPORT_WORDS].copy_from_slice(&report_header(sector, most));
        // SAFETY: the request reads the header, and writes it and as many zones as that says, for which there is room.
        if unsafe { libc::ioctl(fd.as_raw_fd(), BLKREPORTZONE as _, words.as_mut_ptr()) } == 0 {
            return Ok(words);
        }
        match Errno::last() {
            Errno::INTR => {}
            e => return Err(e),
        }
    }
}

/// What BLKREPORTZONE is given: the first sector, how many zones, and flags.
pub(crate) fn report_header(sector: u64, most: u32) -> [u64; REPORT_WORDS] {
    let [a, b, c, d] = most.to_ne_bytes();
    [sector, u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])]
}

/// Does to the zones of a range of sectors what `request` says: one of those above.
pub(crate) fn zone_range(
    fd: BorrowedFd<'_>,
    request: libc::c_ulong,
    sector: u64,
    sectors: u64,
) -> IoResult<()> {
    device_range(fd, request, sector, sectors)
}

// linux/cdrom.h
const CDROM_DRIVE_STATUS: libc::c_ulong = 0x5326;
/// For drives with several slots: the one in use.
const CDSL_CURRENT: libc::c_int = libc::c_int::MAX;
/// The answer of a drive that holds a disc.
pub(crate) const CDS_DISC_OK: i32 = 4;

/// Asks a drive for its disc and tray.
pub(crate) fn drive_status(fd: BorrowedFd<'_>) -> IoResult<i32> {
    // SAFETY: the request takes a number and touches no memory.
    match unsafe { libc::ioctl(fd.as_raw_fd(), CDROM_DRIVE_STATUS as _, CDSL_CURRENT) } {
        -1 => Err(Errno::last()),
        status => Ok(status),
    }
}

fn device_range(fd: BorrowedFd<'_>, request: libc::c_ulong, off: u64, len: u64) -> IoResult<()> {
    let range = [off, len];
    loop {
        // SAFETY: all these requests read two 64-bit numbers and nothing else.
        if unsafe { libc::ioctl(fd.as_raw_fd(), request as _, range.as_ptr()) } == 0 {
            return Ok(());
        }
        match Errno::last() {
            Errno::INTR => {}
            e => return Err(e),
        }
    }
}

/// `struct fsxattr` of linux/fs.h: flags, the extent size hint, and what is left as it is.
type FsxAttr = [u32; 7];

const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
const FS_XFLAG_EXTSIZE: u32 = 0x800;
const FS_IOC_GETFLAGS: libc::c_ulong = 0x8008_6601;
const FS_IOC_SETFLAGS: libc::c_ulong = 0x4008_6602;
const FS_NOCOW_FL: libc::c_int = 0x0080_0000;

/// How many bytes the file system allocates for a new file at a time, unless told otherwise: large pieces keep images whole.
const EXTENT_SIZE: u64 = 1 << 20;

/// Asks the file system for an extent size (0: its own choice) and for no copies on write. One that has no such thing
/// does as it always does.
pub(crate) fn set_layout(file: &std::fs::File, extent_size: Option<u64>, nocow: bool) {
    let fd = file.as_raw_fd();
    let size = u32::try_from(extent_size.unwrap_or(EXTENT_SIZE)).unwrap_or(0);
    if size > 0 {
        let mut attr: FsxAttr = [0; 7];
        // SAFETY: both requests work on 28 bytes, which the array has.
        unsafe {
            if libc::ioctl(fd, FS_IOC_FSGETXATTR as _, attr.as_mut_ptr()) == 0 {
                attr[0] |= FS_XFLAG_EXTSIZE;
                attr[1] = size;
                libc::ioctl(fd, FS_IOC_FSSETXATTR as _, attr.as_ptr());
            }
        }
    }
    if nocow {
        let mut flags: [libc::c_long; 1] = [0];
        // SAFETY: the requests are declared with a long, and use an int of it at most.
        unsafe {
            if libc::ioctl(fd, FS_IOC_GETFLAGS as _, flags.as_mut_ptr()) == 0 {
                flags[0] |= libc::c_long::from(FS_NOCOW_FL);
                libc::ioctl(fd, FS_IOC_SETFLAGS as _, flags.as_ptr());
            }
        }
    }
}
