//! Simulated files: a protocol driver over memory, with faults.

use crate::driver::{
    Caps, CtlFuture, Cx, Driver, DriverInfo, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits,
    NodePlan, OpenCx, OpenFuture, Prealloc, Staged, Support, WriteFlags, ZeroFlags, default_child_perm,
    no_children,
};
use crate::filename::{FileNames, of_prefix};
use crate::perm::Perm;
use api::block_core::BlockdevDriverOptions;
use base::{Errno, IoResult};
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::qerr;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// What goes wrong, each as a chance in 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A read fails with `EIO`.
    pub read: u64,
    /// A write fails with `EIO`, after some of its sectors were written.
    pub write: u64,
    /// A write fails with `ENOSPC`.
    pub space: u64,
    /// A flush fails with `EIO`.
    pub flush: u64,
    /// Staging a reopen or a permission change fails.
    pub stage: u64,
    /// A request takes its time.
    pub delay: u64,
}

/// All simulated files of a test.
#[derive(Debug, Default)]
pub struct World {
    disks: Mutex<BTreeMap<String, Arc<Disk>>>,
    faults: Mutex<Faults>,
    /// Staged changes that were neither committed nor dropped.
    staged: AtomicUsize,
}

thread_local! {
    static WORLD: RefCell<Option<Arc<World>>> = const { RefCell::new(None) };
}

/// Makes a world the one that this thread's `file` nodes are opened in; the one before comes back when dropped.
pub struct WorldGuard(Option<Arc<World>>);

impl Drop for WorldGuard {
    fn drop(&mut self) {
        let before = self.0.take();
        WORLD.with(|w| *w.borrow_mut() = before);
    }
}

impl World {
    /// A world without files or faults.
    pub fn new() -> Arc<World> {
        Arc::new(World::default())
    }

    /// Enters the world on this thread.
    pub fn enter(self: &Arc<Self>) -> WorldGuard {
        WorldGuard(WORLD.with(|w| w.borrow_mut().replace(self.clone())))
    }

    /// Makes a file with these bytes.
    pub fn create(&self, name: &str, bytes: Vec<u8>) -> Arc<Disk> {
        let disk = Arc::new(Disk {
            content: Mutex::new(Content { data: bytes.clone(), stable: bytes, ..Content::default() }),
            limits: Mutex::new(Limits::default()),
            flushes: AtomicUsize::new(0),
            failing: Mutex::new(None),
            hanging: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            max_len: AtomicU64::new(1 << 30),
        });
        self.disks.lock().insert(name.to_owned(), disk.clone());
        disk
    }

    /// The file of this name.
    pub fn disk(&self, name: &str) -> Option<Arc<Disk>> {
        self.disks.lock().get(name).cloned()
    }

    /// Forgets the file of this name; nodes that have it open keep it.
    pub fn remove(&self, name: &str) {
        self.disks.lock().remove(name);
    }

    /// The names of all files.
    pub fn names(&self) -> Vec<String> {
        self.disks.lock().keys().cloned().collect()
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock() = faults;
    }

    /// What goes wrong now.
    pub fn faults(&self) -> Faults {
        *self.faults.lock()
    }

    /// How many staged changes are in the air; 0 whenever no transaction runs.
    pub fn staged(&self) -> usize {
        self.staged.load(SeqCst)
    }

    fn chance(&self, pick: impl Fn(&Faults) -> u64) -> bool {
        let p = pick(&self.faults.lock());
        p > 0 && rt::sim::is_active() && rt::sim::rng().chance(p, 1000)
    }

    async fn delay(&self) {
        if self.chance(|f| f.delay) {
            let us = rt::sim::rng().below(2000);
            rt::sleep(Duration::from_micros(us)).await;
        }
    }
}

/// One change of a file.
#[derive(Debug)]
enum Event {
    Write(u64, Vec<u8>),
    Resize(u64),
}

impl Event {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Event::Write(off, bytes) => {
                let (at, end) = (*off as usize, *off as usize + bytes.len());
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[at..end].copy_from_slice(bytes);
            }
            Event::Resize(len) => data.resize(*len as usize, 0),
        }
    }
}

/// What a file holds.
#[derive(Debug, Default)]
struct Content {
    /// The bytes as a reader sees them.
    data: Vec<u8>,
    /// Those that a crash cannot take away.
    stable: Vec<u8>,
    /// What led from the one to the other, in order.
    pending: VecDeque<Event>,
    /// How many changes became stable so far.
    settled: usize,
}

impl Content {
    fn change(&mut self, event: Event) {
        event.apply(&mut self.data);
        self.pending.push_back(event);
    }

    /// Makes the first `upto` changes stable.
    fn settle(&mut self, upto: usize) {
        while self.settled < upto {
            let Some(event) = self.pending.pop_front() else { return };
            event.apply(&mut self.stable);
            self.settled += 1;
        }
    }
}

