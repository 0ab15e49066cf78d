//! The object-safe view of a byte stream and of what makes them.

use crate::{Listener, Stream};
use base::{Errno, IoResult};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;

/// A boxed future of the data plane; it stays on the thread that polls it first.
pub type IoFut<'a, T> = Pin<Box<dyn Future<Output = IoResult<T>> + 'a>>;

/// A two-way stream of bytes. One reader and one writer may be active at once.
pub trait Channel: Send + Sync {
    /// Reads at least one byte and at most `buf.len()`; 0 at the end of the stream. Dropping the future
    /// loses no bytes.
    fn read<'a>(&'a self, buf: &'a mut [u8]) -> IoFut<'a, usize>;
    /// Writes at least one byte of `buf`, which must not be empty. Dropping the future writes nothing more.
    fn write<'a>(&'a self, buf: &'a [u8]) -> IoFut<'a, usize>;
    /// Ends both directions: pending and later reads give 0, writes `EPIPE`. Any thread.
    fn shutdown(&self);
    /// Who is at the other end, for messages.
    fn peer(&self) -> String {
        String::from("?")
    }
    /// Descriptors that came with the bytes read so far and were not taken yet.
    fn take_fds(&self) -> Vec<OwnedFd> {
        Vec::new()
    }
}

/// What channels come from, one after another: a listener, or a character device that opens and closes.
pub trait Acceptor: Send + Sync {
    /// The next channel. An error ends the source.
    fn accept<'a>(&'a self) -> IoFut<'a, Arc<dyn Channel>>;
}

impl Channel for Stream {
    fn read<'a>(&'a self, buf: &'a mut [u8]) -> IoFut<'a, usize> {
        Box::pin(Stream::read(self, buf))
    }
    fn write<'a>(&'a self, buf: &'a [u8]) -> IoFut<'a, usize> {
        Box::pin(Stream::write(self, buf))
    }
    fn shutdown(&self) {
        Stream::shutdown(self);
    }
    fn peer(&self) -> String {
        Stream::peer(self).to_owned()
    }
    fn take_fds(&self) -> Vec<OwnedFd> {
        Stream::take_fds(self)
    }
}

impl Acceptor for Listener {
    fn accept<'a>(&'a self) -> IoFut<'a, Arc<dyn Channel>> {
        Box::pin(async { Ok(Arc::new(Listener::accept(self).await?) as Arc<dyn Channel>) })
    }
}

/// Writes all of `data`.
///
/// # Errors
/// The channel's error; some bytes may have been written by then.
pub async fn write_all(ch: &dyn Channel, mut data: &[u8]) -> IoResult<()> {
    while !data.is_empty() {
        let n = ch.write(data).await?;
        data = data.get(n..).ok_or(Errno::IO)?;
    }
    Ok(())
}

/// Fills `buf`.
///
/// # Errors
/// The channel's error, or `EPIPE` where the stream ends first.
pub async fn read_exact(ch: &dyn Channel, buf: &mut [u8]) -> IoResult<()> {
    let mut done = 0;
    while done < buf.len() {
        match ch.read(&mut buf[done..]).await? {
            0 => return Err(Errno::PIPE),
            n => done += n,
        }
    }
    Ok(())
}
