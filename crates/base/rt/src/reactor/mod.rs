//! Where an executor sleeps, and what tells it that I/O is done: io_uring, or epoll where that is refused.

mod epoll;
mod uring;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use base::{Errno, IoResult};
use rustix::event::{EventfdFlags, eventfd};

pub(crate) use epoll::Epoll;
pub(crate) use uring::{Memory, Op, Uring};

/// What an executor does its I/O with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring: all I/O in batches, one system call a round.
    Uring,
    /// epoll for descriptors, the blocking pool for files.
    Epoll,
}

/// A counter of the kernel's that wakes a sleeping executor.
#[derive(Clone)]
pub(crate) struct EventFd(Arc<OwnedFd>);

impl EventFd {
    pub(crate) fn new() -> IoResult<EventFd> {
        // Blocking on purpose: io_uring then waits for it by itself. Nobody reads it before it is readable.
        let fd = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        Ok(EventFd(Arc::new(fd)))
    }

    pub(crate) fn signal(&self) {
        // It fails only when 2^64 signals are pending.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Resets it; only when it is known to be readable.
    pub(crate) fn reset(&self) {
        let mut b = [0; 8];
        let _ = rustix::io::read(&*self.0, &mut b);
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(crate) fn owned(&self) -> Arc<OwnedFd> {
        self.0.clone()
    }
}

/// What a waiter wants of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
}

/// The reactor of one executor.
pub(crate) enum Reactor {
    Uring(Box<Uring>),
    Epoll(Epoll),
}

impl Reactor {
    pub(crate) fn new(backend: Backend, wakeup: &EventFd) -> IoResult<Reactor> {
        Ok(match backend {
            Backend::Uring => Reactor::Uring(Box::new(Uring::new(wakeup)?)),
            Backend::Epoll => Reactor::Epoll(Epoll::new(wakeup)?),
        })
    }

    pub(crate) fn backend(&self) -> Backend {
        match self {
            Reactor::Uring(_) => Backend::Uring,
            Reactor::Epoll(_) => Backend::Epoll,
        }
    }

    /// Submits what is new, waits (`None`: without limit) for something to happen, and wakes whom it concerns.
    pub(crate) fn turn(&self, wait: Option<Duration>) {
        match self {
            Reactor::Uring(u) => u.turn(wait),
            Reactor::Epoll(e) => e.turn(wait),
        }
    }

    /// Submits what is new.
    pub(crate) fn submit(&self) {
        if let Reactor::Uring(u) = self {
            u.submit();
        }
    }

    /// Whether [`Reactor::turn`] would find something, as far as that can be told without a system call.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Reactor::Uring(u) => u.is_ready(),
            Reactor::Epoll(_) => false,
        }
    }

    /// Cancels what is in flight and waits until the kernel has let go of it.
    pub(crate) fn shut_down(&self) {
        match self {
            Reactor::Uring(u) => u.shut_down(),
            Reactor::Epoll(_) => {}
        }
    }
}

/// The error that a `-errno` answer stands for.
pub(crate) fn check(res: i32) -> IoResult<usize> {
    usize::try_from(res).map_err(|_| Errno::from_raw(-res))
}
