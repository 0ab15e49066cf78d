//! What a debugger sees and does.

use crate::bench::{Bare, RAM};
use isa_riscv::encode::op;
use isa_riscv::{Exit, Halt, Mode, Register, Stops, Watch, WatchKind};
use std::sync::Arc;

const DATA: u64 = RAM + 0x8000;
const ROOT: u64 = RAM + 0x10000;

fn stop_at(t: &mut Bare, breakpoints: &[u64], watches: &[(u64, u64, WatchKind)]) {
    let watches = watches.iter().map(|&(addr, len, kind)| Watch { addr, len, kind }).collect();
    t.hart.set_stops(Arc::new(Stops { breakpoints: breakpoints.iter().copied().collect(), watches }));
}

/// A hart that is about to run the code in a loop.
fn looping(code: &[u32]) -> Bare {
    let mut t = Bare::new();
    let at = t.code();
    t.poke(at, code);
    t.poke(at + 4 * code.len() as u64, &[op("jal", 0, 0, 0, -4 * code.len() as i32)]);
    let mut s = t.state();
    s.pc = at;
    t.set_state(&s);
    t
}

fn pc(t: &Bare) -> u64 {
    t.state().pc - t.code()
}

#[test]
fn a_breakpoint_stops_before_its_instruction_each_time() {
    let mut t = looping(&[op("addi", 20, 20, 0, 1), op("addi", 21, 21, 0, 1), op("addi", 22, 22, 0, 1)]);
    let at = t.code();
    // Decoded already by then.
    t.hart.set_step(Some(at..at + 16));
    t.pins.kick();
    assert_eq!(t.hart.run(), Exit::Attention);
    t.pins.flag().take();
    t.hart.set_step(None);
    let from = [20, 21, 22].map(|r| t.x(r));
    stop_at(&mut t, &[at + 4, at + 0x100], &[]);
    assert_eq!(t.hart.run(), Exit::Debug(Halt::Breakpoint));
    assert_eq!(pc(&t), 4);
    // It stops there again until the debugger steps over it.
    assert_eq!(t.hart.run(), Exit::Debug(Halt::Breakpoint));
    for n in 1..4 {
        t.hart.set_step(Some(0..0));
        assert_eq!(t.hart.run(), Exit::Debug(Halt::Step));
        assert_eq!(pc(&t), 8);
        assert_eq!(t.hart.run(), Exit::Debug(Halt::Breakpoint));
        assert_eq!((pc(&t), t.x(21)), (4, from[1] + n));
        assert_eq!(t.x(20), t.x(21) + 1);
    }
    stop_at(&mut t, &[], &[]);
    t.pins.kick();
    assert_eq!(t.hart.run(), Exit::Attention);
}

#[test]
fn a_step_takes_no_interrupt_and_may_go_on_in_a_range() {
    let mut t = looping(&[op("addi", 20, 20, 0, 1), op("addi", 21, 21, 0, 1), op("wfi", 0, 0, 0, 0)]);
    let at = t.code();
    let mut s = t.state();
    s.mie = 0x888;
    s.mstatus |= 8;
    s.mtvec = RAM + 0x5000;
    t.set_state(&s);
    t.pins.set(7, true);
    t.pins.flag().take();
    for want in [4, 8, 12, 0] {
        t.hart.set_step(Some(0..0));
        assert_eq!(t.hart.run(), Exit::Debug(Halt::Step));
        assert_eq!(pc(&t), want);
    }
    t.hart.set_step(Some(at..at + 12));
    assert_eq!(t.hart.run(), Exit::Debug(Halt::Step));
    assert_eq!((pc(&t), t.x(20), t.x(21)), (12, 2, 2));
    // A breakpoint within the range ends it.
    stop_at(&mut t, &[at + 8], &[]);
    t.hart.set_step(Some(at..at + 16));
    assert_eq!(t.hart.run(), Exit::Debug(Halt::Breakpoint));
    assert_eq!((pc(&t), t.x(20), t.x(21)), (8, 3, 3));
    stop_at(&mut t, &[RAM + 0x5000], &[]);
    assert_eq!(t.hart.run(), Exit::Debug(Halt::Breakpoint));
    assert_eq!(t.state().mcause, 1 << 63 | 7, "without steps interrupts are taken again");
}

#[test]
fn a_call_of_the_firmware_belongs_to_its_step() {
    let mut t = Bare::with_sbi();
    t.hart.start(t.code(), 3, 4, Mode::S);
    t.poke(t.code(), &[op("ecall", 0, 0, 0, 0), op("addi", 20, 0, 0, 1)]);
    t.hart.set_step(Some(0..0));
    assert!(matches!(t.hart.run(), Exit::Sbi { .. }));
    t.hart.set_arguments(9, 0);
    assert_eq!(t.hart.run(), Exit::Debug(Halt::Step));
    assert_eq!((pc(&t), t.x(10), t.x(20)), (4, 9, 0));
}

