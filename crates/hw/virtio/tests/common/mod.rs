//! A guest in memory: RAM, and the driver's side of split and packed rings, written from the specification.

#![allow(dead_code)] // Each test uses its part.

use mem::{AddressSpace, Dma, Memory, Mmio, Size};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio::VirtioMmio;
use virtio::queue::Layout;
use virtio::spec::feature::*;

pub const RAM_BASE: u64 = 0x8000_0000;
pub const RAM_SIZE: u64 = 16 << 20;

/// RAM at [`RAM_BASE`], registers that must never be touched by DMA just below.
pub struct Guest {
    pub space: Arc<AddressSpace>,
    pub ram: Arc<Memory>,
}

struct Untouchable;

impl Mmio for Untouchable {
    fn read(&self, _off: u64, _size: Size) -> u64 {
        panic!("DMA reached registers");
    }

    fn write(&self, _off: u64, _value: u64, _size: Size) {
        panic!("DMA reached registers");
    }

    fn name(&self) -> &str {
        "untouchable"
    }
}

impl Guest {
    pub fn new() -> Guest {
        let space = AddressSpace::new("guest");
        let ram = Memory::ram("ram", RAM_SIZE).unwrap();
        space.map_ram(RAM_BASE, ram.clone(), 0, RAM_SIZE, false, 0, "ram").unwrap();
        space.map_io(RAM_BASE - 0x1000, 0x1000, Arc::new(Untouchable), 0).unwrap();
        Guest { space, ram }
    }

    pub fn dma(&self) -> Dma {
        Dma::new(self.space.clone())
    }

    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        self.ram.write(gpa - RAM_BASE, bytes);
    }

    pub fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut v = vec![0; len];
        self.ram.read(gpa - RAM_BASE, &mut v);
        v
    }

    pub fn load16(&self, gpa: u64) -> u16 {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.ram.load(gpa - RAM_BASE)
    }

    pub fn store16(&self, gpa: u64, v: u16) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.ram.store(gpa - RAM_BASE, v);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    pub fn load32(&self, gpa: u64) -> u32 {
        self.ram.load(gpa - RAM_BASE)
    }

    pub fn desc(&self, table: u64, n: u64, addr: u64, len: u32, w12: u16, w14: u16) {
        let at = table + 16 * n - RAM_BASE;
        self.ram.store(at, addr);
        self.ram.store(at + 8, len);
        self.ram.store(at + 12, w12);
        self.ram.store(at + 14, w14);
    }
}

/// A buffer: address, length, and whether the device writes it.
pub type Buf = (u64, u32, bool);

/// The driver's side of a ring.
pub struct Ring {
    pub layout: Layout,
    tables: u64,
    free: VecDeque<u16>,
    /// By head or id: the descriptors to free.
    owned: Vec<Vec<u16>>,
    avail: u16,
    avail_wrap: bool,
    used: u16,
    used_wrap: bool,
    packed: bool,
    /// Packed: free slots.
    room: u16,
    counts: Vec<u16>,
}

const TABLE: u64 = 16 * 64;

impl Ring {
    /// A ring of `size` in RAM from `base` on (it takes 1 MiB).
    pub fn new(base: u64, size: u16, features: u64) -> Ring {
        let layout = Layout { size, desc: base, driver: base + 0x8000, device: base + 0x10000, features };
        Ring::with_layout(layout, base + 0x20000)
    }

    pub fn with_layout(layout: Layout, tables: u64) -> Ring {
        let size = layout.size;
        Ring {
            layout,
            tables,
            free: (0..size).collect(),
            owned: vec![Vec::new(); size.into()],
            avail: 0,
            avail_wrap: true,
            used: 0,
            used_wrap: true,
            packed: layout.features & RING_PACKED != 0,
            room: size,
            counts: vec![0; size.into()],
        }
    }

    /// Makes a request available; `None` where the ring is full.
    pub fn add(&mut self, g: &Guest, bufs: &[Buf], indirect: bool) -> Option<u16> {
        assert!(!bufs.is_empty() && bufs.len() <= 64);
        let need = if indirect { 1 } else { bufs.len() };
        if self.packed {
            self.add_packed(g, bufs, indirect, need)
        } else {
            self.add_split(g, bufs, indirect, need)
        }
    }

