//! One connection: a request goes out, its answer comes in, then the next.

use crate::head::{Framing, Head, MAX_HEAD};
use crate::proxy::Proxy;
use crate::url::Origin;
use base::{Errno, IoResult};
use io::tls::Credentials;
use io::{Addr, Stream};
use mem::IoBuf;
use std::future::Future;
use std::time::Duration;

/// Bytes that are read at once where they do not go straight to their place.
const READ: usize = 16 << 10;
/// Bytes that a body brings within the time for which the server may say nothing, at least.
const SLOWEST: usize = 16 << 10;
/// Longest line with the length of a chunk, bytes.
const MAX_LINE: usize = 4096;
/// Most that is read of a body that nobody wants, so that the connection can be used again, bytes.
const MAX_SKIP: usize = 64 << 10;

/// Why there is no answer, or not the one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The server could not be reached, or did not go on. It may go better another time.
    Broke(String),
    /// The server's status is an error.
    Status(u16),
    /// What came makes no sense, or is not what was asked for.
    Nonsense(String),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Broke(text) | Why::Nonsense(text) => f.write_str(text),
            Why::Status(n) => write!(f, "The requested URL returned error: {n}"),
        }
    }
}

pub(crate) fn nonsense(text: &str) -> Why {
    Why::Nonsense(text.to_owned())
}

/// How long the other side may say nothing; for ever where there is none.
pub(crate) type Patience = Option<Duration>;

/// What `f` gives, if it does so in time.
async fn in_time<T>(patience: Patience, f: impl Future<Output = Result<T, Why>>) -> Result<T, Why> {
    match patience {
        None => f.await,
        Some(limit) => match rt::timeout(limit, f).await {
            Some(r) => r,
            None => Err(Why::Broke(format!("Too little came within {} seconds", limit.as_secs_f32()))),
        },
    }
}

fn broke(e: Errno) -> Why {
    Why::Broke(format!("The connection broke: {e}"))
}

