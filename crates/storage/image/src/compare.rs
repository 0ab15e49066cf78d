//! Whether two images show the same.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base::Errno;
use block::Root;
use block::lists::join_all;
use block::request::Status;
use mem::IoBuf;
use rt::sync::Semaphore;
use rt::{IoThread, JoinHandle};

/// The longest part that is read at a time, bytes. What was read should still be in the processor's cache when it is compared.
const PART: u64 = 512 << 10;
/// A step of what is told, and the longest piece that a thread takes at a time, bytes.
const STEP: u64 = 2 << 20;
/// Pieces that wait at most.
const QUEUE: usize = 8;
/// So much work is worth a second thread, bytes.
const WORTH_A_THREAD: u64 = 16 << 20;
/// How much is looked at in one go, bytes.
const LOOK: u64 = 16 << 40;
/// What differs is told to this many bytes.
const SECTOR: usize = 512;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They show the same.
    Same,
    /// They differ at this byte.
    Differs(u64),
    /// They differ in how they store this byte (strict).
    Stored(u64),
    /// They differ in length (strict).
    Length,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The first.
    First,
    /// The second.
    Second,
}

/// Why there is no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Reading a byte of one failed.
    Read(Which, u64, Errno),
    /// Looking for extents of one failed.
    Look(Which, Errno),
}

/// A piece that differs or cannot be read.
type Bad = Result<u64, Failure>;

/// The earliest piece that counts against the two images, and where it begins. Shared with a second thread.
struct Verdict {
    /// Where the earliest begins; the end of all for none.
    at: AtomicU64,
    bad: Mutex<Option<Bad>>,
}

impl Verdict {
    /// Whether a piece at `at` may still change what is answered.
    fn open(&self, at: u64) -> bool {
        at < self.at.load(Ordering::Acquire)
    }

    fn add(&self, at: u64, bad: Bad) {
        let mut held = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        if self.open(at) {
            self.at.store(at, Ordering::Release);
            *held = Some(bad);
        }
    }
}

/// One piece of the work.
struct Piece {
    /// The disks that are read; one that is not shows zeroes.
    disks: (Option<Arc<Root>>, Option<Arc<Root>>),
    at: u64,
    len: u64,
}

/// What two threads work off.
struct Work {
    verdict: Verdict,
    /// `None`: whoever takes it has done his part.
    queue: Mutex<VecDeque<Option<Piece>>>,
    /// What is in the queue.
    there: Semaphore,
    /// Room in the queue.
    room: Semaphore,
    /// Where pieces begin of which it is not known yet that they show the same.
    doubtful: Mutex<BTreeSet<u64>>,
}

impl Work {
    fn put(&self, piece: Option<Piece>) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(piece);
        self.there.add(1);
    }

    /// Takes pieces and compares them, until there are no more.
    async fn work(self: Arc<Work>) {
        let mut memory = Memory::default();
        loop {
            self.there.acquire().await.forget();
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(piece) = next.flatten() else { return };
            self.room.add(1);
            let at = piece.at;
            if piece.run(&self.verdict, &mut memory).await {
                self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).remove(&at);
            }
        }
    }
}

/// Who works: this thread, and a second one once there is much to do.
struct Crew {
    work: Arc<Work>,
    /// Bytes that were to be compared so far.
    begun: u64,
    workers: Vec<JoinHandle<()>>,
    second: Option<IoThread>,
    /// No second thread could be had, or it would not help.
    alone: bool,
}

impl Crew {
    fn new(all: u64) -> Crew {
        let work = Arc::new(Work {
            verdict: Verdict { at: AtomicU64::new(all), bad: Mutex::default() },
            queue: Mutex::default(),
            there: Semaphore::new(0),
            room: Semaphore::new(QUEUE),
            doubtful: Mutex::default(),
        });
        let workers = vec![rt::spawn_local(work.clone().work())];
        let alone = std::thread::available_parallelism().map_or(1, |n| n.get()) < 2;
        Crew { work, begun: 0, workers, second: None, alone }
    }

    /// Has a piece compared. Waits for room.
    async fn start(&mut self, piece: Piece) {
        self.begun += piece.len;
        if self.begun > WORTH_A_THREAD && self.second.is_none() && !self.alone {
            self.second = IoThread::spawn("compare").ok();
            self.alone = self.second.is_none();
            if let Some(thread) = &self.second {
                let work = self.work.clone();
                self.workers.push(thread.handle().spawn(move || work.work()));
            }
        }
        self.work.room.acquire().await.forget();
        self.work.doubtful.lock().unwrap_or_else(PoisonError::into_inner).insert(piece.at);
        self.work.put(Some(piece));
    }

