//! The engine that all copying jobs share: several pieces are copied at a time.
//!
//! A job's loop asks for room ([`Flow::room`]), which waits until another piece may be begun: few enough requests and
//! bytes are in flight, the speed allows it, nobody has paused the job. Then it begins one ([`Flow::go`]). Each piece is
//! a task that stands inside the job's gate, so a drain waits for those in flight and holds the next ones back. A piece
//! that fails is treated as the job's error policy says: it ends the job, or is tried again later.
//!
//! A cancelled job's loop ends at once. Pieces in flight then end in the background; whoever undoes the job drains the
//! filter first, and so waits for them.

use crate::copy::Failed;
use api::block_core::BlockdevOnError;
use base::IoResult;
use block::driver::ChildSlot;
use block::job::filter::TARGET;
use block::job::{Go, Job, JobRoot, Op, Then};
pub(crate) use block_filters::Buffers;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest piece that is copied at a time, bytes.
pub(crate) const CHUNK: u64 = 1 << 20;
/// How much is looked at in one go for what is to be copied, bytes.
pub(crate) const LOOK: u64 = 1 << 30;
/// The shortest piece that a job is slowed down to, bytes.
const SMALL: u64 = 64 << 10;
/// How long a job that ignores errors waits before it tries again.
const PATIENCE: Duration = Duration::from_millis(100);
/// After so many bytes the target begins to make them stable: every job flushes it in the end.
const BEHIND: u64 = 32 << 20;

/// What a job copies, and how.
pub(crate) trait Work: 'static {
    /// Copies a piece; answers how many bytes were moved, those that are known to be zeroes not counted.
    fn piece(&self, op: &Op, bufs: &Buffers, off: u64, len: u64)
    -> impl Future<Output = Result<u64, Failed>>;

    /// What follows a failed request.
    fn on_error(&self, write: bool) -> BlockdevOnError;

    /// Whom the pieces are written to. It is flushed in the end, and begins to make stable what it has before.
    fn writes(&self) -> ChildSlot {
        TARGET
    }

    /// Whether a piece whose failure is ignored is left out, so that the job fails in the end. It is tried again
    /// otherwise.
    fn leaves_out(&self) -> bool {
        false
    }
}

/// A job that goes over its node once, from the beginning to the end.
pub(crate) trait Sweep: Work {
    /// How far from `off` on (`len` at most) things are alike, and whether there is anything to copy. A hint: whatever
    /// it says is still so, or does not matter any more, when the piece is copied.
    fn scan(&self, op: &Op, off: u64, len: u64) -> impl Future<Output = IoResult<(u64, bool)>>;
}

/// How much may be in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Pieces.
    pub(crate) pieces: usize,
    /// Bytes over all pieces; a single one may be longer.
    pub(crate) bytes: u64,
    /// The longest piece, bytes.
    pub(crate) chunk: u64,
    /// The shortest piece that a speed makes of that, bytes.
    pub(crate) least: u64,
}

impl Bounds {
    /// Of jobs whose pieces are as long at any speed: users of slow ones know them by how far they get at once.
    pub(crate) fn even() -> Bounds {
        let bounds = Bounds::default();
        Bounds { least: bounds.chunk, ..bounds }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        // What is in flight should fit into the processors' caches: it is written soon after it was read.
        Bounds { pieces: 16, bytes: 8 * CHUNK, chunk: CHUNK / 2, least: SMALL }
    }
}

/// A piece that has ended.
struct Ended {
    off: u64,
    len: u64,
    result: Result<u64, Failed>,
}

#[derive(Default)]
struct Flight {
    pieces: usize,
    bytes: u64,
    ended: Vec<Ended>,
    /// Bytes that were moved since the target was told to make them stable, and whether it is at that.
    moved: u64,
    behind: bool,
}

/// What the loop and its pieces share.
struct Shared<W> {
    job: Arc<Job>,
    root: Arc<JobRoot>,
    work: Arc<W>,
    bufs: Buffers,
    flight: Mutex<Flight>,
}

