//! The flat map against a brute-force model, and what CPUs and devices see through it.

use mem::{AddressSpace, BusErrorKind, Dma, FlatKind, Memory, Mmio, RegionId, Size};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::sync::Arc;

/// Registers that answer with their number and offset, and remember writes.
struct Probe {
    tag: u8,
    log: Mutex<Vec<(u64, u64, Size)>>,
}

impl Mmio for Probe {
    fn read(&self, off: u64, size: Size) -> u64 {
        (u64::from(self.tag) << 56 | off << 32 | off) & size.mask()
    }

    fn write(&self, off: u64, value: u64, size: Size) {
        self.log.lock().push((off, value, size));
    }

    fn accepts(&self, off: u64, size: Size, _write: bool) -> bool {
        off.is_multiple_of(size.bytes() as u64)
    }

    fn name(&self) -> &str {
        "probe"
    }
}

fn probe(tag: u8) -> Arc<Probe> {
    Arc::new(Probe { tag, log: Mutex::default() })
}

const SPAN: u64 = 64;

#[derive(Clone, Debug)]
enum Op {
    Map { parent: Option<usize>, base: u64, len: u64, priority: i32, what: u8 },
    Unmap(usize),
    Enable(usize, bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (proptest::option::of(0usize..8), 0..SPAN, 1..SPAN, -1i32..2, 0u8..3)
            .prop_map(|(parent, base, len, priority, what)| Op::Map { parent, base, len, priority, what }),
        1 => (0usize..16).prop_map(Op::Unmap),
        2 => (0usize..16, any::<bool>()).prop_map(|(i, e)| Op::Enable(i, e)),
    ]
}

/// One mapped region in the model.
struct Region {
    id: RegionId,
    parent: Option<usize>,
    base: u64,
    len: u64,
    priority: i32,
    container: bool,
    enabled: bool,
    alive: bool,
}

/// Who answers at `addr` inside `parent`: the index of the region, and the offset in it.
fn model_at(all: &[Region], parent: Option<usize>, addr: u64) -> Option<(usize, u64)> {
    let mut kids: Vec<usize> =
        (0..all.len()).filter(|&i| all[i].alive && all[i].enabled && all[i].parent == parent).collect();
    kids.sort_by_key(|&i| (std::cmp::Reverse(all[i].priority), std::cmp::Reverse(i)));
    for i in kids {
        let r = &all[i];
        if addr < r.base || addr - r.base >= r.len {
            continue;
        }
        if !r.container {
            return Some((i, addr - r.base));
        }
        if let Some(hit) = model_at(all, Some(i), addr - r.base) {
            return Some(hit);
        }
    }
    None
}

