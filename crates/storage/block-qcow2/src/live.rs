//! Dirty bitmaps that survive a crash.
//!
//! While an image may be written, its bitmaps are marked as in use, as the format asks. But Rhea keeps what is stored
//! of them *conservative*: every bit that is set in memory is set in the file too. Before the first write to a region of
//! the disk goes on, all bits of that region are set in the file, and stable. After that, writes to the region cost
//! nothing. Whatever else changes a bitmap has it stored anew as it is, and the regions start over.
//!
//! That the stored copy is conservative is said by an autoclear bit ([`crate::spec::autoclear::KEPT_BITMAPS`]) and a
//! header extension that counts the bitmaps for which it holds. A program that does not know the bit clears it
//! when it modifies the image, and then the bitmaps are what they are for it: in use, and not to be believed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{Errno, IoResult};
use parking_lot::Mutex;

use crate::bitmap::BitmapInfo;
use crate::host::{Host, read_vec, write_bytes};
use crate::image::{Image, Meta};
use crate::spec::{self, bitmap as flag};

/// The entry of a bitmap's table for a cluster of ones.
pub(crate) const ALL_ONES: u64 = 1;

/// A stored bitmap that records.
#[derive(Debug)]
struct Recorded {
    granularity_bits: u32,
    table_offset: u64,
    table: Vec<u64>,
}

/// Whether the stored copies are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// Nothing was kept so far.
    #[default]
    Off,
    /// They are.
    On,
    /// It is not possible in this image, or failed: not before it is opened again.
    Never,
    /// It is not asked for: bitmaps are stored when the image closes.
    Late,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    region_bits: u32,
    recorded: Vec<Recorded>,
    /// Regions whose bits are all set in the file.
    covered: HashSet<u64>,
    /// Regions that somebody waits for.
    wanted: BTreeSet<u64>,
    /// Regions that are being written, and by how many requests.
    active: HashMap<u64, u32>,
}

/// The state of one image's kept bitmaps.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<State>);

/// A change of the disk that the bitmaps in memory have not recorded yet.
pub(crate) struct Changing {
    live: Arc<Live>,
    regions: Range<u64>,
}

impl Drop for Changing {
    fn drop(&mut self) {
        let mut s = self.live.0.lock();
        for r in self.regions.clone() {
            if let Some(n) = s.active.get_mut(&r) {
                *n -= 1;
                if *n == 0 {
                    s.active.remove(&r);
                }
            }
        }
    }
}

enum Entered {
    /// Nothing is kept.
    Off,
    /// The bits are set.
    In(Changing),
    /// They must be set first.
    Wait,
}

impl Live {
    fn enter(self: &Arc<Self>, off: u64, len: u64) -> Entered {
        let mut s = self.0.lock();
        if s.mode != Mode::On {
            return Entered::Off;
        }
        let regions = off >> s.region_bits..(off.saturating_add(len - 1) >> s.region_bits) + 1;
        let mut all = true;
        for r in regions.clone() {
            if !s.covered.contains(&r) {
                s.wanted.insert(r);
                all = false;
            }
        }
        if !all {
            return Entered::Wait;
        }
        for r in regions.clone() {
            *s.active.entry(r).or_default() += 1;
        }
        Entered::In(Changing { live: self.clone(), regions })
    }

    /// The stored bitmaps are no longer those of before: nothing is known of them.
    pub(crate) fn forget(&self) {
        let mut s = self.0.lock();
        s.covered.clear();
        s.recorded.clear();
    }

    pub(crate) fn may_be_on(&self) -> bool {
        !matches!(self.0.lock().mode, Mode::Never | Mode::Late)
    }

    /// Has bitmaps stored when the image closes, and not before.
    pub(crate) fn be_late(&self) {
        self.0.lock().mode = Mode::Late;
    }

    /// Whether bitmaps are stored only when the image closes.
    pub(crate) fn is_late(&self) -> bool {
        self.0.lock().mode == Mode::Late
    }

    /// All regions start over, but those that are being written. Answers the byte ranges of these.
    pub(crate) fn start_over(&self) -> Vec<(u64, u64)> {
        let mut s = self.0.lock();
        s.covered = s.active.keys().copied().collect();
        let bits = s.region_bits;
        s.covered.iter().map(|r| (r << bits, 1 << bits)).collect()
    }
}

impl Image {
    /// How many of the stored bitmaps, from the first on, can be believed although they are in use.
    pub(crate) fn believed(m: &crate::header::Header) -> usize {
        if m.autoclear & spec::autoclear::KEPT_BITMAPS == 0 {
            return 0;
        }
        m.kept_bitmaps.unwrap_or(0) as usize
    }

    /// The stored copies of these bitmaps are kept from now on; the directory on disk has them.
    pub(crate) async fn live_on<H: Host>(&self, h: &H, list: &[BitmapInfo]) -> IoResult<()> {
        let mut recorded = Vec::new();
        for b in list.iter().filter(|b| b.flags & flag::AUTO != 0) {
            let table = read_vec(h, b.table_offset, b.table_size as usize * 8).await?;
            recorded.push(Recorded {
                granularity_bits: u32::from(b.granularity_bits),
                table_offset: b.table_offset,
                table: spec::table_from_bytes(&table),
            });
        }
        let mut s = self.live.0.lock();
        s.region_bits = self.config.read().bitmap_region.trailing_zeros();
        s.recorded = recorded;
        s.mode = Mode::On;
        Ok(())
    }

