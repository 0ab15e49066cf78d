//! Random instruction sequences.
//!
//! An image is a list of blocks. A block loads every register with a value of the generator's choice (edge
//! cases as often as noise), runs some fifty random instructions, and writes out all registers and the data
//! it may have stored to. The trap handler writes out cause, value and address, and skips the instruction.
//!
//! Registers that instructions leave alone: `x2` and `x8` point into the data, `x6` to an aligned place in it
//! (for atomics); `x3`, `x4`, `x5` are the frame's.

use crate::bench::{FINISHER, RAM, TempDir, UART, run_here, run_there};
use isa_riscv::compressed::{CFormat, TABLE16};
use isa_riscv::decode::decode;
use isa_riscv::encode::{encode, op};
use isa_riscv::insn::{Ext, Format};
use isa_riscv::table::{Op, TABLE};

/// A half or a bfloat16, boxed.
fn half(r: &mut Rng) -> u64 {
    const EDGES: [u16; 12] =
        [0, 0x3c00, 0x7c00, 0x7e00, 0x7c01, 1, 0x03ff, 0x0400, 0x7bff, 0x3f80, 0x7f80, 0x7fc0];
    let sign = (r.next() as u16) & 1 << 15;
    let v = match r.below(4) {
        0 => r.pick(&EDGES) | sign,
        1 => (r.pick(&EDGES) | sign).wrapping_add(r.below(9) as u16).wrapping_sub(4),
        2 => sign | (10 + r.below(12) as u16) << 10 | (r.next() as u16) >> 6,
        _ => r.next() as u16,
    };
    !0xffff | u64::from(v)
}

/// xorshift64*.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
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

const DATA_BYTES: u64 = 256;

/// A block of the image, as far as it is needed to explain a difference.
struct Block {
    code: Vec<u32>,
}

struct Image {
    bytes: Vec<u8>,
    blocks: Vec<Block>,
}

fn word(out: &mut Vec<u8>, w: u32) {
    out.extend_from_slice(&w.to_le_bytes());
}

/// `rd` = `v`, for addresses in the low 4 GiB.
fn li32(out: &mut Vec<u8>, rd: u32, v: u64) {
    let high = (v as u32).wrapping_add(0x800) & 0xffff_f000;
    word(out, op("lui", rd, 0, 0, high as i32));
    word(out, op("addiw", rd, rd, 0, (v as u32).wrapping_sub(high) as i32));
    word(out, op("slli", rd, rd, 0, 32));
    word(out, op("srli", rd, rd, 0, 32));
}

/// Sends byte after byte of the eight in `x4`, through `x3`; `x5` is clobbered.
fn send8(out: &mut Vec<u8>) {
    li32(out, 3, UART);
    for _ in 0..8 {
        word(out, op("lbu", 5, 3, 0, 5));
        word(out, op("andi", 5, 5, 0, 0x20));
        word(out, op("beq", 0, 5, 0, -8));
        word(out, op("sb", 0, 3, 4, 0));
        word(out, op("srli", 4, 4, 0, 8));
    }
}

/// Values that find mistakes.
fn value(r: &mut Rng) -> u64 {
    const EDGES: [u64; 14] = [
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
        32,
        63,
        64,
        0x0102_0408_1020_4080,
    ];
    match r.below(4) {
        0 => r.pick(&EDGES),
        1 => r.pick(&EDGES).wrapping_add(r.below(5)).wrapping_sub(2),
        2 => r.next() >> r.below(64),
        _ => r.next(),
    }
}

fn double(r: &mut Rng) -> u64 {
    const EDGES: [u64; 12] = [
        0,
        0x3ff0_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0x7ff8_0000_0000_0000,
        0x7ff0_0000_0000_0001, // signalling
        1,                     // subnormal
        0x000f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0x43e0_0000_0000_0000, // 2^63
        0x41e0_0000_0000_0000, // 2^31
        0x3fe0_0000_0000_0000,
    ];
    let sign = r.next() & 1 << 63;
    match r.below(4) {
        0 => r.pick(&EDGES) | sign,
        1 => (r.pick(&EDGES) | sign).wrapping_add(r.below(9)).wrapping_sub(4),
        // Exponents near each other, so that sums cancel and conversions are in range.
        2 => sign | (1023 - 4 + r.below(70)) << 52 | r.next() >> 12 & !(u64::MAX >> r.below(64) >> 12),
        _ => r.next(),
    }
}