pub(crate) struct Conn {
    stream: Stream,
    patience: Patience,
    /// What came and was not used.
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Conn {
    /// Connects, by way of a proxy where there is one.
    pub(crate) async fn open(
        origin: &Origin,
        proxy: Option<&Proxy>,
        creds: Option<&Credentials>,
        patience: Patience,
    ) -> Result<Conn, Why> {
        let (host, port) = match proxy {
            Some(p) => (&p.host, p.port),
            None => (&origin.host, origin.port),
        };
        let addr = Addr::inet(host.clone(), port);
        let stream =
            in_time(patience, async { io::connect(&addr).await.map_err(|e| Why::Broke(e.to_string())) });
        let stream = stream.await?;
        let mut conn = Conn { stream, patience, buf: Vec::new(), start: 0, end: 0 };
        let Some(creds) = creds else { return Ok(conn) };
        if let Some(p) = proxy {
            let to = match origin.host.contains(':') {
                true => format!("[{}]:{}", origin.host, origin.port),
                false => format!("{}:{}", origin.host, origin.port),
            };
            let auth =
                p.auth.as_deref().map_or_else(String::new, |a| format!("Proxy-Authorization: {a}\r\n"));
            conn.send(&format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{auth}\r\n")).await?;
            let status = conn.head().await?.status;
            if !(200..300).contains(&status) {
                return Err(Why::Nonsense(format!("CONNECT tunnel failed, response {status}")));
            }
            if conn.start != conn.end {
                return Err(nonsense("The proxy said more than that the tunnel is there"));
            }
        }
        conn.stream = in_time(patience, async {
            io::tls::connect(&conn.stream, creds, &origin.host).await.map_err(Why::Broke)
        })
        .await?;
        Ok(conn)
    }

    /// Whether the server has ended the connection, or has said something that nobody asked for.
    pub(crate) fn is_stale(&self) -> bool {
        // There is nothing to be read from a connection that waits for a request.
        self.start != self.end
            || self.stream.is_hung_up()
            || self.stream.try_read(&mut [0]) != Err(Errno::AGAIN)
    }

    /// Sends a request.
    pub(crate) async fn send(&self, request: &str) -> Result<(), Why> {
        in_time(self.patience, async { self.stream.write_all(request.as_bytes()).await.map_err(broke) }).await
    }

    async fn read(&self, f: impl Future<Output = IoResult<usize>>) -> Result<usize, Why> {
        let n = in_time(self.patience, async { f.await.map_err(broke) }).await?;
        if n == 0 {
            return Err(Why::Broke("The server ended the connection".into()));
        }
        Ok(n)
    }

    /// Reads more behind what is there.
    async fn more(&mut self) -> Result<(), Why> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buf.len() < self.end + READ {
            self.buf.resize(self.end + READ, 0);
        }
        let mut buf = std::mem::take(&mut self.buf);
        let n = self.read(self.stream.read(&mut buf[self.end..])).await;
        self.buf = buf;
        self.end += n?;
        Ok(())
    }

    /// Takes what ends with `end`, which must come within `max` bytes.
    async fn until(&mut self, is_end: impl Fn(&[u8]) -> Option<usize>, max: usize) -> Result<Vec<u8>, Why> {
        loop {
            if let Some(n) = is_end(&self.buf[self.start..self.end]) {
                let taken = self.buf[self.start..self.start + n].to_vec();
                self.start += n;
                return Ok(taken);
            }
            if self.end - self.start >= max {
                return Err(nonsense("Too large response headers"));
            }
            self.more().await?;
        }
    }

    /// The head of the answer, after those that only say that it will come. All of it comes in time.
    pub(crate) async fn head(&mut self) -> Result<Head, Why> {
        let patience = self.patience;
        in_time(patience, async {
            for _ in 0..16 {
                let bytes = self.until(end_of_head, MAX_HEAD).await?;
                let head = Head::parse(&bytes).ok_or_else(|| nonsense("The server does not speak HTTP"))?;
                if head.status == 101 || head.status >= 200 {
                    return Ok(head);
                }
            }
            Err(nonsense("The server only promises an answer"))
        })
        .await
    }

    /// Reads a body into `into`, which it must fill.
    pub(crate) async fn body(&mut self, framing: Framing, into: &IoBuf) -> Result<(), Why> {
        // Each read comes in time; and who sends byte by byte does not hold up everybody for ever either.
        let pieces = u32::try_from(into.len() / SLOWEST).unwrap_or(u32::MAX).saturating_add(2);
        let patience = self.patience.map(|p| p.saturating_mul(pieces));
        in_time(patience, self.all_of_body(framing, into)).await
    }

    async fn all_of_body(&mut self, framing: Framing, into: &IoBuf) -> Result<(), Why> {
        let want = into.len();
        match framing {
            Framing::Length(n) if n != want as u64 => {
                Err(Why::Nonsense(format!("The server sends {n} bytes where {want} were asked for")))
            }
            Framing::Length(_) | Framing::ToEnd => self.fill(into).await,
            Framing::Chunked => {
                let mut done = 0;
                loop {
                    let n = self.chunk().await?;
                    if n == 0 {
                        break;
                    }
                    let room = (want - done) as u64;
                    if n > room {
                        return Err(Why::Nonsense(format!(
                            "The server sends more than the {want} bytes that were asked for"
                        )));
                    }
                    self.fill(&into.slice(done..done + n as usize)).await?;
                    done += n as usize;
                    self.line_end().await?;
                }
                if done < want {
                    return Err(Why::Nonsense(format!(
                        "The server sends {done} bytes where {want} were asked for"
                    )));
                }
                Ok(())
            }
        }
    }

    /// Fills `into` with what comes.
    async fn fill(&mut self, into: &IoBuf) -> Result<(), Why> {
        let mut done = (self.end - self.start).min(into.len());
        into.copy_from(0, &self.buf[self.start..self.start + done]);
        self.start += done;
        while done < into.len() {
            done += self.read(self.stream.read_into(&into.slice(done..into.len()))).await?;
        }
        Ok(())
    }

    /// The length of the next chunk; behind the last, also its fields are taken (RFC 9112, section 7.1).
    async fn chunk(&mut self) -> Result<u64, Why> {
        let line = self.until(end_of_line, MAX_LINE).await?;
        let text = String::from_utf8_lossy(&line);
        let digits = text.split(';').next().unwrap_or("").trim();
        let fits = !digits.is_empty() && digits.len() <= 15 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let n = u64::from_str_radix(digits, 16).ok().filter(|_| fits);
        let n = n.ok_or_else(|| nonsense("The server sends chunks that make no sense"))?;
        if n == 0 {
            let mut fields = 0;
            while self.until(end_of_line, MAX_LINE).await?.len() > 2 {
                fields += 1;
                if fields > 100 {
                    return Err(nonsense("Too large response headers"));
                }
            }
        }
        Ok(n)
    }

    async fn line_end(&mut self) -> Result<(), Why> {
        match self.until(end_of_line, 3).await?.len() {
            1 | 2 => Ok(()),
            _ => Err(nonsense("The server sends chunks that make no sense")),
        }
    }

    /// Reads a body that nobody wants, if it is short. Whether the connection can be used for another request.
    pub(crate) async fn skip(&mut self, framing: Framing) -> bool {
        match framing {
            Framing::Length(n) if n <= MAX_SKIP as u64 => self.fill(&IoBuf::zeroed(n as usize)).await.is_ok(),
            _ => false,
        }
    }
}

fn end_of_line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|b| *b == b'\n').map(|at| at + 1)
}

/// Behind the empty line.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(n) = end_of_line(&bytes[at..]) {
        if matches!(&bytes[at..at + n], b"\n" | b"\r\n") {
            return Some(at + n);
        }
        at += n;
    }
    None
}
