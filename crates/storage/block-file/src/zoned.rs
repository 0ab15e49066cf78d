//! Zoned devices of the host: what sysfs tells of them, and where their zones are written next.
//!
//! The kernel has no append for programs. So the write pointers are kept here: an append writes at the pointer, and for so
//! long nobody else writes to the zone. After an error the kernel is asked anew; it is also asked when the device is opened
//! for writing, since another program may have written meanwhile.

use base::{Errno, IoResult};
use block::zoned::{Zone, ZoneCondition, ZoneKind, ZoneLimits, ZoneModel, ZoneOp};
use block::{Ranges, Ticket};
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::open::OpenMode;
use crate::sys;

/// How many zones the kernel is asked for at a time.
const AT_ONCE: u32 = 4096;

/// What is asked of the kernel. It may block.
pub(crate) trait Kernel: Send + Sync + fmt::Debug {
    /// The zones from the one that `off` lies in on, as many as it likes to tell, `most` at most.
    fn report(&self, fd: BorrowedFd<'_>, off: u64, most: u32) -> IoResult<Vec<Zone>>;

    /// Does something to the zones of a range.
    fn manage(&self, fd: BorrowedFd<'_>, op: ZoneOp, off: u64, len: u64) -> IoResult<()>;
}

/// The kernel of this host.
#[derive(Debug)]
struct Host;

impl Kernel for Host {
    fn report(&self, fd: BorrowedFd<'_>, off: u64, most: u32) -> IoResult<Vec<Zone>> {
        let words = sys::zone_report(fd, off / 512, most.min(AT_ONCE)).inspect_err(|e| {
            let fd = fd.as_raw_fd();
            tracing::error!(target: "report", "{fd}: ioctl BLKREPORTZONE at {} failed {}", off / 512, e.raw());
        })?;
        zones_of(&words)
    }

    fn manage(&self, fd: BorrowedFd<'_>, op: ZoneOp, off: u64, len: u64) -> IoResult<()> {
        let (request, name) = match op {
            ZoneOp::Open => (sys::BLKOPENZONE, "BLKOPENZONE"),
            ZoneOp::Close => (sys::BLKCLOSEZONE, "BLKCLOSEZONE"),
            ZoneOp::Finish => (sys::BLKFINISHZONE, "BLKFINISHZONE"),
            ZoneOp::Reset => (sys::BLKRESETZONE, "BLKRESETZONE"),
        };
        sys::zone_range(fd, request, off / 512, len / 512).inspect_err(|e| {
            tracing::error!(target: "report", "ioctl {name} failed {}", -e.raw());
        })
    }
}

/// The zones of an answer to BLKREPORTZONE (`struct blk_zone_report` of linux/blkzoned.h, in words of 64 bits).
fn zones_of(words: &[u64]) -> IoResult<Vec<Zone>> {
    /// The descriptors say what can be written.
    const HAS_CAPACITY: u32 = 1;
    let (header, rest) = words.split_at_checked(sys::REPORT_WORDS).ok_or(Errno::IO)?;
    let [n0, n1, n2, n3, f0, f1, f2, f3] = header[1].to_ne_bytes();
    let count = u32::from_ne_bytes([n0, n1, n2, n3]);
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    // The kernel tells no more than it was asked for.
    let descriptors = rest.chunks_exact(sys::ZONE_WORDS).take(count as usize);
    descriptors.map(|d| zone_of(d, flags & HAS_CAPACITY != 0)).collect()
}

/// `struct blk_zone`.
fn zone_of(d: &[u64], has_capacity: bool) -> IoResult<Zone> {
    let bytes = |sectors: u64| sectors.checked_mul(512).ok_or(Errno::IO);
    let [kind, condition, ..] = d[3].to_ne_bytes();
    let kind = match kind {
        1 => ZoneKind::Conventional,
        2 => ZoneKind::SequentialRequired,
        3 => ZoneKind::SequentialPreferred,
        _ => {
            tracing::error!(target: "report", "Unsupported zone type: {kind:#x}");
            return Err(Errno::NOTSUP);
        }
    };
    let condition = match condition {
        0 => ZoneCondition::NoPointer,
        1 => ZoneCondition::Empty,
        2 => ZoneCondition::ImplicitlyOpen,
        3 => ZoneCondition::ExplicitlyOpen,
        4 => ZoneCondition::Closed,
        13 => ZoneCondition::ReadOnly,
        14 => ZoneCondition::Full,
        15 => ZoneCondition::Offline,
        _ => {
            tracing::error!(target: "report", "Unsupported zone state: {condition:#x}");
            return Err(Errno::NOTSUP);
        }
    };
    let (start, len) = (bytes(d[0])?, bytes(d[1])?);
    start.checked_add(len).ok_or(Errno::IO)?;
    let capacity = if has_capacity { bytes(d[4])? } else { len };
    Ok(Zone { start, len, capacity, write_pointer: bytes(d[2])?, kind, condition })
}

/// What sysfs tells of the device with this folder of its request queue; `None` where it is not zoned.
fn limits(queue: &Path) -> Result<Option<ZoneLimits>, QError> {
    let text = |name: &str| std::fs::read_to_string(queue.join(name)).map_err(Errno::from);
    let number = |name: &str| {
        text(name).and_then(|t| t.strip_suffix('\n').and_then(|t| t.parse::<u64>().ok()).ok_or(Errno::INVAL))
    };
    let model = match text("zoned").as_deref() {
        Ok("host-managed\n") => ZoneModel::HostManaged,
        Ok("host-aware\n") => ZoneModel::HostAware,
        // A kernel without zoned devices has no such file.
        _ => return Ok(None),
    };
    let needed = |name: &str| match number(name) {
        Err(e) => Err(qerr!("Unable to read {name} sysfs attribute: {e}")),
        Ok(0) => Err(qerr!("Read 0 from {name} sysfs attribute")),
        Ok(n) => Ok(n),
    };
    let small = |name: &str| number(name).ok().and_then(|n| u32::try_from(n).ok());
    let wrong = |name: &str| qerr!("Unable to read {name} sysfs attribute: {}", Errno::INVAL);
    Ok(Some(ZoneLimits {
        model,
        zone_size: needed("chunk_sectors")?.checked_mul(512).ok_or_else(|| wrong("chunk_sectors"))?,
        zones: u32::try_from(needed("nr_zones")?).map_err(|_| wrong("nr_zones"))?,
        max_open: small("max_open_zones").unwrap_or(0),
        max_active: small("max_active_zones").unwrap_or(0),
        max_append: number("zone_append_max_bytes").unwrap_or(0),
        write_granularity: small("physical_block_size").unwrap_or(512).max(1),
    }))
}

/// Where zones are written next, by their numbers; `None` for conventional ones.
pub(crate) type Pointers = Vec<Option<u64>>;

/// What is kept of a zoned device.
#[derive(Debug)]
pub(crate) struct Zoned {
    limits: ZoneLimits,
    kernel: Arc<dyn Kernel>,
    pointers: Mutex<Pointers>,
    /// Who writes to which zones.
    turns: Arc<Ranges>,
}

/// The pointer that a zone has.
fn pointer(z: &Zone) -> Option<u64> {
    match z.condition {
        _ if z.kind == ZoneKind::Conventional => None,
        ZoneCondition::Full | ZoneCondition::ReadOnly => Some(z.start + z.len),
        ZoneCondition::Offline => Some(z.start),
        _ => Some(z.write_pointer),
    }
}

impl Zoned {
    /// The device behind an open block device of the host, if it is zoned. Blocks.
    pub(crate) fn of_host(fd: BorrowedFd<'_>) -> Result<Option<Zoned>, QError> {
        let stat = rustix::fs::fstat(fd)
            .map_err(|e| qerr!("Could not stat file: {}", Errno::from_raw(e.raw_os_error())))?;
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let Some(limits) = limits(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}/queue")))? else {
            return Ok(None);
        };
        Zoned::new(limits, Arc::new(Host), fd).map(Some)
    }

    /// A device with these limits. Blocks.
    pub(crate) fn new(
        limits: ZoneLimits,
        kernel: Arc<dyn Kernel>,
        fd: BorrowedFd<'_>,
    ) -> Result<Zoned, QError> {
        let mut zoned = Zoned { limits, kernel, pointers: Mutex::default(), turns: Arc::default() };
        let pointers = zoned.look(fd).map_err(|e| qerr!("report wps failed: {e}"))?;
        *zoned.pointers.get_mut() = pointers;
        Ok(zoned)
    }

    /// What is known without asking.
    pub(crate) fn limits(&self) -> ZoneLimits {
        self.limits
    }

    /// The number of the zone that a byte lies in.
    fn number(&self, off: u64) -> usize {
        usize::try_from(off / self.limits.zone_size).unwrap_or(usize::MAX)
    }

    /// The zones from the one that `off` lies in on. Blocks.
    fn report(&self, fd: BorrowedFd<'_>, off: u64, most: u32) -> IoResult<Vec<Zone>> {
        let (mut zones, mut at) = (Vec::new(), off);
        while let left @ 1.. = (most as usize).saturating_sub(zones.len()) {
            let more = self.kernel.report(fd, at, u32::try_from(left).unwrap_or(u32::MAX))?;
            let Some(last) = more.last() else { break };
            if last.start + last.len <= at {
                // It would go on for ever.
                return Err(Errno::IO);
            }
            at = last.start + last.len;
            zones.extend(more);
        }
        Ok(zones)
    }

    /// Where all zones are written next, as the kernel says. Blocks.
    pub(crate) fn look(&self, fd: BorrowedFd<'_>) -> IoResult<Pointers> {
        let mut pointers = vec![None; self.limits.zones as usize];
        for z in self.report(fd, 0, self.limits.zones)? {
            if let Some(p) = pointers.get_mut(self.number(z.start)) {
                *p = pointer(&z);
            }
        }
        Ok(pointers)
    }

    /// Where all zones are written next, as far as it is known here.
    pub(crate) fn known(&self) -> Pointers {
        self.pointers.lock().clone()
    }

    /// Takes over what [`Zoned::look`] `found`, unless somebody has written since it was `known`.
    pub(crate) fn take_over(&self, known: &Pointers, found: Pointers) {
        let mut pointers = self.pointers.lock();
        if *pointers == *known {
            *pointers = found;
        }
    }

    /// Asks the kernel where the zones of a range are written next.
    async fn refresh(self: &Arc<Self>, file: &rt::file::File, off: u64, len: u64) {
        let first = self.number(off);
        let behind = self.number(off.saturating_add(len.max(1)) - 1).saturating_add(1);
        let count = u32::try_from(behind - first).unwrap_or(u32::MAX).min(self.limits.zones);
        let me = self.clone();
        match file.with_fd(move |fd| me.report(fd, off, count)).await {
            Ok(zones) => {
                let mut pointers = self.pointers.lock();
                for z in zones {
                    if let Some(p) = pointers.get_mut(self.number(z.start)) {
                        *p = pointer(&z);
                    }
                }
            }
            Err(_) => tracing::error!(target: "report", "update zone wp failed"),
        }
    }

    /// Keeps all others who write off the zones of a range.
    async fn turn(&self, off: u64, len: u64) -> Ticket {
        let size = self.limits.zone_size;
        let start = off - off % size;
        let end = off.saturating_add(len.max(1)).checked_next_multiple_of(size).unwrap_or(u64::MAX);
        self.turns.lock(start, end, true).await
    }

    /// Bytes of a range were written: pointers that it passed are at its end.
    fn wrote(&self, off: u64, len: u64) {
        let (size, end) = (self.limits.zone_size, off + len);
        let mut pointers = self.pointers.lock();
        let mut at = off;
        while at < end {
            let zone_end = (at - at % size).saturating_add(size);
            if let Some(Some(p)) = pointers.get_mut(self.number(at)) {
                *p = end.min(zone_end).max(*p);
            }
            at = zone_end;
        }
    }

    /// Whether some zone of a range has a pointer.
    fn sequential(&self, off: u64, len: u64) -> bool {
        let (first, last) = (self.number(off), self.number(off.saturating_add(len.max(1)) - 1));
        let pointers = self.pointers.lock();
        pointers.iter().skip(first).take((last - first).saturating_add(1)).any(Option::is_some)
    }

    /// Writes with `f` to a range, and follows the pointers.
    pub(crate) async fn write(
        self: &Arc<Self>,
        file: &rt::file::File,
        off: u64,
        len: u64,
        f: impl Future<Output = IoResult<()>>,
    ) -> IoResult<()> {
        if !self.sequential(off, len) {
            return f.await;
        }
        let _turn = self.turn(off, len).await;
        let done = f.await;
        match done {
            Ok(()) => self.wrote(off, len),
            Err(_) => self.refresh(file, off, len).await,
        }
        done
    }

    /// Does with `f` to a range what moves pointers in a way that only the kernel knows.
    pub(crate) async fn change(
        self: &Arc<Self>,
        file: &rt::file::File,
        off: u64,
        len: u64,
        f: impl Future<Output = IoResult<()>>,
    ) -> IoResult<()> {
        if !self.sequential(off, len) {
            return f.await;
        }
        let _turn = self.turn(off, len).await;
        let done = f.await;
        self.refresh(file, off, len).await;
        done
    }

    /// Writes so many bytes with `f`, which is told where, at the pointer of the zone that begins at `off` of a device of
    /// `total` bytes.
    pub(crate) async fn append<F: Future<Output = IoResult<()>>>(
        self: &Arc<Self>,
        file: &rt::file::File,
        off: u64,
        len: u64,
        total: u64,
        f: impl FnOnce(u64) -> F,
    ) -> IoResult<u64> {
        let _turn = self.turn(off, 1).await;
        let known = self.pointers.lock().get(self.number(off)).copied();
        let at = known.ok_or(Errno::IO)?.ok_or(Errno::INVAL)?;
        // What does not fit would go on in the next zone.
        let end = off.saturating_add(self.limits.zone_size).min(total);
        if at.checked_add(len).is_none_or(|e| e > end) {
            return Err(Errno::IO);
        }
        match f(at).await {
            Ok(()) => {
                self.wrote(at, len);
                Ok(at)
            }
            Err(e) => {
                self.refresh(file, off, 1).await;
                Err(e)
            }
        }
    }

    /// Reports zones.
    pub(crate) async fn tell(
        self: &Arc<Self>,
        file: &rt::file::File,
        off: u64,
        most: u32,
    ) -> IoResult<Vec<Zone>> {
        let me = self.clone();
        file.with_fd(move |fd| me.report(fd, off, most)).await
    }

    /// Does something to the zones of a range of a device of `total` bytes.
    pub(crate) async fn manage(
        self: &Arc<Self>,
        file: &rt::file::File,
        op: ZoneOp,
        off: u64,
        len: u64,
        total: u64,
    ) -> IoResult<()> {
        let _turn = self.turn(off, len).await;
        let conventional = self.pointers.lock().get(self.number(off)).is_some_and(Option::is_none);
        if conventional && len != total {
            tracing::error!(target: "report", "zone mgmt operations are not allowed for conventional zones");
            return Err(Errno::IO);
        }
        let me = self.clone();
        let done = file.with_fd(move |fd| me.kernel.manage(fd, op, off, len)).await;
        // Where it failed, some zones may have been changed all the same.
        if done.is_err() || matches!(op, ZoneOp::Finish | ZoneOp::Reset) {
            self.refresh(file, off, len).await;
        }
        done
    }
}

/// Whether a device may be open like this. The page cache does not write in the order in which it was written to.
pub(crate) fn check(zoned: Option<&Arc<Zoned>>, mode: OpenMode) -> Result<(), QError> {
    if zoned.is_some() && mode.write && !mode.direct {
        return Err(QError::new(
            "The driver supports zoned devices, and it requires cache.direct=on, which was not specified.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Config, FileDriver};
    use crate::open::{FileKind, Open, Want};
    use api::block_core::BlockdevOptionsFile;
    use block::driver::{NodeFlags, ZeroFlags};
    use block::testing::{Shape, ZonedDevice};
    use mem::IoBuf;
    use rt::AioMode;

    /// One descriptor as the kernel's structure has it, byte by byte.
    fn descriptor(start: u64, len: u64, wp: u64, kind: u8, condition: u8, capacity: u64) -> Vec<u8> {
        let mut b = vec![0xee; 64];
        b[0..8].copy_from_slice(&start.to_ne_bytes());
        b[8..16].copy_from_slice(&len.to_ne_bytes());
        b[16..24].copy_from_slice(&wp.to_ne_bytes());
        (b[24], b[25]) = (kind, condition);
        b[32..40].copy_from_slice(&capacity.to_ne_bytes());
        b
    }

    fn report(count: u32, flags: u32, descriptors: &[Vec<u8>]) -> Vec<u64> {
        let mut b = vec![0; 8];
        b.extend(count.to_ne_bytes());
        b.extend(flags.to_ne_bytes());
        b.extend(descriptors.concat());
        b.chunks(8).map(|c| u64::from_ne_bytes(c.try_into().unwrap())).collect()
    }

    #[test]
    fn reports_of_the_kernel_are_read() {
        let two = [descriptor(0, 8, 0, 1, 0, 8), descriptor(8, 8, 11, 2, 2, 6)];
        let first = Zone {
            start: 0,
            len: 4096,
            capacity: 4096,
            write_pointer: 0,
            kind: ZoneKind::Conventional,
            condition: ZoneCondition::NoPointer,
        };
        let second = Zone {
            start: 4096,
            len: 4096,
            capacity: 3072,
            write_pointer: 5632,
            kind: ZoneKind::SequentialRequired,
            condition: ZoneCondition::ImplicitlyOpen,
        };
        assert_eq!(zones_of(&report(2, 1, &two)).unwrap(), [first, second]);
        // An older kernel says no capacity.
        assert_eq!(zones_of(&report(2, 0, &two)).unwrap()[1].capacity, 4096);
        assert_eq!(zones_of(&report(1, 1, &two)).unwrap(), [first]);
        assert_eq!(zones_of(&report(0, 1, &two)).unwrap(), []);
        // More than there is room for.
        assert_eq!(zones_of(&report(u32::MAX, 1, &two)).unwrap().len(), 2);
        assert_eq!(zones_of(&[0]), Err(Errno::IO));
        for (number, condition) in [
            (1, ZoneCondition::Empty),
            (3, ZoneCondition::ExplicitlyOpen),
            (4, ZoneCondition::Closed),
            (13, ZoneCondition::ReadOnly),
            (14, ZoneCondition::Full),
            (15, ZoneCondition::Offline),
        ] {
            let zones = zones_of(&report(1, 1, &[descriptor(0, 8, 0, 3, number, 8)])).unwrap();
            assert_eq!((zones[0].condition, zones[0].kind), (condition, ZoneKind::SequentialPreferred));
            assert_eq!(zones[0].condition as u8, number);
        }
        let bad = |start, len, wp, kind, cond| {
            zones_of(&report(1, 1, &[descriptor(start, len, wp, kind, cond, 8)]))
        };
        assert_eq!(bad(0, 8, 0, 4, 1), Err(Errno::NOTSUP), "another kind");
        assert_eq!(bad(0, 8, 0, 2, 5), Err(Errno::NOTSUP), "another condition");
        for (start, len, wp) in [(1 << 60, 8, 0), (0, 1 << 60, 0), (0, 8, 1 << 60), (1 << 54, 1 << 54, 0)] {
            assert_eq!(bad(start, len, wp, 2, 1), Err(Errno::IO), "more than 64 bits of bytes");
        }
    }

    #[test]
    fn requests_are_those_of_the_header() {
        // _IOC(direction, 0x12, number, 16)
        let code = |direction: u64, number: u64| direction << 30 | 16 << 16 | 0x12 << 8 | number;
        assert_eq!(sys::BLKREPORTZONE, code(3, 130));
        assert_eq!(sys::BLKRESETZONE, code(1, 131));
        assert_eq!(sys::BLKOPENZONE, code(1, 134));
        assert_eq!(sys::BLKCLOSEZONE, code(1, 135));
        assert_eq!(sys::BLKFINISHZONE, code(1, 136));
        let bytes: Vec<u8> =
            sys::report_header(7, 0x0102_0304).iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!(bytes[..8], 7u64.to_ne_bytes());
        assert_eq!(bytes[8..12], 0x0102_0304u32.to_ne_bytes());
        assert_eq!(bytes[12..], [0; 4]);
    }

    #[test]
    fn sysfs_tells_what_a_device_is_like() {
        let dir = std::env::temp_dir().join(format!("rhea-zoned-sysfs-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        let error = || limits(&dir).unwrap_err().desc().to_owned();
        assert_eq!(limits(&dir).unwrap(), None, "no such file");
        put("zoned", "none\n");
        assert_eq!(limits(&dir).unwrap(), None);
        put("zoned", "host-managed\n");
        assert_eq!(error(), "Unable to read chunk_sectors sysfs attribute: No such file or directory");
        put("chunk_sectors", "0\n");
        assert_eq!(error(), "Read 0 from chunk_sectors sysfs attribute");
        put("chunk_sectors", "524288\n");
        put("nr_zones", "x\n");
        assert_eq!(error(), "Unable to read nr_zones sysfs attribute: Invalid argument");
        put("nr_zones", "0\n");
        assert_eq!(error(), "Read 0 from nr_zones sysfs attribute");
        put("nr_zones", "4294967296\n");
        assert_eq!(error(), "Unable to read nr_zones sysfs attribute: Invalid argument");
        put("nr_zones", "1000\n");
        let least = ZoneLimits {
            model: ZoneModel::HostManaged,
            zone_size: 256 << 20,
            zones: 1000,
            max_open: 0,
            max_active: 0,
            max_append: 0,
            write_granularity: 512,
        };
        assert_eq!(limits(&dir).unwrap(), Some(least));
        put("zoned", "host-aware\n");
        put("max_open_zones", "14\n");
        put("max_active_zones", "15\n");
        put("zone_append_max_bytes", "1048576\n");
        put("physical_block_size", "4096\n");
        let all = ZoneLimits {
            model: ZoneModel::HostAware,
            max_open: 14,
            max_active: 15,
            max_append: 1 << 20,
            write_granularity: 4096,
            ..least
        };
        assert_eq!(limits(&dir).unwrap(), Some(all));
        std::fs::remove_dir_all(dir).unwrap();
    }

    /// A kernel that tells of a device in memory, three zones at a time; the bytes are in a file.
    #[derive(Debug)]
    struct Simulated(Arc<ZonedDevice>);

    impl Kernel for Simulated {
        fn report(&self, _: BorrowedFd<'_>, off: u64, most: u32) -> IoResult<Vec<Zone>> {
            Ok(self.0.report(off, most.min(3)))
        }

        fn manage(&self, _: BorrowedFd<'_>, op: ZoneOp, off: u64, len: u64) -> IoResult<()> {
            self.0.manage(op, off, len)
        }
    }

    const ZONE: u64 = 1 << 16;

    struct Bed {
        path: PathBuf,
        device: Arc<ZonedDevice>,
        driver: FileDriver,
    }

    impl Bed {
        fn new(name: &str, shape: Shape, write: bool) -> Bed {
            let path = std::env::temp_dir().join(format!("rhea-{name}-{}", std::process::id()));
            std::fs::write(&path, vec![0; shape.len as usize]).unwrap();
            let file = std::fs::OpenOptions::new().read(true).write(write).open(&path).unwrap();
            let device = ZonedDevice::new(name, shape);
            let options = BlockdevOptionsFile { filename: path.display().to_string(), ..Default::default() };
            let config = Config::new(Want::Device, &options, NodeFlags::default()).unwrap();
            let open = Open {
                file: rt::file::File::from_fd(file.into(), AioMode::Threads),
                mode: OpenMode { write, direct: true },
                kind: FileKind::Block,
                request_alignment: 1,
                buffer_alignment: 1,
                discard_alignment: 512,
            };
            let kernel = Arc::new(Simulated(device.clone()));
            let zoned = Zoned::new(device.limits(), kernel, open.file.fd()).unwrap();
            let driver = FileDriver::over(config, open, Some(Arc::new(zoned))).unwrap();
            Bed { path, device, driver }
        }

        fn known(&self) -> Vec<Option<u64>> {
            self.driver.0.zoned.as_ref().unwrap().known()
        }
    }

    impl Drop for Bed {
        fn drop(&mut self) {
            _ = std::fs::remove_file(&self.path);
        }
    }

    fn buf(byte: u8, len: usize) -> IoBuf {
        IoBuf::from_bytes(&vec![byte; len])
    }

    #[test]
    fn appends_follow_the_pointers() {
        let shape = Shape { conventional: 1, len: 8 * ZONE + 4096, ..Shape::SMALL };
        let b = Bed::new("zoned-appends", shape, true);
        let d = &b.driver.0;
        assert_eq!((b.known().len(), b.known()[0], b.known()[8]), (9, None, Some(8 * ZONE)));
        rt::block_on(async {
            assert_eq!(d.zone_append(ZONE, buf(1, 512)).await, Ok(ZONE));
            assert_eq!(d.zone_append(ZONE, buf(2, 1024)).await, Ok(ZONE + 512));
            // A write moves the pointer too, also from one zone into others.
            d.write(ZONE + 1536, buf(3, 512), false).await.unwrap();
            assert_eq!(d.zone_append(ZONE, buf(4, 512)).await, Ok(ZONE + 2048));
            d.write(3 * ZONE, buf(5, ZONE as usize + 512), false).await.unwrap();
            assert_eq!(b.known()[2..6], [2 * ZONE, 4 * ZONE, 4 * ZONE + 512, 5 * ZONE].map(Some));
            // One that lies before it does not.
            d.write(ZONE, buf(1, 512), false).await.unwrap();
            assert_eq!(b.known()[1], Some(ZONE + 2560));
            // There is no pointer, no room, no zone.
            assert_eq!(d.zone_append(0, buf(6, 512)).await, Err(Errno::INVAL));
            d.write(0, buf(6, 512), false).await.unwrap();
            assert_eq!(d.zone_append(3 * ZONE, buf(6, 512)).await, Err(Errno::IO));
            assert_eq!(d.zone_append(8 * ZONE, buf(6, 4608)).await, Err(Errno::IO));
            assert_eq!(d.zone_append(9 * ZONE, buf(6, 512)).await, Err(Errno::IO));
            assert_eq!(d.zone_append(8 * ZONE, buf(6, 4096)).await, Ok(8 * ZONE));
        });
        let bytes = std::fs::read(&b.path).unwrap();
        let at = |off: u64, n: usize| &bytes[off as usize..off as usize + n];
        assert_eq!(at(ZONE, 512), [1; 512]);
        assert_eq!(at(ZONE + 512, 1024), [2; 1024]);
        assert_eq!(at(ZONE + 1536, 512), [3; 512]);
        assert_eq!(at(ZONE + 2048, 512), [4; 512]);
        assert_eq!(at(8 * ZONE, 4096), [6; 4096]);
    }

    #[test]
    fn appends_at_the_same_time_get_places_of_their_own() {
        let b = Bed::new("zoned-race", Shape::SMALL, true);
        let mut places = rt::block_on(async {
            let d = b.driver.0.clone();
            let all: Vec<_> = (0..48u8)
                .map(|i| {
                    let d = d.clone();
                    let zone = u64::from(i % 2) * ZONE;
                    rt::spawn_local(async move { (i, d.zone_append(zone, buf(i, 512)).await.unwrap()) })
                })
                .collect();
            let mut places = Vec::new();
            for one in all {
                places.push(one.await);
            }
            places
        });
        let bytes = std::fs::read(&b.path).unwrap();
        for (i, at) in &places {
            assert_eq!(bytes[*at as usize..*at as usize + 512], [*i; 512]);
        }
        places.sort_by_key(|p| p.1);
        let want: Vec<u64> = (0..2).flat_map(|z| (0..24).map(move |n| z * ZONE + n * 512)).collect();
        assert_eq!(places.iter().map(|p| p.1).collect::<Vec<_>>(), want);
    }

    #[test]
    fn zones_are_managed_and_followed() {
        let shape = Shape { conventional: 1, len: 8 * ZONE + 4096, ..Shape::SMALL };
        let b = Bed::new("zoned-manage", shape, true);
        let d = &b.driver.0;
        rt::block_on(async {
            d.zone_manage(ZoneOp::Open, ZONE, ZONE).await.unwrap();
            assert_eq!(b.device.report(ZONE, 1)[0].condition, ZoneCondition::ExplicitlyOpen);
            d.zone_manage(ZoneOp::Close, ZONE, ZONE).await.unwrap();
            assert_eq!(d.zone_manage(ZoneOp::Reset, 0, ZONE).await, Err(Errno::IO), "conventional");
            d.zone_manage(ZoneOp::Finish, 7 * ZONE, ZONE + 4096).await.unwrap();
            assert_eq!(b.known()[6..], [6 * ZONE, 8 * ZONE, 8 * ZONE + 4096].map(Some));
            assert_eq!(d.zone_append(7 * ZONE, buf(1, 512)).await, Err(Errno::IO));
            d.zone_manage(ZoneOp::Reset, 7 * ZONE, ZONE).await.unwrap();
            assert_eq!(d.zone_append(7 * ZONE, buf(1, 512)).await, Ok(7 * ZONE));
            // Of those of a range that could not be changed all, some may have been.
            b.device.set_condition(3, ZoneCondition::ReadOnly);
            assert_eq!(d.zone_manage(ZoneOp::Finish, 2 * ZONE, 3 * ZONE).await, Err(Errno::IO));
            assert_eq!(b.known()[2..5], [3 * ZONE, 4 * ZONE, 4 * ZONE].map(Some));
            // All of it: what cannot be reset stays.
            d.zone_manage(ZoneOp::Reset, 0, shape.len).await.unwrap();
            assert_eq!(b.known()[..4], [None, Some(ZONE), Some(2 * ZONE), Some(4 * ZONE)]);
            assert_eq!(d.zone_report(2 * ZONE, 5).await.unwrap(), b.device.report(2 * ZONE, 5));
            assert_eq!(d.zone_report(20 * ZONE, 5).await.unwrap(), []);
        });
    }

    #[test]
    fn after_an_error_the_kernel_is_asked_where_zones_are_written() {
        // Nothing can be written to this descriptor.
        let b = Bed::new("zoned-errors", Shape::SMALL, false);
        let d = &b.driver.0;
        rt::block_on(async {
            b.device.write(0, &[1; 1024]).unwrap();
            assert_eq!(b.known()[0], Some(0), "another program wrote");
            assert!(d.zone_append(0, buf(1, 512)).await.is_err());
            assert_eq!(b.known()[0], Some(1024));
            b.device.write(ZONE, &[1; 512]).unwrap();
            b.device.write(2 * ZONE, &[1; 512]).unwrap();
            assert!(d.write(ZONE + 4096, buf(1, ZONE as usize), false).await.is_err());
            assert_eq!(b.known()[..3], [1024, ZONE + 512, 2 * ZONE + 512].map(Some));
            // How far zeroes were written is not known either way.
            b.device.write(4 * ZONE, &[1; 512]).unwrap();
            assert!(d.write_zeroes(4 * ZONE, 4096, ZeroFlags::empty()).await.is_err());
            assert_eq!(b.known()[4], Some(4 * ZONE + 512));
        });
    }

    #[test]
    fn what_was_written_meanwhile_is_not_forgotten() {
        let b = Bed::new("zoned-stage", Shape::SMALL, true);
        let zoned = b.driver.0.zoned.clone().unwrap();
        let known = zoned.known();
        b.device.write(0, &[1; 512]).unwrap();
        let found = zoned.look(b.driver.0.current().file.fd()).unwrap();
        zoned.take_over(&known, found.clone());
        assert_eq!(b.known()[0], Some(512));
        rt::block_on(b.driver.0.zone_append(ZONE, buf(1, 512))).unwrap();
        zoned.take_over(&known, found);
        assert_eq!(b.known()[1], Some(ZONE + 512));
    }

    #[test]
    fn writing_needs_direct_access() {
        let b = Bed::new("zoned-direct", Shape::SMALL, true);
        let zoned = b.driver.0.zoned.clone();
        let mode = |write, direct| check(zoned.as_ref(), OpenMode { write, direct });
        assert!(mode(true, true).is_ok() && mode(false, false).is_ok());
        assert_eq!(
            mode(true, false).unwrap_err().desc(),
            "The driver supports zoned devices, and it requires cache.direct=on, which was not specified."
        );
        assert!(check(None, OpenMode { write: true, direct: false }).is_ok());
    }
}
