//! `blklogwrites`: passes on what is written, and keeps a log from which every state on the way can be made again.
//!
//! A write is in the log once it has been done, and overlapping writes are there in the order in which they were done. A flush
//! is there behind all writes that it made stable, and before all others.

use crate::dm_log::{DISCARD, ENTRY_LEN, Entry, FLUSH, SUPER_LEN, Super, check_sector};
use api::block_core::{BlockdevDriverOptions, BlockdevOptions, BlockdevOptionsBlklogwrites};
use base::{Errno, IoResult};
use block::Ranges;
use block::driver::{
    Caps, ChildDef, ChildOption, ChildSlot, CtlFuture, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture,
    Kind, Limits, NodeFlags, OpenCx, OpenFuture, Prealloc, Support, WriteFlags, ZeroFlags,
};
use block::perm::{Perm, PermPair, Role};
use mem::IoBuf;
use qapi::{QError, qerr};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// `blklogwrites`.
pub static BLKLOGWRITES: DriverType = DriverType {
    name: "blklogwrites",
    kind: Kind::Filter,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: false,
    children,
    child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

const FILE: ChildSlot = ChildSlot::File;
const LOG: ChildSlot = ChildSlot::Other(0);

/// The superblock is written after so many entries, unless the options say otherwise.
const INTERVAL: u64 = 4096;

fn children(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    smallvec![
        ChildOption { name: "file", slot: FILE, role: Role::FILTERED | Role::PRIMARY, required: true },
        ChildOption { name: "log", slot: LOG, role: Role::METADATA, required: true },
    ]
}

fn child_perm(child: &ChildDef, parent: PermPair, next: &NodeFlags) -> PermPair {
    if child.slot == FILE {
        return parent;
    }
    let mut perm = Perm::CONSISTENT_READ;
    if !next.read_only && !next.inactive {
        perm |= Perm::WRITE | Perm::RESIZE;
    }
    PermPair { perm, shared: Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED }
}

struct Blklogwrites {
    sector: u32,
    /// How many entries are written before the superblock is.
    interval: u64,
    log: rt::sync::Mutex<Log>,
    /// What is being written: overlapping writes are done one after another, a flush apart from all writes.
    ranges: Arc<Ranges>,
}

/// Where the log is.
struct Log {
    /// How many entries it has.
    entries: u64,
    /// Where the next one goes, bytes.
    end: u64,
    /// How many entries the superblock in the log says; `None` if it is not there or another log's.
    said: Option<u64>,
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let BlockdevDriverOptions::Blklogwrites(options) = &o.options.driver else {
            return Err(QError::new("The options are not those of 'blklogwrites'"));
        };
        let interval = options.log_super_update_interval.unwrap_or(INTERVAL);
        let append = options.log_append == Some(true);
        if append && options.log_sector_size.is_some() {
            return Err(qerr!("log-append and log-sector-size are mutually exclusive"));
        }
        // A log without a byte is begun.
        let append = append && o.cx.child_len(LOG).is_ok_and(|n| n > 0);
        let (sector, log) = if append { find_end(&o.cx).await? } else { fresh(options)? };
        if interval == 0 {
            return Err(qerr!("Invalid log superblock update interval 0"));
        }
        Ok(Arc::new(Blklogwrites {
            sector,
            interval,
            log: rt::sync::Mutex::new(log),
            ranges: Arc::new(Ranges::default()),
        }) as Arc<dyn Driver>)
    })
}

fn fresh(options: &BlockdevOptionsBlklogwrites) -> Result<(u32, Log), QError> {
    let sector = options.log_sector_size.unwrap_or(512);
    check_sector(sector)?;
    Ok((sector, Log { entries: 0, end: sector.into(), said: None }))
}

/// Walks through a log that is there already.
async fn find_end(cx: &Cx<'_>) -> Result<(u32, Log), QError> {
    let have = cx.child_len(LOG).map_err(|e| qerr!("Could not read log superblock: {e}"))?;
    let first = read::<SUPER_LEN>(cx, 0).await.map_err(|e| qerr!("Could not read log superblock: {e}"))?;
    let Super { entries, sector } = Super::decode(&first)?;
    let mut end = u64::from(sector);
    for n in 0..entries {
        let short = || qerr!("The log ends before its entry {n} does");
        if end.saturating_add(ENTRY_LEN as u64) > have {
            return Err(short());
        }
        let bytes =
            read::<ENTRY_LEN>(cx, end).await.map_err(|e| qerr!("Failed to read log entry {n}: {e}"))?;
        let len = Entry::decode(&bytes, n)?.len(sector).ok_or_else(short)?;
        end = end.checked_add(len).ok_or_else(short)?;
    }
    Ok((sector, Log { entries, end, said: Some(entries) }))
}

async fn read<const N: usize>(cx: &Cx<'_>, off: u64) -> IoResult<[u8; N]> {
    let buf = IoBuf::zeroed(N);
    cx.child_read(LOG, off, buf.clone()).await?;
    let mut bytes = [0; N];
    buf.copy_to(0, &mut bytes);
    Ok(bytes)
}

