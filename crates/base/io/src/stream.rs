//! A byte stream over one descriptor, or over one to read and another to write.

use crate::tls::Session;
use base::{Errno, IoResult};
use mem::IoBuf;
use parking_lot::Mutex;
use rt::AsyncFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno as Sys;
use rustix::net::{self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most descriptors that are taken from one message of a unix socket; the kernel closes the rest.
pub const MAX_FDS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unix,
    Inet,
    Plain,
}

struct Inner {
    /// Encryption over another stream; then there are no descriptors of its own.
    tls: Option<Session>,
    input: Option<AsyncFd>,
    output: Option<AsyncFd>,
    kind: Kind,
    peer: String,
    closed: AtomicBool,
    /// Wakes a reader or writer that waits while [`Stream::shutdown`] is called on a descriptor that the
    /// system cannot shut down.
    closing: event_listener::Event,
    fds: Mutex<Vec<OwnedFd>>,
}

fn sys(e: Sys) -> Errno {
    Errno::from_raw(e.raw_os_error())
}

/// An error where nothing is there to be read. Who shares the description (a parent process on the same terminal, or
/// the end of this one, which restores it) may have made it blocking again, and a read must not wait all the same.
fn has_input(fd: BorrowedFd<'_>) -> Result<(), Sys> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    match poll(&mut fds, Some(&Timespec::default())) {
        Ok(0) => Err(Sys::AGAIN),
        Ok(_) => Ok(()),
        Err(e) => Err(e),
    }
}

/// A stream of bytes. Clones are the same stream: one may read while another writes.
///
/// The descriptors are put into non-blocking mode.
#[derive(Clone)]
pub struct Stream(Arc<Inner>);

impl Stream {
    fn build(input: Option<OwnedFd>, output: Option<OwnedFd>, kind: Kind, peer: String) -> IoResult<Stream> {
        Ok(Stream(Arc::new(Inner {
            input: input.map(AsyncFd::new).transpose()?,
            output: output.map(AsyncFd::new).transpose()?,
            tls: None,
            kind,
            peer,
            closed: AtomicBool::new(false),
            closing: event_listener::Event::new(),
            fds: Mutex::new(Vec::new()),
        })))
    }

    fn single(fd: OwnedFd, kind: Kind, peer: String) -> IoResult<Stream> {
        let stream = Stream::build(Some(fd), None, kind, peer)?;
        let mut inner = Arc::try_unwrap(stream.0).unwrap_or_else(|_| unreachable!("just made"));
        inner.output = inner.input.clone();
        Ok(Stream(Arc::new(inner)))
    }

    /// What passes through `session`.
    pub(crate) fn encrypted(session: Session) -> Stream {
        let peer = session.under().peer().to_owned();
        Stream(Arc::new(Inner {
            tls: Some(session),
            input: None,
            output: None,
            kind: Kind::Plain,
            peer,
            closed: AtomicBool::new(false),
            closing: event_listener::Event::new(),
            fds: Mutex::new(Vec::new()),
        }))
    }

    /// Whom the peer of an encrypted stream has proved to be: the subject of its certificate (RFC 4514), or the name of
    /// its shared key.
    pub fn identity(&self) -> Option<String> {
        self.0.tls.as_ref()?.identity()
    }

    /// Why bytes could not be read, for people: what [`Stream::read_exact`] answered with.
    pub fn why_unread(&self, e: Errno) -> String {
        match (e, &self.0.tls) {
            (Errno::PIPE, None) => "Unexpected end-of-file before all data were read".into(),
            (Errno::PIPE, Some(_)) => {
                "Cannot read from TLS channel: The TLS connection was non-properly terminated.".into()
            }
            (e, None) => format!("Unable to read from socket: {e}"),
            (e, Some(_)) => format!("Cannot read from TLS channel: {e}"),
        }
    }

