//! The 16-bit instructions (extension C) and the operations that they abbreviate.

use crate::insn::{Ext, Insn};
use crate::table::Op;

/// How the operands lie in a 16-bit instruction. `rd'`, `rs1'`, `rs2'` are the three-bit register fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CFormat {
    /// `rd', sp, nzuimm[9:2]`.
    Ciw,
    /// `rd', uimm[6:2](rs1')`.
    ClW,
    /// `rd', uimm[7:3](rs1')`.
    ClD,
    /// `rs2', uimm[6:2](rs1')`.
    CsW,
    /// `rs2', uimm[7:3](rs1')`.
    CsD,
    /// `rd, rd, imm[5:0]`.
    CiAddi,
    /// As `CiAddi`, with `rd` not 0.
    CiAddiw,
    /// `rd, x0, imm[5:0]`.
    CiLi,
    /// `sp, sp, nzimm[9:4]`.
    Ci16sp,
    /// `rd, nzimm[17:12]`.
    CiLui,
    /// `rd', rd', shamt[5:0]`.
    CbShift,
    /// `rd', rd', imm[5:0]`.
    CbAndi,
    /// `rd', rd', rs2'`.
    Ca,
    /// `x0, offset`.
    Cj,
    /// `rs1', x0, offset`.
    Cb,
    /// `rd, rd, shamt[5:0]`.
    CiSlli,
    /// `rd, uimm[7:2](sp)` with `rd` not 0.
    CiLwsp,
    /// `rd, uimm[8:3](sp)` with `rd` not 0.
    CiLdsp,
    /// `fd, uimm[8:3](sp)`.
    CiFldsp,
    /// `x0, 0(rs1)` with `rs1` not 0.
    CrJr,
    /// `ra, 0(rs1)` with `rs1` not 0.
    CrJalr,
    /// `rd, x0, rs2`.
    CrMv,
    /// `rd, rd, rs2`.
    CrAdd,
    /// No operands.
    None,
    /// `rs2, uimm[7:2](sp)`.
    CssW,
    /// `rs2, uimm[8:3](sp)`.
    CssD,
    /// `rd', uimm[1:0](rs1')`.
    ClB,
    /// `rd', uimm[1](rs1')`.
    ClH,
    /// `rs2', uimm[1:0](rs1')`.
    CsB,
    /// `rs2', uimm[1](rs1')`.
    CsH,
    /// `rd', rd'`, and an immediate that the operation makes: 255 for `c.zext.b`, -1 for `c.not`.
    Cu,
    /// Operands are ignored.
    Mop,
}

/// A row of the table; of several rows that match, the first counts.
#[derive(Clone, Copy, Debug)]
pub struct CEntry {
    /// The standard's mnemonic.
    pub name: &'static str,
    /// The operation that it abbreviates.
    pub op: Op,
    /// Where the operands lie.
    pub format: CFormat,
    /// Extensions that it needs beside C.
    pub ext: Ext,
    /// The values of the fixed bits.
    pub bits: u16,
    /// Which bits are fixed.
    pub mask: u16,
}

const fn row(name: &'static str, op: Op, format: CFormat, ext: Ext, bits: u16, mask: u16) -> CEntry {
    CEntry { name, op, format, ext, bits, mask }
}