/// What comes behind an entry.
enum Data {
    None,
    Bytes(IoBuf),
    Zeroes(u64),
}

impl Blklogwrites {
    /// Writes the superblock if it says something else than the log has.
    async fn tell(&self, cx: &Cx<'_>, log: &mut Log) -> IoResult<()> {
        if log.said == Some(log.entries) {
            return Ok(());
        }
        // A whole sector: what another log had there is gone.
        let buf = IoBuf::zeroed(self.sector as usize);
        buf.copy_from(0, &Super { entries: log.entries, sector: self.sector }.encode());
        log.said = None;
        cx.child_write(LOG, 0, buf, WriteFlags::empty()).await?;
        log.said = Some(log.entries);
        Ok(())
    }

    /// Puts an entry at the end. It counts only if all of it could be written.
    async fn append(&self, cx: &Cx<'_>, flags: u64, off: u64, len: u64, data: Data) -> IoResult<()> {
        let mut log = self.log.lock().await;
        if log.entries == 0 && log.said.is_none() {
            // From here on the log is this one, whatever was there before.
            self.tell(cx, &mut log).await?;
        }
        let unit = u64::from(self.sector);
        let entry = Entry { first: off / unit, count: len / unit, flags, data_len: 0 };
        let size = entry.len(self.sector).ok_or(Errno::FBIG)?;
        let end = log.end.checked_add(size).ok_or(Errno::FBIG)?;
        let head = IoBuf::zeroed(self.sector as usize);
        head.copy_from(0, &entry.encode());
        match data {
            Data::None => cx.child_write(LOG, log.end, head, WriteFlags::empty()).await?,
            Data::Bytes(b) => {
                let mut whole = head;
                whole.append(b);
                cx.child_write(LOG, log.end, whole, WriteFlags::empty()).await?;
            }
            Data::Zeroes(n) => {
                cx.child_write(LOG, log.end, head, WriteFlags::empty()).await?;
                cx.child_write_zeroes(LOG, log.end + unit, n, ZeroFlags::empty()).await?;
            }
        }
        log.end = end;
        log.entries += 1;
        if log.entries.is_multiple_of(self.interval) {
            self.tell(cx, &mut log).await?;
        }
        Ok(())
    }
}

impl Driver for Blklogwrites {
    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.child_len(FILE).unwrap_or(0)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        let mut l = cx.child_limits(FILE).unwrap_or_default();
        l.request_alignment = l.request_alignment.max(self.sector);
        l
    }

    fn caps(&self, cx: &Cx<'_>) -> Caps {
        let below = cx.child_caps(FILE).unwrap_or_default();
        Caps { fua: Support::Emulate, ..below }
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let have = cx.child_len(FILE)?.saturating_sub(off);
            let len = len.min(have.max(1));
            Ok(Extent { len, kind: ExtentKind::Child { slot: FILE, offset: off }, eof: len >= have })
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let len = buf.len() as u64;
            let _alone = self.ranges.lock(off, off.saturating_add(len), true).await;
            // What is logged is what is written, also where the memory changes meanwhile (a guest's).
            let stable = IoBuf::zeroed(buf.len());
            stable.copy_from_buf(&buf);
            cx.child_write(FILE, off, stable.clone(), flags).await?;
            self.append(cx, 0, off, len, Data::Bytes(stable)).await
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let _alone = self.ranges.lock(off, off.saturating_add(len), true).await;
            cx.child_write_zeroes(FILE, off, len, flags).await?;
            self.append(cx, 0, off, len, Data::Zeroes(len)).await
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move {
            let _alone = self.ranges.lock(off, off.saturating_add(len), true).await;
            cx.child_discard(FILE, off, len).await?;
            self.append(cx, DISCARD, off, len, Data::None).await
        })
    }

    fn flush<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move {
            // No write ends, and is logged, between the flush and its entry.
            let _alone = self.ranges.lock(0, u64::MAX, true).await;
            cx.child_flush(FILE).await?;
            self.append(cx, FLUSH, 0, 0, Data::None).await?;
            self.tell(cx, &mut *self.log.lock().await).await
            // The core flushes the log afterwards.
        })
    }

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(cx.child_truncate(FILE, len, exact, prealloc))
    }

    fn activate<'a>(&'a self, cx: &'a Cx<'a>) -> CtlFuture<'a> {
        Box::pin(async move {
            let flags = cx.flags();
            if flags.read_only || flags.inactive {
                return Ok(());
            }
            let mut log = self.log.lock().await;
            self.tell(cx, &mut log).await.map_err(|e| qerr!("Could not write the log: {e}"))
        })
    }

    fn close<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move {
            let flags = cx.flags();
            let mut log = self.log.lock().await;
            if flags.read_only || flags.inactive || log.said == Some(log.entries) {
                return Ok(());
            }
            self.tell(cx, &mut log).await?;
            cx.child_flush(LOG).await
        })
    }
}
