//! Writing compressed clusters: several share a cluster of the file, byte by byte.

use std::sync::atomic::Ordering;

use api::block_core::BlkdebugEvent as Event;
use base::{Errno, IoResult};
use mem::IoBuf;

use crate::compress;
use crate::geometry::Entry;
use crate::host::Host;
use crate::image::{Image, Meta};
use crate::spec;

impl Image {
    /// Stores whole clusters compressed; the last one may end at the disk's end. What does not get smaller is stored
    /// plain. `EINVAL` where the range is no such thing.
    pub async fn write_compressed<H: Host>(&self, h: &H, off: u64, buf: IoBuf) -> IoResult<()> {
        let g = self.geo;
        if g.data_file {
            return Err(Errno::NOTSUP);
        }
        let end = off.checked_add(buf.len() as u64).filter(|e| *e <= self.virtual_size()).ok_or(Errno::IO)?;
        if g.in_cluster(off) != 0 || (g.in_cluster(end) != 0 && end != self.virtual_size()) {
            return Err(Errno::INVAL);
        }
        self.modify(h).await?;
        let mut at = off;
        while at < end {
            let n = g.cluster_size().min(end - at);
            let part = buf.slice((at - off) as usize..(at + n - off) as usize);
            let mut plain = part.to_vec();
            plain.resize(g.cluster_size() as usize, 0);
            let kind = self.shown.read().header.compression;
            match rt::unblock(move || compress::compress(kind, &plain)).await? {
                Some(small) => self.write_packed(h, at, small).await?,
                None => self.write(h, at, part).await?,
            }
            at += n;
        }
        Ok(())
    }

    async fn write_packed<H: Host>(&self, h: &H, at: u64, small: Vec<u8>) -> IoResult<()> {
        let g = self.geo;
        let _guard = self.ranges.exclusive(at..at + g.cluster_size()).await;
        let n = small.len() as u64;
        let host = {
            let mut m = self.meta.lock().await;
            self.begin_modify(h, &mut m).await?;
            self.own_table(h, &mut m, at).await?;
            self.alloc_bytes(h, &mut m, n).await?
        };
        let last = host + n - 1;
        let wrote = match self.check_data_place(h, host, n).await {
            Ok(()) => {
                h.event(Event::WriteCompressed).await;
                h.write(host, IoBuf::from_bytes(&small)).await
            }
            e => e,
        };
        self.unflushed.store(true, Ordering::Release);
        let mut m = self.meta.lock().await;
        let sectors = (last >> 9) - (host >> 9);
        let entry = spec::COMPRESSED | sectors << g.compressed_shift() | host;
        let (old, linked) = match wrote {
            Ok(()) => {
                h.event(Event::L2UpdateCompressed).await;
                self.change_entries(h, &mut m, at, 1, |_, _| Entry { word: entry, bits: 0 }).await
            }
            Err(e) => (Vec::new(), Err(e)),
        };
        let (first, last) = (host >> g.cluster_bits, last >> g.cluster_bits);
        if old.is_empty() {
            self.unalloc(h, &mut m, first, last - first + 1).await;
        }
        let discard = self.config.read().discard_other;
        for e in old {
            self.release_entry(&mut m, e, discard);
        }
        linked?;
        if self.map.read().crowded() {
            self.write_back(h, &mut m).await?;
        }
        Ok(())
    }

    /// Finds `n` bytes (at most a cluster), if it can behind the compressed cluster that was written last. Each cluster
    /// that they touch gets a reference.
    async fn alloc_bytes<H: Host>(&self, h: &H, m: &mut Meta, n: u64) -> IoResult<u64> {
        let g = self.geo;
        h.event(Event::ClusterAllocBytes).await;
        if let Some(at) = m.packed.take() {
            let cluster = at >> g.cluster_bits;
            let have = self.refcount(h, m, cluster).await?;
            if have > 0 && have < g.refcount_max() {
                let room = g.cluster_size() - g.in_cluster(at);
                if n > room {
                    let next = self.take(h, m, 1).await?;
                    // Allocating may have dropped references.
                    let have = self.refcount(h, m, cluster).await?;
                    if next != cluster + 1 || have == 0 || have == g.refcount_max() {
                        return self.begin_pack(m, next, n);
                    }
                    self.set_refcount(h, m, cluster, have + 1).await?;
                } else {
                    self.set_refcount(h, m, cluster, have + 1).await?;
                }
                let end = at + n;
                m.packed = (g.in_cluster(end) != 0).then_some(end);
                return Ok(at);
            }
        }
        let cluster = self.take(h, m, 1).await?;
        self.begin_pack(m, cluster, n)
    }

    fn begin_pack(&self, m: &mut Meta, cluster: u64, n: u64) -> IoResult<u64> {
        let g = self.geo;
        let host = cluster << g.cluster_bits;
        if host >> g.compressed_shift() != 0 {
            return Err(Errno::FBIG);
        }
        m.packed = (n < g.cluster_size()).then_some(host + n);
        Ok(host)
    }
}
