//! The console and entropy devices behind the MMIO transport, made as users make them: through the device tree.

mod common;

use common::{Buf, Guest, RAM_BASE, Regs, Ring, wait_for};
use device::{
    CharBackend, CharEvent, CharFrontend, ClockSource, DeviceTree, HostEvents, Instance, IoErrorReport,
    IrqLine, PlugEnv, RawValue, Registry, Resources, TimerService,
};
use mem::Size;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use virtio::VirtioMmio;
use virtio::spec::feature::{EVENT_IDX, RING_PACKED, VERSION_1};

/// A character device that keeps what it gets, up to a limit.
struct Sink {
    front: Mutex<Option<Arc<dyn CharFrontend>>>,
    got: Mutex<Vec<u8>>,
    limit: AtomicUsize,
    writable: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    asked: AtomicUsize,
}

impl CharBackend for Sink {
    fn id(&self) -> &str {
        "c0"
    }

    fn attach(&self, front: Arc<dyn CharFrontend>) -> Result<(), QError> {
        let mut f = self.front.lock();
        if f.is_some() {
            return Err(qerr!("chardev 'c0' is already in use"));
        }
        *f = Some(front);
        Ok(())
    }

    fn detach(&self) {
        *self.front.lock() = None;
    }

    fn write(&self, bytes: &[u8]) -> usize {
        let mut got = self.got.lock();
        let n = bytes.len().min(self.limit.load(Ordering::SeqCst).saturating_sub(got.len()));
        got.extend_from_slice(&bytes[..n]);
        n
    }

    fn accept_input(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
    }

    fn on_writable(&self, f: Arc<dyn Fn() + Send + Sync>) {
        *self.writable.lock() = Some(f);
    }
}

struct Things {
    sink: Arc<Sink>,
    objects: qom::ObjectTree,
}

impl Resources for Things {
    fn chardev(&self, id: &str) -> Option<Arc<dyn CharBackend>> {
        (id == "c0").then(|| self.sink.clone() as Arc<dyn CharBackend>)
    }

    fn block(&self) -> Option<Arc<block::BlockGraph>> {
        None
    }

    fn object(&self, id: &str) -> Option<Arc<dyn qom::Object>> {
        self.objects.get(id)
    }
}

#[derive(Default)]
struct Hand(AtomicU64);

impl ClockSource for Hand {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Default)]
struct Host(Mutex<Vec<(String, bool)>>);

impl HostEvents for Host {
    fn io_error(&self, _report: IoErrorReport) {}

    fn port_open(&self, id: &str, open: bool) {
        self.0.lock().push((id.into(), open));
    }
}

struct Board {
    g: Guest,
    tree: DeviceTree,
    registry: Registry,
    things: Things,
    clock: Arc<Hand>,
    timers: TimerService,
    host: Arc<Host>,
    buses: Vec<Arc<VirtioMmio>>,
    io: rt::IoThread,
}

impl Board {
    fn new() -> Board {
        let g = Guest::new();
        let tree = DeviceTree::new();
        let buses: Vec<_> =
            (0..3).map(|i| VirtioMmio::new(i, IrqLine::disconnected(), g.dma(), false)).collect();
        for b in &buses {
            tree.add_bus(b.clone());
        }
        let sink = Sink {
            front: Mutex::default(),
            got: Mutex::default(),
            limit: AtomicUsize::new(usize::MAX),
            writable: Mutex::default(),
            asked: AtomicUsize::new(0),
        };
        let clock = Arc::new(Hand::default());
        Board {
            g,
            tree,
            registry: Registry::new(virtio::DEVICES.iter().copied()),
            things: Things { sink: Arc::new(sink), objects: qom::ObjectTree::new() },
            timers: TimerService::manual(clock.clone()),
            clock,
            host: Arc::default(),
            buses,
            io: rt::IoThread::spawn("io").unwrap(),
        }
    }

    fn plug(&self, text: &str) -> Result<Arc<Instance>, String> {
        let options: Vec<(String, RawValue)> = text
            .split(',')
            .enumerate()
            .map(|(i, o)| match o.split_once('=') {
                Some((k, v)) => (k.into(), RawValue::Text(v.into())),
                None if i == 0 => ("driver".into(), RawValue::Text(o.into())),
                None => panic!("{o}"),
            })
            .collect();
        let env = PlugEnv {
            resources: &self.things,
            timers: &self.timers,
            io: self.io.handle(),
            host: self.host.clone(),
            hotplug: false,
        };
        rt::block_on(self.tree.plug(&self.registry, &options, env)).map_err(|e| e.to_string())
    }

