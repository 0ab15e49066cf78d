//! Loads, stores, atomics, translation, and code that changes.

use crate::bench::{Bare, RAM};
use isa_riscv::encode::op;
use isa_riscv::{Exit, Ext, Mode};

pub const DATA: u64 = RAM + 0x8000;
const ROOT: u64 = RAM + 0x10000;
pub const MID: u64 = RAM + 0x11000;
pub const LEAF: u64 = RAM + 0x12000;
pub const PAGE: u64 = RAM + 0x20000;
const SV39: u64 = 8 << 60;
/// V, R, W, X, A and D.
pub const RWX: u64 = 0xcf;

pub fn pte(pa: u64, flags: u64) -> u64 {
    pa >> 12 << 10 | flags
}

#[test]
fn loads_extend_and_need_not_be_aligned() {
    let mut t = Bare::new();
    t.store(DATA, 0x8182_8384_8586_8788);
    t.store(DATA + 8, 0x9192_9394_9596_9798);
    t.set_x(10, DATA);
    t.set_x(13, DATA + 0xffd);
    t.set_x(14, 0x0102_0304_0506_0708);
    t.run(&[
        op("lb", 20, 10, 0, 0),
        op("lbu", 21, 10, 0, 0),
        op("lh", 22, 10, 0, 1),
        op("lhu", 23, 10, 0, 1),
        op("lw", 24, 10, 0, 3),
        op("lwu", 25, 10, 0, 3),
        op("ld", 26, 10, 0, 5),
        op("sd", 0, 13, 14, 0),
        op("ld", 27, 13, 0, 0),
        op("lw", 28, 13, 0, 1),
    ]);
    assert_eq!(t.x(20), 0xffff_ffff_ffff_ff88);
    assert_eq!(t.x(21), 0x88);
    assert_eq!(t.x(22), 0xffff_ffff_ffff_8687);
    assert_eq!(t.x(23), 0x8687);
    assert_eq!(t.x(24), 0xffff_ffff_8283_8485);
    assert_eq!(t.x(25), 0x8283_8485);
    assert_eq!(t.x(26), 0x9495_9697_9881_8283);
    assert_eq!((t.x(27), t.x(28)), (0x0102_0304_0506_0708, 0x0405_0607));
}

#[test]
fn atomics_return_the_old_value() {
    let cases: [(&str, u64, u64, u64); 9] = [
        ("amoswap", 5, 7, 7),
        ("amoadd", 5, 7, 12),
        ("amoxor", 5, 7, 2),
        ("amoand", 5, 6, 4),
        ("amoor", 5, 2, 7),
        ("amomin", 5, u64::MAX, u64::MAX),
        ("amomax", 5, u64::MAX, 5),
        ("amominu", 5, u64::MAX, 5),
        ("amomaxu", 5, u64::MAX, u64::MAX),
    ];
    for (name, old, v, new) in cases {
        for (suffix, mask) in [("w", 0xffff_ffff), ("d", u64::MAX)] {
            let mut t = Bare::new();
            t.store(DATA, old);
            t.set_x(10, DATA);
            t.set_x(11, v);
            t.run(&[op(&format!("{name}.{suffix}"), 12, 10, 11, 0)]);
            assert_eq!((t.x(12), t.load(DATA)), (old, new & mask), "{name}.{suffix}");
        }
    }
    // A word's old value is sign-extended.
    let mut t = Bare::new();
    t.store(DATA, 0x8000_0000);
    t.set_x(10, DATA);
    t.run(&[op("amoadd.w", 12, 10, 0, 0), op("lr.w", 13, 10, 0, 0)]);
    assert_eq!((t.x(12), t.x(13)), (0xffff_ffff_8000_0000, 0xffff_ffff_8000_0000));
}

#[test]
fn unaligned_atomics_trap() {
    for (name, cause) in [("amoadd.w", 6), ("amoadd.d", 6), ("sc.w", 6), ("lr.w", 4), ("lr.d", 4)] {
        let mut t = Bare::new();
        t.set_x(10, DATA + 2);
        t.run(&[op(name, 12, 10, 0, 0)]);
        assert_eq!((t.state().mcause, t.state().mtval), (cause, DATA + 2), "{name}");
    }
}

#[test]
fn store_conditional_needs_its_reservation() {
    let mut t = Bare::new();
    t.set_x(10, DATA);
    t.set_x(11, 7);
    t.run(&[
        op("sc.w", 20, 10, 11, 0), // without
        op("lr.w", 21, 10, 0, 0),
        op("sc.w", 22, 10, 11, 0), // with
        op("sc.w", 23, 10, 11, 0), // used up
        op("lr.d", 24, 10, 0, 0),
        op("addi", 12, 10, 0, 8),
        op("sc.d", 25, 12, 11, 0), // elsewhere
        op("lr.d", 26, 10, 0, 0),
        op("sd", 0, 10, 0, 0),
        op("sc.d", 27, 10, 11, 0), // changed between
    ]);
    assert_eq!([20, 21, 22, 23, 24, 25, 26, 27].map(|r| t.x(r)), [1, 0, 0, 1, 7, 1, 7, 1]);
    assert_eq!(t.load(DATA), 0);
    // A trap between loses it, too.
    let mut t = Bare::new();
    t.set_x(10, DATA);
    t.run(&[op("lr.w", 21, 10, 0, 0), op("ecall", 0, 0, 0, 0)]);
    t.run(&[op("sc.w", 22, 10, 11, 0)]);
    assert_eq!(t.x(22), 1);
}

