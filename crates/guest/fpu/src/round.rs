//! Rounding: the one place where precision is lost.

use crate::format::Format;
use crate::{Flags, Rounding};

/// `v >> by`, with every bit that falls out or-ed into the lowest bit.
pub(crate) fn shift_right_jam(v: u128, by: u32) -> u128 {
    match by {
        0 => v,
        1..=127 => v >> by | (v & ((1 << by) - 1) != 0) as u128,
        _ => (v != 0) as u128,
    }
}

/// Whether to go one up from the truncated magnitude, whose lowest bit is `odd`, given the part cut off: compared with
/// one half (`half`) and whether anything was cut off at all.
pub(crate) fn rounds_up(
    rm: Rounding,
    sign: bool,
    odd: bool,
    half: std::cmp::Ordering,
    inexact: bool,
) -> bool {
    use std::cmp::Ordering::*;
    match rm {
        Rounding::NearestEven => half == Greater || half == Equal && odd,
        Rounding::NearestMaxMagnitude => half != Less,
        Rounding::TowardZero => false,
        Rounding::Down => sign && inexact,
        Rounding::Up => !sign && inexact,
    }
}

/// `sig >> shift` rounded; the second value tells whether it is inexact. `shift` is 1 to 127.
pub(crate) fn round_shift(sig: u128, shift: u32, sign: bool, rm: Rounding) -> (u128, bool) {
    let kept = sig >> shift;
    let rest = sig & ((1 << shift) - 1);
    let up = rounds_up(rm, sign, kept & 1 != 0, rest.cmp(&(1 << (shift - 1))), rest != 0);
    (kept + up as u128, rest != 0)
}

/// The format's number nearest to `±sig × 2^exp` in the direction `rm` (IEEE 754-2008, 4.3, 7.4 and 7.5). The lowest
/// bit of `sig` may be sticky if `sig` has at least two bits more than the precision.
pub(crate) fn pack<F: Format>(sign: bool, exp: i32, sig: u128, rm: Rounding, flags: &mut Flags) -> u64 {
    if sig == 0 {
        return F::zero(sign);
    }
    let p = F::PRECISION as i32;
    let (mut sig, mut exp) = (sig, exp);
    let top = exp + 127 - sig.leading_zeros() as i32;
    // The weight of the result's lowest bit: by the precision, but no lower than a subnormal's.
    let mut quantum = (top - (p - 1)).max(F::EMIN - (p - 1));
    if quantum - exp > 120 {
        let by = quantum - exp - 120;
        sig = shift_right_jam(sig, by as u32);
        exp += by;
    }
    let (mut kept, inexact) = if quantum <= exp {
        (sig << (exp - quantum), false)
    } else {
        round_shift(sig, (quantum - exp) as u32, sign, rm)
    };
    if kept >> p != 0 {
        kept >>= 1;
        quantum += 1;
    }
    if inexact {
        *flags |= Flags::NX;
        let tiny = top < F::EMIN
            && !(top == F::EMIN - 1 && {
                // Not tiny if the unbounded exponent's rounding would have reached the least normal number.
                let shift = top - (p - 1) - exp;
                shift > 0 && round_shift(sig, shift as u32, sign, rm).0 >> p != 0
            });
        if tiny {
            *flags |= Flags::UF;
        }
    }
    if kept >> (p - 1) == 0 {
        return F::zero(sign) | kept as u64;
    }
    let field = quantum + (p - 1) + F::BIAS;
    if field >= F::EXP_MAX as i32 {
        *flags |= Flags::OF | Flags::NX;
        let to_inf = match rm {
            Rounding::NearestEven | Rounding::NearestMaxMagnitude => true,
            Rounding::TowardZero => false,
            Rounding::Down => sign,
            Rounding::Up => !sign,
        };
        return F::inf(sign) - !to_inf as u64;
    }
    F::zero(sign) | (field as u64) << F::FRAC_BITS | (kept as u64 & ((1 << F::FRAC_BITS) - 1))
}