fn single(r: &mut Rng) -> u64 {
    const EDGES: [u32; 12] = [
        0,
        0x3f80_0000,
        0x7f80_0000,
        0x7fc0_0000,
        0x7f80_0001,
        1,
        0x007f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0x5f00_0000,
        0x4f00_0000,
        0x3f00_0000,
    ];
    let sign = (r.next() as u32) & 1 << 31;
    let v = match r.below(4) {
        0 => r.pick(&EDGES) | sign,
        1 => (r.pick(&EDGES) | sign).wrapping_add(r.below(9) as u32).wrapping_sub(4),
        2 => sign | (127 - 4 + r.below(70) as u32) << 23 | (r.next() as u32) >> 9,
        _ => r.next() as u32,
    };
    0xffff_ffff_0000_0000 | u64::from(v)
}

fn free_register(r: &mut Rng) -> u32 {
    loop {
        let n = r.below(32) as u32;
        if !matches!(n, 2 | 3 | 4 | 5 | 6 | 8) {
            return n;
        }
    }
}

/// A random instruction that needs no label; `None`: try again.
fn plain(r: &mut Rng) -> Option<u32> {
    let e = &TABLE[r.below(TABLE.len() as u64) as usize];
    let any = |r: &mut Rng| r.below(32) as u32;
    let imm12 = |r: &mut Rng| r.below(4096) as i32 - 2048;
    let place = |r: &mut Rng| r.below(DATA_BYTES - 8) as i32 - DATA_BYTES as i32 / 2;
    if matches!(e.op, Op::Mret | Op::Sret | Op::Wfi | Op::LrW | Op::LrD | Op::Jalr) {
        return None;
    }
    // The other emulator takes what is not boxed for binary16's NaN there, not bfloat16's.
    if e.op == Op::FcvtSBf16 {
        return None;
    }
    let rd = free_register(r);
    Some(match e.format {
        Format::B | Format::J => return None,
        Format::Csr | Format::CsrI => {
            let csr = r.pick(&[0x001, 0x002, 0x003, 0x140, 0x142, 0x143, 0xc80, 0x713, 0x5c0]);
            // `frm` mostly valid, so that dynamic rounding does something.
            let rs1 = if matches!(csr, 2 | 3) && e.format == Format::Csr { 0 } else { any(r) };
            encode(e, rd, rs1, 0, csr)
        }
        Format::Load => encode(e, rd, r.pick(&[2, 8]), 0, place(r)),
        Format::FpLoad => encode(e, any(r), r.pick(&[2, 8]), 0, place(r)),
        Format::S | Format::FpStore => encode(e, 0, r.pick(&[2, 8]), any(r), place(r)),
        Format::Amo if matches!(e.op, Op::ScW | Op::ScD) => encode(e, rd, 6, any(r), 0),
        Format::Amo => encode(e, rd, if r.below(40) == 0 { 2 } else { 6 }, any(r), 0),
        Format::FpR | Format::Fp4 | Format::Fp1 => {
            let rm = r.pick(&[0, 1, 2, 3, 4, 7, 7, 7]);
            encode(e, any(r), any(r), any(r), rm << 8 | any(r) as i32)
        }
        Format::FpToX => encode(e, rd, any(r), 0, r.pick(&[0, 1, 2, 3, 4, 7]) << 8),
        Format::FpFromX => encode(e, any(r), any(r), 0, r.pick(&[0, 1, 2, 3, 4, 7]) << 8),
        Format::FpN | Format::FpFromXn | Format::FpConst => encode(e, any(r), any(r), any(r), 0),
        // Where there is data, and where there is nothing.
        Format::Block => encode(e, 0, r.pick(&[2, 6, 8, 0]), 0, 0),
        Format::U => encode(e, rd, 0, 0, (r.next() as i32) & !0xfff),
        _ => encode(e, rd, any(r), any(r), imm12(r)),
    })
}