    /// A stream over a connected socket of any family, or any other descriptor that goes both ways.
    ///
    /// # Errors
    /// The system's, where the descriptor cannot be made non-blocking or polled.
    pub fn from_fd(fd: OwnedFd) -> IoResult<Stream> {
        let kind = match net::sockopt::socket_domain(&fd) {
            Ok(net::AddressFamily::UNIX) => Kind::Unix,
            Ok(_) => Kind::Inet,
            Err(_) => Kind::Plain,
        };
        let peer = match kind {
            Kind::Inet => net::getpeername(&fd)
                .ok()
                .flatten()
                .and_then(|a| std::net::SocketAddr::try_from(a).ok())
                .map_or_else(|| String::from("tcp"), |a| a.to_string()),
            Kind::Unix => String::from("unix"),
            Kind::Plain => String::from("fd"),
        };
        if kind == Kind::Inet {
            // Replies are small and answers are waited for.
            let _ = net::sockopt::set_tcp_nodelay(&fd, true);
        }
        Stream::single(fd, kind, peer)
    }

    /// A stream that reads from one descriptor and writes to another; either may be missing (reads then give
    /// the end of the stream, writes `EPIPE`).
    ///
    /// # Errors
    /// As for [`Stream::from_fd`].
    pub fn from_pair(input: Option<OwnedFd>, output: Option<OwnedFd>) -> IoResult<Stream> {
        Stream::build(input, output, Kind::Plain, String::from("fd"))
    }

    /// Two streams connected to each other.
    ///
    /// # Errors
    /// The system's.
    pub fn pair() -> IoResult<(Stream, Stream)> {
        let (a, b) = net::socketpair(
            net::AddressFamily::UNIX,
            net::SocketType::STREAM,
            net::SocketFlags::CLOEXEC,
            None,
        )
        .map_err(sys)?;
        Ok((Stream::from_fd(a)?, Stream::from_fd(b)?))
    }

    /// Who is at the other end, for messages.
    pub fn peer(&self) -> &str {
        &self.0.peer
    }

    /// Reads what is there: 0 at the end of the stream.
    ///
    /// # Errors
    /// `EAGAIN` where nothing is there yet; otherwise the system's.
    pub fn try_read(&self, buf: &mut [u8]) -> IoResult<usize> {
        if let Some(t) = &self.0.tls {
            return if self.0.closed.load(Ordering::Acquire) { Ok(0) } else { t.try_read(buf) };
        }
        let Some(end) = &self.0.input else { return Ok(0) };
        if self.0.closed.load(Ordering::Acquire) {
            return Ok(0);
        }
        loop {
            let r = match self.0.kind {
                Kind::Unix => self.recv_with_fds(end.fd(), buf),
                Kind::Inet => rustix::io::read(end.fd(), &mut *buf),
                Kind::Plain => has_input(end.fd()).and_then(|()| rustix::io::read(end.fd(), &mut *buf)),
            };
            match r {
                Ok(n) => return Ok(n),
                Err(Sys::INTR) => {}
                Err(e) => return Err(sys(e)),
            }
        }
    }

