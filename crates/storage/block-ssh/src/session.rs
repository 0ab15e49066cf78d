//! A conversation with an SFTP server about one file.

use crate::sftp::{self, Ask, MAX_MESSAGE, Offer, Reply};
use base::{Errno, IoResult};
use io::Stream;
use mem::IoBuf;
use parking_lot::Mutex;
use rt::sync::{Semaphore, oneshot};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes that are read at once.
const READ: usize = 128 << 10;
/// Most requests that wait for replies; further ones wait to be sent.
const MAX_IN_FLIGHT: usize = 64;
/// The most that a request moves, whatever the server would take, bytes.
const MOST: u32 = 256 << 10;
/// Requests that wait while the server says nothing for so long are given up, with the conversation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The same for a request that is not answered while others are.
const LONGEST: Duration = Duration::from_secs(600);

/// What a request waits for.
enum Waiting {
    /// A reply.
    Reply(oneshot::Sender<Reply>),
    /// The data of a read, or a status. How many bytes came.
    Data(IoBuf, oneshot::Sender<Result<usize, Reply>>),
}

/// Why a request was not answered as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The server's status, and its words.
    Status(u32, String),
    /// The conversation is over.
    Lost,
}

impl Failed {
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Failed::Status(code, _) => sftp::errno(*code),
            Failed::Lost => Errno::IO,
        }
    }
}

/// The conversation. Requests may be made on any executor; one task reads the replies.
pub(crate) struct Session {
    stream: Stream,
    offer: Offer,
    /// The longest read and write, bytes.
    most: (AtomicU32, AtomicU32),
    waiting: Mutex<HashMap<u32, Waiting>>,
    next: AtomicU32,
    sending: rt::sync::Mutex<Vec<u8>>,
    room: Semaphore,
    lost: AtomicBool,
    start: Instant,
    /// When something came last, milliseconds after `start`.
    heard: AtomicU64,
    patience: Duration,
}

fn broken(what: &str) -> Errno {
    tracing::warn!("ssh: the server sent {what}");
    Errno::PROTO
}

impl Session {
    /// Begins: both sides say which version they speak.
    ///
    /// # Errors
    /// `EPROTO` where the other side does not speak SFTP; else the stream's.
    pub(crate) async fn begin(stream: Stream, patience: Duration) -> IoResult<Arc<Session>> {
        stream.write_all(&sftp::init()).await?;
        let mut len = [0; 4];
        stream.read_exact(&mut len).await?;
        let len = u32::from_be_bytes(len);
        if !(5..=MAX_MESSAGE).contains(&len) {
            return Err(broken("something that is no SFTP"));
        }
        let mut body = vec![0; len as usize];
        stream.read_exact(&mut body).await?;
        let offer = sftp::parse_version(&body).ok_or_else(|| broken("no version of SFTP that is known"))?;
        Ok(Arc::new(Session {
            stream,
            offer,
            most: (AtomicU32::new(sftp::SAFE), AtomicU32::new(sftp::SAFE)),
            waiting: Mutex::default(),
            next: AtomicU32::new(1),
            sending: rt::sync::Mutex::new(Vec::new()),
            room: Semaphore::new(MAX_IN_FLIGHT),
            lost: AtomicBool::new(false),
            start: Instant::now(),
            heard: AtomicU64::new(0),
            patience,
        }))
    }

    /// Whether [`Ask::Sync`] can be asked.
    pub(crate) fn syncs(&self) -> bool {
        self.offer.sync
    }

    /// The longest read and the longest write, bytes.
    pub(crate) fn most(&self) -> (u32, u32) {
        (self.most.0.load(Relaxed), self.most.1.load(Relaxed))
    }

