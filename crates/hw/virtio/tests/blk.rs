//! The block device behind the MMIO transport: a driver with random requests against a model, errors, reset, pause,
//! saved state.

mod common;

use base::{Errno, IoResult};
use common::{Buf, Guest, RAM_BASE, Regs, Ring, wait_for};
use device::{Device, HostEvents, IoErrorReport, IrqLine, IrqSink, LocalBoxFuture, Props, RawValue, Reset};
use mem::{IoBuf, Mmio, Size};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use virtio::VirtioMmio;
use virtio::blk::{BlkConf, BlockPort, VirtioBlk};
use virtio::spec::feature::*;

const LEN: usize = 1 << 20;

/// Storage in memory, with errors and delays on demand.
struct MemPort {
    data: Mutex<Vec<u8>>,
    len: AtomicU64,
    read_only: bool,
    error: Mutex<Option<Errno>>,
    hold: AtomicBool,
    release: rt::sync::Notify,
    fua: AtomicU32,
    flushes: AtomicU32,
    inside: AtomicU32,
}

impl MemPort {
    fn new(read_only: bool) -> Arc<MemPort> {
        Arc::new(MemPort {
            data: Mutex::new(vec![0; LEN]),
            len: AtomicU64::new(LEN as u64),
            read_only,
            error: Mutex::new(None),
            hold: AtomicBool::new(false),
            release: rt::sync::Notify::new(),
            fua: AtomicU32::new(0),
            flushes: AtomicU32::new(0),
            inside: AtomicU32::new(0),
        })
    }

    async fn gate(&self) -> IoResult<()> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        rt::yield_now().await;
        loop {
            let released = self.release.notified();
            if !self.hold.load(Ordering::SeqCst) {
                break;
            }
            released.await;
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.error.lock().map_or(Ok(()), Err)
    }

    fn let_go(&self) {
        self.hold.store(false, Ordering::SeqCst);
        self.release.notify_all();
    }
}

impl BlockPort for MemPort {
    fn read(&self, off: u64, buf: IoBuf) -> LocalBoxFuture<'_, IoResult<()>> {
        Box::pin(async move {
            self.gate().await?;
            buf.copy_from(0, &self.data.lock()[off as usize..off as usize + buf.len()]);
            Ok(())
        })
    }

    fn write(&self, off: u64, buf: IoBuf, fua: bool) -> LocalBoxFuture<'_, IoResult<()>> {
        Box::pin(async move {
            self.gate().await?;
            self.fua.fetch_add(fua.into(), Ordering::SeqCst);
            buf.copy_to(0, &mut self.data.lock()[off as usize..off as usize + buf.len()]);
            Ok(())
        })
    }

    fn write_zeroes(&self, off: u64, len: u64, _unmap: bool, _fua: bool) -> LocalBoxFuture<'_, IoResult<()>> {
        Box::pin(async move {
            self.gate().await?;
            self.data.lock()[off as usize..(off + len) as usize].fill(0);
            Ok(())
        })
    }

    fn discard(&self, off: u64, len: u64) -> LocalBoxFuture<'_, IoResult<()>> {
        Box::pin(async move {
            self.gate().await?;
            self.data.lock()[off as usize..(off + len) as usize].fill(0xdd);
            Ok(())
        })
    }

    fn flush(&self) -> LocalBoxFuture<'_, IoResult<()>> {
        Box::pin(async move {
            self.gate().await?;
            self.flushes.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::SeqCst)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn name(&self) -> &str {
        "mem0"
    }
}

#[derive(Default)]
struct Host(Mutex<Vec<IoErrorReport>>);

impl HostEvents for Host {
    fn io_error(&self, report: IoErrorReport) {
        self.0.lock().push(report);
    }

    fn port_open(&self, _id: &str, _open: bool) {}
}

#[derive(Default)]
struct Irq {
    level: AtomicBool,
    edges: AtomicU32,
}

