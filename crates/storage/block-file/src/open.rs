//! Opening the file: descriptor, kind, length, and what direct I/O needs. Everything here may block.

use base::units::align_up;
use base::{Errno, IoResult};
use qapi::{QError, qerr};
use rt::AioMode;
use rt::file::File;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, StatxFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What kind of file the driver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// `file`: a regular file.
    File,
    /// `host_device`: a block or character device.
    Device,
    /// `host_cdrom`: the same, a drive whose disc comes and goes.
    Cdrom,
}

impl Want {
    /// The driver's name.
    pub(crate) fn driver(self) -> &'static str {
        match self {
            Want::File => "file",
            Want::Device => "host_device",
            Want::Cdrom => "host_cdrom",
        }
    }
}

/// What the file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Regular,
    Block,
    Char,
}

/// How to open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenMode {
    pub(crate) write: bool,
    pub(crate) direct: bool,
}

/// An open descriptor and what is known of it.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) file: File,
    pub(crate) mode: OpenMode,
    pub(crate) kind: FileKind,
    /// Offsets and lengths of I/O are multiples of this.
    pub(crate) request_alignment: u32,
    /// Addresses of I/O are multiples of this.
    pub(crate) buffer_alignment: u32,
    /// Granularity of discards, bytes.
    pub(crate) discard_alignment: u32,
}

/// The length that the node has for a file of `bytes`: in whole sectors of 512 bytes, as guests see disks. The bytes
/// that the file lacks read as zeroes.
pub(crate) fn sectors(bytes: u64) -> u64 {
    align_up(bytes, 512).unwrap_or(bytes)
}

fn errno(e: rustix::io::Errno) -> Errno {
    Errno::from_raw(e.raw_os_error())
}

/// The file's length in bytes, as it is now.
pub(crate) fn length(fd: BorrowedFd<'_>) -> IoResult<u64> {
    rustix::fs::seek(fd, SeekFrom::End(0)).map_err(errno)
}

impl Open {
    /// Opens `path`.
    pub(crate) fn new(path: &str, want: Want, mode: OpenMode, aio: AioMode) -> Result<Open, QError> {
        let fd = open_fd(path, mode)?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| qerr!("Could not stat file: {}", errno(e)))?;
        let kind = match (want, FileType::from_raw_mode(stat.st_mode)) {
            (Want::File, FileType::RegularFile) => FileKind::Regular,
            (Want::Device | Want::Cdrom, FileType::BlockDevice) => FileKind::Block,
            (Want::Device | Want::Cdrom, FileType::CharacterDevice) => FileKind::Char,
            (Want::File, _) => return Err(qerr!("'file' driver requires '{path}' to be a regular file")),
            (want, _) => {
                return Err(qerr!(
                    "'{}' driver requires '{path}' to be either a character or block device",
                    want.driver()
                ));
            }
        };
        let sector = match kind {
            FileKind::Block => rustix::fs::ioctl_blksszget(&fd).unwrap_or(512).max(512),
            _ => 1,
        };
        let (request_alignment, buffer_alignment) = match (mode.direct, kind) {
            (true, FileKind::Regular | FileKind::Block) => direct_alignment(fd.as_fd(), sector),
            _ => (1, 1),
        };
        // io_uring asks a file without quick reads whether it is ready, and a file system that is a program (FUSE) is then
        // waited for in the middle of the executor. Asked here first, it says once and for all that there is no such thing.
        _ = rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default()));
        // It was wanted only so that the open itself cannot hang (on a pipe without a peer).
        let flags =
            rustix::fs::fcntl_getfl(&fd).map_err(|e| qerr!("Could not open '{path}': {}", errno(e)))?;
        rustix::fs::fcntl_setfl(&fd, flags - OFlags::NONBLOCK)
            .map_err(|e| qerr!("Could not open '{path}': {}", errno(e)))?;
        Ok(Open {
            file: File::from_fd(fd, aio),
            mode,
            kind,
            request_alignment,
            buffer_alignment,
            discard_alignment: sector,
        })
    }
}

fn open_fd(path: &str, mode: OpenMode) -> Result<OwnedFd, QError> {
    let access = if mode.write { OFlags::RDWR } else { OFlags::RDONLY };
    let direct = if mode.direct { OFlags::DIRECT } else { OFlags::empty() };
    let flags = access | direct | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let open = |flags| loop {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            r => return r.map_err(errno),
        }
    };
    open(flags).map_err(|e| {
        if e == Errno::INVAL && mode.direct && open(flags - OFlags::DIRECT).is_ok() {
            return qerr!("Could not open '{path}': filesystem does not support O_DIRECT");
        }
        qerr!("Could not open '{path}': {e}")
    })
}

/// Alignments (of offsets, of memory) of direct I/O: the file system says them; an older kernel does not, and then the
/// most that any needs is taken for memory, and for offsets the device's sector or a page.
fn direct_alignment(fd: BorrowedFd<'_>, sector: u32) -> (u32, u32) {
    if let Ok(s) = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && StatxFlags::from_bits_retain(s.stx_mask).contains(StatxFlags::DIOALIGN)
        && s.stx_dio_offset_align.is_power_of_two()
        && s.stx_dio_mem_align.is_power_of_two()
        && s.stx_dio_offset_align <= 1 << 16
        && s.stx_dio_mem_align <= 4096
    {
        return (s.stx_dio_offset_align.max(sector), s.stx_dio_mem_align);
    }
    (if sector > 1 { sector } else { probe(fd).unwrap_or(4096) }, 4096)
}

/// The smallest length that a direct read accepts; unknown for an empty file, whose end hides the error.
fn probe(fd: BorrowedFd<'_>) -> Option<u32> {
    let buf = mem::IoBuf::zeroed(4096);
    let seg = buf.segments().next()?.clone();
    (length(fd).ok()? >= 4096).then_some(())?;
    [512u32, 1024, 2048, 4096].into_iter().find(|n| {
        use std::os::fd::AsRawFd;
        // SAFETY: the segment has 4096 bytes, which nobody else knows of.
        let got = unsafe { libc::pread(fd.as_raw_fd(), seg.raw_ptr().cast(), *n as usize, 0) };
        got >= 0
    })
}
