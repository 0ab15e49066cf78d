//! Harts on their threads, with a small firmware of the tests' own.

use mem::{AddressSpace, Memory};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};
use vcpu::*;

const RAM: u64 = 0x8000_0000;
const COUNTER: u64 = RAM + 0x8000;

// Instructions, assembled.
const ECALL: u32 = 0x0000_0073;
const WFI: u32 = 0x1050_0073;
/// `ld t0, 0(s0); addi t0, t0, 1; sd t0, 0(s0); j -12`: counts in memory, where `s0` points.
const COUNT: [u32; 4] = [0x0004_3283, 0x0012_8293, 0x0054_3023, 0xff5f_f06f];

fn li(rd: u32, v: i32) -> u32 {
    (v as u32) << 20 | rd << 7 | 0x13
}

#[derive(Default)]
struct Firmware {
    set: OnceLock<Weak<CpuSet>>,
    calls: Mutex<Vec<(u32, u64, u64)>>,
}

/// Function numbers of the tests' extension 9.
const NOTE: u64 = 0;
const STOP: u64 = 1;
const SUSPEND: u64 = 2;
const FENCE: u64 = 3;
const TIMER: u64 = 4;
const IPI: u64 = 5;
const SUSPEND_ANEW: u64 = 6;

impl SbiHandler for Firmware {
    fn call(&self, hart: u32, ext: u64, func: u64, args: [u64; 6]) -> SbiResult {
        self.calls.lock().unwrap().push((hart, func, args[0]));
        let set = self.set.get().and_then(Weak::upgrade);
        let Some(set) = set.filter(|_| ext == 9) else {
            return SbiResult::Ret { error: -2, value: 0 };
        };
        match func {
            STOP => return SbiResult::Stop,
            SUSPEND => return SbiResult::Suspend { resume: None },
            SUSPEND_ANEW => return SbiResult::Suspend { resume: Some((args[0], 77)) },
            FENCE => {
                set.fence_i(HartMask::All);
                set.sfence_vma(HartMask::Some(args[0]), Some((0, 4096)), None);
            }
            TIMER => set.set_timer(hart, args[0]),
            IPI => set.send_ipi(HartMask::Some(args[0])),
            _ => {}
        }
        SbiResult::Ret { error: 0, value: 55 }
    }
}

struct Machine {
    set: Arc<CpuSet>,
    space: Arc<AddressSpace>,
    clock: Arc<CpuClock>,
    fw: Arc<Firmware>,
}

impl Machine {
    fn new(harts: u32) -> Machine {
        let space = AddressSpace::new("system");
        let ram = Memory::ram("ram", 1 << 20).unwrap();
        space.map_ram(RAM, ram, 0, 1 << 20, false, 0, "ram").unwrap();
        let clock = Arc::new(CpuClock::new());
        let fw = Arc::new(Firmware::default());
        let configs = (0..harts).map(|id| HartConfig {
            id,
            ext: Ext::ALL,
            sbi: Some(fw.clone()),
            reset_pc: 0,
            mem: space.clone(),
            clock: clock.clone(),
            engine: None,
        });
        let set = CpuSet::new(configs.collect()).unwrap();
        fw.set.set(Arc::downgrade(&set)).unwrap();
        Machine { set, space, clock, fw }
    }

    fn poke(&self, at: u64, code: &[u32]) {
        for (n, w) in code.iter().enumerate() {
            self.space.write(at + 4 * n as u64, &w.to_le_bytes()).unwrap();
        }
    }

    /// Code that sets `s0` to COUNTER + 8 * hart and counts there.
    fn counting(&self) {
        // slli s0, a0, 3; lui t0, 0x80008 (sign-extended); slli t0, 32; srli t0, 32; add s0, s0, t0
        self.poke(RAM, &[0x0035_1413, 0x8000_82b7, 0x0202_9293, 0x0202_d293, 0x0054_0433]);
        self.poke(RAM + 20, &COUNT);
    }

    fn count(&self, hart: u64) -> u64 {
        self.space.load(COUNTER + 8 * hart, mem::Size::B8).unwrap()
    }

