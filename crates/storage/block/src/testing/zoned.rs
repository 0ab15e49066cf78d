//! Zoned devices in memory: zones with conditions and write pointers, as few open ones as a device may have, and the errors
//! that devices and the kernel give.

use crate::driver::{
    Caps, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits, OpenCx, OpenFuture, Prealloc,
    Support, WriteFlags, no_children,
};
use crate::filename::{FileNames, of_prefix};
use crate::zoned::{Zone, ZoneCondition, ZoneKind, ZoneLimits, ZoneModel, ZoneOp};
use api::block_core::BlockdevDriverOptions;
use base::{Errno, IoResult};
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::qerr;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// `ETOOMANYREFS`: as many zones are open as can be.
pub const TOO_MANY_OPEN: Errno = Errno::from_raw(109);
/// `EOVERFLOW`: as many zones are active as can be.
pub const TOO_MANY_ACTIVE: Errno = Errno::from_raw(75);

/// What a device is like. Sizes are bytes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How it takes writes.
    pub model: ZoneModel,
    /// The whole of it; the last zone may be smaller than others.
    pub len: u64,
    /// The size of a zone.
    pub zone_size: u64,
    /// How much of a zone can be written.
    pub capacity: u64,
    /// How many zones, from the first on, are conventional.
    pub conventional: u32,
    /// How many can be open; 0 for all.
    pub max_open: u32,
    /// How many can be open or closed; 0 for all.
    pub max_active: u32,
    /// Blocks: what is read and written is a multiple of this.
    pub block: u32,
}

impl Shape {
    /// A host-managed one of eight zones of 64 KiB.
    pub const SMALL: Shape = Shape {
        model: ZoneModel::HostManaged,
        len: 8 << 16,
        zone_size: 1 << 16,
        capacity: 1 << 16,
        conventional: 0,
        max_open: 0,
        max_active: 0,
        block: 512,
    };
}

#[derive(Debug)]
struct State {
    data: Vec<u8>,
    zones: Vec<Zone>,
}

/// A zoned device. Nodes of [`ZONED`] use it by its name.
#[derive(Debug)]
pub struct ZonedDevice {
    shape: Shape,
    state: Mutex<State>,
}

/// Those that there are.
static DEVICES: Mutex<BTreeMap<String, Weak<ZonedDevice>>> = Mutex::new(BTreeMap::new());

impl ZonedDevice {
    /// An empty one of this name, which there is as long as somebody holds it.
    pub fn new(name: &str, shape: Shape) -> Arc<ZonedDevice> {
        let starts = (0..shape.len).step_by(shape.zone_size as usize);
        let zones = starts.enumerate().map(|(i, start)| {
            let len = shape.zone_size.min(shape.len - start);
            let conventional = i < shape.conventional as usize;
            Zone {
                start,
                len,
                capacity: if conventional { len } else { shape.capacity.min(len) },
                write_pointer: start,
                kind: match (conventional, shape.model) {
                    (true, _) => ZoneKind::Conventional,
                    (false, ZoneModel::HostManaged) => ZoneKind::SequentialRequired,
                    (false, ZoneModel::HostAware) => ZoneKind::SequentialPreferred,
                },
                condition: if conventional { ZoneCondition::NoPointer } else { ZoneCondition::Empty },
            }
        });
        let state = State { data: vec![0; shape.len as usize], zones: zones.collect() };
        let device = Arc::new(ZonedDevice { shape, state: Mutex::new(state) });
        let mut all = DEVICES.lock();
        all.retain(|_, d| d.strong_count() > 0);
        all.insert(name.to_owned(), Arc::downgrade(&device));
        device
    }

    /// What it is like.
    pub fn limits(&self) -> ZoneLimits {
        let s = &self.shape;
        ZoneLimits {
            model: s.model,
            zone_size: s.zone_size,
            zones: self.state.lock().zones.len() as u32,
            max_open: s.max_open,
            max_active: s.max_active,
            max_append: 0,
            write_granularity: s.block,
        }
    }

