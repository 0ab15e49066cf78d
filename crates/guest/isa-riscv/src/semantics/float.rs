//! F, D, Zfh, Zfbfmin and Zfa. A number of a narrower format stands in the low bits of a register whose other bits are all
//! ones; anything else there reads as the canonical NaN ("NaN boxing of narrower values").

use super::RvSem;
use crate::insn::Insn;
use sem::{Cond, FpFormat, FpOp, FpRound, Width};

/// The bits above a number of `format`, all ones.
fn boxing(format: FpFormat) -> u64 {
    match format {
        FpFormat::F16 | FpFormat::BF16 => !0xffff,
        FpFormat::F32 => 0xffff_ffff_0000_0000,
        FpFormat::F64 => 0,
    }
}

fn canonical_nan(format: FpFormat) -> u64 {
    match format {
        FpFormat::F16 => 0x7e00,
        FpFormat::BF16 => 0x7fc0,
        FpFormat::F32 => 0x7fc0_0000,
        FpFormat::F64 => 0x7ff8_0000_0000_0000,
    }
}

/// What `fsgnj` does with the second operand's sign.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Copy,
    Negate,
    Xor,
}

fn width(format: FpFormat) -> Width {
    match format {
        FpFormat::F16 | FpFormat::BF16 => Width::W16,
        FpFormat::F32 => Width::W32,
        FpFormat::F64 => Width::W64,
    }
}

fn sign_bit(format: FpFormat) -> u64 {
    match format {
        FpFormat::F16 | FpFormat::BF16 => 1 << 15,
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
    let mask = s.imm(boxing(format));
    let high = s.and(v, mask);
    let boxed = s.cmp(Cond::Eq, high, mask);
    let low = s.zext(v, width(format));
    let nan = s.imm(canonical_nan(format));
    s.select(boxed, low, nan)
}

/// Sets `f[r]` to a result of `format`.
#[inline(always)]
fn set_result<S: RvSem>(s: &mut S, r: usize, v: S::V, format: FpFormat) {
    let v = if format == FpFormat::F64 {
        v
    } else {
        let mask = s.imm(boxing(format));
        s.or(v, mask)
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
    let b = if matches!(op, FpOp::Sqrt(_) | FpOp::Round(_) | FpOp::RoundExact(_)) {
        a
    } else {
        operand(s, i.rs2(), format)
    };
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
        FpOp::Eq(_) | FpOp::Lt(_) | FpOp::Le(_) | FpOp::LtQuiet(_) | FpOp::LeQuiet(_) => {
            operand(s, i.rs2(), format)
        }
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

/// The constants of `fli`, in binary64; number 1 is another one in each format, and number 31 the canonical NaN.
const CONSTANTS: [f64; 31] = [
    -1.0,
    0.0,
    1.0 / 65536.0,
    1.0 / 32768.0,
    1.0 / 256.0,
    1.0 / 128.0,
    0.0625,
    0.125,
    0.25,
    0.3125,
    0.375,
    0.4375,
    0.5,
    0.625,
    0.75,
    0.875,
    1.0,
    1.25,
    1.5,
    1.75,
    2.0,
    2.5,
    3.0,
    4.0,
    8.0,
    16.0,
    128.0,
    256.0,
    32768.0,
    65536.0,
    f64::INFINITY,
];

/// `fli`.
#[inline(always)]
pub(super) fn constant<S: RvSem>(s: &mut S, i: Insn, format: FpFormat) -> Result<(), S::Exit> {
    s.fp_enter()?;
    let bits = constant_bits(i.rs1(), format);
    let v = s.imm(bits);
    set_result(s, i.rd(), v, format);
    Ok(())
}

fn constant_bits(n: usize, format: FpFormat) -> u64 {
    let (Some(&v), true) = (CONSTANTS.get(n), n != 1) else {
        // The least normal number has a one in its exponent's field and nothing else.
        let least = 1
            << match format {
                FpFormat::F16 => 10,
                FpFormat::BF16 => 7,
                FpFormat::F32 => 23,
                FpFormat::F64 => 52,
            };
        return if n == 1 { least } else { canonical_nan(format) };
    };
    let (bits, to) = (v.to_bits(), fpu::Rounding::NearestEven);
    let flags = &mut fpu::Flags::default();
    match format {
        FpFormat::F16 => fpu::f64_to_f16(bits, to, flags).into(),
        FpFormat::BF16 => fpu::convert::<fpu::F64, fpu::BF16>(bits, to, fpu::RiscV, flags).into(),
        FpFormat::F32 => fpu::f64_to_f32(bits, to, flags).into(),
        FpFormat::F64 => bits,
    }
}
