//! Files: positioned reads and writes that own their memory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use base::{Errno, IoResult};
use io_uring::{opcode, squeue, types};
use mem::IoBuf;

use crate::executor;
use crate::pool::{unblock, unblock_short};
use crate::reactor::{Memory, Op, Reactor, check};
use crate::writer::Writer;

/// How a file's reads and writes are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AioMode {
    /// System calls on the blocking pool.
    #[default]
    Threads,
    /// The system's native asynchronous I/O, which here is io_uring too.
    Native,
    /// io_uring; the blocking pool on an executor without it.
    IoUring,
}

/// The most segments that one system call takes (the system's IOV_MAX).
const MAX_SEGMENTS: usize = 1024;
/// The most bytes that one call moves: what the kernel itself stops at, in whole pages.
const MAX_BYTES: usize = 0x7fff_f000;

/// An open file for positioned I/O. Clones share the descriptor. Any thread, any executor.
#[derive(Clone, Debug)]
pub struct File {
    fd: Arc<OwnedFd>,
    mode: AioMode,
    /// Does writes that the ring would only hand over.
    writer: Option<Arc<Writer>>,
}

/// The list of `buf`'s segments for a system call, within the call's limits.
pub(crate) fn iovecs(buf: &IoBuf) -> Box<[libc::iovec]> {
    let mut left = MAX_BYTES;
    let mut v = Vec::new();
    for seg in buf.segments().take(MAX_SEGMENTS) {
        let len = seg.len().min(left);
        if len == 0 {
            continue;
        }
        v.push(libc::iovec { iov_base: seg.raw_ptr().cast(), iov_len: len });
        left -= len;
    }
    v.into_boxed_slice()
}

/// Whether this executor has a ring.
fn on_ring() -> bool {
    executor::with_current(|l| matches!(l.reactor, Some(Reactor::Uring(_)))).unwrap_or(false)
}

/// Whether this executor's thread may wait.
fn may_wait() -> bool {
    executor::with_current(|l| l.waits).unwrap_or(false)
}

impl File {
    /// A file on `fd`.
    pub fn from_fd(fd: OwnedFd, mode: AioMode) -> File {
        let writer = if mode == AioMode::IoUring { Writer::for_fd(fd.as_fd()) } else { None };
        File { fd: Arc::new(fd), mode, writer }
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// How reads and writes are done.
    pub fn mode(&self) -> AioMode {
        self.mode
    }

    /// Runs `f` with the descriptor on the blocking pool, which keeps it open until `f` returns.
    pub async fn with_fd<T: Send + 'static>(
        &self,
        f: impl FnOnce(BorrowedFd<'_>) -> T + Send + 'static,
    ) -> T {
        let fd = self.fd.clone();
        unblock(move || f(fd.as_fd())).await
    }

    /// [`File::with_fd`] for a short call ([`crate::unblock_short`]).
    pub async fn with_fd_short<T: Send + 'static>(
        &self,
        f: impl FnOnce(BorrowedFd<'_>) -> T + Send + 'static,
    ) -> T {
        let fd = self.fd.clone();
        unblock_short(move || f(fd.as_fd())).await
    }

    /// Submits to the ring, if the mode wants that and this executor has one.
    async fn ring(
        &self,
        buf: &IoBuf,
        entry: impl FnOnce(types::Fd, &[libc::iovec]) -> squeue::Entry,
    ) -> Option<IoResult<usize>> {
        if self.mode == AioMode::Threads {
            return None;
        }
        let op = {
            let local = executor::current_local();
            let Some(Reactor::Uring(_)) = &local.reactor else { return None };
            let memory = Memory { buf: buf.clone(), iov: iovecs(buf), fd: self.fd.clone() };
            let entry = entry(types::Fd(self.fd.as_raw_fd()), &memory.iov);
            // SAFETY: the entry points at the boxed list and, through it, at the segments, which `memory` holds;
            // neither moves when `memory` does. Racing accesses are the memory's contract (see `mem`).
            unsafe { Op::start(&local, entry, memory) }
        };
        Some(check(op.await))
    }

    /// Reads into `buf` from offset `off`, in bytes; the count read, which may be short, and is 0 at the end of the
    /// file. If the future is dropped, the kernel may still fill `buf`, which stays alive until then.
    pub async fn read_at(&self, off: u64, buf: IoBuf) -> IoResult<usize> {
        let pos = i64::try_from(off).map_err(|_| Errno::INVAL)?;
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let ring = self.ring(&buf, |fd, iov| match iov {
                [v] => opcode::Read::new(fd, v.iov_base.cast(), v.iov_len as u32).offset(off).build(),
                _ => opcode::Readv::new(fd, iov.as_ptr(), iov.len() as u32).offset(off).build(),
            });
            let res = match ring.await {
                Some(r) => r,
                None => {
                    let (fd, buf) = (self.fd.clone(), buf.clone());
                    unblock(move || {
                        let iov = iovecs(&buf);
                        // SAFETY: the list and the segments that it points at live through the call.
                        result(unsafe { libc::preadv(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32, pos) })
                    })
                    .await
                }
            };
            if res != Err(Errno::INTR) {
                return res;
            }
        }
    }

