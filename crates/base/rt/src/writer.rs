//! Writes into the page cache.
//!
//! The ring cannot write into the page cache of most file systems without waiting, so it hands each such write to a
//! thread of the kernel's, and the file's lock lets only one of them work. Two changes of threads a write cost ten times
//! what the write does. So there are two other ways:
//!
//! * A thread that is [made for storage](crate::Conduct::storage) does short writes itself. Mostly that is a copy of some
//!   kilobytes; but at times the file system lets writers wait, and [`Patience`] sees to it that the thread loses little
//!   time by that. Where it has other things to do, it hands over those that are not quite so short.
//! * Elsewhere, writes that come while others are in flight queue up, and one thread of the pool does them in a row. So do all
//!   longer ones of [a tool](crate::Conduct::tool).
//!
//! Of a long write that goes where nothing stood before, ext4 is told in one piece, which it then allocates at once instead of
//! block by block: that takes a quarter of the time off a copy.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use base::{Errno, IoResult};
use mem::IoBuf;
use parking_lot::Mutex;

use crate::executor;
use crate::file::{iovecs, result};
use crate::patience::{LATE, Patience};
use crate::pool::submit;
use crate::sync::oneshot;

/// After so many writes, or so many bytes, those who wait for them are told.
const ROW: usize = 16;
const ROW_BYTES: usize = 256 << 10;

/// The longest write that a thread does itself, bytes: longer ones are worth a change of threads.
const SHORT: usize = 128 << 10;

/// The shortest write that a thread hands over where it has other things to do, bytes: copying it takes longer than that.
const WORTH_HANDING: usize = 32 << 10;

/// The shortest write that is worth telling the file system of before, bytes.
const LONG: usize = 256 << 10;

/// So many long writes at most are not told of after it was no use.
const MOST_SKIPPED: u32 = 1024;

/// What ext2 to ext4 are called.
const EXT4: u64 = 0xef53;

/// File systems whose page cache the ring can write to: they keep what the ring does best.
const ASYNC: [u64; 2] = [0x5846_5342 /* xfs */, 0x9123_683e /* btrfs */];

/// File systems that keep their data on this host, so that a write waits for no other program: ext2 to ext4, tmpfs, f2fs.
const LOCAL: [u64; 3] = [EXT4, 0x0102_1994, 0xf2f5_2010];

/// The writes of an open file.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    queue: Mutex<Queue>,
    in_flight: AtomicUsize,
    /// Whether a write waits for this host only.
    local: bool,
    /// Whether allocating in long pieces is worth while.
    reserving: Mutex<Reserving>,
    /// Operations in flight that may hold the file's lock, or the file system's, for long.
    long: AtomicUsize,
    patience: Mutex<Patience>,
}

/// Whether the file system is told of long writes before. That is of use only where nothing stands yet, which turns out.
#[derive(Debug, Default)]
struct Reserving {
    /// It can be told.
    works: bool,
    /// Writes not to tell of at the next failure, and still.
    penalty: u32,
    skip: u32,
}

impl Reserving {
    /// Whether the next long write is told of.
    fn turn(&mut self) -> bool {
        let now = self.works && self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        now
    }

    /// It was told of one: whether that was of use.
    fn told(&mut self, useful: bool) {
        self.penalty = if useful { 0 } else { (self.penalty * 2).clamp(1, MOST_SKIPPED) };
        self.skip = self.penalty;
    }
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Write>,
    /// A thread is at work, and will look again.
    at_work: bool,
    /// When it began what it does now.
    since: Option<Instant>,
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

/// An operation that may take long, counted until it is dropped.
pub(crate) struct Long<'a>(&'a Writer);