/// A random 16-bit instruction that needs no label.
fn short(r: &mut Rng) -> Option<u32> {
    let e = &TABLE16[r.below(TABLE16.len() as u64) as usize];
    let noise = r.next() as u16 & !e.mask;
    let raw = e.bits | noise;
    match e.format {
        CFormat::Cj | CFormat::Cb | CFormat::CrJr | CFormat::CrJalr | CFormat::Ci16sp => return None,
        // Offsets from `sp` beyond the data.
        CFormat::CssW | CFormat::CssD | CFormat::CiLwsp | CFormat::CiLdsp | CFormat::CiFldsp => {}
        _ => {}
    }
    let i = decode(u32::from(raw), Ext::ALL);
    if i.op == Op::Jalr || i.op == Op::Illegal && r.below(8) != 0 {
        return None;
    }
    let memory = matches!(
        e.format,
        CFormat::ClW
            | CFormat::ClD
            | CFormat::CsW
            | CFormat::CsD
            | CFormat::ClB
            | CFormat::ClH
            | CFormat::CsB
            | CFormat::CsH
    );
    if memory && i.rs1() != 8 {
        return None;
    }
    let stack = matches!(
        e.format,
        CFormat::CssW | CFormat::CssD | CFormat::CiLwsp | CFormat::CiLdsp | CFormat::CiFldsp
    );
    if (memory || stack) && i.imm() > DATA_BYTES as i64 / 2 - 8 {
        return None;
    }
    let float = matches!(i.op, Op::Fld | Op::Fsd | Op::Sw | Op::Sd);
    if !float && matches!(i.rd(), 2 | 3 | 4 | 5 | 6 | 8) {
        return None;
    }
    Some(u32::from(raw))
}

fn size(raw: u32) -> u64 {
    if raw & 3 == 3 { 4 } else { 2 }
}

/// About `n` instructions with forward branches over a few of them.
fn body(r: &mut Rng, n: usize) -> Vec<u32> {
    let mut code = Vec::new();
    while code.len() < n {
        match r.below(20) {
            0 => {
                let (lr, sc) = r.pick(&[("lr.w", "sc.w"), ("lr.d", "sc.d")]);
                code.push(op(lr, free_register(r), 6, 0, 0));
                if r.below(2) == 0 {
                    code.push(op("addi", free_register(r), r.below(32) as u32, 0, 5));
                }
                code.push(op(sc, free_register(r), 6, r.below(32) as u32, 0));
            }
            1 => code.push(op("csrrwi", 0, r.pick(&[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]), 0, 2)),
            // Filled in below.
            2 | 3 => code.push(0xffff_ffff),
            4..=7 => code.extend(short(r)),
            8 => code.push(r.pick(&[0, 0x0000_000b, 0xffff_fffb, 0x0205_5053, 0x8002_0033])),
            _ => code.extend(plain(r)),
        }
    }
    for at in 0..code.len() {
        if code[at] != 0xffff_ffff {
            continue;
        }
        let over = r.below(4) as usize;
        let end = (at + 1 + over).min(code.len());
        let off = 4 + code[at + 1..end].iter().map(|&c| size(c)).sum::<u64>() as i32;
        let (a, b) = (r.below(32) as u32, r.below(32) as u32);
        code[at] = match r.below(8) {
            0 => op("jal", free_register(r), 0, 0, off),
            n => {
                let name = ["beq", "bne", "blt", "bge", "bltu", "bgeu", "beq"][n as usize - 1];
                op(name, 0, a, if n == 7 { a } else { b }, off)
            }
        };
    }
    code
}