    fn add_split(&mut self, g: &Guest, bufs: &[Buf], indirect: bool, need: usize) -> Option<u16> {
        if self.free.len() < need {
            return None;
        }
        let ids: Vec<u16> = self.free.drain(..need).collect();
        let l = self.layout;
        let chain = |table: u64, ids: &[u16]| {
            for (i, (addr, len, write)) in bufs.iter().enumerate() {
                let last = i + 1 == bufs.len();
                let next = if last { 0 } else { ids[i + 1] };
                let flags = if last { 0 } else { 1 } | if *write { 2 } else { 0 };
                g.desc(table, ids[i].into(), *addr, *len, flags, next);
            }
        };
        let head = ids[0];
        if indirect {
            let table = self.tables + u64::from(head) * TABLE;
            let order: Vec<u16> = (0..bufs.len() as u16).collect();
            chain(table, &order);
            g.desc(l.desc, head.into(), table, bufs.len() as u32 * 16, 4, 0);
        } else {
            chain(l.desc, &ids);
        }
        self.owned[usize::from(head)] = ids;
        g.store16(l.driver + 4 + 2 * u64::from(self.avail % l.size), head);
        self.avail = self.avail.wrapping_add(1);
        g.store16(l.driver + 2, self.avail);
        Some(head)
    }

    fn add_packed(&mut self, g: &Guest, bufs: &[Buf], indirect: bool, need: usize) -> Option<u16> {
        if usize::from(self.room) < need {
            return None;
        }
        let id = self.free.pop_front()?;
        let l = self.layout;
        let table = self.tables + u64::from(id) * TABLE;
        let mut entries: Vec<(u64, u32, u16)> = Vec::new();
        if indirect {
            for (i, (addr, len, write)) in bufs.iter().enumerate() {
                g.desc(table, i as u64, *addr, *len, 0, if *write { 2 } else { 0 });
            }
            entries.push((table, bufs.len() as u32 * 16, 4));
        } else {
            for (i, (addr, len, write)) in bufs.iter().enumerate() {
                let next = if i + 1 == bufs.len() { 0 } else { 1 };
                entries.push((*addr, *len, next | if *write { 2 } else { 0 }));
            }
        }
        let mut first = None;
        for (addr, len, flags) in entries {
            let own = if self.avail_wrap { 1 << 7 } else { 1 << 15 };
            let at = l.desc + 16 * u64::from(self.avail);
            g.ram.store(at - RAM_BASE, addr);
            g.ram.store(at + 8 - RAM_BASE, len);
            g.ram.store(at + 12 - RAM_BASE, id);
            if first.is_none() {
                first = Some((at + 14, flags | own));
            } else {
                g.store16(at + 14, flags | own);
            }
            self.avail += 1;
            if self.avail == l.size {
                self.avail = 0;
                self.avail_wrap = !self.avail_wrap;
            }
        }
        let (at, flags) = first.unwrap();
        g.store16(at, flags);
        self.room -= need as u16;
        self.counts[usize::from(id)] = need as u16;
        Some(id)
    }

    /// The next used request, and how many bytes were written.
    pub fn reap(&mut self, g: &Guest) -> Option<(u16, u32)> {
        let l = self.layout;
        if self.packed {
            let at = l.desc + 16 * u64::from(self.used);
            let flags = g.load16(at + 14);
            let (a, u) = (flags & (1 << 7) != 0, flags & (1 << 15) != 0);
            if a != u || u != self.used_wrap {
                return None;
            }
            let (len, id) = (g.load32(at + 8), g.load16(at + 12));
            let n = std::mem::take(&mut self.counts[usize::from(id)]);
            assert!(n > 0, "id {id} was used twice");
            self.used += n;
            self.room += n;
            if self.used >= l.size {
                self.used -= l.size;
                self.used_wrap = !self.used_wrap;
            }
            self.free.push_back(id);
            return Some((id, len));
        }
        if g.load16(l.device + 2) == self.used {
            return None;
        }
        let at = l.device + 4 + 8 * u64::from(self.used % l.size);
        let (id, len) = (g.load32(at) as u16, g.load32(at + 4));
        self.used = self.used.wrapping_add(1);
        let ids = std::mem::take(&mut self.owned[usize::from(id)]);
        assert!(!ids.is_empty(), "head {id} was used twice");
        self.free.extend(ids);
        Some((id, len))
    }

    /// Asks for an interrupt at the next used request, or for none.
    pub fn want_interrupt(&self, g: &Guest, want: bool) {
        let l = self.layout;
        let event = l.features & EVENT_IDX != 0;
        if self.packed {
            match (want, event) {
                (true, true) => {
                    g.store16(l.driver, self.used | u16::from(self.used_wrap) << 15);
                    g.store16(l.driver + 2, 2);
                }
                (true, false) => g.store16(l.driver + 2, 0),
                (false, _) => g.store16(l.driver + 2, 1),
            }
        } else if event {
            let at = if want { self.used } else { self.used.wrapping_sub(1) };
            g.store16(l.driver + 4 + 2 * u64::from(l.size), at);
        } else {
            g.store16(l.driver, u16::from(!want));
        }
    }

