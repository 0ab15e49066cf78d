//! Native code does what the interpreter does: random code on two harts, one of which translates everything at once.

use isa_riscv::decode::decode;
use isa_riscv::encode::{encode, op};
use isa_riscv::insn::{Ext, Format};
use isa_riscv::table::{Entry, Op, TABLE};
use isa_riscv::{Clock, CpuState, Exit, Hart, HartOptions, HartPins, Mode, Register};
use jit::{Jit, JitOptions};
use mem::{AddressSpace, Memory};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const RAM: u64 = 0x8000_0000;
const SIZE: u64 = 1 << 20;
/// Where the code that is tried lies, the trap handler, and the data.
const CODE: u64 = RAM + 0x1000;
const HANDLER: u64 = RAM + 0x8000;
const DATA: u64 = RAM + 0x1_0000;
const DATA_BYTES: usize = 0x3000;
/// Where the trap handler keeps registers, and page tables that map memory onto itself.
const SAVED: u64 = RAM + 0x9000;
const ROOT: u64 = RAM + 0xa000;
const LEAF: u64 = RAM + 0xc000;
const SV39: u64 = 8 << 60;
const SSI: u32 = 1;

struct Still;

impl Clock for Still {
    fn ticks(&self) -> u64 {
        0
    }
}

/// xorshift64*.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A bare hart with its memory.
struct Machine {
    hart: Hart,
    ram: Arc<Memory>,
    pins: Arc<HartPins>,
}

impl Machine {
    fn new(jit: Option<&Arc<Jit>>) -> Machine {
        let space = AddressSpace::new("system");
        let ram = Memory::ram("ram", SIZE).unwrap();
        space.map_ram(RAM, ram.clone(), 0, SIZE, false, 0, "ram").unwrap();
        let opts = HartOptions { id: 0, ext: Ext::ALL, sbi: false, reset_pc: RAM, vendor: [0; 3] };
        let pins = Arc::new(HartPins::new());
        let mut hart = Hart::new(opts, space, pins.clone(), Arc::new(Still));
        // All memory is open to supervisor mode.
        assert!(hart.set_register(Register::Csr(0x3b0), u64::MAX >> 10));
        assert!(hart.set_register(Register::Csr(0x3a0), 0x1f));
        if let Some(jit) = jit {
            hart.set_engine(jit.clone(), 1);
        }
        Machine { hart, ram, pins }
    }

    fn put(&self, at: u64, code: &[u32]) {
        let bytes: Vec<u8> = code.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.ram.write(at - RAM, &bytes);
    }

    fn has(&self, at: u64, code: &[u32]) -> bool {
        let mut bytes = vec![0; 4 * code.len()];
        self.ram.read(at - RAM, &mut bytes);
        bytes.chunks(4).zip(code).all(|(b, w)| b == w.to_le_bytes())
    }

    /// Runs from `state` until a `wfi`; what then is: registers, data, and the page table.
    fn run(&mut self, state: &CpuState) -> (CpuState, Vec<u8>, Vec<u8>) {
        self.hart.set_state(state);
        loop {
            match self.hart.run() {
                Exit::Wfi => break,
                Exit::Attention => drop(self.pins.flag().take()),
                other => panic!("{other:?}"),
            }
        }
        let (mut data, mut table) = (vec![0; DATA_BYTES], vec![0; 4096]);
        self.ram.read(DATA - RAM, &mut data);
        self.ram.read(LEAF - RAM, &mut table);
        (self.hart.state(), data, table)
    }