    /// Writes `buf` at offset `off`, in bytes; the count written, which may be short. `dsync`: the data, and what is
    /// needed to find it again, is on stable storage when this ends. A dropped future may or may not have written.
    pub async fn write_at(&self, off: u64, buf: IoBuf, dsync: bool) -> IoResult<usize> {
        let pos = i64::try_from(off).map_err(|_| Errno::INVAL)?;
        if buf.is_empty() {
            return Ok(0);
        }
        let flags = if dsync { libc::RWF_DSYNC } else { 0 };
        let mut handed = false;
        if let Some(writer) = self.writer.as_ref().filter(|_| !dsync && may_wait()) {
            handed = writer.hands_over(buf.len());
            if !handed && let Some(done) = writer.write_here(self.fd(), pos, &buf) {
                return done;
            }
        }
        // A single one is best left to the ring; one that waits for the device would keep the others waiting.
        let counted = self.writer.as_ref().filter(|_| !dsync && on_ring()).map(|w| (w, w.begin()));
        let queues = handed || executor::with_current(|l| l.sole).unwrap_or(false);
        if let Some((writer, _)) = counted.as_ref().filter(|(_, w)| queues || w.among_others()) {
            return writer.write(&self.fd, pos, buf).await;
        }
        let _long = self.writer.as_ref().map(|w| w.begin_long());
        loop {
            let ring = self.ring(&buf, |fd, iov| match iov {
                [v] => opcode::Write::new(fd, v.iov_base.cast(), v.iov_len as u32)
                    .offset(off)
                    .rw_flags(flags)
                    .build(),
                _ => opcode::Writev::new(fd, iov.as_ptr(), iov.len() as u32)
                    .offset(off)
                    .rw_flags(flags)
                    .build(),
            });
            let res = match ring.await {
                Some(r) => r,
                None => {
                    let (fd, buf) = (self.fd.clone(), buf.clone());
                    unblock(move || {
                        let iov = iovecs(&buf);
                        let (ptr, n) = (iov.as_ptr(), iov.len() as i32);
                        // SAFETY: the list and the segments that it points at live through the call.
                        result(unsafe {
                            if flags == 0 {
                                libc::pwritev(fd.as_raw_fd(), ptr, n, pos)
                            } else {
                                libc::pwritev2(fd.as_raw_fd(), ptr, n, pos, flags)
                            }
                        })
                    })
                    .await
                }
            };
            if res != Err(Errno::INTR) {
                return res;
            }
        }
    }

    /// Brings what was written to stable storage (`fdatasync`).
    pub async fn sync_data(&self) -> IoResult<()> {
        let _long = self.writer.as_ref().map(|w| w.begin_long());
        let none = IoBuf::new();
        let ring =
            self.ring(&none, |fd, _| opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build());
        match ring.await {
            Some(r) => r.map(|_| ()),
            None => {
                self.with_fd(|fd| {
                    // SAFETY: the call takes no pointer.
                    result(unsafe { libc::fdatasync(fd.as_raw_fd()) } as isize).map(|_| ())
                })
                .await
            }
        }
    }

    /// Has the system begin to bring what was written to stable storage, and does not wait for that to end: for one who will
    /// call [`File::sync_data`] later, which has less to do then. A failure is told there.
    pub async fn begin_sync(&self) {
        self.with_fd(|fd| {
            // SAFETY: the call takes no pointer.
            unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        })
        .await
    }

    /// `fallocate` with the system's mode bits, over `len` bytes from `off`.
    pub async fn fallocate(&self, mode: i32, off: u64, len: u64) -> IoResult<()> {
        let pos = i64::try_from(off).map_err(|_| Errno::INVAL)?;
        let size = i64::try_from(len).map_err(|_| Errno::INVAL)?;
        let _long = self.writer.as_ref().map(|w| w.begin_long());
        loop {
            let none = IoBuf::new();
            let ring =
                self.ring(&none, |fd, _| opcode::Fallocate::new(fd, len).offset(off).mode(mode).build());
            let res = match ring.await {
                Some(r) => r.map(|_| ()),
                None => {
                    self.with_fd(move |fd| {
                        // SAFETY: the call takes no pointer.
                        result(unsafe { libc::fallocate(fd.as_raw_fd(), mode, pos, size) } as isize)
                            .map(|_| ())
                    })
                    .await
                }
            };
            if res != Err(Errno::INTR) {
                return res;
            }
        }
    }
}

pub(crate) fn result(ret: isize) -> IoResult<usize> {
    usize::try_from(ret).map_err(|_| Errno::last())
}
