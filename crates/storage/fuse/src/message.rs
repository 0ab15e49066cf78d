//! Requests and answers, without I/O.

use crate::spec::*;
use base::Errno;

/// What the kernel asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Versions and features.
    Init {
        /// The kernel's version.
        major: u32,
        /// Its minor version.
        minor: u32,
        /// The most that it would read ahead, bytes.
        readahead: u32,
        /// `INIT_*` that it has.
        flags: u64,
    },
    /// The attributes.
    GetAttr,
    /// Change attributes.
    SetAttr(SetAttr),
    /// Open with flags as of open(2).
    Open {
        /// The flags.
        flags: u32,
    },
    /// Read.
    Read {
        /// From where, bytes.
        offset: u64,
        /// How many, at most [`MAX_IO`].
        size: usize,
    },
    /// Write; the data follows at [`WRITE_PREFIX`].
    Write {
        /// Where, bytes.
        offset: u64,
        /// How many, at most [`MAX_IO`].
        size: usize,
        /// The flags of the open file.
        flags: u32,
    },
    /// A descriptor is closed.
    Flush,
    /// The last user of an open file is gone.
    Release,
    /// Make stable what was written.
    Fsync,
    /// As fallocate(2).
    Allocate {
        /// From where, bytes.
        offset: u64,
        /// How many.
        length: u64,
        /// `FALLOC_*`.
        mode: u32,
    },
    /// As lseek(2).
    Seek {
        /// From where, bytes.
        offset: u64,
        /// `SEEK_*`.
        whence: u32,
    },
    /// About the file system.
    StatFs,
    /// The last request.
    Destroy,
    /// A request that wants no answer.
    Unanswered,
    /// Something else.
    Other(u32),
}

/// A change of attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// `SET_*`: what counts of the rest.
    pub valid: u32,
    /// The length.
    pub size: u64,
    /// The mode.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What its answer names.
    pub unique: u64,
    /// What is asked for; an error where that makes no sense.
    pub op: Result<Op, Errno>,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (a, b) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = b;
        Ok(*a)
    }

    fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_ne_bytes)
    }

    fn skip(&mut self, words: usize) -> Result<(), Errno> {
        (0..words).try_for_each(|_| self.u32().map(drop))
    }
}

/// Reads a request of `total` bytes, of which `bytes` are the first (at least [`LONGEST`], or all).
///
/// # Errors
/// It is no request at all: nothing could be answered.
pub fn parse(bytes: &[u8], total: usize) -> Result<Request, Errno> {
    let mut r = Reader(bytes);
    let (len, opcode, unique, _node) = (r.u32()?, r.u32()?, r.u64()?, r.u64()?);
    if len as usize != total || bytes.len() < IN_HEADER {
        return Err(Errno::PROTO);
    }
    Ok(Request { unique, op: op(opcode, &bytes[IN_HEADER..], total - IN_HEADER) })
}

fn op(opcode: u32, body: &[u8], total: usize) -> Result<Op, Errno> {
    let mut r = Reader(body);
    Ok(match opcode {
        INIT => {
            let (major, minor, readahead, low) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
            let mut flags = u64::from(low);
            if flags & INIT_EXT != 0 {
                flags |= u64::from(r.u32()?) << 32;
            }
            Op::Init { major, minor, readahead, flags }
        }
        GETATTR => Op::GetAttr,
        SETATTR => {
            let valid = r.u32()?;
            r.skip(3)?;
            let size = r.u64()?;
            // A lock's owner and three times, the fractions of these.
            r.skip(11)?;
            let mode = r.u32()?;
            r.skip(1)?;
            Op::SetAttr(SetAttr { valid, size, mode, uid: r.u32()?, gid: r.u32()? })
        }
        OPEN => Op::Open { flags: r.u32()? },
        READ => {
            let (_handle, offset, size) = (r.u64()?, r.u64()?, r.u32()? as usize);
            if size > MAX_IO {
                return Err(Errno::INVAL);
            }
            Op::Read { offset, size }
        }
        WRITE => {
            let (_handle, offset, size) = (r.u64()?, r.u64()?, r.u32()? as usize);
            r.skip(3)?;
            let flags = r.u32()?;
            if size > MAX_IO || size + WRITE_PREFIX != total + IN_HEADER {
                return Err(Errno::INVAL);
            }
            Op::Write { offset, size, flags }
        }
        FLUSH => Op::Flush,
        RELEASE => Op::Release,
        FSYNC => Op::Fsync,
        FALLOCATE => {
            let _handle = r.u64()?;
            Op::Allocate { offset: r.u64()?, length: r.u64()?, mode: r.u32()? }
        }
        LSEEK => {
            let _handle = r.u64()?;
            Op::Seek { offset: r.u64()?, whence: r.u32()? }
        }
        STATFS => Op::StatFs,
        DESTROY => Op::Destroy,
        FORGET | BATCH_FORGET => Op::Unanswered,
        other => Op::Other(other),
    })
}