    fn regs(&self, bus: usize) -> Regs {
        Regs(self.buses[bus].clone(), self.g.ram.clone())
    }
}

#[test]
fn devices_are_plugged_with_the_references_messages() {
    let b = Board::new();
    let err = |t: &str| b.plug(t).err().unwrap();
    assert_eq!(err("nope"), "'nope' is not a valid device model name");
    assert_eq!(err("virtio-mmio"), "Parameter 'driver' expects a pluggable device type");
    assert_eq!(err("virtio-blk-device"), "drive property not set");
    assert_eq!(err("virtio-blk-device,drive=x"), "Property 'virtio-blk-device.drive' can't find value 'x'");
    assert_eq!(err("virtio-blk-device,foo=1"), "Property 'virtio-blk-device.foo' not found");
    assert_eq!(err("virtconsole"), "No 'virtio-serial-bus' bus found for device 'virtconsole'");
    assert_eq!(err("virtio-rng-device,rng=nope"), "Device 'nope' not found");
    assert_eq!(err("virtio-rng-device,id=1"), "Parameter 'id' expects an identifier");
    assert_eq!(err("virtio-rng-device,bus=nope"), "Bus 'nope' not found");
    assert_eq!(err("virtio-rng-device,period=0"), "'period' parameter expects a positive integer");
    assert_eq!(
        err("virtio-rng-device,max-bytes=-1"),
        "'max-bytes' parameter must be positive, and less than 2^63"
    );
    assert_eq!(err("virtio-serial-device,max_ports=0"), "Maximum number of serial ports not specified");
    assert_eq!(err("virtio-serial-device,max_ports=600"), "maximum ports supported: 511");
    let io = qapi::from_arg::<qom::ObjectOptions>("iothread,id=i", Some("qom-type")).unwrap();
    b.things.objects.add(&io).unwrap();
    assert_eq!(err("virtio-rng-device,rng=i"), "Invalid parameter type for 'rng', expected: rng-backend");

    let rng = b.plug("virtio-rng-device,id=r,bus=virtio-mmio-bus.1").unwrap();
    assert_eq!((rng.path.as_str(), rng.bus.as_str()), ("/machine/peripheral/r", "virtio-mmio-bus.1"));
    assert_eq!(err("virtio-rng-device,id=r"), "Duplicate ID 'r' for device");
    assert_eq!(err("virtio-rng-device,bus=virtio-mmio-bus.1"), "Bus 'virtio-mmio-bus.1' is full");
    assert_eq!(
        err("virtconsole,bus=virtio-mmio-bus.1"),
        "Device 'virtconsole' can't go on virtio-mmio-bus bus"
    );
    assert_eq!(b.plug("virtio-serial-device").unwrap().bus, "virtio-mmio-bus.0");
    assert_eq!(
        err("virtserialport,nr=0"),
        "Port number 0 on virtio-serial devices reserved for virtconsole devices for backward compatibility."
    );
    assert_eq!(err("virtconsole,chardev=x"), "Property 'virtconsole.chardev' can't find value 'x'");
    b.plug("virtserialport,name=a,bus=virtio-serial-bus.0").unwrap();
    assert_eq!(err("virtserialport,name=a"), "virtio-serial-bus: A port already exists by name a");
    assert_eq!(err("virtserialport,nr=1"), "virtio-serial-bus: A port already exists at id 1");
    assert_eq!(
        err("virtserialport,nr=40"),
        "virtio-serial-bus: Out-of-range port id specified, max. allowed: 30"
    );
    b.plug("virtconsole,chardev=c0").unwrap();
    assert_eq!(
        err("virtconsole,chardev=c0"),
        "Property 'virtconsole.chardev' can't take value 'c0': chardev 'c0' is already in use"
    );
    b.plug("virtio-rng-device").unwrap();
    assert_eq!(err("virtio-rng-device"), "No 'virtio-bus' bus found for device 'virtio-rng-device'");
    assert_eq!(b.tree.find("nope").err().unwrap().desc(), "Device 'nope' not found");
    assert!(b.registry.help().contains("Storage devices:\nname \"virtio-blk-device\", bus virtio-bus\n"));
    assert!(
        b.registry
            .find("virtconsole")
            .unwrap()
            .help()
            .contains("  nr=<uint32>            -  (default: 4294967295)")
    );
}