/// Every 16-bit instruction: those of RV64GC, Zcb and Zcmop.
pub static TABLE16: &[CEntry] = &[
    row("c.addi4spn", Op::Addi, CFormat::Ciw, Ext::I, 0x0000, 0xe003),
    row("c.fld", Op::Fld, CFormat::ClD, Ext::D, 0x2000, 0xe003),
    row("c.lw", Op::Lw, CFormat::ClW, Ext::I, 0x4000, 0xe003),
    row("c.ld", Op::Ld, CFormat::ClD, Ext::I, 0x6000, 0xe003),
    row("c.fsd", Op::Fsd, CFormat::CsD, Ext::D, 0xa000, 0xe003),
    row("c.sw", Op::Sw, CFormat::CsW, Ext::I, 0xc000, 0xe003),
    row("c.sd", Op::Sd, CFormat::CsD, Ext::I, 0xe000, 0xe003),
    row("c.addi", Op::Addi, CFormat::CiAddi, Ext::I, 0x0001, 0xe003),
    row("c.addiw", Op::Addiw, CFormat::CiAddiw, Ext::I, 0x2001, 0xe003),
    row("c.li", Op::Addi, CFormat::CiLi, Ext::I, 0x4001, 0xe003),
    row("c.addi16sp", Op::Addi, CFormat::Ci16sp, Ext::I, 0x6101, 0xef83),
    row("c.mop.n", Op::Addi, CFormat::Mop, Ext::ZCMOP, 0x6081, 0xf8ff),
    row("c.lui", Op::Lui, CFormat::CiLui, Ext::I, 0x6001, 0xe003),
    row("c.srli", Op::Srli, CFormat::CbShift, Ext::I, 0x8001, 0xec03),
    row("c.srai", Op::Srai, CFormat::CbShift, Ext::I, 0x8401, 0xec03),
    row("c.andi", Op::Andi, CFormat::CbAndi, Ext::I, 0x8801, 0xec03),
    row("c.sub", Op::Sub, CFormat::Ca, Ext::I, 0x8c01, 0xfc63),
    row("c.xor", Op::Xor, CFormat::Ca, Ext::I, 0x8c21, 0xfc63),
    row("c.or", Op::Or, CFormat::Ca, Ext::I, 0x8c41, 0xfc63),
    row("c.and", Op::And, CFormat::Ca, Ext::I, 0x8c61, 0xfc63),
    row("c.subw", Op::Subw, CFormat::Ca, Ext::I, 0x9c01, 0xfc63),
    row("c.addw", Op::Addw, CFormat::Ca, Ext::I, 0x9c21, 0xfc63),
    row("c.lbu", Op::Lbu, CFormat::ClB, Ext::ZCB, 0x8000, 0xfc03),
    row("c.lhu", Op::Lhu, CFormat::ClH, Ext::ZCB, 0x8400, 0xfc43),
    row("c.lh", Op::Lh, CFormat::ClH, Ext::ZCB, 0x8440, 0xfc43),
    row("c.sb", Op::Sb, CFormat::CsB, Ext::ZCB, 0x8800, 0xfc03),
    row("c.sh", Op::Sh, CFormat::CsH, Ext::ZCB, 0x8c00, 0xfc43),
    row("c.zext.b", Op::Andi, CFormat::Cu, Ext::ZCB, 0x9c61, 0xfc7f),
    row("c.sext.b", Op::SextB, CFormat::Cu, Ext::ZCB.with(Ext::ZBB), 0x9c65, 0xfc7f),
    row("c.zext.h", Op::ZextH, CFormat::Cu, Ext::ZCB.with(Ext::ZBB), 0x9c69, 0xfc7f),
    row("c.sext.h", Op::SextH, CFormat::Cu, Ext::ZCB.with(Ext::ZBB), 0x9c6d, 0xfc7f),
    row("c.zext.w", Op::AddUw, CFormat::Cu, Ext::ZCB.with(Ext::ZBA), 0x9c71, 0xfc7f),
    row("c.not", Op::Xori, CFormat::Cu, Ext::ZCB, 0x9c75, 0xfc7f),
    row("c.mul", Op::Mul, CFormat::Ca, Ext::ZCB.with(Ext::M), 0x9c41, 0xfc63),
    row("c.j", Op::Jal, CFormat::Cj, Ext::I, 0xa001, 0xe003),
    row("c.beqz", Op::Beq, CFormat::Cb, Ext::I, 0xc001, 0xe003),
    row("c.bnez", Op::Bne, CFormat::Cb, Ext::I, 0xe001, 0xe003),
    row("c.slli", Op::Slli, CFormat::CiSlli, Ext::I, 0x0002, 0xe003),
    row("c.fldsp", Op::Fld, CFormat::CiFldsp, Ext::D, 0x2002, 0xe003),
    row("c.lwsp", Op::Lw, CFormat::CiLwsp, Ext::I, 0x4002, 0xe003),
    row("c.ldsp", Op::Ld, CFormat::CiLdsp, Ext::I, 0x6002, 0xe003),
    row("c.jr", Op::Jalr, CFormat::CrJr, Ext::I, 0x8002, 0xf07f),
    row("c.mv", Op::Add, CFormat::CrMv, Ext::I, 0x8002, 0xf003),
    row("c.ebreak", Op::Ebreak, CFormat::None, Ext::I, 0x9002, 0xffff),
    row("c.jalr", Op::Jalr, CFormat::CrJalr, Ext::I, 0x9002, 0xf07f),
    row("c.add", Op::Add, CFormat::CrAdd, Ext::I, 0x9002, 0xf003),
    row("c.fsdsp", Op::Fsd, CFormat::CssD, Ext::D, 0xa002, 0xe003),
    row("c.swsp", Op::Sw, CFormat::CssW, Ext::I, 0xc002, 0xe003),
    row("c.sdsp", Op::Sd, CFormat::CssD, Ext::I, 0xe002, 0xe003),
];

/// Moves bits `from..from + n` of `v` to `to`.
const fn mv(v: u32, from: u32, n: u32, to: u32) -> u32 {
    ((v >> from) & ((1 << n) - 1)) << to
}

const fn sext(v: u32, bits: u32) -> i32 {
    ((v << (32 - bits)) as i32) >> (32 - bits)
}