impl IrqSink for Irq {
    fn set_irq(&self, _n: u32, level: bool) {
        if self.level.swap(level, Ordering::SeqCst) != level && level {
            self.edges.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Machine {
    g: Guest,
    regs: Regs,
    port: Arc<MemPort>,
    blk: Arc<VirtioBlk>,
    irq: Arc<Irq>,
    host: Arc<Host>,
    // Last, so that it ends after its users.
    _io: rt::IoThread,
}

fn conf(set: &[(&str, &str)]) -> Result<BlkConf, String> {
    let mut p = Props::new("virtio-blk-device", virtio::blk::TYPE.props);
    for (k, v) in set {
        p.set(k, &RawValue::Text((*v).into())).map_err(|e| e.to_string())?;
    }
    BlkConf::from_props(&p).map_err(|e| e.to_string())
}

fn machine_on(port: Arc<MemPort>, legacy: bool, set: &[(&str, &str)]) -> Machine {
    let g = Guest::new();
    let io = rt::IoThread::spawn("io").unwrap();
    let (irq, host): (Arc<Irq>, Arc<Host>) = Default::default();
    let bus = VirtioMmio::new(0, IrqLine::new(irq.clone(), 1), g.dma(), legacy);
    let conf = conf(set).unwrap();
    let blk = VirtioBlk::new(conf, "/machine/disk", port.clone(), io.handle(), host.clone(), None);
    bus.plug_device(blk.clone()).unwrap();
    let regs = Regs(bus, g.ram.clone());
    Machine { g, regs, port, blk, irq, host, _io: io }
}

fn machine(legacy: bool, set: &[(&str, &str)]) -> Machine {
    machine_on(MemPort::new(false), legacy, set)
}

const HEADERS: u64 = RAM_BASE + (8 << 20);
const STATUS: u64 = HEADERS + 0x10000;
const DATA: u64 = RAM_BASE + (9 << 20);

impl Machine {
    /// Makes a request available without waiting. `slot` names its header, status byte and 64 KiB of data.
    fn post(&self, r: &mut Ring, slot: u64, kind: u32, sector: u64, data: &[Buf], indirect: bool) -> u16 {
        let mut h = Vec::from(kind.to_le_bytes());
        h.extend([0; 4]);
        h.extend(sector.to_le_bytes());
        self.g.write(HEADERS + 16 * slot, &h);
        self.g.write(STATUS + slot, &[0xff]);
        let mut bufs = vec![(HEADERS + 16 * slot, 16, false)];
        bufs.extend(data);
        bufs.push((STATUS + slot, 1, true));
        r.add(&self.g, &bufs, indirect).expect("the ring has room")
    }

    fn kick(&self, q: u32) {
        self.regs.set(0x50, q);
    }

    fn status_of(&self, slot: u64) -> u8 {
        self.g.read(STATUS + slot, 1)[0]
    }

    /// One request, start to end; its status.
    fn request(&self, r: &mut Ring, kind: u32, sector: u64, data: &[Buf]) -> u8 {
        self.post(r, 0, kind, sector, data, false);
        self.kick(0);
        wait_for(|| r.reap(&self.g));
        self.status_of(0)
    }
}

fn random_work(legacy: bool, features: u64, set: &[(&str, &str)], queues: u16) {
    let m = machine(legacy, set);
    let offered = m.regs.offered();
    assert_eq!(features & !offered, 0, "{features:#x} of {offered:#x}");
    let mut rings = m.regs.start(features, queues, 64);
    let mut model = vec![0u8; LEN];
    let mut x = 0x1234_5678_9abc_def1u64;
    let mut rand = move |n: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x % n
    };
    for round in 0..60 {
        // Requests of a round touch different parts of the disk, so their order does not matter.
        let q = (round % queues) as usize;
        let n = 1 + rand(8);
        let mut posted = Vec::new();
        for slot in 0..n {
            let sector = slot * 128 + rand(64);
            let sectors = 1 + rand(60);
            let (off, len) = (sector as usize * 512, sectors as usize * 512);
            let at = DATA + slot * 0x10000;
            let write = rand(2) == 0;
            // Cut at any byte.
            let cut = rand(len as u64 + 1);
            let bufs: Vec<Buf> = [(at, cut as u32, !write), (at + cut, (len as u64 - cut) as u32, !write)]
                .into_iter()
                .filter(|b| b.1 > 0)
                .collect();
            if write {
                let bytes: Vec<u8> = (0..len).map(|_| rand(256) as u8).collect();
                m.g.write(at, &bytes);
                model[off..off + len].copy_from_slice(&bytes);
            }
            let indirect = features & INDIRECT_DESC != 0 && rand(2) == 0;
            let id = m.post(&mut rings[q], slot, u32::from(write), sector, &bufs, indirect);
            posted.push((id, slot, write, off, len));
        }
        rings[q].want_interrupt(&m.g, true);
        m.kick(q as u32);
        while !posted.is_empty() {
            let (id, written) = wait_for(|| rings[q].reap(&m.g));
            let i = posted.iter().position(|p| p.0 == id).unwrap();
            let (_, slot, write, off, len) = posted.swap_remove(i);
            assert_eq!(m.status_of(slot), 0);
            assert_eq!(written as usize, if write { 1 } else { len + 1 });
            if !write {
                assert!(m.g.read(DATA + slot * 0x10000, len) == model[off..off + len]);
            }
        }
        wait_for(|| m.irq.level.load(Ordering::SeqCst).then_some(()));
        assert_eq!(m.regs.get(0x60), 1);
        m.regs.set(0x64, 1);
    }
    assert!(*m.port.data.lock() == model);
    assert_eq!(m.regs.status() & 0x40, 0);
}

#[test]
fn random_work_on_every_kind_of_ring() {
    random_work(true, INDIRECT_DESC | EVENT_IDX, &[], 1);
    random_work(true, 0, &[], 1);
    random_work(false, VERSION_1, &[], 1);
    random_work(false, VERSION_1 | INDIRECT_DESC | EVENT_IDX | 1 << 12, &[("num-queues", "4")], 4);
    let packed = [("packed", "on"), ("in_order", "on")];
    random_work(false, VERSION_1 | RING_PACKED | INDIRECT_DESC, &packed, 1);
    random_work(false, VERSION_1 | RING_PACKED | EVENT_IDX | IN_ORDER, &packed, 1);
}

#[test]
fn what_the_registers_say() {
    let m = machine(
        false,
        &[("serial", "disk-serial"), ("physical_block_size", "4096"), ("min_io_size", "4096")],
    );
    let r = &m.regs;
    assert_eq!((r.get(0), r.get(4), r.get(8)), (0x7472_6976, 2, 2));
    r.set(0x30, 0);
    assert_eq!(r.get(0x34), 256);
    r.set(0x30, 7);
    assert_eq!(r.get(0x34), 0);
    // Capacity, seg_max, blk_size, physical_block_exp and min_io_size, writeback, num_queues.
    assert_eq!(r.config(0, Size::B8), LEN as u64 / 512);
    assert_eq!(r.config(12, Size::B4), 254);
    assert_eq!(r.config(20, Size::B4), 512);
    assert_eq!(r.config(24, Size::B4), 3 | 8 << 16);
    assert_eq!(r.config(32, Size::B1), 1);
    assert_eq!(r.config(34, Size::B2), 1);
    assert_eq!(r.config(4096, Size::B4), 0);
    let want = [2u64, 4, 6, 9, 10, 11, 13, 14].iter().fold(0, |f, b| f | 1 << b);
    assert_eq!(r.offered() & 0xffffff, want);
    // No shared memory.
    assert_eq!(r.get(0xb0), u32::MAX);
    // A register by bytes is nothing.
    assert_eq!(Mmio::read(&*r.0, 0, Size::B1), 0);

    let legacy = machine(true, &[]);
    assert_eq!(legacy.regs.get(4), 1);
    assert_eq!(legacy.regs.offered() >> 32, 0);
    assert_eq!(legacy.regs.offered() & (NOTIFY_ON_EMPTY | ANY_LAYOUT), NOTIFY_ON_EMPTY | ANY_LAYOUT);
    let ro = machine_on(MemPort::new(true), false, &[]);
    assert_eq!(ro.regs.offered() & 1 << 5, 1 << 5);
}

#[test]
fn features_are_negotiated() {
    let m = machine(false, &[]);
    let r = &m.regs;
    // Without VERSION_1, or with what is not offered, FEATURES_OK does not stick.
    for features in [0u64, VERSION_1 | 1 << 50] {
        r.set(0x70, 0);
        r.set(0x70, 3);
        r.set(0x24, 0);
        r.set(0x20, features as u32);
        r.set(0x24, 1);
        r.set(0x20, (features >> 32) as u32);
        r.set(0x70, 11);
        assert_eq!(r.status(), 3);
    }
    // And a driver that goes on regardless breaks the device.
    r.set(0x70, 15);
    assert_eq!(r.status() & 0x40, 0x40);
    r.set(0x70, 0);
    assert_eq!(r.status(), 0);
}

#[test]
fn all_kinds_of_requests() {
    let m = machine(false, &[("serial", "0123456789abcdefghijXYZ")]);
    let mut r = m.regs.start(VERSION_1 | 1 << 9 | 1 << 11, 1, 16).remove(0);
    let ring = &mut r;
    m.g.write(DATA, &[7; 4096]);
    assert_eq!(m.request(ring, 1, 8, &[(DATA, 4096, false)]), 0);
    assert_eq!(m.port.fua.load(Ordering::SeqCst), 0);
    assert_eq!(m.request(ring, 4, 0, &[]), 0);
    assert_eq!(m.port.flushes.load(Ordering::SeqCst), 1);
    assert_eq!(m.request(ring, 8, 0, &[(DATA, 20, true)]), 0);
    assert_eq!(m.g.read(DATA, 20), b"0123456789abcdefghij");
    // A write-through cache: writes are stable when done.
    Mmio::write(&*m.regs.0, 0x100 + 32, 0, Size::B1);
    assert_eq!(m.regs.config(32, Size::B1), 0);
    assert_eq!(m.request(ring, 1, 8, &[(DATA, 512, false)]), 0);
    assert_eq!(m.port.fua.load(Ordering::SeqCst), 1);

    let ranged = |ring: &mut Ring, kind: u32, sector: u64, sectors: u32, flags: u32| {
        let mut b = Vec::from(sector.to_le_bytes());
        b.extend(sectors.to_le_bytes());
        b.extend(flags.to_le_bytes());
        m.g.write(DATA, &b);
        m.request(ring, kind, 0, &[(DATA, 16, false)])
    };
    assert_eq!(ranged(ring, 13, 8, 4, 1), 0);
    assert!(m.port.data.lock()[4096..4096 + 2048].iter().all(|b| *b == 0));
    assert_eq!(ranged(ring, 11, 12, 2, 0), 0);
    assert!(m.port.data.lock()[6144..7168].iter().all(|b| *b == 0xdd));
    // Flags that are not known; beyond the end; too long.
    assert_eq!(ranged(ring, 11, 0, 1, 1), 2);
    assert_eq!(ranged(ring, 13, 0, 1, 2), 2);
    assert_eq!(ranged(ring, 11, 2047, 2, 0), 1);
    assert_eq!(ranged(ring, 13, u64::MAX, 1, 0), 1);
    assert_eq!(ranged(ring, 13, 0, u32::MAX, 0), 1);
    // Two segments where one is offered.
    assert_eq!(m.request(ring, 11, 0, &[(DATA, 32, false)]), 2);
    // An unknown type; reads and writes beyond the end, and of parts of a sector.
    assert_eq!(m.request(ring, 99, 0, &[(DATA, 512, true)]), 2);
    assert_eq!(m.request(ring, 0, 2047, &[(DATA, 1024, true)]), 1);
    assert_eq!(m.request(ring, 0, u64::MAX / 512, &[(DATA, 512, true)]), 1);
    assert_eq!(m.request(ring, 1, u64::MAX, &[(DATA, 512, false)]), 1);
    assert_eq!(m.request(ring, 0, 0, &[(DATA, 511, true)]), 1);
    assert_eq!(m.regs.status() & 0x40, 0);

    let ro = machine_on(MemPort::new(true), false, &[]);
    let mut r = ro.regs.start(VERSION_1 | 1 << 5, 1, 16).remove(0);
    assert_eq!(ro.request(&mut r, 1, 0, &[(DATA, 512, false)]), 1);
    assert_eq!(ro.request(&mut r, 0, 0, &[(DATA, 512, true)]), 0);
}

#[test]
fn a_request_without_header_or_status_needs_a_reset() {
    for bufs in [&[(DATA, 8, false), (DATA, 1, true)][..], &[(DATA, 16, false)][..], &[(DATA, 1, true)][..]] {
        let m = machine(false, &[]);
        let mut r = m.regs.start(VERSION_1, 1, 16).remove(0);
        r.add(&m.g, bufs, false).unwrap();
        m.kick(0);
        wait_for(|| (m.regs.status() & 0x40 != 0).then_some(()));
        assert_eq!(m.regs.get(0x60) & 2, 2);
        // The machine lives on: after a reset the device works again.
        let mut r = m.regs.start(VERSION_1, 1, 16).remove(0);
        assert_eq!(m.request(&mut r, 0, 0, &[(DATA, 512, true)]), 0);
    }
}

#[test]
fn errors_follow_the_policy() {
    let m = machine(false, &[]);
    let mut r = m.regs.start(VERSION_1, 1, 16).remove(0);
    *m.port.error.lock() = Some(Errno::IO);
    m.g.write(DATA, &[9; 512]);
    assert_eq!(m.request(&mut r, 0, 0, &[(DATA, 512, true)]), 1);
    assert_eq!(m.g.read(DATA, 512), [0; 512]);
    let report = m.host.0.lock().pop().unwrap();
    assert_eq!((report.action, report.write, report.nospace), ("report", false, false));

    // No space: the machine stops, and the request runs again when it goes on.
    *m.port.error.lock() = Some(Errno::NOSPC);
    m.g.write(DATA, &[5; 512]);
    m.post(&mut r, 0, 1, 0, &[(DATA, 512, false)], false);
    m.kick(0);
    wait_for(|| m.host.0.lock().first().map(|r| (r.action, r.nospace))).0.eq("stop").then_some(()).unwrap();
    rt::block_on(m.blk.pause());
    assert!(r.reap(&m.g).is_none());
    *m.port.error.lock() = None;
    m.blk.resume();
    wait_for(|| r.reap(&m.g));
    assert_eq!((m.status_of(0), m.port.data.lock()[0]), (0, 5));

    let m = machine(false, &[("werror", "ignore"), ("rerror", "stop")]);
    let mut r = m.regs.start(VERSION_1, 1, 16).remove(0);
    *m.port.error.lock() = Some(Errno::IO);
    assert_eq!(m.request(&mut r, 1, 0, &[(DATA, 512, false)]), 0);
    // A request that waits for the machine is gone after a reset.
    m.post(&mut r, 0, 0, 0, &[(DATA, 512, true)], false);
    m.kick(0);
    wait_for(|| (m.host.0.lock().len() == 2).then_some(()));
    m.regs.0.reset(Reset::Warm);
    m.blk.reset(Reset::Warm);
    rt::block_on(m.blk.pause());
    m.blk.resume();
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(m.host.0.lock().len(), 2);
}

#[test]
fn a_pause_takes_nothing_and_waits_for_what_is_in_flight() {
    let m = machine(false, &[]);
    let mut r = m.regs.start(VERSION_1, 1, 16).remove(0);
    m.port.hold.store(true, Ordering::SeqCst);
    m.post(&mut r, 0, 0, 0, &[(DATA, 512, true)], false);
    m.kick(0);
    wait_for(|| (m.port.inside.load(Ordering::SeqCst) == 1).then_some(()));
    rt::block_on(async {
        let pause = m.blk.pause();
        assert!(rt::timeout(Duration::from_millis(20), pause).await.is_none());
        m.port.let_go();
        m.blk.pause().await;
    });
    // Used and told before the pause ended.
    assert!(r.reap(&m.g).is_some());
    assert_eq!(m.regs.get(0x60), 1);
    m.post(&mut r, 1, 0, 0, &[(DATA, 512, true)], false);
    m.kick(0);
    std::thread::sleep(Duration::from_millis(20));
    assert!(r.reap(&m.g).is_none());
    m.blk.resume();
    wait_for(|| r.reap(&m.g));
}

#[test]
fn a_reset_waits_for_requests_and_leaves_the_ring_alone() {
    let m = machine(false, &[]);
    let mut r = m.regs.start(VERSION_1, 1, 16).remove(0);
    m.port.hold.store(true, Ordering::SeqCst);
    m.g.write(DATA, &[1; 512]);
    m.post(&mut r, 0, 0, 0, &[(DATA, 512, true)], false);
    m.kick(0);
    wait_for(|| (m.port.inside.load(Ordering::SeqCst) == 1).then_some(()));
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            m.regs.set(0x70, 0);
            done.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!done.load(Ordering::SeqCst));
        m.port.let_go();
    });
    assert_eq!(m.port.inside.load(Ordering::SeqCst), 0);
    assert!(r.reap(&m.g).is_none(), "a reset device used a buffer");
    // Equal to a fresh one.
    let fresh = machine(false, &[]);
    assert_eq!(m.regs.0.save(), fresh.regs.0.save());
    assert_eq!(m.blk.save(), fresh.blk.save());
    let mut r = m.regs.start(VERSION_1, 1, 16).remove(0);
    assert_eq!(m.request(&mut r, 0, 0, &[(DATA, 512, true)]), 0);
}