const DATA: u64 = RAM_BASE + (12 << 20);
const F_MULTIPORT: u64 = 1 << 1;

/// Adds a request and kicks as a driver does: only where the device asks for it.
fn add(b: &Board, ring: &mut Ring, regs: &Regs, index: u32, bufs: &[Buf]) {
    let mark = ring.mark();
    ring.add(&b.g, bufs, false).unwrap();
    if ring.must_kick(&b.g, mark) {
        regs.set(0x50, index);
    }
}

fn control(b: &Board, tx: &mut Ring, regs: &Regs, port: u32, event: u16, value: u16) {
    let mut m = Vec::from(port.to_le_bytes());
    m.extend(event.to_le_bytes());
    m.extend(value.to_le_bytes());
    b.g.write(DATA, &m);
    add(b, tx, regs, 3, &[(DATA, 8, false)]);
    assert!(tx.reap(&b.g).is_some());
}

fn messages(b: &Board, rx: &mut Ring) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while let Some((id, len)) = rx.reap(&b.g) {
        out.push(b.g.read(DATA + 0x1000 + u64::from(id) * 64, len as usize));
    }
    out
}

/// Device buffers whose place follows from the descriptor.
fn offer(b: &Board, rx: &mut Ring, regs: &Regs, index: u32, n: u16, len: u32) {
    let mark = rx.mark();
    for i in 0..n {
        let buf: Buf = (DATA + 0x1000 + u64::from(i) * 64, len, true);
        assert_eq!(rx.add(&b.g, &[buf], false), Some(i));
    }
    if rx.must_kick(&b.g, mark) {
        regs.set(0x50, index);
    }
}

#[test]
fn ports_talk_to_their_character_devices() {
    for ring in [0, EVENT_IDX, RING_PACKED, RING_PACKED | EVENT_IDX] {
        talk(VERSION_1 | F_MULTIPORT | ring);
    }
}

fn talk(features: u64) {
    let b = Board::new();
    b.plug("virtio-serial-device,max_ports=2,packed=on").unwrap();
    let console = b.plug("virtconsole,chardev=c0,id=con,name=org.example").unwrap();
    assert_eq!(console.path, "/machine/peripheral/con");
    let regs = b.regs(0);
    assert_eq!(regs.config(4, Size::B4), 2);
    let mut rings = regs.start(features, 6, 16);
    offer(&b, &mut rings[2], &regs, 2, 8, 64);
    control(&b, &mut rings[3], &regs, u32::MAX, 0, 1);
    assert_eq!(messages(&b, &mut rings[2]), [vec![0, 0, 0, 0, 1, 0, 1, 0]]);
    control(&b, &mut rings[3], &regs, 0, 3, 1);
    let mut name = vec![0, 0, 0, 0, 7, 0, 1, 0];
    name.extend(b"org.example");
    assert_eq!(
        messages(&b, &mut rings[2]),
        [vec![0, 0, 0, 0, 4, 0, 1, 0], name, vec![0, 0, 0, 0, 6, 0, 1, 0]]
    );
    let front = b.things.sink.front.lock().clone().unwrap();
    assert_eq!(front.room(), 0);
    control(&b, &mut rings[3], &regs, 0, 6, 1);
    assert_eq!(*b.host.0.lock(), [("con".to_owned(), true)]);
    // A port that is not there, and a message that is too short, are nothing.
    control(&b, &mut rings[3], &regs, 77, 6, 1);

    // Input.
    offer(&b, &mut rings[0], &regs, 0, 2, 4);
    assert!(b.things.sink.asked.load(Ordering::SeqCst) > 0);
    assert_eq!(front.room(), 4);
    front.receive(b"abc");
    front.receive(b"de");
    assert_eq!(messages(&b, &mut rings[0]), [b"abc".to_vec(), b"de".to_vec()]);
    assert_eq!(front.room(), 0);

    // Output; the back end takes it in two goes.
    b.things.sink.limit.store(5, Ordering::SeqCst);
    b.g.write(DATA, b"hello world");
    add(&b, &mut rings[1], &regs, 1, &[(DATA, 6, false), (DATA + 6, 5, false)]);
    assert_eq!(*b.things.sink.got.lock(), b"hello");
    assert!(rings[1].reap(&b.g).is_none());
    b.things.sink.limit.store(100, Ordering::SeqCst);
    let writable = b.things.sink.writable.lock().clone().unwrap();
    writable();
    assert_eq!(*b.things.sink.got.lock(), b"hello world");
    assert!(rings[1].reap(&b.g).is_some());

    // A pause holds both directions.
    let dev = b.tree.devices()[0].device.clone();
    let asked = b.things.sink.asked.load(Ordering::SeqCst);
    offer_one(&b, &mut rings[0], &regs);
    assert!(b.things.sink.asked.load(Ordering::SeqCst) > asked, "the back end is told of the new buffer");
    assert!(front.room() > 0);
    rt::block_on(dev.pause());
    assert_eq!(front.room(), 0);
    front.receive(b"late");
    add(&b, &mut rings[1], &regs, 1, &[(DATA, 5, false)]);
    assert!(rings[1].reap(&b.g).is_none() && rings[0].reap(&b.g).is_none());
    let saved = dev.save();
    assert_eq!(dev.save(), saved);
    dev.resume();
    assert!(rings[1].reap(&b.g).is_some());
    let (_, len) = rings[0].reap(&b.g).unwrap();
    assert_eq!(b.g.read(DATA + 0x4000, len as usize), b"late");

    front.event(CharEvent::Closed);
    assert_eq!(messages(&b, &mut rings[2]), [vec![0, 0, 0, 0, 6, 0, 0, 0]]);
    regs.set(0x70, 0);
    assert_eq!(b.host.0.lock().last().unwrap(), &("con".to_owned(), false));
}

