//! One connection: requests go out, answers come in.

use base::{Errno, IoResult};
use io::tls::Credentials;
use io::{Addr, Stream};
use mem::IoBuf;
use nbd::client::{Handshake, Offer, Refused, Step};
use nbd::message::{
    Extent, Mode, Reply, Request, from_wire, parse_error, parse_status, reply_len, reply_min,
};
use nbd::spec::*;
use parking_lot::Mutex;
use rt::sync::oneshot;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Bytes that are read at once.
const READ: usize = 256 << 10;
/// Longest error or block status that is looked at, bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// Most requests that wait for answers; further ones wait to be sent.
const MAX_IN_FLIGHT: usize = 256;

/// Why a connection could not be made.
#[derive(Clone, Debug)]
pub(crate) enum Failed {
    /// The server could not be reached, or the connection broke.
    Reach(String),
    /// The server said no, or does not speak the protocol.
    Refused(Refused),
}

/// What an answered request gave: the extents of a block status, and nothing for others.
pub(crate) type Answer = IoResult<Vec<Extent>>;

/// What is known of a request that waits for its answer.
struct Waiting {
    kind: u16,
    offset: u64,
    /// Where a read's bytes go.
    into: IoBuf,
    /// How many of them came.
    filled: u64,
    extents: Vec<Extent>,
    error: Option<Errno>,
    done: oneshot::Sender<Option<Answer>>,
}

/// What to connect to.
pub(crate) struct Target {
    pub(crate) addr: Addr,
    pub(crate) export: String,
    /// The context that block status is asked for in, where it is not the usual one.
    pub(crate) context: Option<String>,
    /// Credentials, and the name that the server must have.
    pub(crate) tls: Option<(Arc<Credentials>, String)>,
    /// Have the system find out when the server has died without a word.
    pub(crate) keep_alive: bool,
}

/// A connection.
pub(crate) struct Conn {
    stream: Stream,
    pub(crate) offer: Offer,
    waiting: Mutex<HashMap<u64, Waiting>>,
    next: AtomicU64,
    sending: rt::sync::Mutex<Vec<u8>>,
    room: rt::sync::Semaphore,
    lost: AtomicBool,
}

/// The connection went away before the answer came.
pub(crate) struct Lost;

impl Conn {
    /// Connects and negotiates.
    pub(crate) async fn open(target: &Target) -> Result<Arc<Conn>, Failed> {
        let Target { addr, export, context, tls, keep_alive } = target;
        let handshake = if tls.is_some() { Handshake::with_tls(export) } else { Handshake::new(export) };
        let mut handshake = handshake.map_err(Failed::Refused)?;
        if let Some(name) = context {
            handshake = handshake.with_context(name).map_err(Failed::Refused)?;
        }
        let mut stream = io::connect(addr).await.map_err(|e| Failed::Reach(e.to_string()))?;
        if *keep_alive {
            stream.keep_alive();
        }
        let broke = |e: Errno| Failed::Reach(format!("Failed to send option request: {e}"));
        let (mut input, mut out) = (Vec::new(), Vec::new());
        let offer = loop {
            input.resize(handshake.want(), 0);
            let lost = |e: Errno| {
                Failed::Reach(format!("Failed to read {}: {}", handshake.reading(), stream.why_unread(e)))
            };
            stream.read_exact(&mut input).await.map_err(lost)?;
            out.clear();
            let step = handshake.feed(&input, &mut out).map_err(Failed::Refused)?;
            stream.write_all(&out).await.map_err(broke)?;
            match (step, tls) {
                (Step::Begin(offer), _) => break offer,
                (Step::StartTls, Some((creds, host))) => {
                    let failed = |text| Failed::Refused(Refused { text, hint: None });
                    stream = io::tls::connect(&stream, creds, host).await.map_err(failed)?;
                    out.clear();
                    handshake.encrypted(&mut out);
                    stream.write_all(&out).await.map_err(broke)?;
                }
                _ => {}
            }
        };
        Ok(Arc::new(Conn {
            stream,
            offer,
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            sending: rt::sync::Mutex::new(Vec::new()),
            room: rt::sync::Semaphore::new(MAX_IN_FLIGHT),
            lost: AtomicBool::new(false),
        }))
    }

