//! Keeping dirty bitmaps in the image.
//!
//! While the image may be written, every stored bitmap is marked as in use: for other programs what is stored is out of
//! date then. For Rhea it is not (`live`). When the node closes or becomes read-only, or when bitmaps change
//! otherwise than by writes, they are stored anew: data, tables and directory go to fresh clusters, and only when all of
//! that is stable does the header lead to it, by one write where the place in the header allows that. Where not, the
//! autoclear bit is off meanwhile, so that nobody takes a half-written state for the truth.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{Errno, IoResult};
use block::bitmap::Bitmap;
use qapi::{QError, qerr};

use crate::bitmap::BitmapInfo;
use crate::header::{BitmapsExt, Header};
use crate::host::{Host, read_vec, write_bytes};
use crate::image::{Image, Meta, read_header};
use crate::live::ALL_ONES;
use crate::overlap::Section;
use crate::spec::{self, autoclear, bitmap as flag, field};

impl Image {
    /// Whether the directory that the header leads to is in force.
    fn bitmaps_valid(m: &Meta) -> bool {
        m.header.bitmaps.is_some() && m.header.autoclear & autoclear::BITMAPS != 0
    }

    /// Whether one more bitmap can be kept.
    pub fn can_store(&self, node: &str, name: &str, granularity: u32) -> Result<(), QError> {
        let fail = |why: &str| Err(qerr!("Can't make bitmap '{name}' persistent in '{node}': {why}"));
        if self.version < 3 {
            return fail("Cannot store dirty bitmaps in qcow2 v2 files");
        }
        if granularity.trailing_zeros() > 31 || granularity < 512 {
            return fail("Granularity is out of range");
        }
        if self.shown.read().bitmaps.len() >= spec::MAX_BITMAPS as usize {
            return fail("Maximum number of persistent bitmaps is already reached");
        }
        Ok(())
    }

    /// Reads the stored bitmaps. One that was in use is broken; so is one whose table does not fit the disk.
    pub async fn load_bitmaps<H: Host>(&self, h: &H) -> Result<Vec<Bitmap>, QError> {
        let (list, believed) = {
            let s = self.shown.read();
            (s.bitmaps.clone(), Self::believed(&s.header))
        };
        let mut out = Vec::with_capacity(list.len());
        for (i, b) in list.into_iter().enumerate() {
            let granularity = 1u32 << b.granularity_bits;
            let in_use = b.flags & flag::IN_USE != 0;
            if in_use && i >= believed {
                out.push(Bitmap::broken(&b.name, granularity));
                continue;
            }
            let fail = |e: &str| qerr!("Could not read bitmap '{}' from image: {e}", b.name);
            let auto = b.flags & flag::AUTO != 0;
            let bitmap = Bitmap::new(&b.name, self.virtual_size(), granularity, true, auto)?;
            let cs = self.geo.cluster_size();
            let mut bits = bitmap.bits();
            let bytes = bits.len().div_ceil(8);
            let clusters = bytes.div_ceil(cs);
            // The image may have been resized just before it was left.
            if u64::from(b.table_size) != clusters && !in_use {
                return Err(fail("its table does not fit the size of the disk"));
            }
            let entries = clusters.min(u64::from(b.table_size));
            let table = read_vec(h, b.table_offset, entries as usize * 8).await;
            let mut table = spec::table_from_bytes(&table.map_err(|e| fail(&e.to_string()))?);
            table.resize(clusters as usize, ALL_ONES);
            for (i, entry) in table.into_iter().enumerate() {
                let first = i as u64 * cs;
                let n = cs.min(bytes - first) as usize;
                match entry & spec::OFFSET_MASK {
                    0 if entry & ALL_ONES != 0 => bits.load(first, &vec![0xff; n]),
                    0 => {}
                    off if self.geo.in_cluster(off) != 0 => return Err(fail("its table is damaged")),
                    off => {
                        let data = read_vec(h, off, n).await.map_err(|e| fail(&e.to_string()))?;
                        bits.load(first, &data);
                    }
                }
            }
            bitmap.replace(bits);
            out.push(bitmap);
        }
        Ok(out)
    }