impl<W: Work> Shared<W> {
    /// So many bytes were moved.
    fn moved(self: &Arc<Self>, bytes: u64) {
        {
            let mut f = self.flight.lock();
            f.moved += bytes;
            if f.behind || f.moved < BEHIND {
                return;
            }
            (f.moved, f.behind) = (0, true);
        }
        let me = self.clone();
        drop(rt::spawn_local(async move {
            if let Ok(op) = me.root.enter().await {
                op.cx().child_write_behind(me.work.writes()).await;
            }
            me.flight.lock().behind = false;
        }));
    }
}

/// A piece in flight; counts as ended when dropped.
struct Flying<W> {
    shared: Arc<Shared<W>>,
    off: u64,
    len: u64,
    result: Result<u64, Failed>,
}

impl<W> Drop for Flying<W> {
    fn drop(&mut self) {
        let mut f = self.shared.flight.lock();
        f.pieces -= 1;
        f.bytes -= self.len;
        f.ended.push(Ended { off: self.off, len: self.len, result: self.result });
        drop(f);
        self.shared.job.kick();
    }
}

/// The copying of one job.
pub(crate) struct Flow<W> {
    shared: Arc<Shared<W>>,
    bounds: Bounds,
    /// Pieces to be copied again, and when.
    again: VecDeque<(Instant, u64, u64)>,
    /// Why a piece was left out.
    left_out: Option<QError>,
}

impl<W: Work> Flow<W> {
    pub(crate) fn new(job: &Arc<Job>, root: &Arc<JobRoot>, work: Arc<W>, bounds: Bounds) -> Flow<W> {
        let (job, root) = (job.clone(), root.clone());
        let shared = Shared { job, root, work, bufs: Buffers::default(), flight: Mutex::default() };
        Flow { shared: Arc::new(shared), bounds, again: VecDeque::new(), left_out: None }
    }

    fn job(&self) -> &Arc<Job> {
        &self.shared.job
    }

    /// Nothing is in flight, nor to be tried again.
    pub(crate) fn is_idle(&self) -> bool {
        let f = self.shared.flight.lock();
        f.pieces == 0 && f.ended.is_empty() && self.again.is_empty()
    }

    /// Bytes that are in flight, or to be tried again.
    pub(crate) fn pending(&self) -> u64 {
        self.shared.flight.lock().bytes + self.again.iter().map(|a| a.2).sum::<u64>()
    }

    /// Takes note of the pieces that have ended.
    fn settle(&mut self) -> Result<(), QError> {
        loop {
            let Some(e) = self.shared.flight.lock().ended.pop() else { return Ok(()) };
            match e.result {
                Ok(moved) => {
                    self.job().forgive(e.len.saturating_sub(moved));
                    self.job().advance(e.len);
                }
                Err((write, error)) => {
                    self.job().forgive(e.len);
                    let on = self.shared.work.on_error(write);
                    match self.job().failed(on, write, error) {
                        Then::Fail => return Err(qerr!("{error}")),
                        Then::Retry => self.again.push_back((rt::now(), e.off, e.len)),
                        Then::GoOn if self.shared.work.leaves_out() => {
                            self.left_out.get_or_insert_with(|| qerr!("{error}"));
                            self.job().advance(e.len);
                        }
                        Then::GoOn => self.again.push_back((rt::now() + PATIENCE, e.off, e.len)),
                    }
                }
            }
        }
    }

    /// Waits until another piece may be begun; answers how long it may be. Pieces that failed go first.
    pub(crate) async fn room(&mut self) -> Result<u64, QError> {
        loop {
            let listener = self.job().listen();
            self.settle()?;
            let (pieces, bytes) = {
                let f = self.shared.flight.lock();
                (f.pieces, f.bytes)
            };
            let full = pieces >= self.bounds.pieces || (pieces > 0 && bytes >= self.bounds.bytes);
            match self.job().may_go() {
                Go::Cancelled => return Err(block::job::cancelled()),
                Go::Pause if pieces == 0 => self.job().pause_point().await?,
                Go::On if !full => {
                    if self.again.front().is_some_and(|a| a.0 <= rt::now()) {
                        if let Some((_, off, len)) = self.again.pop_front() {
                            self.go(off, len);
                        }
                        continue;
                    }
                    let stride = self.job().stride().max(self.bounds.least);
                    return Ok(self.bounds.chunk.min(stride));
                }
                Go::Wait(time) if !full => drop(rt::timeout(time, listener).await),
                _ => listener.await,
            }
        }
    }