    /// Whether the connection is gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Relaxed)
    }

    /// Gives the connection up: all that wait are told.
    pub(crate) fn give_up(&self) {
        self.lost.store(true, Relaxed);
        self.stream.shutdown();
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for (_, w) in waiting {
            _ = w.done.send(None);
        }
    }

    /// Says goodbye and ends the connection.
    pub(crate) async fn close(&self) {
        let bye = Request { kind: CMD_DISC, ..Request::default() };
        let mut bytes = Vec::new();
        bye.put(self.offer.mode, &mut bytes);
        let send = async {
            let _alone = self.sending.lock().await;
            _ = self.stream.write_all(&bytes).await;
        };
        _ = rt::timeout(std::time::Duration::from_secs(1), send).await;
        self.give_up();
    }

    /// Makes a request. `data` is what a write sends or a read fills.
    pub(crate) async fn request(&self, mut req: Request, data: IoBuf) -> Result<Answer, Lost> {
        let _place = self.room.acquire().await;
        req.cookie = self.next.fetch_add(1, Relaxed);
        let write = req.kind == CMD_WRITE;
        if write && self.offer.mode == Mode::Extended {
            req.flags |= CMD_FLAG_PAYLOAD_LEN;
        }
        let (done, answer) = oneshot::channel();
        let into = if req.kind == CMD_READ { data.clone() } else { IoBuf::new() };
        let waiting = Waiting {
            kind: req.kind,
            offset: req.offset,
            into,
            filled: 0,
            extents: Vec::new(),
            error: None,
            done,
        };
        self.waiting.lock().insert(req.cookie, waiting);
        // Whoever gives up the connection sets this before it empties the table.
        if self.is_lost() {
            self.waiting.lock().remove(&req.cookie);
            return Err(Lost);
        }
        let sent = {
            let mut bytes = self.sending.lock().await;
            bytes.clear();
            req.put(self.offer.mode, &mut bytes);
            if write {
                let at = bytes.len();
                bytes.resize(at + data.len(), 0);
                data.copy_to(0, &mut bytes[at..]);
            }
            self.stream.write_all(&bytes).await
        };
        if sent.is_err() {
            self.give_up();
        }
        match answer.await {
            Some(Some(answer)) => Ok(answer),
            _ => Err(Lost),
        }
    }

    /// Reads answers until the connection ends. Whoever calls this gives the connection up afterwards.
    pub(crate) async fn read(&self) -> IoResult<()> {
        let mut input = Input { stream: &self.stream, buf: vec![0; READ], start: 0, end: 0 };
        loop {
            let mode = self.offer.mode;
            input.need(reply_min(mode)).await?;
            let len = reply_len(mode, input.peek());
            input.need(len).await?;
            let head = Reply::parse(mode, input.peek()).map_err(|e| broken(e.0))?;
            input.start += len;
            match head {
                Reply::Simple { cookie, error } => self.simple(cookie, error, &mut input).await?,
                Reply::Chunk { flags, kind, cookie, len } => {
                    self.chunk(flags, kind, cookie, len, &mut input).await?;
                }
            }
        }
    }

    fn take(&self, cookie: u64) -> IoResult<Waiting> {
        self.waiting.lock().remove(&cookie).ok_or_else(|| broken("an answer to nothing that was asked"))
    }

    async fn simple(&self, cookie: u64, error: u32, input: &mut Input<'_>) -> IoResult<()> {
        let w = self.take(cookie)?;
        if error != 0 {
            _ = w.done.send(Some(Err(from_wire(error))));
            return Ok(());
        }
        if w.kind == CMD_BLOCK_STATUS || (w.kind == CMD_READ && self.offer.mode != Mode::Simple) {
            _ = w.done.send(None);
            return Err(broken("a simple reply to a request that gives something back"));
        }
        if let Err(e) = input.fill(&w.into).await {
            _ = w.done.send(None);
            return Err(e);
        }
        _ = w.done.send(Some(Ok(Vec::new())));
        Ok(())
    }

    async fn chunk(
        &self,
        flags: u16,
        kind: u16,
        cookie: u64,
        len: u64,
        input: &mut Input<'_>,
    ) -> IoResult<()> {
        let mut w = self.take(cookie)?;
        let taken = self.payload(&mut w, kind, len, input).await;
        if let Err(e) = taken {
            _ = w.done.send(None);
            return Err(e);
        }
        if flags & REPLY_FLAG_DONE == 0 {
            self.waiting.lock().insert(cookie, w);
            // The table may have been emptied while this was out of it.
            if self.is_lost() {
                self.give_up();
            }
            return Ok(());
        }
        let complete =
            w.filled == w.into.len() as u64 && (w.kind != CMD_BLOCK_STATUS || !w.extents.is_empty());
        _ = w.done.send(match w.error {
            Some(e) => Some(Err(e)),
            None if complete => Some(Ok(w.extents)),
            None => {
                tracing::warn!("nbd: the server's answer is not complete");
                Some(Err(Errno::IO))
            }
        });
        Ok(())
    }

    async fn payload(&self, w: &mut Waiting, kind: u16, len: u64, input: &mut Input<'_>) -> IoResult<()> {
        match (kind, w.kind) {
            (REPLY_NONE, _) if len == 0 => Ok(()),
            (REPLY_OFFSET_DATA, CMD_READ) if len > 8 => {
                let off = be64(input.take(8).await?);
                let part = part(w, off, len - 8)?;
                input.fill(&part).await
            }
            (REPLY_OFFSET_HOLE, CMD_READ) if len == 12 => {
                let head = input.take(12).await?;
                let (off, len) = (be64(head), be64(head_len(head).as_slice()));
                part(w, off, len)?.fill(0);
                Ok(())
            }
            (REPLY_BLOCK_STATUS | REPLY_BLOCK_STATUS_EXT, CMD_BLOCK_STATUS) if len <= MAX_ANSWER => {
                let mut b = vec![0; len as usize];
                input.copy(&mut b).await?;
                let (id, extents) = parse_status(kind, &b).map_err(|e| broken(e.0))?;
                if Some(id) != self.offer.allocation || !w.extents.is_empty() {
                    return Err(broken("a block status that was not asked for"));
                }
                w.extents = extents;
                Ok(())
            }
            (k, _) if k & REPLY_ERROR_BIT != 0 && (6..=MAX_ANSWER).contains(&len) => {
                let mut b = vec![0; len as usize];
                input.copy(&mut b).await?;
                let (error, text) = parse_error(&b).map_err(|e| broken(e.0))?;
                if !text.is_empty() {
                    tracing::debug!("nbd: the server says: {text}");
                }
                w.error.get_or_insert(from_wire(error));
                Ok(())
            }
            _ => Err(broken("a chunk that does not belong to its request")),
        }
    }
}

