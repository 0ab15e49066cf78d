//! Messages of SFTP version 3 (draft-ietf-secsh-filexfer-02), without I/O: those that a client of one file needs; and two extensions
//! of OpenSSH (its file PROTOCOL, section 4): `fsync@openssh.com` and `limits@openssh.com`.

use base::Errno;

/// The version that is spoken.
pub(crate) const VERSION: u32 = 3;
/// The longest message that is taken, but for the data of reads, bytes.
pub(crate) const MAX_MESSAGE: u32 = 64 << 10;
/// Longest handle of a file (section 6.3), bytes.
const MAX_HANDLE: usize = 256;
/// Longest text of an error that is kept, characters.
const MAX_TEXT: usize = 200;

/// What a read or write moves at once when the server names no limits: servers must take it (section 3), bytes.
pub(crate) const SAFE: u32 = 32 << 10;

const INIT: u8 = 1;
const VERSION_REPLY: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const FSTAT: u8 = 8;
const FSETSTAT: u8 = 10;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
/// The reply to a read that brings data.
pub(crate) const DATA: u8 = 103;
const ATTRS: u8 = 105;
const EXTENDED: u8 = 200;
const EXTENDED_REPLY: u8 = 201;

/// Open: for reading.
pub(crate) const FOR_READ: u32 = 1;
/// Open: for writing.
pub(crate) const FOR_WRITE: u32 = 2;
/// Open: make the file if there is none.
pub(crate) const CREATE: u32 = 8;
/// Open: the file is emptied.
pub(crate) const TRUNCATE: u32 = 0x10;

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;

/// It went well.
pub(crate) const OK: u32 = 0;
/// There is nothing behind the end of the file.
pub(crate) const EOF: u32 = 1;

/// A request: what stands behind its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask<'a> {
    /// Open this file, with flags. A new one can be read by all, and written by its owner.
    Open(&'a str, u32),
    /// Close a handle.
    Close(&'a [u8]),
    /// Read so many bytes from there on.
    Read(&'a [u8], u64, u32),
    /// Write so many from there on; they follow the message.
    Write(&'a [u8], u64, u32),
    /// What the file is like.
    Stat(&'a [u8]),
    /// Set the file's length.
    Resize(&'a [u8], u64),
    /// Make stable what was written (OpenSSH).
    Sync(&'a [u8]),
    /// What the server's limits are (OpenSSH).
    Limits,
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

/// The first message.
pub(crate) fn init() -> Vec<u8> {
    let mut out = vec![0, 0, 0, 5, INIT];
    out.extend(VERSION.to_be_bytes());
    out
}

impl Ask<'_> {
    /// Puts the message behind what is there. The data of a write is counted, and to be put behind it.
    pub(crate) fn put(&self, id: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; 4]);
        let (kind, handle) = match self {
            Ask::Open(..) => (OPEN, None),
            Ask::Close(h) => (CLOSE, Some(h)),
            Ask::Read(h, ..) => (READ, Some(h)),
            Ask::Write(h, ..) => (WRITE, Some(h)),
            Ask::Stat(h) => (FSTAT, Some(h)),
            Ask::Resize(h, _) => (FSETSTAT, Some(h)),
            Ask::Sync(_) | Ask::Limits => (EXTENDED, None),
        };
        out.push(kind);
        out.extend(id.to_be_bytes());
        if let Some(h) = handle {
            text(out, h);
        }
        let mut follows = 0;
        match self {
            Ask::Open(name, flags) => {
                text(out, name.as_bytes());
                out.extend(flags.to_be_bytes());
                let mode: u32 = 0o644;
                let attrs = if flags & CREATE != 0 { HAS_MODE } else { 0 };
                out.extend(attrs.to_be_bytes());
                if attrs != 0 {
                    out.extend(mode.to_be_bytes());
                }
            }
            Ask::Read(_, at, len) => {
                out.extend(at.to_be_bytes());
                out.extend(len.to_be_bytes());
            }
            Ask::Write(_, at, len) => {
                out.extend(at.to_be_bytes());
                out.extend(len.to_be_bytes());
                follows = *len as usize;
            }
            Ask::Resize(_, len) => {
                out.extend(HAS_SIZE.to_be_bytes());
                out.extend(len.to_be_bytes());
            }
            Ask::Sync(handle) => {
                text(out, FSYNC);
                text(out, handle);
            }
            Ask::Limits => text(out, LIMITS),
            Ask::Close(_) | Ask::Stat(_) => {}
        }
        let len = (out.len() - start - 4 + follows) as u32;
        out[start..start + 4].copy_from_slice(&len.to_be_bytes());
    }
}

const FSYNC: &[u8] = b"fsync@openssh.com";
const LIMITS: &[u8] = b"limits@openssh.com";

/// What the server says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// [`Ask::Sync`] is there.
    pub(crate) sync: bool,
    /// [`Ask::Limits`] is there.
    pub(crate) limits: bool,
}

/// A reply, but for data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// How it went, and in the server's words.
    Status(u32, String),
    /// The handle of an opened file.
    Handle(Vec<u8>),
    /// What the file is like: its length, if it is told; its mode, likewise.
    Attrs(Option<u64>, Option<u32>),
    /// Of [`Ask::Limits`]: the longest read and the longest write, bytes; 0 where there is none.
    Limits(u64, u64),
}

/// Reads fields from a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (now, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(now)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()?;
        self.take(usize::try_from(n).ok()?)
    }
}

