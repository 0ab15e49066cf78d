//! A counting semaphore, on which the locks are built.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::task::set_waker;

struct Waiter {
    need: usize,
    /// Set, under the semaphore's lock, when the permits are the waiter's.
    granted: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

struct State {
    free: usize,
    queue: VecDeque<Arc<Waiter>>,
}

impl State {
    /// Grants from the head of the queue as far as the permits reach; whom to wake.
    fn grant(&mut self) -> Vec<Arc<Waiter>> {
        let mut out = Vec::new();
        while let Some(w) = self.queue.front() {
            if w.need > self.free {
                break;
            }
            self.free -= w.need;
            w.granted.store(true, Ordering::Release);
            out.extend(self.queue.pop_front());
        }
        out
    }
}

fn wake(waiters: Vec<Arc<Waiter>>) {
    for w in waiters {
        let waker = w.waker.lock().take();
        if let Some(w) = waker {
            w.wake();
        }
    }
}

/// A counting semaphore, first come, first served: a big request at the head is not overtaken by small ones.
pub struct Semaphore {
    state: Mutex<State>,
}

impl Semaphore {
    /// A semaphore with `permits` free.
    pub const fn new(permits: usize) -> Semaphore {
        Semaphore { state: Mutex::new(State { free: permits, queue: VecDeque::new() }) }
    }

    /// Waits for one permit.
    pub fn acquire(&self) -> Acquire<'_> {
        self.acquire_many(1)
    }

    /// Waits for `n` permits at once.
    pub fn acquire_many(&self, n: usize) -> Acquire<'_> {
        Acquire { semaphore: self, need: n, waiter: None }
    }

    /// One permit, if it is free and nobody waits.
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.take_now(1).then(|| Permit { semaphore: self, count: 1 })
    }

    /// Adds `n` permits.
    pub fn add(&self, n: usize) {
        let granted = {
            let mut st = self.state.lock();
            st.free += n;
            if st.queue.is_empty() {
                return;
            }
            st.grant()
        };
        wake(granted);
    }

    /// How many permits are free.
    pub fn available(&self) -> usize {
        self.state.lock().free
    }

    pub(super) fn take_now(&self, n: usize) -> bool {
        let mut st = self.state.lock();
        let ok = st.queue.is_empty() && st.free >= n;
        if ok {
            st.free -= n;
        }
        ok
    }
}

/// A wait for permits; see [`Semaphore::acquire`]. Its place in the queue counts from the first poll.
pub struct Acquire<'a> {
    semaphore: &'a Semaphore,
    need: usize,
    waiter: Option<Arc<Waiter>>,
}

impl<'a> Future for Acquire<'a> {
    type Output = Permit<'a>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit<'a>> {
        let this = &mut *self;
        // Made only when it is granted: its drop gives the permits back.
        let permit = || Permit { semaphore: this.semaphore, count: this.need };
        if let Some(w) = &this.waiter {
            // The waker first: a grant after this line finds it.
            set_waker(&mut w.waker.lock(), cx.waker());
            if w.granted.load(Ordering::Acquire) {
                this.waiter = None;
                return Poll::Ready(permit());
            }
            return Poll::Pending;
        }
        let mut st = this.semaphore.state.lock();
        if st.queue.is_empty() && st.free >= this.need {
            st.free -= this.need;
            return Poll::Ready(permit());
        }
        let w = Arc::new(Waiter {
            need: this.need,
            granted: AtomicBool::new(false),
            waker: Mutex::new(Some(cx.waker().clone())),
        });
        st.queue.push_back(w.clone());
        drop(st);
        this.waiter = Some(w);
        Poll::Pending
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        let Some(w) = self.waiter.take() else { return };
        let granted = {
            let mut st = self.semaphore.state.lock();
            if w.granted.load(Ordering::Acquire) {
                // Granted, but never taken: on to the next.
                st.free += w.need;
            } else {
                st.queue.retain(|x| !Arc::ptr_eq(x, &w));
            }
            // Leaving the queue may also uncover smaller requests.
            st.grant()
        };
        wake(granted);
    }
}

/// Permits that go back to the semaphore when dropped.
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    count: usize,
}

impl Permit<'_> {
    /// Keeps the permits from the semaphore for good.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.semaphore.add(self.count);
    }
}
