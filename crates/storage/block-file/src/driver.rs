//! The driver: requests on the open descriptor.

use api::block_core::{
    BlockStatsSpecific, BlockStatsSpecificFile, BlockdevAioOptions, BlockdevOptionsFile, ImageInfoSpecific,
    ImageInfoSpecificFile,
};
use api::common::OnOffAuto;
use base::units::{align_down, align_up};
use base::{Errno, IoResult};
use block::driver::{
    Caps, CtlFuture, Cx, Driver, DriverInfo, Extent, ExtentKind, IoFuture, Limits, NodeFlags, NodePlan,
    Prealloc, Staged, Support, WriteFlags, ZeroFlags,
};
use block::zoned::{Zone, ZoneLimits, ZoneOp};
use mem::IoBuf;
use parking_lot::{Mutex, RwLock};
use qapi::{QError, qerr};
use rt::AioMode;
use rustix::fs::{AtFlags, SeekFrom, StatxFlags};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use crate::cdrom::{Drive, HostDrive};
use crate::known::KnownData;
use crate::lock::{self, Locks};
use crate::open::{self, FileKind, Open, OpenMode, Want};
use crate::zoned::{self, Zoned};
use crate::{stage, sys};

/// Zeroes are written in pieces of this many bytes where space is preallocated in full.
const ZERO_CHUNK: u64 = 1 << 20;
/// How much of an empty file is there at once when it gets a length, bytes.
const FIRST_BLOCK: u64 = 4096;

