//! The guest-to-host map in memory: the L1 table whole, slices of L2 tables in a cache.
//!
//! Readers look up under a shared lock and never wait for storage here. Everything that changes an entry holds the
//! image's metadata lock too ([`crate::image::Meta`]), so there is one changer at a time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::geometry::{Entry, Geometry, Mapping, SUBCLUSTERS, Sub};
use crate::spec;

/// L1 entries in the 512 bytes that are written at a time.
pub const L1_SECTOR: u64 = 64;

struct Slot {
    key: u64,
    data: Box<[u64]>,
    dirty: bool,
    used: AtomicBool,
}

/// The map of one image.
pub struct L2Map {
    geo: Geometry,
    version: u32,
    /// The active L1 table.
    pub l1: Vec<u64>,
    /// 512-byte pieces of the L1 table that differ from the disk.
    pub l1_dirty: BTreeSet<u64>,
    /// Clusters that hold active L2 tables.
    pub tables: HashSet<u64>,
    /// Words in a slice: entries, or two for each extended one.
    slice_words: u64,
    max_slots: usize,
    slots: Vec<Slot>,
    index: HashMap<u64, usize>,
    hand: usize,
    dirty: usize,
    generation: u64,
}

/// What a run of guest bytes maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKind {
    /// Not in this image.
    Unallocated,
    /// Zeros; the offset of reserved space.
    Zero(Option<u64>),
    /// Plain at this file offset. `copied`: this mapping is the cluster's only reference.
    Normal {
        /// File offset of the run's first byte.
        host: u64,
        /// May be written in place.
        copied: bool,
    },
    /// Part of one compressed cluster; its L2 entry.
    Compressed(u64),
}

/// Answer of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The first `len` bytes are of this kind.
    Run(RunKind, u64),
    /// The slice at this file offset must be loaded first.
    Missing(u64),
    /// The tables are damaged here: what is wrong.
    Bad(String),
}

/// No clean slot could be given up.
#[derive(Debug)]
pub struct AllDirty;

impl L2Map {
    /// A map over a loaded L1 table. `cache_bytes` is at least two slices in effect.
    pub fn new(geo: Geometry, version: u32, l1: Vec<u64>, slice_bytes: u64, cache_bytes: u64) -> L2Map {
        let tables =
            l1.iter().map(|e| (e & spec::OFFSET_MASK) >> geo.cluster_bits).filter(|c| *c != 0).collect();
        let mut m = L2Map {
            geo,
            version,
            l1,
            l1_dirty: BTreeSet::new(),
            tables,
            slice_words: slice_bytes / 8,
            max_slots: 0,
            slots: Vec::new(),
            index: HashMap::new(),
            hand: 0,
            dirty: 0,
            generation: 0,
        };
        m.set_limits(slice_bytes, cache_bytes);
        m
    }

    /// Changes the cache's size. Everything in it must be clean; it is emptied.
    pub fn set_limits(&mut self, slice_bytes: u64, cache_bytes: u64) {
        debug_assert_eq!(self.dirty, 0);
        self.slots.clear();
        self.index.clear();
        self.hand = 0;
        self.generation += 1;
        self.slice_words = slice_bytes / 8;
        self.max_slots = ((cache_bytes / slice_bytes).clamp(2, 1 << 24)) as usize;
    }

    /// Bytes of one slice.
    pub fn slice_bytes(&self) -> u64 {
        self.slice_words * 8
    }

    /// Counts up whenever a slice that had changed leaves the cache: what was read from disk before may be stale then.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// File offset of the slice, and the index of the entry's first word in it, for a guest offset whose L2 table is at `table`.
    pub fn position(&self, table: u64, off: u64) -> (u64, usize) {
        let i = self.geo.l2_index(off) * self.geo.entry_words();
        (table + i / self.slice_words * self.slice_words * 8, (i % self.slice_words) as usize)
    }

