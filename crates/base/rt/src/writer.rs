//! Writes into the page cache, several at a time.
//!
//! The ring cannot write into the page cache of most file systems without waiting, so it hands each such write to a
//! thread of the kernel's, and the file's lock lets only one of them work. Two changes of threads a write cost more than the write.
//! Here, writes that come while others are in flight queue up, and one thread of the pool does them in a row.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::{Errno, IoResult};
use mem::IoBuf;
use parking_lot::Mutex;

use crate::file::{iovecs, result};
use crate::pool::submit;
use crate::sync::oneshot;

/// After so many writes, or so many bytes, those who wait for them are told.
const ROW: usize = 16;
const ROW_BYTES: usize = 256 << 10;

/// File systems whose page cache the ring can write to: they keep what the ring does best.
const ASYNC: [u64; 2] = [0x5846_5342 /* xfs */, 0x9123_683e /* btrfs */];

/// The writes of an open file.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    queue: Mutex<Queue>,
    in_flight: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Write>,
    /// A thread is at work, and will look again.
    at_work: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

struct Write {
    pos: i64,
    buf: IoBuf,
    done: oneshot::Sender<IoResult<usize>>,
}

/// A write in flight, counted until it is dropped.
pub(crate) struct InFlight<'a>(&'a Writer, bool);

impl InFlight<'_> {
    /// Whether others were in flight when it began.
    pub(crate) fn among_others(&self) -> bool {
        self.1
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Writer {
    /// A writer for `fd`, if it is better off with one.
    pub(crate) fn for_fd(fd: BorrowedFd<'_>) -> Option<Arc<Writer>> {
        use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, fstatfs};
        let regular = FileType::from_raw_mode(fstat(fd).ok()?.st_mode) == FileType::RegularFile;
        let cached = !fcntl_getfl(fd).ok()?.contains(OFlags::DIRECT);
        let handed_over = regular && cached && !ASYNC.contains(&(fstatfs(fd).ok()?.f_type as u64));
        handed_over.then(Arc::default)
    }

    /// Begins a write.
    pub(crate) fn begin(&self) -> InFlight<'_> {
        InFlight(self, self.in_flight.fetch_add(1, Ordering::Relaxed) > 0)
    }

    /// Writes after those that wait already. A dropped future does not stop it.
    pub(crate) async fn write(self: &Arc<Self>, fd: &Arc<OwnedFd>, pos: i64, buf: IoBuf) -> IoResult<usize> {
        let (done, written) = oneshot::channel();
        let idle = {
            let mut q = self.queue.lock();
            q.waiting.push(Write { pos, buf, done });
            !std::mem::replace(&mut q.at_work, true)
        };
        if idle {
            let (me, fd) = (self.clone(), fd.clone());
            submit(move || me.work(fd.as_fd()));
        }
        // The thread answers every write that it takes.
        written.await.unwrap_or(Err(Errno::IO))
    }

    fn work(&self, fd: BorrowedFd<'_>) {
        loop {
            let row = {
                let mut q = self.queue.lock();
                if q.waiting.is_empty() {
                    q.at_work = false;
                    return;
                }
                let (mut n, mut bytes) = (0, 0);
                while n < q.waiting.len().min(ROW) && bytes < ROW_BYTES {
                    bytes += q.waiting[n].buf.len();
                    n += 1;
                }
                q.waiting.drain(..n).collect::<Vec<_>>()
            };
            // All of a row are told together, so that their executor wakes once.
            let done: Vec<_> = row.iter().map(|w| write_now(fd, w.pos, &w.buf)).collect();
            for (w, r) in row.into_iter().zip(done) {
                // Nobody may want to know any more.
                let _ = w.done.send(r);
            }
        }
    }
}

fn write_now(fd: BorrowedFd<'_>, pos: i64, buf: &IoBuf) -> IoResult<usize> {
    let iov = iovecs(buf);
    loop {
        // SAFETY: the list and the segments that it points at live through the call.
        match result(unsafe { libc::pwritev(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32, pos) }) {
            Err(Errno::INTR) => {}
            r => return r,
        }
    }
}