#[test]
fn changed_code_is_seen_after_fence_i() {
    let mut t = Bare::new();
    let at = t.code();
    t.set_x(10, at);
    t.set_x(11, u64::from(op("addi", 20, 20, 0, 100)));
    // The loop's first instruction is replaced in the second round; the third runs after a fence.i.
    t.set_x(12, 3);
    t.run(&[
        op("addi", 20, 20, 0, 1),
        op("sw", 0, 10, 11, 0),
        op("addi", 12, 12, 0, -1),
        op("addi", 13, 0, 0, 1),
        op("bne", 0, 12, 13, 8),
        op("fence.i", 0, 0, 0, 0),
        op("bne", 0, 12, 0, -24),
    ]);
    assert_eq!(t.x(20), 1 + 1 + 100);
}

#[test]
fn instructions_may_cross_pages() {
    let mut t = Bare::new();
    let at = RAM + 0x2ffe;
    t.poke(at, &[op("addi", 20, 0, 0, 9), op("wfi", 0, 0, 0, 0)]);
    t.set_x(10, at);
    t.run(&[op("jalr", 0, 10, 0, 0)]);
    assert_eq!(t.x(20), 9);
}

/// A hart in S-mode with `LEAF` for 0..2 MiB; the code's page is mapped to itself.
pub fn paged() -> Bare {
    paged_with(Ext::ALL)
}

/// The same with other extensions than all.
pub fn paged_with(ext: Ext) -> Bare {
    let mut t = Bare::with(ext);
    t.open_pmp();
    t.store(ROOT, pte(MID, 1));
    t.store(MID, pte(LEAF, 1));
    t.store(ROOT + 8 * 2, pte(RAM, RWX)); // 1 GiB at RAM
    t.store(LEAF + 8, pte(PAGE, 0x0f)); // page 1, neither accessed nor dirty
    let mut s = t.state();
    s.satp = SV39 | ROOT >> 12;
    s.mode = Mode::S;
    t.set_state(&s);
    t
}

#[test]
fn accessed_and_dirty_are_set() {
    let mut t = paged();
    t.store(PAGE + 8, 42);
    t.set_x(10, 0x1008);
    t.run(&[op("ld", 11, 10, 0, 0)]);
    assert_eq!((t.x(11), t.load(LEAF + 8) & 0xff), (42, 0x4f));
    t.set_x(11, 43);
    t.run(&[op("sd", 0, 10, 11, 0)]);
    assert_eq!((t.load(PAGE + 8), t.load(LEAF + 8) & 0xff), (43, 0xcf));
}

#[test]
fn translations_stay_until_they_are_fenced() {
    let fences: [(u32, bool); 5] = [
        (op("sfence.vma", 0, 0, 0, 0), true),
        (op("sfence.vma", 0, 10, 0, 0), true),
        (op("sfence.vma", 0, 0, 12, 0), true),
        (op("sfence.vma", 0, 10, 12, 0), true),
        (op("sfence.vma", 0, 10, 13, 0), false), // another address space
    ];
    for (fence, forgets) in fences {
        let mut t = paged();
        t.store(PAGE, 1);
        t.store(PAGE + 0x1000, 2);
        t.set_x(10, 0x1000);
        t.set_x(12, 0);
        t.set_x(13, 5);
        // The new entry is written through the identity map.
        t.set_x(14, LEAF + 8);
        t.set_x(15, pte(PAGE + 0x1000, RWX));
        t.run(&[op("ld", 20, 10, 0, 0), op("sd", 0, 14, 15, 0), fence, op("ld", 21, 10, 0, 0)]);
        assert_eq!((t.x(20), t.x(21)), (1, if forgets { 2 } else { 1 }), "{fence:#x}");
    }
}

#[test]
fn fencing_one_address_of_a_superpage_forgets_all_of_it() {
    let mut t = paged();
    // 2 MiB at 0x40_0000, first to RAM, then to RAM + 2 MiB.
    t.store(MID + 16, pte(RAM, RWX));
    t.store(DATA, 1);
    t.store(DATA + 0x20_0000, 2);
    t.set_x(10, 0x40_0000 + (DATA - RAM));
    t.set_x(11, 0x40_0000); // another page of it
    t.set_x(14, MID + 16);
    t.set_x(15, pte(RAM + 0x20_0000, RWX));
    t.run(&[
        op("ld", 20, 10, 0, 0),
        op("sd", 0, 14, 15, 0),
        op("sfence.vma", 0, 11, 0, 0),
        op("ld", 21, 10, 0, 0),
    ]);
    assert_eq!((t.x(20), t.x(21)), (1, 2));
}