    fn recv_with_fds(&self, fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize, Sys> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let msg = net::recvmsg(fd, &mut [IoSliceMut::new(buf)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut got = Vec::new();
        for m in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = m {
                got.extend(fds);
            }
        }
        if !got.is_empty() {
            // A new set replaces one that nobody took, so a peer cannot pile descriptors up.
            *self.0.fds.lock() = got;
        }
        Ok(msg.bytes)
    }

    /// Writes what fits now.
    ///
    /// # Errors
    /// `EAGAIN` where nothing fits, `EPIPE` after a shutdown or where there is no output; otherwise the
    /// system's.
    pub fn try_write(&self, buf: &[u8]) -> IoResult<usize> {
        if let Some(t) = &self.0.tls {
            return if self.0.closed.load(Ordering::Acquire) { Err(Errno::PIPE) } else { t.try_write(buf) };
        }
        let Some(end) = &self.0.output else { return Err(Errno::PIPE) };
        if self.0.closed.load(Ordering::Acquire) {
            return Err(Errno::PIPE);
        }
        loop {
            let r = match self.0.kind {
                Kind::Unix | Kind::Inet => net::send(end.fd(), buf, SendFlags::NOSIGNAL),
                Kind::Plain => rustix::io::write(end.fd(), buf),
            };
            match r {
                Ok(n) => return Ok(n),
                Err(Sys::INTR) => {}
                Err(e) => return Err(sys(e)),
            }
        }
    }

    /// Writes `buf` with descriptors attached to its first byte, to be taken by the peer's
    /// [`Stream::take_fds`]. Unix sockets only; at most [`MAX_FDS`].
    ///
    /// # Errors
    /// `EINVAL` for another kind of stream or too many descriptors; otherwise the system's.
    pub async fn write_with_fds(&self, buf: &[u8], fds: &[BorrowedFd<'_>]) -> IoResult<usize> {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};
        if self.0.kind != Kind::Unix || fds.len() > MAX_FDS || buf.is_empty() {
            return Err(Errno::INVAL);
        }
        let Some(end) = self.0.output.clone() else { return Err(Errno::PIPE) };
        loop {
            let sent = {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(fds));
                net::sendmsg(end.fd(), &[IoSlice::new(buf)], &mut control, SendFlags::NOSIGNAL)
            };
            match sent {
                Ok(n) => return Ok(n),
                Err(Sys::INTR) => {}
                Err(Sys::AGAIN) => end.writable().await?,
                Err(e) => return Err(sys(e)),
            }
        }
    }

    /// Descriptors that came with the bytes read so far and were not taken yet.
    pub fn take_fds(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut *self.0.fds.lock())
    }

    /// Waits until [`Stream::try_read`] has something to say (bytes, the end, or an error).
    ///
    /// # Errors
    /// The system's.
    pub async fn readable(&self) -> IoResult<()> {
        if let Some(t) = &self.0.tls {
            return if t.has_input() { Ok(()) } else { self.or_closed(Box::pin(t.under().readable())).await };
        }
        let Some(end) = &self.0.input else { return Ok(()) };
        self.or_closed(end.readable()).await
    }

    /// Waits until [`Stream::try_write`] has something to say.
    ///
    /// # Errors
    /// The system's.
    pub async fn writable(&self) -> IoResult<()> {
        if let Some(t) = &self.0.tls {
            return self.or_closed(Box::pin(t.under().writable())).await;
        }
        let Some(end) = &self.0.output else { return Ok(()) };
        self.or_closed(end.writable()).await
    }

    /// `ready`, or success as soon as the stream is shut down.
    async fn or_closed(&self, ready: impl Future<Output = IoResult<()>>) -> IoResult<()> {
        let closing = self.0.closing.listen();
        if self.0.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut ready = std::pin::pin!(ready);
        let mut closing = std::pin::pin!(closing);
        std::future::poll_fn(|cx| {
            if closing.as_mut().poll(cx).is_ready() {
                return std::task::Poll::Ready(Ok(()));
            }
            ready.as_mut().poll(cx)
        })
        .await
    }

    /// Reads at least one byte and at most `buf.len()`; 0 at the end of the stream. Dropping the future loses
    /// no bytes.
    ///
    /// # Errors
    /// The system's.
    pub async fn read(&self, buf: &mut [u8]) -> IoResult<usize> {
        loop {
            match self.try_read(buf) {
                Err(Errno::AGAIN) => self.readable().await?,
                r => return r,
            }
        }
    }

    /// Reads at least one byte and at most `buf.len()` straight into a buffer; 0 at the end of the stream. Descriptors
    /// that a peer sends along are closed.
    ///
    /// # Errors
    /// The system's.
    pub async fn read_into(&self, buf: &IoBuf) -> IoResult<usize> {
        if self.0.tls.is_some() {
            // What is decrypted comes record by record.
            let mut bytes = vec![0; buf.len().min(crate::tls::RECORD)];
            let n = self.read(&mut bytes).await?;
            buf.copy_from(0, &bytes[..n]);
            return Ok(n);
        }
        let Some(end) = &self.0.input else { return Ok(0) };
        loop {
            if self.0.closed.load(Ordering::Acquire) {
                return Ok(0);
            }
            match end.try_read_into(buf) {
                Err(Errno::AGAIN) => self.readable().await?,
                r => return r,
            }
        }
    }