proptest! {
    #[test]
    fn the_flat_map_is_what_a_walk_of_the_tree_finds(ops in proptest::collection::vec(op(), 1..24)) {
        let space = AddressSpace::new("test");
        let ram = Memory::ram("ram", 4096).unwrap();
        let mut all: Vec<Region> = Vec::new();
        for o in ops {
            match o {
                Op::Map { parent, base, len, priority, what } => {
                    let parent = parent.filter(|&p| p < all.len());
                    let pid = parent.map(|p| all[p].id);
                    let got = match what {
                        0 => space.map_container(pid, base, len, priority, "c"),
                        1 => space.map_ram_in(pid, base, ram.clone(), base, len, false, priority, "r"),
                        _ => space.map_io_in(pid, base, len, probe(0), priority),
                    };
                    let ok = parent.is_none_or(|p| all[p].alive && all[p].container);
                    prop_assert_eq!(got.is_ok(), ok);
                    if let Ok(id) = got {
                        let container = what == 0;
                        all.push(Region { id, parent, base, len, priority, container, enabled: true, alive: true });
                    }
                }
                Op::Unmap(i) if i < all.len() => {
                    space.unmap(all[i].id);
                    all[i].alive = false;
                    // A region's parent always comes before it.
                    for j in i + 1..all.len() {
                        if all[j].parent.is_some_and(|p| !all[p].alive) {
                            all[j].alive = false;
                        }
                    }
                }
                Op::Enable(i, e) if i < all.len() => {
                    space.set_enabled(all[i].id, e);
                    all[i].enabled = e;
                }
                _ => {}
            }
            let map = space.map();
            for pair in map.ranges().windows(2) {
                prop_assert!(pair[0].last < pair[1].start);
            }
            for addr in 0..3 * SPAN {
                let want = model_at(&all, None, addr);
                let got = map.find(addr);
                prop_assert_eq!(got.is_some(), want.is_some(), "at {}", addr);
                if let (Some(r), Some((i, rel))) = (got, want) {
                    match &r.kind {
                        FlatKind::Ram { off, .. } => {
                            prop_assert_eq!(off + (addr - r.start), all[i].base + rel);
                        }
                        FlatKind::Io { off, .. } => prop_assert_eq!(off + (addr - r.start), rel),
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_across_ranges_are_as_one_array(
        ops in proptest::collection::vec((0u64..300, 0usize..80, any::<u8>()), 1..30),
    ) {
        // RAM whose pieces lie in another order in the block than in the guest.
        let space = AddressSpace::new("test");
        let ram = Memory::ram("ram", 4096).unwrap();
        for (i, at) in [200u64, 0, 100].into_iter().enumerate() {
            space.map_ram(i as u64 * 100, ram.clone(), at, 100, false, 0, "r").unwrap();
        }
        let dma = Dma::new(space.clone());
        let mut model = vec![0u8; 300];
        for (at, len, byte) in ops {
            let src: Vec<u8> = (0..len).map(|i| byte.wrapping_add(i as u8)).collect();
            let inside = at as usize + len <= 300;
            // Writes beyond the end fail; nothing is said about the part before it, so write only what fits.
            if inside {
                dma.write(at, &src).unwrap();
                model[at as usize..at as usize + len].copy_from_slice(&src);
                let buf = dma.iobuf(at, len as u64, true).unwrap();
                prop_assert_eq!(buf.to_vec(), src);
            } else {
                prop_assert!(dma.iobuf(at, len as u64, true).is_err());
            }
            let mut all = vec![0; 300];
            space.read(0, &mut all).unwrap();
            prop_assert_eq!(&all, &model);
            if at + 8 <= 300 {
                let want = u64::from_le_bytes(model[at as usize..at as usize + 8].try_into().unwrap());
                prop_assert_eq!(space.load(at, Size::B8).unwrap(), want);
                prop_assert_eq!(dma.load::<u64>(at).unwrap(), want);
                space.store(at, want.rotate_left(9), Size::B8).unwrap();
                prop_assert_eq!(dma.load::<u64>(at).unwrap(), want.rotate_left(9));
                dma.store(at, want).unwrap();
            }
        }
    }
}

#[test]
fn registers_answer_cpus_but_never_dma() {
    let space = AddressSpace::new("test");
    let dev = probe(1);
    space.map_io(0x1000, 0x100, dev.clone(), 0).unwrap();
    assert_eq!(space.load(0x1010, Size::B4), Ok(0x10));
    assert_eq!(space.load(0x1011, Size::B4).unwrap_err().kind, BusErrorKind::Refused);
    assert_eq!(space.load(0x10fe, Size::B4).unwrap_err().kind, BusErrorKind::Refused);
    assert_eq!(space.load(0x1100, Size::B1).unwrap_err().kind, BusErrorKind::Unassigned);
    space.store(0x1002, 0xffff_1234, Size::B2).unwrap();
    assert_eq!(*dev.log.lock(), [(2, 0x1234, Size::B2)]);

    let dma = Dma::new(space.clone());
    assert_eq!(dma.write(0x1000, &[1]).unwrap_err().kind, BusErrorKind::NotRam);
    assert_eq!(dma.load::<u32>(0x1000).unwrap_err().kind, BusErrorKind::NotRam);
    assert_eq!(dma.load::<u32>(u64::MAX).unwrap_err().kind, BusErrorKind::Unassigned);
    assert_eq!(dev.log.lock().len(), 1);

    // A loader's write of bytes reaches registers by aligned words.
    space.write(0x1001, &[1, 2, 3, 4, 5, 6, 7]).unwrap();
    let log = dev.log.lock();
    assert_eq!(log[1..], [(1, 1, Size::B1), (2, 0x302, Size::B2), (4, 0x0706_0504, Size::B4)]);
}

#[test]
fn rom_drops_writes_and_a_rom_device_gets_them() {
    let space = AddressSpace::new("test");
    let rom = Memory::ram("rom", 8192).unwrap();
    rom.store(0, 0x1122u32);
    space.map_ram(0, rom.clone(), 0, 4096, true, 0, "rom").unwrap();
    space.store(0, 7, Size::B4).unwrap();
    assert_eq!(space.load(0, Size::B4), Ok(0x1122));
    assert!(!space.ram_page(0).unwrap().1);
    assert_eq!(Dma::new(space.clone()).write(0, &[1]).unwrap_err().kind, BusErrorKind::NotRam);
    space.write(0, &[9]).unwrap();
    assert_eq!(rom.load::<u8>(0), 0x22);
    space.write_rom(0, &[9]).unwrap();
    assert_eq!(rom.load::<u8>(0), 9);

    let dev = probe(2);
    let id = space.map_rom_device(0x10000, rom.clone(), 4096, 4096, dev.clone(), 0).unwrap();
    rom.store(4096 + 8, 0x55u8);
    assert_eq!(space.load(0x10008, Size::B1), Ok(0x55));
    assert!(!space.ram_page(0x10008).unwrap().1);
    space.store(0x10008, 3, Size::B1).unwrap();
    assert_eq!(*dev.log.lock(), [(8, 3, Size::B1)]);
    space.set_rom_mode(id, false);
    assert_eq!(space.load(0x10008, Size::B1), Ok(8));
    assert!(space.ram_page(0x10008).is_none());
}

#[test]
fn changes_are_published_once_and_announced() {
    let space = AddressSpace::new("test");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (s, weak) = (seen.clone(), Arc::downgrade(&space));
    space.on_change(Arc::new(move || s.lock().push(weak.upgrade().unwrap().map().ranges().len())));
    let g = space.generation();
    let ram = Memory::ram("ram", 1 << 20).unwrap();
    space.update(|s| {
        s.map_ram(0, ram.clone(), 0, 1 << 20, false, 0, "ram").unwrap();
        s.map_io(0x1000, 0x1000, probe(0), 1).unwrap();
        assert!(s.map().ranges().is_empty());
    });
    assert_eq!(space.generation(), g + 1);
    assert_eq!(*seen.lock(), [3]);
    assert!(space.ram_page(0x1000).is_none());
    let (page, rw) = space.ram_page(0x2345).unwrap();
    assert!(rw);
    page.store(0x345, 0xabu8);
    assert_eq!(space.load(0x2345, Size::B1), Ok(0xab));
    assert!(space.mtree().contains("0000000000001000-0000000000001fff (prio 1, i/o): probe"));
}

#[test]
fn a_revoked_handle_reaches_nothing() {
    let space = AddressSpace::new("test");
    space.map_ram(0, Memory::ram("ram", 4096).unwrap(), 0, 4096, false, 0, "ram").unwrap();
    let dma = Dma::new(space);
    let copy = dma.clone();
    copy.write(0, &[1]).unwrap();
    dma.revoke();
    assert_eq!(copy.read(0, &mut [0]).unwrap_err().kind, BusErrorKind::Revoked);
    assert_eq!(copy.iobuf(0, 1, false).unwrap_err().kind, BusErrorKind::Revoked);
}

#[test]
fn regions_must_fit() {
    use mem::MapError;
    let space = AddressSpace::new("test");
    let ram = Memory::ram("ram", 4096).unwrap();
    assert_eq!(space.map_io(0, 0, probe(0), 0), Err(MapError::Empty));
    assert_eq!(space.map_io(u64::MAX, 2, probe(0), 0), Err(MapError::Overflow));
    assert!(space.map_io(u64::MAX, 1, probe(0), 0).is_ok());
    assert_eq!(space.map_ram(0, ram, 1, 4096, false, 0, "r"), Err(MapError::OutOfBlock));
    assert!(space.load(u64::MAX, Size::B1).is_ok());
    assert!(space.load(u64::MAX, Size::B2).is_err());
}