    /// The same while interrupts come at any time, if they are to.
    fn run_disturbed(&mut self, state: &CpuState, disturbed: bool) -> (CpuState, Vec<u8>, Vec<u8>) {
        if !disturbed {
            return self.run(state);
        }
        let (pins, over) = (self.pins.clone(), AtomicBool::new(false));
        let got = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    pins.set(SSI, true);
                    std::thread::sleep(Duration::from_micros(20));
                }
            });
            let got = self.run(state);
            over.store(true, Ordering::Relaxed);
            got
        });
        self.pins.set(SSI, false);
        self.pins.flag().take();
        got
    }

    /// Maps memory onto itself; the pages of the data with these flags.
    fn map(&self, flags: [u64; 3]) {
        let entry = |pa: u64, flags: u64| (pa >> 12 << 10 | flags).to_le_bytes();
        self.ram.write(ROOT - RAM + 8 * (RAM >> 30), &entry(ROOT + 0x1000, 1));
        self.ram.write(ROOT + 0x1000 - RAM, &entry(LEAF, 1));
        for page in 0..SIZE >> 12 {
            let of_data = page.checked_sub((DATA - RAM) >> 12).and_then(|n| flags.get(n as usize));
            // Code may be run, and nothing else.
            let flags = of_data.copied().unwrap_or(if page == (CODE - RAM) >> 12 { 0x49 } else { 0 });
            self.ram.write(LEAF - RAM + 8 * page, &entry(RAM + (page << 12), flags));
        }
    }
}

fn value(r: &mut Rng) -> u64 {
    const EDGES: [u64; 12] = [
        0,
        1,
        u64::MAX,
        1 << 63,
        (1 << 63) - 1,
        0x8000_0000,
        0x7fff_ffff,
        0xffff_ffff,
        0xffff_ffff_8000_0000,
        31,
        63,
        0x0102_0408_1020_4080,
    ];
    match r.below(4) {
        0 => r.pick(&EDGES),
        1 => r.pick(&EDGES).wrapping_add(r.below(5)).wrapping_sub(2),
        2 => r.next() >> r.below(64),
        _ => r.next(),
    }
}

/// The bits of an `f` register: doubles and boxed singles, ordinary and odd.
fn float(r: &mut Rng) -> u64 {
    const DOUBLES: [f64; 12] = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE,
        f64::MAX,
        2147483647.5,
        -2147483648.9,
        4294967295.5,
        9.3e18,
    ];
    const SINGLES: [f32; 10] =
        [0.0, -0.0, 1.0, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 2147483648.0, -0.5, 16777217.0, -3e9];
    const BOXED: u64 = 0xffff_ffff << 32;
    match r.below(8) {
        0 => r.pick(&DOUBLES).to_bits(),
        1 => BOXED | u64::from(r.pick(&SINGLES).to_bits()),
        2 => r.pick(&[
            0x7ff8 << 48,
            0x7ff0_0000_0000_0001,
            0xfff8_0000_0000_1234,
            BOXED | 0x7fc0_0000,
            BOXED | 0x7f80_0001,
        ]),
        3 if r.below(2) == 0 => !0xffff | r.next() >> 48,
        3 => BOXED | r.next() >> 32,
        4 => r.next(),
        5 => (r.below(1 << 20) as f64 / 64.0 - 4096.0).to_bits(),
        6 => BOXED | u64::from((r.below(1 << 16) as f32 / 16.0 - 999.0).to_bits()),
        _ => 1 << r.below(64),
    }
}

/// Registers that keep their meaning: `x2`, `x8` and `x9` point into the data, `x5` counts rounds.
const KEPT: [u32; 5] = [0, 2, 5, 8, 9];

fn target(r: &mut Rng) -> u32 {
    loop {
        let n = r.below(32) as u32;
        if n == 0 || !KEPT.contains(&n) {
            return n;
        }
    }
}