    /// The L1 entry for a guest offset; 0 beyond the table.
    pub fn l1_entry(&self, off: u64) -> u64 {
        usize::try_from(self.geo.l1_index(off)).ok().and_then(|i| self.l1.get(i)).copied().unwrap_or(0)
    }

    /// Sets an L1 entry; it becomes dirty.
    pub fn set_l1(&mut self, index: u64, entry: u64) {
        self.l1_is(index, entry);
        self.l1_dirty.insert(index / L1_SECTOR);
    }

    /// Sets an L1 entry that the disk has already.
    pub fn l1_is(&mut self, index: u64, entry: u64) {
        let bits = self.geo.cluster_bits;
        let old = std::mem::replace(&mut self.l1[index as usize], entry) & spec::OFFSET_MASK;
        if old != 0 {
            self.tables.remove(&(old >> bits));
        }
        if entry & spec::OFFSET_MASK != 0 {
            self.tables.insert((entry & spec::OFFSET_MASK) >> bits);
        }
    }

    /// The slice at a file offset, if it is cached.
    pub fn slice(&self, key: u64) -> Option<&[u64]> {
        let s = &self.slots[*self.index.get(&key)?];
        s.used.store(true, Ordering::Relaxed);
        Some(&s.data)
    }

    /// Changes entries of a cached slice, which becomes dirty. `None` where it is not cached.
    pub fn modify<R>(&mut self, key: u64, f: impl FnOnce(&mut [u64]) -> R) -> Option<R> {
        self.modify_if(key, |slice| (f(slice), true))
    }

    /// The same where `f` also says whether it changed anything: what is as on the disk need not be written.
    pub fn modify_if<R>(&mut self, key: u64, f: impl FnOnce(&mut [u64]) -> (R, bool)) -> Option<R> {
        let s = &mut self.slots[*self.index.get(&key)?];
        *s.used.get_mut() = true;
        let (answer, changed) = f(&mut s.data);
        if changed && !s.dirty {
            s.dirty = true;
            self.dirty += 1;
        }
        Some(answer)
    }

    /// Puts a slice that was read from the disk (or that the disk has as given) into the cache.
    pub fn insert(&mut self, key: u64, data: Box<[u64]>) -> Result<(), AllDirty> {
        if let Some(i) = self.index.get(&key) {
            // Somebody else loaded it meanwhile; theirs may be newer.
            *self.slots[*i].used.get_mut() = true;
            return Ok(());
        }
        let slot = Slot { key, data, dirty: false, used: AtomicBool::new(true) };
        if self.slots.len() < self.max_slots {
            self.index.insert(key, self.slots.len());
            self.slots.push(slot);
            return Ok(());
        }
        // Two rounds: the first takes the second chances away.
        for _ in 0..2 * self.slots.len() {
            let i = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let s = &mut self.slots[i];
            if s.dirty || std::mem::replace(s.used.get_mut(), false) {
                continue;
            }
            self.index.remove(&s.key);
            self.index.insert(key, i);
            *s = slot;
            self.generation += 1;
            return Ok(());
        }
        Err(AllDirty)
    }

    /// Forgets the slices of a table that is no longer in use. They must be clean or worthless.
    pub fn forget_table(&mut self, table: u64) {
        let end = table + self.geo.cluster_size();
        self.generation += 1;
        let mut i = 0;
        while i < self.slots.len() {
            if (table..end).contains(&self.slots[i].key) {
                let gone = self.slots.swap_remove(i);
                self.index.remove(&gone.key);
                self.dirty -= usize::from(gone.dirty);
                if let Some(moved) = self.slots.get(i) {
                    self.index.insert(moved.key, i);
                }
            } else {
                i += 1;
            }
        }
        self.hand = 0;
    }

