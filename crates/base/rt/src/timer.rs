//! Time: the executor's clock, timers, and yielding.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::executor::{self, Local};

/// The timers of one executor, by deadline; equal deadlines fire in the order they were set.
#[derive(Default)]
pub(crate) struct Timers {
    queue: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next: Cell<u64>,
}

impl Timers {
    fn insert(&self, at: Instant, waker: Waker) -> (Instant, u64) {
        let key = (at, self.next.get());
        self.next.set(key.1 + 1);
        self.queue.borrow_mut().insert(key, waker);
        key
    }

    pub(crate) fn first(&self) -> Option<Instant> {
        self.queue.borrow().first_key_value().map(|(k, _)| k.0)
    }

    /// Wakes everything that is due at `now`.
    pub(crate) fn fire(&self, now: Instant) {
        loop {
            let waker = {
                let mut q = self.queue.borrow_mut();
                match q.first_entry() {
                    Some(e) if e.key().0 <= now => e.remove(),
                    _ => return,
                }
            };
            waker.wake();
        }
    }
}

/// The executor's time. Outside any executor, the system's monotonic clock; inside [`crate::sim`], virtual time.
pub fn now() -> Instant {
    executor::with_current(|l| l.now()).unwrap_or_else(Instant::now)
}

/// A future that ends at a moment; see [`sleep`].
pub struct Sleep {
    at: Option<Instant>,
    delay: Duration,
    armed: Option<(Rc<Local>, (Instant, u64))>,
}

/// Waits for `delay`, counted from the first poll. Delays beyond the clock's range never end.
pub fn sleep(delay: Duration) -> Sleep {
    Sleep { at: None, delay, armed: None }
}

/// Waits until `at` in the clock of [`now`].
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep { at: Some(at), delay: Duration::ZERO, armed: None }
}

impl Sleep {
    fn disarm(&mut self) {
        if let Some((local, key)) = self.armed.take() {
            // The waker is dropped after the borrow: its drop may run other code.
            let old = local.timers.queue.borrow_mut().remove(&key);
            drop(old);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let local = executor::current_local();
        let now = local.now();
        let at = match self.at {
            Some(at) => at,
            None => match now.checked_add(self.delay) {
                Some(at) => *self.at.insert(at),
                None => return Poll::Pending,
            },
        };
        if at <= now {
            self.disarm();
            return Poll::Ready(());
        }
        self.disarm();
        let key = local.timers.insert(at, cx.waker().clone());
        self.armed = Some((local, key));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// Runs `fut` for at most `limit`; `None` when the time was up first (`fut` is dropped then).
pub async fn timeout<F: Future>(limit: Duration, fut: F) -> Option<F::Output> {
    let mut fut = pin!(fut);
    let mut limit = pin!(sleep(limit));
    std::future::poll_fn(|cx| match fut.as_mut().poll(cx) {
        Poll::Ready(v) => Poll::Ready(Some(v)),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Lets every other ready task, and I/O, have a turn.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
