//! From bits to [`Insn`].

use crate::compressed::{CEntry, TABLE16, expand};
use crate::insn::{Ext, Format, Insn};
use crate::table::{Entry, Op, TABLE};
use std::sync::LazyLock;

/// Rows of [`TABLE`] by bits 6:2 of the instruction.
static MAJOR: LazyLock<[Vec<&'static Entry>; 32]> = LazyLock::new(|| {
    let mut v: [Vec<&'static Entry>; 32] = Default::default();
    for e in TABLE {
        v[(e.bits >> 2) as usize & 31].push(e);
    }
    v
});

/// Rows of [`TABLE16`] by quadrant and bits 15:13.
static MAJOR16: LazyLock<[Vec<&'static CEntry>; 32]> = LazyLock::new(|| {
    let mut v: [Vec<&'static CEntry>; 32] = Default::default();
    for e in TABLE16 {
        // A row that does not fix all of funct3 stands in each bucket that it reaches.
        for funct3 in 0..8u16 {
            if (funct3 << 13) & e.mask == e.bits & 0xe000 {
                v[((e.bits & 3) << 3 | funct3) as usize].push(e);
            }
        }
    }
    v
});

/// The row of a 32-bit instruction, whatever extensions there are.
pub fn find(raw: u32) -> Option<&'static Entry> {
    MAJOR[(raw >> 2) as usize & 31].iter().copied().find(|e| raw & e.mask == e.bits)
}

/// The row of a 16-bit instruction.
pub fn find16(raw: u16) -> Option<&'static CEntry> {
    let bucket = (raw & 3) << 3 | raw >> 13;
    MAJOR16[bucket as usize].iter().copied().find(|e| raw & e.mask == e.bits)
}

/// Decodes an instruction; `raw` has its first halfword in the low bits. What is no instruction of a hart
/// with extensions `ext` gives [`Op::Illegal`].
pub fn decode(raw: u32, ext: Ext) -> Insn {
    if raw & 3 != 3 {
        return decode16(raw as u16, ext);
    }
    let illegal = Insn::new(Op::Illegal, 0, 0, 0, raw as i32, false);
    // One word is two instructions: `zext.h`, and `packw` of `x0`.
    let mut rows = MAJOR[(raw >> 2) as usize & 31].iter().filter(|e| raw & e.mask == e.bits);
    let Some(e) = rows.find(|e| ext.has(e.needs())) else { return illegal };
    let (rd, rs1, rs2) = ((raw >> 7) & 31, (raw >> 15) & 31, (raw >> 20) & 31);
    let rm = (raw >> 12) & 7;
    if e.format.has_rm() && (rm == 5 || rm == 6) {
        return illegal;
    }
    if e.format == Format::Round && raw >> 20 & 15 > 10 {
        return illegal;
    }
    let signed = raw as i32;
    let imm = match e.format {
        Format::I | Format::Load | Format::FpLoad => signed >> 20,
        Format::Shift6 => (signed >> 20) & 63,
        Format::Shift5 => (signed >> 20) & 31,
        Format::S | Format::FpStore => (signed >> 25) << 5 | rd as i32,
        Format::B => {
            (signed >> 31) << 12
                | ((signed >> 7) & 1) << 11
                | ((signed >> 25) & 63) << 5
                | ((signed >> 8) & 15) << 1
        }
        Format::U => signed & !0xfff,
        Format::J => {
            (signed >> 31) << 20
                | signed & 0xff000
                | ((signed >> 20) & 1) << 11
                | ((signed >> 21) & 0x3ff) << 1
        }
        Format::Csr | Format::CsrI => (signed >> 20) & 0xfff,
        Format::Fence => (signed >> 20) & 0xfff,
        Format::Round => (signed >> 20) & 15,
        Format::Byte => (raw >> 30) as i32,
        Format::FpR | Format::Fp1 | Format::FpToX | Format::FpFromX => (rm << 8) as i32,
        Format::Fp4 => (rm << 8 | raw >> 27) as i32,
        Format::None
        | Format::R
        | Format::R1
        | Format::Rs
        | Format::Amo
        | Format::Lr
        | Format::FpN
        | Format::FpCmp
        | Format::FpToXn
        | Format::FpFromXn
        | Format::FpConst
        | Format::Block => 0,
    };
    Insn::new(e.op, rd, rs1, rs2, imm, false)
}

fn decode16(raw: u16, ext: Ext) -> Insn {
    find16(raw).filter(|e| ext.has(Ext::C.with(e.ext))).and_then(|e| expand(e, raw)).unwrap_or(Insn::new(
        Op::Illegal,
        0,
        0,
        0,
        raw as i32,
        true,
    ))
}