/// An answer's header, in front of `len` bytes.
pub fn head(unique: u64, error: Option<Errno>, len: usize) -> [u8; OUT_HEADER] {
    let mut b = [0; OUT_HEADER];
    b[..4].copy_from_slice(&((OUT_HEADER + len) as u32).to_ne_bytes());
    b[4..8].copy_from_slice(&(-error.map_or(0, Errno::raw)).to_ne_bytes());
    b[8..].copy_from_slice(&unique.to_ne_bytes());
    b
}

/// Puts an answer's fields together.
#[derive(Default)]
pub struct Out(Vec<u8>);

impl Out {
    /// 16 bits.
    pub fn u16(mut self, v: u16) -> Out {
        self.0.extend(v.to_ne_bytes());
        self
    }

    /// 32 bits.
    pub fn u32(mut self, v: u32) -> Out {
        self.0.extend(v.to_ne_bytes());
        self
    }

    /// 64 bits.
    pub fn u64(mut self, v: u64) -> Out {
        self.0.extend(v.to_ne_bytes());
        self
    }

    /// So many zero bytes.
    pub fn pad(mut self, n: usize) -> Out {
        self.0.resize(self.0.len() + n, 0);
        self
    }

    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The answer to [`Op::Init`]. A kernel with a later major version asks again, after it was told ours.
///
/// # Errors
/// `EPROTO` where the kernel is too old.
pub fn init(major: u32, minor: u32, readahead: u32, flags: u64, page: usize) -> Result<Vec<u8>, Errno> {
    if major < MAJOR || (major == MAJOR && minor < OLDEST) {
        return Err(Errno::PROTO);
    }
    let wanted = INIT_ASYNC_READ
        | INIT_ATOMIC_O_TRUNC
        | INIT_BIG_WRITES
        | INIT_ASYNC_DIO
        | INIT_MAX_PAGES
        | INIT_EXT
        | INIT_DIRECT_IO_MMAP;
    let flags = if flags & INIT_EXT != 0 { flags & wanted } else { flags & wanted & 0xffff_ffff };
    let pages = u16::try_from(MAX_IO / page.max(1)).unwrap_or(u16::MAX).max(1);
    Ok(Out::default()
        .u32(MAJOR)
        .u32(MINOR)
        .u32(readahead)
        .u32(flags as u32)
        // Requests in the background at most, and from where on the kernel counts it as congested.
        .u16(64)
        .u16(48)
        .u32(MAX_IO as u32)
        // Times are told to a nanosecond.
        .u32(1)
        .u16(pages)
        .u16(0)
        .u32((flags >> 32) as u32)
        .pad(28)
        .bytes())
}

/// The file's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Bytes.
    pub size: u64,
    /// Allocated bytes.
    pub allocated: u64,
    /// When it was used and changed, since 1970.
    pub time: std::time::Duration,
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// What reads and writes are best aligned to, bytes.
    pub block: u32,
}

impl Attr {
    /// The answer to [`Op::GetAttr`] and [`Op::SetAttr`]; the kernel may not keep it, as others may resize the node.
    pub fn bytes(&self) -> Vec<u8> {
        let (secs, nanos) = (self.time.as_secs(), self.time.subsec_nanos());
        let out = Out::default().u64(0).u32(0).u32(0);
        let out = out.u64(1).u64(self.size).u64(self.allocated.div_ceil(512));
        let out = out.u64(secs).u64(secs).u64(secs).u32(nanos).u32(nanos).u32(nanos);
        let out = out.u32(S_IFREG | self.mode).u32(1).u32(self.uid).u32(self.gid);
        out.u32(0).u32(self.block).u32(0).bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let head = Out::default().u32((IN_HEADER + body.len()) as u32).u32(opcode).u64(77).u64(1).pad(16);
        [head.bytes(), body.to_vec()].concat()
    }