/// The image of `blocks` blocks made from a seed.
fn image(seed: u64, blocks: usize) -> Image {
    let mut r = Rng(seed | 1);
    let mut out = Vec::new();
    // Jump over the trap handler.
    let handler = RAM + 4;
    word(&mut out, 0);
    for csr in [0x342, 0x343, 0x341] {
        word(&mut out, op("csrrs", 4, 0, 0, csr));
        send8(&mut out);
    }
    word(&mut out, op("csrrs", 3, 0, 0, 0x341));
    word(&mut out, op("lhu", 4, 3, 0, 0));
    word(&mut out, op("andi", 4, 4, 0, 3));
    word(&mut out, op("addi", 5, 0, 0, 3));
    word(&mut out, op("addi", 3, 3, 0, 2));
    word(&mut out, op("bne", 0, 4, 5, 8));
    word(&mut out, op("addi", 3, 3, 0, 2));
    word(&mut out, op("csrrw", 0, 3, 0, 0x341));
    word(&mut out, op("mret", 0, 0, 0, 0));
    // The routine that writes everything out: registers are in the frame at `x3`; returns through `x1`.
    let dump = RAM + out.len() as u64;
    let words = (64 + 1 + DATA_BYTES / 8) as i32;
    li32(&mut out, 11, UART);
    word(&mut out, op("addi", 12, 0, 0, words * 8));
    word(&mut out, op("add", 12, 12, 3, 0));
    word(&mut out, op("lbu", 5, 11, 0, 5));
    word(&mut out, op("andi", 5, 5, 0, 0x20));
    word(&mut out, op("beq", 0, 5, 0, -8));
    word(&mut out, op("lbu", 4, 3, 0, 0));
    word(&mut out, op("sb", 0, 11, 4, 0));
    word(&mut out, op("addi", 3, 3, 0, 1));
    word(&mut out, op("bltu", 0, 3, 12, -24));
    word(&mut out, op("jalr", 0, 1, 0, 0));
    let start = out.len() as i32;
    out[..4].copy_from_slice(&op("jal", 0, 0, 0, start).to_le_bytes());

    li32(&mut out, 3, handler);
    word(&mut out, op("csrrw", 0, 3, 0, 0x305));
    li32(&mut out, 3, 3 << 13);
    word(&mut out, op("csrrs", 0, 3, 0, 0x300));

    // Frames lie far behind the code: x1..x31 (x0's place holds fcsr's), f0..f31, fcsr, data.
    let frames = RAM + (4 << 20);
    let frame_bytes = (words * 8) as u64;
    let mut frame_data = Vec::new();
    let mut list = Vec::new();
    for n in 0..blocks {
        let frame = frames + n as u64 * frame_bytes;
        let data = frame + 65 * 8;
        let mut values: Vec<u64> = (0..32).map(|_| value(&mut r)).collect();
        values[2] = data + DATA_BYTES / 2;
        values[8] = data + DATA_BYTES / 2;
        values[6] = data + 64;
        (values[3], values[4], values[5]) = (0, 0, 0);
        values.extend((0..32).map(|_| if r.below(3) == 0 { single(&mut r) } else { double(&mut r) }));
        values.push(r.below(8) << 5 & 0x60);
        values.extend((0..DATA_BYTES / 8).map(|_| value(&mut r)));
        // Blocks of singles only find more.
        if n % 2 == 1 {
            for v in &mut values[32..64] {
                *v = if r.below(10) == 0 { r.next() } else { single(&mut r) };
            }
        }
        if n % 4 == 2 {
            for v in &mut values[32..64] {
                *v = if r.below(10) == 0 { single(&mut r) } else { half(&mut r) };
            }
        }
        for v in &values {
            frame_data.extend_from_slice(&v.to_le_bytes());
        }
        li32(&mut out, 3, frame);
        word(&mut out, op("ld", 4, 3, 0, 64 * 8));
        word(&mut out, op("csrrw", 0, 4, 0, 3));
        for f in 0..32 {
            word(&mut out, op("fld", f, 3, 0, (32 + f as i32) * 8));
        }
        for x in (1..32).filter(|x| *x != 3) {
            word(&mut out, op("ld", x, 3, 0, x as i32 * 8));
        }
        let code = body(&mut r, 50);
        for &c in &code {
            out.extend_from_slice(&c.to_le_bytes()[..size(c) as usize]);
        }
        if out.len() % 4 != 0 {
            out.extend_from_slice(&1u16.to_le_bytes()); // c.nop
        }
        li32(&mut out, 3, frame);
        for x in (1..32).filter(|x| *x != 3) {
            word(&mut out, op("sd", 0, 3, x, x as i32 * 8));
        }
        for f in 0..32 {
            word(&mut out, op("fsd", 0, 3, f, (32 + f as i32) * 8));
        }
        word(&mut out, op("csrrs", 4, 0, 0, 3));
        word(&mut out, op("sd", 0, 3, 4, 64 * 8));
        word(&mut out, op("sd", 0, 3, 3, 5 * 8));
        word(&mut out, op("sd", 0, 3, 3, 4 * 8));
        let at = RAM + out.len() as u64;
        word(&mut out, op("jal", 1, 0, 0, dump.wrapping_sub(at) as i32));
        list.push(Block { code });
    }
    li32(&mut out, 3, FINISHER);
    li32(&mut out, 4, 0x5555);
    word(&mut out, op("sw", 0, 3, 4, 0));
    word(&mut out, op("jal", 0, 0, 0, 0));
    assert!(out.len() < 1 << 20, "jal reaches the routine");
    out.resize((frames - RAM) as usize, 0);
    out.extend(frame_data);
    Image { bytes: out, blocks: list }
}