    /// Gives up the clean slices that nobody has used since this was called last; answers how many those were.
    pub fn drop_unused(&mut self) -> usize {
        let before = self.slots.len();
        self.slots.retain_mut(|s| std::mem::replace(s.used.get_mut(), false) || s.dirty);
        if self.slots.len() < before {
            self.slots.shrink_to_fit();
            self.index = self.slots.iter().enumerate().map(|(i, s)| (s.key, i)).collect();
            self.generation += 1;
            self.hand = 0;
        }
        before - self.slots.len()
    }

    /// Whether most of the cache is dirty, so that it is time to write back.
    pub fn crowded(&self) -> bool {
        self.dirty * 4 > self.max_slots * 3
    }

    /// Copies of all dirty slices as bytes, in file order.
    pub fn dirty_slices(&self) -> Vec<(u64, Vec<u8>)> {
        let mut v: Vec<_> =
            self.slots.iter().filter(|s| s.dirty).map(|s| (s.key, spec::table_to_bytes(&s.data))).collect();
        v.sort_unstable_by_key(|e| e.0);
        v
    }

    /// A slice has reached the file.
    pub fn mark_clean(&mut self, key: u64) {
        if let Some(i) = self.index.get(&key) {
            let s = &mut self.slots[*i];
            self.dirty -= usize::from(std::mem::replace(&mut s.dirty, false));
        }
    }

    /// Whether nothing waits to be written.
    pub fn is_clean(&self) -> bool {
        self.dirty == 0 && self.l1_dirty.is_empty()
    }

    /// The bytes of one 512-byte piece of the L1 table (shorter at its end).
    pub fn l1_sector(&self, sector: u64) -> Vec<u8> {
        let from = (sector * L1_SECTOR) as usize;
        spec::table_to_bytes(&self.l1[from..self.l1.len().min(from + L1_SECTOR as usize)])
    }

    /// What the first of `len` guest bytes at `off` map to, and how far it goes on like that.
    pub fn lookup(&self, off: u64, len: u64) -> Lookup {
        self.lookup_with(off, len, None)
    }

    /// [`L2Map::lookup`] by somebody who has a part of a table himself, of one slice or several: its file offset and its words.
    pub fn lookup_with(&self, off: u64, len: u64, own: Option<(u64, &[u64])>) -> Lookup {
        let g = self.geo;
        let mut found: Option<(RunKind, u64)> = None;
        let mut at = off;
        let end = off + len;
        while at < end {
            let l1 = self.l1_entry(at);
            let table = l1 & spec::OFFSET_MASK;
            let (kind, piece_end) = if table == 0 {
                let cover = g.l2_coverage();
                (RunKind::Unallocated, (at & !(cover - 1)).saturating_add(cover))
            } else {
                if g.in_cluster(table) != 0 {
                    if found.is_some() {
                        break;
                    }
                    return Lookup::Bad(format!(
                        "L2 table offset {table:#x} unaligned (L1 index: {})",
                        spec::hex(g.l1_index(at))
                    ));
                }
                let (key, i) = self.position(table, at);
                let own = || {
                    let (from, words) = own?;
                    let at = usize::try_from(key.checked_sub(from)? / 8).ok()?;
                    words.get(at..)?.get(..self.slice_words as usize)
                };
                let Some(slice) = self.slice(key).or_else(own) else {
                    if found.is_some() {
                        break;
                    }
                    return Lookup::Missing(key);
                };
                let bits = if g.extended { slice[i + 1] } else { 0 };
                match self.kind(Entry { word: slice[i], bits }, at, table) {
                    Ok((kind, first_end)) => {
                        let more = if g.extended { 0 } else { alike(kind, &slice[i..], g.cluster_size()) };
                        (kind, first_end.saturating_add(more.saturating_mul(g.cluster_size())))
                    }
                    Err(_) if found.is_some() => break,
                    Err(text) => return Lookup::Bad(text),
                }
            };
            match &mut found {
                None => found = Some((kind, piece_end.min(end) - at)),
                Some((first, n)) => {
                    let same = match (*first, kind) {
                        (RunKind::Unallocated, RunKind::Unallocated)
                        | (RunKind::Zero(None), RunKind::Zero(None)) => true,
                        (RunKind::Zero(Some(a)), RunKind::Zero(Some(b))) => a.wrapping_add(*n) == b,
                        (RunKind::Normal { host: a, copied: c }, RunKind::Normal { host: b, copied: d }) => {
                            a.wrapping_add(*n) == b && c == d
                        }
                        _ => false,
                    };
                    if !same {
                        break;
                    }
                    *n += piece_end.min(end) - at;
                }
            }
            if matches!(kind, RunKind::Compressed(_)) {
                break;
            }
            at = piece_end.min(end);
        }
        let (kind, n) = found.unwrap_or((RunKind::Unallocated, len));
        Lookup::Run(kind, n)
    }