#[test]
fn one_queue_is_reset_alone() {
    let m = machine(false, &[("num-queues", "2")]);
    let f = VERSION_1 | RING_RESET | 1 << 12;
    let mut rings = m.regs.start(f, 2, 16);
    assert_eq!(m.request(&mut rings[0], 0, 0, &[(DATA, 512, true)]), 0);
    m.regs.set(0x30, 0);
    m.regs.set(0xc0, 1);
    assert_eq!((m.regs.get(0xc0), m.regs.get(0x44)), (0, 0));
    // The other one works on; this one does nothing until it is set up again.
    m.kick(0);
    m.post(&mut rings[1], 0, 0, 0, &[(DATA, 512, true)], false);
    m.kick(1);
    wait_for(|| rings[1].reap(&m.g));
    let mut again = m.regs.queue(0, f, 16);
    assert_eq!(m.request(&mut again, 0, 0, &[(DATA, 512, true)]), 0);
}

#[test]
fn a_saved_device_goes_on_elsewhere() {
    for (features, set) in [
        (VERSION_1 | EVENT_IDX | INDIRECT_DESC | 1 << 11, &[("werror", "stop")][..]),
        (
            VERSION_1 | EVENT_IDX | RING_PACKED | IN_ORDER,
            &[("werror", "stop"), ("packed", "on"), ("in_order", "on")],
        ),
    ] {
        for device_first in [false, true] {
            let a = machine(false, set);
            let mut r = a.regs.start(features, 1, 8).remove(0);
            for _ in 0..11 {
                assert_eq!(a.request(&mut r, 0, 0, &[(DATA, 512, true)]), 0);
            }
            // One request waits for the machine to go on.
            *a.port.error.lock() = Some(Errno::IO);
            a.g.write(DATA, &[0x5a; 512]);
            a.post(&mut r, 0, 1, 3, &[(DATA, 512, false)], false);
            a.kick(0);
            wait_for(|| (a.host.0.lock().len() == 1).then_some(()));
            rt::block_on(a.blk.pause());
            let (mmio, blk) = (a.regs.0.save(), a.blk.save());
            let mmio = device::StateBlob::decode(&mmio.encode()).unwrap();

            let b = machine(false, set);
            let mut ram = vec![0; common::RAM_SIZE as usize];
            a.g.ram.read(0, &mut ram);
            b.g.ram.write(0, &ram);
            rt::block_on(b.blk.pause());
            if device_first {
                b.blk.load(&blk).unwrap();
                b.regs.0.load(&mmio).unwrap();
            } else {
                b.regs.0.load(&mmio).unwrap();
                b.blk.load(&blk).unwrap();
            }
            assert_eq!((b.regs.0.save(), b.blk.save()), (mmio, blk));
            b.blk.resume();
            wait_for(|| r.reap(&b.g));
            assert_eq!((b.status_of(0), b.port.data.lock()[3 * 512]), (0, 0x5a));
            for _ in 0..11 {
                assert_eq!(b.request(&mut r, 0, 0, &[(DATA, 512, true)]), 0);
            }
        }
    }
    // States of something else change nothing.
    let m = machine(false, &[]);
    let before = m.regs.0.save();
    assert!(m.regs.0.load(&m.blk.save()).is_err());
    assert!(m.regs.0.load(&machine(true, &[]).regs.0.save()).is_err());
    assert!(m.blk.load(&before).is_err());
    assert_eq!(m.regs.0.save(), before);
}

