//! The format of a log of writes, as the kernel's target `log-writes` of the device mapper has it
//! (Documentation/admin-guide/device-mapper/log-writes.rst), and walking through one.
//!
//! The log is made of sectors of one size. Sector 0 is the superblock; from sector 1 on each entry is one sector, followed by
//! the data of the write. All numbers are little-endian.

use qapi::{QError, qerr};

/// The length of a superblock, bytes.
pub(crate) const SUPER_LEN: usize = 28;
/// The length of an entry without its data, bytes.
pub(crate) const ENTRY_LEN: usize = 32;
/// The smallest and the greatest sector, bytes.
const SECTORS: std::ops::RangeInclusive<u32> = 32..=8 << 20;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

/// All that was written before is stable.
pub(crate) const FLUSH: u64 = 1;
/// What was written is discarded; there is no data.
pub(crate) const DISCARD: u64 = 4;
/// The flags that there are: those above, the write is stable itself (2), a mark (8), metadata (16).
const KNOWN: u64 = 0x1f;

/// What a log begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Super {
    /// How many entries there are.
    pub(crate) entries: u64,
    /// The length of a sector, bytes.
    pub(crate) sector: u32,
}

impl Super {
    pub(crate) fn encode(self) -> [u8; SUPER_LEN] {
        let mut b = [0; SUPER_LEN];
        b[..8].copy_from_slice(&MAGIC.to_le_bytes());
        b[8..16].copy_from_slice(&VERSION.to_le_bytes());
        b[16..24].copy_from_slice(&self.entries.to_le_bytes());
        b[24..].copy_from_slice(&self.sector.to_le_bytes());
        b
    }

    pub(crate) fn decode(b: &[u8; SUPER_LEN]) -> Result<Super, QError> {
        if number(b, 0) != MAGIC {
            return Err(qerr!("Invalid log superblock magic"));
        }
        let version = number(b, 8);
        if version != VERSION {
            return Err(qerr!("Unsupported log version {version}"));
        }
        let sector = u32::from_le_bytes([b[24], b[25], b[26], b[27]]);
        check_sector(sector)?;
        Ok(Super { entries: number(b, 16), sector })
    }
}

/// Whether a log may have such sectors.
pub(crate) fn check_sector(sector: u32) -> Result<(), QError> {
    if sector.is_power_of_two() && SECTORS.contains(&sector) {
        Ok(())
    } else {
        Err(qerr!("Invalid log sector size {sector}"))
    }
}

/// One write, discard or flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where it is, in the log's sectors.
    pub(crate) first: u64,
    /// How long it is, in the log's sectors.
    pub(crate) count: u64,
    /// What it is.
    pub(crate) flags: u64,
    /// The length of a mark's data, bytes.
    pub(crate) data_len: u64,
}

impl Entry {
    pub(crate) fn encode(self) -> [u8; ENTRY_LEN] {
        let mut b = [0; ENTRY_LEN];
        for (i, n) in [self.first, self.count, self.flags, self.data_len].into_iter().enumerate() {
            b[i * 8..i * 8 + 8].copy_from_slice(&n.to_le_bytes());
        }
        b
    }

    /// Entry number `n` of a log.
    pub(crate) fn decode(b: &[u8; ENTRY_LEN], n: u64) -> Result<Entry, QError> {
        let e =
            Entry { first: number(b, 0), count: number(b, 8), flags: number(b, 16), data_len: number(b, 24) };
        if e.flags & !KNOWN != 0 {
            return Err(qerr!("Invalid flags 0x{:x} in log entry {n}", e.flags));
        }
        if e.flags == 0 && e.count == 0 {
            return Err(qerr!("Log entry {n} is empty"));
        }
        Ok(e)
    }

    /// How much of the log it takes, its data included, bytes; `None` if no log is so long.
    pub(crate) fn len(&self, sector: u32) -> Option<u64> {
        let data = if self.flags & DISCARD != 0 { 0 } else { self.count.checked_mul(sector.into())? };
        let mark = self.data_len.checked_next_multiple_of(sector.into())?;
        data.checked_add(mark)?.checked_add(sector.into())
    }
}

fn number(b: &[u8], at: usize) -> u64 {
    let mut n = [0; 8];
    n.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock() {
        let s = Super { entries: 7, sector: 4096 };
        let b = s.encode();
        assert_eq!(b[..9], [0x72, 0x68, 0x73, 0x77, 0x66, 0x73, 0x6a, 0, 1]);
        assert_eq!(Super::decode(&b).unwrap(), s);
        let broken = |at: usize, v: u8| {
            let mut b = b;
            b[at] = v;
            Super::decode(&b).unwrap_err().desc().to_owned()
        };
        assert_eq!(broken(0, 1), "Invalid log superblock magic");
        assert_eq!(broken(8, 2), "Unsupported log version 2");
        assert_eq!(broken(24, 1), "Invalid log sector size 4097");
        for bad in [0, 1, 16, 1000, 16 << 20] {
            assert_eq!(check_sector(bad).unwrap_err().desc(), format!("Invalid log sector size {bad}"));
        }
        assert!(check_sector(256).is_ok() && check_sector(8 << 20).is_ok());
    }

    #[test]
    fn an_entry() {
        let e = Entry { first: 1 << 40, count: 8, flags: 0, data_len: 0 };
        assert_eq!(Entry::decode(&e.encode(), 0).unwrap(), e);
        assert_eq!(e.len(512), Some(4608));
        assert_eq!(Entry { flags: DISCARD, ..e }.len(512), Some(512));
        assert_eq!(Entry { count: 0, flags: 8, data_len: 3, ..e }.len(512), Some(1024));
        assert_eq!(Entry { count: u64::MAX / 4, ..e }.len(512), None);
        assert_eq!(Entry { data_len: u64::MAX, ..e }.len(512), None);
        let odd = Entry { flags: 256, ..e };
        let bad = Entry::decode(&odd.encode(), 3).unwrap_err();
        assert_eq!(bad.desc(), "Invalid flags 0x100 in log entry 3");
        assert!(Entry::decode(&[0; ENTRY_LEN], 0).is_err(), "nothing was ever written there");
    }
}
