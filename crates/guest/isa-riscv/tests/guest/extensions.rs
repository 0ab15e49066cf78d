//! Extensions that are more than an instruction: controls of cache blocks, waiting, page table entries; and what the other
//! emulator does otherwise.

use crate::bench::Bare;
use crate::memory::{DATA, LEAF, MID, PAGE, RWX, paged, paged_with, pte};
use isa_riscv::encode::op;
use isa_riscv::{Ext, Mode};

const ILLEGAL: u64 = 2;
const LOAD_PAGE_FAULT: u64 = 13;
const STORE_ACCESS_FAULT: u64 = 7;
const STORE_PAGE_FAULT: u64 = 15;
const TW: u64 = 1 << 21;

/// The cause and value of the trap that the instructions end in; zeroes if they do not.
fn trap_of(t: &mut Bare, code: &[u32]) -> (u64, u64) {
    t.clear_trap();
    t.run(code);
    (t.state().mcause, t.state().mtval)
}

#[test]
fn halves_and_bfloats_are_boxed() {
    let mut t = Bare::new();
    t.enable_fp();
    t.set_x(10, 0xffff_ffff_ffff_bc00);
    t.set_f(1, 0xffff_ffff_0000_3f80); // boxed as a single only
    t.set_f(2, 0xffff_ffff_ffff_3f80); // 1 in bfloat16
    t.store(DATA, 0x1234_5678_9abc_3c01);
    t.set_x(11, DATA);
    t.run(&[
        op("fmv.h.x", 3, 10, 0, 0),
        op("fmv.x.h", 12, 3, 0, 0),
        op("fcvt.s.bf16", 4, 1, 0, 0),
        op("fcvt.s.bf16", 5, 2, 0, 0),
        op("fcvt.bf16.s", 6, 5, 0, 0),
        op("fcvt.s.h", 7, 1, 0, 0),
        op("flh", 8, 11, 0, 0),
        op("fsh", 0, 11, 3, 2),
        op("fadd.h", 9, 3, 8, 0),
        op("fcvt.d.h", 14, 3, 0, 0),
    ]);
    assert_eq!((t.f(3), t.x(12)), (0xffff_ffff_ffff_bc00, 0xffff_ffff_ffff_bc00));
    assert_eq!((t.f(4), t.f(5)), (0xffff_ffff_7fc0_0000, 0xffff_ffff_3f80_0000));
    assert_eq!((t.f(6), t.f(7)), (0xffff_ffff_ffff_3f80, 0xffff_ffff_7fc0_0000));
    assert_eq!((t.f(8), t.load(DATA)), (0xffff_ffff_ffff_3c01, 0x1234_5678_bc00_3c01));
    assert_eq!((t.f(9), t.f(14)), (0xffff_ffff_ffff_1400, 0xbff0_0000_0000_0000));
}

#[test]
fn constants_are_those_of_the_format() {
    let cases: [(u32, u64, u64, u64); 8] = [
        (0, 0xbc00, 0xbf80_0000, 0xbff0_0000_0000_0000),
        (1, 0x0400, 0x0080_0000, 0x0010_0000_0000_0000),
        (2, 0x0100, 0x3780_0000, 0x3ef0_0000_0000_0000),
        (9, 0x3500, 0x3ea0_0000, 0x3fd4_0000_0000_0000),
        (21, 0x4100, 0x4020_0000, 0x4004_0000_0000_0000),
        (29, 0x7c00, 0x4780_0000, 0x40f0_0000_0000_0000),
        (30, 0x7c00, 0x7f80_0000, 0x7ff0_0000_0000_0000),
        (31, 0x7e00, 0x7fc0_0000, 0x7ff8_0000_0000_0000),
    ];
    for (n, h, s, d) in cases {
        let mut t = Bare::new();
        t.enable_fp();
        t.run(&[
            op("fli.h", 1, n, 0, 0),
            op("fli.s", 2, n, 0, 0),
            op("fli.d", 3, n, 0, 0),
            op("csrrs", 10, 0, 0, 1),
        ]);
        assert_eq!((t.f(1), t.f(2), t.f(3)), (!0xffff | h, 0xffff_ffff << 32 | s, d), "{n}");
        assert_eq!(t.x(10), 0, "no exception");
    }
}

