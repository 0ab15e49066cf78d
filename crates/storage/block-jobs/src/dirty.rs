//! Which parts of a node are still to be copied.

use parking_lot::Mutex;

/// One bit for each piece of a node.
pub(crate) struct Dirty {
    granularity: u64,
    len: u64,
    bits: Mutex<Bits>,
}

struct Bits {
    words: Vec<u64>,
    count: u64,
}

impl Dirty {
    /// Everything clean. `granularity` is a power of two.
    pub(crate) fn new(len: u64, granularity: u64) -> Dirty {
        let words = vec![0; len.div_ceil(granularity).div_ceil(64) as usize];
        Dirty { granularity, len, bits: Mutex::new(Bits { words, count: 0 }) }
    }

    /// The node's length, bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The whole pieces that a range touches, in bytes.
    pub(crate) fn around(&self, off: u64, len: u64) -> (u64, u64) {
        let lo = off - off % self.granularity;
        (lo, (off + len).div_ceil(self.granularity).saturating_mul(self.granularity))
    }

    fn pieces(&self, off: u64, len: u64) -> std::ops::Range<u64> {
        let end = (off + len).min(self.len);
        if off >= end { 0..0 } else { off / self.granularity..end.div_ceil(self.granularity) }
    }

    /// Marks all pieces that the range touches.
    pub(crate) fn set(&self, off: u64, len: u64) {
        let mut b = self.bits.lock();
        for i in self.pieces(off, len) {
            let (w, m) = ((i / 64) as usize, 1 << (i % 64));
            b.count += u64::from(b.words[w] & m == 0);
            b.words[w] |= m;
        }
    }

    /// Unmarks the pieces of a range, which must be whole ones.
    fn unmark(&self, b: &mut Bits, off: u64, len: u64) {
        for i in self.pieces(off, len) {
            let (w, m) = ((i / 64) as usize, 1 << (i % 64));
            b.count -= u64::from(b.words[w] & m != 0);
            b.words[w] &= !m;
        }
    }

    /// Whether nothing is to be copied.
    pub(crate) fn is_clean(&self) -> bool {
        self.bits.lock().count == 0
    }

    /// How many bytes are to be copied, in whole pieces but for the last.
    pub(crate) fn bytes(&self) -> u64 {
        let b = self.bits.lock();
        (b.count * self.granularity).min(self.len)
    }

    /// Unmarks the next run of marked pieces at or after `from` (or, where there is none, from the beginning): offset
    /// and length in bytes, `max` (at least one piece) at most.
    pub(crate) fn take(&self, from: u64, max: u64) -> Option<(u64, u64)> {
        let mut b = self.bits.lock();
        let (off, len) = self.next(&b, from, max)?;
        self.unmark(&mut b, off, len);
        Some((off, len))
    }

    fn next(&self, b: &Bits, from: u64, max: u64) -> Option<(u64, u64)> {
        if b.count == 0 {
            return None;
        }
        let n = self.len.div_ceil(self.granularity);
        let marked = |i: u64| b.words[(i / 64) as usize] & (1 << (i % 64)) != 0;
        let start = from / self.granularity;
        let first = Self::find(&b.words, start, n).or_else(|| Self::find(&b.words, 0, start.min(n)))?;
        let most = (max / self.granularity).max(1);
        let mut end = first + 1;
        while end < n && end - first < most && marked(end) {
            end += 1;
        }
        let off = first * self.granularity;
        Some((off, (end * self.granularity).min(self.len) - off))
    }

    fn find(words: &[u64], from: u64, to: u64) -> Option<u64> {
        let mut i = from;
        while i < to {
            let rest = words[(i / 64) as usize] >> (i % 64);
            if rest == 0 {
                i = (i / 64 + 1) * 64;
                continue;
            }
            i += u64::from(rest.trailing_zeros());
            return (i < to).then_some(i);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_and_counted() {
        let d = Dirty::new(1000 * 64 + 5, 64);
        assert!(d.is_clean() && d.take(0, 1 << 20).is_none());
        let mark = || {
            d.set(70, 1);
            d.set(64 * 500, 64 * 3);
            d.set(64 * 1000, 5);
        };
        mark();
        assert_eq!(d.bytes(), 5 * 64);
        assert_eq!(d.take(0, 1 << 20), Some((64, 64)));
        assert_eq!(d.take(128, 128), Some((64 * 500, 128)));
        assert_eq!(d.take(64 * 502, 1 << 20), Some((64 * 502, 64)));
        mark();
        assert_eq!(d.take(64 * 503, 1 << 20), Some((64_000, 5)));
        assert_eq!(d.take(64 * 503, 1 << 20), Some((64, 64)));
        assert_eq!(d.bytes(), 3 * 64);
        assert_eq!(d.take(128, 1 << 20), Some((64 * 500, 192)));
        assert!(d.is_clean());
        assert_eq!(d.around(65, 64), (64, 192));
    }
}
