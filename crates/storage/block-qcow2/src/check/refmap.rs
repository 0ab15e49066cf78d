//! Counts of references to clusters: sparse, so that an image's claims do not decide how much memory it takes.

use std::collections::BTreeMap;

const CHUNK: u64 = 32;

/// How often each cluster is referred to.
#[derive(Default)]
pub struct RefMap(BTreeMap<u64, Box<[u32; CHUNK as usize]>>);

impl RefMap {
    /// Nothing is referred to.
    pub fn new() -> RefMap {
        RefMap::default()
    }

    /// One more reference; answers the new count.
    pub fn add(&mut self, cluster: u64) -> u32 {
        let n = &mut self.0.entry(cluster / CHUNK).or_insert_with(|| Box::new([0; CHUNK as usize]))
            [(cluster % CHUNK) as usize];
        *n = n.saturating_add(1);
        *n
    }

    /// The count of a cluster.
    pub fn get(&self, cluster: u64) -> u32 {
        self.0.get(&(cluster / CHUNK)).map_or(0, |c| c[(cluster % CHUNK) as usize])
    }

    /// The first cluster at or after `from` that is referred to.
    pub fn next(&self, from: u64) -> Option<u64> {
        self.0.range(from / CHUNK..).find_map(|(chunk, counts)| {
            (0..CHUNK)
                .map(|i| (chunk * CHUNK + i, counts[i as usize]))
                .find(|(c, n)| *c >= from && *n > 0)
                .map(|e| e.0)
        })
    }

    /// One past the highest cluster that is referred to.
    pub fn end(&self) -> u64 {
        self.0
            .iter()
            .rev()
            .find_map(|(chunk, counts)| {
                counts.iter().rposition(|n| *n > 0).map(|i| chunk * CHUNK + i as u64 + 1)
            })
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_walks() {
        let mut m = RefMap::new();
        assert_eq!((m.end(), m.next(0)), (0, None));
        for c in [5, 5, 40, 1 << 50] {
            m.add(c);
        }
        assert_eq!((m.get(5), m.get(6), m.get(40)), (2, 0, 1));
        assert_eq!(m.next(0), Some(5));
        assert_eq!(m.next(6), Some(40));
        assert_eq!(m.next(41), Some(1 << 50));
        assert_eq!(m.end(), (1 << 50) + 1);
    }
}
