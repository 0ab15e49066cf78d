//! What is sent to the driver, and what it sends.

use crate::spec::*;
use base::{Errno, IoResult};

/// Bytes of the parameters that are sent.
pub const PARAMS: usize = 60;

/// A device: `struct ublksrv_ctrl_dev_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevInfo {
    /// How many queues.
    pub queues: u16,
    /// How many tags each queue has.
    pub depth: u16,
    /// The longest request's data, bytes.
    pub most: u32,
    /// The device's number, or [`ANY_DEVICE`].
    pub number: u32,
}

impl DevInfo {
    /// As it is sent.
    pub fn bytes(&self) -> [u8; rt::ublk::DEV_INFO] {
        let mut b = [0; rt::ublk::DEV_INFO];
        b[..2].copy_from_slice(&self.queues.to_ne_bytes());
        b[2..4].copy_from_slice(&self.depth.to_ne_bytes());
        b[8..12].copy_from_slice(&self.most.to_ne_bytes());
        b[12..16].copy_from_slice(&self.number.to_ne_bytes());
        b
    }

    /// As it was received: the kernel may have made less of it.
    pub fn parse(b: &[u8; rt::ublk::DEV_INFO]) -> DevInfo {
        let u32_at = |at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        DevInfo {
            queues: u16::from_ne_bytes([b[0], b[1]]),
            depth: u16::from_ne_bytes([b[2], b[3]]),
            most: u32_at(8),
            number: u32_at(12),
        }
    }
}

/// What the disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Its length, bytes; what is left behind the last whole block is not shown.
    pub len: u64,
    /// Bytes of a logical block: a power of two.
    pub logical: u32,
    /// Bytes that are best written at once: a power of two, not less than `logical`.
    pub physical: u32,
    /// The longest request's data, bytes.
    pub most: u32,
    /// It may be written.
    pub writable: bool,
    /// Every write is stable when it is answered.
    pub through: bool,
    /// Bytes of the least that can be given back.
    pub granularity: u32,
    /// Bytes of the longest discard and of the longest zeroes.
    pub most_zeroes: u64,
}

impl Params {
    /// `struct ublk_params`.
    pub fn bytes(&self) -> [u8; PARAMS] {
        let mut attrs = 0;
        if !self.writable {
            attrs |= ATTR_READ_ONLY;
        }
        if !self.through {
            attrs |= ATTR_VOLATILE_CACHE | ATTR_FUA;
        }
        let types = if self.writable { PARAM_BASIC | PARAM_DISCARD } else { PARAM_BASIC };
        let shift = |n: u32| n.trailing_zeros() as u8;
        let blocks = self.len / u64::from(self.logical);
        let zeroes = u32::try_from(self.most_zeroes / SECTOR).unwrap_or(u32::MAX);
        let mut b = Vec::with_capacity(PARAMS);
        b.extend((PARAMS as u32).to_ne_bytes());
        b.extend(types.to_ne_bytes());
        b.extend(attrs.to_ne_bytes());
        b.extend([shift(self.logical), shift(self.physical), shift(self.physical), shift(self.physical)]);
        b.extend((self.most / SECTOR as u32).to_ne_bytes());
        // Requests may cross any boundary, and their pieces begin anywhere.
        b.extend(0u32.to_ne_bytes());
        b.extend((blocks * u64::from(self.logical) / SECTOR).to_ne_bytes());
        b.extend(0u64.to_ne_bytes());
        b.extend(0u32.to_ne_bytes());
        b.extend(self.granularity.to_ne_bytes());
        b.extend(zeroes.to_ne_bytes());
        b.extend(zeroes.to_ne_bytes());
        // One range for each request.
        b.extend(1u16.to_ne_bytes());
        b.extend(0u16.to_ne_bytes());
        let mut all = [0; PARAMS];
        all.copy_from_slice(&b);
        all
    }
}

/// A request: `struct ublksrv_io_desc`. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read so many bytes from there on.
    Read(u64, usize),
    /// Write so many.
    Write {
        /// Where.
        at: u64,
        /// How many.
        len: usize,
        /// It is to be stable when it is answered.
        stable: bool,
    },
    /// Make stable what was written.
    Flush,
    /// The contents are not needed any more.
    Discard(u64, u64),
    /// Write zeroes.
    Zeroes {
        /// Where.
        at: u64,
        /// How many.
        len: u64,
        /// The space may be given back.
        unmap: bool,
        /// It is to be stable when it is answered.
        stable: bool,
    },
}

