//! Looking up and changing entries of the L2 tables.

use std::sync::atomic::Ordering;

use api::block_core::BlkdebugEvent as Event;
use base::{Errno, IoResult};
use mem::IoBuf;

use crate::geometry::{Entry, Mapping};
use crate::host::{Host, put_words, read_words};
use crate::image::{Image, Meta};
use crate::l2map::{Lookup, RunKind};
use crate::overlap::Section;
use crate::spec;

/// How much of a table is read at a time by somebody who goes through the whole disk, bytes.
const STRETCH: u64 = 64 << 10;

/// The slices of a table that were read last by somebody who goes through the whole disk. As long as no slice leaves the
/// cache, which is asked first, the disk has what was read.
#[derive(Default)]
pub(crate) struct Passing {
    /// Their file offset, and the cache's generation when they were read.
    place: Option<(u64, u64)>,
    words: Vec<u64>,
    buf: IoBuf,
}

impl Passing {
    /// The slices and their file offset, if they may still be believed.
    fn slices(&self, generation: u64) -> Option<(u64, &[u64])> {
        let (key, read_at) = self.place?;
        (read_at == generation).then_some((key, &self.words))
    }
}

impl Image {
    /// What the first of `len` bytes at `off` map to, and for how many bytes. Loads what is not cached.
    pub async fn lookup<H: Host>(&self, h: &H, off: u64, len: u64) -> IoResult<(RunKind, u64)> {
        if self.writable.load(Ordering::Acquire) {
            self.check_usable()?;
        }
        // Whoever asks about so much goes through the whole disk: most tables need no place in the cache for that. Others may
        // do so too, so this is not tried again and again.
        let mut far = if len > self.geo.l2_coverage() { 2 } else { 0 };
        loop {
            let (found, generation) = {
                let map = self.map.read();
                let passing = self.passing.lock();
                (map.lookup_with(off, len, passing.slices(map.generation())), map.generation())
            };
            match found {
                Lookup::Run(kind, n) => return Ok((kind, n)),
                Lookup::Bad(text) => return Err(self.damaged(h, &text).await),
                Lookup::Missing(key) if far > 0 => {
                    far -= 1;
                    self.pass(h, key, generation).await?;
                }
                Lookup::Missing(key) => self.load_slice(h, key, generation).await?,
            }
        }
    }

    /// Reads a slice, and those behind it in its table, without giving them a place in the cache.
    async fn pass<H: Host>(&self, h: &H, key: u64, generation: u64) -> IoResult<()> {
        let one = self.map.read().slice_bytes();
        let rest = self.geo.cluster_start(key) + self.geo.cluster_size() - key;
        let bytes = rest.min(STRETCH).max(one) as usize;
        let Passing { buf, mut words, .. } = std::mem::take(&mut *self.passing.lock());
        let buf = if buf.len() >= bytes { buf } else { IoBuf::zeroed(bytes) };
        h.event(Event::L2Load).await;
        let mut part = buf.slice(0..bytes);
        if h.read(key, part.clone()).await.is_err() {
            // What cannot be read may be behind the slice that is needed.
            part = buf.slice(0..one as usize);
            h.read(key, part.clone()).await?;
        }
        words.clear();
        put_words(&part, &mut words);
        *self.passing.lock() = Passing { place: Some((key, generation)), words, buf };
        Ok(())
    }

    /// The entry for the cluster at `off`.
    pub(crate) async fn entry_at<H: Host>(&self, h: &H, off: u64) -> IoResult<Entry> {
        loop {
            let (key, generation) = {
                let map = self.map.read();
                let table = map.l1_entry(off) & spec::OFFSET_MASK;
                if table == 0 {
                    return Ok(Entry::default());
                }
                let (key, i) = map.position(table, off);
                if let Some(slice) = map.slice(key) {
                    let bits = if self.geo.extended { slice[i + 1] } else { 0 };
                    return Ok(Entry { word: slice[i], bits });
                }
                (key, map.generation())
            };
            self.load_slice(h, key, generation).await?;
        }
    }

