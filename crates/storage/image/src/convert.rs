//! Copying what disks show into an image.
//!
//! Extents first: ranges that read as zeroes, and those that the new image shows through its backing file, are neither read nor
//! written where the target shows them already. The rest is copied in pieces, several at a time: pieces are read in
//! parallel, and their writing begins in their order, so that a new image is laid out as its disk; on a zoned device one piece is
//! written before the next. Memory is bounded by the number of pieces.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base::units::{align_down, align_up};
use base::{Errno, IoResult};
use block::Root;
use block::driver::{WriteFlags, ZeroFlags};
use mem::IoBuf;
use rt::JoinHandle;

use crate::pool::Pool;

/// The longest piece that is copied at a time, bytes.
const PIECE: u64 = 1 << 20;
/// How much is looked at in one go, bytes.
const LOOK: u64 = 16 << 40;
/// A step of what is told, bytes.
const STEP: u64 = 2 << 20;
/// The longest request for zeroes, bytes.
const ZEROES: u64 = 1 << 30;
/// Pieces of several hundred clusters would keep each other waiting: larger clusters are copied in parts.
const MAX_GRANULE: u64 = 64 << 10;

/// What is copied, and how.
pub struct Plan {
    /// The disks, one after another.
    pub inputs: Vec<Arc<Root>>,
    /// Where they go.
    pub target: Arc<Root>,
    /// Where in the disks the copy begins, bytes.
    pub skip: u64,
    /// Bytes to be copied.
    pub total: u64,
    /// The target reads as zeroes all over, and nothing need be written for zeroes.
    pub zero_init: bool,
    /// The target shows its backing file, of this length, where nothing is written: what a disk's image does not have itself is left
    /// out.
    pub over_backing: Option<u64>,
    /// Clusters are compressed: their size.
    pub compress: Option<u64>,
    /// The target's unit of allocation, bytes.
    pub cluster: u64,
    /// Zeroes among data are not written where there are so many, bytes; 0: everything is written.
    pub sparse: u64,
    /// Pieces at a time.
    pub parallel: usize,
    /// What cannot be read is zeroes.
    pub salvage: bool,
    /// Bytes a second at most.
    pub rate: Option<u64>,
    /// Somebody wants to hear how far it is.
    pub telling: bool,
}

/// What went wrong, and where (bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Looking for extents.
    Look(u64, Errno),
    /// Reading.
    Read(u64, Errno),
    /// Writing.
    Write(u64, Errno),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Look(at, e) => write!(f, "error while reading block status at offset {at}: {e}"),
            Failure::Read(at, e) => write!(f, "error while reading at byte {at}: {e}"),
            Failure::Write(at, e) => write!(f, "error while writing at byte {at}: {e}"),
        }
    }
}

/// What is told while it goes on.
pub enum Told {
    /// So many bytes of so many are done: of those that are copied.
    At(u64, u64),
    /// These bytes could not be read and are zeroes now.
    Lost(u64, Errno),
    /// What there is at this offset could not be found out (`salvage`): it was read as data.
    Unknown(u64, Errno),
}

/// What is to be done about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Zero,
    Leave,
}

/// How far it is: told in steps of what is copied, as scripts know them.
#[derive(Default)]
struct Meter {
    /// Bytes that are copied in all.
    weight: u64,
    /// Bytes that were told of.
    done: u64,
    /// Where the next step begins.
    pos: u64,
    /// How many bytes of data follow there.
    left: u64,
}

struct Engine {
    plan: Plan,
    /// The target is written one byte after the other: one piece ends before the next one begins.
    in_order: bool,
    memory: Pool,
    /// What was salvaged over, and is not told yet.
    lost: RefCell<Vec<Told>>,
}

/// What a piece's reading ended with.
type ReadDone = Result<Piece, Failure>;

/// A piece in memory.
struct Piece {
    at: u64,
    len: u64,
    whole: IoBuf,
}

impl Piece {
    fn buf(&self) -> IoBuf {
        self.whole.slice(0..self.len as usize)
    }
}

