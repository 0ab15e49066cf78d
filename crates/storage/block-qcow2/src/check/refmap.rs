//! Counts of references to clusters, whose memory an image's claims do not decide: a byte for each cluster of the file, and what
//! does not fit there apart.

use std::collections::{BTreeMap, HashMap};

const CHUNK: u64 = 32;
/// Clusters that have a byte: 4 TiB of an image with clusters of 64 KiB. Memory is taken for those that are referred to.
const DENSE: u64 = 64 << 20;
/// The bits of such a byte that count; this number stands for one that is kept apart.
const COUNT: u8 = 0x3f;
/// A reference that says that it is the only one.
const ALONE: u8 = 0x40;
/// A reference that says that there are others.
const SHARED: u8 = 0x80;
/// Bytes that are looked at together.
const ROW: usize = 64;

/// How often each cluster is referred to.
#[derive(Default)]
pub struct RefMap {
    /// The first clusters.
    dense: Vec<u8>,
    /// Counts that are too large for a byte.
    large: HashMap<u64, u32>,
    /// The other clusters.
    sparse: BTreeMap<u64, Box<[u32; CHUNK as usize]>>,
    /// Something was said about a cluster that has no byte to note it.
    vague: bool,
}

impl RefMap {
    /// Nothing is referred to; the file has so many clusters.
    pub fn new(clusters: u64) -> RefMap {
        RefMap { dense: vec![0; clusters.min(DENSE) as usize], ..RefMap::default() }
    }

    fn dense(&mut self, cluster: u64) -> Option<&mut u8> {
        usize::try_from(cluster).ok().and_then(|c| self.dense.get_mut(c))
    }

    /// One more reference; answers the new count.
    pub fn add(&mut self, cluster: u64) -> u32 {
        let n = match self.dense(cluster) {
            Some(b) if *b & COUNT < COUNT - 1 => {
                *b += 1;
                return u32::from(*b & COUNT);
            }
            Some(b) => {
                *b |= COUNT;
                self.large.entry(cluster).or_insert(u32::from(COUNT) - 1)
            }
            None => {
                let new = || Box::new([0; CHUNK as usize]);
                &mut self.sparse.entry(cluster / CHUNK).or_insert_with(new)[(cluster % CHUNK) as usize]
            }
        };
        *n = n.saturating_add(1);
        *n
    }

    /// The count of a cluster.
    pub fn get(&self, cluster: u64) -> u32 {
        match usize::try_from(cluster).ok().and_then(|c| self.dense.get(c)) {
            Some(b) if *b & COUNT < COUNT => u32::from(b & COUNT),
            Some(_) => self.large.get(&cluster).copied().unwrap_or(0),
            None => self.sparse.get(&(cluster / CHUNK)).map_or(0, |c| c[(cluster % CHUNK) as usize]),
        }
    }

    /// Notes what a reference says: that it is the only one, or that there are others.
    pub fn said(&mut self, cluster: u64, alone: bool) {
        match self.dense(cluster) {
            Some(b) => *b |= if alone { ALONE } else { SHARED },
            None => self.vague = true,
        }
    }

    /// Whether all that was [said](RefMap::said) is true of the counts. `false` also where that is not known.
    pub fn said_right(&self) -> bool {
        let wrong = |b: &u8| if b & COUNT == 1 { b & SHARED != 0 } else { b & ALONE != 0 };
        !self.vague && !self.dense.iter().any(wrong)
    }

    /// The first cluster at or after `from` that is referred to.
    pub fn next(&self, from: u64) -> Option<u64> {
        let start = self.dense.len().min(usize::try_from(from).unwrap_or(usize::MAX));
        // Rows of nothing are left behind at once.
        let rest = &self.dense[start..];
        let empty = |row: &[u8]| row.iter().fold(0, |a, b| a | b) & COUNT == 0;
        let skip = rest.chunks(ROW).take_while(|r| empty(r)).count() * ROW;
        if let Some(i) = rest.iter().skip(skip).position(|b| b & COUNT > 0) {
            return Some((start + skip + i) as u64);
        }
        self.sparse.range(from / CHUNK..).find_map(|(chunk, counts)| {
            (0..CHUNK)
                .map(|i| (chunk * CHUNK + i, counts[i as usize]))
                .find(|(c, n)| *c >= from && *n > 0)
                .map(|e| e.0)
        })
    }

    /// One past the highest cluster that is referred to.
    pub fn end(&self) -> u64 {
        let sparse = self.sparse.iter().rev().find_map(|(chunk, counts)| {
            counts.iter().rposition(|n| *n > 0).map(|i| chunk * CHUNK + i as u64 + 1)
        });
        sparse.unwrap_or_else(|| self.dense.iter().rposition(|b| b & COUNT > 0).map_or(0, |i| i as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_walks() {
        for dense in [0, 3, 6, 41, 1000] {
            let mut m = RefMap::new(dense);
            assert_eq!((m.end(), m.next(0)), (0, None));
            for c in [5, 5, 40] {
                m.add(c);
            }
            assert_eq!(m.end(), 41);
            m.add(1 << 50);
            assert_eq!((m.get(5), m.get(6), m.get(40)), (2, 0, 1));
            assert_eq!(m.next(0), Some(5));
            assert_eq!(m.next(5), Some(5));
            assert_eq!(m.next(6), Some(40));
            assert_eq!(m.next(41), Some(1 << 50));
            assert_eq!(m.end(), (1 << 50) + 1);
            for n in 3..=200 {
                assert_eq!((m.add(5), m.get(5)), (n, n));
            }
            assert_eq!((m.get(4), m.get(6), m.next(0)), (0, 0, Some(5)));
        }
    }

    #[test]
    fn what_references_say_is_held_against_their_number() {
        let mut m = RefMap::new(300);
        m.add(200);
        m.said(200, true);
        assert!(m.said_right());
        m.add(200);
        assert!(!m.said_right());
        let mut m = RefMap::new(300);
        for _ in 0..100 {
            m.add(7);
            m.said(7, false);
        }
        assert!(m.said_right());
        // Nobody refers to what is said to be in use.
        m.said(8, false);
        assert!(m.said_right());
        m.said(8, true);
        assert!(!m.said_right());
        let mut m = RefMap::new(3);
        m.add(3);
        m.said(3, true);
        assert!(!m.said_right(), "nobody knows");
    }
}