/// A random instruction that goes nowhere else; `left` instructions follow it in its block.
fn insn(r: &mut Rng, all: &[&'static Entry], left: usize) -> u32 {
    loop {
        let e = r.pick(all);
        let (rd, rs1, rs2) = (target(r), r.below(32) as u32, r.below(32) as u32);
        let place = r.pick(&[2, 8, 9]);
        let offset = r.below(0x600) as i32 - 0x300;
        return match e.format {
            Format::Load if e.op == Op::Jalr => continue,
            Format::Load | Format::FpLoad | Format::S | Format::FpStore if r.below(50) == 0 => {
                // Anywhere, which mostly traps.
                encode(e, rd, rs1, rs2, offset)
            }
            Format::Load | Format::FpLoad | Format::S | Format::FpStore => {
                let size = if r.below(4) == 0 { 1 } else { 8 };
                encode(e, rd, place, rs2, offset / size * size)
            }
            Format::Amo | Format::Lr => encode(e, rd, place, rs2, 0),
            Format::B => encode(e, 0, rs1, rs2, 4 * (1 + r.below(left as u64 + 1).min(8) as i32)),
            Format::J => encode(e, rd, 0, 0, 4 * (1 + r.below(left as u64 + 1).min(8) as i32)),
            Format::U => encode(e, rd, 0, 0, (r.next() as i32) & !0xfff),
            Format::FpR | Format::Fp1 | Format::FpToX | Format::FpFromX | Format::Fp4 => {
                let rm = r.pick(&[7, 7, 7, 0, 1, 2, 3, 4]);
                encode(e, rd, rs1, rs2, rm << 8 | r.below(32) as i32)
            }
            Format::Csr | Format::CsrI => {
                let n = r.pick(&[0x001, 0x002, 0x003, 0x140, 0xb02]);
                encode(e, rd, rs1, rs2, n)
            }
            Format::Block => encode(e, 0, if r.below(50) == 0 { rs1 } else { place }, 0, 0),
            Format::Rs => continue,
            Format::None => continue,
            _ => encode(e, rd, rs1, rs2, r.next() as i32 >> 20),
        };
    }
}

/// A random 16-bit instruction that goes nowhere else and does what one of `all` does.
fn short(r: &mut Rng, all: &[&'static Entry]) -> u32 {
    loop {
        let raw = r.next() as u32 & 0xffff;
        let i = decode(raw, Ext::ALL);
        let memory = TABLE
            .iter()
            .find(|e| e.op == i.op)
            .map(|e| e.format)
            .is_some_and(|f| matches!(f, Format::Load | Format::FpLoad | Format::S | Format::FpStore));
        let goes = matches!(i.op, Op::Jal | Op::Jalr | Op::Beq | Op::Bne | Op::Ebreak | Op::Illegal);
        let float_target = matches!(i.op, Op::Fld | Op::Flw);
        let keeps = float_target || i.rd() == 0 || !KEPT.contains(&(i.rd() as u32));
        let place = !memory || [2, 8, 9].contains(&i.rs1()) || r.below(50) == 0;
        if raw & 3 != 3 && !goes && keeps && place && all.iter().any(|e| e.op == i.op) {
            return raw;
        }
    }
}

/// A program: some rounds of a block, then `wfi`.
fn program(r: &mut Rng, all: &[&'static Entry]) -> Vec<u32> {
    let n = 8 + r.below(56) as usize;
    let word = |r: &mut Rng, left: usize| {
        // Short ones come in twos, so that branches find the beginning of an instruction.
        if r.below(4) == 0 { short(r, all) | short(r, all) << 16 } else { insn(r, all, left) }
    };
    let mut code: Vec<u32> = (0..n).map(|i| word(r, n - 1 - i)).collect();
    // An atomic wants an aligned place.
    code.insert(0, op("addi", 5, 5, 0, -1));
    let back = -4 * code.len() as i32;
    code.push(op("bne", 0, 5, 0, back));
    code.push(op("wfi", 0, 0, 0, 0));
    // An interrupt may end that.
    code.push(op("jal", 0, 0, 0, -4));
    code
}

fn start(r: &mut Rng, base: &CpuState) -> CpuState {
    let mut s = base.clone();
    s.pc = CODE;
    s.mode = Mode::M;
    s.mtvec = HANDLER;
    s.mie = 0x80;
    s.mscratch = SAVED;
    s.mstatus = 3 << 13;
    s.fcsr = r.pick(&[0, 0, 0x20, 0x40, 0x60, 0x80, 0xe0]) | r.below(32);
    for n in 1..32 {
        s.x[n] = value(r);
        s.f[n] = float(r);
    }
    s.f[0] = float(r);
    for (n, at) in [(2, 0x800), (8, 0x1000), (9, 0x1ff0)] {
        s.x[n] = DATA + at;
    }
    s.x[5] = 4 + r.below(4);
    (s.cycle, s.instret) = (0, 0);
    s
}

/// A translator with room for `size` bytes, which translates at once; `None`, having said why, if there can be none.
fn translator(size: usize) -> Option<Arc<Jit>> {
    translator_of(size, true)
}

/// The same, without the quick translator if not `quick`.
fn translator_of(size: usize, quick: bool) -> Option<Arc<Jit>> {
    let jit = Jit::new(JitOptions { size, threads: 0, quick, patience: 1, ..JitOptions::default() }).unwrap();
    if jit.is_none() {
        println!("skipped: no native code can be made for this host");
    }
    jit
}

/// What handles traps: goes on behind the instruction, or takes the interrupt back.
fn handler() -> Vec<u32> {
    vec![
        op("csrrw", 31, 31, 0, 0x340),
        op("sd", 0, 31, 30, 0),
        op("sd", 0, 31, 29, 8),
        op("csrrs", 30, 0, 0, 0x342),
        op("bge", 0, 30, 0, 24),
        op("csrrci", 0, 1 << SSI, 0, 0x344),
        op("ld", 30, 31, 0, 16),
        op("addi", 30, 30, 0, 1),
        op("sd", 0, 31, 30, 16),
        op("jal", 0, 0, 0, 40),
        op("csrrs", 30, 0, 0, 0x341),
        // The length of the instruction is in its lowest bits.
        op("lhu", 29, 30, 0, 0),
        op("andi", 29, 29, 0, 3),
        op("addi", 29, 29, 0, -3),
        op("sltiu", 29, 29, 0, 1),
        op("slli", 29, 29, 0, 1),
        op("addi", 29, 29, 0, 2),
        op("add", 30, 30, 29, 0),
        op("csrrw", 0, 30, 0, 0x341),
        op("ld", 29, 31, 0, 8),
        op("ld", 30, 31, 0, 0),
        op("csrrw", 31, 31, 0, 0x340),
        op("mret", 0, 0, 0, 0),
    ]
}

/// Runs `rounds` programs of the given instructions on both.
fn compare(jit: &Arc<Jit>, seed: u64, rounds: usize, which: impl Fn(&Entry) -> bool) {
    compare_in(jit, seed, rounds, which, false);
}

/// The same; if `disturbed`, in supervisor mode with paging and with interrupts at any time.
fn compare_in(jit: &Arc<Jit>, seed: u64, rounds: usize, which: impl Fn(&Entry) -> bool, disturbed: bool) {
    let all: Vec<&Entry> = TABLE.iter().filter(|e| which(e)).collect();
    let (mut plain, mut fast) = (Machine::new(None), Machine::new(Some(jit)));
    let mut r = Rng(seed);
    let handler = handler();
    let base = plain.hart.state();
    [&plain, &fast].iter().for_each(|m| m.ram.write(SAVED - RAM, &[0; 24]));
    for round in 0..rounds {
        let code = program(&mut r, &all);
        let mut state = start(&mut r, &base);
        if disturbed {
            // Valid, readable, writable, accessed, dirty; and what faults: nothing, not writable, of user mode, reserved.
            let flags = [0; 3].map(|_| r.pick(&[0xc7, 0xc7, 0xc7, 0x07, 0x47, 0x43, 0x03, 0xd7, 0x05, 0]));
            [&plain, &fast].iter().for_each(|m| m.map(flags));
            (state.mode, state.satp) = (Mode::S, SV39 | ROOT >> 12);
            state.mie |= 1 << SSI;
            state.x[5] = 200 + r.below(2000);
        }
        let noise: Vec<u8> = (0..DATA_BYTES).map(|_| r.next() as u8).collect();
        for m in [&mut plain, &mut fast] {
            m.put(HANDLER, &handler);
            m.put(CODE, &code);
            m.ram.write(DATA - RAM, &noise);
            m.hart.fence_i();
        }
        let mut want = plain.run_disturbed(&state, disturbed);
        if !plain.has(CODE, &code) {
            // It changed itself, without telling; then nobody says what is run.
            continue;
        }
        let mut have = fast.run_disturbed(&state, disturbed);
        if disturbed {
            // When interrupts came is not the program's.
            for s in [&mut want.0, &mut have.0] {
                (s.cycle, s.instret, s.mepc, s.mcause, s.mtval, s.mip) = (0, 0, 0, 0, 0, 0);
                s.mstatus &= !(3 << 11 | 1 << 7);
            }
        }
        if want != have {
            let names: Vec<String> = code
                .iter()
                .map(|w| {
                    let e = isa_riscv::decode::find(*w).map_or("?", |e| e.name);
                    format!("{w:08x} {e} {:?}", decode(*w, Ext::ALL))
                })
                .collect();
            let mut wrong = Vec::new();
            for n in 0..32 {
                if want.0.x[n] != have.0.x[n] {
                    wrong.push(format!("x{n}: {:x}, not {:x}", have.0.x[n], want.0.x[n]));
                }
                if want.0.f[n] != have.0.f[n] {
                    wrong.push(format!("f{n}: {:x}, not {:x}", have.0.f[n], want.0.f[n]));
                }
            }
            let (mut a, mut b) = (want.0.clone(), have.0.clone());
            (a.x, a.f, b.x, b.f) = ([0; 32], [0; 32], [0; 32], [0; 32]);
            if a != b {
                wrong.push(format!("{b:x?}\nnot {a:x?}"));
            }
            for (what, same) in [("data", want.1 == have.1), ("page table", want.2 == have.2)] {
                if !same {
                    wrong.push(what.into());
                }
            }
            panic!("seed {seed}, round {round}: {}\n{}\nfrom {state:x?}", wrong.join("; "), names.join("\n"));
        }
    }
    for m in [&plain, &fast].iter().filter(|_| disturbed) {
        let mut interrupts = [0; 8];
        m.ram.read(SAVED - RAM + 16, &mut interrupts);
        assert!(u64::from_le_bytes(interrupts) as usize > rounds, "interrupts came");
    }
    assert!(jit.info().regions as usize >= rounds / 2, "{:?}", jit.info());
}

fn rounds() -> usize {
    std::env::var("RHEA_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

fn seed(n: u64) -> u64 {
    std::env::var("RHEA_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(n)
}

#[test]
fn integers() {
    let Some(jit) = translator(64 << 20) else { return };
    compare(&jit, seed(11), rounds(), |e| !e.format.is_float());
}

#[test]
fn integers_by_the_optimizing_translator() {
    let Some(jit) = translator_of(64 << 20, false) else { return };
    compare(&jit, seed(16), rounds() / 3, |e| !e.format.is_float());
}

#[test]
fn floats() {
    let Some(jit) = translator(64 << 20) else { return };
    compare(&jit, seed(12), rounds(), |e| {
        e.format.is_float() || matches!(e.op, Op::Addi | Op::Csrrw | Op::Csrrs)
    });
}

#[test]
fn floats_by_the_optimizing_translator() {
    let Some(jit) = translator_of(64 << 20, false) else { return };
    compare(&jit, seed(17), rounds() / 3, |e| e.format.is_float() || matches!(e.op, Op::Csrrw | Op::Csrrs));
}

#[test]
fn everything() {
    let Some(jit) = translator(64 << 20) else { return };
    compare(&jit, seed(13), rounds(), |_| true);
}

#[test]
fn interrupts_and_page_faults_between_instructions() {
    let Some(jit) = translator(64 << 20) else { return };
    // A reservation does not outlive a trap, whenever that comes.
    let which = |e: &Entry| !matches!(e.op, Op::LrW | Op::LrD | Op::ScW | Op::ScD);
    compare_in(&jit, seed(15), rounds() / 6, which, true);
}

#[test]
fn room_that_ends_again_and_again() {
    let Some(jit) = translator(32 << 10) else { return };
    compare(&jit, seed(14), rounds() / 3, |e| !e.format.is_float());
    let info = jit.info();
    assert!(info.flushes > 2 && info.used <= info.size, "{info:?}");
}