/// The discards so far.
#[derive(Debug, Default)]
pub(crate) struct Discards {
    ok: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

impl Discards {
    fn count(&self, len: u64, ok: bool) {
        if ok {
            self.ok.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(len, Ordering::Relaxed);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn info(&self) -> BlockStatsSpecificFile {
        BlockStatsSpecificFile {
            discard_nb_ok: self.ok.load(Ordering::Relaxed),
            discard_nb_failed: self.failed.load(Ordering::Relaxed),
            discard_bytes_ok: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// What stays the same for as long as the node lives.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) want: Want,
    pub(crate) filename: String,
    pub(crate) aio: AioMode,
    locking: OnOffAuto,
    /// What `host_cdrom` asks for its disc.
    pub(crate) drive: Option<Arc<dyn Drive>>,
}

impl Config {
    pub(crate) fn new(want: Want, o: &BlockdevOptionsFile, flags: NodeFlags) -> Result<Config, QError> {
        crate::check_supported(o)?;
        if o.filename.is_empty() {
            return Err(qerr!("The '{}' block driver requires a file name", want.driver()));
        }
        let aio = match o.aio {
            Some(BlockdevAioOptions::Threads) => AioMode::Threads,
            Some(BlockdevAioOptions::Native) => AioMode::Native,
            // Not asked for: the cheapest way that the host has.
            Some(BlockdevAioOptions::IoUring) | None => AioMode::IoUring,
        };
        let drive = (want == Want::Cdrom).then(|| Arc::new(HostDrive) as Arc<dyn Drive>);
        let locking = o.locking.unwrap_or(OnOffAuto::Auto);
        let config = Config { want, filename: o.filename.clone(), aio, locking, drive };
        config.check_flags(flags)?;
        Ok(config)
    }

    /// The rule that native asynchronous I/O is not for the page cache.
    pub(crate) fn check_flags(&self, flags: NodeFlags) -> Result<(), QError> {
        if self.aio == AioMode::Native && !flags.direct {
            return Err(QError::new(
                "aio=native was specified, but it requires cache.direct=on, which was not specified.",
            ));
        }
        Ok(())
    }
}

/// How the descriptor must be open for a node with these flags.
pub(crate) fn wanted_mode(flags: NodeFlags, parents_write: bool) -> OpenMode {
    let write = !flags.read_only && (parents_write || !flags.auto_read_only);
    OpenMode { write, direct: flags.direct }
}

/// What requests and staged changes share.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) open: RwLock<Arc<Open>>,
    /// The file's length in bytes, not rounded.
    pub(crate) bytes: AtomicU64,
    discards: Discards,
    /// Whether byte locks are used.
    pub(crate) locking: bool,
    /// The bytes that are locked on the current descriptor, apart from what is being staged.
    pub(crate) locks: Mutex<Locks>,
    /// The error of a failed flush. The kernel forgets such an error when it has told it, and with it the dirty pages:
    /// no later flush can promise anything any more.
    lost: AtomicI32,
    /// What the file system turned out not to know.
    no_zero_range: AtomicBool,
    no_punch: AtomicBool,
    no_dsync: AtomicBool,
    known: KnownData,
    /// Where the zones of a zoned device are written next.
    pub(crate) zoned: Option<Arc<Zoned>>,
}

impl Drop for Inner {
    /// Unlocks: the open file may outlast the descriptor for a while, in a request that the kernel has answered and not yet put
    /// away, or in a child process that is about to run its program. Whoever opens the file next must not see locks then.
    fn drop(&mut self) {
        self.locks.get_mut().trim_to(self.open.get_mut().file.fd(), Locks::NONE);
    }
}

/// An open node of `file` or `host_device`.
pub(crate) struct FileDriver(pub(crate) Arc<Inner>);

impl FileDriver {
    /// Opens the file. Blocks.
    pub(crate) fn open(config: Config, flags: NodeFlags) -> Result<FileDriver, QError> {
        let mode = wanted_mode(flags, false);
        let open = Open::new(&config.filename, config.want, mode, config.aio)?;
        let zoned = match (config.want, open.kind) {
            (Want::Device, FileKind::Block) => Zoned::of_host(open.file.fd())?.map(Arc::new),
            _ => None,
        };
        zoned::check(zoned.as_ref(), mode)?;
        FileDriver::over(config, open, zoned)
    }

    /// Takes a file that is open, with its zones. Blocks.
    pub(crate) fn over(config: Config, open: Open, zoned: Option<Arc<Zoned>>) -> Result<FileDriver, QError> {
        let bytes =
            open::length(open.file.fd()).map_err(|e| qerr!("Could not refresh total sector count: {e}"))?;
        let locking = match config.locking {
            OnOffAuto::Off => false,
            mode => match lock::supported(open.file.fd()) {
                Ok(true) => true,
                Ok(false) if mode == OnOffAuto::On => {
                    return Err(qerr!("The file system of '{}' does not have file locks", config.filename));
                }
                Ok(false) => false,
                Err(e) => return Err(qerr!("Could not look at the locks of '{}': {e}", config.filename)),
            },
        };
        Ok(FileDriver(Arc::new(Inner {
            config,
            open: RwLock::new(Arc::new(open)),
            discards: Discards::default(),
            bytes: AtomicU64::new(bytes),
            locking,
            locks: Mutex::new(Locks::NONE),
            lost: AtomicI32::new(0),
            no_zero_range: AtomicBool::new(false),
            no_punch: AtomicBool::new(false),
            no_dsync: AtomicBool::new(false),
            known: KnownData::default(),
            zoned,
        })))
    }
}

impl Inner {
    /// The descriptor for one request; a reopen meanwhile leaves it open until the request has ended.
    pub(crate) fn current(&self) -> Arc<Open> {
        self.open.read().clone()
    }

    pub(crate) fn len(&self) -> u64 {
        if self.config.drive.is_some()
            && let Ok(n) = open::length(self.current().file.fd())
        {
            // Another disc is another length. The kernel knows it without asking the drive.
            self.set_bytes(n);
        }
        open::sectors(self.bytes.load(Ordering::Acquire))
    }

    /// An error where there is no disc.
    async fn has_disc(&self) -> IoResult<()> {
        let Some(drive) = self.config.drive.clone() else { return Ok(()) };
        let ask = move |fd: BorrowedFd<'_>| if drive.has_disc(fd) { Ok(()) } else { Err(Errno::NOMEDIUM) };
        self.current().file.with_fd(ask).await
    }

    /// Takes over a length that was looked up while nobody wrote.
    pub(crate) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Release);
    }

    fn grown_to(&self, end: u64) {
        self.bytes.fetch_max(end, Ordering::AcqRel);
    }

    pub(crate) async fn read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.has_disc().await?;
        let open = self.current();
        let len = buf.len();
        let mut done = 0;
        while done < len {
            let n = open.file.read_at(off + done as u64, buf.slice(done..len)).await?;
            done += n;
            let odd = !(done as u64).is_multiple_of(u64::from(open.request_alignment));
            if n == 0 || (odd && done < len) {
                // The end of the file; or, with direct I/O, its last odd bytes, behind which no read can start.
                if n != 0 && open.file.with_fd_short(open::length).await? > off + done as u64 {
                    return Err(Errno::IO);
                }
                buf.slice(done..len).fill(0);
                break;
            }
        }
        Ok(())
    }