    /// Makes the stored bitmaps ready for the image to be modified: marks each as in use, and has what is stored of them
    /// kept while they change, where the image can say so. Stable when it ends. The metadata lock is held.
    pub(crate) async fn begin_bitmaps<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        let list = if Self::bitmaps_valid(m) { self.shown.read().bitmaps.clone() } else { Vec::new() };
        self.live.forget();
        let believed = Self::believed(&m.header);
        // Those that are the truth now.
        let n =
            list.iter().enumerate().take_while(|(i, b)| b.flags & flag::IN_USE == 0 || *i < believed).count();
        let kept = n > 0 && self.live.may_be_on() && self.announce(h, m, n as u32).await?;
        if !kept {
            self.put_autoclear(h, m, m.header.autoclear & !autoclear::KEPT_BITMAPS).await?;
        }
        self.mark_bitmaps(h, m).await?;
        if kept && self.live_on(h, &list[..n]).await.is_err() {
            self.live_never(h, m).await?;
        }
        Ok(())
    }

    /// Has the image say that the first `n` bitmaps are kept; false where its header has no room to do so at once.
    async fn announce<H: Host>(&self, h: &H, m: &mut Meta, n: u32) -> IoResult<bool> {
        if m.header.kept_bitmaps != Some(n) {
            let mut next = m.header.clone();
            next.kept_bitmaps = Some(n);
            if !self.header_fits(h, &next).await? {
                return Ok(false);
            }
            // Until it is written, what is announced is nothing.
            self.put_autoclear(h, m, m.header.autoclear & !autoclear::KEPT_BITMAPS).await?;
            m.header = next;
            self.put_header(h, m).await?;
        }
        self.put_autoclear(h, m, m.header.autoclear | autoclear::KEPT_BITMAPS).await?;
        Ok(true)
    }

    /// Marks every stored bitmap as in use; stable when it ends.
    async fn mark_bitmaps<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        let (Some(x), true) = (m.header.bitmaps, Self::bitmaps_valid(m)) else { return Ok(()) };
        let list = self.shown.read().bitmaps.clone();
        let mut at = x.directory_offset;
        let mut any = false;
        for b in &list {
            if b.flags & flag::IN_USE == 0 {
                // Four bytes within one sector, since entries begin at multiples of eight.
                let flags = (b.flags | flag::IN_USE).to_be_bytes();
                write_bytes(h, at + 12, &flags).await?;
                any = true;
            }
            at += b.entry_size();
        }
        if any {
            self.unflushed.store(true, Ordering::Release);
            self.barrier(h).await?;
            for b in &mut self.shown.write().bitmaps {
                b.flags |= flag::IN_USE;
            }
        }
        Ok(())
    }

    /// Sets the autoclear bits; stable when it ends.
    pub(crate) async fn put_autoclear<H: Host>(&self, h: &H, m: &mut Meta, bits: u64) -> IoResult<()> {
        // What failed before may be on the disk or not.
        if bits != m.header.autoclear || self.unsure.load(Ordering::Acquire) {
            self.unsure.store(true, Ordering::Release);
            write_bytes(h, field::AUTOCLEAR as u64, &bits.to_be_bytes()).await?;
            m.header.autoclear = bits;
            self.header_changed(m);
            self.barrier(h).await?;
            self.unsure.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Stores these bitmaps, and keeps those entries of the directory that `keep` says. Everything is as before where it
    /// fails before the header changes; after that, the bitmaps may be lost, and the image says so.
    ///
    /// `open`: the image goes on to be modified, so they are in use. Then what is stored is kept from now on.
    async fn replace_bitmaps<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        bitmaps: &[Arc<Bitmap>],
        keep: impl Fn(&BitmapInfo) -> bool,
        open: bool,
    ) -> IoResult<()> {
        let old = if Self::bitmaps_valid(m) { self.shown.read().bitmaps.clone() } else { Vec::new() };
        let old_ext = m.header.bitmaps.filter(|_| Self::bitmaps_valid(m));
        // Nobody's but those that were kept may be believed later.
        let believed = if open { Self::believed(&m.header) } else { 0 };
        let mut first = Vec::new();
        let (mut last, mut gone) = (Vec::new(), Vec::new());
        for (i, b) in old.into_iter().enumerate() {
            match keep(&b) {
                true if i < believed => first.push(b),
                true => last.push(b),
                false => gone.push(b),
            }
        }
        if bitmaps.is_empty() && gone.is_empty() {
            return Ok(());
        }
        // Each keeps the place that it had when the image rested; new ones follow.
        let rested = self.shown.read().rested.clone();
        let place = |name: &str| rested.iter().position(|n| n == name).unwrap_or(usize::MAX);
        let mut bitmaps = bitmaps.to_vec();
        bitmaps.sort_by_key(|b| place(b.name()));
        let live = open && self.live.may_be_on();
        // What is written right now is not in the bitmaps yet.
        let active = if open { self.live.start_over() } else { Vec::new() };
        let mut fresh = Vec::new();
        let mut list = first;
        let stored = async {
            for b in &bitmaps {
                list.push(self.store_one(h, m, b, &active, open, &mut fresh).await?);
            }
            let kept = list.len() as u32;
            list.append(&mut last);
            if !open {
                // Nothing is kept of an image that rests: what is broken has its place, too.
                list.sort_by_key(|b| place(&b.name));
            }
            let ext = self.store_directory(h, m, &list, &mut fresh).await?;
            self.plan_header(h, m, ext, (live && kept > 0 || m.header.kept_bitmaps.is_some()).then_some(kept))
                .await
        };
        let next = match stored.await {
            Ok(next) => next,
            Err(e) => {
                for (first, n) in fresh {
                    self.unalloc(h, m, first, n).await;
                }
                return Err(e);
            }
        };
        // What a table says is gone is read before its clusters are given back.
        let mut release = Vec::new();
        for b in &gone {
            release.extend(self.clusters_of_bitmap(h, b).await?);
        }
        if let Some(x) = old_ext {
            release.push((x.directory_offset >> self.geo.cluster_bits, self.geo.clusters(x.directory_size)));
        }
        self.write_refcounts(h, m).await?;
        self.barrier(h).await?;
        let ext = next.bitmaps;
        let kept = if next.kept_bitmaps.is_some() && live { autoclear::KEPT_BITMAPS } else { 0 };
        let before = m.header.clone();
        m.header.bitmaps = ext;
        m.header.kept_bitmaps = next.kept_bitmaps;
        m.header.extensions = next.extensions;
        // Until all of it is done, a change of the image has to prepare it anew.
        self.ready.store(false, Ordering::Release);
        if let Err(e) = self.put_header(h, m).await
            && !self.header_is_there(h, m, before).await?
        {
            for (first, n) in fresh {
                self.unalloc(h, m, first, n).await;
            }
            return Err(e);
        }
        {
            let mut shown = self.shown.write();
            shown.bitmaps = list.clone();
            let there = |name: &String| list.iter().any(|b| b.name == *name);
            match open {
                true => shown.rested.retain(there),
                false => shown.rested = list.iter().map(|b| b.name.clone()).collect(),
            }
        }
        let valid = if ext.is_some() { autoclear::BITMAPS } else { 0 };
        self.put_autoclear(h, m, (m.header.autoclear & !autoclear::ALL_BITMAPS) | valid | kept).await?;
        let place = ext.map_or(0..0, |x| {
            let first = x.directory_offset >> self.geo.cluster_bits;
            first..first + self.geo.clusters(x.directory_size)
        });
        self.places.write().protected.moved(Section::BitmapDirectory, place);
        if live {
            let n = m.header.kept_bitmaps.unwrap_or(0) as usize;
            let room = m.header.kept_bitmaps.is_some() || ext.is_none();
            if !room || self.live_on(h, list.get(..n).unwrap_or(&[])).await.is_err() {
                self.live_never(h, m).await?;
            }
        }
        for (first, n) in release {
            self.release(m, first, n, false);
        }
        self.write_back(h, m).await?;
        self.ready.store(open, Ordering::Release);
        Ok(())
    }

    /// Whether a header that could not be written for sure is there nevertheless. Where the old one is, `m` has it again.
    /// Where that cannot be told, the image is not used any more.
    async fn header_is_there<H: Host>(&self, h: &H, m: &mut Meta, before: Header) -> IoResult<bool> {
        match read_header(h).await {
            Ok(now) if now == before => {
                m.header = before;
                Ok(false)
            }
            Ok(now) if now == m.header => Ok(true),
            _ => {
                self.stop();
                Err(Errno::IO)
            }
        }
    }

    /// The header with another directory.
    async fn plan_header<H: Host>(
        &self,
        h: &H,
        m: &Meta,
        ext: Option<BitmapsExt>,
        kept: Option<u32>,
    ) -> IoResult<Header> {
        let mut next = m.header.clone();
        next.bitmaps = ext;
        next.kept_bitmaps = ext.and(kept);
        if !self.header_fits(h, &next).await? {
            next.kept_bitmaps = None;
            if !self.header_fits(h, &next).await? {
                return Err(Errno::NOSPC);
            }
        }
        Ok(next)
    }

    async fn store_directory<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        list: &[BitmapInfo],
        fresh: &mut Vec<(u64, u64)>,
    ) -> IoResult<Option<BitmapsExt>> {
        let directory: Vec<u8> = list.iter().flat_map(BitmapInfo::encode).collect();
        if directory.is_empty() {
            return Ok(None);
        }
        if directory.len() as u64 > spec::MAX_BITMAP_DIRECTORY || list.len() > spec::MAX_BITMAPS as usize {
            return Err(Errno::FBIG);
        }
        let directory_offset = self.put_fresh(h, m, &directory, fresh).await?;
        let (count, directory_size) = (list.len() as u32, directory.len() as u64);
        Ok(Some(BitmapsExt { count, directory_size, directory_offset }))
    }

    async fn store_one<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        b: &Bitmap,
        active: &[(u64, u64)],
        open: bool,
        fresh: &mut Vec<(u64, u64)>,
    ) -> IoResult<BitmapInfo> {
        let cs = self.geo.cluster_size();
        let mut bits = b.bits();
        let auto = b.enabled();
        if auto {
            active.iter().for_each(|(off, len)| bits.set(*off, *len));
        }
        let bytes = bits.len().div_ceil(8);
        let clusters = bytes.div_ceil(cs);
        if clusters * 8 > spec::MAX_BITMAP_TABLE {
            return Err(Errno::FBIG);
        }
        let mut table = Vec::with_capacity(clusters as usize);
        for i in 0..clusters {
            let n = cs.min(bytes - i * cs) as usize;
            let data = bits.bytes(i * cs, n);
            table.push(if data.iter().all(|b| *b == 0) {
                0
            } else if n as u64 == cs && data.iter().all(|b| *b == 0xff) {
                ALL_ONES
            } else {
                // A reader reads clusters.
                let mut whole = data.to_vec();
                whole.resize(cs as usize, 0);
                self.put_fresh(h, m, &whole, fresh).await?
            });
        }
        let table_offset =
            if clusters > 0 { self.put_fresh(h, m, &spec::table_to_bytes(&table), fresh).await? } else { 0 };
        Ok(BitmapInfo {
            name: b.name().to_owned(),
            granularity_bits: b.granularity().trailing_zeros() as u8,
            flags: if auto { flag::AUTO } else { 0 } | if open { flag::IN_USE } else { 0 },
            table_offset,
            table_size: clusters as u32,
            kind: flag::DIRTY_TRACKING,
            extra: Vec::new(),
        })
    }

    /// Writes bytes to fresh clusters; answers where.
    async fn put_fresh<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        bytes: &[u8],
        fresh: &mut Vec<(u64, u64)>,
    ) -> IoResult<u64> {
        let n = self.geo.clusters(bytes.len() as u64);
        let first = self.alloc(h, m, n).await?;
        fresh.push((first, n));
        let off = first << self.geo.cluster_bits;
        self.check_data_place(h, off, n << self.geo.cluster_bits).await?;
        self.unflushed.store(true, Ordering::Release);
        write_bytes(h, off, bytes).await?;
        self.unflushed.store(true, Ordering::Release);
        Ok(off)
    }

    async fn clusters_of_bitmap<H: Host>(&self, h: &H, b: &BitmapInfo) -> IoResult<Vec<(u64, u64)>> {
        let mut out = Vec::new();
        if b.table_offset == 0 || b.table_size == 0 {
            return Ok(out);
        }
        let bytes = u64::from(b.table_size) * 8;
        if self.geo.in_cluster(b.table_offset) != 0
            || b.table_offset + bytes > h.file_len()?.next_multiple_of(512)
        {
            return Err(Errno::IO);
        }
        for e in spec::table_from_bytes(&read_vec(h, b.table_offset, bytes as usize).await?) {
            if e & spec::OFFSET_MASK != 0 {
                out.push(((e & spec::OFFSET_MASK) >> self.geo.cluster_bits, 1));
            }
        }
        out.push((b.table_offset >> self.geo.cluster_bits, self.geo.clusters(bytes)));
        Ok(out)
    }

    /// Stores the bitmaps that are to be kept: the last thing before the image rests. Broken ones stay as they are.
    pub async fn store_bitmaps<H: Host>(&self, h: &H, bitmaps: &[Arc<Bitmap>]) -> IoResult<()> {
        let keep: Vec<_> = bitmaps.iter().filter(|b| b.persistent()).collect();
        // The youngest first.
        let good: Vec<_> = keep.iter().filter(|b| !b.inconsistent()).map(|b| (*b).clone()).collect();
        let fresh = !self.ready.load(Ordering::Acquire);
        if self.check_usable().is_err() || (fresh && good.iter().all(|b| self.is_stored(b.name()))) {
            return Ok(());
        }
        let broken = |i: &BitmapInfo| keep.iter().any(|b| b.inconsistent() && b.name() == i.name);
        let mut m = self.meta.lock().await;
        self.begin_modify(h, &mut m).await?;
        self.replace_bitmaps(h, &mut m, &good, broken, false).await?;
        // At rest, the image is what it is for everybody.
        let bits = m.header.autoclear & !autoclear::KEPT_BITMAPS;
        self.put_autoclear(h, &mut m, bits).await
    }

    fn is_stored(&self, name: &str) -> bool {
        self.shown.read().bitmaps.iter().any(|b| b.name == name && b.flags & flag::IN_USE == 0)
    }

    /// Removes a stored bitmap, if there is one of this name.
    pub async fn remove_stored_bitmap<H: Host>(&self, h: &H, name: &str) -> IoResult<()> {
        let mut m = self.meta.lock().await;
        self.begin_modify(h, &mut m).await?;
        self.replace_bitmaps(h, &mut m, &[], |b| b.name != name, true).await
    }

    /// A bitmap is about to differ from what is stored.
    pub async fn bitmaps_change<H: Host>(&self, h: &H) -> IoResult<()> {
        self.modify(h).await
    }

    /// Bitmaps were added, or changed in another way than by being written to: what is stored becomes what they are
    /// now. Where that fails, the image says that what is stored is not the truth.
    pub async fn bitmaps_changed<H: Host>(&self, h: &H, bitmaps: &[Arc<Bitmap>]) -> IoResult<()> {
        if self.version < 3 || self.live.is_late() {
            return Ok(());
        }
        let keep: Vec<_> = bitmaps.iter().filter(|b| b.persistent()).collect();
        let mut m = self.meta.lock().await;
        self.begin_modify(h, &mut m).await?;
        let believed = Self::believed(&m.header);
        let known: Vec<String> =
            self.shown.read().bitmaps.iter().take(believed).map(|b| b.name.clone()).collect();
        // What somebody works on may still get back what it has lost: what is stored of it stays, which is more.
        let stays = |b: &Bitmap| b.inconsistent() || (b.busy() && known.iter().any(|n| n == b.name()));
        let new: Vec<_> = keep.iter().filter(|b| !stays(b)).map(|b| (*b).clone()).collect();
        let kept = |i: &BitmapInfo| keep.iter().any(|b| stays(b) && b.name() == i.name);
        let done = async {
            // A bitmap that was cleared says: what was written until now is known to somebody. So it must not be lost.
            self.write_back(h, &mut m).await?;
            self.barrier(h).await?;
            self.replace_bitmaps(h, &mut m, &new, kept, true).await
        };
        let done = done.await;
        if let Err(e) = done {
            tracing::error!(node = %self.node_name, "Could not keep dirty bitmaps in the image: {e}");
            self.live_never(h, &mut m).await?;
        }
        Ok(())
    }
}
