//! Keeping dirty bitmaps in the image.
//!
//! While the image may be written, every stored bitmap is marked as in use: what is stored is out of date then, and
//! whoever opens the image after a crash sees that. When the node closes or becomes read-only, the bitmaps are stored
//! anew: data, tables and directory go to fresh clusters, and only when all of that is stable does the header lead to
//! it. Meanwhile the autoclear bit is off, so that nobody takes a half-written state for the truth.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{Errno, IoResult};
use block::bitmap::Bitmap;
use qapi::{QError, qerr};

use crate::bitmap::BitmapInfo;
use crate::header::BitmapsExt;
use crate::host::{Host, read_vec, write_bytes};
use crate::image::{Image, Meta};
use crate::overlap::Section;
use crate::spec::{self, autoclear, bitmap as flag, field};

/// The entry of a bitmap's table for a cluster of ones.
const ALL_ONES: u64 = 1;

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
        let list = self.shown.read().bitmaps.clone();
        let mut out = Vec::with_capacity(list.len());
        for b in list {
            let granularity = 1u32 << b.granularity_bits;
            if b.flags & flag::IN_USE != 0 {
                out.push(Bitmap::broken(&b.name, granularity));
                continue;
            }
            let fail = |e: &str| qerr!("Could not read bitmap '{}' from image: {e}", b.name);
            let auto = b.flags & flag::AUTO != 0;
            let bitmap = Bitmap::new(&b.name, self.virtual_size(), granularity, true, auto)?;
            let cs = self.geo.cluster_size();
            let mut bits = bitmap.bits();
            let bytes = bits.len().div_ceil(8);
            if u64::from(b.table_size) != bytes.div_ceil(cs) {
                return Err(fail("its table does not fit the size of the disk"));
            }
            let table = read_vec(h, b.table_offset, b.table_size as usize * 8).await;
            let table = spec::table_from_bytes(&table.map_err(|e| fail(&e.to_string()))?);
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

    /// Marks every stored bitmap as in use; stable when it ends. The metadata lock is held.
    pub(crate) async fn mark_bitmaps<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
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

    async fn set_autoclear<H: Host>(&self, h: &H, m: &mut Meta, on: bool) -> IoResult<()> {
        let bits = if on {
            m.header.autoclear | autoclear::BITMAPS
        } else {
            m.header.autoclear & !autoclear::BITMAPS
        };
        if bits != m.header.autoclear {
            write_bytes(h, field::AUTOCLEAR as u64, &bits.to_be_bytes()).await?;
            m.header.autoclear = bits;
            self.header_changed(m);
            self.barrier(h).await?;
        }
        Ok(())
    }

    /// Stores these bitmaps, and keeps those entries of the directory that `keep` says. Everything is as before where it
    /// fails before the header changes; after that, the bitmaps may be lost, and the image says so.
    async fn replace_bitmaps<H: Host>(
        &self,
        h: &H,
        bitmaps: &[Arc<Bitmap>],
        keep: impl Fn(&BitmapInfo) -> bool,
    ) -> IoResult<()> {
        let mut m = self.meta.lock().await;
        let m = &mut *m;
        let old = if Self::bitmaps_valid(m) { self.shown.read().bitmaps.clone() } else { Vec::new() };
        let old_ext = m.header.bitmaps.filter(|_| Self::bitmaps_valid(m));
        let (kept, gone): (Vec<_>, Vec<_>) = old.into_iter().partition(|b| keep(b));
        if bitmaps.is_empty() && gone.is_empty() {
            return Ok(());
        }
        self.begin_modify(h, m).await?;
        let mut fresh = Vec::new();
        let mut list = kept;
        let stored = self.store_all(h, m, bitmaps, &mut list, &mut fresh).await;
        // The names of features are only for people: they give way where the first cluster has no room for both.
        let fits = |ext: &Option<BitmapsExt>, m: &mut Meta| {
            let mut next = m.header.clone();
            next.bitmaps = *ext;
            if next.encode().is_err() {
                next.extensions.retain(|e| e.kind != spec::ext::FEATURE_NAMES);
                next.encode().map_err(|_| Errno::NOSPC)?;
                m.header.extensions = next.extensions;
            }
            Ok(*ext)
        };
        let ext = match stored.and_then(|ext| fits(&ext, m)) {
            Ok(ext) => ext,
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
        self.set_autoclear(h, m, false).await?;
        m.header.bitmaps = ext;
        self.put_header(h, m).await?;
        self.set_autoclear(h, m, ext.is_some()).await?;
        let place = ext.map_or(0..0, |x| {
            let first = x.directory_offset >> self.geo.cluster_bits;
            first..first + self.geo.clusters(x.directory_size)
        });
        self.places.write().protected.moved(Section::BitmapDirectory, place);
        self.shown.write().bitmaps = list;
        for (first, n) in release {
            self.release(m, first, n, false);
        }
        self.write_back(h, m).await
    }

    async fn store_all<H: Host>(
        &self,
        h: &H,
        m: &mut Meta,
        bitmaps: &[Arc<Bitmap>],
        list: &mut Vec<BitmapInfo>,
        fresh: &mut Vec<(u64, u64)>,
    ) -> IoResult<Option<BitmapsExt>> {
        for b in bitmaps {
            list.push(self.store_one(h, m, b, fresh).await?);
        }
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
        fresh: &mut Vec<(u64, u64)>,
    ) -> IoResult<BitmapInfo> {
        let cs = self.geo.cluster_size();
        let bits = b.bits();
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
                self.put_fresh(h, m, &data, fresh).await?
            });
        }
        let table_offset =
            if clusters > 0 { self.put_fresh(h, m, &spec::table_to_bytes(&table), fresh).await? } else { 0 };
        Ok(BitmapInfo {
            name: b.name().to_owned(),
            granularity_bits: b.granularity().trailing_zeros() as u8,
            flags: if b.enabled() { flag::AUTO } else { 0 },
            table_offset,
            table_size: clusters as u32,
            kind: flag::DIRTY_TRACKING,
            extra: Vec::new(),
        })
    }

    /// Writes bytes to fresh clusters, the rest of the last one zeroes; answers where.
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
        let mut whole = bytes.to_vec();
        whole.resize((n << self.geo.cluster_bits) as usize, 0);
        self.check_data_place(h, off, whole.len() as u64).await?;
        self.unflushed.store(true, Ordering::Release);
        write_bytes(h, off, &whole).await?;
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
        // The oldest first, as they were made.
        let good: Vec<_> = keep.iter().rev().filter(|b| !b.inconsistent()).map(|b| (*b).clone()).collect();
        let fresh = !self.modifying.load(Ordering::Acquire);
        if self.check_usable().is_err() || (fresh && good.iter().all(|b| self.is_stored(b.name()))) {
            return Ok(());
        }
        let broken = |i: &BitmapInfo| keep.iter().any(|b| b.inconsistent() && b.name() == i.name);
        self.replace_bitmaps(h, &good, broken).await
    }

    fn is_stored(&self, name: &str) -> bool {
        self.shown.read().bitmaps.iter().any(|b| b.name == name && b.flags & flag::IN_USE == 0)
    }

    /// Removes a stored bitmap, if there is one of this name.
    pub async fn remove_stored_bitmap<H: Host>(&self, h: &H, name: &str) -> IoResult<()> {
        self.replace_bitmaps(h, &[], |b| b.name != name).await
    }

    /// A bitmap is about to differ from what is stored.
    pub async fn bitmaps_change<H: Host>(&self, h: &H) -> IoResult<()> {
        self.modify(h).await
    }
}