#[test]
fn cache_blocks_need_permission() {
    // Which bits of menvcfg and senvcfg each needs.
    for (name, bits) in [
        ("cbo.inval", 0x10),
        ("cbo.inval", 0x30),
        ("cbo.clean", 0x40),
        ("cbo.flush", 0x40),
        ("cbo.zero", 0x80),
    ] {
        for (mode, m, s, legal) in [
            (Mode::M, 0, 0, true),
            (Mode::S, 0, bits, false),
            (Mode::S, !bits & 0xf0, bits, false),
            (Mode::S, bits, 0, true),
            (Mode::U, bits, 0, false),
            (Mode::U, 0, bits, false),
            (Mode::U, bits, bits, true),
        ] {
            if name == "cbo.inval" && m == !bits & 0xf0 && m & 0x30 != 0 {
                continue; // the other kind of permission
            }
            let mut t = Bare::new();
            t.open_pmp();
            let mut state = t.state();
            (state.menvcfg, state.senvcfg, state.mode) = (m, s, mode);
            t.set_state(&state);
            t.set_x(10, DATA + 77);
            let (cause, _) = trap_of(&mut t, &[op(name, 0, 10, 0, 0), op("ecall", 0, 0, 0, 0)]);
            assert_eq!(cause == ILLEGAL, !legal, "{name} {mode:?} {m:#x} {s:#x}: {cause}");
        }
    }
}

#[test]
fn a_block_is_zeroed_whole_and_faults_are_those_of_stores() {
    let mut t = Bare::new();
    for n in 0..24 {
        t.store(DATA + 8 * n, u64::MAX);
    }
    t.set_x(10, DATA + 64 + 63);
    assert_eq!(trap_of(&mut t, &[op("cbo.zero", 0, 10, 0, 0)]), (0, 0));
    for n in 0..24 {
        assert_eq!(t.load(DATA + 8 * n), if (8..16).contains(&n) { 0 } else { u64::MAX }, "{n}");
    }
    // Where nothing is.
    t.set_x(10, 0x4000_0021);
    for name in ["cbo.zero", "cbo.clean", "cbo.inval"] {
        let (cause, _) = trap_of(&mut t, &[op(name, 0, 10, 0, 0)]);
        let nothing = if name == "cbo.zero" { STORE_ACCESS_FAULT } else { 0 };
        assert_eq!(cause, nothing, "{name}");
    }
    // A page that may be read may be cleaned, not zeroed.
    let mut t = paged();
    let mut s = t.state();
    s.menvcfg |= 0xf0;
    t.set_state(&s);
    t.store(LEAF + 8, pte(PAGE, 0x43));
    t.set_x(10, 0x1000);
    t.set_x(11, 0x2000);
    assert_eq!(trap_of(&mut t, &[op("cbo.clean", 0, 10, 0, 0), op("ecall", 0, 0, 0, 0)]).0, 9);
    let mut s = t.state();
    s.mode = Mode::S;
    t.set_state(&s);
    assert_eq!(trap_of(&mut t, &[op("cbo.zero", 0, 10, 0, 0)]), (STORE_PAGE_FAULT, 0x1000));
    t.set_state(&s);
    assert_eq!(trap_of(&mut t, &[op("cbo.flush", 0, 11, 0, 0)]), (STORE_PAGE_FAULT, 0x2000));
}

#[test]
fn waiting_for_a_reservation_may_be_forbidden() {
    for (name, mode, tw, cause) in [
        ("wrs.nto", Mode::M, TW, 11),
        ("wrs.nto", Mode::S, 0, 9),
        ("wrs.nto", Mode::S, TW, ILLEGAL),
        ("wrs.nto", Mode::U, TW, ILLEGAL),
        ("wrs.sto", Mode::U, TW, 8),
    ] {
        let mut t = Bare::new();
        t.open_pmp();
        let mut s = t.state();
        s.mode = mode;
        s.mstatus |= tw;
        t.set_state(&s);
        assert_eq!(
            trap_of(&mut t, &[op(name, 0, 0, 0, 0), op("ecall", 0, 0, 0, 0)]).0,
            cause,
            "{name} {mode:?}"
        );
    }
}

/// What a load of page 1 ends in after its entry became `entry`.
fn load_of(t: &mut Bare, entry: u64) -> u64 {
    let s = t.state();
    t.store(LEAF + 8, entry);
    t.set_x(10, 0x1008);
    let (cause, _) =
        trap_of(t, &[op("sfence.vma", 0, 0, 0, 0), op("ld", 11, 10, 0, 0), op("ecall", 0, 0, 0, 0)]);
    let after = t.state();
    t.set_state(&isa_riscv::CpuState { x: after.x, mcause: 0, ..s });
    cause
}

#[test]
fn accessed_bits_are_set_or_fault() {
    const ADUE: u64 = 1 << 61;
    let unset = pte(PAGE, 0x0f);
    for (ext, menvcfg, cause) in [
        (Ext::ALL, ADUE, 9),
        (Ext::ALL, 0, LOAD_PAGE_FAULT),
        (Ext::ALL.with(Ext::SVADE), ADUE, 9),
        (Ext::ALL.without(Ext::SVADU), 0, 9),
        (Ext::ALL.without(Ext::SVADU).with(Ext::SVADE), 0, LOAD_PAGE_FAULT),
    ] {
        let mut t = paged_with(ext);
        let mut s = t.state();
        s.menvcfg = menvcfg;
        t.set_state(&s);
        assert_eq!(load_of(&mut t, unset), cause, "{menvcfg:#x}");
        assert_eq!(load_of(&mut t, pte(PAGE, 0x4f)), 9);
        // The dirty bit of a page that is written for the first time.
        t.set_x(10, 0x1008);
        t.run(&[op("sfence.vma", 0, 0, 0, 0), op("sd", 0, 10, 10, 0), op("ecall", 0, 0, 0, 0)]);
        assert_eq!(t.state().mcause, if cause == 9 { 9 } else { STORE_PAGE_FAULT });
    }
    // After a reset it is on, unless Svade is there too.
    assert_eq!(Bare::new().state().menvcfg & ADUE, ADUE);
    assert_eq!(Bare::with(Ext::ALL.with(Ext::SVADE)).state().menvcfg & ADUE, 0);
    assert_eq!(Bare::with(Ext::ALL.without(Ext::SVADU)).state().menvcfg & ADUE, 0);
}