/// Copies everything.
///
/// # Errors
/// The first failure; everything that was begun has ended then.
pub async fn copy(plan: Plan, tell: &mut dyn FnMut(Told)) -> Result<(), Failure> {
    let memory = Pool::new(plan.compress.unwrap_or(PIECE));
    let in_order = plan.target.zones().is_some();
    let e = Rc::new(Engine { plan, in_order, memory, lost: RefCell::default() });
    let mut run = Run { reads: VecDeque::new(), writes: VecDeque::new() };
    let done = e.all(&mut run, tell).await;
    // What is in flight ends, whatever happened.
    for r in run.reads {
        _ = r.task.await;
    }
    for w in run.writes {
        _ = w.task.await;
    }
    let flushed = e.plan.target.flush().await.map_err(|err| Failure::Write(e.plan.total, err));
    done.and(flushed)
}

struct Flying<T> {
    task: JoinHandle<T>,
}

struct Run {
    reads: VecDeque<Flying<ReadDone>>,
    writes: VecDeque<Flying<Result<(), Failure>>>,
}

impl Run {
    /// Waits until no more than `left` pieces are being written.
    async fn written(&mut self, left: usize) -> Result<(), Failure> {
        while self.writes.len() > left
            && let Some(w) = self.writes.pop_front()
        {
            w.task.await?;
        }
        Ok(())
    }
}

impl Engine {
    /// The smallest part that is written or left out.
    fn granule(&self) -> u64 {
        match self.plan.compress {
            Some(c) => c,
            None => self.plan.cluster.clamp(512, MAX_GRANULE),
        }
    }

    async fn all(self: &Rc<Self>, run: &mut Run, tell: &mut dyn FnMut(Told)) -> Result<(), Failure> {
        let (total, granule) = (self.plan.total, self.granule());
        let piece = self.plan.compress.unwrap_or(PIECE.max(granule));
        let begun = rt::now();
        let (mut pos, mut moved) = (0, 0u64);
        let weight = match self.plan.telling || self.plan.salvage {
            true => self.weigh().await?,
            false => 0,
        };
        let mut meter = self.plan.telling.then(|| Meter { weight, ..Meter::default() });
        while pos < total {
            if self.plan.salvage {
                // What is lost is told in its order.
                self.settle(run, tell, 0).await?;
            }
            let (kind, n) = self.look(pos, true).await?;
            let end = pos + n;
            match kind {
                Kind::Leave => pos = end,
                Kind::Zero => {
                    // What shares the target's granule with data is written with it.
                    let whole = if end == total { end } else { align_down(end, granule) };
                    if whole > pos {
                        if !self.plan.zero_init {
                            if self.in_order {
                                self.settle(run, tell, 0).await?;
                                run.written(0).await?;
                            }
                            self.zeroes(pos, whole - pos).await?;
                        }
                        pos = whole;
                    } else {
                        pos = self
                            .start(run, tell, pos, align_up(end, granule).unwrap_or(end).min(total))
                            .await?;
                    }
                }
                Kind::Data => {
                    let mut stop = align_up(end, granule).unwrap_or(end).min(total);
                    if let Some(b) = self.plan.over_backing
                        && pos < b
                        && self.plan.compress.is_none()
                    {
                        // What the image leaves to its backing file stays there.
                        stop = end.min(stop);
                    }
                    while pos < stop {
                        let to = (align_down(pos, piece) + piece).min(stop);
                        moved += to - pos;
                        if let Some(rate) = self.plan.rate {
                            pace(begun, moved, rate).await;
                        }
                        pos = self.start(run, tell, pos, to).await?;
                    }
                }
            }
            if let Some(m) = &mut meter {
                self.tell_upto(m, pos, tell).await?;
            }
        }
        self.settle(run, tell, 0).await?;
        run.written(0).await?;
        self.tell_lost(tell);
        Ok(())
    }

    /// The data from `pos` on, and how far it goes; `None` where there is something else.
    async fn data_at(&self, pos: u64, first: bool) -> Result<(Option<u64>, u64), Failure> {
        let (kind, n) = self.look(pos, first).await?;
        let end = match self.plan.compress {
            Some(c) if kind == Kind::Data => align_up(pos + n, c).unwrap_or(pos + n).min(self.plan.total),
            _ => pos + n,
        };
        Ok(((kind == Kind::Data).then_some(end - pos), end))
    }

    /// How many bytes are copied in all.
    async fn weigh(&self) -> Result<u64, Failure> {
        let (mut pos, mut sum) = (0, 0);
        while pos < self.plan.total {
            let (data, end) = self.data_at(pos, true).await?;
            sum += data.unwrap_or(0);
            pos = end;
        }
        Ok(sum)
    }

