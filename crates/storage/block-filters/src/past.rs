//! The state of a node at one moment, kept while the node changes.
//!
//! Before a part of the node changes, its old bytes are copied to a target. So the past state stands partly in the target
//! (what has been copied) and partly still in the node (what has not changed). The unit is a piece of some KiB.
//!
//! Two kinds of locks make this right with any number of requests at once:
//!
//! - A piece is copied while its range is locked for the copier alone; a change of the piece waits for that. Readers of
//!   the past state hold the range they read from the node together with others, so a change waits for them as well.
//! - The past state can be given up ([`Past::lost`]) because copying failed. Then changes wait only for readers that read
//!   from the node now, and never for a copier that hangs.

use crate::buffers::Buffers;
use base::units::align_down;
use base::{Errno, IoResult};
use block::bitmap::Bitmap;
use block::driver::{ChildSlot, Cx, IoFuture, WriteFlags, ZeroFlags};
use block::job::filter::{Request, SOURCE, TARGET, Watch};
use block::request::Status;
use block::{Ranges, Ticket};
use event_listener::Event;
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least piece, bytes.
pub const MIN_PIECE: u64 = 64 << 10;
/// The greatest: it is held in memory.
pub const MAX_PIECE: u64 = 64 << 20;
/// The most bytes that are copied in one go, unless a piece is longer.
const RUN: u64 = 1 << 20;
/// The same of zeroes: changes of them wait only for as long as it takes to say that they are zeroes.
pub const MAX_ZEROES: u64 = 64 << 20;

/// How a past state is to be kept.
#[derive(Clone, Debug, Default)]
pub struct PastSpec {
    /// The length of the node at that moment, bytes.
    pub len: u64,
    /// Bytes that are copied as one: a power of two within [`MIN_PIECE`] and [`MAX_PIECE`].
    pub piece: u64,
    /// Only what is dirty in this bitmap is kept; everything unless given. It is only looked at now.
    pub only: Option<Arc<Bitmap>>,
    /// What fails if old bytes cannot be copied: the past state, or else the change.
    pub give_up: bool,
    /// How long a change waits for copying before that counts as failed.
    pub timeout: Option<Duration>,
    /// How the target is written.
    pub write: WriteFlags,
}

/// Whether the state is still whole, and who reads it.
#[derive(Debug, Default)]
struct Health {
    lost: Option<Errno>,
    readers: u64,
}

#[derive(Debug)]
struct Shared {
    spec: PastSpec,
    ranges: Arc<Ranges>,
    /// Pieces whose bytes must be copied before they change.
    todo: Bitmap,
    /// Pieces that somebody may still want to read.
    wanted: Bitmap,
    health: Mutex<Health>,
    /// A reader has ended.
    ended: Event,
    bufs: Buffers,
}

/// The past state of the child [`SOURCE`] of some filter, copied piece by piece to the child [`TARGET`]. Clones are the
/// same state. Any thread may call any method.
#[derive(Clone, Debug)]
pub struct Past(Arc<Shared>);

/// Somebody reads old bytes from the node; they stay there until this is dropped.
struct Reading {
    past: Past,
    _ticket: Ticket,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.past.0.health.lock().readers -= 1;
        self.past.0.ended.notify(usize::MAX);
    }
}

impl Past {
    /// The state of the node as it is now. An error where its pieces would be too many.
    pub fn new(spec: PastSpec) -> Result<Past, QError> {
        if !spec.piece.is_power_of_two() || !(MIN_PIECE..=MAX_PIECE).contains(&spec.piece) {
            let piece = spec.piece;
            return Err(qerr!("Pieces of {piece} bytes cannot be copied; {MIN_PIECE} to {MAX_PIECE} can"));
        }
        let bits = || Bitmap::new("pieces", spec.len, spec.piece as u32, false, false);
        let (todo, wanted) = (bits()?, bits()?);
        for b in [&todo, &wanted] {
            match &spec.only {
                Some(only) => b.put_back(&only.bits()),
                None => b.set(0, spec.len),
            }
        }
        let spec = PastSpec { only: None, ..spec };
        let (health, ended, bufs) = (Mutex::default(), Event::new(), Buffers::default());
        Ok(Past(Arc::new(Shared { spec, ranges: Arc::default(), todo, wanted, health, ended, bufs })))
    }