    /// What the byte at `at` is, and where that ends.
    fn kind(&self, entry: Entry, at: u64, table: u64) -> Result<(RunKind, u64), String> {
        let g = self.geo;
        let start = g.cluster_start(at);
        let end = start.saturating_add(g.cluster_size());
        let within = g.in_cluster(at);
        let aligned = |o: u64, what: &str| {
            if g.in_cluster(o) == 0 {
                return Ok(o + within);
            }
            Err(format!(
                "{what} offset {o:#x} unaligned (L2 offset: {table:#x}, L2 index: {})",
                spec::hex(g.l2_index(at))
            ))
        };
        // In a data file, every cluster has its place for itself.
        let copied = entry.word & spec::COPIED != 0 || g.data_file;
        let mapping = g.mapping(entry);
        let kind = match mapping {
            Mapping::Compressed(..) => RunKind::Compressed(entry.word),
            _ if g.extended => {
                let first = within / g.unit();
                let bad = || {
                    format!(
                        "Invalid cluster entry found (L2 offset: {table:#x}, L2 index: {})",
                        spec::hex(g.l2_index(at))
                    )
                };
                let sub = entry.subcluster(first).ok_or_else(bad)?;
                let stop = (first + 1..SUBCLUSTERS).find(|n| entry.subcluster(*n) != Some(sub));
                let stop = start + stop.unwrap_or(SUBCLUSTERS) * g.unit();
                let kind = match (sub, mapping) {
                    (Sub::Below, _) => RunKind::Unallocated,
                    (Sub::Zero, Mapping::Normal(o) | Mapping::ZeroAlloc(o)) => {
                        RunKind::Zero(Some(aligned(o, "Preallocated zero cluster")?))
                    }
                    (Sub::Zero, _) => RunKind::Zero(None),
                    (Sub::Here, Mapping::Normal(o)) => {
                        RunKind::Normal { host: aligned(o, "Cluster allocation")?, copied }
                    }
                    (Sub::Here, _) => return Err(bad()),
                };
                return Ok((kind, stop));
            }
            Mapping::Unallocated => RunKind::Unallocated,
            Mapping::ZeroPlain | Mapping::ZeroAlloc(_) if self.version < 3 => {
                return Err(format!(
                    "Zero cluster entry found in pre-v3 image (L2 offset: {table:#x}, L2 index: {})",
                    spec::hex(g.l2_index(at))
                ));
            }
            Mapping::ZeroPlain => RunKind::Zero(None),
            Mapping::ZeroAlloc(o) => RunKind::Zero(Some(aligned(o, "Preallocated zero cluster")?)),
            Mapping::Normal(o) => RunKind::Normal { host: aligned(o, "Cluster allocation")?, copied },
        };
        Ok((kind, end))
    }
}