    pub(crate) async fn write(&self, off: u64, buf: IoBuf, fua: bool) -> IoResult<()> {
        self.has_disc().await?;
        let open = self.current();
        match &self.zoned {
            Some(z) => {
                let len = buf.len() as u64;
                // Apart, so that requests to what is not zoned need no room for it.
                Box::pin(z.write(&open.file, off, len, self.write_bytes(&open, off, buf, fua))).await
            }
            None => self.write_bytes(&open, off, buf, fua).await,
        }
    }

    /// The zones of a zoned device, and the descriptor to ask.
    fn zones(&self) -> IoResult<(&Arc<Zoned>, Arc<Open>)> {
        Ok((self.zoned.as_ref().ok_or(Errno::NOTSUP)?, self.current()))
    }

    pub(crate) async fn zone_append(&self, off: u64, buf: IoBuf) -> IoResult<u64> {
        let (zoned, open) = self.zones()?;
        let len = buf.len() as u64;
        zoned.append(&open.file, off, len, self.len(), |at| self.write_bytes(&open, at, buf, false)).await
    }

    pub(crate) async fn zone_manage(&self, op: ZoneOp, off: u64, len: u64) -> IoResult<()> {
        let (zoned, open) = self.zones()?;
        zoned.manage(&open.file, op, off, len, self.len()).await
    }

    pub(crate) async fn zone_report(&self, off: u64, most: u32) -> IoResult<Vec<Zone>> {
        let (zoned, open) = self.zones()?;
        zoned.tell(&open.file, off, most).await
    }

    async fn write_bytes(&self, open: &Open, off: u64, buf: IoBuf, fua: bool) -> IoResult<()> {
        let len = buf.len();
        let mut dsync = fua && !self.no_dsync.load(Ordering::Relaxed);
        let mut done = 0;
        while done < len {
            let at = off + done as u64;
            match open.file.write_at(at, buf.slice(done..len), dsync).await {
                // Not what a system that works answers, and trying for ever would hang.
                Ok(0) => return Err(Errno::IO),
                Ok(n) => {
                    done += n;
                    self.grown_to(at + n as u64);
                }
                Err(Errno::NOTSUP) if dsync => {
                    self.no_dsync.store(true, Ordering::Relaxed);
                    dsync = false;
                }
                Err(e) => return Err(e),
            }
        }
        if fua && !dsync { self.flush(open).await } else { Ok(()) }
    }

    async fn flush(&self, open: &Open) -> IoResult<()> {
        let lost = self.lost.load(Ordering::Acquire);
        if lost != 0 && !open.mode.direct {
            return Err(Errno::from_raw(lost));
        }
        let done = open.file.sync_data().await;
        match done {
            // A character device, which keeps nothing.
            Err(Errno::INVAL | Errno::NOTSUP) if open.kind == FileKind::Char => Ok(()),
            Err(e) => {
                self.lost.store(e.raw(), Ordering::Release);
                Err(e)
            }
            Ok(()) => Ok(()),
        }
    }