/// Expands `raw` by row `e`; `None` where the row's operands are reserved.
pub(crate) fn expand(e: &CEntry, raw: u16) -> Option<Insn> {
    let w = raw as u32;
    let rd = (w >> 7) & 31; // also rs1
    let rs2 = (w >> 2) & 31;
    let lo = 8 + ((w >> 2) & 7); // rd' or rs2'
    let hi = 8 + ((w >> 7) & 7); // rs1' or rd'/rs1'
    let ci = mv(w, 12, 1, 5) | mv(w, 2, 5, 0);
    let cl_w = mv(w, 10, 3, 3) | mv(w, 6, 1, 2) | mv(w, 5, 1, 6);
    let cl_d = mv(w, 10, 3, 3) | mv(w, 5, 2, 6);
    let ldsp = mv(w, 12, 1, 5) | mv(w, 5, 2, 3) | mv(w, 2, 3, 6);
    let (rd, rs1, rs2, imm) = match e.format {
        CFormat::Ciw => {
            let imm = mv(w, 11, 2, 4) | mv(w, 7, 4, 6) | mv(w, 6, 1, 2) | mv(w, 5, 1, 3);
            if imm == 0 {
                return None;
            }
            (lo, 2, 0, imm as i32)
        }
        CFormat::ClW => (lo, hi, 0, cl_w as i32),
        CFormat::ClD => (lo, hi, 0, cl_d as i32),
        CFormat::CsW => (0, hi, lo, cl_w as i32),
        CFormat::CsD => (0, hi, lo, cl_d as i32),
        CFormat::CiAddi => (rd, rd, 0, sext(ci, 6)),
        CFormat::CiAddiw if rd == 0 => return None,
        CFormat::CiAddiw => (rd, rd, 0, sext(ci, 6)),
        CFormat::CiLi => (rd, 0, 0, sext(ci, 6)),
        CFormat::Ci16sp => {
            let imm = mv(w, 12, 1, 9) | mv(w, 6, 1, 4) | mv(w, 5, 1, 6) | mv(w, 3, 2, 7) | mv(w, 2, 1, 5);
            if imm == 0 {
                return None;
            }
            (2, 2, 0, sext(imm, 10))
        }
        CFormat::CiLui if ci == 0 => return None,
        CFormat::CiLui => (rd, 0, 0, sext(ci, 6) << 12),
        CFormat::CbShift => (hi, hi, 0, ci as i32),
        CFormat::CbAndi => (hi, hi, 0, sext(ci, 6)),
        CFormat::Ca => (hi, hi, lo, 0),
        CFormat::Cj => {
            let imm = mv(w, 12, 1, 11)
                | mv(w, 11, 1, 4)
                | mv(w, 9, 2, 8)
                | mv(w, 8, 1, 10)
                | mv(w, 7, 1, 6)
                | mv(w, 6, 1, 7)
                | mv(w, 3, 3, 1)
                | mv(w, 2, 1, 5);
            (0, 0, 0, sext(imm, 12))
        }
        CFormat::Cb => {
            let imm = mv(w, 12, 1, 8) | mv(w, 10, 2, 3) | mv(w, 5, 2, 6) | mv(w, 3, 2, 1) | mv(w, 2, 1, 5);
            (0, hi, 0, sext(imm, 9))
        }
        CFormat::CiSlli => (rd, rd, 0, ci as i32),
        CFormat::CiLwsp | CFormat::CiLdsp if rd == 0 => return None,
        CFormat::CiLwsp => (rd, 2, 0, (mv(w, 12, 1, 5) | mv(w, 4, 3, 2) | mv(w, 2, 2, 6)) as i32),
        CFormat::CiLdsp | CFormat::CiFldsp => (rd, 2, 0, ldsp as i32),
        CFormat::CrJr | CFormat::CrJalr if rd == 0 => return None,
        CFormat::CrJr => (0, rd, 0, 0),
        CFormat::CrJalr => (1, rd, 0, 0),
        CFormat::CrMv => (rd, 0, rs2, 0),
        CFormat::CrAdd => (rd, rd, rs2, 0),
        CFormat::None => (0, 0, 0, 0),
        CFormat::ClB => (lo, hi, 0, (mv(w, 6, 1, 0) | mv(w, 5, 1, 1)) as i32),
        CFormat::ClH => (lo, hi, 0, mv(w, 5, 1, 1) as i32),
        CFormat::CsB => (0, hi, lo, (mv(w, 6, 1, 0) | mv(w, 5, 1, 1)) as i32),
        CFormat::CsH => (0, hi, lo, mv(w, 5, 1, 1) as i32),
        CFormat::Cu => {
            let imm = match e.op {
                Op::Andi => 255,
                Op::Xori => -1,
                _ => 0,
            };
            (hi, hi, 0, imm)
        }
        CFormat::Mop => (0, 0, 0, 0),
        CFormat::CssW => (0, 2, rs2, (mv(w, 9, 4, 2) | mv(w, 7, 2, 6)) as i32),
        CFormat::CssD => (0, 2, rs2, (mv(w, 10, 3, 3) | mv(w, 7, 3, 6)) as i32),
    };
    Some(Insn::new(e.op, rd, rs1, rs2, imm, true))
}
