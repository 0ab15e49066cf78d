//! What the requests on one node share: who is where, and what has not been flushed.

use crate::bitmap::Bitmaps;
use event_listener::Event;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};

/// The shared state of a node's requests. One for all versions of the node.
#[derive(Debug, Default)]
pub(crate) struct Live {
    ranges: Arc<Ranges>,
    /// Somebody copies within the node ([`Live::alone`]), so that every write must say where it is.
    careful: AtomicBool,
    /// Writes in flight that have not said where they are.
    plain: AtomicU64,
    /// The node's dirty bitmaps.
    pub(crate) bitmaps: Bitmaps,
    /// Counts writes that have completed.
    written: AtomicU64,
    /// The count at the last flush that succeeded.
    flushed: AtomicU64,
    /// Once a write ends behind this offset, somebody wants to know; 0 for nobody.
    threshold: AtomicU64,
    crossed: Crossed,
    /// The offset behind the last byte that was ever written.
    highest: AtomicU64,
}

/// Whom to tell of a write behind the threshold.
#[derive(Default)]
struct Crossed(Mutex<Option<OnCrossing>>);

/// Told the threshold, and how far behind it a write ends.
pub(crate) type OnCrossing = Box<dyn Fn(u64, u64) + Send + Sync>;

impl std::fmt::Debug for Crossed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crossed({})", self.0.lock().is_some())
    }
}

/// Ranges that are in use: each shared with others, or exclusive.
#[derive(Debug, Default)]
pub struct Ranges {
    tracked: Mutex<Tracked>,
    ended: Event,
}

#[derive(Debug, Default)]
struct Tracked {
    next: u64,
    list: Vec<Request>,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    id: u64,
    start: u64,
    end: u64,
    serialising: bool,
}

/// A range in use, until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    ranges: Arc<Ranges>,
    id: u64,
}

/// A write in flight, until it is dropped.
#[derive(Debug)]
pub(crate) enum Writing {
    /// One that others can see.
    Tracked { _ticket: Ticket },
    /// One that is only counted.
    Plain(Arc<Live>),
}

impl Ranges {
    /// Enters the range `start..end` into the list, then waits for every *earlier* one that overlaps it, if it or that
    /// one is exclusive. As each waits for earlier ones only, nobody waits for ever.
    pub async fn lock(self: &Arc<Self>, start: u64, end: u64, exclusive: bool) -> Ticket {
        let id = {
            let mut t = self.tracked.lock();
            t.next += 1;
            let id = t.next;
            t.list.push(Request { id, start, end, serialising: exclusive });
            id
        };
        let ticket = Ticket { ranges: self.clone(), id };
        loop {
            if !self.blocked(id, start, end, exclusive) {
                return ticket;
            }
            let listener = self.ended.listen();
            if !self.blocked(id, start, end, exclusive) {
                return ticket;
            }
            listener.await;
        }
    }

    fn blocked(&self, id: u64, start: u64, end: u64, serialising: bool) -> bool {
        let hit = |r: &Request| r.id < id && (serialising || r.serialising) && r.start < end && start < r.end;
        self.tracked.lock().list.iter().any(hit)
    }
}

impl Live {
    /// [`Ranges::lock`] among the node's requests.
    pub(crate) async fn track(&self, start: u64, end: u64, serialising: bool) -> Ticket {
        self.ranges.lock(start, end, serialising).await
    }

    /// Begins a write. Unless it is `seen` anyway, it costs a count only, as long as nobody copies within the node.
    pub(crate) async fn writing(
        self: &Arc<Self>,
        start: u64,
        end: u64,
        serialising: bool,
        seen: bool,
    ) -> Writing {
        if !serialising && !seen {
            self.plain.fetch_add(1, SeqCst);
            let plain = Writing::Plain(self.clone());
            if !self.careful.load(SeqCst) {
                return plain;
            }
        }
        Writing::Tracked { _ticket: self.track(start, end, serialising).await }
    }

    /// Holds a range against every other request but reads, for a copy within the node. From the first time on, all
    /// writes of the node say where they are.
    pub(crate) async fn alone(&self, start: u64, end: u64) -> Ticket {
        self.careful.store(true, SeqCst);
        while self.plain.load(SeqCst) > 0 {
            let listener = self.ranges.ended.listen();
            if self.plain.load(SeqCst) > 0 {
                listener.await;
            }
        }
        self.track(start, end, true).await
    }

    /// This range has been written, zeroed or discarded: the next flush counts, and dirty bitmaps record it.
    pub(crate) fn dirtied(&self, off: u64, len: u64) {
        self.bitmaps.record(off, len);
        self.wrote();
    }

    /// Tells `f` once of a write that ends behind `threshold`; 0 for never.
    pub(crate) fn set_threshold(&self, threshold: u64, f: OnCrossing) {
        let mut crossed = self.crossed.0.lock();
        *crossed = Some(f);
        self.threshold.store(threshold, SeqCst);
    }

    /// The offset behind which a write will be told; 0 for none.
    pub(crate) fn threshold(&self) -> u64 {
        self.threshold.load(SeqCst)
    }

    /// A write that ends here begins.
    pub(crate) fn will_end_at(&self, end: u64) {
        let at = self.threshold.load(Relaxed);
        if at == 0 || end <= at {
            return;
        }
        let crossed = self.crossed.0.lock();
        // Of several writes, one tells; and a threshold that was changed meanwhile is not this one.
        if self.threshold.compare_exchange(at, 0, SeqCst, SeqCst).is_ok()
            && let Some(f) = crossed.as_ref()
        {
            f(at, end - at);
        }
    }

    /// Bytes up to `end` have been written.
    pub(crate) fn reached(&self, end: u64) {
        // Mostly it is not the highest, and then a shared read is enough.
        if end > self.highest.load(Relaxed) {
            self.highest.fetch_max(end, Relaxed);
        }
    }

    /// The offset behind the last byte that was ever written.
    pub(crate) fn highest(&self) -> u64 {
        self.highest.load(Relaxed)
    }

    /// Something has been written that dirty bitmaps need not know of: the next flush counts.
    pub(crate) fn wrote(&self) {
        self.written.fetch_add(1, SeqCst);
    }

    /// The count of writes that a flush which begins now covers, or `None` where nothing was written since the last.
    pub(crate) fn unflushed(&self) -> Option<u64> {
        let written = self.written.load(SeqCst);
        (self.flushed.load(SeqCst) < written).then_some(written)
    }

    /// A flush that began at `upto` has succeeded.
    pub(crate) fn flushed(&self, upto: u64) {
        self.flushed.fetch_max(upto, SeqCst);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.ranges.tracked.lock().list.retain(|r| r.id != self.id);
        self.ranges.ended.notify(usize::MAX);
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Writing::Plain(live) = self {
            let last = live.plain.fetch_sub(1, SeqCst) == 1;
            if last && live.careful.load(SeqCst) {
                live.ranges.ended.notify(usize::MAX);
            }
        }
    }
}