/// The server's answer to [`init`]: the type and what follows. `None`: it does not speak this version.
pub(crate) fn parse_version(body: &[u8]) -> Option<Offer> {
    let mut f = Fields(body.strip_prefix(&[VERSION_REPLY])?);
    if f.u32()? < VERSION {
        return None;
    }
    let mut offer = Offer::default();
    while !f.0.is_empty() {
        let (name, data) = (f.text()?, f.text()?);
        offer.sync |= name == FSYNC && data == b"1";
        offer.limits |= name == LIMITS && data == b"1";
    }
    Some(offer)
}

/// A reply, from its type and what follows the request's number. `None`: it makes no sense.
pub(crate) fn parse_reply(kind: u8, body: &[u8]) -> Option<Reply> {
    let mut f = Fields(body);
    match kind {
        STATUS => {
            let code = f.u32()?;
            // Early servers leave the text out.
            let said = f.text().unwrap_or_default();
            Some(Reply::Status(code, readable(said)))
        }
        HANDLE => {
            let handle = f.text()?;
            (!handle.is_empty() && handle.len() <= MAX_HANDLE).then(|| Reply::Handle(handle.to_vec()))
        }
        ATTRS => {
            let has = f.u32()?;
            let size = if has & HAS_SIZE != 0 { Some(f.u64()?) } else { None };
            if has & HAS_OWNER != 0 {
                f.u64()?;
            }
            let mode = if has & HAS_MODE != 0 { Some(f.u32()?) } else { None };
            if has & HAS_TIMES != 0 {
                f.u64()?;
            }
            Some(Reply::Attrs(size, mode))
        }
        EXTENDED_REPLY => {
            let (_packet, read, write, _handles) = (f.u64()?, f.u64()?, f.u64()?, f.u64()?);
            Some(Reply::Limits(read, write))
        }
        _ => None,
    }
}