    /// Asks what the server's limits are, if it tells.
    pub(crate) async fn learn(&self) -> Result<(), Failed> {
        if self.offer.limits
            && let Reply::Limits(read, write) = self.ask(Ask::Limits).await?
        {
            let fit = |n: u64| match n {
                0 => sftp::SAFE,
                n => u32::try_from(n).map_or(MOST, |n| n.min(MOST)).max(512),
            };
            self.most.0.store(fit(read), Relaxed);
            self.most.1.store(fit(write), Relaxed);
        }
        Ok(())
    }

    /// Ends the conversation: all that wait are told.
    pub(crate) fn give_up(&self) {
        self.lost.store(true, Relaxed);
        self.stream.shutdown();
        drop(std::mem::take(&mut *self.waiting.lock()));
    }

    fn silence(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Relaxed)))
    }

    /// Sends a request with its data, and waits for what `answer` gives.
    async fn send<T>(
        &self,
        ask: Ask<'_>,
        data: &IoBuf,
        waiting: Waiting,
        answer: oneshot::Receiver<T>,
    ) -> Result<T, Failed> {
        let _place = self.room.acquire().await;
        let id = self.next.fetch_add(1, Relaxed);
        let begun = Instant::now();
        if self.waiting.lock().insert(id, waiting).is_some() {
            // It has gone round, and one of the first requests still waits.
            self.give_up();
        }
        // Whoever gives up sets this before the table is emptied.
        if self.lost.load(Relaxed) {
            self.waiting.lock().remove(&id);
            return Err(Failed::Lost);
        }
        let exchange = async {
            let sent = {
                let mut bytes = self.sending.lock().await;
                bytes.clear();
                ask.put(id, &mut bytes);
                let at = bytes.len();
                bytes.resize(at + data.len(), 0);
                data.copy_to(0, &mut bytes[at..]);
                self.stream.write_all(&bytes).await
            };
            if sent.is_err() {
                self.give_up();
            }
            answer.await.ok_or(Failed::Lost)
        };
        let mut exchange = std::pin::pin!(exchange);
        loop {
            if let Some(done) = rt::timeout(self.patience, exchange.as_mut()).await {
                return done;
            }
            if self.silence() >= self.patience || begun.elapsed() >= LONGEST {
                tracing::warn!("ssh: the server does not answer");
                self.give_up();
                return Err(Failed::Lost);
            }
        }
    }

    /// Asks, and waits for the reply. A status other than that all went well is an error.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<Reply, Failed> {
        self.tell(ask, &IoBuf::new()).await
    }

    /// The same, with the data of a write.
    async fn tell(&self, ask: Ask<'_>, data: &IoBuf) -> Result<Reply, Failed> {
        let (done, answer) = oneshot::channel();
        match self.send(ask, data, Waiting::Reply(done), answer).await? {
            Reply::Status(code, text) if code != sftp::OK => Err(Failed::Status(code, text)),
            reply => Ok(reply),
        }
    }

    /// Asks for something that has no answer but how it went.
    pub(crate) async fn order(&self, ask: Ask<'_>) -> Result<(), Failed> {
        match self.ask(ask).await? {
            Reply::Status(..) => Ok(()),
            _ => Err(self.nonsense()),
        }
    }

    /// A reply of another kind than the request's: the server has lost count.
    pub(crate) fn nonsense(&self) -> Failed {
        _ = broken("a reply that does not belong to its request");
        self.give_up();
        Failed::Lost
    }

    /// Fills `buf`, at most as long as a read may be, with what stands at `at`. How many bytes there are; 0 at the end.
    pub(crate) async fn read(&self, handle: &[u8], at: u64, buf: &IoBuf) -> Result<usize, Failed> {
        let (done, answer) = oneshot::channel();
        let ask = Ask::Read(handle, at, buf.len() as u32);
        match self.send(ask, &IoBuf::new(), Waiting::Data(buf.clone(), done), answer).await? {
            Ok(n) => Ok(n),
            Err(Reply::Status(sftp::EOF, _)) => Ok(0),
            Err(Reply::Status(code, text)) if code != sftp::OK => Err(Failed::Status(code, text)),
            Err(_) => Err(self.nonsense()),
        }
    }

    /// Writes `buf`, at most as long as a write may be.
    pub(crate) async fn write(&self, handle: &[u8], at: u64, buf: &IoBuf) -> Result<(), Failed> {
        match self.tell(Ask::Write(handle, at, buf.len() as u32), buf).await? {
            Reply::Status(..) => Ok(()),
            _ => Err(self.nonsense()),
        }
    }

    /// Reads replies until the conversation ends, and gives up then.
    pub(crate) async fn listen(&self) {
        let end = self.replies().await;
        if !self.lost.load(Relaxed) {
            tracing::warn!("ssh: the connection is lost: {}", end.err().unwrap_or(Errno::PIPE));
        }
        self.give_up();
    }

    async fn replies(&self) -> IoResult<()> {
        let mut input = Input { session: self, buf: vec![0; READ], start: 0, end: 0 };
        loop {
            // Length, type, and the request's number.
            let head = input.take(9).await?;
            let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let (len, kind, id) = (word(0), head[4], word(5));
            let rest = len.checked_sub(5).ok_or_else(|| broken("a reply that is too short"))?;
            let waiting = self.waiting.lock().remove(&id);
            let waiting = waiting.ok_or_else(|| broken("a reply to no request"))?;
            if kind == sftp::DATA {
                let Waiting::Data(buf, done) = waiting else {
                    return Err(broken("data that was not asked for"));
                };
                if rest < 4 {
                    return Err(broken("a reply that is too short"));
                }
                let n = data_len(input.take(4).await?, rest - 4, buf.len())?;
                input.fill(&buf.slice(0..n)).await?;
                // A tail that early versions do not have.
                input.skip(rest as usize - 4 - n).await?;
                _ = done.send(Ok(n));
                continue;
            }
            if len > MAX_MESSAGE {
                return Err(broken("a reply that is too long"));
            }
            let body = input.take(rest as usize).await?;
            let reply = sftp::parse_reply(kind, body).ok_or_else(|| broken("a reply that makes no sense"))?;
            match waiting {
                Waiting::Reply(done) => drop(done.send(reply)),
                Waiting::Data(_, done) => drop(done.send(Err(reply))),
            }
        }
    }
}

