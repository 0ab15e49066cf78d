//! Locks on ranges of a disk, for formats that allocate: in-place writes share them, whatever changes a mapping holds
//! them alone.
//!
//! A write into a cluster that is being allocated waits until it is linked and then finds it in place. Nobody waits for
//! such a lock while holding a lock on metadata, so the two cannot deadlock.

use std::ops::Range;

use parking_lot::Mutex;
use rt::sync::Notify;

struct Held {
    id: u64,
    range: Range<u64>,
    shared: bool,
}

#[derive(Default)]
struct State {
    next: u64,
    held: Vec<Held>,
}

/// The locks of one image; none are held at first.
#[derive(Default)]
pub struct RangeLocks {
    state: Mutex<State>,
    released: Notify,
}

/// A held lock; dropping releases it.
pub struct RangeGuard<'a> {
    locks: &'a RangeLocks,
    id: u64,
}

impl RangeLocks {
    fn try_acquire(&self, range: &Range<u64>, shared: bool) -> Option<RangeGuard<'_>> {
        let mut s = self.state.lock();
        let clash =
            |h: &Held| h.range.start < range.end && range.start < h.range.end && !(h.shared && shared);
        if s.held.iter().any(clash) {
            return None;
        }
        let id = s.next;
        s.next += 1;
        s.held.push(Held { id, range: range.clone(), shared });
        Some(RangeGuard { locks: self, id })
    }

    async fn acquire(&self, range: Range<u64>, shared: bool) -> RangeGuard<'_> {
        if let Some(g) = self.try_acquire(&range, shared) {
            return g;
        }
        loop {
            // Listening starts before the attempt, so that a release in between is not lost.
            let waiter = self.released.notified();
            if let Some(g) = self.try_acquire(&range, shared) {
                return g;
            }
            waiter.await;
        }
    }

    /// Locks a range of guest bytes together with others that share it.
    pub async fn shared(&self, range: Range<u64>) -> RangeGuard<'_> {
        self.acquire(range, true).await
    }

    /// Locks a range of guest bytes alone.
    pub async fn exclusive(&self, range: Range<u64>) -> RangeGuard<'_> {
        self.acquire(range, false).await
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut s = self.locks.state.lock();
        if let Some(i) = s.held.iter().position(|h| h.id == self.id) {
            s.held.swap_remove(i);
        }
        drop(s);
        self.locks.released.notify_all();
    }
}