#[test]
fn a_new_size_is_announced() {
    let m = machine(false, &[]);
    m.regs.start(VERSION_1, 1, 16);
    let generation = m.regs.get(0xfc);
    m.port.len.store(LEN as u64 / 2, Ordering::SeqCst);
    m.blk.capacity_changed();
    assert_eq!(m.regs.get(0x60), 2);
    assert!(m.irq.level.load(Ordering::SeqCst));
    assert_ne!(m.regs.get(0xfc), generation);
    assert_eq!(m.regs.config(0, Size::B8), LEN as u64 / 1024);
    m.regs.set(0x64, 2);
    assert!(!m.irq.level.load(Ordering::SeqCst));
}

#[test]
fn many_requests_share_interrupts() {
    let m = machine(false, &[]);
    let mut r = m.regs.start(VERSION_1, 1, 256).remove(0);
    m.port.hold.store(true, Ordering::SeqCst);
    for slot in 0..60 {
        m.post(&mut r, slot, 0, 0, &[(DATA, 512, true)], false);
    }
    m.kick(0);
    wait_for(|| (m.port.inside.load(Ordering::SeqCst) == 60).then_some(()));
    m.port.let_go();
    let mut n = 0;
    while n < 60 {
        wait_for(|| r.reap(&m.g));
        m.regs.set(0x64, 1);
        n += 1;
    }
    let edges = m.irq.edges.load(Ordering::SeqCst);
    assert!(edges <= 10, "{edges} interrupts for 60 requests");
}