    /// Reads a slice into the cache without the metadata lock. Where the cache lost a changed slice meanwhile, what
    /// was read may be stale: then nothing happens and the caller looks again.
    async fn load_slice<H: Host>(&self, h: &H, key: u64, generation: u64) -> IoResult<()> {
        let bytes = self.map.read().slice_bytes() as usize;
        h.event(Event::L2Load).await;
        let data = read_words(h, key, bytes).await?;
        {
            let mut map = self.map.write();
            if map.generation() != generation || map.slice_bytes() as usize != bytes {
                return Ok(());
            }
            if map.insert(key, data).is_ok() {
                return Ok(());
            }
        }
        let mut m = self.meta.lock().await;
        self.write_back(h, &mut m).await
    }

    /// [`Image::load_slice`] for one who holds the metadata lock: nothing changes meanwhile.
    async fn load_slice_locked<H: Host>(&self, h: &H, m: &mut Meta, key: u64) -> IoResult<()> {
        let bytes = self.map.read().slice_bytes() as usize;
        h.event(Event::L2Load).await;
        let data = read_words(h, key, bytes).await?;
        if self.map.write().insert(key, data.clone()).is_ok() {
            return Ok(());
        }
        self.write_back(h, m).await?;
        self.map.write().insert(key, data).map_err(|_| Errno::NOMEM)
    }

    /// Makes sure that the L2 table for a guest offset exists and belongs to the active L1 table alone, so that its
    /// entries may change. Answers the table's file offset.
    pub(crate) async fn own_table<H: Host>(&self, h: &H, m: &mut Meta, off: u64) -> IoResult<u64> {
        let g = self.geo;
        let l1 = self.map.read().l1_entry(off);
        let old = l1 & spec::OFFSET_MASK;
        if g.in_cluster(old) != 0 {
            let text =
                format!("L2 table offset {old:#x} unaligned (L1 index: {})", spec::hex(g.l1_index(off)));
            return Err(self.damaged(h, &text).await);
        }
        if old != 0 && l1 & spec::COPIED != 0 {
            return Ok(old);
        }
        let index = g.l1_index(off);
        if index >= self.map.read().l1.len() as u64 {
            return Err(Errno::IO);
        }
        let cluster = self.alloc(h, m, 1).await?;
        let new = cluster << g.cluster_bits;
        if let Err(e) = self.fill_table(h, m, old, new).await {
            self.unalloc(h, m, cluster, 1).await;
            return Err(e);
        }
        self.hook_up(h, m, index, l1, new).await?;
        let mut map = self.map.write();
        // Slices that were cached when the place held another table.
        map.forget_table(new);
        map.l1_is(index, new | spec::COPIED);
        if old == 0 {
            // What was just written need not be read; where there is no room for it, it will be.
            let (key, words) = (map.position(new, off).0, map.slice_bytes() as usize / 8);
            let _ = map.insert(key, vec![0; words].into());
        }
        if old != 0 {
            map.forget_table(old);
            drop(map);
            self.release(m, old >> g.cluster_bits, 1, false);
        }
        Ok(new)
    }

    /// Sees to it that entries for a guest offset may change; nothing happens where they may already.
    pub(crate) async fn prepare_table<H: Host>(&self, h: &H, off: u64) -> IoResult<()> {
        if self.map.read().l1_entry(off) & spec::COPIED == 0 {
            let mut m = self.meta.lock().await;
            self.begin_modify(h, &mut m).await?;
            self.own_table(h, &mut m, off).await?;
        }
        Ok(())
    }

    /// Writes a new table, empty or a copy of the one at `old`; it is stable when this ends, and so is its refcount.
    async fn fill_table<H: Host>(&self, h: &H, m: &mut Meta, old: u64, new: u64) -> IoResult<()> {
        self.write_refcounts(h, m).await?;
        let words = IoBuf::zeroed(self.geo.cluster_size() as usize);
        if old != 0 {
            h.event(Event::L2AllocCowRead).await;
            if self.map.read().slice(old).is_none() {
                h.event(Event::L2Load).await;
            }
            h.read(old, words.clone()).await?;
        }
        h.event(Event::L2AllocWrite).await;
        // What waits in other tables comes along.
        if !self.map.read().is_clean() {
            self.write_back(h, m).await?;
        }
        self.unflushed.store(true, Ordering::Release);
        h.event(Event::L2Update).await;
        h.write(new, words).await?;
        self.unflushed.store(true, Ordering::Release);
        self.barrier(h).await
    }

