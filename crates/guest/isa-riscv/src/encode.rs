//! From operands to bits, by the decoder's table: for tests and tools.

use crate::insn::Format;
use crate::table::{Entry, TABLE};

/// The row of an instruction by its name.
///
/// # Panics
/// If there is none.
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
            Format::R1 | Format::Lr | Format::FpToXn | Format::FpFromXn | Format::FpConst => rd_ | rs1_,
            Format::Block => rs1_,
            Format::Round => rd_ | rs1_ | (i & 15) << 20,
            Format::Byte => rd_ | rs1_ | rs2_ | (i & 3) << 30,
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
///
/// # Panics
/// If there is no such instruction.
pub fn op(name: &str, rd: u32, rs1: u32, rs2: u32, imm: i32) -> u32 {
    encode(entry(name), rd, rs1, rs2, imm)
}