    fn ask(opcode: u32, body: Out) -> Result<Op, Errno> {
        let all = request(opcode, &body.bytes());
        let r = parse(&all[..all.len().min(LONGEST)], all.len()).unwrap();
        assert_eq!(r.unique, 77);
        r.op
    }

    #[test]
    fn requests_are_read() {
        let o = Out::default;
        assert_eq!(ask(GETATTR, o().pad(16)), Ok(Op::GetAttr));
        assert_eq!(
            ask(READ, o().u64(1).u64(4096).u32(512).pad(20)),
            Ok(Op::Read { offset: 4096, size: 512 })
        );
        assert_eq!(ask(READ, o().u64(1).u64(4096).u32(2 << 20).pad(20)), Err(Errno::INVAL));
        assert_eq!(ask(READ, o().u64(1)), Err(Errno::INVAL));
        let write = |size, data| ask(WRITE, o().u64(1).u64(9).u32(size).pad(12).u32(5).pad(4).pad(data));
        assert_eq!(write(300, 300), Ok(Op::Write { offset: 9, size: 300, flags: 5 }));
        assert_eq!(write(300, 299), Err(Errno::INVAL));
        assert_eq!(write(3 << 20, 3 << 20), Err(Errno::INVAL));
        let set = o().u32(9).pad(12).u64(4711).pad(44).u32(0o600).u32(0).u32(3).u32(4).u32(0);
        let want = SetAttr { valid: 9, size: 4711, mode: 0o600, uid: 3, gid: 4 };
        assert_eq!(ask(SETATTR, set), Ok(Op::SetAttr(want)));
        let init = o().u32(7).u32(45).u32(9).u32(INIT_EXT as u32).u32(16).pad(44);
        let flags = INIT_EXT | INIT_DIRECT_IO_MMAP;
        assert_eq!(ask(INIT, init), Ok(Op::Init { major: 7, minor: 45, readahead: 9, flags }));
        assert_eq!(
            ask(FALLOCATE, o().u64(1).u64(2).u64(3).u32(4).u32(0)),
            Ok(Op::Allocate { offset: 2, length: 3, mode: 4 })
        );
        assert_eq!(ask(LSEEK, o().u64(1).u64(2).u32(3).u32(0)), Ok(Op::Seek { offset: 2, whence: 3 }));
        assert_eq!(ask(99, o()), Ok(Op::Other(99)));
        let all = request(GETATTR, &[]);
        assert_eq!(parse(&all, all.len() + 1), Err(Errno::PROTO));
        assert!(parse(&all[..20], 20).is_err());
    }

    #[test]
    fn answers_have_the_right_length() {
        assert_eq!(Attr::default().bytes().len(), 104);
        assert_eq!(init(7, 28, 0, u64::MAX, 4096).unwrap().len(), 64);
        assert_eq!(init(7, 27, 0, 0, 4096), Err(Errno::PROTO));
        assert_eq!(head(3, Some(Errno::IO), 0), *Out::default().u32(16).u32(-5i32 as u32).u64(3).bytes());
        // Features that the kernel does not have are not asked for.
        let old = init(7, 31, 0, INIT_MAX_PAGES, 4096).unwrap();
        assert_eq!((&old[12..16], &old[32..36]), (&(INIT_MAX_PAGES as u32).to_ne_bytes()[..], &[0; 4][..]));
    }

    proptest! {
        #[test]
        fn rubbish_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), opcode in 0u32..55) {
            _ = parse(&bytes, bytes.len());
            let all = request(opcode, &bytes);
            match parse(&all[..all.len().min(LONGEST)], all.len()).unwrap().op {
                Ok(Op::Read { size, .. }) => prop_assert!(size <= MAX_IO),
                Ok(Op::Write { size, .. }) => prop_assert!(size + WRITE_PREFIX == all.len()),
                _ => {}
            }
        }
    }
}