fn offer_one(b: &Board, rx: &mut Ring, regs: &Regs) {
    add(b, rx, regs, 0, &[(DATA + 0x4000, 32, true)]);
}

#[test]
fn a_single_port_works_without_control_messages() {
    let b = Board::new();
    b.plug("virtio-serial-device").unwrap();
    b.plug("virtconsole,chardev=c0").unwrap();
    let regs = b.regs(0);
    let mut rings = regs.start(VERSION_1, 2, 16);
    b.g.write(DATA, b"boot");
    rings[1].add(&b.g, &[(DATA, 4, false)], false).unwrap();
    regs.set(0x50, 1);
    assert_eq!(*b.things.sink.got.lock(), b"boot");
    offer_one(&b, &mut rings[0], &regs);
    let front = b.things.sink.front.lock().clone().unwrap();
    assert_eq!(front.room(), 32);
    front.receive(b"x");
    assert_eq!(rings[0].reap(&b.g).unwrap().1, 1);
    // The emergency write needs no queue.
    regs.set(0x70, 0);
    mem::Mmio::write(&*regs.0, 0x100 + 8, u64::from(b'!'), Size::B4);
    assert_eq!(b.things.sink.got.lock().last(), Some(&b'!'));
}

#[test]
fn entropy_comes_at_the_rate_that_was_set() {
    let b = Board::new();
    b.plug("virtio-rng-device,max-bytes=100,period=1000").unwrap();
    let regs = b.regs(0);
    let mut r = regs.start(VERSION_1, 1, 8).remove(0);
    let mut ask = |len: u32| {
        r.add(&b.g, &[(DATA, len, true)], false).unwrap();
        regs.set(0x50, 0);
    };
    b.g.write(DATA, &[0; 256]);
    ask(64);
    ask(64);
    ask(64);
    let mut lens: Vec<u32> = Vec::new();
    for _ in 0..2 {
        lens.push(wait_for(|| r.reap(&b.g)).1);
    }
    lens.sort_unstable();
    assert_eq!(lens, [36, 64]);
    assert!(b.g.read(DATA, 64).iter().any(|x| *x != 0));
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(r.reap(&b.g).is_none());

    // The request that waits is part of the state.
    let dev = b.tree.devices()[0].device.clone();
    rt::block_on(dev.pause());
    let (saved, mmio) = (dev.save(), device::Device::save(&*b.buses[0]));
    let c = Board::new();
    c.plug("virtio-rng-device,max-bytes=100,period=1000").unwrap();
    let other = c.tree.devices()[0].device.clone();
    rt::block_on(other.pause());
    device::Device::load(&*c.buses[0], &mmio).unwrap();
    other.load(&saved).unwrap();
    assert_eq!((other.save(), device::Device::save(&*c.buses[0])), (saved, mmio));

    dev.resume();
    b.clock.0.store(1_000_000_000, Ordering::SeqCst);
    b.timers.run_due();
    assert_eq!(wait_for(|| r.reap(&b.g)).1, 64);
}