impl Request {
    /// Reads a description.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a request that was not offered; `EINVAL` for a range that no disk has.
    pub fn parse(b: &[u8; rt::ublk::DESCRIPTOR]) -> IoResult<Request> {
        let word = u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
        // The kernel leaves its place at what it pleases.
        if word as u8 == OP_FLUSH {
            return Ok(Request::Flush);
        }
        let sectors = u64::from(u32::from_ne_bytes([b[4], b[5], b[6], b[7]]));
        let at = u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]);
        let at = at.checked_mul(SECTOR).ok_or(Errno::INVAL)?;
        let len = sectors * SECTOR;
        at.checked_add(len).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::INVAL)?;
        let (flags, stable) = (word & !0xff, word & FLAG_FUA != 0);
        let short = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        match word as u8 {
            OP_READ => Ok(Request::Read(at, short)),
            OP_WRITE => Ok(Request::Write { at, len: short, stable }),
            OP_DISCARD => Ok(Request::Discard(at, len)),
            OP_WRITE_ZEROES => Ok(Request::Zeroes { at, len, unmap: flags & FLAG_NOUNMAP == 0, stable }),
            _ => Err(Errno::NOTSUP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desc(word: u32, sectors: u32, at: u64) -> [u8; 24] {
        let mut b = [0; 24];
        b[..4].copy_from_slice(&word.to_ne_bytes());
        b[4..8].copy_from_slice(&sectors.to_ne_bytes());
        b[8..16].copy_from_slice(&at.to_ne_bytes());
        b
    }

    #[test]
    fn requests_are_read() {
        let parse = |word, sectors, at| Request::parse(&desc(word, sectors, at));
        assert_eq!(parse(0, 8, 2), Ok(Request::Read(1024, 4096)));
        assert_eq!(parse(1, 1, 0), Ok(Request::Write { at: 0, len: 512, stable: false }));
        assert_eq!(parse(1 | 1 << 13, 1, 0), Ok(Request::Write { at: 0, len: 512, stable: true }));
        // Hints that come along change nothing.
        assert_eq!(parse(1 << 8 | 1 << 16, 1, 0), Ok(Request::Read(0, 512)));
        assert_eq!(parse(2, 0, u64::MAX), Ok(Request::Flush));
        assert_eq!(parse(3, u32::MAX, 1), Ok(Request::Discard(512, u64::from(u32::MAX) * 512)));
        let zeroes = |unmap, stable| Ok(Request::Zeroes { at: 512, len: 1024, unmap, stable });
        assert_eq!(parse(5, 2, 1), zeroes(true, false));
        assert_eq!(parse(5 | 1 << 15, 2, 1), zeroes(false, false));
        assert_eq!(parse(5 | 1 << 13, 2, 1), zeroes(true, true));
        assert_eq!(parse(4, 1, 0), Err(Errno::NOTSUP));
        assert_eq!(parse(18, 1, 0), Err(Errno::NOTSUP));
        assert_eq!(parse(0, 1, u64::MAX), Err(Errno::INVAL));
        assert_eq!(parse(0, 2, i64::MAX as u64 / 512), Err(Errno::INVAL));
    }

    #[test]
    fn devices_are_described() {
        let info = DevInfo { queues: 3, depth: 64, most: 256 << 10, number: 7 };
        let b = info.bytes();
        assert_eq!(DevInfo::parse(&b), info);
        assert_eq!((&b[4..8], &b[16..]), (&[0; 4][..], &[0; 48][..]));
    }

    #[test]
    fn parameters_are_laid_out() {
        let p = Params {
            len: 10_000,
            logical: 4096,
            physical: 65536,
            most: 262_144,
            writable: true,
            through: false,
            granularity: 65536,
            most_zeroes: 1 << 31,
        };
        let b = p.bytes();
        let u32_at = |b: &[u8], at: usize| u32::from_ne_bytes(b[at..at + 4].try_into().unwrap());
        assert_eq!((u32_at(&b, 0), u32_at(&b, 4), u32_at(&b, 8)), (60, 3, 0b1100));
        assert_eq!(b[12..16], [12, 16, 16, 16]);
        assert_eq!(u32_at(&b, 16), 512);
        assert_eq!(b[24..32], 16u64.to_ne_bytes(), "two whole blocks");
        assert_eq!((u32_at(&b, 40), u32_at(&b, 44)), (0, 65536));
        assert_eq!((u32_at(&b, 48), u32_at(&b, 52)), (1 << 22, 1 << 22));
        assert_eq!((&b[56..58], &b[58..]), (&1u16.to_ne_bytes()[..], &[0; 2][..]));
        let b = Params { writable: false, through: true, ..p }.bytes();
        assert_eq!((u32_at(&b, 4), u32_at(&b, 8)), (1, 1));
    }
}
