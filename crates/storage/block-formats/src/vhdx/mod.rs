//! `vhdx`: images of Hyper-V, without a parent.

mod create;
mod log;
mod meta;
pub mod spec;

use self::log::Replay;
use self::meta::Shape;
use self::spec::{HEADER, HEADERS, Header, Region};
use crate::Fault;
use crate::blockmap::{At, Format, Io, Level, Map, Slot, Space, table_run};
use crate::making::uuid;
use base::units::MIB;
use base::{Errno, IoResult};
use block::check::{Fix, Report};
use block::driver::{CtlFuture, Cx, DriverInfo, DriverType, Kind, OpenCx, default_child_perm};
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::sync::atomic::{AtomicBool, Ordering};

/// `vhdx`.
pub static VHDX: DriverType = DriverType {
    name: "vhdx",
    kind: Kind::Format,
    supports_reopen: true,
    children: crate::one_file,
    child_perm: default_child_perm,
    open: crate::blockmap::open_format::<Vhdx>,
    probe: Some(|b, _| if b.starts_with(spec::SIGNATURE) { 100 } else { 0 }),
    create: Some(&create::CREATION),
    shows_places: false,
    ..DriverType::BASE
};

/// The headers as they are in the file.
#[derive(Clone, Copy)]
struct Headers {
    newest: Header,
    /// Which of the two it is.
    place: usize,
}

/// An open image.
pub struct Vhdx {
    headers: Mutex<Headers>,
    shape: Shape,
    bat: u64,
    /// Blocks between entries for bitmaps.
    ratio: u64,
    /// Parts of the file where no block can be.
    taken: Vec<(u64, u64)>,
    /// What must be written before anything is read.
    replay: Option<Replay>,
    /// That has been done, and no check has told of it yet.
    replayed: AtomicBool,
}

async fn headers(io: &Io<'_>) -> Result<Headers, Fault> {
    let mut best: Option<Headers> = None;
    for (place, off) in HEADERS.into_iter().enumerate() {
        let bytes = io.read_array::<HEADER>(off).await?;
        if let Some(h) = Header::parse(&bytes)
            && best.is_none_or(|b| b.newest.sequence < h.sequence)
        {
            best = Some(Headers { newest: h, place });
        }
    }
    best.ok_or_else(|| QError::new("No valid VHDX header found").into())
}

/// The regions: of the first of the two tables that is sound.
async fn regions(io: &Io<'_>) -> IoResult<Vec<Region>> {
    for off in spec::REGION_TABLES {
        let bytes = io.read_vec(off, spec::REGION_TABLE).await?;
        if let Some(all) = spec::regions(&bytes) {
            return Ok(all);
        }
    }
    Err(Errno::INVAL)
}

fn overlap(all: &[(u64, u64)]) -> Result<(), QError> {
    for (i, a) in all.iter().enumerate() {
        for b in &all[..i] {
            if a.0 < b.1 && b.0 < a.1 {
                return Err(qerr!("VHDX region {}-{} overlaps with region {}-{}.", a.0, a.1, b.0, b.1));
            }
        }
    }
    Ok(())
}

async fn open(o: &OpenCx<'_>) -> Result<(Vhdx, Space), Fault> {
    let io = Io::file(&o.cx);
    if io.read_array::<8>(0).await? != *spec::SIGNATURE {
        return Err(Errno::INVAL.into());
    }
    let headers = headers(&io).await?;
    let h = headers.newest;
    let replay = log::read(&io, &h).await?;
    let file_len = io.file_len()?;
    if replay.is_some() && (o.flags.read_only || o.flags.inactive) {
        let name = o.cx.filename().unwrap_or_default();
        return Err(qerr!(
            "VHDX image file '{name}' opened read-only, but contains a log that needs to be replayed"
        )
        .with_hint(format!("To replay the log, run:\nqemu-img check -r all '{name}'\n"))
        .into());
    }
    if replay.is_some() {
        // Nothing else can be trusted before that is done; then the image is opened anew.
        let shape = Shape { block: MIB, ..Shape::default() };
        let (headers, taken, replayed) = (Mutex::new(headers), Vec::new(), AtomicBool::new(false));
        let v = Vhdx { headers, shape, bat: 0, ratio: 1, taken, replay, replayed };
        return Ok((v, Space::default()));
    }
    let regions = regions(&io).await?;
    let mut taken = vec![(0, MIB), (h.log_offset, h.log_offset.saturating_add(u64::from(h.log_length)))];
    let (mut bat, mut metadata) = (None, None);
    for r in &regions {
        let end = r.offset.checked_add(u64::from(r.length)).filter(|e| *e <= block::MAX_OFFSET / 2);
        let Some(end) = end.filter(|_| r.offset >= MIB) else { return Err(Errno::INVAL.into()) };
        taken.push((r.offset, end));
        match r.id {
            spec::BAT_REGION => bat = Some(*r),
            spec::METADATA_REGION => metadata = Some(*r),
            _ if r.required => return Err(Errno::NOTSUP.into()),
            _ => {}
        }
    }
    overlap(&taken)?;
    let (Some(bat), Some(metadata)) = (bat, metadata) else { return Err(Errno::INVAL.into()) };
    let shape = meta::read(&io, &metadata).await?;
    let ratio = spec::chunk_ratio(shape.sector, shape.block);
    let blocks = shape.disk.div_ceil(shape.block);
    let entries = blocks + blocks.saturating_sub(1) / ratio;
    if entries * 8 > u64::from(bat.length) {
        return Err(Errno::INVAL.into());
    }
    let behind = taken.iter().map(|t| t.1).max().unwrap_or(MIB).max(file_len);
    let next = behind.next_multiple_of(MIB);
    let (headers, replayed) = (Mutex::new(headers), AtomicBool::new(false));
    let v = Vhdx { headers, shape, bat: bat.offset, ratio, taken, replay: None, replayed };
    Ok((v, Space { next, zero_from: file_len }))
}