    /// Its length, bytes.
    pub fn len(&self) -> u64 {
        self.0.spec.len
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a piece.
    pub fn piece(&self) -> u64 {
        self.0.spec.piece
    }

    /// Why the state was given up, if it was.
    pub fn lost(&self) -> Option<Errno> {
        self.0.health.lock().lost
    }

    /// Bytes that have not been copied yet, in whole pieces.
    pub fn left(&self) -> u64 {
        self.0.todo.dirty_bytes()
    }

    /// The first range at or behind `off` that has not been copied yet: offset and length, whole pieces (the last may be
    /// short), [`MAX_ZEROES`] at most. Nothing is behind the end, which may be within the last piece.
    pub fn next(&self, off: u64) -> Option<(u64, u64)> {
        if off >= self.len() {
            return None;
        }
        self.0.todo.next_run(align_down(off, self.piece()), self.len(), MAX_ZEROES)
    }

    /// Says that all pieces that lie wholly within the range need not be copied, and will not be read.
    pub fn skip(&self, off: u64, len: u64) {
        self.0.wanted.reset(off, len);
        self.0.todo.reset(off, len);
    }

    /// Begins anew: the state is the node's as it is now, and nothing has been copied. Nobody may change or read meanwhile.
    pub fn again(&self) {
        for b in [&self.0.wanted, &self.0.todo] {
            b.set(0, self.len());
        }
        self.0.health.lock().lost = None;
    }

    /// Gives back memory that is kept for copying: there will hardly be any more of it.
    pub fn rest(&self) {
        self.0.bufs.clear();
    }

    /// Copies what has not been copied of the pieces that the range touches; returns how many bytes of it were data. `cx` is
    /// the filter's. An error says whether it came from writing.
    pub async fn copy(&self, cx: &Cx<'_>, off: u64, len: u64) -> Result<u64, (bool, Errno)> {
        self.copy_until(cx, off, len, None).await
    }

    /// To be called before the range changes, and waited for. An error means that it must not change.
    pub async fn before_write(&self, cx: &Cx<'_>, off: u64, len: u64) -> IoResult<()> {
        let deadline = self.0.spec.timeout.map(|t| rt::now() + t);
        match self.copy_until(cx, off, len, deadline).await.map_err(|(_, e)| e) {
            Err(e) if self.0.spec.give_up => _ = self.0.health.lock().lost.get_or_insert(e),
            done => _ = done?,
        }
        if self.lost().is_some() {
            // Whoever gave it up; nobody else will begin to read.
            self.no_readers().await;
        }
        Ok(())
    }

    /// Waits until nobody reads old bytes from the node any more.
    async fn no_readers(&self) {
        loop {
            let listener = self.0.ended.listen();
            if self.0.health.lock().readers == 0 {
                return;
            }
            listener.await;
        }
    }

    async fn copy_until(
        &self,
        cx: &Cx<'_>,
        off: u64,
        len: u64,
        deadline: Option<Instant>,
    ) -> Result<u64, (bool, Errno)> {
        let late = |e| (true, e);
        let piece = self.piece();
        let end = off.saturating_add(len).min(self.len());
        let end = end.next_multiple_of(piece).min(self.len());
        let (mut pos, mut copied) = (align_down(off, piece), 0);
        while self.lost().is_none()
            && let Some((at, n)) = self.0.todo.next_dirty(pos, end)
        {
            let n = self.in_one_go(cx, at, n).await;
            let lock = self.0.ranges.lock(at, at + n, true);
            let ticket = in_time(deadline, lock).await.map_err(late)?;
            // Another may have copied it, or a part of it, meanwhile.
            if let Some((at, n)) = self.0.todo.next_dirty(at, at + n) {
                copied += match deadline {
                    None => {
                        let _ticket = ticket;
                        self.transfer(cx, at, n).await?
                    }
                    Some(_) => {
                        // A request to a child is never stopped half-way: it goes on when nobody waits for it.
                        let (me, errand) = (self.clone(), cx.errand());
                        let task = rt::spawn_local(async move {
                            let _ticket = ticket;
                            me.transfer(&errand.cx(), at, n).await
                        });
                        in_time(deadline, task).await.map_err(late)??
                    }
                };
            }
            pos = at;
        }
        Ok(copied)
    }

    /// How much of `n` bytes from a piece on is copied while all of it is locked.
    async fn in_one_go(&self, cx: &Cx<'_>, at: u64, n: u64) -> u64 {
        let few = RUN.max(self.piece());
        if n <= few {
            return n;
        }
        // A hint: it may become data until the range is locked.
        let n = n.min(MAX_ZEROES);
        match cx.child_chain_status(SOURCE, at, n).await {
            Ok(st) if st.zero && st.len >= n => n,
            Ok(st) if st.zero => align_down(st.len, self.piece()).max(few),
            _ => few,
        }
    }

    /// Copies a range that begins with a piece; answers how many bytes of it were data. Nobody changes it meanwhile.
    async fn transfer(&self, cx: &Cx<'_>, at: u64, n: u64) -> Result<u64, (bool, Errno)> {
        let end = at + n;
        let (mut pos, mut moved) = (at, 0);
        while pos < end {
            let (stop, zero) = self.known(cx, pos, end).await;
            if zero {
                self.put(cx, pos, stop, None).await?;
            } else {
                let b = self.0.bufs.take(stop - pos);
                cx.child_read(SOURCE, pos, b.buf.clone()).await.map_err(|e| (false, e))?;
                // Pieces without data stay so, also where the node does not know of them.
                let is_zero = |from| b.buf.slice(self.within(from, pos, stop)).is_zero();
                let mut from = pos;
                while from < stop {
                    let zero = is_zero(from);
                    let mut to = from + self.piece();
                    while to < stop && is_zero(to) == zero {
                        to += self.piece();
                    }
                    let to = to.min(stop);
                    let data = (!zero).then(|| b.buf.slice((from - pos) as usize..(to - pos) as usize));
                    self.put(cx, from, to, data).await?;
                    moved += if zero { 0 } else { to - from };
                    from = to;
                }
            }
            pos = stop;
        }
        Ok(moved)
    }

    /// Where the piece at `from` is in a buffer that holds the bytes from `pos` to `stop`.
    fn within(&self, from: u64, pos: u64, stop: u64) -> std::ops::Range<usize> {
        (from - pos) as usize..((from + self.piece()).min(stop) - pos) as usize
    }

    /// Up to where pieces from `pos` on are all known to be zeroes, or may all have data; no more data than is copied in
    /// one go.
    async fn known(&self, cx: &Cx<'_>, pos: u64, end: u64) -> (u64, bool) {
        let piece = self.piece();
        let few = end.min(pos + RUN.max(piece));
        // The last piece ends with the range.
        let whole = |at: u64| if at >= end { end } else { align_down(at, piece) };
        let (mut at, mut data) = (pos, pos);
        while at < end {
            let Ok(st) = cx.child_chain_status(SOURCE, at, end - at).await else { return (few, false) };
            let next = (at + st.len.max(1)).min(end);
            if !st.zero {
                if data == pos && whole(at) > pos {
                    return (whole(at), true);
                }
                data = next.next_multiple_of(piece).min(end);
                if data >= few {
                    return (few, false);
                }
            } else if data > pos && whole(next) > data {
                return (data, false);
            }
            at = next;
        }
        (end, data == pos)
    }

    /// Writes pieces to the target, zeroes where there is no data.
    async fn put(&self, cx: &Cx<'_>, at: u64, end: u64, data: Option<IoBuf>) -> Result<(), (bool, Errno)> {
        let wrote = match data {
            Some(data) => cx.child_write(TARGET, at, data, self.0.spec.write).await,
            None => cx.child_write_zeroes(TARGET, at, end - at, ZeroFlags::MAY_UNMAP).await,
        };
        wrote.map_err(|e| (true, e))?;
        self.0.todo.reset(at, end - at);
        Ok(())
    }

    /// Where the past bytes from `off` on are, and for how many bytes (at most `len`) this holds. While the last value
    /// lives, those that are in the node stay there. `EACCES` for what is not kept.
    async fn find(&self, off: u64, len: u64) -> IoResult<(ChildSlot, u64, Option<Reading>)> {
        let end = off.checked_add(len).filter(|e| *e <= self.len()).ok_or(Errno::INVAL)?;
        let ticket = self.0.ranges.lock(off, end, false).await;
        let reading = {
            let mut health = self.0.health.lock();
            if health.lost.is_some() {
                return Err(Errno::ACCES);
            }
            health.readers += 1;
            Reading { past: self.clone(), _ticket: ticket }
        };
        let kept = self.0.wanted.next_dirty(off, end).filter(|(at, _)| *at == off);
        let n = kept.ok_or(Errno::ACCES)?.1;
        Ok(match self.0.todo.next_dirty(off, off + n) {
            Some((at, m)) if at == off => (SOURCE, m, Some(reading)),
            Some((at, _)) => (TARGET, at - off, None),
            None => (TARGET, n, None),
        })
    }

    /// Reads the past state. `EACCES` where it is not kept.
    pub async fn read(&self, cx: &Cx<'_>, off: u64, buf: IoBuf) -> IoResult<()> {
        let mut pos = 0;
        while pos < buf.len() {
            let at = off + pos as u64;
            let (from, n, _reading) = self.find(at, (buf.len() - pos) as u64).await?;
            cx.child_read(from, at, buf.slice(pos..pos + n as usize)).await?;
            pos += n as usize;
        }
        Ok(())
    }

    /// Where the bytes of the past state are; `len` > 0.
    pub async fn status(&self, cx: &Cx<'_>, off: u64, len: u64) -> IoResult<Status> {
        let (from, n, _reading) = self.find(off, len).await?;
        let st = cx.child_chain_status(from, off, n).await?;
        let len = st.len.min(n);
        // Which file they are in may change at any moment.
        let eof = off + len >= self.len();
        Ok(Status { len, eof, offset: None, filename: None, allocated: true, depth: 0, ..st })
    }

    /// Says that a range will not be read any more, as far as it holds whole pieces; what was copied of it is discarded.
    pub async fn discard(&self, cx: &Cx<'_>, off: u64, len: u64) -> IoResult<()> {
        let end = off.checked_add(len).ok_or(Errno::INVAL)?.min(self.len());
        let lo = off.next_multiple_of(self.piece());
        let hi = if end == self.len() { end } else { align_down(end, self.piece()) };
        if lo >= hi {
            return Ok(());
        }
        let alone = self.0.ranges.lock(lo, hi, true).await;
        self.skip(lo, hi - lo);
        drop(alone);
        cx.child_discard(TARGET, lo, hi - lo).await
    }
}

/// What `f` answers, if that comes before the deadline.
async fn in_time<F: Future>(deadline: Option<Instant>, f: F) -> IoResult<F::Output> {
    match deadline {
        None => Ok(f.await),
        Some(d) => rt::timeout(d.saturating_duration_since(rt::now()), f).await.ok_or(Errno::TIMEDOUT),
    }
}

/// A job's filter that keeps the state from before the job began.
impl Watch for Past {
    fn change<'a>(&'a self, cx: &'a Cx<'a>, request: Request) -> IoFuture<'a> {
        Box::pin(async move {
            let (off, len) = request.range();
            let same = matches!(&request, Request::Write(_, _, f) if f.contains(WriteFlags::UNCHANGED));
            if !same {
                self.before_write(cx, off, len).await?;
            }
            request.apply(cx, SOURCE).await
        })
    }
}
