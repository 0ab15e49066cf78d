//! Messages of the transmission phase (section "Transmission" of the protocol).

use crate::spec::*;
use base::Errno;

/// The form of requests and replies that a handshake agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Compact requests, simple replies.
    #[default]
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// Extended requests and replies.
    Extended,
}

/// The other side broke the protocol; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

/// A request's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `CMD_FLAG_*`.
    pub flags: u16,
    /// `CMD_*`.
    pub kind: u16,
    /// Names the request in its reply.
    pub cookie: u64,
    /// Where, bytes.
    pub offset: u64,
    /// How much, bytes; at most 32 bits unless extended.
    pub len: u64,
}

/// Takes the big-endian number that starts at `at`. Panics where the bytes do not reach: lengths are checked before.
fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

pub(crate) fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

pub(crate) fn be64(b: &[u8], at: usize) -> u64 {
    u64::from(be32(b, at)) << 32 | u64::from(be32(b, at + 4))
}

impl Request {
    /// The length of a header in this mode, bytes.
    pub fn header_len(mode: Mode) -> usize {
        if mode == Mode::Extended { 32 } else { 28 }
    }

    /// Reads a header; `b` is [`Request::header_len`] long.
    ///
    /// # Errors
    /// The magic number is not there.
    pub fn parse(mode: Mode, b: &[u8]) -> Result<Request, Broken> {
        let (magic, len) = match mode {
            Mode::Extended => (EXTENDED_REQUEST_MAGIC, be64(b, 24)),
            _ => (REQUEST_MAGIC, be32(b, 24).into()),
        };
        if be32(b, 0) != magic {
            return Err(Broken("a request without its magic number"));
        }
        Ok(Request { flags: be16(b, 4), kind: be16(b, 6), cookie: be64(b, 8), offset: be64(b, 16), len })
    }

    /// Appends the header.
    pub fn put(&self, mode: Mode, out: &mut Vec<u8>) {
        let magic = if mode == Mode::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        out.extend(magic.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend(self.kind.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        match mode {
            Mode::Extended => out.extend(self.len.to_be_bytes()),
            _ => out.extend((self.len as u32).to_be_bytes()),
        }
    }

    /// How many bytes of payload follow the header.
    pub fn payload(&self, mode: Mode) -> u64 {
        let has = match mode {
            Mode::Extended => self.flags & CMD_FLAG_PAYLOAD_LEN != 0 || self.kind == CMD_WRITE,
            _ => self.kind == CMD_WRITE,
        };
        if has { self.len } else { 0 }
    }
}

/// A reply's header, or that of one chunk of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A simple reply. The data of a read that went well follows.
    Simple {
        /// The request's.
        cookie: u64,
        /// 0, or an error.
        error: u32,
    },
    /// A chunk.
    Chunk {
        /// `REPLY_FLAG_*`.
        flags: u16,
        /// `REPLY_*`.
        kind: u16,
        /// The request's.
        cookie: u64,
        /// How many bytes of payload follow.
        len: u64,
    },
}

/// The shortest header of a reply in this mode; [`reply_len`] tells from these bytes how long it is.
pub fn reply_min(mode: Mode) -> usize {
    if mode == Mode::Extended { 32 } else { 16 }
}

/// How long the header is that begins with these (at least 4) bytes.
pub fn reply_len(mode: Mode, b: &[u8]) -> usize {
    match mode {
        Mode::Extended => 32,
        _ if be32(b, 0) == STRUCTURED_REPLY_MAGIC => 20,
        _ => 16,
    }
}

impl Reply {
    /// Reads a header as long as [`reply_len`] says.
    ///
    /// # Errors
    /// The magic number is not one that this mode has.
    pub fn parse(mode: Mode, b: &[u8]) -> Result<Reply, Broken> {
        match (be32(b, 0), mode) {
            (SIMPLE_REPLY_MAGIC, Mode::Simple | Mode::Structured) => {
                Ok(Reply::Simple { cookie: be64(b, 8), error: be32(b, 4) })
            }
            (STRUCTURED_REPLY_MAGIC, Mode::Structured) => Ok(Reply::Chunk {
                flags: be16(b, 4),
                kind: be16(b, 6),
                cookie: be64(b, 8),
                len: be32(b, 16).into(),
            }),
            (EXTENDED_REPLY_MAGIC, Mode::Extended) => {
                Ok(Reply::Chunk { flags: be16(b, 4), kind: be16(b, 6), cookie: be64(b, 8), len: be64(b, 24) })
            }
            _ => Err(Broken("a reply without its magic number")),
        }
    }
}

/// Appends a simple reply's header.
pub fn put_simple(out: &mut Vec<u8>, cookie: u64, error: u32) {
    out.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend(error.to_be_bytes());
    out.extend(cookie.to_be_bytes());
}

/// Appends a chunk's header. `offset` is the request's (told by extended headers only).
pub fn put_chunk(out: &mut Vec<u8>, mode: Mode, flags: u16, kind: u16, req: &Request, len: usize) {
    let extended = mode == Mode::Extended;
    out.extend(if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC }.to_be_bytes());
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(req.cookie.to_be_bytes());
    if extended {
        out.extend(req.offset.to_be_bytes());
        out.extend((len as u64).to_be_bytes());
    } else {
        out.extend((len as u32).to_be_bytes());
    }
}