    /// Tells of each step of what is copied up to `pos`.
    async fn tell_upto(&self, m: &mut Meter, pos: u64, tell: &mut dyn FnMut(Told)) -> Result<(), Failure> {
        let step = self.plan.compress.unwrap_or(STEP);
        while m.pos < pos {
            if m.left == 0 {
                let (data, end) = self.data_at(m.pos, false).await?;
                match data {
                    Some(n) => m.left = n,
                    None => m.pos = end,
                }
                continue;
            }
            let n = m.left.min(step);
            if m.pos + n > pos {
                break;
            }
            (m.pos, m.left, m.done) = (m.pos + n, m.left - n, m.done + n);
            tell(Told::At(m.done, m.weight));
        }
        Ok(())
    }

    fn tell_lost(&self, tell: &mut dyn FnMut(Told)) {
        for lost in self.lost.borrow_mut().drain(..) {
            tell(lost);
        }
    }

    /// Begins to copy a piece.
    async fn start(
        self: &Rc<Self>,
        run: &mut Run,
        tell: &mut dyn FnMut(Told),
        from: u64,
        to: u64,
    ) -> Result<u64, Failure> {
        let left = if self.plan.salvage { 0 } else { self.plan.parallel - 1 };
        self.settle(run, tell, left).await?;
        let me = self.clone();
        let task = rt::spawn_local(async move { me.read_piece(from, to - from).await });
        run.reads.push_back(Flying { task });
        Ok(to)
    }

    /// Waits until no more than `left` pieces are being read; their writing begins in order.
    async fn settle(
        self: &Rc<Self>,
        run: &mut Run,
        tell: &mut dyn FnMut(Told),
        left: usize,
    ) -> Result<(), Failure> {
        while run.reads.len() > left || run.reads.front().is_some_and(|r| r.task.is_finished()) {
            let Some(r) = run.reads.pop_front() else { break };
            let piece = r.task.await?;
            run.written(if self.in_order { 0 } else { self.plan.parallel - 1 }).await?;
            let me = self.clone();
            let task = rt::spawn_local(async move { me.write_piece(piece).await });
            run.writes.push_back(Flying { task });
        }
        if !self.lost.borrow().is_empty() {
            self.tell_lost(tell);
        }
        Ok(())
    }

    /// The disk that holds a position, the position there, and how much of it follows.
    fn input(&self, pos: u64) -> Option<(&Arc<Root>, u64, u64)> {
        let pos = pos + self.plan.skip;
        let mut begin = 0;
        for i in &self.plan.inputs {
            let len = i.len();
            if pos < begin + len {
                return Some((i, pos - begin, begin + len - pos));
            }
            begin += len;
        }
        None
    }

    /// What is to be done from `pos` on, and how far; with `telling` it is told where that cannot be found out.
    async fn look(&self, pos: u64, telling: bool) -> Result<(Kind, u64), Failure> {
        let Some((root, at, left)) = self.input(pos) else {
            return Ok((Kind::Zero, self.plan.total - pos));
        };
        let mut left = left.min(self.plan.total - pos).min(LOOK);
        let mut behind = false;
        if let Some(b) = self.plan.over_backing {
            behind = pos >= b;
            if !behind {
                left = left.min(b - pos);
            }
        }
        let st = loop {
            match root.map(at, left).await {
                Ok(st) => break st,
                // Which sector is it?
                Err(_) if self.plan.salvage && left > 512 => left = left.div_ceil(4 * 512) * 512,
                Err(e) if self.plan.salvage => {
                    if telling {
                        self.lost.borrow_mut().push(Told::Unknown(pos, e));
                    }
                    return Ok((Kind::Data, left));
                }
                Err(e) => return Err(Failure::Look(pos, e)),
            }
        };
        let n = st.len.min(left);
        if n == 0 {
            return Err(Failure::Look(pos, Errno::IO));
        }
        let own = st.depth == 0 && (st.allocated || st.zero);
        let kind = match (self.plan.over_backing, st.zero) {
            (Some(_), _) if !own && !behind => Kind::Leave,
            (Some(_), true) if behind => Kind::Leave,
            (_, true) if self.plan.sparse == 0 => Kind::Data,
            (_, true) => Kind::Zero,
            _ => Kind::Data,
        };
        Ok((kind, n))
    }

