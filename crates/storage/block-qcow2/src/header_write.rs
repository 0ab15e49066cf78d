//! Writing a changed header so that a crash leaves one that can be read.

use std::sync::atomic::Ordering;

use base::{Errno, IoResult};

use crate::host::{Host, read_vec, write_bytes};
use crate::image::{Image, Meta};
use crate::spec::ext;

const SECTOR: usize = 512;

impl Image {
    /// Writes the header's extensions and the backing file's name as `m.header` has them, sector by sector and each
    /// stable before the next. Where the extensions grow, the last sector comes first: the old end mark stands in an
    /// earlier one until everything behind it is there. Where they shrink, the first does.
    pub(crate) async fn put_header<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        let mut bytes = m.header.encode().map_err(|_| Errno::NOSPC)?;
        if bytes.len() > SECTOR {
            // The names of features are only for people; without them it may change at once.
            let mut short = m.header.clone();
            short.extensions.retain(|e| e.kind != ext::FEATURE_NAMES);
            if let Ok(b) = short.encode()
                && b.len() <= SECTOR
            {
                (m.header, bytes) = (short, b);
            }
        }
        let cluster = self.geo.cluster_size() as usize;
        let mut new = bytes.clone();
        new.resize(cluster, 0);
        let old = read_vec(h, 0, cluster).await?;
        let last = |b: &[u8]| b.iter().rposition(|v| *v != 0).unwrap_or(0);
        // What fits into one sector changes all at once: the name and the format of the backing file, too. Otherwise the
        // name is first, where it has moved to a place that was empty: then only its place changes.
        let name = &new[8..20];
        let at_once = last(&new) < SECTOR;
        if !at_once && name != &old[8..20] && m.header.backing_file.is_some() {
            let at = u64::from_be_bytes(new[8..16].try_into().unwrap_or_default()) as usize;
            if old[at..bytes.len()].iter().all(|b| *b == 0) {
                write_bytes(h, at as u64, &new[at..bytes.len()]).await?;
                self.unflushed.store(true, Ordering::Release);
                self.barrier(h).await?;
                write_bytes(h, 8, name).await?;
                self.unflushed.store(true, Ordering::Release);
                self.barrier(h).await?;
            }
        }
        let old = read_vec(h, 0, cluster).await?;
        let mut sectors: Vec<usize> = (0..cluster / SECTOR)
            .filter(|s| old[s * SECTOR..(s + 1) * SECTOR] != new[s * SECTOR..(s + 1) * SECTOR])
            .collect();
        if last(&new) >= last(&old) {
            sectors.reverse();
        }
        for s in sectors {
            write_bytes(h, (s * SECTOR) as u64, &new[s * SECTOR..(s + 1) * SECTOR]).await?;
            self.unflushed.store(true, Ordering::Release);
            self.barrier(h).await?;
        }
        self.header_changed(m);
        Ok(())
    }
}
