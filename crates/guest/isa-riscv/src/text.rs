//! Instructions as text, as the reference's disassembler writes them: the standard's mnemonics with its pseudo-instructions,
//! registers by the names of the calling convention.

use crate::compressed::CFormat;
use crate::csr_names::csr_name;
use crate::decode::{decode, find, find16};
use crate::insn::{Ext, Format, Insn};
use crate::table::{Op, TABLE};
use std::fmt::Write as _;

/// Columns of the mnemonic, and of the operands where something follows.
const WIDTH: usize = 24;

/// Names of the integer registers in the standard's calling convention.
pub const X_NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];
/// Those of the floating-point registers.
pub const F_NAMES: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4",
    "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8",
    "ft9", "ft10", "ft11",
];

/// The constants of `fli`, as assemblers take them.
const CONSTANTS: [&str; 32] = [
    "-0x1p+0", "min", "0x1p-16", "0x1p-15", "0x1p-8", "0x1p-7", "0x1p-4", "0x1p-3", "0x1p-2", "0x1.4p-2",
    "0x1.8p-2", "0x1.cp-2", "0x1p-1", "0x1.4p-1", "0x1.8p-1", "0x1.cp-1", "0x1p+0", "0x1.4p+0", "0x1.8p+0",
    "0x1.cp+0", "0x1p+1", "0x1.4p+1", "0x1.8p+1", "0x1p+2", "0x1p+3", "0x1p+4", "0x1p+7", "0x1p+8",
    "0x1p+15", "0x1p+16", "inf", "nan",
];

/// The length in bytes of the instruction whose first halfword is `low`: 2 or 4.
pub fn length(low: u16) -> u64 {
    if low & 3 == 3 { 4 } else { 2 }
}

/// A line of a listing: address, bits and text of the instruction `raw` at `pc`.
pub fn line(raw: u32, pc: u64) -> String {
    let bits = if length(raw as u16) == 2 {
        format!("{:04x}          ", raw & 0xffff)
    } else {
        format!("{raw:08x}      ")
    };
    format!("0x{pc:08x}:  {bits}    {}", text(raw, pc))
}

/// The text of the instruction `raw` (its first halfword in the low bits) at `pc`, of whatever extension.
pub fn text(raw: u32, pc: u64) -> String {
    let insn = decode(raw, Ext::ALL);
    let Some((name, operands, target)) = plain(insn, raw) else { return format!("{:<WIDTH$}", "illegal") };
    let mut out = format!("{name:<WIDTH$}{operands}");
    if let Some(offset) = target {
        let _ = write!(
            out,
            "{:1$}# 0x{2:x}",
            "",
            (2 * WIDTH).saturating_sub(out.len()),
            pc.wrapping_add_signed(offset)
        );
    }
    out
}

