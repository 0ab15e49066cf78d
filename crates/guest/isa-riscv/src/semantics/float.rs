//! F and D. A single stands in the low half of a register whose high half is all ones; anything else there
//! reads as the canonical NaN ("NaN boxing of narrower values").

use super::RvSem;
use crate::insn::Insn;
use sem::{Cond, FpFormat, FpOp, FpRound, Width};

const BOX: u64 = 0xffff_ffff_0000_0000;
const CANONICAL_NAN32: u64 = 0x7fc0_0000;

/// What `fsgnj` does with the second operand's sign.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Copy,
    Negate,
    Xor,
}

fn width(format: FpFormat) -> Width {
    match format {
        FpFormat::F32 => Width::W32,
        FpFormat::F64 => Width::W64,
    }
}

fn sign_bit(format: FpFormat) -> u64 {
    match format {
        FpFormat::F32 => 1 << 31,
        FpFormat::F64 => 1 << 63,
    }
}

/// Register `f[r]` as an operand of `format`.
#[inline(always)]
fn operand<S: RvSem>(s: &mut S, r: usize, format: FpFormat) -> S::V {
    let v = s.f(r);
    if format == FpFormat::F64 {
        return v;
    }
    let mask = s.imm(BOX);
    let high = s.and(v, mask);
    let boxed = s.cmp(Cond::Eq, high, mask);
    let low = s.zext(v, Width::W32);
    let nan = s.imm(CANONICAL_NAN32);
    s.select(boxed, low, nan)
}

/// Sets `f[r]` to a result of `format`.
#[inline(always)]
fn set_result<S: RvSem>(s: &mut S, r: usize, v: S::V, format: FpFormat) {
    let v = if format == FpFormat::F32 {
        let mask = s.imm(BOX);
        s.or(v, mask)
    } else {
        v
    };
    s.set_f(r, v);
}

#[inline(always)]
pub(super) fn load<S: RvSem>(s: &mut S, i: Insn, format: FpFormat) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let addr = super::address(s, i);
    let v = s.load(addr, width(format), false)?;
    set_result(s, i.rd(), v, format);
    Ok(())
}

#[inline(always)]
pub(super) fn store<S: RvSem>(s: &mut S, i: Insn, size: Width) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let addr = super::address(s, i);
    let v = s.f(i.rs2());
    s.store(addr, v, size)
}

/// `(-)a * b (-)c`: negating an operand is exact, so the four forms are one.
#[inline(always)]
pub(super) fn fma<S: RvSem>(
    s: &mut S,
    i: Insn,
    format: FpFormat,
    negate_product: bool,
    negate_c: bool,
) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let round = s.fp_round(i.rm())?;
    let mut a = operand(s, i.rs1(), format);
    let b = operand(s, i.rs2(), format);
    let mut c = operand(s, i.rs3(), format);
    let sign = s.imm(sign_bit(format));
    if negate_product {
        a = s.xor(a, sign);
    }
    if negate_c {
        c = s.xor(c, sign);
    }
    let v = s.fp(FpOp::Fma(format), a, b, c, round);
    set_result(s, i.rd(), v, format);
    Ok(())
}

#[inline(always)]
pub(super) fn arith<S: RvSem>(s: &mut S, i: Insn, op: FpOp, format: FpFormat) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let round = s.fp_round(i.rm())?;
    let a = operand(s, i.rs1(), format);
    let b = if matches!(op, FpOp::Sqrt(_)) { a } else { operand(s, i.rs2(), format) };
    let v = s.fp(op, a, b, b, round);
    set_result(s, i.rd(), v, format);
    Ok(())
}

#[inline(always)]
pub(super) fn minmax<S: RvSem>(s: &mut S, i: Insn, op: FpOp, format: FpFormat) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let a = operand(s, i.rs1(), format);
    let b = operand(s, i.rs2(), format);
    let v = s.fp(op, a, b, b, FpRound::NearestEven);
    set_result(s, i.rd(), v, format);
    Ok(())
}

#[inline(always)]
pub(super) fn sign<S: RvSem>(s: &mut S, i: Insn, format: FpFormat, how: Sign) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let a = operand(s, i.rs1(), format);
    let b = operand(s, i.rs2(), format);
    let mask = s.imm(sign_bit(format));
    let sign = s.and(b, mask);
    let v = match how {
        Sign::Xor => s.xor(a, sign),
        Sign::Copy | Sign::Negate => {
            let rest = s.imm(!sign_bit(format));
            let magnitude = s.and(a, rest);
            let sign = if how == Sign::Negate { s.xor(sign, mask) } else { sign };
            s.or(magnitude, sign)
        }
    };
    set_result(s, i.rd(), v, format);
    Ok(())
}

/// Comparisons, classes and conversions to integers. `rm` is the rounding mode field of those that have it.
#[inline(always)]
pub(super) fn to_x<S: RvSem>(
    s: &mut S,
    i: Insn,
    op: FpOp,
    format: FpFormat,
    rm: Option<u8>,
) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let round = match rm {
        Some(rm) => s.fp_round(rm)?,
        None => FpRound::NearestEven,
    };
    let a = operand(s, i.rs1(), format);
    let b = match op {
        FpOp::Eq(_) | FpOp::Lt(_) | FpOp::Le(_) => operand(s, i.rs2(), format),
        _ => a,
    };
    let v = s.fp(op, a, b, b, round);
    s.set_x(i.rd(), v);
    Ok(())
}

#[inline(always)]
pub(super) fn from_x<S: RvSem>(s: &mut S, i: Insn, op: FpOp, format: FpFormat) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let round = s.fp_round(i.rm())?;
    let a = s.x(i.rs1());
    let v = s.fp(op, a, a, a, round);
    set_result(s, i.rd(), v, format);
    Ok(())
}

#[inline(always)]
pub(super) fn convert<S: RvSem>(s: &mut S, i: Insn, from: FpFormat, to: FpFormat) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let round = s.fp_round(i.rm())?;
    let a = operand(s, i.rs1(), from);
    let v = s.fp(FpOp::Convert(from, to), a, a, a, round);
    set_result(s, i.rd(), v, to);
    Ok(())
}

/// `fmv.x.w` and `fmv.x.d`: the raw bits, boxed or not.
#[inline(always)]
pub(super) fn move_to_x<S: RvSem>(s: &mut S, i: Insn, size: Width) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let v = s.f(i.rs1());
    let v = s.sext(v, size);
    s.set_x(i.rd(), v);
    Ok(())
}

#[inline(always)]
pub(super) fn move_from_x<S: RvSem>(s: &mut S, i: Insn, format: FpFormat) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let v = s.x(i.rs1());
    let v = s.zext(v, width(format));
    set_result(s, i.rd(), v, format);
    Ok(())
}
