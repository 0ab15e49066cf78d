//! What the requests on one node share: who is where, and what has not been flushed.

use crate::bitmap::Bitmaps;
use event_listener::Event;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The shared state of a node's requests. One for all versions of the node.
#[derive(Debug, Default)]
pub(crate) struct Live {
    tracked: Mutex<Tracked>,
    ended: Event,
    /// The node's dirty bitmaps.
    pub(crate) bitmaps: Bitmaps,
    /// Counts writes that have completed.
    written: AtomicU64,
    /// The count at the last flush that succeeded.
    flushed: AtomicU64,
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

/// A tracked request; ends when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    live: Arc<Live>,
    id: u64,
}

impl Live {
    /// Enters the range into the list, then waits for every *earlier* request that overlaps it, if it or that one
    /// serialises. As each waits for earlier ones only, nobody waits for ever.
    pub(crate) async fn track(self: &Arc<Self>, start: u64, end: u64, serialising: bool) -> Ticket {
        let id = {
            let mut t = self.tracked.lock();
            t.next += 1;
            let id = t.next;
            t.list.push(Request { id, start, end, serialising });
            id
        };
        let ticket = Ticket { live: self.clone(), id };
        loop {
            if !self.blocked(id, start, end, serialising) {
                return ticket;
            }
            let listener = self.ended.listen();
            if !self.blocked(id, start, end, serialising) {
                return ticket;
            }
            listener.await;
        }
    }

    fn blocked(&self, id: u64, start: u64, end: u64, serialising: bool) -> bool {
        let hit = |r: &Request| r.id < id && (serialising || r.serialising) && r.start < end && start < r.end;
        self.tracked.lock().list.iter().any(hit)
    }

    /// This range has been written, zeroed or discarded: the next flush counts, and dirty bitmaps record it.
    pub(crate) fn dirtied(&self, off: u64, len: u64) {
        self.bitmaps.record(off, len);
        self.wrote();
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
        self.live.tracked.lock().list.retain(|r| r.id != self.id);
        self.live.ended.notify(usize::MAX);
    }
}