    async fn punch(&self, open: &Open, off: u64, len: u64) -> IoResult<()> {
        if self.no_punch.load(Ordering::Relaxed) {
            return Err(Errno::NOTSUP);
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let r = unsupported(open.file.fallocate(mode, off, len).await);
        if r == Err(Errno::NOTSUP) {
            self.no_punch.store(true, Ordering::Relaxed);
        }
        r
    }

    pub(crate) async fn write_zeroes(&self, off: u64, len: u64, flags: ZeroFlags) -> IoResult<()> {
        let open = self.current();
        match &self.zoned {
            Some(z) => Box::pin(z.change(&open.file, off, len, self.zero(&open, off, len, flags))).await,
            None => self.zero(&open, off, len, flags).await,
        }
    }

    async fn zero(&self, open: &Open, off: u64, len: u64, flags: ZeroFlags) -> IoResult<()> {
        let unmap = flags.contains(ZeroFlags::MAY_UNMAP);
        match open.kind {
            FileKind::Regular => self.zero_regular(open, off, len, unmap).await?,
            // A drive takes what discs take: bytes.
            FileKind::Block if self.config.drive.is_some() => return Err(Errno::NOTSUP),
            FileKind::Block if unmap && self.punch(open, off, len).await.is_ok() => {}
            FileKind::Block => {
                unsupported(open.file.with_fd(move |fd| sys::device_zero(fd, off, len)).await)?;
            }
            FileKind::Char => return Err(Errno::NOTSUP),
        }
        if flags.contains(ZeroFlags::FUA) { self.flush(open).await } else { Ok(()) }
    }

    async fn zero_regular(&self, open: &Open, off: u64, len: u64, unmap: bool) -> IoResult<()> {
        let end = off.checked_add(len).ok_or(Errno::INVAL)?;
        if unmap && self.punch(open, off, len).await.is_ok() {
            // A hole does not make the file longer.
            return if end > self.bytes.load(Ordering::Acquire) {
                self.set_length_at_least(open, end).await
            } else {
                Ok(())
            };
        }
        if !self.no_zero_range.load(Ordering::Relaxed) {
            match unsupported(open.file.fallocate(libc::FALLOC_FL_ZERO_RANGE, off, len).await) {
                Ok(()) => {
                    self.grown_to(end);
                    return Ok(());
                }
                Err(Errno::NOTSUP) => self.no_zero_range.store(true, Ordering::Relaxed),
                Err(e) => return Err(e),
            }
        }
        // A hole, with space reserved for it again.
        self.punch(open, off, len).await?;
        unsupported(open.file.fallocate(0, off, len).await)?;
        self.grown_to(end);
        Ok(())
    }

    async fn set_length_at_least(&self, open: &Open, end: u64) -> IoResult<()> {
        open.file
            .with_fd_short(move |fd| if open::length(fd)? < end { set_length(fd, end) } else { Ok(()) })
            .await?;
        self.grown_to(end);
        Ok(())
    }

    /// Does what may make holes.
    async fn forgetting(&self, f: impl Future<Output = IoResult<()>>) -> IoResult<()> {
        self.known.forget();
        let done = f.await;
        self.known.forget();
        done
    }

    pub(crate) async fn discard(&self, off: u64, len: u64) -> IoResult<()> {
        let open = self.current();
        match open.kind {
            FileKind::Regular => {
                let end = self.bytes.load(Ordering::Acquire).min(off.saturating_add(len));
                if off >= end { Ok(()) } else { self.punch(&open, off, end - off).await }
            }
            FileKind::Block if self.config.drive.is_some() => Err(Errno::NOTSUP),
            FileKind::Block => {
                unsupported(open.file.with_fd(move |fd| sys::device_discard(fd, off, len)).await)
            }
            FileKind::Char => Err(Errno::NOTSUP),
        }
    }

    pub(crate) async fn truncate(&self, len: u64, exact: bool, prealloc: Prealloc) -> IoResult<()> {
        self.has_disc().await?;
        let open = self.current();
        if open.kind != FileKind::Regular {
            let have = open.file.with_fd_short(open::length).await?;
            return if prealloc != Prealloc::Off || (len != have && exact) {
                Err(Errno::NOTSUP)
            } else if len > have {
                Err(Errno::INVAL)
            } else {
                self.bytes.store(have, Ordering::Release);
                Ok(())
            };
        }
        let old = open.file.with_fd_short(open::length).await?;
        if prealloc == Prealloc::Metadata || (prealloc != Prealloc::Off && len < old) {
            return Err(Errno::NOTSUP);
        }
        let done = match prealloc {
            Prealloc::Falloc if len > old => open.file.fallocate(0, old, len - old).await,
            Prealloc::Full if len > old => self.fill_with_zeroes(&open, old, len).await,
            // A first block that exists lets others find out what alignment direct I/O needs.
            _ if old == 0 && len > 0 => match self.begin_with_zeroes(&open, len).await {
                Ok(()) => open.file.with_fd_short(move |fd| set_length(fd, len)).await,
                Err(e) => Err(e),
            },
            _ => open.file.with_fd_short(move |fd| set_length(fd, len)).await,
        };
        if done.is_err() {
            let back = open.file.with_fd_short(move |fd| set_length(fd, old)).await;
            if let Err(e) = back {
                tracing::warn!("'{}' has a wrong length after an error: {e}", self.config.filename);
            }
            return done;
        }
        self.bytes.store(len, Ordering::Release);
        Ok(())
    }

    /// Writes the first block of an empty file that is to have this length.
    async fn begin_with_zeroes(&self, open: &Open, len: u64) -> IoResult<()> {
        let block = if len < FIRST_BLOCK { 512 } else { FIRST_BLOCK };
        let zeroes = IoBuf::zeroed(block.max(u64::from(open.request_alignment)) as usize);
        match open.file.write_at(0, zeroes, false).await? {
            0 => Err(Errno::IO),
            _ => Ok(()),
        }
    }

    /// Makes the file longer with zeroes that are really written (but for odd ends that direct I/O cannot write).
    async fn fill_with_zeroes(&self, open: &Open, old: u64, len: u64) -> IoResult<()> {
        open.file.with_fd_short(move |fd| set_length(fd, len)).await?;
        let align = u64::from(open.request_alignment);
        let mut pos = align_up(old, align).ok_or(Errno::INVAL)?;
        let end = align_down(len, align);
        let zeroes = IoBuf::zeroed(ZERO_CHUNK as usize);
        while pos < end {
            let n = (end - pos).min(ZERO_CHUNK);
            match open.file.write_at(pos, zeroes.slice(0..n as usize), false).await? {
                0 => return Err(Errno::IO),
                n => pos += n as u64,
            }
        }
        self.flush(open).await
    }

    /// Data or hole, from `off` on.
    async fn status(&self, off: u64, len: u64) -> Extent {
        let open = self.current();
        let total = self.len();
        let upto = |n: u64, zero| {
            let n = n.min(len).max(1);
            Extent { len: n, kind: ExtentKind::Own { offset: Some(off), zero }, eof: off + n >= total }
        };
        if open.kind != FileKind::Regular {
            return upto(len, false);
        }
        let times = match self.known.at(off) {
            Ok(end) => return upto(end - off, false),
            Err(times) => times,
        };
        let found = open.file.with_fd_short(move |fd| find(fd, off)).await;
        match found {
            Ok(Found::Data(end)) => {
                // Nobody can ask for a part of a block, so data goes on to the end of its last one.
                let end = end.next_multiple_of(u64::from(open.request_alignment).max(1));
                self.known.learn(times, off, end);
                upto(end.saturating_sub(off), false)
            }
            Ok(Found::Hole(Some(end))) => upto(end.saturating_sub(off), true),
            // A hole, or nothing at all, up to the end.
            Ok(Found::Hole(None)) => upto(len, true),
            // A file system that cannot tell.
            Err(_) => upto(len, false),
        }
    }
}

enum Found {
    /// Data up to this offset.
    Data(u64),
    /// A hole up to this offset, or to the end of the file.
    Hole(Option<u64>),
}

/// Asks the file system what lies at `off`.
fn find(fd: BorrowedFd<'_>, off: u64) -> Result<Found, rustix::io::Errno> {
    match rustix::fs::seek(fd, SeekFrom::Data(off)) {
        Err(rustix::io::Errno::NXIO) => Ok(Found::Hole(None)),
        Err(e) => Err(e),
        Ok(at) if at > off => Ok(Found::Hole(Some(at))),
        Ok(_) => rustix::fs::seek(fd, SeekFrom::Hole(off)).map(|at| {
            // Cut by another program between the two questions: no data, then.
            if at > off { Found::Data(at) } else { Found::Hole(None) }
        }),
    }
}

fn set_length(fd: BorrowedFd<'_>, len: u64) -> IoResult<()> {
    rustix::fs::ftruncate(fd, len).map_err(|e| Errno::from_raw(e.raw_os_error()))
}

/// The ways in which a kernel says that it does not have an operation, as one.
fn unsupported(r: IoResult<()>) -> IoResult<()> {
    match r {
        Err(e)
            if e == Errno::NOTSUP
                || e == Errno::NODEV
                || e.raw() == libc::ENOSYS
                || e.raw() == libc::ENOTTY =>
        {
            Err(Errno::NOTSUP)
        }
        r => r,
    }
}

impl Driver for FileDriver {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.0.len()
    }

