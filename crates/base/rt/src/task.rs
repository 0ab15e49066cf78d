//! Tasks: what a waker points at, and the handle on a task's result.
//!
//! A task's future lives in its executor's table and never leaves that thread; the [`Header`] is the part that other
//! threads may hold.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

use crate::executor::{self, Shared};

/// The table index of the future that `block_on` itself polls.
pub(crate) const MAIN: usize = usize::MAX;

/// The part of a task that every thread may hold.
pub(crate) struct Header {
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: usize,
    /// Set while the task stands in a ready queue: a second wake is then nothing to do.
    pub(crate) queued: AtomicBool,
    /// Set by [`JoinHandle::abort`]: the executor drops the future instead of polling it.
    pub(crate) aborted: AtomicBool,
}

impl Header {
    pub(crate) fn new(shared: Arc<Shared>, key: usize) -> Arc<Header> {
        Arc::new(Header { shared, key, queued: AtomicBool::new(false), aborted: AtomicBool::new(false) })
    }

    pub(crate) fn schedule(this: &Arc<Header>) {
        if !this.queued.swap(true, Ordering::AcqRel) {
            executor::enqueue(this);
        }
    }
}

impl Wake for Header {
    fn wake(self: Arc<Self>) {
        Header::schedule(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Header::schedule(self);
    }
}

/// A future of the executor's own, type erased.
pub(crate) type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Why a task has no result.
pub enum JoinError {
    /// It was aborted, or its executor has ended.
    Aborted,
    /// It panicked; the payload.
    Panicked(Box<dyn Any + Send>),
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JoinError::Aborted => "Aborted",
            JoinError::Panicked(_) => "Panicked",
        })
    }
}

struct JoinState<T> {
    result: Option<Result<T, JoinError>>,
    done: bool,
    detached: bool,
    waker: Option<Waker>,
    header: Option<Arc<Header>>,
    abort_wanted: bool,
}

/// A handle on a spawned task. Dropping it lets the task run on by itself.
///
/// As a future it gives the task's output, raises the task's panic anew, and panics where the task was aborted;
/// [`JoinHandle::outcome`] tells these apart instead.
pub struct JoinHandle<T> {
    state: Arc<Mutex<JoinState<T>>>,
}

impl<T> JoinHandle<T> {
    /// Cancels the task: its future is dropped on its own thread, soon. Nothing happens if it has ended already.
    pub fn abort(&self) {
        let header = {
            let mut st = self.state.lock();
            st.abort_wanted = true;
            st.header.clone()
        };
        if let Some(h) = header {
            h.aborted.store(true, Ordering::Release);
            Header::schedule(&h);
        }
    }

    /// Whether the task has ended, one way or another.
    pub fn is_finished(&self) -> bool {
        self.state.lock().done
    }

    /// Waits for the end of the task and tells how it ended.
    pub async fn outcome(mut self) -> Result<T, JoinError> {
        std::future::poll_fn(|cx| self.poll_outcome(cx)).await
    }

    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, JoinError>> {
        let mut st = self.state.lock();
        if let Some(r) = st.result.take() {
            return Poll::Ready(r);
        }
        assert!(!st.done, "a JoinHandle was polled after it gave its result");
        set_waker(&mut st.waker, cx.waker());
        Poll::Pending
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.poll_outcome(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(v)) => Poll::Ready(v),
            Poll::Ready(Err(JoinError::Panicked(p))) => resume_unwind(p),
            Poll::Ready(Err(JoinError::Aborted)) => panic!("awaited a task that was aborted"),
        }
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        let unseen = {
            let mut st = self.state.lock();
            st.detached = true;
            st.waker = None;
            st.result.take()
        };
        // A panic that nobody will look at must not vanish.
        if let Some(Err(JoinError::Panicked(_))) = unseen {
            tracing::error!("a task panicked and its result was dropped");
        }
    }
}

/// Replaces `slot` with `waker` unless it is the same one already.
pub(crate) fn set_waker(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(w) if w.will_wake(waker) => {}
        _ => *slot = Some(waker.clone()),
    }
}

/// The executor's end of a [`JoinHandle`]: reports the result, or `Aborted` when it is dropped without one.
pub(crate) struct Completer<T> {
    state: Arc<Mutex<JoinState<T>>>,
    sent: bool,
}

impl<T> Completer<T> {
    /// Ties the handle to its task, so that it can be aborted; an abort that came before takes effect now.
    pub(crate) fn bind(&self, header: &Arc<Header>) {
        let mut st = self.state.lock();
        st.header = Some(header.clone());
        if st.abort_wanted {
            header.aborted.store(true, Ordering::Release);
        }
    }

    /// Gives a panic back if nobody holds the handle any more.
    fn finish(&mut self, result: Result<T, JoinError>) -> Option<Box<dyn Any + Send>> {
        self.sent = true;
        let mut st = self.state.lock();
        st.done = true;
        st.header = None;
        let waker = st.waker.take();
        if st.detached {
            drop(st);
            return match result {
                Err(JoinError::Panicked(p)) => Some(p),
                _ => None,
            };
        }
        st.result = Some(result);
        drop(st);
        if let Some(w) = waker {
            w.wake();
        }
        None
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        if !self.sent {
            self.finish(Err(JoinError::Aborted));
        }
    }
}

pub(crate) fn join_pair<T>() -> (Completer<T>, JoinHandle<T>) {
    let state = Arc::new(Mutex::new(JoinState {
        result: None,
        done: false,
        detached: false,
        waker: None,
        header: None,
        abort_wanted: false,
    }));
    (Completer { state: state.clone(), sent: false }, JoinHandle { state })
}

/// `fut` with its result going to `done`. A panic goes to the handle; without a handle it unwinds the executor.
pub(crate) struct Wrapped<F: Future> {
    /// Pinned with the wrapper, and the first member to go: `done` reports an abort only after that.
    fut: Option<F>,
    done: Completer<F::Output>,
}

impl<F: Future> Wrapped<F> {
    pub(crate) fn new(fut: F, done: Completer<F::Output>) -> Wrapped<F> {
        Wrapped { fut: Some(fut), done }
    }
}

impl<F: Future> Future for Wrapped<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `fut` is not moved out of its place here, and the wrapper is not `Unpin` unless `F` is; `done` is
        // never pinned.
        let (mut fut, done) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.fut), &mut this.done)
        };
        let inner = fut.as_mut().as_pin_mut().expect("a task is not polled after its end");
        let result = match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(v)) => Ok(v),
            Err(p) => Err(JoinError::Panicked(p)),
        };
        // What the future holds goes before the result is seen, so that a joiner finds it released.
        fut.set(None);
        if let Some(p) = done.finish(result) {
            resume_unwind(p);
        }
        Poll::Ready(())
    }
}
