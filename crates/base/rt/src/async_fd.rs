//! Readiness of descriptors (sockets, pipes, terminals).

use std::cell::Cell;
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use base::{Errno, IoResult};
use io_uring::{opcode, types};
use mem::IoBuf;

use crate::executor::{self, Local};
use crate::file::{iovecs, result};
use crate::reactor::{Interest, Memory, Op, Reactor};

/// A descriptor whose readiness can be awaited, on any executor.
///
/// It keeps no memory of readiness: each call asks the kernel. So try the system call first, and wait when it says
/// [`Errno::AGAIN`]. The descriptor is switched to non-blocking mode. Regular files count as always ready.
#[derive(Clone, Debug)]
pub struct AsyncFd {
    fd: Arc<OwnedFd>,
}

impl AsyncFd {
    /// Takes `fd` over and makes it non-blocking (for all that share its open file description).
    pub fn new(fd: OwnedFd) -> IoResult<AsyncFd> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        Ok(AsyncFd { fd: Arc::new(fd) })
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Waits until a read would not block: data, end of stream, or an error to be read.
    pub async fn readable(&self) -> IoResult<()> {
        self.ready(Interest::Read).await
    }

    /// Waits until a write would not block.
    pub async fn writable(&self) -> IoResult<()> {
        self.ready(Interest::Write).await
    }

    /// Reads what is there into `buf`, without waiting: 0 at the end of the stream. Of a unix socket, descriptors that
    /// come along are closed.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] where nothing is there yet; otherwise the system's.
    pub fn try_read_into(&self, buf: &IoBuf) -> IoResult<usize> {
        let iov = iovecs(buf);
        loop {
            // SAFETY: the list and the segments that it points at live through the call. Racing accesses are the
            // memory's contract (see `mem`).
            let n = unsafe { libc::readv(self.fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32) };
            match result(n) {
                Err(Errno::INTR) => {}
                r => return r,
            }
        }
    }

    /// Writes what can be written of `buf` without waiting, in one call.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] where nothing can be written now; otherwise the system's.
    pub fn try_write_from(&self, buf: &IoBuf) -> IoResult<usize> {
        let iov = iovecs(buf);
        loop {
            // SAFETY: the list and the segments that it points at live through the call. Racing accesses are the
            // memory's contract (see `mem`).
            let n = unsafe { libc::writev(self.fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32) };
            match result(n) {
                Err(Errno::INTR) => {}
                r => return r,
            }
        }
    }

    async fn ready(&self, interest: Interest) -> IoResult<()> {
        let local = executor::current_local();
        match &local.reactor {
            // A simulation has no outer world to wait for.
            None => Err(Errno::NOTSUP),
            Some(Reactor::Uring(_)) => {
                let events = match interest {
                    Interest::Read => libc::POLLIN | libc::POLLRDHUP,
                    Interest::Write => libc::POLLOUT,
                };
                let entry = opcode::PollAdd::new(types::Fd(self.fd.as_raw_fd()), events as u32).build();
                let memory = Memory { buf: IoBuf::new(), iov: Box::new([]), fd: self.fd.clone() };
                // SAFETY: the entry points at no memory, and its descriptor is kept open.
                let res = unsafe { Op::start(&local, entry, memory) }.await;
                crate::reactor::check(res).map(|_| ())
            }
            Some(Reactor::Epoll(_)) => {
                Ready { local: local.clone(), fd: self.fd.clone(), interest, fired: None }.await
            }
        }
    }
}

/// Waits on epoll.
struct Ready {
    local: Rc<Local>,
    fd: Arc<OwnedFd>,
    interest: Interest,
    fired: Option<Rc<Cell<bool>>>,
}

impl Future for Ready {
    type Output = IoResult<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        let this = &mut *self;
        let Some(Reactor::Epoll(epoll)) = &this.local.reactor else {
            unreachable!("made only where there is epoll")
        };
        if let Some(fired) = &this.fired {
            if fired.get() {
                this.fired = None;
                return Poll::Ready(Ok(()));
            }
            epoll.rewait(this.fd.as_fd(), fired, cx.waker());
            return Poll::Pending;
        }
        let fired = Rc::new(Cell::new(false));
        match epoll.wait(this.fd.as_fd(), this.interest, &fired, cx.waker().clone()) {
            Ok(true) => {
                this.fired = Some(fired);
                Poll::Pending
            }
            Ok(false) => Poll::Ready(Ok(())),
            Err(e) => Poll::Ready(Err(e)),
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let (Some(fired), Some(Reactor::Epoll(epoll))) = (&self.fired, &self.local.reactor) {
            epoll.forget(self.fd.as_fd(), fired);
        }
    }
}
