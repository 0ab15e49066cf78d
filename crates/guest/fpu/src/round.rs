//! Rounding: the one place where precision is lost.

use crate::format::{Format, WideOf};
use crate::rules::{Env, Precision, Tininess, TinyResult};
use crate::wide::Wide;
use crate::{Flags, Rounding};
use std::cmp::Ordering;

/// Whether to go one up from the truncated magnitude, whose lowest bit is `odd`, given the part cut off: how it compares with
/// one half, and whether anything was cut off at all.
#[inline(always)]
fn rounds_up(rm: Rounding, sign: bool, odd: bool, half: impl FnOnce() -> Ordering, inexact: bool) -> bool {
    match rm {
        Rounding::NearestEven => {
            let half = half();
            half == Ordering::Greater || half == Ordering::Equal && odd
        }
        Rounding::NearestMaxMagnitude => half() != Ordering::Less,
        Rounding::TowardZero => false,
        Rounding::Down => sign && inexact,
        Rounding::Up => !sign && inexact,
        Rounding::ToOdd => inexact && !odd,
    }
}

/// `sig >> shift` rounded; the second value tells whether it is inexact. `shift` is at least 1 and less than the width.
#[inline(always)]
pub(crate) fn round_shift<W: Wide>(sig: W, shift: u32, sign: bool, rm: Rounding) -> (W, bool) {
    let kept = sig >> shift;
    let rest = sig.below(shift);
    let inexact = rest != W::ZERO;
    let half = || rest.cmp(&(W::from(1) << (shift - 1)));
    let up = rounds_up(rm, sign, kept.low() & 1 != 0, half, inexact);
    (kept + W::from(up as u128), inexact)
}

/// The same in 64 bits.
#[inline(always)]
pub(crate) fn round_shift_64(sig: u64, shift: u32, sign: bool, rm: Rounding) -> (u64, bool) {
    let kept = sig >> shift;
    let rest = sig & ((1 << shift) - 1);
    let half = || rest.cmp(&(1 << (shift - 1)));
    let up = rounds_up(rm, sign, kept & 1 != 0, half, rest != 0);
    (kept + up as u64, rest != 0)
}

/// The format's number nearest to `±sig × 2^exp` in the direction `rm` (IEEE 754-2008, 4.3, 7.4 and 7.5). The lowest
/// bit of `sig` may be sticky if `sig` has at least two bits more than the precision.
#[inline]
pub(crate) fn pack<F: Format>(
    sign: bool,
    exp: i32,
    sig: WideOf<F>,
    rm: Rounding,
    env: impl Env,
    flags: &mut Flags,
) -> F::Bits {
    pack_to::<F>(sign, exp, sig, F::PRECISION, rm, env, flags)
}

/// The same for a result of arithmetic, which the x87's precision control makes shorter.
#[inline]
pub(crate) fn pack_arith<F: Format>(
    sign: bool,
    exp: i32,
    sig: WideOf<F>,
    rm: Rounding,
    env: impl Env,
    flags: &mut Flags,
) -> F::Bits {
    let precision = match env.rules().precision {
        Precision::Single if F::EXPLICIT => 24,
        Precision::Double if F::EXPLICIT => 53,
        _ => F::PRECISION,
    };
    pack_to::<F>(sign, exp, sig, precision, rm, env, flags)
}

#[inline(always)]
fn pack_to<F: Format>(
    sign: bool,
    exp: i32,
    sig: WideOf<F>,
    precision: u32,
    rm: Rounding,
    env: impl Env,
    flags: &mut Flags,
) -> F::Bits {
    let rules = env.rules();
    if sig == WideOf::<F>::ZERO {
        return F::zero(sign);
    }
    let (mut sig, mut exp) = (sig, exp);
    let width = WideOf::<F>::BITS as i32;
    let p = precision as i32;
    let top = exp + width - 1 - sig.leading_zeros() as i32;
    if rules.outputs == TinyResult::ZeroUnderflow && top < F::EMIN {
        *flags |= Flags::UF;
        return F::zero(sign);
    }
    // The weight of the result's lowest bit: by the precision, but no lower than a subnormal's.
    let mut quantum = (top - (p - 1)).max(F::EMIN - (p - 1));
    if quantum - exp > width - 8 {
        let by = quantum - exp - (width - 8);
        sig = sig.shift_right_jam(by as u32);
        exp += by;
    }
    let (kept, inexact) = if quantum <= exp {
        (sig << (exp - quantum) as u32, false)
    } else {
        round_shift(sig, (quantum - exp) as u32, sign, rm)
    };
    let mut kept = kept.low();
    if kept >> p != 0 {
        kept >>= 1;
        quantum += 1;
    }
    if inexact || rules.outputs == TinyResult::Zero {
        if inexact {
            *flags |= Flags::NX;
        }
        let reaches_normal = || {
            // Not tiny if the unbounded exponent's rounding would have reached the least normal number.
            let shift = top - (p - 1) - exp;
            top == F::EMIN - 1 && shift > 0 && round_shift(sig, shift as u32, sign, rm).0.low() >> p != 0
        };
        let tiny = top < F::EMIN && (rules.tininess == Tininess::BeforeRounding || !reaches_normal());
        if tiny && rules.outputs == TinyResult::Zero {
            *flags |= Flags::UF | Flags::NX;
            return F::zero(sign);
        }
        if tiny {
            *flags |= Flags::UF;
        }
    }
    let aligned = kept << (F::PRECISION - precision);
    if kept >> (p - 1) == 0 {
        return F::join(sign, 0, aligned);
    }
    let field = quantum + (p - 1) + F::BIAS;
    if field >= F::EXP_MAX as i32 {
        *flags |= Flags::OF | Flags::NX;
        let to_inf = match rm {
            Rounding::NearestEven | Rounding::NearestMaxMagnitude => true,
            Rounding::TowardZero | Rounding::ToOdd => false,
            Rounding::Down => sign,
            Rounding::Up => !sign,
        };
        if to_inf {
            return F::inf(sign);
        }
        let ones = (1u128 << precision) - 1;
        return F::join(sign, F::EXP_MAX - 1, ones << (F::PRECISION - precision));
    }
    F::join(sign, field as u32, aligned)
}
