use crate::spec::{MAX_CHAIN, desc};
use mem::{BusError, Dma, IoBuf};
use smallvec::SmallVec;
use std::fmt;

/// What a driver did wrong on a ring. The device that it happened to stops until it is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// The ring or a buffer is not in RAM.
    Bus(BusError),
    /// The ring's size is not possible.
    Size,
    /// The available index ran away.
    AvailIndex,
    /// A descriptor's number is not of the ring.
    DescIndex,
    /// A request has too many descriptors, or they form a loop.
    ChainLength,
    /// A request has 4 GiB or more.
    ChainBytes,
    /// A buffer to read stands behind one to write.
    Order,
    /// An indirect table where none may be, or of an impossible size.
    Indirect,
    /// More requests are made available than the ring has room for.
    InUse,
}

impl From<BusError> for RingError {
    fn from(e: BusError) -> RingError {
        RingError::Bus(e)
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingError::Bus(e) => write!(f, "{e}"),
            RingError::Size => f.write_str("the queue has an impossible size"),
            RingError::AvailIndex => f.write_str("the available index ran away"),
            RingError::DescIndex => f.write_str("a descriptor's number is outside the ring"),
            RingError::ChainLength => f.write_str("a request has too many descriptors, or a loop of them"),
            RingError::ChainBytes => f.write_str("a request has 4 GiB or more"),
            RingError::Order => f.write_str("a buffer to read stands behind one to write"),
            RingError::Indirect => f.write_str("an impossible indirect table"),
            RingError::InUse => f.write_str("more requests are available than the ring has room for"),
        }
    }
}

/// Names a request on its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// Split: the head descriptor's number. Packed: the buffer id.
    pub(crate) id: u16,
    /// How many descriptors of the ring it takes (packed).
    pub(crate) count: u16,
}

/// One buffer of a request, as the driver described it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Desc {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) write: bool,
}

/// A request that a driver made available: first what the device reads, then what it writes.
///
/// The memory is the guest's own; nothing is copied. It stays valid whatever becomes of the device.
#[derive(Clone, Debug)]
pub struct Chain {
    pub(crate) token: Token,
    pub(crate) descs: SmallVec<[Desc; 4]>,
    /// What the device reads.
    pub readable: IoBuf,
    /// What the device writes.
    pub writable: IoBuf,
}

/// Collects the buffers of a chain under all limits.
pub(crate) struct Builder<'a> {
    dma: &'a Dma,
    chain: Chain,
    bytes: u64,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(dma: &'a Dma) -> Builder<'a> {
        let chain = Chain {
            token: Token { id: 0, count: 0 },
            descs: SmallVec::new(),
            readable: IoBuf::new(),
            writable: IoBuf::new(),
        };
        Builder { dma, chain, bytes: 0 }
    }

    pub(crate) fn add(&mut self, d: Desc) -> Result<(), RingError> {
        if self.chain.descs.len() == MAX_CHAIN {
            return Err(RingError::ChainLength);
        }
        self.bytes += u64::from(d.len);
        if self.bytes > u64::from(u32::MAX) {
            return Err(RingError::ChainBytes);
        }
        let buf = self.dma.iobuf(d.addr, u64::from(d.len), d.write)?;
        if d.write {
            self.chain.writable.append(buf);
        } else {
            // Section 2.7.4.2: what the device writes stands behind all that it reads.
            if self.chain.descs.last().is_some_and(|l| l.write) {
                return Err(RingError::Order);
            }
            self.chain.readable.append(buf);
        }
        self.chain.descs.push(d);
        Ok(())
    }

    pub(crate) fn finish(mut self, token: Token) -> Chain {
        self.chain.token = token;
        self.chain
    }
}

/// A descriptor of a split ring or of any indirect table, raw. The packed layout differs in the last two fields.
#[derive(Clone, Copy)]
pub(crate) struct RawDesc {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    /// Split: the flags. Packed: the buffer id.
    pub(crate) w12: u16,
    /// Split: the next descriptor. Packed: the flags.
    pub(crate) w14: u16,
}

impl RawDesc {
    pub(crate) fn read(dma: &Dma, table: u64, n: u64) -> Result<RawDesc, RingError> {
        let mut b = [0; desc::SIZE as usize];
        dma.read(table.wrapping_add(n * desc::SIZE), &mut b)?;
        let half = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        Ok(RawDesc {
            addr: u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            len: u32::from_le_bytes([b[8], b[9], b[10], b[11]]),
            w12: half(12),
            w14: half(14),
        })
    }
}

/// How many descriptors an indirect table of `len` bytes holds.
pub(crate) fn table_entries(len: u32) -> Result<u64, RingError> {
    let n = u64::from(len) / desc::SIZE;
    if n == 0 || !u64::from(len).is_multiple_of(desc::SIZE) { Err(RingError::Indirect) } else { Ok(n) }
}