    fn limits(&self, _cx: &Cx<'_>) -> Limits {
        let open = self.0.open.read();
        Limits {
            request_alignment: open.request_alignment,
            buffer_alignment: open.buffer_alignment,
            discard_alignment: open.discard_alignment,
            write_zeroes_alignment: open.discard_alignment.max(open.request_alignment),
            ..Limits::default()
        }
    }

    fn caps(&self, _cx: &Cx<'_>) -> Caps {
        Caps { fua: Support::Native, write_zeroes: Support::Native, discard: Support::Native }
    }

    fn locate<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move { Ok(self.0.status(off, len).await) })
    }

    fn read<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(self.0.read(off, buf))
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        let fua = flags.contains(WriteFlags::FUA) && !cx.flags().no_flush;
        Box::pin(self.0.write(off, buf, fua))
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        let skip = if cx.flags().no_flush { ZeroFlags::FUA } else { ZeroFlags::empty() };
        Box::pin(self.0.forgetting(self.0.write_zeroes(off, len, flags - skip)))
    }

    fn discard<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move {
            let done = self.0.forgetting(self.0.discard(off, len)).await;
            self.0.discards.count(len, done.is_ok());
            done
        })
    }

    fn zones(&self, _cx: &Cx<'_>) -> Option<ZoneLimits> {
        self.0.zoned.as_ref().map(|z| z.limits())
    }

    fn zone_report<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, most: u32) -> IoFuture<'a, Vec<Zone>> {
        Box::pin(self.0.zone_report(off, most))
    }

    fn zone_manage<'a>(&'a self, _cx: &'a Cx<'a>, op: ZoneOp, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(self.0.zone_manage(op, off, len))
    }

    fn zone_append<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a, u64> {
        Box::pin(self.0.zone_append(off, buf))
    }

    fn stats(&self) -> Option<BlockStatsSpecific> {
        let counted = self.0.discards.info();
        Some(match self.0.config.want {
            Want::File => BlockStatsSpecific::File(counted),
            Want::Device => BlockStatsSpecific::HostDevice(counted),
            Want::Cdrom => return None,
        })
    }

    fn flush<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move { self.0.flush(&self.0.current()).await })
    }

    fn write_behind<'a>(&'a self, _cx: &'a Cx<'a>) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(async move {
            let open = self.0.current();
            // Behind the page cache nothing waits to be written.
            if open.kind != FileKind::Char && !open.mode.direct {
                open.file.begin_sync().await;
            }
        })
    }

    fn truncate<'a>(&'a self, _cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(self.0.forgetting(self.0.truncate(len, exact, prealloc)))
    }

    fn stage<'a>(&'a self, _cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        let inner = self.0.clone();
        let target =
            stage::Target { flags: next.flags, perm: next.perm, writes: next.writes(), reopen: next.reopen };
        Box::pin(async move {
            let change = rt::unblock_short(move || stage::prepare(inner, target)).await?;
            Ok(Box::new(change) as Box<dyn Staged>)
        })
    }

    fn filename(&self) -> Option<String> {
        Some(block::filename::plain(&self.0.config.filename))
    }

    fn info(&self, _cx: &Cx<'_>) -> DriverInfo {
        let open = self.0.current();
        // Of what another process or host has to tell, what was told last: a query does not wait for it.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let known = rustix::fs::statx(open.file.fd(), c"", flags, StatxFlags::BLOCKS);
        let actual = known.ok().map(|s| s.stx_blocks * 512);
        if self.0.config.want == Want::Cdrom {
            return DriverInfo { actual_size: actual, ..DriverInfo::default() };
        }
        DriverInfo {
            actual_size: actual,
            dirty: Some(false),
            format_specific: Some(ImageInfoSpecific::File(ImageInfoSpecificFile::default())),
            ..DriverInfo::default()
        }
    }
}
