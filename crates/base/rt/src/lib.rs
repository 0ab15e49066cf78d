//! Executors (one a thread), timers, file operations, the blocking pool, and the seeded simulation executor.
//!
//! # The problem
//! Block nodes, monitors and device queues are asynchronous state machines that run on a few threads: one control
//! thread and N I/O threads, each with a single-threaded executor. Futures here need not be `Send`; only wakers
//! cross threads. A future may be dropped at any moment (a cancelled job, a client that left), and the kernel may
//! then still be writing into the memory of its request. So every operation *owns* its memory ([`mem::IoBuf`]
//! and the descriptor) until the kernel has answered, whoever waits for the answer.
//!
//! # What is here
//! * [`Executor`], [`IoThread`], [`Handle`], [`spawn_local`], [`JoinHandle`]: tasks.
//! * [`sleep`], [`timeout`], [`now`], [`yield_now`]: time (virtual inside [`sim`]).
//! * [`unblock`]: calls that block, on a bounded pool of threads.
//! * [`file::File`] and [`AsyncFd`]: I/O, by io_uring, or by threads and epoll where that is refused.
//! * [`read_key`]: a key of the kernel's keyring.
//! * [`ublk`]: commands to the kernel's driver for block devices in user space.
//! * [`sync`]: locks and signals that work across executors and that tolerate dropped waiters.
//! * [`sim`]: the same interface on a seeded, virtual, deterministic executor.

#![allow(unsafe_code)] // UNSAFETY: system calls on raw memory and descriptors, io_uring, and the cells of the locks

mod async_fd;
mod executor;
pub mod file;
mod keyring;
mod patience;
mod pool;
mod reactor;
pub mod sim;
mod spin;
pub mod sync;
mod task;
mod timer;
pub mod ublk;
mod writer;

pub use async_fd::AsyncFd;
pub use executor::{Conduct, Executor, Handle, IoThread, block_on, current, in_executor, spawn_local};
pub use file::AioMode;
pub use keyring::read_key;
pub use pool::{unblock, unblock_short};
pub use reactor::Backend;
pub use spin::Polling;
pub use task::{JoinError, JoinHandle};
pub use timer::{Sleep, now, sleep, sleep_until, timeout, yield_now};
