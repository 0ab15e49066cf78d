//! `parallels`: expandable images of Parallels, one file each.

mod check;
mod create;
pub mod spec;

use self::spec::{HEADER, Header, IN_USE, IN_USE_AT};
use crate::blockmap::{At, Format, Io, Level, Map, Slot, Space, Zeroing, table_run};
use base::{Errno, IoResult};
use block::check::{Fix, Report};
use block::driver::{CtlFuture, DriverType, Kind, OpenCx, default_child_perm};
use qapi::{QError, qerr};
use std::sync::atomic::{AtomicBool, Ordering};

/// `parallels`.
pub static PARALLELS: DriverType = DriverType {
    name: "parallels",
    kind: Kind::Format,
    supports_reopen: true,
    children: crate::one_file,
    child_perm: default_child_perm,
    open: crate::blockmap::open_format::<Parallels>,
    probe: Some(|b, _| match b.first_chunk() {
        Some(h) if Header::parse(h).is_some() => 100,
        _ => 0,
    }),
    create: Some(&create::CREATION),
    ..DriverType::BASE
};

/// An open image.
pub struct Parallels {
    header: Header,
    /// Bytes of a cluster.
    cluster: u64,
    /// Bytes that a table entry counts.
    unit: u64,
    /// Where clusters begin.
    data: u64,
    /// The image was in use when it was opened, and has not been checked since.
    unclean: AtomicBool,
    /// Something is wrong that can be seen at once, and is to be put right when the image is opened for writing.
    repair: bool,
}

impl Parallels {
    fn entry_at(block: u64) -> u64 {
        HEADER as u64 + 4 * block
    }

    fn decode(&self, e: u32) -> Slot {
        if e == 0 { Slot::Unallocated } else { Slot::Data(u64::from(e) * self.unit) }
    }

    /// Where clusters begin by the length of the table alone.
    fn data_by_table(h: &Header, cluster: u64) -> u64 {
        let end = HEADER as u64 + 4 * u64::from(h.entries);
        if h.ext { end.next_multiple_of(cluster) } else { end.next_multiple_of(512) }
    }

    /// Whether clusters cannot begin in sector `data_off`: in the table, or behind the end of the file.
    fn misplaced(h: &Header, data_off: u32, cluster: u64, file_len: u64) -> bool {
        let off = u64::from(data_off) * 512;
        (data_off != 0 || h.ext) && (off < Parallels::data_by_table(h, cluster) || off > file_len)
    }

    async fn mark(&self, at: &At<'_>, in_use: bool) -> IoResult<()> {
        let mark = if in_use { IN_USE } else { 0 };
        at.meta.write(&at.io, IN_USE_AT, &mark.to_le_bytes(), Level::Early).await?;
        at.meta.write_back(&at.io).await
    }

    /// The table from entry `first` on: some entries of it.
    async fn entries(&self, at: &At<'_>, first: u32) -> IoResult<Vec<u32>> {
        let n = (self.header.entries - first) as usize;
        at.meta
            .with(&at.io, Parallels::entry_at(u64::from(first)), |b| {
                b.as_chunks::<4>().0.iter().take(n).map(|e| u32::from_le_bytes(*e)).collect()
            })
            .await
    }

    /// Whether an entry's cluster is in the file behind the table.
    fn inside(&self, e: u32, file_len: u64) -> bool {
        let off = u64::from(e) * self.unit;
        off >= self.data && off + self.cluster <= file_len
    }
}

impl Map for Parallels {
    fn disk_len(&self) -> u64 {
        self.header.sectors * 512
    }

    fn block_size(&self) -> u64 {
        self.cluster
    }

    fn zeroing(&self, off: u64, len: u64) -> Zeroing {
        let whole = off.is_multiple_of(self.cluster) && len.is_multiple_of(self.cluster);
        if whole { Zeroing::GivenUp } else { Zeroing::Stored }
    }

    fn gives_up(&self, off: u64, len: u64) -> bool {
        self.zeroing(off, len) == Zeroing::GivenUp
    }

    fn mark_is_none(&self) -> bool {
        true
    }

    /// A cluster that is nowhere shows zeroes.
    async fn mark_zero(&self, at: &At<'_>, _: &mut Space, block: u64) -> IoResult<()> {
        at.meta.write(&at.io, Parallels::entry_at(block), &[0; 4], Level::Entry).await
    }

    async fn find(&self, at: &At<'_>, block: u64, max: u64) -> IoResult<(Slot, u64)> {
        if block >= u64::from(self.header.entries) {
            return Ok((Slot::Unallocated, max));
        }
        let max = max.min(u64::from(self.header.entries) - block);
        let off = Parallels::entry_at(block);
        table_run::<4>(at, off, max, self.cluster, |_, e| Ok(self.decode(u32::from_le_bytes(e)))).await
    }

    async fn begin(&self, at: &At<'_>, space: &mut Space) -> IoResult<()> {
        if self.unclean.load(Ordering::Acquire) {
            let r = check::check(self, *at, Fix::All, &mut tell).await?;
            if r.corruptions + r.check_errors > 0 {
                return Err(Errno::IO);
            }
            *space = Space { next: r.image_end_offset, zero_from: at.io.file_len()? };
        }
        self.mark(at, true).await?;
        at.io.flush().await
    }

    async fn reserve(&self, _: &At<'_>, space: &mut Space, block: u64, count: u64) -> IoResult<(u64, u64)> {
        let left = u64::from(self.header.entries).saturating_sub(block);
        let count = count.min(left);
        if count == 0 || (space.next + count * self.cluster) / self.unit > u64::from(u32::MAX) {
            return Err(Errno::NOSPC);
        }
        Ok((space.take(count * self.cluster)?, count))
    }