    /// Begins to copy a piece.
    pub(crate) fn go(&mut self, off: u64, len: u64) {
        let shared = self.shared.clone();
        {
            let mut f = shared.flight.lock();
            f.pieces += 1;
            f.bytes += len;
        }
        shared.job.owe(len);
        // Counts as failed, should the task come to a bad end.
        let flying = Flying { shared: shared.clone(), off, len, result: Err((false, base::Errno::IO)) };
        drop(rt::spawn_local(async move {
            let mut flying = flying;
            flying.result = match shared.root.enter().await {
                Ok(op) => shared.work.piece(&op, &shared.bufs, off, len).await,
                Err(e) => Err((false, e)),
            };
            if let Ok(moved) = flying.result {
                shared.moved(moved);
            }
        }));
    }

    /// Waits for something to happen: to the job, to a piece in flight, or to what kicks the job. Pauses and ends as
    /// [`Flow::room`]. `ready`: what is waited for has happened already.
    pub(crate) async fn rest(&mut self, ready: impl Fn() -> bool) -> Result<(), QError> {
        let listener = self.job().listen();
        self.settle()?;
        match self.job().may_go() {
            Go::Cancelled => return Err(block::job::cancelled()),
            Go::Pause if self.shared.flight.lock().pieces == 0 => return self.job().pause_point().await,
            Go::Pause => {}
            Go::On | Go::Wait(_) if ready() => return Ok(()),
            _ => {}
        }
        match self.again.front().map(|a| a.0) {
            Some(at) if !matches!(self.job().may_go(), Go::Pause) => {
                let now = rt::now();
                if at <= now {
                    self.room().await?;
                } else {
                    rt::timeout(at - now, listener).await;
                }
            }
            _ => listener.await,
        }
        Ok(())
    }

    /// A request that belongs to no piece has failed: ends the job, or lets it try again after a while.
    pub(crate) async fn trouble(&mut self, (write, error): Failed) -> Result<(), QError> {
        match self.job().failed(self.shared.work.on_error(write), write, error) {
            Then::Fail => return Err(qerr!("{error}")),
            Then::Retry => {}
            Then::GoOn => {
                let end = rt::now() + PATIENCE;
                while rt::now() < end && self.job().may_go() != Go::Cancelled {
                    let listener = self.job().listen();
                    rt::timeout(end.saturating_duration_since(rt::now()), listener).await;
                }
            }
        }
        Ok(())
    }

    /// Waits until everything has been copied.
    pub(crate) async fn finish(&mut self) -> Result<(), QError> {
        loop {
            self.settle()?;
            if self.is_idle() {
                return self.left_out.take().map_or(Ok(()), Err);
            }
            self.rest(|| false).await?;
        }
    }
}

impl<W: Sweep> Flow<W> {
    /// Copies all that there is to copy in the first `len` bytes.
    pub(crate) async fn sweep(&mut self, len: u64) -> Result<(), QError> {
        let mut off = 0;
        while off < len {
            let chunk = self.room().await?;
            let looked = match self.shared.root.enter().await {
                Ok(op) => self.shared.work.scan(&op, off, LOOK.min(len - off)).await,
                Err(e) => Err(e),
            };
            // What cannot be told is copied: that finds out the same, and the error is treated as it is to be.
            let (n, wanted) = looked.unwrap_or((chunk.min(len - off), true));
            if !wanted {
                off += n;
                self.job().advance(n);
                rt::yield_now().await;
                continue;
            }
            let end = off + n;
            while off < end {
                let n = self.room().await?.min(end - off);
                self.go(off, n);
                off += n;
            }
        }
        self.finish().await
    }
}