/// How many of the entries behind the first, which is of this kind, only go on with what it begins.
fn alike(kind: RunKind, entries: &[u64], cluster: u64) -> u64 {
    let step = match kind {
        RunKind::Compressed(_) => return 0,
        RunKind::Unallocated | RunKind::Zero(None) => 0,
        RunKind::Normal { .. } | RunKind::Zero(Some(_)) => cluster,
    };
    let Some((first, rest)) = entries.split_first() else { return 0 };
    // Offsets that would not fit into an entry are damage, which is looked at entry by entry.
    let fits = (spec::OFFSET_MASK - (first & spec::OFFSET_MASK)).checked_div(step).unwrap_or(u64::MAX);
    let mut want = *first;
    let goes_on = |e: &&u64| {
        want = want.wrapping_add(step);
        **e == want
    };
    (rest.iter().take_while(goes_on).count() as u64).min(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(slots: u64) -> L2Map {
        let g = Geometry { cluster_bits: 9, refcount_order: 4, extended: false, data_file: false };
        L2Map::new(g, 3, vec![0x1000 | spec::COPIED, 0, 0x2100], 512, 512 * slots)
    }

    #[test]
    fn runs_merge_where_the_file_is_contiguous() {
        let mut m = map(2);
        assert_eq!(m.lookup(0, 100), Lookup::Missing(0x1000));
        let mut s = vec![0u64; 64].into_boxed_slice();
        s[0] = 0x8000 | spec::COPIED;
        s[1] = 0x8200 | spec::COPIED;
        s[2] = 0x9000 | spec::COPIED;
        s[3] = spec::ZERO;
        m.insert(0x1000, s).unwrap();
        assert_eq!(
            m.lookup(100, 4096),
            Lookup::Run(RunKind::Normal { host: 0x8000 + 100, copied: true }, 1024 - 100)
        );
        assert_eq!(m.lookup(1536, 4096), Lookup::Run(RunKind::Zero(None), 512));
        // From the fifth cluster through the hole in the L1 table up to a table that is not loaded.
        let cover = 64 * 512;
        assert_eq!(m.lookup(2048, 4 * cover), Lookup::Run(RunKind::Unallocated, 2 * cover - 2048));
        assert_eq!(m.lookup(2 * cover, 1), Lookup::Missing(0x2000));
    }

    #[test]
    fn long_runs_are_what_their_entries_say_one_by_one() {
        // Entries of few kinds, so that many of them go on with each other.
        let mut state = 0x1234_5678_9abc_def1u64;
        let mut random = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        };
        for _ in 0..200 {
            let mut m = map(2);
            let mut words: Vec<u64> = Vec::new();
            for _ in 0..64 {
                let last = words.last().copied().unwrap_or(0);
                let next = last.wrapping_add(512);
                let w = match random(8) {
                    0 => 0,
                    1 => spec::ZERO,
                    2 => (0x8000 + random(4) * 512) | spec::COPIED,
                    3 => spec::OFFSET_MASK & !0x1ff,
                    4 => next ^ spec::COPIED,
                    5 => last,
                    _ => next,
                };
                words.push(w & !spec::COMPRESSED);
            }
            m.insert(0x1000, words.into()).unwrap();
            let one = |at: u64| m.lookup(at, 512);
            let mut at = 0;
            while at < 64 * 512 {
                let (kind, n) = match m.lookup(at, 64 * 512 - at) {
                    Lookup::Run(k, n) => (k, n),
                    Lookup::Bad(t) => {
                        assert_eq!(one(at), Lookup::Bad(t));
                        at += 512;
                        continue;
                    }
                    Lookup::Missing(_) => unreachable!("the slice is there"),
                };
                let part = |done: u64| match kind {
                    RunKind::Normal { host, copied } => RunKind::Normal { host: host + done, copied },
                    RunKind::Zero(Some(o)) => RunKind::Zero(Some(o + done)),
                    k => k,
                };
                for done in (0..n).step_by(512) {
                    assert_eq!(one(at + done), Lookup::Run(part(done), 512), "{done} of {n} at {at}");
                }
                at += n;
                // And it is as long as it can be.
                if at < 64 * 512 {
                    assert_ne!(one(at), Lookup::Run(part(n), 512));
                }
            }
        }
    }

    #[test]
    fn a_slice_that_somebody_has_himself_is_used() {
        let mut m = map(2);
        let own = vec![spec::ZERO; 64];
        assert_eq!(m.lookup_with(0, 4096, None), Lookup::Missing(0x1000));
        assert_eq!(m.lookup_with(0, 4096, Some((0x2000, &own))), Lookup::Missing(0x1000));
        // One that begins before it, as far as it goes.
        let long = [vec![0; 64], own.clone()].concat();
        assert_eq!(m.lookup_with(0, 4096, Some((0xe00, &long[..127]))), Lookup::Missing(0x1000));
        let run = Lookup::Run(RunKind::Zero(None), 4096);
        assert_eq!(m.lookup_with(0, 4096, Some((0xe00, &long))), run);
        assert_eq!(m.lookup_with(0, 4096, Some((0x1000, &own))), run);
        // What is in the cache is newer.
        m.insert(0x1000, vec![0; 64].into()).unwrap();
        assert_eq!(m.lookup_with(0, 4096, Some((0x1000, &own))), Lookup::Run(RunKind::Unallocated, 4096));
    }

    #[test]
    fn unaligned_offsets_are_damage() {
        let g = Geometry { cluster_bits: 10, refcount_order: 4, extended: false, data_file: false };
        let mut m = L2Map::new(g, 2, vec![0x1200, 0x2000], 1024, 4096);
        assert!(
            matches!(m.lookup(0, 1), Lookup::Bad(t) if t == "L2 table offset 0x1200 unaligned (L1 index: 0)")
        );
        let mut s = vec![0u64; 128].into_boxed_slice();
        (s[0], s[1]) = (0x3200, spec::ZERO);
        m.insert(0x2000, s).unwrap();
        let at = 128 * 1024;
        let text = "Cluster allocation offset 0x3200 unaligned (L2 offset: 0x2000, L2 index: 0)";
        assert_eq!(m.lookup(at, 1), Lookup::Bad(text.into()));
        assert!(
            matches!(m.lookup(at + 1024, 1), Lookup::Bad(t) if t.starts_with("Zero cluster entry found in pre-v3"))
        );
    }

    #[test]
    fn unused_slices_are_given_up() {
        let mut m = map(8);
        for key in [0x1000, 0x2000, 0x3000] {
            m.insert(key, vec![0; 64].into()).unwrap();
        }
        m.modify(0x2000, |_| ()).unwrap();
        // All of them were used when they came.
        assert_eq!(m.drop_unused(), 0);
        assert!(m.slice(0x3000).is_some());
        let generation = m.generation();
        assert_eq!(m.drop_unused(), 1);
        assert!(m.generation() > generation, "who reads a slice now looks again");
        assert!(m.slice(0x1000).is_none() && m.slice(0x3000).is_some());
        assert_eq!(m.drop_unused(), 0);
        // What has not been written stays, however long nobody looks.
        assert_eq!((m.drop_unused(), m.drop_unused()), (1, 0));
        assert!(m.slice(0x2000).is_some() && m.slice(0x3000).is_none());
    }

    #[test]
    fn dirty_slices_are_never_evicted() {
        let mut m = map(2);
        for k in [0x1000u64, 0x3000] {
            m.insert(k, vec![0; 64].into()).unwrap();
            m.modify(k, |s| s[0] = 1).unwrap();
        }
        assert!(m.insert(0x4000, vec![0; 64].into()).is_err());
        m.mark_clean(0x1000);
        let g = m.generation();
        m.insert(0x4000, vec![0; 64].into()).unwrap();
        assert!(m.slice(0x1000).is_none() && m.slice(0x3000).is_some() && m.generation() > g);
        m.forget_table(0x3000);
        assert!(m.slice(0x3000).is_none() && m.is_clean() && m.slice(0x4000).is_some());
    }
}
