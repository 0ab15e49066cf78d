//! The pool of threads for calls that block.
//!
//! One pool for the process: threads are made when work waits and none is idle, up to [`MAX_THREADS`], and end after
//! [`IDLE`] without work. A job that was handed over always runs, even if nobody waits for it any more.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::{executor, sync::oneshot};

const MAX_THREADS: usize = 64;
const IDLE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

static POOL: Pool =
    Pool { state: Mutex::new(State { queue: VecDeque::new(), threads: 0, idle: 0 }), work: Condvar::new() };

impl Pool {
    fn submit(&'static self, job: Job) {
        let mut st = self.state.lock();
        st.queue.push_back(job);
        if st.idle >= st.queue.len() {
            self.work.notify_one();
            return;
        }
        if st.threads < MAX_THREADS {
            st.threads += 1;
            drop(st);
            let made = std::thread::Builder::new().name("rhea-worker".into()).spawn(|| self.run());
            if made.is_err() {
                self.without_thread();
            }
        }
    }

    /// A thread could not be made: the ones that live take the work; with none left, this thread does it.
    fn without_thread(&self) {
        let mut st = self.state.lock();
        st.threads -= 1;
        if st.threads > 0 {
            return;
        }
        while let Some(job) = st.queue.pop_front() {
            drop(st);
            job();
            st = self.state.lock();
        }
    }

    fn run(&self) {
        let mut st = self.state.lock();
        loop {
            if let Some(job) = st.queue.pop_front() {
                drop(st);
                job();
                st = self.state.lock();
                continue;
            }
            st.idle += 1;
            let timed_out = self.work.wait_for(&mut st, IDLE).timed_out();
            st.idle -= 1;
            if timed_out && st.queue.is_empty() {
                st.threads -= 1;
                return;
            }
        }
    }
}

/// Runs `job`, which may block, on a thread of the pool. Not in a simulation.
pub(crate) fn submit(job: impl FnOnce() + Send + 'static) {
    POOL.submit(Box::new(job));
}

/// Runs `f`, which may block, on a thread of the pool, and gives its result. Works from every executor.
///
/// The call is handed over at once, not at the first poll; dropping the future does not stop it. A panic of `f` is
/// raised where the result is awaited. In [`crate::sim`], `f` runs as a task of its own on the simulation's thread.
pub fn unblock<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T> {
    let (tx, rx) = oneshot::channel();
    let job = move || {
        // The result may be unwanted by now.
        let _ = tx.send(catch_unwind(AssertUnwindSafe(f)));
    };
    if executor::with_current(|l| l.is_sim()).unwrap_or(false) {
        drop(executor::spawn_local(async move { job() }));
    } else {
        POOL.submit(Box::new(job));
    }
    async move {
        match rx.await {
            Some(Ok(v)) => v,
            Some(Err(p)) => resume_unwind(p),
            // Only a simulation that is being torn down drops a job.
            None => std::future::pending().await,
        }
    }
}

/// [`unblock`] for a call that mostly takes less time than waking a thread: on an executor [for tools](crate::Conduct::tool) it
/// is made right here.
pub async fn unblock_short<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    if executor::with_current(|l| l.sole).unwrap_or(false) { f() } else { unblock(f).await }
}
