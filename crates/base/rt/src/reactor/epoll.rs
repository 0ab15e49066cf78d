//! The reactor on epoll.
//!
//! A descriptor is registered only while somebody waits for it, so a descriptor that is closed, and its number
//! used again, leaves nothing behind.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use base::{Errno, IoResult};

use super::{EventFd, Interest};

const WAKEUP: u64 = u64::MAX;

struct Waiter {
    interest: Interest,
    fired: Rc<Cell<bool>>,
    waker: Waker,
}

pub(crate) struct Epoll {
    epfd: OwnedFd,
    wakeup: EventFd,
    waiters: RefCell<HashMap<RawFd, Vec<Waiter>>>,
}

fn mask(waiters: &[Waiter]) -> u32 {
    waiters.iter().fold(0, |m, w| {
        m | match w.interest {
            Interest::Read => (libc::EPOLLIN | libc::EPOLLRDHUP) as u32,
            Interest::Write => libc::EPOLLOUT as u32,
        }
    })
}

impl Epoll {
    pub(crate) fn new(wakeup: &EventFd) -> IoResult<Epoll> {
        // SAFETY: the call takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(Errno::last());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let epfd = unsafe { OwnedFd::from_raw_fd(fd) };
        let this = Epoll { epfd, wakeup: wakeup.clone(), waiters: RefCell::default() };
        this.control(libc::EPOLL_CTL_ADD, wakeup.fd().as_raw_fd(), libc::EPOLLIN as u32, WAKEUP)?;
        Ok(this)
    }

    fn control(&self, op: i32, fd: RawFd, events: u32, data: u64) -> IoResult<()> {
        let mut ev = libc::epoll_event { events, u64: data };
        // SAFETY: `ev` lives through the call, which copies it.
        match unsafe { libc::epoll_ctl(self.epfd.as_raw_fd(), op, fd, &mut ev) } {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }

    /// Adds a waiter; `fired` is set, and `waker` woken, once the descriptor is ready. `Ok(false)`: the descriptor
    /// is of a kind that is always ready (a regular file).
    pub(crate) fn wait(
        &self,
        fd: BorrowedFd<'_>,
        interest: Interest,
        fired: &Rc<Cell<bool>>,
        waker: Waker,
    ) -> IoResult<bool> {
        let fd = fd.as_raw_fd();
        let mut map = self.waiters.borrow_mut();
        let list = map.entry(fd).or_default();
        let op = if list.is_empty() { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_MOD };
        list.push(Waiter { interest, fired: fired.clone(), waker });
        match self.control(op, fd, mask(list), fd as u64) {
            Ok(()) => Ok(true),
            Err(e) => {
                list.pop();
                if list.is_empty() {
                    map.remove(&fd);
                }
                if e == Errno::PERM { Ok(false) } else { Err(e) }
            }
        }
    }

    /// Gives the waiter that is known by `fired` another waker.
    pub(crate) fn rewait(&self, fd: BorrowedFd<'_>, fired: &Rc<Cell<bool>>, waker: &Waker) {
        let mut map = self.waiters.borrow_mut();
        let list = map.get_mut(&fd.as_raw_fd());
        if let Some(w) = list.and_then(|l| l.iter_mut().find(|w| Rc::ptr_eq(&w.fired, fired)))
            && !w.waker.will_wake(waker)
        {
            w.waker = waker.clone();
        }
    }

    /// Removes the waiter that is known by `fired`.
    pub(crate) fn forget(&self, fd: BorrowedFd<'_>, fired: &Rc<Cell<bool>>) {
        let fd = fd.as_raw_fd();
        let mut map = self.waiters.borrow_mut();
        let Some(list) = map.get_mut(&fd) else { return };
        list.retain(|w| !Rc::ptr_eq(&w.fired, fired));
        self.update(fd, &mut map);
    }

    fn update(&self, fd: RawFd, map: &mut HashMap<RawFd, Vec<Waiter>>) {
        let Some(list) = map.get(&fd) else { return };
        let done = if list.is_empty() {
            map.remove(&fd);
            self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
        } else {
            self.control(libc::EPOLL_CTL_MOD, fd, mask(list), fd as u64)
        };
        if let Err(e) = done {
            tracing::debug!("epoll_ctl: {e}");
        }
    }

    pub(crate) fn turn(&self, wait: Option<Duration>) {
        // Rounded up, so that a timer is due when the call returns.
        let ms = wait.map_or(-1, |d| d.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32);
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: the array has room for the number of events that is passed.
        let n = unsafe { libc::epoll_wait(self.epfd.as_raw_fd(), events.as_mut_ptr(), 64, ms) };
        let mut wake = Vec::new();
        for ev in &events[..usize::try_from(n).unwrap_or(0)] {
            let (bits, data) = (ev.events, ev.u64);
            if data == WAKEUP {
                self.wakeup.reset();
                continue;
            }
            let fd = data as RawFd;
            let mut map = self.waiters.borrow_mut();
            let Some(list) = map.get_mut(&fd) else { continue };
            let broken = bits & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
            let readable = broken || bits & (libc::EPOLLIN | libc::EPOLLRDHUP) as u32 != 0;
            let writable = broken || bits & libc::EPOLLOUT as u32 != 0;
            for w in list.extract_if(.., |w| match w.interest {
                Interest::Read => readable,
                Interest::Write => writable,
            }) {
                w.fired.set(true);
                wake.push(w.waker);
            }
            self.update(fd, &mut map);
        }
        for w in wake {
            w.wake();
        }
    }
}