/// The 32 bits behind an offset, widened.
fn head_len(head: &[u8]) -> [u8; 8] {
    [0, 0, 0, 0, head[8], head[9], head[10], head[11]]
}

fn be64(b: &[u8]) -> u64 {
    b[..8].iter().fold(0, |v, b| v << 8 | u64::from(*b))
}

fn broken(what: &str) -> Errno {
    tracing::warn!("nbd: the server sent {what}");
    Errno::PROTO
}

/// The part of a read's buffer that a chunk fills. Every byte comes once: the sum is enough to know that all came,
/// and a server that sends some twice and some never only harms its own data.
fn part(w: &mut Waiting, off: u64, len: u64) -> IoResult<IoBuf> {
    let outside = || broken("bytes outside of what was asked");
    let start = off.checked_sub(w.offset).ok_or_else(outside)?;
    let end = start.checked_add(len).filter(|e| *e <= w.into.len() as u64).ok_or_else(outside)?;
    w.filled += len;
    if w.filled > w.into.len() as u64 || len == 0 {
        return Err(outside());
    }
    Ok(w.into.slice(start as usize..end as usize))
}

/// What the server sends, some of it read ahead.
struct Input<'a> {
    stream: &'a Stream,
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input<'_> {
    fn peek(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    async fn more(&mut self) -> IoResult<()> {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match self.stream.read(&mut self.buf[self.end..]).await? {
            0 => Err(Errno::PIPE),
            n => {
                self.end += n;
                Ok(())
            }
        }
    }

    /// Makes sure that `n` bytes, a header, are there.
    async fn need(&mut self, n: usize) -> IoResult<()> {
        while self.end - self.start < n {
            self.more().await?;
        }
        Ok(())
    }

    async fn take(&mut self, n: usize) -> IoResult<&[u8]> {
        self.need(n).await?;
        self.start += n;
        Ok(&self.buf[self.start - n..self.start])
    }

    async fn copy(&mut self, mut out: &mut [u8]) -> IoResult<()> {
        while !out.is_empty() {
            self.need(1).await?;
            let n = (self.end - self.start).min(out.len());
            let (now, rest) = out.split_at_mut(n);
            now.copy_from_slice(&self.buf[self.start..self.start + n]);
            self.start += n;
            out = rest;
        }
        Ok(())
    }

    async fn fill(&mut self, buf: &IoBuf) -> IoResult<()> {
        let mut done = 0;
        while done < buf.len() {
            self.need(1).await?;
            let n = (self.end - self.start).min(buf.len() - done);
            buf.copy_from(done, &self.buf[self.start..self.start + n]);
            self.start += n;
            done += n;
        }
        Ok(())
    }
}