/// How much data comes, of a message of which `rest` bytes remain behind this field, where `room` was asked for.
fn data_len(field: &[u8], rest: u32, room: usize) -> IoResult<usize> {
    let n = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
    // At most a flag may stand behind the data.
    let fits = n > 0 && n as usize <= room && (n..=n.saturating_add(1)).contains(&rest);
    if fits { Ok(n as usize) } else { Err(broken("data that was not asked for")) }
}

/// What the server sends, some of it read ahead.
struct Input<'a> {
    session: &'a Session,
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input<'_> {
    fn came(&self, n: usize) -> IoResult<usize> {
        let now = u64::try_from(self.session.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.session.heard.store(now, Relaxed);
        if n == 0 { Err(Errno::PIPE) } else { Ok(n) }
    }

    /// The next `n` bytes, at most as many as the longest message has.
    async fn take(&mut self, n: usize) -> IoResult<&[u8]> {
        if self.start > 0 && self.end - self.start < n {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < n {
            let came = self.session.stream.read(&mut self.buf[self.end..]).await?;
            self.end += self.came(came)?;
        }
        self.start += n;
        Ok(&self.buf[self.start - n..self.start])
    }

    async fn skip(&mut self, n: usize) -> IoResult<()> {
        self.take(n).await.map(drop)
    }

    /// Fills `buf`: with what is there already, and then without a copy.
    async fn fill(&mut self, buf: &IoBuf) -> IoResult<()> {
        let mut done = (self.end - self.start).min(buf.len());
        buf.copy_from(0, &self.buf[self.start..self.start + done]);
        self.start += done;
        while done < buf.len() {
            let came = self.session.stream.read_into(&buf.slice(done..buf.len())).await?;
            done += self.came(came)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
