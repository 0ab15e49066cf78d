//! Requests for parts of one thing on a server: connections that are kept, redirects, new tries.

use crate::conn::{Conn, Patience, Why, nonsense};
use crate::head::{Framing, Head};
use crate::proxy::Proxy;
use crate::sign::Signer;
use crate::url::{Origin, Url};
use base::IoResult;
use io::tls::Credentials;
use mem::IoBuf;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Most requests at a time.
pub(crate) const MAX_IN_FLIGHT: usize = 8;
/// The largest thing that a node can show, bytes.
const MAX_SIZE: u64 = 1 << 62;
/// Longest time for which a connection is kept that nobody uses.
const KEEP: Duration = Duration::from_secs(30);
/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 20;
/// How long is waited before a read is tried again, each time.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// The credentials of the scheme Basic (RFC 7617) for `user:password`.
pub(crate) fn basic(user: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::from("Basic ");
    for three in user.as_bytes().chunks(3) {
        let bits = three.iter().enumerate().fold(0u32, |n, (i, b)| n | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= three.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// What is asked for and how.
pub(crate) struct Ask {
    pub(crate) url: Url,
    /// `Authorization`; only its own server sees it.
    pub(crate) auth: Option<Zeroizing<String>>,
    /// `Cookie`, likewise.
    pub(crate) cookie: Option<Zeroizing<String>>,
    /// Signs the requests to it.
    pub(crate) sign: Option<Signer>,
    /// Whether servers' certificates are checked.
    pub(crate) verify: bool,
    pub(crate) patience: Patience,
    /// The proxy for a server, where there is one.
    pub(crate) proxy: Box<dyn Fn(&Origin) -> Result<Option<Proxy>, String> + Send + Sync>,
}

/// What the thing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thing {
    pub(crate) size: u64,
    /// What stands for its content as long as that does not change.
    tag: Option<String>,
}

struct Idle {
    origin: Origin,
    conn: Conn,
    since: Instant,
}

/// A thing on a server.
pub(crate) struct Client {
    ask: Ask,
    /// Where redirects have led.
    place: Mutex<Url>,
    idle: Mutex<Vec<Idle>>,
    room: rt::sync::Semaphore,
    creds: Mutex<Option<Arc<Credentials>>>,
}

impl Client {
    pub(crate) fn new(ask: Ask) -> Client {
        Client {
            place: Mutex::new(ask.url.clone()),
            ask,
            idle: Mutex::default(),
            room: rt::sync::Semaphore::new(MAX_IN_FLIGHT),
            creds: Mutex::default(),
        }
    }

    fn credentials(&self, origin: &Origin) -> Result<Option<Arc<Credentials>>, Why> {
        if !origin.tls {
            return Ok(None);
        }
        let mut creds = self.creds.lock();
        if creds.is_none() {
            *creds = Some(Arc::new(Credentials::public(self.ask.verify).map_err(Why::Nonsense)?));
        }
        Ok(creds.clone())
    }

    fn request(
        &self,
        method: &str,
        url: &Url,
        range: Option<(u64, u64)>,
        proxy: Option<&Proxy>,
    ) -> Zeroizing<String> {
        // With room for what is secret, so that growing leaves no copy of it.
        let mut r = Zeroizing::new(String::with_capacity(4096 + url.target.len()));
        let through = proxy.filter(|_| !url.origin.tls);
        let authority = url.origin.authority();
        match through {
            Some(_) => r.push_str(&format!("{method} http://{authority}{} HTTP/1.1\r\n", url.target)),
            None => r.push_str(&format!("{method} {} HTTP/1.1\r\n", url.target)),
        }
        r.push_str(&format!(
            "Host: {authority}\r\nAccept: */*\r\nUser-Agent: rhea/{}\r\n",
            env!("CARGO_PKG_VERSION")
        ));
        let range = range.map(|(first, last)| format!("bytes={first}-{last}"));
        if let Some(range) = &range {
            r.push_str(&format!("Range: {range}\r\n"));
        }
        if let Some(auth) = through.and_then(|p| p.auth.as_deref()) {
            r.push_str(&format!("Proxy-Authorization: {auth}\r\n"));
        }
        if url.origin == self.ask.url.origin {
            for (name, value) in [("Authorization", &self.ask.auth), ("Cookie", &self.ask.cookie)] {
                if let Some(v) = value {
                    r.push_str(name);
                    r.push_str(": ");
                    r.push_str(v);
                    r.push_str("\r\n");
                }
            }
        }
        if let Some(s) = self.ask.sign.as_ref().filter(|_| url.origin == self.ask.url.origin) {
            r.push_str(&s.fields(method, url, range.as_deref(), std::time::SystemTime::now()));
        }
        r.push_str("\r\n");
        r
    }

    /// A connection that was kept.
    fn kept(&self, origin: &Origin) -> Option<Conn> {
        let mut idle = self.idle.lock();
        idle.retain(|i| i.since.elapsed() < KEEP);
        while let Some(at) = idle.iter().rposition(|i| i.origin == *origin) {
            let conn = idle.remove(at).conn;
            if !conn.is_stale() {
                return Some(conn);
            }
        }
        None
    }

    fn keep(&self, origin: &Origin, conn: Conn) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IN_FLIGHT {
            idle.push(Idle { origin: origin.clone(), conn, since: Instant::now() });
        }
    }

    /// One request and the head of its answer.
    async fn once(&self, method: &str, url: &Url, range: Option<(u64, u64)>) -> Result<(Conn, Head), Why> {
        let proxy = (self.ask.proxy)(&url.origin).map_err(Why::Nonsense)?;
        let request = self.request(method, url, range, proxy.as_ref());
        if let Some(mut conn) = self.kept(&url.origin) {
            let done = match conn.send(&request).await {
                Ok(()) => conn.head().await,
                Err(e) => Err(e),
            };
            // If not: the server has ended it just now, which it may, or has sent what belongs to an answer before.
            if let Ok(head) = done {
                return Ok((conn, head));
            }
        }
        let creds = self.credentials(&url.origin)?;
        let mut conn = Conn::open(&url.origin, proxy.as_ref(), creds.as_deref(), self.ask.patience).await?;
        conn.send(&request).await?;
        let head = conn.head().await?;
        Ok((conn, head))
    }

    /// The head of the answer to a request that is no redirect, and where that was.
    async fn answer(&self, method: &str, range: Option<(u64, u64)>) -> Result<(Conn, Head, Url), Why> {
        let mut url = self.place.lock().clone();
        for _ in 0..=MAX_REDIRECTS {
            let (mut conn, head) = self.once(method, &url, range).await?;
            let body = if method == "HEAD" { Some(Framing::Length(0)) } else { head.framing() };
            match head.status {
                // A store that has the object's bucket elsewhere; requests must be signed for that place.
                301 | 307 | 400 if head.get("x-amz-bucket-region").is_some() => {
                    let region = head.get("x-amz-bucket-region").unwrap_or("");
                    return Err(Why::Nonsense(format!("The bucket is in the region '{region}'")));
                }
                301 | 302 | 303 | 307 | 308 => {
                    let to = head.get("location").and_then(|l| url.join(l));
                    let to = to
                        .ok_or_else(|| nonsense("The server redirects to what is no URL of http or https"))?;
                    if url.origin.tls && !to.origin.tls {
                        return Err(nonsense("The server redirects from https to http"));
                    }
                    if head.keeps() && body.is_some() && conn.skip(body.unwrap_or(Framing::ToEnd)).await {
                        self.keep(&url.origin, conn);
                    }
                    url = to;
                }
                // What redirects led to may be there for a time only.
                401 | 403 | 404 | 410 if url != self.ask.url && *self.place.lock() == url => {
                    url = self.ask.url.clone();
                    *self.place.lock() = url.clone();
                }
                400.. => {
                    if head.keeps() && body.is_some() && conn.skip(body.unwrap_or(Framing::ToEnd)).await {
                        self.keep(&url.origin, conn);
                    }
                    return Err(Why::Status(head.status));
                }
                _ => {
                    *self.place.lock() = url.clone();
                    return Ok((conn, head, url));
                }
            }
        }
        Err(Why::Nonsense(format!("Maximum ({MAX_REDIRECTS}) redirects followed")))
    }

    /// Finds out how large the thing is.
    pub(crate) async fn look(&self) -> Result<Thing, Why> {
        let _place = self.room.acquire().await;
        let (conn, head, url) = match self.answer("HEAD", None).await {
            // Servers for which the right to read is not the right to look, or which do not know it.
            Err(Why::Status(403 | 405 | 501)) => return self.look_by_range().await,
            r => r?,
        };
        let tag = tag(&head);
        let size = match head.length() {
            Some(Some(n)) if n <= MAX_SIZE => n,
            Some(_) => return Err(nonsense("The server reports a file size that makes no sense")),
            None => return Err(nonsense("Server didn't report file size.")),
        };
        if !head.takes_ranges() {
            return Err(nonsense("Server does not support 'range' (byte ranges)."));
        }
        if head.keeps() {
            self.keep(&url.origin, conn);
        }
        Ok(Thing { size, tag })
    }

    /// The same by asking for its first byte.
    async fn look_by_range(&self) -> Result<Thing, Why> {
        let (mut conn, head, url) = self.answer("GET", Some((0, 0))).await?;
        let size = match (head.status, head.range()) {
            (206, Some((0, 0, Some(size)))) if size <= MAX_SIZE => size,
            (206, _) => return Err(nonsense("Server didn't report file size.")),
            _ => return Err(nonsense("Server does not support 'range' (byte ranges).")),
        };
        let body = head.framing().ok_or_else(|| nonsense("The length of the answer makes no sense"))?;
        if conn.skip(body).await && head.keeps() {
            self.keep(&url.origin, conn);
        }
        Ok(Thing { size, tag: tag(&head) })
    }

    /// Reads from `off` on; tries again where that may help.
    pub(crate) async fn read(&self, thing: &Thing, off: u64, into: &IoBuf) -> IoResult<()> {
        let _place = self.room.acquire().await;
        let mut pauses = PAUSES.iter();
        loop {
            let why = match self.read_once(thing, off, into).await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            let again = matches!(why, Why::Broke(_) | Why::Status(408 | 429 | 500 | 502 | 503 | 504));
            match pauses.next().filter(|_| again) {
                Some(pause) => {
                    tracing::debug!(url = %self.ask.url, "reading at {off}: {why}; trying again");
                    rt::sleep(*pause).await;
                }
                None => {
                    // A server has a part in the text.
                    let why: String =
                        why.to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
                    tracing::error!(
                        target: "report",
                        "curl: {why} (reading {} bytes at {off} of {})",
                        into.len(),
                        self.ask.url
                    );
                    return Err(base::Errno::IO);
                }
            }
        }
    }

    async fn read_once(&self, thing: &Thing, off: u64, into: &IoBuf) -> Result<(), Why> {
        let last = off + into.len() as u64 - 1;
        let (mut conn, head, url) = self.answer("GET", Some((off, last))).await?;
        if head.status != 206 {
            return Err(nonsense("The server sends all of the file where a part of it was asked for"));
        }
        match head.range() {
            Some((first, end, whole)) if (first, end) == (off, last) => {
                if whole.is_some_and(|n| n != thing.size) {
                    return Err(nonsense("The file on the server has changed its size"));
                }
            }
            _ => return Err(nonsense("The server sends another part of the file than was asked for")),
        }
        if !head.is_plain() {
            return Err(nonsense("The server sends the file in a coding that was not asked for"));
        }
        if let (Some(then), Some(now)) = (&thing.tag, tag(&head))
            && *then != now
        {
            return Err(nonsense("The file on the server has changed"));
        }
        let framing = head.framing().ok_or_else(|| nonsense("The length of the answer makes no sense"))?;
        conn.body(framing, into).await?;
        if head.keeps() && framing != Framing::ToEnd {
            self.keep(&url.origin, conn);
        }
        Ok(())
    }

    /// Ends all connections that are kept.
    pub(crate) fn close(&self) {
        self.idle.lock().clear();
    }
}

/// The validator of the content (RFC 9110, section 8.8.3), where it is one that changes with each byte.
fn tag(head: &Head) -> Option<String> {
    head.get("etag").filter(|t| !t.starts_with("W/")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::basic;

    #[test]
    fn credentials() {
        assert_eq!(basic("Aladdin:open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(basic("a:b"), "Basic YTpi");
        assert_eq!(basic("a:bc"), "Basic YTpiYw==");
        assert_eq!(basic(""), "Basic ");
    }
}