/// A simulated file.
#[derive(Debug)]
pub struct Disk {
    content: Mutex<Content>,
    limits: Mutex<Limits>,
    flushes: AtomicUsize,
    failing: Mutex<Option<Errno>>,
    hanging: AtomicBool,
    stuck: AtomicBool,
    max_len: AtomicU64,
}

impl Disk {
    /// The bytes as a reader sees them.
    pub fn bytes(&self) -> Vec<u8> {
        self.content.lock().data.clone()
    }

    /// The bytes that are there after any crash.
    pub fn stable_bytes(&self) -> Vec<u8> {
        self.content.lock().stable.clone()
    }

    /// The bytes that are there after one possible crash: of what was not flushed, all, nothing, or any part, down to
    /// single sectors of a write. What went to the same place keeps its order.
    pub fn crash_bytes(&self, rng: &mut rt::sim::Rng) -> Vec<u8> {
        let content = self.content.lock();
        let mut bytes = content.stable.clone();
        let how = rng.below(4);
        for event in &content.pending {
            match event {
                _ if how == 0 || (how == 1 && rng.chance(1, 2)) => {}
                Event::Write(off, new) if how != 2 && rng.chance(1, 4) => {
                    for (i, sector) in new.chunks(512).enumerate() {
                        if rng.chance(1, 2) {
                            Event::Write(off + i as u64 * 512, sector.to_vec()).apply(&mut bytes);
                        }
                    }
                }
                event => event.apply(&mut bytes),
            }
        }
        bytes
    }

    /// Loses what was not flushed.
    pub fn crash(&self) {
        let mut content = self.content.lock();
        content.data = content.stable.clone();
        content.settled += content.pending.len();
        content.pending.clear();
    }

    /// Replaces all bytes; a crash does not take them away.
    pub fn set_content(&self, bytes: Vec<u8>) {
        let mut content = self.content.lock();
        let settled = content.settled + content.pending.len();
        *content = Content { data: bytes.clone(), stable: bytes, settled, ..Content::default() };
    }

    /// What the driver demands of requests; it panics where one does not keep to it.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.lock() = limits;
    }

    /// Has every write fail from now on, or none.
    pub fn set_failing(&self, error: Option<Errno>) {
        *self.failing.lock() = error;
    }

    /// Has writes wait until the same is called with false.
    pub fn set_hanging(&self, on: bool) {
        self.hanging.store(on, SeqCst);
    }

    /// Has reads wait until the same is called with false.
    pub fn set_stuck(&self, on: bool) {
        self.stuck.store(on, SeqCst);
    }

    /// What a write meets with before it does anything.
    async fn trouble(&self) -> IoResult<()> {
        while self.hanging.load(SeqCst) {
            rt::sleep(Duration::from_millis(1)).await;
        }
        self.failing.lock().map_or(Ok(()), Err)
    }

    /// How long it may become; 1 GiB at first. What would make it longer fails with `EFBIG`.
    pub fn set_max_len(&self, len: u64) {
        self.max_len.store(len, SeqCst);
    }

    fn room(&self, off: u64, len: u64) -> IoResult<()> {
        let end = off.checked_add(len).ok_or(Errno::FBIG)?;
        if end > self.max_len.load(SeqCst) { Err(Errno::FBIG) } else { Ok(()) }
    }

    /// How many flushes reached it.
    pub fn flushes(&self) -> usize {
        self.flushes.load(SeqCst)
    }

    /// Fills `buf` with the bytes from `off` on; zeroes behind the end.
    fn get(&self, off: u64, buf: &IoBuf) {
        let data = &self.content.lock().data;
        let have = (data.len() as u64).saturating_sub(off).min(buf.len() as u64) as usize;
        if have > 0 {
            buf.copy_from(0, &data[off as usize..off as usize + have]);
        }
        buf.slice(have..buf.len()).fill(0);
    }

    fn put(&self, off: u64, bytes: &[u8]) {
        self.content.lock().change(Event::Write(off, bytes.to_vec()));
    }

    fn len(&self) -> u64 {
        self.content.lock().data.len() as u64
    }
}

struct SimFile {
    world: Arc<World>,
    disk: Arc<Disk>,
    filename: String,
}

/// The driver of simulated files; answers to `file`.
pub static SIM_FILE: DriverType = DriverType {
    name: "file",
    kind: Kind::Protocol,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: true,
    file_names: Some(FileNames { prefixes: &["file"], parse: |n| Ok(of_prefix("file:", n)), older: None }),
    children: no_children,
    child_perm: default_child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

fn open(o: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async move {
        let BlockdevDriverOptions::File(f) = &o.options.driver else { return Err(qerr!("not a file")) };
        let world = WORLD.with(|w| w.borrow().clone()).ok_or_else(|| qerr!("no simulated world"))?;
        let disk = world
            .disk(&f.filename)
            .ok_or_else(|| qerr!("Could not open '{}': No such file or directory", f.filename))?;
        Ok(Arc::new(SimFile { world, disk, filename: f.filename.clone() }) as Arc<dyn Driver>)
    })
}

