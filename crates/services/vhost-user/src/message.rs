//! Messages: what a front end says, read without trust.

use crate::spec::*;

/// The length of a header, bytes.
pub const HEAD: usize = 12;

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What is asked.
    pub request: u32,
    /// `FLAG_*`, and the version.
    pub flags: u32,
    /// How many bytes of payload follow, at most [`MAX_PAYLOAD`].
    pub size: usize,
}

/// The peer broke the protocol: the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl Head {
    /// Reads a header.
    ///
    /// # Errors
    /// It is of another version, an answer, or tells of too long a payload.
    pub fn parse(b: &[u8; HEAD]) -> Result<Head, Broken> {
        let word = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let (request, flags, size) = (word(0), word(4), word(8) as usize);
        if flags & VERSION_MASK != VERSION {
            return Err(Broken("a message of another version"));
        }
        if flags & FLAG_REPLY != 0 {
            return Err(Broken("an answer to nothing"));
        }
        if size > MAX_PAYLOAD {
            return Err(Broken("a message that is too long"));
        }
        Ok(Head { request, flags, size })
    }
}

/// An answer, whole.
pub fn answer(request: u32, payload: &[u8]) -> Vec<u8> {
    let mut b = Vec::with_capacity(HEAD + payload.len());
    b.extend(request.to_le_bytes());
    b.extend((VERSION | FLAG_REPLY).to_le_bytes());
    b.extend((payload.len() as u32).to_le_bytes());
    b.extend_from_slice(payload);
    b
}

/// Takes numbers off a payload. Each is `None` where the payload is too short.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (a, b) = self.0.split_first_chunk::<N>()?;
        self.0 = b;
        Some(*a)
    }

    /// 32 bits.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// 64 bits.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// `v`, if the payload ends here.
    pub fn end<T>(self, v: T) -> Option<T> {
        self.0.is_empty().then_some(v)
    }
}

/// A 64-bit payload.
pub fn number(payload: &[u8]) -> Option<u64> {
    let mut r = Reader(payload);
    let v = r.u64()?;
    r.end(v)
}

/// A ring's number, and a value.
pub fn vring_state(payload: &[u8]) -> Option<(u32, u32)> {
    let mut r = Reader(payload);
    let v = (r.u32()?, r.u32()?);
    r.end(v)
}

/// Where a ring is, in the front end's own addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VringAddr {
    /// The ring's number.
    pub index: u32,
    /// The descriptor area.
    pub desc: u64,
    /// The device area.
    pub used: u64,
    /// The driver area.
    pub avail: u64,
}

/// Reads the payload of [`SET_VRING_ADDR`].
pub fn vring_addr(payload: &[u8]) -> Option<VringAddr> {
    let mut r = Reader(payload);
    let index = r.u32()?;
    let _flags = r.u32()?;
    let addr = VringAddr { index, desc: r.u64()?, used: r.u64()?, avail: r.u64()? };
    let _log = r.u64()?;
    r.end(addr)
}

/// A region of the machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where the machine has it.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// Where the front end has it.
    pub user: u64,
    /// Where it begins in the descriptor that comes along.
    pub offset: u64,
}

fn region(r: &mut Reader<'_>) -> Option<Region> {
    Some(Region { guest: r.u64()?, size: r.u64()?, user: r.u64()?, offset: r.u64()? })
}

/// Reads the payload of [`SET_MEM_TABLE`]: at most [`MAX_REGIONS`].
pub fn mem_table(payload: &[u8]) -> Option<Vec<Region>> {
    let mut r = Reader(payload);
    let n = r.u32()? as usize;
    let _padding = r.u32()?;
    if n > MAX_REGIONS {
        return None;
    }
    let list = (0..n).map(|_| region(&mut r)).collect::<Option<Vec<_>>>()?;
    // Front ends send room for all that there could be.
    Some(list)
}

/// Reads the payload of [`ADD_MEM_REG`] and [`REM_MEM_REG`].
pub fn mem_region(payload: &[u8]) -> Option<Region> {
    let mut r = Reader(payload);
    let _padding = r.u64()?;
    let v = region(&mut r)?;
    r.end(v)
}

/// A part of the configuration space: offset, flags, bytes.
pub fn config(payload: &[u8]) -> Option<(u32, u32, &[u8])> {
    let mut r = Reader(payload);
    let (offset, size, flags) = (r.u32()?, r.u32()?, r.u32()?);
    let bytes = r.rest();
    let fits = size as usize == bytes.len() && bytes.len() <= MAX_CONFIG && offset as usize <= MAX_CONFIG;
    fits.then_some((offset, flags, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rubbish_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(head) = bytes.first_chunk::<HEAD>()
                && let Ok(h) = Head::parse(head)
            {
                prop_assert!(h.size <= MAX_PAYLOAD);
            }
            _ = (number(&bytes), vring_state(&bytes), vring_addr(&bytes), mem_region(&bytes));
            if let Some(list) = mem_table(&bytes) {
                prop_assert!(list.len() <= MAX_REGIONS);
            }
            if let Some((_, _, b)) = config(&bytes) {
                prop_assert!(b.len() <= MAX_CONFIG && b.len() + 12 == bytes.len());
            }
        }
    }

    #[test]
    fn heads() {
        let head = |request: u32, flags: u32, size: u32| {
            let mut b = [0; HEAD];
            b[..4].copy_from_slice(&request.to_le_bytes());
            b[4..8].copy_from_slice(&flags.to_le_bytes());
            b[8..].copy_from_slice(&size.to_le_bytes());
            Head::parse(&b)
        };
        assert_eq!(head(5, 9, 8), Ok(Head { request: 5, flags: 9, size: 8 }));
        assert!(head(5, 2, 8).is_err() && head(5, 5, 8).is_err() && head(5, 1, 1 << 20).is_err());
        assert_eq!(answer(1, &[7]), [1, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 7]);
    }
}