#[test]
fn address_spaces_are_kept_apart() {
    let mut t = paged();
    // A second root whose page 1 is elsewhere; switching there and back needs no fence.
    let (root2, mid2, leaf2) = (RAM + 0x13000, RAM + 0x14000, RAM + 0x15000);
    t.store(root2, pte(mid2, 1));
    t.store(root2 + 16, pte(RAM, RWX));
    t.store(mid2, pte(leaf2, 1));
    t.store(leaf2 + 8, pte(PAGE + 0x1000, RWX));
    t.store(PAGE, 1);
    t.store(PAGE + 0x1000, 2);
    t.set_x(10, 0x1000);
    t.set_x(11, SV39 | 7 << 44 | root2 >> 12);
    t.run(&[
        op("ld", 20, 10, 0, 0),
        op("csrrw", 12, 11, 0, 0x180),
        op("ld", 21, 10, 0, 0),
        op("csrrw", 0, 12, 0, 0x180),
        op("ld", 22, 10, 0, 0),
    ]);
    assert_eq!([20, 21, 22].map(|r| t.x(r)), [1, 2, 1]);
}

#[test]
fn many_address_spaces_do_not_mix() {
    // More than the TLB has slots for.
    let mut t = paged();
    t.set_x(10, 0x1000);
    for n in 0..200u64 {
        let leaf = RAM + 0x40_0000 + n * 0x4000;
        t.store(leaf, pte(leaf + 0x1000, 1));
        t.store(leaf + 16, pte(RAM, RWX));
        t.store(leaf + 0x1000, pte(leaf + 0x2000, 1));
        t.store(leaf + 0x2008, pte(leaf + 0x3000, RWX));
        t.store(leaf + 0x3000, n + 1000);
    }
    for n in (0..200u64).chain(0..200) {
        t.set_x(11, SV39 | n << 44 | (RAM + 0x40_0000 + n * 0x4000) >> 12);
        t.run(&[op("csrrw", 0, 11, 0, 0x180), op("ld", 20, 10, 0, 0)]);
        assert_eq!(t.x(20), n + 1000);
    }
}

#[test]
fn a_changed_memory_map_is_seen() {
    let mut t = Bare::new();
    t.set_x(10, 0x9000_0000);
    t.run(&[op("ld", 11, 10, 0, 0)]);
    assert_eq!((t.state().mcause, t.state().mtval), (5, 0x9000_0000));
    let more = mem::Memory::ram("more", 4096).unwrap();
    more.store::<u64>(0, 77);
    let id = t.space.map_ram(0x9000_0000, more, 0, 4096, false, 0, "more").unwrap();
    t.run(&[op("ld", 11, 10, 0, 0)]);
    assert_eq!(t.x(11), 77);
    t.space.unmap(id);
    t.clear_trap();
    t.run(&[op("ld", 11, 10, 0, 0)]);
    assert_eq!(t.state().mcause, 5);
}

#[test]
fn rom_takes_no_stores_and_registers_no_atomics() {
    let mut t = Bare::new();
    let rom = mem::Memory::ram("rom", 4096).unwrap();
    rom.store::<u64>(0, 5);
    t.space.map_ram(0x9000_0000, rom, 0, 4096, true, 0, "rom").unwrap();
    t.set_x(10, 0x9000_0000);
    t.run(&[op("sd", 0, 10, 10, 0), op("ld", 11, 10, 0, 0)]);
    assert_eq!((t.x(11), t.state().mcause), (5, 0));
    t.run(&[op("amoadd.w", 11, 10, 10, 0)]);
    assert_eq!(t.state().mcause, 7);
    t.set_x(10, crate::bench::UART);
    t.run(&[op("lr.w", 11, 10, 0, 0)]);
    assert_eq!(t.state().mcause, 5);
}

#[test]
fn code_runs_from_registers_too() {
    struct Rom(Vec<u32>);
    impl mem::Mmio for Rom {
        fn read(&self, off: u64, size: mem::Size) -> u64 {
            let w = u64::from(self.0.get(off as usize / 4).copied().unwrap_or(0));
            w >> (8 * (off & 3)) & size.mask()
        }
        fn write(&self, _: u64, _: u64, _: mem::Size) {}
        fn name(&self) -> &str {
            "rom"
        }
    }
    let mut t = Bare::new();
    let code = vec![op("addi", 20, 20, 0, 5), op("bne", 0, 20, 21, -4), op("wfi", 0, 0, 0, 0)];
    t.space.map_io(0x9000_0000, 0x100, std::sync::Arc::new(Rom(code)), 0).unwrap();
    t.set_x(10, 0x9000_0000);
    t.set_x(21, 25);
    assert_eq!(t.run(&[op("jalr", 0, 10, 0, 0)]), Exit::Wfi);
    assert_eq!(t.x(20), 25);
}