    async fn link(&self, at: &At<'_>, _: &mut Space, block: u64, count: u64, host: u64) -> IoResult<()> {
        for i in 0..count {
            let entry = ((host + i * self.cluster) / self.unit) as u32;
            at.meta.write(&at.io, Parallels::entry_at(block + i), &entry.to_le_bytes(), Level::Entry).await?;
        }
        Ok(())
    }

    async fn finish(&self, at: &At<'_>, _: &mut Space) -> IoResult<()> {
        at.io.flush().await?;
        self.mark(at, false).await
    }
}

/// What a repair does that nobody asked for.
fn tell(line: &str) {
    tracing::info!(target: "plain", "{line}");
}

/// The clusters of a file that the table leads to, to find two entries that lead to one.
struct Taken(Vec<u64>);

impl Taken {
    /// Most bytes of memory for that; in longer files only a check looks.
    const MAX: u64 = 64 << 20;

    fn new(clusters: u64) -> Taken {
        let words = clusters / 64 + 1;
        Taken(if words * 8 > Taken::MAX { Vec::new() } else { vec![0; words as usize] })
    }

    /// Takes a cluster; true where it was taken already.
    fn again(&mut self, cluster: u64) -> bool {
        let Some(word) = self.0.get_mut((cluster / 64) as usize) else { return false };
        let bit = 1 << (cluster % 64);
        std::mem::replace(word, *word | bit) & bit != 0
    }
}

async fn open(o: &OpenCx<'_>) -> Result<(Parallels, Space), QError> {
    let io = Io::file(&o.cx);
    let fail = |e: Errno| qerr!("Could not read the Parallels header: {e}");
    let bytes = io.read_array::<HEADER>(0).await.map_err(fail)?;
    let header = Header::parse(&bytes).ok_or_else(|| QError::new("Image not in Parallels format"))?;
    if header.tracks == 0 {
        return Err(QError::new("Invalid image: Zero sectors per track"));
    }
    if header.tracks > i32::MAX as u32 / 513 {
        return Err(QError::new("Invalid image: Too big cluster"));
    }
    if header.entries > i32::MAX as u32 / 4 {
        return Err(QError::new("Catalog too large"));
    }
    let cluster = u64::from(header.tracks) * 512;
    let file_len = io.file_len().map_err(fail)?;
    let table_end = HEADER as u64 + 4 * u64::from(header.entries);
    // The high half of the number of sectors is rubbish in old images.
    let sectors = if header.ext { header.sectors } else { header.sectors & 0xffff_ffff };
    if sectors > block::MAX_OFFSET / 512 || table_end > file_len.next_multiple_of(512) {
        return Err(QError::new("Catalog too large"));
    }
    let header = Header { sectors, ..header };
    let writable = !o.flags.read_only && !o.flags.inactive;
    if header.ext_off != 0 && writable {
        tracing::warn!("Format Extension ignored in RW mode");
    }
    // A wrong one is set right by a check.
    let misplaced = Parallels::misplaced(&header, header.data_off, cluster, file_len);
    let data = match u64::from(header.data_off) * 512 {
        d if d == 0 || misplaced => Parallels::data_by_table(&header, cluster),
        d => d,
    };
    let unit = if header.ext { cluster } else { 512 };
    let unclean = AtomicBool::new(header.in_use == IN_USE);
    let repair = header.in_use == IN_USE || misplaced;
    let mut p = Parallels { header, cluster, unit, data, unclean, repair };
    let mut next = p.data;
    let mut taken = Taken::new(file_len / cluster);
    let mut at = 0;
    while at < header.entries {
        let n = (header.entries - at).min(16 << 10);
        let bytes = io.read_vec(Parallels::entry_at(u64::from(at)), 4 * n as usize).await.map_err(fail)?;
        for e in bytes.as_chunks::<4>().0.iter().map(|e| u32::from_le_bytes(*e)).filter(|e| *e != 0) {
            let off = u64::from(e) * p.unit;
            // What lies behind the end of the file is a matter of a check, and nothing is put there.
            if off + cluster <= file_len.saturating_add(cluster) {
                next = next.max(off + cluster);
            }
            p.repair |= off + cluster > file_len || taken.again(off / cluster);
        }
        at += n;
    }
    p.repair &= !o.checking;
    // Clusters of newer images lie on multiples of their length.
    if p.header.ext {
        next = next.next_multiple_of(cluster);
    }
    Ok((p, Space { next, zero_from: file_len }))
}

impl Format for Parallels {
    fn open<'a>(o: &'a OpenCx<'a>) -> CtlFuture<'a, (Parallels, Space)> {
        Box::pin(open(o))
    }

    fn activate<'a>(&'a self, at: At<'a>) -> CtlFuture<'a, bool> {
        Box::pin(async move {
            if !self.repair {
                return Ok(false);
            }
            match check::check(self, at, Fix::All, &mut tell).await {
                Ok(r) if r.corruptions + r.check_errors == 0 => Ok(true),
                _ => Err(QError::new("Could not repair corrupted image")),
            }
        })
    }

    fn check<'a>(
        &'a self,
        at: At<'a>,
        fix: Fix,
        log: &'a mut dyn FnMut(&str),
    ) -> CtlFuture<'a, Option<Report>> {
        Box::pin(async move {
            let report = check::check(self, at, fix, log).await;
            report.map(Some).map_err(|e| qerr!("Could not check the image: {e}"))
        })
    }
}