impl Drop for Long<'_> {
    fn drop(&mut self) {
        self.0.long.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Writer {
    /// A writer for `fd`, if it is better off with one.
    pub(crate) fn for_fd(fd: BorrowedFd<'_>) -> Option<Arc<Writer>> {
        use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, fstatfs};
        let regular = FileType::from_raw_mode(fstat(fd).ok()?.st_mode) == FileType::RegularFile;
        let cached = !fcntl_getfl(fd).ok()?.contains(OFlags::DIRECT);
        let fs = fstatfs(fd).ok()?.f_type as u64;
        let handed_over = regular && cached && !ASYNC.contains(&fs);
        handed_over.then(|| {
            let reserving = Reserving { works: fs == EXT4, ..Reserving::default() };
            Arc::new(Writer {
                local: LOCAL.contains(&fs),
                reserving: Mutex::new(reserving),
                ..Writer::default()
            })
        })
    }

    /// Begins a write.
    pub(crate) fn begin(&self) -> InFlight<'_> {
        InFlight(self, self.in_flight.fetch_add(1, Ordering::Relaxed) > 0)
    }

    /// Begins what no write should wait behind.
    pub(crate) fn begin_long(&self) -> Long<'_> {
        self.long.fetch_add(1, Ordering::Relaxed);
        Long(self)
    }

    /// Writes on this thread, which is one for storage, unless that might make it wait: then `None`.
    pub(crate) fn write_here(&self, fd: BorrowedFd<'_>, pos: i64, buf: &IoBuf) -> Option<IoResult<usize>> {
        if !self.local || buf.len() > SHORT || self.long.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let begun = Instant::now();
        if self.in_flight.load(Ordering::Relaxed) > 0
            && self.queue.lock().since.is_some_and(|t| begun.saturating_duration_since(t) > LATE)
        {
            return None;
        }
        let watch = self.patience.lock().watch(begun)?;
        let done = write_now(fd, pos, buf);
        let took = begun.elapsed();
        if took > LATE {
            let waited = watch.has_waited();
            self.patience.lock().took(begun, took, waited);
        }
        Some(done)
    }

    /// Whether a write is handed over by a thread that could do it itself: others are being done already, or it has other
    /// things to do meanwhile.
    pub(crate) fn hands_over(&self, len: usize) -> bool {
        /// With one processor nothing is done meanwhile.
        static ALONE: LazyLock<bool> =
            LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from) < 2);
        len >= WORTH_HANDING
            && (self.in_flight.load(Ordering::Relaxed) > 0 || executor::has_more_to_do())
            && !*ALONE
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

    /// Has the file system allocate what is about to be written, if that is of use. Should it fail, the write will tell.
    fn reserve(&self, fd: BorrowedFd<'_>, pos: i64, len: usize) {
        use rustix::fs::{FallocateFlags, fallocate, fstat};
        if len < LONG || !self.reserving.lock().turn() {
            return;
        }
        let blocks = || fstat(fd).map_or(0, |s| s.st_blocks);
        let before = blocks();
        match fallocate(fd, FallocateFlags::KEEP_SIZE, pos as u64, len as u64) {
            Ok(()) => self.reserving.lock().told(blocks() > before),
            Err(_) => self.reserving.lock().works = false,
        }
    }

    fn work(&self, fd: BorrowedFd<'_>) {
        loop {
            let row = {
                let mut q = self.queue.lock();
                if q.waiting.is_empty() {
                    (q.at_work, q.since) = (false, None);
                    return;
                }
                q.since = Some(Instant::now());
                let (mut n, mut bytes) = (0, 0);
                while n < q.waiting.len().min(ROW) && bytes < ROW_BYTES {
                    bytes += q.waiting[n].buf.len();
                    n += 1;
                }
                q.waiting.drain(..n).collect::<Vec<_>>()
            };
            // All of a row are told together, so that their executor wakes once.
            let write = |w: &Write| {
                self.reserve(fd, w.pos, w.buf.len());
                write_now(fd, w.pos, &w.buf)
            };
            let done: Vec<_> = row.iter().map(write).collect();
            for (Write { buf, done, .. }, r) in row.into_iter().zip(done) {
                // Whoever waits may use the memory again, if he has it for himself.
                drop(buf);
                // Nobody may want to know any more.
                let _ = done.send(r);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_no_use_is_tried_less_and_less() {
        let mut r = Reserving { works: true, ..Reserving::default() };
        let mut tries = 0;
        for _ in 0..100_000 {
            if r.turn() {
                tries += 1;
                r.told(false);
            }
        }
        assert!((90..120).contains(&tries), "{tries}");
        while !r.turn() {}
        r.told(true);
        assert!(r.turn() && r.turn(), "as soon as it is of use it is done again");
        r.works = false;
        assert!(!r.turn());
    }

    #[test]
    fn long_writes_into_a_hole_get_their_blocks_at_once() {
        let file = std::fs::File::from(
            rustix::fs::memfd_create("reserve", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
        );
        file.set_len(4 << 20).unwrap();
        // Not a file system of which that is known; it works as well.
        let reserving = Mutex::new(Reserving { works: true, ..Reserving::default() });
        let w = Writer { reserving, ..Writer::default() };
        w.reserve(file.as_fd(), 0, LONG - 1);
        let blocks = || rustix::fs::fstat(&file).unwrap().st_blocks * 512;
        assert_eq!(blocks(), 0);
        w.reserve(file.as_fd(), 0, LONG);
        assert_eq!((blocks(), w.reserving.lock().skip), (LONG as i64, 0));
        // There it was of no use.
        w.reserve(file.as_fd(), 0, LONG);
        assert_eq!((blocks(), w.reserving.lock().skip), (LONG as i64, 1));
    }
}
