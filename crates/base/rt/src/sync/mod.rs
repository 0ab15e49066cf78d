//! Locks and signals for tasks.
//!
//! All of them may be shared between executors and threads (only the waiting is asynchronous), are first come,
//! first served, and stand a waiter's future being dropped at any moment: a grant that the dropped waiter had
//! already been given goes on to the next one.

mod mutex;
mod notify;
pub mod oneshot;
mod rwlock;
mod semaphore;

pub use flume as channel;
pub use mutex::{Mutex, MutexGuard};
pub use notify::{Notified, Notify};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{Acquire, Permit, Semaphore};