    /// All its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.state.lock().data.clone()
    }

    /// Puts a zone into a condition, as a device does on its own.
    pub fn set_condition(&self, zone: usize, condition: ZoneCondition) {
        self.state.lock().zones[zone].condition = condition;
    }

    /// The zones from the one that `off` lies in on.
    pub fn report(&self, off: u64, most: u32) -> Vec<Zone> {
        let from = (off / self.shape.zone_size) as usize;
        self.state.lock().zones.iter().skip(from).take(most as usize).copied().collect()
    }

    /// Writes.
    pub fn write(&self, off: u64, bytes: &[u8]) -> IoResult<()> {
        self.state.lock().write(&self.shape, off, bytes)
    }

    /// Writes at a zone's pointer.
    pub fn append(&self, off: u64, bytes: &[u8]) -> IoResult<u64> {
        let mut state = self.state.lock();
        let zone = state.zones[(off / self.shape.zone_size) as usize];
        if zone.kind == ZoneKind::Conventional {
            return Err(Errno::INVAL);
        }
        state.write(&self.shape, zone.write_pointer, bytes)?;
        Ok(zone.write_pointer)
    }

    /// Does something to the zones of a range, one after the other, up to the first where it fails.
    pub fn manage(&self, op: ZoneOp, off: u64, len: u64) -> IoResult<()> {
        let mut state = self.state.lock();
        let end = off.checked_add(len).ok_or(Errno::INVAL)?;
        if len == 0 || end > self.shape.len {
            return Err(Errno::INVAL);
        }
        let all = op == ZoneOp::Reset && len == self.shape.len;
        let count = state.zones.len();
        for i in 0..count {
            let z = state.zones[i];
            let stays = matches!(
                z.condition,
                ZoneCondition::NoPointer | ZoneCondition::ReadOnly | ZoneCondition::Offline
            );
            if z.start >= off && z.start < end && !(all && stays) {
                state.manage(&self.shape, op, i)?;
            }
        }
        Ok(())
    }
}

impl State {
    fn count(&self, those: &[ZoneCondition]) -> usize {
        self.zones.iter().filter(|z| those.contains(&z.condition)).count()
    }

    /// Makes room for one more open zone, which is active already or becomes it.
    fn room(&mut self, s: &Shape, active: bool) -> IoResult<()> {
        use ZoneCondition::{Closed, ExplicitlyOpen, ImplicitlyOpen};
        let (open, both) = ([ImplicitlyOpen, ExplicitlyOpen], [ImplicitlyOpen, ExplicitlyOpen, Closed]);
        if !active && s.max_active > 0 && self.count(&both) >= s.max_active as usize {
            return Err(TOO_MANY_ACTIVE);
        }
        if s.max_open > 0 && self.count(&open) >= s.max_open as usize {
            // One that nobody asked to be open.
            let other = self.zones.iter_mut().find(|z| z.condition == ImplicitlyOpen);
            other.ok_or(TOO_MANY_OPEN)?.condition = Closed;
        }
        Ok(())
    }

    fn write(&mut self, s: &Shape, off: u64, bytes: &[u8]) -> IoResult<()> {
        use ZoneCondition::{Closed, Empty, ExplicitlyOpen, Full, ImplicitlyOpen, NoPointer};
        let end = off + bytes.len() as u64;
        let i = (off / s.zone_size) as usize;
        let z = *self.zones.get(i).ok_or(Errno::IO)?;
        let sequential = z.kind == ZoneKind::SequentialRequired;
        if end > z.start + z.capacity || (sequential && off != z.write_pointer) {
            return Err(Errno::IO);
        }
        match z.condition {
            NoPointer | ImplicitlyOpen | ExplicitlyOpen => {}
            Full if !sequential => {}
            Empty | Closed => {
                self.room(s, z.condition == Closed)?;
                self.zones[i].condition = ImplicitlyOpen;
            }
            _ => return Err(Errno::IO),
        }
        self.data[off as usize..end as usize].copy_from_slice(bytes);
        if z.kind != ZoneKind::Conventional && end > z.write_pointer {
            self.zones[i].write_pointer = end;
            if end == z.start + z.capacity {
                self.fill(i);
            }
        }
        Ok(())
    }

    fn fill(&mut self, i: usize) {
        let z = &mut self.zones[i];
        (z.condition, z.write_pointer) = (ZoneCondition::Full, z.start + z.len);
    }