    /// Has the L1 table on disk lead to a new L2 table. Where that fails, the entry is what it was, and the new table's
    /// cluster is free again, unless nobody knows what the disk says.
    async fn hook_up<H: Host>(&self, h: &H, m: &mut Meta, index: u64, old: u64, new: u64) -> IoResult<()> {
        let place = m.header.l1_offset + index * 8;
        let put = async |entry: u64| self.write_meta(h, Section::ActiveL1, place, &entry.to_be_bytes()).await;
        h.event(Event::L1Update).await;
        let Err(e) = put(new | spec::COPIED).await else { return Ok(()) };
        self.unflushed.store(true, Ordering::Release);
        if put(old).await.is_ok() && self.barrier(h).await.is_ok() {
            self.unalloc(h, m, new >> self.geo.cluster_bits, 1).await;
        }
        Err(e)
    }

    /// Changes the entries for `count` guest clusters from the one at `off` on, all in one L2 table: `f` gets the
    /// cluster's number in the run and its old entry, and gives the new one. Answers the old entries of those that
    /// were changed: all of them unless there was an error.
    pub(crate) async fn change_entries<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        off: u64,
        count: u64,
        f: impl Fn(u64, Entry) -> Entry,
    ) -> (Vec<Entry>, IoResult<()>) {
        let table = match self.own_table(h, m, off).await {
            Ok(t) => t,
            Err(e) => return (Vec::new(), Err(e)),
        };
        let words = self.geo.entry_words() as usize;
        let mut old = Vec::with_capacity(count as usize);
        let mut done = 0;
        while done < count {
            let at = off + (done << self.geo.cluster_bits);
            let (key, first) = self.map.read().position(table, at);
            let changed = self.map.write().modify_if(key, |slice| {
                let n = ((slice.len() - first) / words).min((count - done) as usize);
                let mut differs = false;
                for (i, e) in slice[first..first + n * words].chunks_exact_mut(words).enumerate() {
                    let was = Entry { word: e[0], bits: e.get(1).copied().unwrap_or(0) };
                    old.push(was);
                    let now = f(done + i as u64, was);
                    differs |= now != was;
                    e[0] = now.word;
                    if let Some(bits) = e.get_mut(1) {
                        *bits = now.bits;
                    }
                }
                (n as u64, differs)
            });
            match changed {
                Some(n) => done += n,
                None => {
                    if let Err(e) = self.load_slice_locked(h, m, key).await {
                        return (old, Err(e));
                    }
                }
            }
        }
        (old, Ok(()))
    }

    /// [`Image::lookup`] for one who writes there.
    pub(crate) async fn lookup_to_write<H: Host>(
        &self,
        h: &H,
        off: u64,
        len: u64,
    ) -> IoResult<(RunKind, u64)> {
        let bad = loop {
            let found = self.map.read().lookup(off, len);
            match found {
                Lookup::Run(kind, n) => return Ok((kind, n)),
                Lookup::Missing(_) => drop(self.entry_at(h, off).await?),
                Lookup::Bad(text) => break text,
            }
        };
        // A place that data cannot be written to is told by what the guest calls it.
        let entry =
            bad.split_once(" (L2 offset: ").map(|(place, _)| place).filter(|p| p.ends_with(" unaligned"));
        let text = entry.map(|place| {
            let place = place.replacen("Cluster allocation", "Data cluster", 1);
            format!("{place} (guest offset: {})", spec::hex(self.geo.cluster_start(off)))
        });
        Err(self.damaged(h, &text.unwrap_or(bad)).await)
    }

    /// Releases what an overwritten L2 entry referred to.
    pub(crate) fn release_entry(&self, m: &mut Meta, entry: Entry, discard: bool) {
        if self.geo.data_file {
            // Nobody counts references to the clusters of another file.
            return;
        }
        let bits = self.geo.cluster_bits;
        match self.geo.mapping(entry) {
            Mapping::Normal(o) | Mapping::ZeroAlloc(o) if self.geo.in_cluster(o) != 0 => {
                self.note_damage(&format!("Cannot free unaligned cluster {o:#x}"));
            }
            Mapping::Normal(o) | Mapping::ZeroAlloc(o) => self.release(m, o >> bits, 1, discard),
            Mapping::Compressed(o, n) => {
                let first = o >> bits;
                let last = (o + n - 1) >> bits;
                self.release(m, first, last - first + 1, discard);
            }
            Mapping::Unallocated | Mapping::ZeroPlain => {}
        }
    }
}