fn name(raw: u32) -> String {
    let n = if raw & 3 == 3 {
        isa_riscv::decode::find(raw).map(|e| e.name)
    } else {
        isa_riscv::decode::find16(raw as u16).map(|e| e.name)
    };
    let i = decode(raw, Ext::ALL);
    format!("{raw:08x} {} rd={} rs1={} rs2={} imm={:#x}", n.unwrap_or("?"), i.rd(), i.rs1(), i.rs2(), i.imm())
}

fn compare(seed: u64, blocks: usize) -> bool {
    let img = image(seed, blocks);
    let dir = TempDir::new(&format!("random{seed}"));
    let Some(there) = run_there(&img.bytes, &dir.0) else { return false };
    let here = run_here(&img.bytes);
    if here == there {
        return true;
    }
    // Find the block: dumps are of known length, traps (24 bytes) lie between.
    let frame = (65 * 8 + DATA_BYTES) as usize;
    let at = here.iter().zip(&there).position(|(a, b)| a != b).unwrap_or(here.len().min(there.len()));
    let marks: Vec<usize> = (0..blocks)
        .scan(0, |from, n| {
            // A frame holds its own address in x4's place.
            let addr = RAM + (4 << 20) + n as u64 * frame as u64;
            let pos = here[*from..].windows(8).position(|w| w == addr.to_le_bytes())? + *from;
            *from = pos + frame - 32;
            Some(pos - 32)
        })
        .collect();
    let block = marks.iter().position(|&m| at < m + frame).unwrap_or(0);
    let mut text = format!("seed {seed}, block {block}, byte {at} of {} and {}\n", here.len(), there.len());
    if at >= marks[block] {
        let n = (at - marks[block]) / 8;
        let get = |v: &[u8]| v.get(marks[block] + n * 8..marks[block] + n * 8 + 8).map(<[u8]>::to_vec);
        text += &format!(
            "frame word {n} (x0.., f0.. at 32, fcsr 64, data 65): here {:02x?} there {:02x?}\n",
            get(&here),
            get(&there)
        );
    } else {
        let from = at / 8 * 8;
        text += &format!(
            "in a trap record: here {:02x?} there {:02x?}\n",
            &here[from.saturating_sub(16)..(from + 24).min(here.len())],
            &there[from.saturating_sub(16)..(from + 24).min(there.len())]
        );
    }
    let f = RAM + (4 << 20) + (block * frame) as u64 - RAM;
    let initial = |w: usize| {
        let o = f as usize + w * 8;
        u64::from_le_bytes(img.bytes[o..o + 8].try_into().unwrap())
    };
    for w in 0..65 {
        text += &format!("{w}: {:#018x}{}", initial(w), if w % 4 == 3 { "\n" } else { "  " });
    }
    text += "\n";
    for &c in &img.blocks[block].code {
        text += &name(c);
        text += "\n";
    }
    panic!("{text}");
}

#[test]
fn random_sequences_leave_the_same_state() {
    // Other seeds, to look for more: RHEA_RISCV_SEEDS=1000..1100.
    let seeds = std::env::var("RHEA_RISCV_SEEDS").unwrap_or_else(|_| "1..4".into());
    let (a, b) = seeds.split_once("..").expect("a range");
    for seed in a.parse().unwrap()..b.parse().unwrap() {
        if !compare(seed, 400) {
            return;
        }
    }
}