#[test]
fn settings_are_checked_as_the_reference_does() {
    let err = |k: &str, v: &str| conf(&[(k, v)]).unwrap_err();
    assert_eq!(err("num-queues", "0"), "num-queues property must be larger than 0");
    assert_eq!(err("queue-size", "3"), "invalid queue-size property (3), must be a power of 2 (max 1024)");
    assert_eq!(
        err("queue-size", "2048"),
        "invalid queue-size property (2048), must be a power of 2 (max 1024)"
    );
    assert_eq!(err("queue-size", "2"), "invalid queue-size property (2), must be > 2");
    assert_eq!(err("cyls", "5"), "heads must be between 1 and 255");
    assert_eq!(
        err("discard_granularity", "7"),
        "discard_granularity must be a multiple of logical_block_size"
    );
    assert_eq!(
        err("max-discard-sectors", "0"),
        "invalid max-discard-sectors property (0), must be between 1 and 4194303"
    );
    assert_eq!(err("opt_io_size", "5"), "opt_io_size must be a multiple of logical_block_size");
    assert_eq!(err("werror", "foo"), "Parameter 'werror' does not accept value 'foo'");
    assert_eq!(
        conf(&[("logical_block_size", "4096"), ("physical_block_size", "512")]).unwrap_err(),
        "logical_block_size > physical_block_size not supported"
    );
    assert!(conf(&[("cyls", "5"), ("heads", "3"), ("secs", "7")]).is_ok());
    let help = virtio::blk::TYPE.help();
    assert!(help.starts_with("virtio-blk-device options:\n"), "{help}");
    for line in [
        "  config-wce=<bool>      - on/off (default: on)",
        "  iothread=<link<iothread>>",
        "  discard_granularity=<size> -  (default: 4294967295)",
        "  max-discard-sectors=<uint32> -  (default: 4194303)",
        "  num-queues=<uint16>    -  (default: 65535)",
        "  rerror=<BlockdevOnError> - Error handling policy (report/ignore/enospc/stop/auto) (default: auto)",
    ] {
        assert!(help.lines().any(|l| l == line), "{line}");
    }
}
