//! The arithmetic of clusters, L1 and L2 tables and refcounts of one image: pure and fixed once it is open.

use crate::spec;

/// Sizes that follow from `cluster_bits` and `refcount_order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// log2 of the cluster size; 9 to 21.
    pub cluster_bits: u32,
    /// log2 of the refcount width in bits; 0 to 6.
    pub refcount_order: u32,
    /// L2 entries have a second half that says which 32nds of the cluster are there.
    pub extended: bool,
    /// Guest data stands in another file, each byte at its guest offset.
    pub data_file: bool,
}

/// An L2 entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What every entry has.
    pub word: u64,
    /// The second half of an extended one: bit n, subcluster n is in the host cluster; bit 32 + n, it reads as zeros.
    pub bits: u64,
}

/// Subclusters of a cluster with extended L2 entries.
pub const SUBCLUSTERS: u64 = 32;

/// What one subcluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sub {
    /// In the host cluster.
    Here,
    /// Reads as zeros.
    Zero,
    /// Shows what is below.
    Below,
}

impl Entry {
    /// What subcluster `n` is; `None` where the two halves contradict each other.
    pub fn subcluster(self, n: u64) -> Option<Sub> {
        match (self.bits >> n & 1, self.bits >> (32 + n) & 1) {
            (0, 0) => Some(Sub::Below),
            (1, 0) => Some(Sub::Here),
            (0, 1) => Some(Sub::Zero),
            _ => None,
        }
    }

    /// The same with these subclusters in the host cluster.
    pub fn with_here(self, mask: u32) -> Entry {
        let m = u64::from(mask);
        Entry { bits: (self.bits | m) & !(m << 32), ..self }
    }

    /// The same with these subclusters reading as zeros.
    pub fn with_zero(self, mask: u32) -> Entry {
        let m = u64::from(mask);
        Entry { bits: (self.bits | m << 32) & !m, ..self }
    }
}

/// Second half: every subcluster reads as zeros.
pub const ALL_ZERO: u64 = 0xffff_ffff << 32;
/// Second half: every subcluster is in the host cluster.
pub const ALL_HERE: u64 = 0xffff_ffff;

/// What an L2 entry says about its guest cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Nothing here: the backing file's bytes, or zeros.
    Unallocated,
    /// Reads as zeros and has no host cluster.
    ZeroPlain,
    /// Reads as zeros; the host cluster at this offset is reserved for it.
    ZeroAlloc(u64),
    /// The host cluster at this offset.
    Normal(u64),
    /// Compressed data: host offset (any byte) and the number of bytes up to the last 512-byte sector's end.
    Compressed(u64, u64),
}

impl Geometry {
    /// Bytes in a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// `off` rounded down to its cluster's start.
    pub fn cluster_start(&self, off: u64) -> u64 {
        off & !(self.cluster_size() - 1)
    }

    /// Offset within the cluster.
    pub fn in_cluster(&self, off: u64) -> u64 {
        off & (self.cluster_size() - 1)
    }

    /// Clusters that `bytes` fill, rounded up.
    pub fn clusters(&self, bytes: u64) -> u64 {
        (bytes >> self.cluster_bits) + u64::from(self.in_cluster(bytes) != 0)
    }

    /// Words of eight bytes in one L2 entry.
    pub fn entry_words(&self) -> u64 {
        if self.extended { 2 } else { 1 }
    }