/// Name, operands, and how far away what is referred to is.
fn plain(insn: Insn, raw: u32) -> Option<(String, String, Option<i64>)> {
    let x = |n: usize| X_NAMES[n];
    let (rd, rs1, rs2, imm) = (insn.rd(), insn.rs1(), insn.rs2(), insn.imm());
    if let Some(short) = code_size(insn, raw) {
        return Some(short);
    }
    if let Some((name, operands)) = pseudo(insn, raw) {
        let target = matches!(insn.op, Op::Jal | Op::Beq | Op::Bne | Op::Blt | Op::Bge | Op::Bltu | Op::Bgeu);
        return Some((name.into(), operands, target.then_some(imm)));
    }
    // A compressed instruction bears the name of what it abbreviates.
    let entry = match find(raw) {
        Some(e) if insn.len() == 4 && insn.op == e.op => e,
        _ if insn.len() == 2 => find16(raw as u16)
            .filter(|_| insn.op != Op::Illegal)
            .and_then(|c| TABLE.iter().find(|e| e.op == c.op))?,
        // An instruction with a reserved rounding mode has a text, though it traps.
        Some(e) if e.format.has_rm() => return Some((e.name.into(), reserved(e.format, raw), None)),
        _ => return None,
    };
    let f = |n: usize| F_NAMES[n];
    let rm = || rounding(insn.rm());
    let mut name = entry.name.to_owned();
    match entry.op {
        Op::MopR => {
            let n = (raw >> 30 & 1) << 4 | (raw >> 26 & 3) << 2 | raw >> 20 & 3;
            name = format!("mop.r.{n}");
        }
        Op::MopRr => name = format!("mop.rr.{}", (raw >> 30 & 1) << 2 | raw >> 26 & 3),
        _ => {}
    }
    let operands = match entry.format {
        Format::None => String::new(),
        Format::R => format!("{},{},{}", x(rd), x(rs1), x(rs2)),
        Format::R1 => format!("{},{}", x(rd), x(rs1)),
        Format::I | Format::Shift6 | Format::Shift5 => format!("{},{},{imm}", x(rd), x(rs1)),
        Format::Load if entry.op == Op::Jalr => format!("{},{},{imm}", x(rd), x(rs1)),
        Format::Load => format!("{},{imm}({})", x(rd), x(rs1)),
        Format::S => format!("{},{imm}({})", x(rs2), x(rs1)),
        Format::B => format!("{},{},{imm}", x(rs1), x(rs2)),
        Format::U => format!("{},{}", x(rd), imm >> 12),
        Format::J => format!("{},{imm}", x(rd)),
        Format::Fence => format!("{},{}", devices(imm >> 4), devices(imm)),
        Format::Csr => format!("{},{},{}", x(rd), csr(insn.csr()), x(rs1)),
        Format::CsrI => format!("{},{},{rs1}", x(rd), csr(insn.csr())),
        Format::Rs => format!("{},{}", x(rs1), x(rs2)),
        Format::Amo | Format::Lr => {
            name.push_str(["", ".rl", ".aq", ".aq.rl"][(raw >> 25 & 3) as usize]);
            match entry.format {
                Format::Lr => format!("{},({})", x(rd), x(rs1)),
                _ => format!("{},{},({})", x(rd), x(rs2), x(rs1)),
            }
        }
        Format::FpR => format!("{},{},{},{}", rm(), f(rd), f(rs1), f(rs2)),
        Format::FpN => format!("{},{},{}", f(rd), f(rs1), f(rs2)),
        Format::Fp4 => format!("{},{},{},{},{}", rm(), f(rd), f(rs1), f(rs2), f(insn.rs3())),
        Format::Fp1 => format!("{},{},{}", rm(), f(rd), f(rs1)),
        Format::FpCmp => format!("{},{},{}", x(rd), f(rs1), f(rs2)),
        Format::FpToX => format!("{},{},{}", rm(), x(rd), f(rs1)),
        Format::FpToXn if entry.op == Op::FcvtmodWD => format!("rtz,{},{}", x(rd), f(rs1)),
        Format::FpToXn => format!("{},{}", x(rd), f(rs1)),
        Format::FpFromX => format!("{},{},{}", rm(), f(rd), x(rs1)),
        Format::FpFromXn => format!("{},{}", f(rd), x(rs1)),
        Format::Round => format!("{},{},{imm}", x(rd), x(rs1)),
        Format::Byte => format!("{},{},{},{imm}", x(rd), x(rs1), x(rs2)),
        Format::FpConst => format!("{},{}", f(rd), CONSTANTS[rs1]),
        Format::Block => format!("({})", x(rs1)),
        Format::FpLoad => format!("{},{imm}({})", f(rd), x(rs1)),
        Format::FpStore => format!("{},{imm}({})", f(rs2), x(rs1)),
    };
    let target = match entry.format {
        Format::B | Format::J => Some(imm),
        _ if entry.op == Op::Auipc => Some(imm),
        _ => None,
    };
    Some((name, operands, target))
}

/// The instructions of Zcb and Zcmop, which bear their own names.
fn code_size(insn: Insn, raw: u32) -> Option<(String, String, Option<i64>)> {
    if insn.len() != 2 || insn.op == Op::Illegal {
        return None;
    }
    let row = find16(raw as u16).filter(|e| e.ext.has(Ext::ZCB) || e.ext.has(Ext::ZCMOP))?;
    let x = |n: usize| X_NAMES[n];
    let (rd, rs1, rs2, imm) = (insn.rd(), insn.rs1(), insn.rs2(), insn.imm());
    let operands = match row.format {
        CFormat::Mop => return Some((format!("c.mop.{}", raw >> 7 & 15), String::new(), None)),
        CFormat::ClB | CFormat::ClH => format!("{},{imm}({})", x(rd), x(rs1)),
        CFormat::CsB | CFormat::CsH => format!("{},{imm}({})", x(rs2), x(rs1)),
        CFormat::Ca => format!("{},{}", x(rd), x(rs2)),
        _ => x(rd).to_owned(),
    };
    Some((row.name.into(), operands, None))
}