impl Vhdx {
    fn entry_at(&self, block: u64) -> u64 {
        self.bat + 8 * (block + block / self.ratio)
    }

    fn decode(&self, e: u64) -> IoResult<Slot> {
        let off = e & spec::OFFSET;
        match e & spec::STATE {
            spec::PRESENT => {
                let end = off + self.shape.block;
                let free = |t: &(u64, u64)| end <= t.0 || t.1 <= off;
                let placed = off <= block::MAX_OFFSET / 2 && self.taken.iter().all(free);
                if placed { Ok(Slot::Data(off)) } else { Err(Errno::IO) }
            }
            spec::PARTIAL => Err(Errno::IO),
            _ => Ok(Slot::Zero),
        }
    }

    /// Writes a header in the place of the older one, then in that of the other.
    async fn put_header(&self, io: &Io<'_>, header: Header) -> IoResult<()> {
        let mut now = *self.headers.lock();
        now.newest = Header { sequence: now.newest.sequence, ..header };
        for _ in 0..2 {
            now.place = 1 - now.place;
            now.newest.sequence = now.newest.sequence.wrapping_add(1);
            io.write_bytes(HEADERS[now.place], &now.newest.bytes()).await?;
            io.flush().await?;
        }
        *self.headers.lock() = now;
        Ok(())
    }
}

impl Map for Vhdx {
    fn disk_len(&self) -> u64 {
        self.shape.disk
    }

    fn block_size(&self) -> u64 {
        self.shape.block
    }

    async fn find(&self, at: &At<'_>, block: u64, max: u64) -> IoResult<(Slot, u64)> {
        let max = max.min(self.ratio - block % self.ratio);
        let decode = |_, e| self.decode(u64::from_le_bytes(e));
        table_run::<8>(at, self.entry_at(block), max, self.shape.block, decode).await
    }

    async fn begin(&self, at: &At<'_>, _: &mut Space) -> IoResult<()> {
        // Others that have the image in mind see that it is not the same any more.
        let now = self.headers.lock().newest;
        let fresh = || uuid().map_err(|_| Errno::IO);
        let header = Header { file_write: fresh()?, data_write: fresh()?, log: [0; 16], ..now };
        self.put_header(&at.io, header).await
    }

    async fn link(&self, at: &At<'_>, _: &mut Space, block: u64, count: u64, host: u64) -> IoResult<()> {
        for i in 0..count {
            let entry = (host + i * self.shape.block) | spec::PRESENT;
            at.meta.write(&at.io, self.entry_at(block + i), &entry.to_le_bytes(), Level::Entry).await?;
        }
        Ok(())
    }
}

impl Format for Vhdx {
    fn open<'a>(o: &'a OpenCx<'a>) -> CtlFuture<'a, (Vhdx, Space)> {
        Box::pin(async move { open(o).await.map_err(|f| f.of(&o.cx)) })
    }

    fn activate<'a>(&'a self, at: At<'a>) -> CtlFuture<'a, bool> {
        Box::pin(async move {
            let Some(replay) = &self.replay else { return Ok(false) };
            let name = at.io.cx.filename().unwrap_or_default();
            let fail = |e: Errno| qerr!("Could not open '{name}': {e}");
            replay.run(&at.io).await.map_err(fail)?;
            let now = self.headers.lock().newest;
            self.put_header(&at.io, Header { log: [0; 16], ..now }).await.map_err(fail)?;
            Ok(true)
        })
    }

    fn was_repaired(&self) {
        self.replayed.store(true, Ordering::Relaxed);
    }

    fn check<'a>(
        &'a self,
        at: At<'a>,
        _fix: Fix,
        log: &'a mut dyn FnMut(&str),
    ) -> CtlFuture<'a, Option<Report>> {
        Box::pin(async move {
            let fail = |e: Errno| qerr!("Could not read the BAT: {e}");
            let mut report = Report::default();
            // That was done when the image was opened; it is told once.
            report.corruptions_fixed += u64::from(self.replayed.swap(false, Ordering::Relaxed));
            let file_len = at.io.file_len().map_err(fail)?;
            let blocks = self.shape.disk.div_ceil(self.shape.block);
            for block in 0..blocks {
                let place = self.entry_at(block);
                let e = u64::from_le_bytes(at.meta.array(&at.io, place).await.map_err(fail)?);
                if e & spec::STATE != spec::PRESENT {
                    continue;
                }
                let (off, n) = (e & spec::OFFSET, (place - self.bat) / 8);
                let end = off.saturating_add(self.shape.block);
                let behind = "points after end of file";
                if off >= file_len {
                    log(&format!(
                        "VHDX BAT entry {n} start offset {off} {behind} ({file_len}). Image has probably been truncated."
                    ));
                    report.corruptions += 1;
                } else if end > file_len && block + 1 < blocks {
                    log(&format!(
                        "VHDX BAT entry {n} end offset {end} {behind} ({file_len}). Image has probably been truncated."
                    ));
                    report.corruptions += 1;
                } else if self.decode(e).is_err() {
                    log(&format!("VHDX BAT entry {n} offset {off} lies in metadata"));
                    report.corruptions += 1;
                }
            }
            Ok(Some(report))
        })
    }

    fn info(&self, _cx: &Cx<'_>) -> DriverInfo {
        DriverInfo { cluster_size: Some(self.shape.block), dirty: Some(false), ..DriverInfo::default() }
    }
}
