//! An assembler of one instruction at a time, from the decoder's table.

use isa_riscv::insn::Format;
use isa_riscv::table::{Entry, TABLE};

pub fn entry(name: &str) -> &'static Entry {
    TABLE.iter().find(|e| e.name == name).unwrap_or_else(|| panic!("no instruction {name}"))
}

/// Encodes an instruction; operands that its format lacks are ignored. `rs3` and `rm` go into `imm` as in a
/// decoded instruction (`rm << 8 | rs3`); a CSR number is the `imm`, and `rs1` the immediate of `csrr?i`.
pub fn encode(e: &Entry, rd: u32, rs1: u32, rs2: u32, imm: i32) -> u32 {
    let i = imm as u32;
    let (rd_, rs1_, rs2_) = (rd << 7, rs1 << 15, rs2 << 20);
    let rm = (i >> 8 & 7) << 12;
    e.bits
        | match e.format {
            Format::None => 0,
            Format::R | Format::Amo | Format::FpN | Format::FpCmp => rd_ | rs1_ | rs2_,
            Format::R1 | Format::Lr | Format::FpToXn | Format::FpFromXn => rd_ | rs1_,
            Format::I | Format::Load | Format::FpLoad | Format::Csr | Format::CsrI | Format::Fence => {
                rd_ | rs1_ | i << 20
            }
            Format::Shift6 => rd_ | rs1_ | (i & 63) << 20,
            Format::Shift5 => rd_ | rs1_ | (i & 31) << 20,
            Format::S | Format::FpStore => rs1_ | rs2_ | (i >> 5 & 127) << 25 | (i & 31) << 7,
            Format::B => {
                rs1_ | rs2_
                    | (i >> 12 & 1) << 31
                    | (i >> 5 & 63) << 25
                    | (i >> 1 & 15) << 8
                    | (i >> 11 & 1) << 7
            }
            Format::U => rd_ | i & 0xffff_f000,
            Format::J => {
                rd_ | (i >> 20 & 1) << 31 | (i >> 1 & 0x3ff) << 21 | (i >> 11 & 1) << 20 | i & 0xff000
            }
            Format::Rs => rs1_ | rs2_,
            Format::FpR => rd_ | rs1_ | rs2_ | rm,
            Format::Fp4 => rd_ | rs1_ | rs2_ | rm | (i & 31) << 27,
            Format::Fp1 | Format::FpToX | Format::FpFromX => rd_ | rs1_ | rm,
        }
}

/// Encodes by name.
pub fn op(name: &str, rd: u32, rs1: u32, rs2: u32, imm: i32) -> u32 {
    encode(entry(name), rd, rs1, rs2, imm)
}

#[test]
fn what_is_encoded_decodes_to_itself() {
    for e in TABLE {
        for (rd, rs1, rs2) in [(1, 2, 3), (31, 30, 29), (0, 17, 0)] {
            for imm in [0, 4, -4, 2046, -2048, 0x7a5 & !1] {
                let imm = match e.format {
                    Format::U => imm << 12,
                    Format::B | Format::J => imm & !1,
                    Format::Shift6 => imm & 63,
                    Format::Shift5 => imm & 31,
                    Format::Csr | Format::CsrI | Format::Fence => imm & 0xfff,
                    Format::Fp4 => (imm & 31) | 0x700,
                    f if f.has_rm() => 0x300,
                    Format::I | Format::Load | Format::FpLoad | Format::S | Format::FpStore => imm,
                    _ => 0,
                };
                let raw = encode(e, rd, rs1, rs2, imm);
                let i = isa_riscv::decode::decode(raw, isa_riscv::Ext::ALL);
                assert_eq!((i.op, i.len()), (e.op, 4), "{} {raw:#010x}", e.name);
                assert_eq!(i.imm(), imm as i64, "{} {raw:#010x}", e.name);
                if !matches!(e.format, Format::None | Format::S | Format::FpStore | Format::B | Format::Rs) {
                    assert_eq!(i.rd(), rd as usize, "{}", e.name);
                }
                if !matches!(e.format, Format::None | Format::U | Format::J) {
                    assert_eq!(i.rs1(), rs1 as usize, "{}", e.name);
                }
                if matches!(
                    e.format,
                    Format::R | Format::S | Format::B | Format::Amo | Format::FpR | Format::Fp4
                ) {
                    assert_eq!(i.rs2(), rs2 as usize, "{}", e.name);
                }
            }
        }
    }
}

#[test]
fn no_encoding_has_two_meanings() {
    for (n, a) in TABLE.iter().enumerate() {
        assert_eq!(a.bits & !a.mask, 0, "{}", a.name);
        for b in &TABLE[n + 1..] {
            assert_ne!(a.bits & b.mask & a.mask, b.bits & a.mask & b.mask, "{} and {}", a.name, b.name);
        }
    }
}
