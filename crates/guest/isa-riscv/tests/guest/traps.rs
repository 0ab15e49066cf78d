//! Interrupts, the built-in firmware's calls, and what the run loop reports.

use crate::bench::{Bare, RAM};
use isa_riscv::encode::op;
use isa_riscv::{Exit, Mode};

const MIE: u64 = 1 << 3;

#[test]
fn interrupts_have_the_standards_order() {
    // MEI, MSI, MTI, SEI, SSI, STI: each is taken before all that follow it.
    let order = [11, 3, 7, 9, 1, 5];
    for n in 0..order.len() {
        let mut t = Bare::new();
        for &bit in &order[n..] {
            t.pins.set(bit, true);
        }
        let mut s = t.state();
        s.mie = 0xaaa;
        s.mstatus |= MIE;
        t.set_state(&s);
        t.run(&[op("addi", 20, 20, 0, 1)]);
        let s = t.state();
        assert_eq!(s.mcause, 1 << 63 | u64::from(order[n]));
        assert_eq!((s.mepc, t.x(20)), (t.code(), 0), "before the first instruction");
        assert_eq!(s.mstatus & (MIE | 1 << 7), 1 << 7);
    }
}

#[test]
fn a_masked_interrupt_ends_wfi_but_does_not_trap() {
    let mut t = Bare::new();
    let mut s = t.state();
    s.mie = 1 << 7;
    t.set_state(&s);
    assert_eq!(t.run(&[op("wfi", 0, 0, 0, 0)]), Exit::Wfi);
    assert!(!t.hart.wakes());
    t.pins.set(7, true);
    assert!(t.hart.wakes() && t.pins.flag().is_raised());
    t.run(&[op("wfi", 0, 0, 0, 0), op("addi", 20, 0, 0, 1), op("ecall", 0, 0, 0, 0)]);
    assert_eq!((t.x(20), t.state().mcause), (1, 11));
}

#[test]
fn a_pin_that_falls_takes_its_interrupt_back() {
    let mut t = Bare::new();
    t.pins.set(11, true);
    t.pins.set(11, false);
    t.pins.set(2, true); // no such input
    let mut s = t.state();
    s.mie = 0xaaa;
    s.mstatus |= MIE;
    t.set_state(&s);
    t.run(&[op("addi", 20, 20, 0, 1)]);
    assert_eq!((t.x(20), t.state().mcause, t.pins.levels()), (1, 0, 0));
}

#[test]
fn an_endless_loop_ends_when_asked() {
    let mut t = Bare::new();
    t.poke(RAM, &[op("jal", 0, 0, 0, 0)]);
    let pins = t.pins.clone();
    let kicker = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        pins.kick();
    });
    assert_eq!(t.hart.run(), Exit::Attention);
    assert!(t.pins.flag().take());
    assert!(t.state().instret > 0);
    kicker.join().unwrap();
}

#[test]
fn calls_of_built_in_firmware_leave_guest_code() {
    let mut t = Bare::with_sbi();
    t.hart.start(t.code(), 3, 4, Mode::S);
    t.poke(t.code(), &[op("addi", 17, 0, 0, 0x10), op("ecall", 0, 0, 0, 0), op("addi", 20, 10, 0, 1)]);
    t.poke(t.code() + 12, &[op("csrrs", 21, 0, 0, 0x300)]); // mstatus: illegal in S-mode, goes to stvec
    let mut s = t.state();
    s.stvec = RAM + 0x5000;
    t.set_state(&s);
    t.poke(RAM + 0x5000, &[op("wfi", 0, 0, 0, 0)]);
    let exit = t.hart.run();
    assert_eq!(exit, Exit::Sbi { ext: 0x10, func: 0, args: [3, 4, 0, 0, 0, 0] });
    t.hart.set_arguments(41, 0);
    assert_eq!(t.hart.run(), Exit::Wfi);
    let s = t.state();
    assert_eq!((t.x(20), s.scause, s.sepc, s.mode), (42, 2, t.code() + 12, Mode::S));
    assert_eq!(s.stval, u64::from(op("csrrs", 21, 0, 0, 0x300)));
}

#[test]
fn the_firmware_timer_and_stimecmp_raise_sti() {
    let mut t = Bare::with_sbi();
    t.hart.start(t.code(), 0, 0, Mode::S);
    assert_eq!(t.hart.deadline(), None);
    t.set_x(10, 1 << 40);
    t.run(&[op("csrrw", 0, 10, 0, 0x14d), op("addi", 11, 0, 0, 32), op("csrrw", 0, 11, 0, 0x104)]);
    assert_eq!(t.hart.deadline(), Some(1 << 40));
    t.pins.set_sbi_timer(77);
    assert_eq!(t.hart.deadline(), Some(77));
    for _ in 0..100 {
        t.state(); // time passes by being looked at
    }
    assert!(t.hart.wakes());
    assert_eq!(t.state().mip, 32);
    t.pins.set_sbi_timer(u64::MAX);
    assert!(!t.hart.wakes());
}

#[test]
fn registers_can_be_saved_and_set() {
    let mut t = Bare::new();
    t.open_pmp();
    t.enable_fp();
    let mut s = t.state();
    for n in 1..32 {
        s.x[n] = n as u64 * 3;
        s.f[n] = n as u64 * 5;
    }
    s.pc = RAM + 0x100;
    s.fcsr = 0xe1;
    s.mode = Mode::S;
    (s.mideleg, s.medeleg, s.stvec, s.sscratch, s.mscratch) = (0x222, 0xb1ff, RAM, 5, 6);
    (s.mtvec, s.mepc, s.mcause, s.mtval, s.sepc, s.scause, s.stval) = (RAM, RAM + 2, 7, 8, RAM + 4, 9, 10);
    (s.mcounteren, s.scounteren, s.menvcfg, s.senvcfg, s.stimecmp) = (7, 3, 1 << 63, 1, 1 << 50);
    (s.mie, s.satp, s.cycle, s.instret) = (0x222, 8 << 60 | RAM >> 12, 1000, 900);
    t.set_state(&s);
    assert_eq!(t.state(), s);
    t.hart.reset();
    let r = t.state();
    assert_eq!((r.pc, r.mode, r.satp, r.mie, r.x), (RAM, Mode::M, 0, 0, [0; 32]));
}

#[test]
fn counters_count_and_can_be_inhibited() {
    let mut t = Bare::new();
    t.run(&[
        op("csrrw", 0, 0, 0, 0xb02), // minstret = 0
        op("addi", 20, 0, 0, 0),
        op("csrrs", 21, 0, 0, 0xb02),
        op("csrrwi", 0, 4, 0, 0x320), // inhibit it
        op("addi", 20, 0, 0, 0),
        op("csrrs", 22, 0, 0, 0xc02),
        op("csrrs", 23, 0, 0, 0xc02),
        op("csrrs", 24, 0, 0, 0xb00),
        op("csrrs", 25, 0, 0, 0xb00),
    ]);
    assert_eq!(t.x(21), 1);
    assert_eq!(t.x(22), t.x(23));
    assert_eq!(t.x(25), t.x(24) + 1);
}