    fn manage(&mut self, s: &Shape, op: ZoneOp, i: usize) -> IoResult<()> {
        use ZoneCondition::{Closed, Empty, ExplicitlyOpen, Full, ImplicitlyOpen};
        let z = self.zones[i];
        match (op, z.condition) {
            (ZoneOp::Open, ExplicitlyOpen) | (ZoneOp::Close, Empty | Closed) | (ZoneOp::Finish, Full) => {}
            (ZoneOp::Open, ImplicitlyOpen) => self.zones[i].condition = ExplicitlyOpen,
            (ZoneOp::Open, Empty | Closed) => {
                self.room(s, z.condition == Closed)?;
                self.zones[i].condition = ExplicitlyOpen;
            }
            (ZoneOp::Close, ImplicitlyOpen | ExplicitlyOpen) => {
                self.zones[i].condition = if z.write_pointer == z.start { Empty } else { Closed };
            }
            (ZoneOp::Finish, Empty | Closed) => {
                self.room(s, z.condition == Closed)?;
                self.fill(i);
            }
            (ZoneOp::Finish, ImplicitlyOpen | ExplicitlyOpen) => self.fill(i),
            (ZoneOp::Reset, Empty | ImplicitlyOpen | ExplicitlyOpen | Closed | Full) => {
                let z = &mut self.zones[i];
                (z.condition, z.write_pointer) = (Empty, z.start);
                self.data[z.start as usize..(z.start + z.len) as usize].fill(0);
            }
            _ => return Err(Errno::IO),
        }
        Ok(())
    }
}

/// A zoned device that is in memory, under the name `host_device`; the file name is the device's ([`ZonedDevice::new`]).
pub static ZONED: DriverType = DriverType {
    name: "host_device",
    kind: Kind::Protocol,
    supports_reopen: true,
    file_names: Some(FileNames {
        prefixes: &["host_device"],
        parse: |name| Ok(of_prefix("host_device:", name)),
        older: None,
    }),
    children: no_children,
    open,
    ..DriverType::BASE
};

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let BlockdevDriverOptions::HostDevice(f) = &o.options.driver else {
            return Err(qerr!("The options are not those of a device"));
        };
        let device = DEVICES.lock().get(&f.filename).and_then(Weak::upgrade);
        let device = device.ok_or_else(|| qerr!("Could not open '{}': No such device", f.filename))?;
        Ok(Arc::new(Node(device, f.filename.clone())) as Arc<dyn Driver>)
    })
}

struct Node(Arc<ZonedDevice>, String);

impl Driver for Node {
    fn len(&self, _: &Cx<'_>) -> u64 {
        self.0.shape.len
    }

    fn limits(&self, _: &Cx<'_>) -> Limits {
        let block = self.0.shape.block;
        Limits { request_alignment: block, buffer_alignment: block, ..Limits::default() }
    }

    fn caps(&self, _: &Cx<'_>) -> Caps {
        Caps { fua: Support::Native, ..Caps::default() }
    }

    fn locate<'a>(&'a self, _: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        let eof = off + len == self.0.shape.len;
        let kind = ExtentKind::Own { offset: Some(off), zero: false };
        Box::pin(async move { Ok(Extent { len, kind, eof }) })
    }

    fn read<'a>(&'a self, _: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            let state = self.0.state.lock();
            let off = off as usize;
            let hit = |z: &Zone| z.start < (off + buf.len()) as u64 && off < (z.start + z.len) as usize;
            if state.zones.iter().any(|z| z.condition == ZoneCondition::Offline && hit(z)) {
                return Err(Errno::IO);
            }
            buf.copy_from(0, &state.data[off..off + buf.len()]);
            Ok(())
        })
    }

    fn write<'a>(&'a self, _: &'a Cx<'a>, off: u64, buf: IoBuf, _: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            // It takes its time: what is begun later may come first.
            rt::yield_now().await;
            self.0.write(off, &buf.to_vec())
        })
    }

    fn zones(&self, _: &Cx<'_>) -> Option<ZoneLimits> {
        Some(self.0.limits())
    }

    fn zone_report<'a>(&'a self, _: &'a Cx<'a>, off: u64, most: u32) -> IoFuture<'a, Vec<Zone>> {
        Box::pin(async move { Ok(self.0.report(off, most)) })
    }

    fn zone_manage<'a>(&'a self, _: &'a Cx<'a>, op: ZoneOp, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move {
            let first = self.0.report(off, 1).first().map(|z| z.kind);
            if first == Some(ZoneKind::Conventional) && len != self.0.shape.len {
                return Err(Errno::IO);
            }
            self.0.manage(op, off, len)
        })
    }

    fn zone_append<'a>(&'a self, _: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a, u64> {
        Box::pin(async move { self.0.append(off, &buf.to_vec()) })
    }

    fn truncate<'a>(&'a self, _: &'a Cx<'a>, len: u64, _: bool, _: Prealloc) -> IoFuture<'a> {
        let fits = len <= self.0.shape.len;
        Box::pin(async move { if fits { Ok(()) } else { Err(Errno::INVAL) } })
    }

    fn filename(&self) -> Option<String> {
        Some(self.1.clone())
    }
}
