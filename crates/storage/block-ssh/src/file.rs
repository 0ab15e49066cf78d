//! The file that a conversation is about.

use crate::session::{Failed, Session};
use crate::sftp::{Ask, Reply};
use base::{Errno, IoResult};
use mem::IoBuf;
use qapi::{QError, qerr};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

/// How long the server has to close the file.
const CLOSING: Duration = Duration::from_secs(5);
/// The longest file, bytes.
const MAX_LEN: u64 = i64::MAX as u64 - 511;
/// Pieces of one request that are on their way at a time.
const AT_ONCE: usize = 32;

/// What a file is, in its mode.
const TYPE: u32 = 0o170000;
/// A directory.
const DIRECTORY: u32 = 0o040000;

/// An open file on another host.
pub(crate) struct File {
    pub(crate) session: Arc<Session>,
    handle: Vec<u8>,
    /// Its length, bytes.
    len: AtomicU64,
    /// It was said that nothing is made stable.
    warned: AtomicBool,
}

/// A failure in the words that the reference finds for it.
pub(crate) fn told(what: &str, e: &Failed) -> QError {
    match e {
        Failed::Status(code, text) => {
            qerr!("{what}: SFTP server: {text} (libssh error code: 1, sftp error code: {code})")
        }
        Failed::Lost => qerr!("{what}: the connection was closed"),
    }
}

impl File {
    /// Opens it. `flags`: those of SFTP.
    pub(crate) async fn open(session: Arc<Session>, path: &str, flags: u32) -> Result<File, QError> {
        session.learn().await.map_err(|e| told("failed to initialize sftp handle", &e))?;
        let failed = |e: Failed| told(&format!("failed to open remote file '{path}'"), &e);
        let Reply::Handle(handle) = session.ask(Ask::Open(path, flags)).await.map_err(failed)? else {
            return Err(failed(session.nonsense()));
        };
        let failed = |e: Failed| told(&format!("failed to read the attributes of remote file '{path}'"), &e);
        match session.ask(Ask::Stat(&handle)).await.map_err(failed)? {
            Reply::Attrs(_, Some(mode)) if mode & TYPE == DIRECTORY => {
                Err(qerr!("'{path}' is a directory of the remote host"))
            }
            Reply::Attrs(Some(len), _) if len <= MAX_LEN => {
                Ok(File { session, handle, len: AtomicU64::new(len), warned: AtomicBool::new(false) })
            }
            Reply::Attrs(..) => Err(qerr!("The server does not tell how long remote file '{path}' is")),
            _ => Err(failed(session.nonsense())),
        }
    }

    /// Its length, bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Relaxed)
    }

    /// Reads; behind the end there are zeroes.
    pub(crate) async fn read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        let most = self.session.most().0 as usize;
        all(pieces(off, buf, most), |at, part| self.read_piece(at, part)).await
    }

    async fn read_piece(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        let mut done = 0;
        while done < buf.len() {
            let rest = buf.slice(done..buf.len());
            let n = self.session.read(&self.handle, off + done as u64, &rest).await.map_err(|e| e.errno())?;
            if n == 0 {
                rest.fill(0);
                break;
            }
            done += n;
        }
        Ok(())
    }

    /// Writes; the file grows where it must.
    pub(crate) async fn write(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        let end = off.checked_add(buf.len() as u64).filter(|e| *e <= MAX_LEN).ok_or(Errno::FBIG)?;
        let most = self.session.most().1 as usize;
        let one = |at, part: IoBuf| async move {
            self.session.write(&self.handle, at, &part).await.map_err(|e| e.errno())
        };
        all(pieces(off, buf, most), one).await?;
        self.len.fetch_max(end, Relaxed);
        Ok(())
    }

    /// Makes stable what was written, if the server can.
    pub(crate) async fn flush(&self) -> IoResult<()> {
        if !self.session.syncs() {
            if !self.warned.swap(true, Relaxed) {
                tracing::warn!(
                    "the SSH server does not support fsync: what was written is stable when it pleases"
                );
            }
            return Ok(());
        }
        self.session.order(Ask::Sync(&self.handle)).await.map_err(|e| e.errno())
    }

    /// Sets the length, to more than it is.
    pub(crate) async fn grow(&self, len: u64) -> Result<(), Failed> {
        if len > self.len() {
            self.session.order(Ask::Resize(&self.handle, len)).await?;
            self.len.fetch_max(len, Relaxed);
        }
        Ok(())
    }

    /// Closes it, and ends the conversation.
    pub(crate) async fn close(&self) -> IoResult<()> {
        let close = self.session.order(Ask::Close(&self.handle));
        let done = rt::timeout(CLOSING, close).await.unwrap_or(Err(Failed::Lost));
        self.session.give_up();
        done.map_err(|e| e.errno())
    }
}

/// A range in pieces of at most `most` bytes.
fn pieces(off: u64, buf: IoBuf, most: usize) -> impl Iterator<Item = (u64, IoBuf)> {
    let len = buf.len();
    (0..len).step_by(most.max(1)).map(move |at| (off + at as u64, buf.slice(at..len.min(at + most))))
}

/// Does `one` with each piece, several at a time, to the end of all that were begun. The first error.
async fn all<F>(pieces: impl Iterator<Item = (u64, IoBuf)>, one: impl Fn(u64, IoBuf) -> F) -> IoResult<()>
where
    F: Future<Output = IoResult<()>>,
{
    let mut pieces = pieces.peekable();
    let mut running: VecDeque<Pin<Box<F>>> = VecDeque::new();
    let mut first = Ok(());
    loop {
        while first.is_ok() && running.len() < AT_ONCE {
            let Some((at, part)) = pieces.next() else { break };
            running.push_back(Box::pin(one(at, part)));
        }
        if running.is_empty() {
            return first;
        }
        let done = std::future::poll_fn(|cx| {
            let mut done = None;
            running.retain_mut(|f| match f.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(r) => {
                    if r.is_err() || done.is_none() {
                        done = Some(r);
                    }
                    false
                }
            });
            done.map_or(Poll::Pending, Poll::Ready)
        });
        first = first.and(done.await);
    }
}