    /// The stored copies are not kept any more, and the image says so. An error means that it still says they are.
    pub(crate) async fn live_never<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        let bits = m.header.autoclear & !spec::autoclear::KEPT_BITMAPS;
        self.put_autoclear(h, m, bits).await?;
        let mut live = self.live.0.lock();
        if live.mode != Mode::Late {
            live.mode = Mode::Never;
        }
        Ok(())
    }

    /// Has the bits of a range set in the file. See [`block::driver::Driver::record_ahead`].
    pub(crate) async fn record_ahead<H: Host>(
        &self,
        h: &H,
        off: u64,
        len: u64,
    ) -> IoResult<Option<Changing>> {
        self.modify(h).await?;
        loop {
            match self.live.enter(off, len) {
                Entered::Off => return Ok(None),
                Entered::In(c) => return Ok(Some(c)),
                Entered::Wait => {}
            }
            let mut m = self.meta.lock().await;
            if let Err(e) = self.cover(h, &mut m).await {
                tracing::error!(
                    node = %self.node_name,
                    "Could not keep dirty bitmaps in the image: {e}; they will be lost if it is not closed properly"
                );
                self.live_never(h, &mut m).await?;
            }
        }
    }

    /// Sets all bits in the file before the whole disk changes at once.
    pub(crate) async fn cover_all<H: Host>(&self, h: &H) -> IoResult<()> {
        let len = self.virtual_size();
        if len > 0 {
            drop(self.record_ahead(h, 0, len).await?);
        }
        Ok(())
    }

    /// Sets the bits of all regions that are wanted; stable when it ends.
    async fn cover<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        let cs = self.geo.cluster_size();
        let size = self.virtual_size();
        let mut writes: Vec<(u64, Vec<u8>)> = Vec::new();
        // New clusters of bits: (bitmap, index in its table).
        let mut fresh: BTreeMap<(usize, u64), Vec<u8>> = BTreeMap::new();
        let regions = {
            let mut s = self.live.0.lock();
            let wanted = std::mem::take(&mut s.wanted);
            let regions: Vec<u64> = wanted.into_iter().filter(|r| !s.covered.contains(r)).collect();
            for (i, b) in s.recorded.iter().enumerate() {
                for r in &regions {
                    let end = ((r + 1) << s.region_bits).min(size);
                    let bits =
                        (r << s.region_bits) >> b.granularity_bits..end.div_ceil(1 << b.granularity_bits);
                    let mut at = bits.start / 8;
                    while at < bits.end.div_ceil(8) {
                        let (index, within) = (at / cs, at % cs);
                        let n = (bits.end.div_ceil(8) - at).min(cs - within);
                        // Whole bytes; but nothing behind the end of the disk.
                        let mut ones = vec![0xffu8; n as usize];
                        let total = size.div_ceil(1 << b.granularity_bits);
                        if (at + n) * 8 > total
                            && let Some(last) = ones.last_mut()
                        {
                            *last >>= ((at + n) * 8 - total).min(7);
                        }
                        match b.table.get(index as usize).copied() {
                            Some(e) if e & spec::OFFSET_MASK != 0 => {
                                writes.push(((e & spec::OFFSET_MASK) + within, ones));
                            }
                            Some(ALL_ONES) => {}
                            Some(_) => {
                                let data = fresh.entry((i, index)).or_insert_with(|| vec![0; cs as usize]);
                                data[within as usize..][..ones.len()].copy_from_slice(&ones);
                            }
                            // Behind the table: whoever opens the image takes what it does not say as dirty.
                            None => {}
                        }
                        at += n;
                    }
                }
            }
            regions
        };
        if regions.is_empty() {
            return Ok(());
        }
        for (off, ones) in writes {
            self.check_data_place(h, off, ones.len() as u64).await?;
            write_bytes(h, off, &ones).await?;
            self.unflushed.store(true, Ordering::Release);
        }
        if !fresh.is_empty() {
            self.add_clusters(h, m, fresh).await?;
        }
        self.barrier(h).await?;
        self.live.0.lock().covered.extend(regions);
        Ok(())
    }

    /// Writes new clusters of bits, and when they are stable, has the tables lead to them.
    async fn add_clusters<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        fresh: BTreeMap<(usize, u64), Vec<u8>>,
    ) -> IoResult<()> {
        let mut places = Vec::new();
        let wrote = async {
            for (key, data) in &fresh {
                let first = self.alloc(h, m, 1).await?;
                places.push((*key, first));
                let off = first << self.geo.cluster_bits;
                self.check_data_place(h, off, data.len() as u64).await?;
                write_bytes(h, off, data).await?;
                self.unflushed.store(true, Ordering::Release);
            }
            if !self.lazy() {
                self.write_refcounts(h, m).await?;
            }
            self.barrier(h).await
        }
        .await;
        if let Err(e) = wrote {
            for (_, first) in places {
                self.unalloc(h, m, first, 1).await;
            }
            return Err(e);
        }
        for ((i, index), first) in places {
            let entry = first << self.geo.cluster_bits;
            let table = self.live.0.lock().recorded.get(i).map(|b| b.table_offset).ok_or(Errno::IO)?;
            write_bytes(h, table + index * 8, &entry.to_be_bytes()).await?;
            self.unflushed.store(true, Ordering::Release);
            if let Some(e) =
                self.live.0.lock().recorded.get_mut(i).and_then(|b| b.table.get_mut(index as usize))
            {
                *e = entry;
            }
        }
        Ok(())
    }
}
