//! The bits themselves.

/// The most bits of one bitmap: 1 GiB of memory.
pub const MAX_BITS: u64 = 1 << 33;

/// Bits for a range of bytes. Bits behind the end are always 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    size: u64,
    shift: u32,
    words: Vec<u64>,
    count: u64,
}

impl Bits {
    /// Clean bits over `size` bytes, one for each `1 << shift` bytes; `None` where those are too many.
    pub fn new(size: u64, shift: u32) -> Option<Bits> {
        let mut b = Bits::empty(shift);
        let bits = size.div_ceil(1 << shift);
        if bits > MAX_BITS {
            return None;
        }
        b.size = size;
        b.words = vec![0; bits.div_ceil(64) as usize];
        Some(b)
    }

    /// Bits over nothing.
    pub fn empty(shift: u32) -> Bits {
        Bits { size: 0, shift, words: Vec::new(), count: 0 }
    }

    /// Clean bits over the same range.
    pub fn clean_copy(&self) -> Bits {
        Bits { words: vec![0; self.words.len()], count: 0, ..*self }
    }

    /// Bytes that they cover.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many bits are set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many bits there are.
    pub fn len(&self) -> u64 {
        self.size.div_ceil(1 << self.shift)
    }

    /// Whether there is no bit.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Covers `size` bytes from now on. What would be too much to keep is not covered.
    pub fn resize(&mut self, size: u64) {
        self.size = size.min(MAX_BITS << self.shift);
        self.words.resize(self.len().div_ceil(64) as usize, 0);
        let rest = self.len() % 64;
        if rest != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << rest) - 1;
        }
        self.count = self.words.iter().map(|w| u64::from(w.count_ones())).sum();
    }

    /// The bit for the byte at `off`; false behind the end.
    pub fn get(&self, off: u64) -> bool {
        let i = off >> self.shift;
        off < self.size && self.words[(i / 64) as usize] >> (i % 64) & 1 != 0
    }

    /// Sets all bits that a range of bytes touches.
    pub fn set(&mut self, off: u64, len: u64) {
        let end = off.saturating_add(len).min(self.size);
        if off < end {
            self.change(off >> self.shift, end.div_ceil(1 << self.shift), |w, m| w | m);
        }
    }

    /// Clears all bits that lie wholly within a range of bytes; the last may end behind the end of all.
    pub fn reset(&mut self, off: u64, len: u64) {
        let end = off.saturating_add(len);
        let to = if end >= self.size { self.len() } else { end >> self.shift };
        let from = off.div_ceil(1 << self.shift);
        if from < to {
            self.change(from, to, |w, m| w & !m);
        }
    }

    fn change(&mut self, from: u64, to: u64, f: impl Fn(u64, u64) -> u64) {
        let mut i = from;
        while i < to {
            let word = &mut self.words[(i / 64) as usize];
            let low = i % 64;
            let n = (64 - low).min(to - i);
            let mask = if n == 64 { u64::MAX } else { ((1 << n) - 1) << low };
            let new = f(*word, mask);
            self.count = self.count + u64::from(new.count_ones()) - u64::from(word.count_ones());
            *word = new;
            i += n;
        }
    }

    /// The next bit from `i` on and before `end` that is (or is not) set; `end` where there is none.
    fn next(&self, i: u64, end: u64, set: bool) -> u64 {
        let end = end.min(self.len());
        let mut at = i;
        while at < end {
            let w = self.words[(at / 64) as usize];
            let w = (if set { w } else { !w }) >> (at % 64);
            if w != 0 {
                return (at + u64::from(w.trailing_zeros())).min(end);
            }
            at = (at / 64 + 1) * 64;
        }
        end
    }

    /// The first run of set bits at or behind byte `off` and before `end`: (offset, length) in bytes within both. Takes no
    /// more time than the bits between them need.
    pub fn next_dirty(&self, off: u64, end: u64) -> Option<(u64, u64)> {
        self.next_run(off, end, u64::MAX)
    }

    /// The same, of a run of at most about `most` bytes, which are not 0.
    pub fn next_run(&self, off: u64, end: u64, most: u64) -> Option<(u64, u64)> {
        let end = end.min(self.size);
        let bits = |bytes: u64| bytes.div_ceil(1 << self.shift);
        let from = self.next(off >> self.shift, bits(end), true);
        let start = (from << self.shift).max(off);
        if start >= end {
            return None;
        }
        let end = end.min(start.saturating_add(most));
        let stop = (self.next(from, bits(end), false) << self.shift).min(end);
        Some((start, stop - start))
    }

    /// Sets all that is set in `other`, whose bits may stand for more or fewer bytes.
    pub fn merge(&mut self, other: &Bits) {
        if other.shift == self.shift {
            for (w, o) in self.words.iter_mut().zip(&other.words) {
                *w |= o;
            }
            // Where the other was longer, its last word may go on behind our end.
            self.resize(self.size);
            return;
        }
        let mut at = 0;
        while let Some((off, len)) = other.next_dirty(at, u64::MAX) {
            self.set(off, len);
            at = off + len;
        }
    }

    /// The bits as bytes, the lowest bit of a byte first; `first..first + n` of them, zeroes behind the end.
    pub fn bytes(&self, first: u64, n: usize) -> Vec<u8> {
        let byte = |i: u64| self.words.get((i / 8) as usize).map_or(0, |w| w.to_le_bytes()[(i % 8) as usize]);
        (first..first + n as u64).map(byte).collect()
    }

    /// All words as bytes: what a checksum is made of.
    pub fn word_bytes(&self) -> impl Iterator<Item = [u8; 8]> + '_ {
        self.words.iter().map(|w| w.to_le_bytes())
    }

    /// Sets bits from bytes as [`Bits::bytes`] gives them, from byte `first` on. Bits behind the end are ignored.
    pub fn load(&mut self, first: u64, bytes: &[u8]) {
        for (i, b) in bytes.iter().enumerate() {
            let at = first + i as u64;
            if let Some(w) = self.words.get_mut((at / 8) as usize) {
                *w |= u64::from(*b) << (at % 8 * 8);
            }
        }
        self.resize(self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flat(b: &Bits) -> Vec<bool> {
        (0..b.len()).map(|i| b.get(i << b.shift)).collect()
    }

    proptest! {
        #[test]
        fn like_a_list_of_flags(
            size in 1u64..300_000,
            ops in proptest::collection::vec((0u8..4, 0u64..330_000, 0u64..100_000), 1..40),
            windows in proptest::collection::vec((0u64..330_000, 0u64..330_000), 8),
        ) {
            let mut b = Bits::new(size, 9).unwrap();
            let mut want = vec![false; size.div_ceil(512) as usize];
            let mut size = size;
            for (op, off, len) in ops {
                match op {
                    0 | 1 => {
                        b.set(off, len);
                        for (i, w) in want.iter_mut().enumerate() {
                            let (from, to) = (i as u64 * 512, (i as u64 * 512 + 512).min(size));
                            *w |= from < off + len && off < to;
                        }
                    }
                    2 => {
                        b.reset(off, len);
                        for (i, w) in want.iter_mut().enumerate() {
                            let (from, to) = (i as u64 * 512, (i as u64 * 512 + 512).min(size));
                            *w &= !(off <= from && to <= off + len);
                        }
                    }
                    _ => {
                        size = off.max(1);
                        b.resize(size);
                        want.resize(size.div_ceil(512) as usize, false);
                    }
                }
                prop_assert_eq!(&flat(&b), &want);
                prop_assert_eq!(b.count(), want.iter().filter(|w| **w).count() as u64);
            }
            // Runs cover exactly what is set.
            let mut seen = vec![false; want.len()];
            let mut at = 0;
            while let Some((off, len)) = b.next_dirty(at, u64::MAX) {
                prop_assert!(len > 0 && off >= at && off + len <= size);
                seen[(off / 512) as usize..(off + len).div_ceil(512) as usize].fill(true);
                at = off + len;
            }
            prop_assert_eq!(seen, &want[..]);
            for (from, to) in windows {
                let found = b.next_dirty(from, to);
                let end = to.min(size);
                let start = (from..end).find(|at| want[(at / 512) as usize]);
                prop_assert_eq!(found.map(|f| f.0), start);
                if let Some((at, n)) = found {
                    let stop = (at..end).find(|at| !want[(at / 512) as usize]).unwrap_or(end);
                    prop_assert_eq!(at + n, stop);
                    prop_assert_eq!(b.next_run(from, to, 700), Some((at, n.min(700))));
                }
            }
            let mut copy = Bits::new(size, 9).unwrap();
            copy.load(0, &b.bytes(0, b.len().div_ceil(8) as usize));
            prop_assert_eq!(&copy, &b);
            // Merging into a coarser and into a finer one.
            for shift in [8, 9, 12] {
                let mut c = Bits::new(size, shift).unwrap();
                c.merge(&b);
                for off in (0..size).step_by(256) {
                    prop_assert!(c.get(off) || !b.get(off));
                }
                prop_assert!(c.count() << shift <= b.count() << shift.max(9));
            }
        }
    }

    #[test]
    fn too_many_are_refused() {
        assert!(Bits::new(u64::MAX, 9).is_none());
        assert!(Bits::new(1 << 50, 20).is_some());
    }
}