#[test]
fn watched_memory_stops_before_the_access_and_then_lets_it_through() {
    use WatchKind::{Access, Read, Write};
    // The instruction at 4 accesses 8 bytes at DATA + 6, those around other memory of the page.
    let around =
        |i: u32| vec![op("sd", 0, 11, 5, 0x100), i, op("addi", 21, 21, 0, 1), op("ld", 6, 11, 0, 0x100)];
    let store = op("sd", 0, 10, 5, 6);
    let load = op("ld", 6, 10, 0, 6);
    let cases: [(u32, u64, u64, WatchKind, bool); 10] = [
        (store, DATA + 13, 1, Write, true),
        (store, DATA + 14, 1, Write, false),
        (store, DATA, 6, Write, false),
        (store, DATA, 7, Write, true),
        (store, DATA, 8, Read, false),
        (store, DATA, 8, Access, true),
        (load, DATA, 8, Access, true),
        (load, DATA, 8, Read, true),
        (load, DATA, 8, Write, false),
        (load, DATA + 8, u64::MAX, Read, true),
    ];
    for (n, (i, addr, len, kind, hit)) in cases.into_iter().enumerate() {
        let mut t = looping(&around(i));
        for (r, v) in [(10, DATA), (11, DATA + 0x200), (5, 0x0102_0304_0506_0708)] {
            t.set_x(r, v);
        }
        // The pages are in the TLB by then.
        t.hart.set_step(Some(t.code()..t.code() + 20));
        t.pins.kick();
        t.hart.run();
        t.hart.set_step(Some(t.code() + 4..t.code() + 20));
        t.hart.run();
        t.pins.flag().take();
        t.hart.set_step(None);
        t.store(DATA + 6, 0);
        let rounds = t.x(21);
        let end = t.code() + 16;
        stop_at(&mut t, &[end], &[(addr, len, kind)]);
        let want = Watch { addr, len, kind };
        for round in 1..4 {
            if hit {
                assert_eq!(t.hart.run(), Exit::Debug(Halt::Watch(want)), "case {n}");
                assert_eq!((pc(&t), t.x(21)), (4, rounds + round - 1));
                assert_eq!(t.load(DATA + 6) != 0, i == store && round > 1, "not done yet");
            }
            // What is watched until the end of memory is met by the load there as well.
            if len == u64::MAX {
                assert_eq!(t.hart.run(), Exit::Debug(Halt::Watch(want)));
                assert_eq!(pc(&t), 12);
            }
            assert_eq!(t.hart.run(), Exit::Debug(Halt::Breakpoint), "case {n}");
            assert_eq!(t.x(21), rounds + round);
            t.hart.set_step(Some(0..0));
            assert_eq!(t.hart.run(), Exit::Debug(Halt::Step));
        }
        assert_eq!(t.load(DATA + 6) != 0, i == store);
    }
}

#[test]
fn atomics_are_watched_too() {
    for (i, kind) in [
        (op("amoadd.d", 6, 10, 5, 0), WatchKind::Write),
        (op("lr.d", 6, 10, 0, 0), WatchKind::Read),
        (op("sc.d", 6, 10, 5, 0), WatchKind::Write),
    ] {
        let mut t = looping(&[op("lr.d", 7, 10, 0, 0), i]);
        t.set_x(10, DATA);
        t.set_x(5, 1);
        let end = t.code() + 8;
        stop_at(&mut t, &[end], &[(DATA, 8, kind)]);
        let mut met = Vec::new();
        while let Exit::Debug(Halt::Watch(_)) = t.hart.run() {
            met.push(pc(&t));
        }
        let first = if kind == WatchKind::Read { vec![0, 4] } else { vec![4] };
        assert_eq!((met, pc(&t)), (first, 8));
    }
}

#[test]
fn registers_have_numbers() {
    let mut t = Bare::new();
    assert!(t.hart.set_register(Register::X(0), 7) && t.hart.set_register(Register::X(31), 8));
    assert_eq!([0, 31, 32].map(|n| t.hart.register(Register::X(n))), [Some(0), Some(8), None]);
    assert!(t.hart.set_register(Register::F(3), 9) && !t.hart.set_register(Register::F(32), 9));
    assert_eq!(t.hart.register(Register::F(3)), Some(9));
    assert!(t.hart.set_register(Register::Pc, RAM + 3));
    assert_eq!(t.hart.register(Register::Pc), Some(RAM + 2));
    // Whatever the mode may see; and without a trace in the state.
    let mut s = t.state();
    s.mode = Mode::U;
    s.mstatus &= !(3 << 13);
    t.set_state(&s);
    let before = t.state();
    assert_eq!(t.hart.register(Register::Csr(0xf14)), Some(0));
    assert_eq!(t.hart.register(Register::Csr(3)), Some(0));
    assert_eq!(t.hart.register(Register::Csr(0x7c0)), None);
    assert_eq!(t.state(), before);
    assert!(t.hart.set_register(Register::Csr(0x340), 5) && !t.hart.set_register(Register::Csr(0xf14), 5));
    assert_eq!(t.state().mscratch, 5);
    assert!(t.hart.set_register(Register::Mode, 1) && !t.hart.set_register(Register::Mode, 2));
    assert_eq!((t.hart.register(Register::Mode), t.state().mode), (Some(1), Mode::S));
    // There is no machine mode beside built-in firmware.
    assert!(!Bare::with_sbi().hart.set_register(Register::Mode, 3));
}

#[test]
fn addresses_are_looked_up_without_a_trace() {
    let mut t = Bare::new();
    // One page of 1 GiB at 0x4000_0000 that nobody may read, write or run but as user code; nothing accessed yet.
    let entry = 0x8000_0000 >> 12 << 10 | 0x19;
    t.store(ROOT + 8, entry);
    let mut s = t.state();
    s.satp = 8 << 60 | ROOT >> 12;
    s.mode = Mode::S;
    t.set_state(&s);
    assert_eq!(t.hart.debug_translate(0x4123_4567), Some(0x8123_4567));
    assert_eq!([0, 0x8000_0000, 1 << 63].map(|a| t.hart.debug_translate(a)), [None; 3]);
    assert_eq!(t.load(ROOT + 8), entry);
    s.mode = Mode::M;
    t.set_state(&s);
    assert_eq!(t.hart.debug_translate(0x4123_4567), Some(0x4123_4567));
}