impl SimFile {
    fn check(&self, off: u64, len: u64, buf: Option<&IoBuf>) {
        let l = self.disk.limits.lock();
        let align = u64::from(l.request_alignment);
        assert!(
            off.is_multiple_of(align) && len.is_multiple_of(align),
            "request {off}+{len} is not aligned to {align}"
        );
        if let Some(b) = buf {
            assert!(b.is_aligned(u64::from(l.buffer_alignment)), "buffer is not aligned");
            assert!(l.max_transfer == 0 || len <= l.max_transfer, "request of {len} is too long");
        }
    }
}

struct SimStaged(Arc<World>);

impl Staged for SimStaged {
    fn commit(self: Box<Self>) {}
}

impl Drop for SimStaged {
    fn drop(&mut self) {
        self.0.staged.fetch_sub(1, SeqCst);
    }
}

impl Driver for SimFile {
    fn len(&self, _: &Cx<'_>) -> u64 {
        self.disk.len()
    }

    fn limits(&self, _: &Cx<'_>) -> Limits {
        *self.disk.limits.lock()
    }

    fn caps(&self, _: &Cx<'_>) -> Caps {
        Caps { fua: Support::Emulate, write_zeroes: Support::Native, discard: Support::Native }
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let total = self.len(cx);
            let n = len.min(4096 - off % 4096).min(total - off);
            let zero =
                self.disk.content.lock().data[off as usize..(off + n) as usize].iter().all(|b| *b == 0);
            Ok(Extent { len: n, kind: ExtentKind::Own { offset: Some(off), zero }, eof: off + n == total })
        })
    }

    fn read<'a>(&'a self, _: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            self.check(off, buf.len() as u64, Some(&buf));
            self.world.delay().await;
            if self.world.chance(|f| f.read) {
                return Err(Errno::IO);
            }
            while self.disk.stuck.load(SeqCst) {
                rt::sleep(Duration::from_millis(1)).await;
            }
            self.disk.get(off, &buf);
            self.world.delay().await;
            Ok(())
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, _: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.check(off, buf.len() as u64, Some(&buf));
            assert!(
                !cx.flags().read_only && cx.perm().perm.contains(Perm::WRITE),
                "a write without permission"
            );
            self.world.delay().await;
            self.disk.trouble().await?;
            if self.world.chance(|f| f.space) {
                return Err(Errno::NOSPC);
            }
            self.disk.room(off, buf.len() as u64)?;
            let bytes = buf.to_vec();
            if self.world.chance(|f| f.write) {
                // Torn: some sectors, not necessarily the first, got through.
                for (i, sector) in bytes.chunks(512).enumerate() {
                    if rt::sim::rng().chance(1, 2) {
                        self.disk.put(off + i as u64 * 512, sector);
                    }
                }
                return Err(Errno::IO);
            }
            self.disk.put(off, &bytes);
            self.world.delay().await;
            Ok(())
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, _: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.check(off, len, None);
            assert!(
                !cx.flags().read_only && cx.perm().perm.contains(Perm::WRITE),
                "a write without permission"
            );
            self.world.delay().await;
            self.disk.trouble().await?;
            if rt::sim::is_active() && rt::sim::rng().chance(1, 4) {
                return Err(Errno::NOTSUP);
            }
            self.disk.room(off, len)?;
            self.disk.put(off, &vec![0; len as usize]);
            Ok(())
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move {
            let end = (off + len).min(self.len(cx));
            self.disk.put(off, &vec![0; (end - off) as usize]);
            Ok(())
        })
    }

    fn flush<'a>(&'a self, _: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move {
            // What was complete when the flush began is stable when it ends.
            let upto = {
                let content = self.disk.content.lock();
                content.settled + content.pending.len()
            };
            self.world.delay().await;
            if self.world.chance(|f| f.flush) {
                return Err(Errno::IO);
            }
            self.disk.content.lock().settle(upto);
            self.disk.flushes.fetch_add(1, SeqCst);
            Ok(())
        })
    }

    fn truncate<'a>(&'a self, _: &'a Cx<'a>, len: u64, _: bool, _: Prealloc) -> IoFuture<'a> {
        Box::pin(async move {
            self.disk.room(0, len)?;
            self.disk.content.lock().change(Event::Resize(len));
            Ok(())
        })
    }

    fn stage<'a>(&'a self, _: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            self.world.delay().await;
            if self.world.chance(|f| f.stage) {
                return Err(qerr!("Could not change '{}' (simulated)", next.node_name));
            }
            self.world.staged.fetch_add(1, SeqCst);
            Ok(Box::new(SimStaged(self.world.clone())) as Box<dyn Staged>)
        })
    }

    fn filename(&self) -> Option<String> {
        Some(self.filename.clone())
    }

    fn info(&self, _: &Cx<'_>) -> DriverInfo {
        DriverInfo { actual_size: Some(self.disk.len()), dirty: Some(false), ..DriverInfo::default() }
    }
}