    /// The position before an `add`, for [`Ring::must_kick`].
    pub fn mark(&self) -> (u16, bool) {
        (self.avail, self.avail_wrap)
    }

    /// Whether what was added since `mark` must be told to the device.
    pub fn must_kick(&self, g: &Guest, (old, old_wrap): (u16, bool)) -> bool {
        let l = self.layout;
        let event = l.features & EVENT_IDX != 0;
        if !self.packed {
            if !event {
                return g.load16(l.device) & 1 == 0;
            }
            let at = g.load16(l.device + 4 + 8 * u64::from(l.size));
            return self.avail.wrapping_sub(at).wrapping_sub(1) < self.avail.wrapping_sub(old);
        }
        match g.load16(l.device + 2) {
            0 => true,
            2 => {
                let off = g.load16(l.device);
                let (at, wrap) = (off & 0x7fff, off >> 15 != 0);
                // As positions on two laps, of which the mark's is the first.
                let pos = |p: u16, w: bool| u32::from(p) + if w == old_wrap { 0 } else { u32::from(l.size) };
                let (at, from, to) = (pos(at, wrap), u32::from(old), pos(self.avail, self.avail_wrap));
                at >= from && at < to
            }
            _ => false,
        }
    }
}

/// Registers of the MMIO transport, as a driver uses them.
pub struct Regs(pub Arc<VirtioMmio>, pub Arc<Memory>);

impl Regs {
    pub fn get(&self, off: u64) -> u32 {
        Mmio::read(&*self.0, off, Size::B4) as u32
    }

    pub fn set(&self, off: u64, v: u32) {
        Mmio::write(&*self.0, off, v.into(), Size::B4);
    }

    pub fn status(&self) -> u32 {
        self.get(0x70)
    }

    pub fn config(&self, off: u64, size: Size) -> u64 {
        Mmio::read(&*self.0, 0x100 + off, size)
    }

    pub fn offered(&self) -> u64 {
        self.set(0x14, 0);
        let lo = u64::from(self.get(0x10));
        self.set(0x14, 1);
        lo | u64::from(self.get(0x10)) << 32
    }

    /// Sets the device up with `features` and queues of `size`, and says that the driver is ready. The queues lie
    /// one MiB apart from the start of RAM.
    pub fn start(&self, features: u64, queues: u16, size: u16) -> Vec<Ring> {
        let legacy = self.get(4) == 1;
        if legacy {
            // As Linux does: once, before the reset.
            self.set(0x28, 4096);
        }
        self.set(0x70, 0);
        self.set(0x70, 1);
        self.set(0x70, 3);
        self.set(0x24, 0);
        self.set(0x20, features as u32);
        if !legacy {
            self.set(0x24, 1);
            self.set(0x20, (features >> 32) as u32);
            self.set(0x70, 11);
            assert_eq!(self.status(), 11, "the device took the features");
        }
        let rings = (0..queues).map(|i| self.queue(i, features, size)).collect();
        self.set(0x70, if legacy { 7 } else { 15 });
        rings
    }

    pub fn queue(&self, i: u16, features: u64, size: u16) -> Ring {
        let base = RAM_BASE + (u64::from(i) << 20);
        self.1.fill(base - RAM_BASE, 0x20000, 0);
        self.set(0x30, i.into());
        assert!(self.get(0x34) >= size.into());
        self.set(0x38, size.into());
        if self.get(4) == 1 {
            self.set(0x3c, 4096);
            self.set(0x40, (base / 4096) as u32);
            let n = u64::from(size);
            let driver = base + 16 * n;
            let device = (driver + 6 + 2 * n + 4095) & !4095;
            return Ring::with_layout(Layout { size, desc: base, driver, device, features }, base + 0x20000);
        }
        let r = Ring::new(base, size, features);
        for (reg, v) in [(0x80, r.layout.desc), (0x90, r.layout.driver), (0xa0, r.layout.device)] {
            self.set(reg, v as u32);
            self.set(reg + 4, (v >> 32) as u32);
        }
        self.set(0x44, 1);
        assert_eq!(self.get(0x44), 1);
        r
    }
}

/// Waits until `f` gives something; fails after five seconds.
pub fn wait_for<T>(mut f: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(v) = f() {
            return v;
        }
        assert!(Instant::now() < end, "waited in vain");
        std::thread::sleep(Duration::from_micros(50));
    }
}