#[test]
fn memory_types_are_known_where_they_are_on() {
    const PBMTE: u64 = 1 << 62;
    let mut t = paged();
    let with = |n: u64| pte(PAGE, RWX) | n << 61;
    assert_eq!(t.state().menvcfg & PBMTE, PBMTE);
    assert_eq!([0, 1, 2, 3].map(|n| load_of(&mut t, with(n))), [9, 9, 9, LOAD_PAGE_FAULT]);
    // Not in a pointer.
    let pointer = t.load(MID);
    t.store(MID, pointer | 1 << 61);
    assert_eq!(load_of(&mut t, with(0)), LOAD_PAGE_FAULT);
    t.store(MID, pointer);
    let mut s = t.state();
    s.menvcfg &= !PBMTE;
    t.set_state(&s);
    assert_eq!([0, 1, 2].map(|n| load_of(&mut t, with(n))), [9, LOAD_PAGE_FAULT, LOAD_PAGE_FAULT]);
    let mut t = paged_with(Ext::ALL.without(Ext::SVPBMT));
    assert_eq!(load_of(&mut t, with(1)), LOAD_PAGE_FAULT);
}

#[test]
fn sixteen_pages_are_one() {
    const N: u64 = 1 << 63;
    let mut t = paged();
    // The group's page number has 8 in its low bits; page 1 of the group is the second one.
    let group = |flags: u64| pte(PAGE + 0x8000, flags) | N;
    t.store(PAGE + 0x1008, 42);
    assert_eq!(load_of(&mut t, group(RWX)), 9);
    assert_eq!(t.x(11), 42);
    // Other sizes are reserved, as is a group of larger pages.
    assert_eq!(load_of(&mut t, pte(PAGE + 0x4000, RWX) | N), LOAD_PAGE_FAULT);
    t.store(MID + 8, pte(crate::bench::RAM, RWX) | N);
    t.set_x(12, 0x20_0000);
    let (cause, _) = trap_of(&mut t, &[op("ld", 11, 12, 0, 0)]);
    assert_eq!(cause, LOAD_PAGE_FAULT);
    let mut t = paged_with(Ext::ALL.without(Ext::SVNAPOT));
    assert_eq!(load_of(&mut t, group(RWX)), LOAD_PAGE_FAULT);
    // Flushing one address of a group flushes all of it.
    let mut t = paged();
    t.store(LEAF + 8, group(RWX));
    t.store(LEAF + 16, group(RWX));
    t.store(PAGE + 0x1000, 1);
    t.set_x(10, 0x1000);
    t.set_x(12, 0x2000);
    t.set_x(14, LEAF + 8);
    t.set_x(15, pte(PAGE + 0x4_0000, RWX));
    t.store(PAGE + 0x4_0000, 2);
    t.run(&[
        op("ld", 20, 10, 0, 0),
        op("sd", 0, 14, 15, 0),
        op("sfence.vma", 0, 12, 0, 0),
        op("ld", 21, 10, 0, 0),
    ]);
    assert_eq!((t.x(20), t.x(21)), (1, 2));
}

#[test]
fn environment_configuration_keeps_what_the_standard_has() {
    let mut t = Bare::new();
    t.set_x(10, u64::MAX);
    t.run(&[
        op("csrrw", 0, 10, 0, 0x30a),
        op("csrrs", 20, 0, 0, 0x30a),
        op("csrrw", 0, 10, 0, 0x10a),
        op("csrrs", 21, 0, 0, 0x10a),
    ]);
    assert_eq!((t.x(20), t.x(21)), (0xe000_0000_0000_00f1, 0xf1));
    // The reserved kind of invalidation leaves the old one.
    t.set_x(10, 0x20);
    t.run(&[op("csrrw", 0, 10, 0, 0x10a), op("csrrs", 21, 0, 0, 0x10a)]);
    assert_eq!(t.x(21), 0x30);
    let mut t = Bare::with(Ext::BASE);
    t.set_x(10, u64::MAX);
    t.run(&[op("csrrw", 0, 10, 0, 0x30a), op("csrrs", 20, 0, 0, 0x30a)]);
    assert_eq!(t.x(20), 1);
}