    /// Waits until everything that was begun has ended.
    async fn end(self) -> Option<Bad> {
        for _ in &self.workers {
            self.work.put(None);
        }
        for w in self.workers {
            w.await;
        }
        *self.work.verdict.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far it is: told once everything up to there shows the same.
struct Steps<'a> {
    work: Arc<Work>,
    all: u64,
    /// What is still to be told.
    reached: VecDeque<u64>,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl Steps<'_> {
    /// Everything up to `at` is being compared.
    fn reach(&mut self, at: u64) {
        self.reached.push_back(at);
        self.report();
    }

    fn report(&mut self) {
        let same = self.work.doubtful.lock().unwrap_or_else(PoisonError::into_inner).first().copied();
        while let Some(at) = self.reached.front().copied().filter(|at| same.is_none_or(|same| *at <= same)) {
            self.reached.pop_front();
            (self.tell)(at, self.all);
        }
    }
}

/// Compares. `strict`: they must also be as long and store the same ranges alike. `tell` hears how far it is, of how much.
///
/// # Errors
/// The storage's.
pub async fn compare(
    first: &Arc<Root>,
    second: &Arc<Root>,
    strict: bool,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Outcome, Failure> {
    let (a, b) = (first.len(), second.len());
    if strict && a != b {
        return Ok(Outcome::Length);
    }
    let mut crew = Crew::new(a.max(b));
    let mut steps = Steps { work: crew.work.clone(), all: a.max(b), reached: VecDeque::new(), tell };
    let looked = survey(first, second, strict, &mut crew, &mut steps).await;
    // The first difference counts, and what is in flight ends first.
    let bad = crew.end().await;
    steps.report();
    match bad {
        Some(Ok(at)) => Ok(Outcome::Differs(at)),
        Some(Err(e)) => Err(e),
        None => Ok(looked?.map_or(Outcome::Same, Outcome::Stored)),
    }
}

/// Goes through both images' extents, and has compared what may differ. Answers where they are stored otherwise (strict).
async fn survey(
    first: &Arc<Root>,
    second: &Arc<Root>,
    strict: bool,
    crew: &mut Crew,
    steps: &mut Steps<'_>,
) -> Result<Option<u64>, Failure> {
    let (a, b) = (first.len(), second.len());
    let (common, all) = (a.min(b), a.max(b));
    // What is known of each image, and where it begins: an extent of one may go on where the other's ends.
    let mut known: [Option<(u64, Status)>; 2] = [None, None];
    let mut pos = 0;
    while pos < all && crew.work.verdict.open(pos) {
        let end = if pos < common { common } else { all };
        let mut of = async |i: usize, root, which, len| {
            let st = match known[i].take() {
                Some((at, st)) if pos < at + st.len => {
                    let gone = pos - at;
                    Status { len: st.len - gone, offset: st.offset.map(|o| o + gone), ..st }
                }
                _ if pos >= len => nothing(all - pos),
                _ => look(root, which, pos, end).await?,
            };
            known[i] = Some((pos, st.clone()));
            Ok(st)
        };
        let one = of(0, first, Which::First, a).await?;
        let two = of(1, second, Which::Second, b).await?;
        let n = one.len.min(two.len);
        if strict && kind(&one) != kind(&two) {
            return Ok(Some(pos));
        }
        let alike = (one.zero && two.zero) || one.same_place(&two);
        if !alike {
            let mut at = pos;
            while at < pos + n && crew.work.verdict.open(at) {
                let len = STEP.min(pos + n - at);
                let disk = |st: &Status, root: &Arc<Root>| (!st.zero).then(|| root.clone());
                crew.start(Piece { disks: (disk(&one, first), disk(&two, second)), at, len }).await;
                at += len;
                if len == STEP {
                    steps.reach(at);
                }
            }
        }
        pos += n;
        steps.reach(pos);
    }
    Ok(None)
}

/// What stands behind the end.
fn nothing(len: u64) -> Status {
    Status { len, zero: true, ..Status::default() }
}

async fn look(root: &Root, which: Which, pos: u64, end: u64) -> Result<Status, Failure> {
    let mut st = root.map(pos, (end - pos).min(LOOK)).await.map_err(|e| Failure::Look(which, e))?;
    st.len = st.len.min(end - pos);
    match st.len {
        0 => Err(Failure::Look(which, Errno::IO)),
        _ => Ok(st),
    }
}

fn kind(s: &Status) -> (bool, bool, bool) {
    (s.data, s.zero, s.allocated)
}

/// Memory that is used again and again: fresh memory costs more than the comparing.
#[derive(Default)]
struct Memory([Option<IoBuf>; 2]);

impl Memory {
    fn part(&mut self, i: usize, len: u64) -> IoBuf {
        self.0[i].get_or_insert_with(|| IoBuf::zeroed(PART as usize)).slice(0..len as usize)
    }
}

impl Piece {
    /// Compares it, and says what is wrong with it; answers whether nothing is.
    async fn run(self, verdict: &Verdict, memory: &mut Memory) -> bool {
        let end = self.at + self.len;
        let mut at = self.at;
        while at < end {
            if !verdict.open(at) {
                return false;
            }
            let len = PART.min(end - at);
            let bad = match self.difference(at, len, memory).await {
                Ok(None) => {
                    at += len;
                    continue;
                }
                Ok(Some(differs)) => Ok(differs),
                Err(e) => Err(e),
            };
            verdict.add(at, bad);
            return false;
        }
        true
    }

    /// The first sector that differs, of `len` bytes at `at`.
    async fn difference(&self, at: u64, len: u64, memory: &mut Memory) -> Result<Option<u64>, Failure> {
        let mut parts = [None, None];
        let mut reads: Vec<Pin<Box<dyn Future<Output = Result<(), Failure>>>>> = Vec::with_capacity(2);
        for (i, (disk, which)) in
            [(&self.disks.0, Which::First), (&self.disks.1, Which::Second)].into_iter().enumerate()
        {
            let Some(root) = disk.clone() else { continue };
            let part = memory.part(i, len);
            parts[i] = Some(part.clone());
            reads.push(Box::pin(async move {
                root.read(at, part).await.map_err(|e| Failure::Read(which, at, e))
            }));
        }
        for done in join_all(reads).await {
            done?;
        }
        let differs = match (&parts[0], &parts[1]) {
            (Some(a), Some(b)) => a.first_difference(b).map(|at| at - at % SECTOR),
            (Some(data), None) | (None, Some(data)) => first_data(data),
            (None, None) => None,
        };
        Ok(differs.map(|d| at + d as u64))
    }
}

/// The first sector that is not zero.
fn first_data(buf: &IoBuf) -> Option<usize> {
    if buf.is_zero() {
        return None;
    }
    (0..buf.len()).step_by(SECTOR).find(|at| !buf.slice(*at..(*at + SECTOR).min(buf.len())).is_zero())
}
