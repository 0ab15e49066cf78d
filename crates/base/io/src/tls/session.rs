//! A TLS session between two buffers.

use super::Role;
use super::creds::{identity_index, name_of, text};
use crate::Stream;
use base::{Errno, IoResult};
use openssl::ssl::{ErrorCode, ShutdownResult, Ssl, SslStream};
use parking_lot::Mutex;
use std::io::{Error, ErrorKind, Read, Write};

/// Bytes that are read from the peer at once: some records.
const READ: usize = 64 << 10;
/// Bytes that are encrypted at once: one record.
pub(crate) const RECORD: usize = 16 << 10;

/// What OpenSSL takes for the network.
#[derive(Default)]
struct Wire {
    /// From the peer; the bytes before `start` are used up.
    input: Vec<u8>,
    start: usize,
    eof: bool,
    /// For the peer; the bytes before `sent` are on their way.
    out: Vec<u8>,
    sent: usize,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let have = &self.input[self.start..];
        if have.is_empty() {
            return if self.eof { Ok(0) } else { Err(Error::from(ErrorKind::WouldBlock)) };
        }
        let n = have.len().min(buf.len());
        buf[..n].copy_from_slice(&have[..n]);
        self.start += n;
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.out.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A session over a stream. One may read while another writes.
pub(crate) struct Session {
    under: Stream,
    role: Role,
    state: Mutex<SslStream<Wire>>,
}

impl Session {
    pub(super) fn new(under: Stream, ssl: Ssl, role: Role) -> Result<Session, String> {
        let state = SslStream::new(ssl, Wire::default()).map_err(|e| text(&e))?;
        Ok(Session { under, role, state: Mutex::new(state) })
    }

    pub(crate) fn under(&self) -> &Stream {
        &self.under
    }

    /// The peer's name: its certificate's subject, or its PSK identity.
    pub(crate) fn identity(&self) -> Option<String> {
        let s = self.state.lock();
        let ssl = s.ssl();
        match ssl.peer_certificate() {
            Some(c) => Some(name_of(c.subject_name())),
            None => ssl.ex_data(identity_index().ok()?).cloned(),
        }
    }

    pub(super) async fn handshake(&self) -> Result<(), String> {
        loop {
            let step = {
                let mut s = self.state.lock();
                match self.role {
                    Role::Server => s.accept(),
                    Role::Client => s.connect(),
                }
            };
            // A client whose credentials are no good is not told why; a server is.
            let quiet =
                self.role == Role::Server && step.as_ref().is_err_and(|e| e.code() != ErrorCode::WANT_READ);
            let sent = if quiet { Ok(()) } else { self.flush().await };
            match step {
                Ok(()) => return sent.map_err(|e| e.to_string()),
                Err(e) if e.code() == ErrorCode::WANT_READ => {
                    sent.map_err(|e| e.to_string())?;
                    self.under.readable().await.map_err(|e| e.to_string())?;
                    let mut s = self.state.lock();
                    match self.fill(&mut s) {
                        Ok(()) | Err(Errno::AGAIN) if s.get_ref().eof => {
                            return Err("The TLS connection was non-properly terminated.".into());
                        }
                        Ok(()) | Err(Errno::AGAIN) => {}
                        Err(e) => return Err(e.to_string()),
                    }
                }
                Err(e) => {
                    let s = self.state.lock();
                    let verified = s.ssl().verify_result();
                    if verified != openssl::x509::X509VerifyResult::OK {
                        return Err(verified.error_string().to_owned());
                    }
                    return Err(e.ssl_error().map_or_else(|| e.to_string(), text));
                }
            }
        }
    }

    /// Takes what has come from the peer.
    fn fill(&self, s: &mut SslStream<Wire>) -> IoResult<()> {
        let wire = s.get_mut();
        if wire.start > 0 {
            wire.input.drain(..wire.start);
            wire.start = 0;
        }
        let at = wire.input.len();
        wire.input.resize(at + READ, 0);
        let got = self.under.try_read(&mut wire.input[at..]);
        wire.input.truncate(at + *got.as_ref().unwrap_or(&0));
        wire.eof |= got == Ok(0);
        got.map(drop)
    }

    /// Sends what fits now; `EAGAIN` while something is left.
    fn push(&self, s: &mut SslStream<Wire>) -> IoResult<()> {
        let wire = s.get_mut();
        while wire.sent < wire.out.len() {
            wire.sent += self.under.try_write(&wire.out[wire.sent..])?;
        }
        wire.out.clear();
        wire.sent = 0;
        Ok(())
    }

    /// Whether everything was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        let s = self.state.lock();
        s.get_ref().sent == s.get_ref().out.len()
    }

    /// Sends everything.
    pub(crate) async fn flush(&self) -> IoResult<()> {
        loop {
            let pushed = self.push(&mut self.state.lock());
            match pushed {
                Err(Errno::AGAIN) => self.under.writable().await?,
                r => return r,
            }
        }
    }

    /// As [`Stream::try_read`].
    pub(crate) fn try_read(&self, buf: &mut [u8]) -> IoResult<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut s = self.state.lock();
        loop {
            let e = match s.ssl_read(buf) {
                Ok(n) => return Ok(n),
                Err(e) => e,
            };
            match e.code() {
                ErrorCode::ZERO_RETURN => return Ok(0),
                ErrorCode::WANT_READ => {
                    // Answers of the protocol itself, if there are any.
                    match self.push(&mut s) {
                        Ok(()) | Err(Errno::AGAIN) => {}
                        Err(e) => return Err(e),
                    }
                    self.fill(&mut s)?;
                }
                // The peer went away without a word.
                _ if s.get_ref().eof => return Err(Errno::PIPE),
                _ => return Err(Errno::IO),
            }
        }
    }

    /// As [`Stream::try_write`]. What was taken may be in the buffer still: [`Session::flush`].
    pub(crate) fn try_write(&self, buf: &[u8]) -> IoResult<usize> {
        let mut s = self.state.lock();
        self.push(&mut s)?;
        if buf.is_empty() {
            return Ok(0);
        }
        let n = s.ssl_write(&buf[..buf.len().min(RECORD)]).map_err(|_| Errno::IO)?;
        match self.push(&mut s) {
            Ok(()) | Err(Errno::AGAIN) => Ok(n),
            Err(e) => Err(e),
        }
    }

    /// Whether a read has something without waiting for the peer.
    pub(crate) fn has_input(&self) -> bool {
        let s = self.state.lock();
        s.ssl().pending() > 0 || s.get_ref().start < s.get_ref().input.len() || s.get_ref().eof
    }

    /// Says goodbye, as far as that goes without waiting.
    pub(crate) fn goodbye(&self) {
        let mut s = self.state.lock();
        let _: Result<ShutdownResult, _> = s.shutdown();
        let _ = self.push(&mut s);
    }
}
