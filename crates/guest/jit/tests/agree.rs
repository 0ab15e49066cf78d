//! Native code does what the interpreter does: random code on two harts, one of which translates everything at once.

use isa_riscv::encode::{encode, op};
use isa_riscv::insn::{Ext, Format};
use isa_riscv::table::{Entry, Op, TABLE};
use isa_riscv::{Clock, CpuState, Exit, Hart, HartOptions, HartPins, Mode};
use jit::{Jit, JitOptions};
use mem::{AddressSpace, Memory};
use std::sync::Arc;

const RAM: u64 = 0x8000_0000;
const SIZE: u64 = 1 << 20;
/// Where the code that is tried lies, the trap handler, and the data.
const CODE: u64 = RAM + 0x1000;
const HANDLER: u64 = RAM + 0x8000;
const DATA: u64 = RAM + 0x1_0000;
const DATA_BYTES: usize = 0x3000;

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
}

impl Machine {
    fn new(jit: Option<&Arc<Jit>>) -> Machine {
        let space = AddressSpace::new("system");
        let ram = Memory::ram("ram", SIZE).unwrap();
        space.map_ram(RAM, ram.clone(), 0, SIZE, false, 0, "ram").unwrap();
        let opts = HartOptions { id: 0, ext: Ext::ALL, sbi: false, reset_pc: RAM, vendor: [0; 3] };
        let mut hart = Hart::new(opts, space, Arc::new(HartPins::new()), Arc::new(Still));
        if let Some(jit) = jit {
            hart.set_engine(jit.clone(), 1);
        }
        Machine { hart, ram }
    }

    fn put(&self, at: u64, code: &[u32]) {
        let bytes: Vec<u8> = code.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.ram.write(at - RAM, &bytes);
    }

    /// Runs from `state` until a `wfi`; what then is.
    fn run(&mut self, state: &CpuState) -> (CpuState, Vec<u8>) {
        self.hart.set_state(state);
        assert_eq!(self.hart.run(), Exit::Wfi);
        let mut data = vec![0; DATA_BYTES];
        self.ram.read(DATA - RAM, &mut data);
        (self.hart.state(), data)
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
                let n = r.pick(&[0x001, 0x002, 0x003, 0x340, 0xb02]);
                encode(e, rd, rs1, rs2, n)
            }
            Format::Block => encode(e, 0, if r.below(50) == 0 { rs1 } else { place }, 0, 0),
            Format::Rs => continue,
            Format::None => continue,
            _ => encode(e, rd, rs1, rs2, r.next() as i32 >> 20),
        };
    }
}

/// A program: some rounds of a block, then `wfi`.
fn program(r: &mut Rng, all: &[&'static Entry]) -> Vec<u32> {
    let n = 8 + r.below(56) as usize;
    let mut code: Vec<u32> = (0..n).map(|i| insn(r, all, n - 1 - i)).collect();
    // An atomic wants an aligned place.
    code.insert(0, op("addi", 5, 5, 0, -1));
    let back = -4 * code.len() as i32;
    code.push(op("bne", 0, 5, 0, back));
    code.push(op("wfi", 0, 0, 0, 0));
    code
}

fn start(r: &mut Rng, base: &CpuState) -> CpuState {
    let mut s = base.clone();
    s.pc = CODE;
    s.mode = Mode::M;
    s.mtvec = HANDLER;
    s.mie = 0x80;
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
    let jit = Jit::new(JitOptions { size, threads: 0, ..JitOptions::default() }).unwrap();
    if jit.is_none() {
        println!("skipped: no native code can be made for this host");
    }
    jit
}

/// Runs `rounds` programs of the given instructions on both.
fn compare(jit: &Arc<Jit>, seed: u64, rounds: usize, which: impl Fn(&Entry) -> bool) {
    let all: Vec<&Entry> = TABLE.iter().filter(|e| which(e)).collect();
    let (mut plain, mut fast) = (Machine::new(None), Machine::new(Some(jit)));
    let mut r = Rng(seed);
    let handler = [
        op("csrrw", 31, 31, 0, 0x340),
        op("csrrs", 31, 0, 0, 0x341),
        op("addi", 31, 31, 0, 4),
        op("csrrw", 0, 31, 0, 0x341),
        op("csrrw", 31, 31, 0, 0x340),
        op("mret", 0, 0, 0, 0),
    ];
    let base = plain.hart.state();
    for round in 0..rounds {
        let code = program(&mut r, &all);
        let state = start(&mut r, &base);
        let noise: Vec<u8> = (0..DATA_BYTES).map(|_| r.next() as u8).collect();
        for m in [&mut plain, &mut fast] {
            m.put(HANDLER, &handler);
            m.put(CODE, &code);
            m.ram.write(DATA - RAM, &noise);
            m.hart.fence_i();
        }
        let (want, have) = (plain.run(&state), fast.run(&state));
        if want != have {
            let names: Vec<String> = code
                .iter()
                .map(|w| {
                    let e = isa_riscv::decode::find(*w).map_or("?", |e| e.name);
                    format!("{w:08x} {e} {:?}", isa_riscv::decode::decode(*w, Ext::ALL))
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
            if want.1 != have.1 {
                wrong.push("data".into());
            }
            panic!("seed {seed}, round {round}: {}\n{}\nfrom {state:x?}", wrong.join("; "), names.join("\n"));
        }
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
fn floats() {
    let Some(jit) = translator(64 << 20) else { return };
    compare(&jit, seed(12), rounds(), |e| {
        e.format.is_float() || matches!(e.op, Op::Addi | Op::Csrrw | Op::Csrrs)
    });
}

#[test]
fn everything() {
    let Some(jit) = translator(64 << 20) else { return };
    compare(&jit, seed(13), rounds(), |_| true);
}

#[test]
fn room_that_ends_again_and_again() {
    let Some(jit) = translator(64 << 10) else { return };
    compare(&jit, seed(14), rounds() / 3, |e| !e.format.is_float());
    let info = jit.info();
    assert!(info.flushes > 2 && info.used <= info.size, "{info:?}");
}