    /// Writes at least one byte of `buf`.
    ///
    /// # Errors
    /// The system's; `EPIPE` where the stream is shut down.
    pub async fn write(&self, buf: &[u8]) -> IoResult<usize> {
        let done = loop {
            match self.try_write(buf) {
                Err(Errno::AGAIN) => self.writable().await?,
                r => break r,
            }
        };
        if let (Some(t), Ok(_)) = (&self.0.tls, done) {
            // What was encrypted is to be on its way: nobody may write again for a long time.
            self.or_closed(Box::pin(t.flush())).await?;
        }
        done
    }

    /// Whether everything that [`Stream::try_write`] took has gone out. Only an encrypted stream keeps something.
    pub fn is_flushed(&self) -> bool {
        self.0.tls.as_ref().is_none_or(|t| t.is_flushed())
    }

    /// Sends what [`Stream::try_write`] has taken and not sent.
    ///
    /// # Errors
    /// The system's.
    pub async fn flush(&self) -> IoResult<()> {
        match &self.0.tls {
            Some(t) => self.or_closed(Box::pin(t.flush())).await,
            None => Ok(()),
        }
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    /// The system's; some bytes may have been written by then.
    pub async fn write_all(&self, mut buf: &[u8]) -> IoResult<()> {
        while !buf.is_empty() {
            let n = self.write(buf).await?;
            buf = &buf[n..];
        }
        Ok(())
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// The system's, or `EPIPE` where the stream ends first.
    pub async fn read_exact(&self, buf: &mut [u8]) -> IoResult<()> {
        crate::read_exact(self, buf).await
    }

    /// Ends both directions for every clone: pending and later reads give 0, writes `EPIPE`. Any thread.
    pub fn shutdown(&self) {
        self.0.closed.store(true, Ordering::Release);
        if let Some(t) = &self.0.tls {
            t.goodbye();
            t.under().shutdown();
        }
        if let (Kind::Unix | Kind::Inet, Some(end)) = (self.0.kind, &self.0.input) {
            let _ = net::shutdown(end.fd(), net::Shutdown::Both);
        }
        self.0.closing.notify(usize::MAX);
    }

    /// Waits until [`Stream::shutdown`] is called on this side.
    pub async fn closed(&self) {
        let _ = self.or_closed(std::future::pending()).await;
    }

    /// Ends the output only: the peer reads the end of the stream. Sockets only; otherwise nothing happens.
    pub fn shutdown_write(&self) {
        if let Some(t) = &self.0.tls {
            t.goodbye();
            t.under().shutdown_write();
        }
        if let (Kind::Unix | Kind::Inet, Some(end)) = (self.0.kind, &self.0.output) {
            let _ = net::shutdown(end.fd(), net::Shutdown::Write);
        }
    }

    /// Has the system ask the peer now and then whether it is still there, so that a dead one is noticed. TCP only; nothing
    /// on other streams.
    pub fn keep_alive(&self) {
        if self.0.kind == Kind::Inet
            && let Some(fd) = self.fd()
            && let Err(e) = net::sockopt::set_socket_keepalive(fd, true)
        {
            tracing::warn!(peer = self.peer(), "cannot switch keep-alive on: {e}");
        }
    }

    /// Whether the other end is gone altogether, so that nothing more can be written. Bytes that it sent before
    /// may still be there to read.
    pub fn is_hung_up(&self) -> bool {
        if let Some(t) = &self.0.tls {
            return t.under().is_hung_up();
        }
        let Some(fd) = self.fd() else { return false };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = PollFlags::HUP | PollFlags::ERR;
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(gone)
    }

    /// The descriptor that is read from (or written to, where there is no input).
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.input.as_ref().or(self.0.output.as_ref()).map(AsyncFd::fd)
    }
}