/// Appends the reply to a request that went well and gives nothing back, or that failed.
pub fn put_done(out: &mut Vec<u8>, mode: Mode, req: &Request, result: Result<(), Errno>) {
    match (mode, result) {
        (Mode::Simple, r) => put_simple(out, req.cookie, r.err().map_or(0, to_wire)),
        (_, Ok(())) => put_chunk(out, mode, REPLY_FLAG_DONE, REPLY_NONE, req, 0),
        (_, Err(e)) => {
            put_chunk(out, mode, REPLY_FLAG_DONE, REPLY_ERROR, req, 6);
            out.extend(to_wire(e).to_be_bytes());
            out.extend(0u16.to_be_bytes());
        }
    }
}

/// Appends the reply to a request that was not begun, with a text for people where the mode has room for it.
pub fn put_refused(out: &mut Vec<u8>, mode: Mode, req: &Request, error: Errno, text: &str) {
    if mode == Mode::Simple {
        return put_simple(out, req.cookie, to_wire(error));
    }
    let text = &text.as_bytes()[..text.len().min(MAX_STRING)];
    put_chunk(out, mode, REPLY_FLAG_DONE, REPLY_ERROR, req, 6 + text.len());
    out.extend(to_wire(error).to_be_bytes());
    out.extend((text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

/// What a request is called in messages for people; `None` for one that the protocol does not have.
pub fn request_name(kind: u16) -> Option<&'static str> {
    Some(match kind {
        CMD_READ => "read",
        CMD_WRITE => "write",
        CMD_DISC => "disconnect",
        CMD_FLUSH => "flush",
        CMD_TRIM => "trim",
        CMD_CACHE => "cache",
        CMD_WRITE_ZEROES => "write zeroes",
        CMD_BLOCK_STATUS => "block status",
        _ => return None,
    })
}

/// A run of bytes that a metadata context says the same of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes; never 0.
    pub len: u64,
    /// What the context says.
    pub flags: u64,
}

/// Appends a chunk with the extents of one context. Without extended headers, a length that is more than 32 bits hold
/// is cut at a multiple of `align` (a power of two), and nothing follows it.
pub fn put_status(
    out: &mut Vec<u8>,
    mode: Mode,
    flags: u16,
    req: &Request,
    context: u32,
    extents: &[Extent],
    align: u32,
) {
    if mode == Mode::Extended {
        put_chunk(out, mode, flags, REPLY_BLOCK_STATUS_EXT, req, 8 + extents.len() * 16);
        out.extend(context.to_be_bytes());
        out.extend((extents.len() as u32).to_be_bytes());
        for e in extents {
            out.extend(e.len.to_be_bytes());
            out.extend(e.flags.to_be_bytes());
        }
        return;
    }
    let fits = extents.iter().take_while(|e| e.len <= u64::from(u32::MAX)).count();
    let shown = extents.len().min(fits + 1);
    put_chunk(out, mode, flags, REPLY_BLOCK_STATUS, req, 4 + shown * 8);
    out.extend(context.to_be_bytes());
    for e in &extents[..shown] {
        let len = u32::try_from(e.len).unwrap_or(!(align.max(1) - 1));
        out.extend(len.to_be_bytes());
        out.extend((e.flags as u32).to_be_bytes());
    }
}

/// Reads the payload of a chunk with extents: the context and the extents, which are never none and never empty.
///
/// # Errors
/// The payload is malformed.
pub fn parse_status(kind: u16, b: &[u8]) -> Result<(u32, Vec<Extent>), Broken> {
    let bad = Broken("a malformed block status");
    let (head, step) = if kind == REPLY_BLOCK_STATUS_EXT { (8, 16) } else { (4, 8) };
    if b.len() < head + step || !(b.len() - head).is_multiple_of(step) {
        return Err(bad);
    }
    if kind == REPLY_BLOCK_STATUS_EXT && be32(b, 4) as usize != (b.len() - head) / step {
        return Err(bad);
    }
    let read = |e: &[u8]| {
        if step == 16 {
            Extent { len: be64(e, 0), flags: be64(e, 8) }
        } else {
            Extent { len: be32(e, 0).into(), flags: be32(e, 4).into() }
        }
    };
    let extents: Vec<Extent> = b[head..].chunks_exact(step).map(read).collect();
    if extents.iter().any(|e| e.len == 0) {
        return Err(bad);
    }
    Ok((be32(b, 0), extents))
}

/// Reads the payload of an error chunk: the error and its text.
///
/// # Errors
/// The payload is malformed.
pub fn parse_error(b: &[u8]) -> Result<(u32, String), Broken> {
    let bad = Broken("a malformed error");
    if b.len() < 6 {
        return Err(bad);
    }
    let text = b.get(6..6 + usize::from(be16(b, 4))).ok_or(bad)?;
    match be32(b, 0) {
        0 => Err(bad),
        e => Ok((e, String::from_utf8_lossy(text).into_owned())),
    }
}

/// The errors that the protocol has (section "Error values"), as it numbers them. Their numbers are Linux's own.
const ERRORS: [(u32, Errno); 8] = [
    (1, Errno::PERM),
    (5, Errno::IO),
    (12, Errno::NOMEM),
    (22, Errno::INVAL),
    (28, Errno::NOSPC),
    (75, Errno::OVERFLOW),
    (95, Errno::NOTSUP),
    (108, Errno::SHUTDOWN),
];

/// An error's number on the wire.
pub fn to_wire(e: Errno) -> u32 {
    match e {
        Errno::ROFS | Errno::ACCES => 1,
        Errno::FBIG => 28,
        // What the protocol has no number for is an I/O error to a client.
        e => ERRORS.iter().find(|(_, x)| *x == e).map_or(5, |(n, _)| *n),
    }
}

/// The error that a number on the wire means; those that the protocol does not have mean "invalid".
pub fn from_wire(n: u32) -> Errno {
    ERRORS.iter().find(|(x, _)| *x == n).map_or(Errno::INVAL, |(_, e)| *e)
}