    /// Waits for a condition, ten seconds at most.
    fn wait(&self, what: &str, f: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !f() {
            assert!(Instant::now() < end, "{what}: {:x?}", self.set.registers(0));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn harts_run_pause_and_go_on() {
    let m = Machine::new(2);
    m.counting();
    for h in 0..2 {
        m.set.start_hart(h, RAM, u64::from(h), 0, Mode::S).unwrap();
        assert_eq!(m.set.hart_state(h), Some(HartState::StartPending));
    }
    assert_eq!(m.set.start_hart(0, RAM, 0, 0, Mode::S), Err(StartError::AlreadyStarted));
    assert_eq!(m.set.start_hart(9, RAM, 0, 0, Mode::S), Err(StartError::NoSuchHart));
    assert_eq!(m.set.hart_state(9), None);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!((m.count(0), m.clock.now_ns()), (0, 0), "paused at first");
    for _ in 0..20 {
        m.set.resume();
        let before = (m.count(0), m.count(1));
        m.wait("both count", || m.count(0) > before.0 && m.count(1) > before.1);
        m.set.pause();
        let (a, b, t) = (m.count(0), m.count(1), m.clock.now_ns());
        assert_eq!(m.set.hart_state(1), Some(HartState::Started));
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!((m.count(0), m.count(1), m.clock.now_ns()), (a, b, t));
    }
    assert_eq!(m.set.registers(1).unwrap().x[8], COUNTER + 8);
}

#[test]
fn registers_of_a_running_hart() {
    let m = Machine::new(1);
    m.counting();
    m.set.start_hart(0, RAM, 0, 3, Mode::S).unwrap();
    m.set.resume();
    m.wait("counts", || m.count(0) > 1000);
    let mut last = 0;
    for _ in 0..100 {
        let r = m.set.registers(0).unwrap();
        assert!((RAM..RAM + 40).contains(&r.pc) && r.x[11] == 3, "{r:x?}");
        assert!(r.instret > last);
        last = r.instret;
        m.wait("goes on", || m.set.registers(0).unwrap().instret > last);
    }
    let mut r = m.set.registers(0).unwrap();
    r.x[8] = COUNTER + 16;
    r.pc = RAM + 20;
    m.set.set_registers(0, &r);
    m.wait("counts elsewhere", || m.count(2) > 10);
    assert!(m.set.registers(1).is_none());
}

#[test]
fn firmware_calls_return_values_and_stop_harts() {
    let m = Machine::new(2);
    // a0 and a1 come back in s2 and s3; then the hart stops.
    let code = [
        li(17, 9),
        li(16, NOTE as i32),
        ECALL,
        0x0005_0913, // mv s2, a0
        0x0005_8993, // mv s3, a1
        li(16, STOP as i32),
        ECALL,
    ];
    m.poke(RAM, &code);
    m.set.resume();
    for round in 0..3 {
        m.set.start_hart(1, RAM, 42 + round, 0, Mode::S).unwrap();
        m.wait("stops", || m.set.hart_state(1) == Some(HartState::Stopped));
        let r = m.set.registers(1).unwrap();
        assert_eq!((r.x[18], r.x[19]), (0, 55));
    }
    let calls = m.fw.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 6);
    assert_eq!(calls[4], (1, NOTE, 44));
}

#[test]
fn a_sleeping_hart_wakes_for_its_timer_and_for_pins() {
    let m = Machine::new(1);
    // sie = STI | SSI | SEI; timer at a0; wfi; then note a0 = sip by ecall; clear SSI; repeat without timer.
    m.poke(
        RAM,
        &[
            li(17, 9),
            li(5, 0x222),
            0x1042_9073, // csrw sie, t0
            li(16, TIMER as i32),
            ECALL,
            WFI,
            0x1440_2573, // csrr a0, sip
            li(16, NOTE as i32),
            ECALL,
            li(10, -1),
            li(16, TIMER as i32),
            ECALL,
            0x1441_7073, // csrci sip, 2
            0xfe1f_f06f, // j -32: to the wfi
        ],
    );
    let at = 30_000_000 / 100; // ticks: 30 ms
    m.set.start_hart(0, RAM, at, 0, Mode::S).unwrap();
    m.set.resume();
    let notes =
        || -> Vec<u64> { m.fw.calls.lock().unwrap().iter().filter(|c| c.1 == NOTE).map(|c| c.2).collect() };
    m.wait("timer", || !notes().is_empty());
    assert!(m.clock.now_ns() >= 30_000_000);
    assert_eq!(notes(), [1 << 5]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(notes().len(), 1, "sleeps");
    m.set.send_ipi(HartMask::one(0));
    m.wait("software interrupt", || notes().len() == 2);
    assert_eq!(notes()[1], 2);
    m.set.pins(0).set(9, true);
    m.wait("external interrupt", || notes().len() >= 3);
    assert_eq!(notes()[2], 1 << 9);
    m.set.pins(0).set(9, false);
}

#[test]
fn suspended_harts_resume_either_way() {
    let m = Machine::new(1);
    m.poke(
        RAM,
        &[
            li(17, 9),
            li(5, 2),
            0x1042_9073, // csrw sie, t0
            li(16, SUSPEND as i32),
            ECALL,
            0x0005_0913, // mv s2, a0
            0x1441_7073, // csrci sip, 2
            0x0000_0517, // auipc a0, 0
            0x0185_0513, // addi a0, a0, 24
            li(16, SUSPEND_ANEW as i32),
            ECALL,
            0x0000_0013,
            0x0000_0013,
            li(17, 9),   // here with a0 = hart, a1 = 77
            0x0005_8513, // mv a0, a1
            li(16, NOTE as i32),
            ECALL,
            li(16, STOP as i32),
            ECALL,
        ],
    );
    m.set.start_hart(0, RAM, 0, 0, Mode::S).unwrap();
    m.set.resume();
    m.wait("suspends", || m.set.hart_state(0) == Some(HartState::Suspended));
    // A pause and a look at the registers do not end it.
    m.set.pause();
    assert_eq!(m.set.registers(0).unwrap().mode, Mode::S);
    m.set.resume();
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(m.set.hart_state(0), Some(HartState::Suspended));
    m.set.send_ipi(HartMask::All);
    m.wait("second", || m.fw.calls.lock().unwrap().iter().any(|c| c.1 == SUSPEND_ANEW));
    m.wait("suspends", || m.set.hart_state(0) == Some(HartState::Suspended));
    // It kept sie, so the next interrupt begins it anew.
    m.set.send_ipi(HartMask::one(0));
    m.wait("stops", || m.set.hart_state(0) == Some(HartState::Stopped));
    assert!(m.fw.calls.lock().unwrap().contains(&(0, NOTE, 77)));
}

#[test]
fn fences_reach_running_harts_and_do_not_deadlock() {
    let m = Machine::new(4);
    // Hart 0 counts; 1 and 2 fence everybody for ever; 3 is stopped.
    m.counting();
    let fencing = [li(17, 9), li(16, FENCE as i32), li(10, 15), ECALL, 0xff9f_f06f];
    m.poke(RAM + 0x1000, &fencing);
    m.set.start_hart(0, RAM, 0, 0, Mode::S).unwrap();
    m.set.start_hart(1, RAM + 0x1000, 0, 0, Mode::S).unwrap();
    m.set.start_hart(2, RAM + 0x1000, 0, 0, Mode::S).unwrap();
    m.set.resume();
    m.wait("fences", || m.fw.calls.lock().unwrap().len() > 2000);
    let n = m.count(0);
    m.wait("counts", || m.count(0) > n);
    // The counting hart sees changed code after a fence from outside: it now adds 0 instead of 1.
    m.poke(RAM + 24, &[0x0002_8293]);
    m.set.fence_i(HartMask::one(0));
    let r = m.set.registers(0).unwrap().instret;
    m.wait("goes on", || m.set.registers(0).unwrap().instret > r + 100);
    let n = m.count(0);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(m.count(0), n);
    m.set.pause();
    m.set.fence_i(HartMask::All);
    m.set.resume();
}

#[test]
fn reset_stops_harts_and_forgets_interrupts() {
    let m = Machine::new(2);
    m.counting();
    m.set.start_hart(0, RAM, 0, 0, Mode::S).unwrap();
    m.set.resume();
    m.wait("counts", || m.count(0) > 10);
    m.set.pins(0).set(9, true);
    m.set.reset();
    assert_eq!(m.set.hart_state(0), Some(HartState::Stopped));
    assert_eq!(m.set.registers(0).unwrap().mip, 0);
    let n = m.count(0);
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(m.count(0), n);
    m.set.start_hart(0, RAM, 0, 0, Mode::S).unwrap();
    m.wait("counts again", || m.count(0) > n + 10);
    m.set.shutdown();
    m.set.shutdown();
}

#[test]
fn without_built_in_firmware_harts_start_at_the_reset_vector() {
    let space = AddressSpace::new("system");
    let ram = Memory::ram("ram", 1 << 20).unwrap();
    space.map_ram(RAM, ram, 0, 1 << 20, false, 0, "ram").unwrap();
    // csrr a0, mhartid; slli s0, a0, 3; then as `counting`.
    for (n, w) in [0xf140_2573u32, 0x0035_1413, 0x8000_82b7, 0x0202_9293, 0x0202_d293, 0x0054_0433]
        .iter()
        .chain(&COUNT)
        .enumerate()
    {
        space.write(RAM + 4 * n as u64, &w.to_le_bytes()).unwrap();
    }
    let clock = Arc::new(CpuClock::new());
    let config = |id| HartConfig {
        id,
        ext: Ext::ALL,
        sbi: None,
        reset_pc: RAM,
        mem: space.clone(),
        clock: clock.clone(),
        engine: None,
    };
    let set = CpuSet::new(vec![config(0), config(1)]).unwrap();
    set.resume();
    let seen = AtomicU64::new(0);
    let end = Instant::now() + Duration::from_secs(10);
    while seen.load(Ordering::Relaxed) != 3 && Instant::now() < end {
        for h in 0..2 {
            if space.load(COUNTER + 8 * h, mem::Size::B8).unwrap() > 0 {
                seen.fetch_or(1 << h, Ordering::Relaxed);
            }
        }
    }
    assert_eq!(seen.load(Ordering::Relaxed), 3);
    assert_eq!(set.registers(1).unwrap().mode, Mode::M);
    assert_eq!(set.start_hart(0, RAM, 0, 0, Mode::M), Err(StartError::AlreadyStarted));
}
