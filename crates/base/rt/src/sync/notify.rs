//! A signal without a value.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::task::set_waker;

struct Waiter {
    state: Mutex<(Signal, Option<Waker>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Signal {
    None,
    One,
    All,
}

#[derive(Default)]
struct State {
    /// A `notify_one` that found nobody waiting.
    stored: bool,
    /// How often `notify_all` was called.
    generation: u64,
    queue: Vec<Arc<Waiter>>,
}

/// Wakes tasks that wait for something to change.
///
/// To wait for a condition without missing a change: make the [`Notified`] future, look at the condition, then await
/// the future; [`Notify::notify_all`] counts for futures made before it, polled or not.
#[derive(Default)]
pub struct Notify {
    state: Mutex<State>,
}

impl Notify {
    /// A signal with nothing stored.
    pub fn new() -> Notify {
        Notify::default()
    }

    /// A future that ends with the next `notify_all`, or with a `notify_one` (which may be stored already).
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, generation: self.state.lock().generation, waiter: None, done: false }
    }

    /// Wakes the one that has waited longest; with nobody waiting, the next wait ends at once (one signal is stored).
    pub fn notify_one(&self) {
        let waker = {
            let mut st = self.state.lock();
            if st.queue.is_empty() {
                st.stored = true;
                return;
            }
            let w = st.queue.remove(0);
            let mut s = w.state.lock();
            s.0 = Signal::One;
            s.1.take()
        };
        if let Some(w) = waker {
            w.wake();
        }
    }

    /// Wakes all that wait, and all whose future exists already; stores nothing.
    pub fn notify_all(&self) {
        let queue = {
            let mut st = self.state.lock();
            st.generation += 1;
            let queue = std::mem::take(&mut st.queue);
            for w in &queue {
                w.state.lock().0 = Signal::All;
            }
            queue
        };
        for w in queue {
            let waker = w.state.lock().1.take();
            if let Some(w) = waker {
                w.wake();
            }
        }
    }
}

impl std::fmt::Debug for Notify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notify").finish_non_exhaustive()
    }
}

/// A wait for a [`Notify`].
pub struct Notified<'a> {
    notify: &'a Notify,
    generation: u64,
    waiter: Option<Arc<Waiter>>,
    done: bool,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(());
        }
        if let Some(w) = &this.waiter {
            let mut s = w.state.lock();
            if s.0 == Signal::None {
                set_waker(&mut s.1, cx.waker());
                return Poll::Pending;
            }
            drop(s);
            this.waiter = None;
            this.done = true;
            return Poll::Ready(());
        }
        let mut st = this.notify.state.lock();
        if st.generation != this.generation || std::mem::take(&mut st.stored) {
            this.done = true;
            return Poll::Ready(());
        }
        let w = Arc::new(Waiter { state: Mutex::new((Signal::None, Some(cx.waker().clone()))) });
        st.queue.push(w.clone());
        this.waiter = Some(w);
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let Some(w) = self.waiter.take() else { return };
        let lost = {
            let mut st = self.notify.state.lock();
            st.queue.retain(|x| !Arc::ptr_eq(x, &w));
            w.state.lock().0 == Signal::One
        };
        // The signal was for one waiter, and this one will not act on it.
        if lost {
            self.notify.notify_one();
        }
    }
}