/// What an instruction is called by its operands, if it has such a name.
fn pseudo(insn: Insn, raw: u32) -> Option<(&'static str, String)> {
    let x = |n: usize| X_NAMES[n];
    let (rd, rs1, rs2, imm) = (insn.rd(), insn.rs1(), insn.rs2(), insn.imm());
    let unary = |name, from: usize| Some((name, format!("{},{}", x(rd), x(from))));
    let float = |name| Some((name, format!("{},{}", F_NAMES[rd], F_NAMES[rs1])));
    let to = |name, r: usize| Some((name, format!("{},{imm}", x(r))));
    let swapped = |name| Some((name, format!("{},{},{imm}", x(rs2), x(rs1))));
    match insn.op {
        Op::Addi if (rd, rs1, imm) == (0, 0, 0) => Some(("nop", String::new())),
        Op::Addi if imm == 0 => unary("mv", rs1),
        // `c.mv`, unlike `c.add`.
        Op::Add if insn.len() == 2 && raw & 1 << 12 == 0 => unary("mv", rs2),
        Op::Addiw if imm == 0 => unary("sext.w", rs1),
        Op::Xori if imm == -1 => unary("not", rs1),
        Op::Sltiu if imm == 1 => unary("seqz", rs1),
        Op::Sub if rs1 == 0 => unary("neg", rs2),
        Op::Subw if rs1 == 0 => unary("negw", rs2),
        Op::Sltu if rs1 == 0 => unary("snez", rs2),
        Op::Slt if rs2 == 0 => unary("sltz", rs1),
        Op::Slt if rs1 == 0 => unary("sgtz", rs2),
        Op::Beq if rs2 == 0 => to("beqz", rs1),
        Op::Bne if rs2 == 0 => to("bnez", rs1),
        Op::Blt if rs2 == 0 => to("bltz", rs1),
        Op::Blt if rs1 == 0 => to("bgtz", rs2),
        Op::Bge if rs1 == 0 => to("blez", rs2),
        Op::Bge if rs2 == 0 => to("bgez", rs1),
        Op::Blt => swapped("bgt"),
        Op::Bge => swapped("ble"),
        Op::Bltu => swapped("bgtu"),
        Op::Bgeu => swapped("bleu"),
        Op::Jal if rd == 0 => Some(("j", imm.to_string())),
        Op::Jalr if (rd, rs1, imm) == (0, 1, 0) => Some(("ret", String::new())),
        Op::Jalr if (rd, imm) == (0, 0) => Some(("jr", x(rs1).into())),
        Op::FsgnjS if rs1 == rs2 => float("fmv.s"),
        Op::FsgnjD if rs1 == rs2 => float("fmv.d"),
        Op::FsgnjnS if rs1 == rs2 => float("fneg.s"),
        Op::FsgnjnD if rs1 == rs2 => float("fneg.d"),
        Op::FsgnjxS if rs1 == rs2 => float("fabs.s"),
        Op::FsgnjxD if rs1 == rs2 => float("fabs.d"),
        Op::Csrrs if rs1 == 0 => {
            let name = match insn.csr() {
                0x001 => "frflags",
                0x002 => "frrm",
                0x003 => "frcsr",
                0xc00 => "rdcycle",
                0xc01 => "rdtime",
                0xc02 => "rdinstret",
                _ => return None,
            };
            Some((name, x(rd).into()))
        }
        Op::Csrrw => {
            let name = match insn.csr() {
                0x001 => "fsflags",
                0x002 => "fsrm",
                0x003 => "fscsr",
                _ => return None,
            };
            unary(name, rs1)
        }
        Op::Csrrwi => {
            let name = match insn.csr() {
                0x001 => "fsflagsi",
                0x002 => "fsrmi",
                _ => return None,
            };
            Some((name, format!("{},{rs1}", x(rd))))
        }
        _ => None,
    }
}

/// The operands of an instruction whose rounding mode is reserved.
fn reserved(format: Format, raw: u32) -> String {
    let x = |at: u32| X_NAMES[(raw >> at & 31) as usize];
    let f = |at: u32| F_NAMES[(raw >> at & 31) as usize];
    match format {
        Format::FpR => format!("inv,{},{},{}", f(7), f(15), f(20)),
        Format::Fp4 => format!("inv,{},{},{},{}", f(7), f(15), f(20), f(27)),
        Format::FpToX => format!("inv,{},{}", x(7), f(15)),
        Format::FpFromX => format!("inv,{},{}", f(7), x(15)),
        _ => format!("inv,{},{}", f(7), f(15)),
    }
}

fn rounding(rm: u8) -> &'static str {
    ["rne", "rtz", "rdn", "rup", "rmm", "inv", "inv", "dyn"][usize::from(rm & 7)]
}

fn devices(set: i64) -> String {
    "iorw".chars().zip([8, 4, 2, 1]).filter(|(_, bit)| set & bit != 0).map(|(c, _)| c).collect()
}

fn csr(n: u16) -> String {
    csr_name(n).unwrap_or_else(|| format!("0x{n:03x}"))
}