    /// Entries in one L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.cluster_size() / 8 / self.entry_words()
    }

    /// The smallest piece that a table can say something about, bytes.
    pub fn unit(&self) -> u64 {
        if self.extended { self.cluster_size() / SUBCLUSTERS } else { self.cluster_size() }
    }

    /// `off` rounded down to its unit's start.
    pub fn unit_start(&self, off: u64) -> u64 {
        off & !(self.unit() - 1)
    }

    /// `off` rounded up to a unit's start.
    pub fn unit_end(&self, off: u64) -> u64 {
        self.unit_start(off.saturating_add(self.unit() - 1))
    }

    /// The subclusters of the cluster at `start` that a range of bytes touches, as a mask.
    pub fn subs(&self, start: u64, from: u64, to: u64) -> u32 {
        let unit = self.unit();
        let first = from.saturating_sub(start) / unit;
        let end = to.saturating_sub(start).div_ceil(unit).min(SUBCLUSTERS);
        if first >= end {
            return 0;
        }
        (((1u64 << end) - 1) & !((1u64 << first) - 1)) as u32
    }

    /// The entries in the words of an L2 table, or a piece of it.
    pub fn entries<'a>(&self, words: &'a [u64]) -> impl Iterator<Item = Entry> + 'a {
        let bits = self.extended;
        words
            .chunks_exact(self.entry_words() as usize)
            .map(move |c| Entry { word: c[0], bits: if bits { c[1] } else { 0 } })
    }

    /// Guest bytes that one L2 table maps.
    pub fn l2_coverage(&self) -> u64 {
        self.cluster_size() * self.l2_entries()
    }

    /// log2 of [`Geometry::l2_coverage`].
    fn l2_coverage_bits(&self) -> u32 {
        2 * self.cluster_bits - if self.extended { 4 } else { 3 }
    }

    /// Index into the L1 table for a guest offset.
    pub fn l1_index(&self, off: u64) -> u64 {
        off >> self.l2_coverage_bits()
    }

    /// Index into the L2 table for a guest offset.
    pub fn l2_index(&self, off: u64) -> u64 {
        (off >> self.cluster_bits) & (self.l2_entries() - 1)
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub fn l1_entries_for(&self, size: u64) -> u64 {
        let shift = self.l2_coverage_bits();
        (size >> shift) + u64::from(size & ((1 << shift) - 1) != 0)
    }

    /// Bits in one refcount.
    pub fn refcount_bits(&self) -> u32 {
        1 << self.refcount_order
    }

    /// The largest refcount.
    pub fn refcount_max(&self) -> u64 {
        if self.refcount_order == 6 { u64::MAX } else { (1 << self.refcount_bits()) - 1 }
    }

    /// log2 of the refcounts in one refcount block.
    pub fn refblock_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.refcount_order
    }

    /// Refcounts in one refcount block (a cluster).
    pub fn refblock_entries(&self) -> u64 {
        1 << self.refblock_bits()
    }

    /// Position of a cluster's refcount: index in the refcount table, index in the block.
    pub fn refcount_position(&self, cluster: u64) -> (u64, usize) {
        (cluster >> self.refblock_bits(), (cluster & (self.refblock_entries() - 1)) as usize)
    }

    /// Reads refcount number `index` of a block's bytes. Entries narrower than a byte fill it from the low bits.
    pub fn refcount_get(&self, block: &[u8], index: usize) -> u64 {
        match self.refcount_order {
            o @ 0..=2 => {
                let bit = index << o;
                let mask = (1u8 << (1 << o)).wrapping_sub(1);
                u64::from((block[bit / 8] >> (bit % 8)) & mask)
            }
            o => {
                let n = 1usize << (o - 3);
                block[index * n..(index + 1) * n].iter().fold(0, |v, b| v << 8 | u64::from(*b))
            }
        }
    }

    /// Sets refcount number `index` of a block's bytes; `value` is at most [`Geometry::refcount_max`].
    pub fn refcount_set(&self, block: &mut [u8], index: usize, value: u64) {
        debug_assert!(value <= self.refcount_max());
        match self.refcount_order {
            o @ 0..=2 => {
                let bit = index << o;
                let mask = (1u8 << (1 << o)).wrapping_sub(1) << (bit % 8);
                block[bit / 8] = (block[bit / 8] & !mask) | (((value as u8) << (bit % 8)) & mask);
            }
            o => {
                let n = 1usize << (o - 3);
                block[index * n..(index + 1) * n].copy_from_slice(&value.to_be_bytes()[8 - n..]);
            }
        }
    }

    /// Bits of the host offset in the entry of a compressed cluster; above them stands the number of sectors.
    pub fn compressed_shift(&self) -> u32 {
        62 - (self.cluster_bits - 8)
    }

    /// Decodes an L2 entry. Version 2 has no zero clusters: its bit 0 is reserved. Of an extended entry it says what the
    /// whole cluster is, as far as that is one thing; [`Mapping::Normal`] otherwise, where it has a host cluster.
    pub fn mapping(&self, entry: Entry) -> Mapping {
        let word = entry.word;
        if word & spec::COMPRESSED != 0 {
            let x = self.compressed_shift();
            let offset = word & ((1 << x) - 1);
            let sectors = ((word & !(spec::COPIED | spec::COMPRESSED)) >> x) + 1;
            return Mapping::Compressed(offset, sectors * 512 - (offset & 511));
        }
        let offset = word & spec::OFFSET_MASK;
        // In a data file, 0 is as good a place as others.
        let placed = offset != 0 || (self.data_file && word & spec::COPIED != 0);
        let zero = if self.extended { entry.bits == ALL_ZERO } else { word & spec::ZERO != 0 };
        match (zero, placed) {
            (true, false) => Mapping::ZeroPlain,
            (true, true) => Mapping::ZeroAlloc(offset),
            (false, false) => Mapping::Unallocated,
            (false, true) => Mapping::Normal(offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn refcounts_of_every_width_keep_their_neighbours(order in 0u32..=6, index in 0usize..64, v: u64, fill: u8) {
            let g = Geometry { cluster_bits: 9, refcount_order: order, extended: false, data_file: false };
            let v = v & g.refcount_max();
            let mut b = vec![fill; 512];
            let before: Vec<u64> = (0..64).map(|i| g.refcount_get(&b, i)).collect();
            g.refcount_set(&mut b, index, v);
            for (i, old) in before.iter().enumerate() {
                prop_assert_eq!(g.refcount_get(&b, i), if i == index { v } else { *old });
            }
        }

        #[test]
        fn any_entry_decodes(bits in 9u32..=21, word: u64) {
            let g = Geometry { cluster_bits: bits, refcount_order: 4, extended: false, data_file: false };
            match g.mapping(Entry { word, bits: 0 }) {
                Mapping::Compressed(o, n) => {
                    prop_assert!(n <= 2 * g.cluster_size() + 512);
                    prop_assert!(o.checked_add(n).is_some());
                }
                Mapping::Normal(o) | Mapping::ZeroAlloc(o) => prop_assert!(o != 0 && o < spec::MAX_FILE_OFFSET),
                _ => {}
            }
        }
    }

    #[test]
    fn the_specifications_numbers() {
        let g = Geometry { cluster_bits: 16, refcount_order: 4, extended: false, data_file: false };
        assert_eq!(g.l2_coverage(), 512 << 20);
        assert_eq!(g.l1_entries_for(1 << 30), 2);
        assert_eq!(g.l1_entries_for((1 << 30) + 1), 3);
        let x = Geometry { extended: true, ..g };
        assert_eq!((x.l2_coverage(), x.l1_index(x.l2_coverage())), (256 << 20, 1));
        assert_eq!(x.l1_entries_for(1 << 30), 4);
        assert_eq!(g.refblock_entries(), 32768);
        // A compressed cluster that starts 100 bytes into a sector and runs over two more sectors.
        let e = spec::COMPRESSED | 2 << 54 | 0x12345 << 9 | 100;
        let e = Entry { word: e, bits: 0 };
        assert_eq!(g.mapping(e), Mapping::Compressed(0x12345 << 9 | 100, 3 * 512 - 100));
    }
}