    async fn read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        let (mut done, len) = (0, buf.len() as u64);
        while done < len {
            let Some((root, at, left)) = self.input(off + done) else {
                buf.slice(done as usize..len as usize).fill(0);
                break;
            };
            let n = left.min(len - done);
            root.read(at, buf.slice(done as usize..(done + n) as usize)).await?;
            done += n;
        }
        Ok(())
    }

    async fn read_piece(&self, off: u64, len: u64) -> ReadDone {
        let piece = Piece { at: off, len, whole: self.memory.take(len) };
        let buf = piece.buf();
        let Err(e) = self.read(off, buf.clone()).await else { return Ok(piece) };
        if !self.plan.salvage {
            return Err(Failure::Read(off, e));
        }
        let mut at = 0;
        while at < len {
            let n = 512.min(len - at);
            let part = buf.slice(at as usize..(at + n) as usize);
            if let Err(e) = self.read(off + at, part.clone()).await {
                part.fill(0);
                self.lost.borrow_mut().push(Told::Lost(off + at, e));
            }
            at += n;
        }
        Ok(piece)
    }

    async fn write_piece(&self, piece: Piece) -> Result<(), Failure> {
        let done = self.write_runs(piece.at, &piece.buf()).await;
        self.memory.give(piece.whole);
        done
    }

    async fn write_runs(&self, off: u64, buf: &IoBuf) -> Result<(), Failure> {
        let failed = |at: u64| move |e: Errno| Failure::Write(at, e);
        let target = &self.plan.target;
        if self.plan.compress.is_some() {
            if self.plan.sparse > 0 && buf.is_zero() {
                return match self.plan.zero_init {
                    true => Ok(()),
                    false => self.zeroes(off, buf.len() as u64).await,
                };
            }
            if !self.plan.zero_init
                && is_stored(target, off, buf.len() as u64).await.map_err(|e| Failure::Look(off, e))?
            {
                return Err(Failure::Write(off, Errno::IO));
            }
            return target.write(off, buf.clone(), WriteFlags::COMPRESSED).await.map_err(failed(off));
        }
        if self.plan.sparse == 0 {
            return target.write(off, buf.clone(), WriteFlags::empty()).await.map_err(failed(off));
        }
        // Runs of zeroes, on the target's boundaries.
        let unit = align_down(self.plan.sparse, 512).max(512);
        let unit = if unit.is_power_of_two() { unit } else { unit.next_power_of_two() / 2 };
        let unit = unit.max(self.granule());
        let len = buf.len() as u64;
        let is_zero = |from: u64, to: u64| buf.slice(from as usize..to as usize).is_zero();
        let next = |from: u64| (align_down(off + from, unit) + unit - off).min(len);
        let mut at = 0;
        while at < len {
            let mut end = next(at);
            let zero = is_zero(at, end);
            while end < len && is_zero(end, next(end)) == zero {
                end = next(end);
            }
            if !zero {
                let part = buf.slice(at as usize..end as usize);
                target.write(off + at, part, WriteFlags::empty()).await.map_err(failed(off + at))?;
            } else if !self.plan.zero_init {
                self.zeroes(off + at, end - at).await?;
            }
            at = end;
        }
        Ok(())
    }

    /// Makes a range of the target read as zeroes, and its own: what reads so already may be another file's.
    async fn zeroes(&self, off: u64, len: u64) -> Result<(), Failure> {
        let target = &self.plan.target;
        let end = off + len;
        let mut at = off;
        while at < end {
            let n = (end - at).min(ZEROES);
            target.write_zeroes(at, n, ZeroFlags::MAY_UNMAP).await.map_err(|e| Failure::Write(at, e))?;
            at += n;
        }
        Ok(())
    }
}

/// Whether an image has a place for what begins at `off` already: the tools write compressed clusters once.
///
/// # Errors
/// The storage's.
pub(crate) async fn is_stored(root: &Root, off: u64, len: u64) -> IoResult<bool> {
    let st = root.map_own(off, len).await?;
    Ok(st.data || st.compressed || (st.zero && st.offset.is_some()))
}

/// Waits until `moved` bytes since `begun` are no more than `rate` a second.
async fn pace(begun: std::time::Instant, moved: u64, rate: u64) {
    let due = Duration::from_secs_f64(moved as f64 / rate.max(1) as f64);
    let gone = rt::now().saturating_duration_since(begun);
    if due > gone {
        rt::sleep(due - gone).await;
    }
}