/// Text of somebody else's, short and without characters that control terminals.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_TEXT)]);
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// What a status means (section 7).
pub(crate) fn errno(code: u32) -> Errno {
    match code {
        2 | 10 => Errno::NOENT,
        3 => Errno::ACCES,
        8 => Errno::NOTSUP,
        12 => Errno::ROFS,
        14 | 15 => Errno::NOSPC,
        _ => Errno::IO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(ask: &Ask<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        ask.put(7, &mut out);
        out
    }

    #[test]
    fn requests_are_laid_out() {
        assert_eq!(init(), [0, 0, 0, 5, 1, 0, 0, 0, 3]);
        assert_eq!(put(&Ask::Open("/a", 3)), b"\0\0\0\x13\x03\0\0\0\x07\0\0\0\x02/a\0\0\0\x03\0\0\0\0");
        let new = b"\0\0\0\x17\x03\0\0\0\x07\0\0\0\x02/a\0\0\0\x1a\0\0\0\x04\0\0\x01\xa4";
        assert_eq!(put(&Ask::Open("/a", FOR_WRITE | CREATE | TRUNCATE)), new);
        assert_eq!(put(&Ask::Close(b"h")), b"\0\0\0\x0a\x04\0\0\0\x07\0\0\0\x01h");
        let read = b"\0\0\0\x16\x05\0\0\0\x07\0\0\0\x01h\0\0\0\x01\0\0\0\x02\0\0\x10\0";
        assert_eq!(put(&Ask::Read(b"h", 0x1_0000_0002, 4096)), read);
        // The data that follows is counted.
        let write = b"\0\0\x10\x16\x06\0\0\0\x07\0\0\0\x01h\0\0\0\0\0\0\0\x05\0\0\x10\0";
        assert_eq!(put(&Ask::Write(b"h", 5, 4096)), write);
        assert_eq!(put(&Ask::Stat(b"h"))[4], 8);
        let resize = b"\0\0\0\x16\x0a\0\0\0\x07\0\0\0\x01h\0\0\0\x01\0\0\0\0\0\0\0\x09";
        assert_eq!(put(&Ask::Resize(b"h", 9)), resize);
        let sync = b"\0\0\0\x1f\xc8\0\0\0\x07\0\0\0\x11fsync@openssh.com\0\0\0\x01h";
        assert_eq!(put(&Ask::Sync(b"h")), sync);
        assert_eq!(put(&Ask::Limits)[13..], *b"limits@openssh.com");
    }

    #[test]
    fn replies_are_read() {
        let version = b"\x02\0\0\0\x03\0\0\0\x11fsync@openssh.com\0\0\0\x011\0\0\0\x01x\0\0\0\0";
        assert_eq!(parse_version(version), Some(Offer { sync: true, limits: false }));
        assert_eq!(parse_version(b"\x02\0\0\0\x03"), Some(Offer::default()));
        assert_eq!(parse_version(b"\x02\0\0\0\x02"), None);
        assert_eq!(parse_version(b"\x03\0\0\0\x03"), None);
        assert_eq!(parse_version(b"\x02\0\0\0\x03\0\0\0\x01x"), None);
        let status = |b: &[u8]| parse_reply(STATUS, b);
        assert_eq!(status(b"\0\0\0\x02\0\0\0\x03No!\0\0\0\0"), Some(Reply::Status(2, "No!".into())));
        assert_eq!(status(b"\0\0\0\0"), Some(Reply::Status(0, String::new())));
        assert_eq!(status(b"\0\0\0\x04\0\0\0\x04a\n\x1bb"), Some(Reply::Status(4, "ab".into())));
        assert_eq!(status(b"\0\0\0"), None);
        assert_eq!(parse_reply(HANDLE, b"\0\0\0\x02hh"), Some(Reply::Handle(b"hh".to_vec())));
        assert_eq!(parse_reply(HANDLE, b"\0\0\0\0"), None);
        assert_eq!(parse_reply(HANDLE, &[&[0, 0, 1, 1][..], &[1; 257]].concat()), None);
        assert_eq!(parse_reply(HANDLE, b"\xff\xff\xff\xffh"), None);
        let attrs = b"\0\0\0\x0f\0\0\0\0\0\0\0\x05\0\0\0\x01\0\0\0\x02\0\0\x81\xa4\0\0\0\0\0\0\0\0";
        assert_eq!(parse_reply(ATTRS, attrs), Some(Reply::Attrs(Some(5), Some(0o100644))));
        assert_eq!(parse_reply(ATTRS, b"\0\0\0\0"), Some(Reply::Attrs(None, None)));
        assert_eq!(parse_reply(ATTRS, b"\0\0\0\x01\0"), None);
        let limits = [5u64, 6, 7, 8].map(u64::to_be_bytes).concat();
        assert_eq!(parse_reply(EXTENDED_REPLY, &limits), Some(Reply::Limits(6, 7)));
        assert_eq!(parse_reply(99, b""), None);
        assert_eq!(readable(&[b'x'; 5000]).len(), MAX_TEXT);
    }

    proptest! {
        #[test]
        fn rubbish_is_survived(kind in 100u8..203, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            _ = parse_version(&bytes);
            if let Some(Reply::Handle(h)) = parse_reply(kind, &bytes) {
                prop_assert!(h.len() <= MAX_HANDLE);
            }
        }
    }
}
