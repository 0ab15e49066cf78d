//! Rounding to integral values, scaling, remainders.

use crate::format::{Class, Format, WideOf, unpack};
use crate::nan::{default_nan, invalid, nan_of, note_subnormals};
use crate::round::{pack, round_shift};
use crate::rules::Env;
use crate::{Flags, Rounding};

/// The integral value that `a` rounds to, in the same format (IEEE 754-2008, 5.9). Whether that is inexact is told only if
/// `exact` is true. (SSE's ROUND* raise no [`Flags::DN`].)
#[inline]
pub fn round_to_integral<F: Format>(
    a: F::Bits,
    rm: Rounding,
    exact: bool,
    env: impl Env,
    flags: &mut Flags,
) -> F::Bits {
    let x = unpack::<F>(a, env, flags);
    if let Some(n) = nan_of::<F>(&[a], env, flags) {
        return n;
    }
    match x.class {
        Class::Zero => F::zero(x.sign),
        Class::Finite { exp, sig } => {
            note_subnormals::<F>(&[a], env, flags);
            if exp >= 0 {
                return a;
            }
            // What is below a quarter is as good as an eighth; two bits more than the significand are enough for that.
            let by = (-exp).min(F::PRECISION as i32 + 2) as u32;
            let wide = WideOf::<F>::from(sig.into());
            let wide = if by < -exp as u32 { WideOf::<F>::from(1) } else { wide };
            let (v, inexact) = round_shift(wide, by, x.sign, rm);
            if inexact && exact {
                *flags |= Flags::NX;
            }
            pack::<F>(x.sign, 0, v, Rounding::TowardZero, env, &mut Flags::default())
        }
        Class::Inf | Class::Nan => a,
    }
}

/// `a × 2^n`, rounded once.
#[inline]
pub fn scale<F: Format>(a: F::Bits, n: i32, rm: Rounding, env: impl Env, flags: &mut Flags) -> F::Bits {
    let x = unpack::<F>(a, env, flags);
    if let Some(n) = nan_of::<F>(&[a], env, flags) {
        return n;
    }
    match x.class {
        Class::Zero => F::zero(x.sign),
        Class::Finite { exp, sig } => {
            note_subnormals::<F>(&[a], env, flags);
            // Beyond this all is overflow or underflow.
            let n = n.clamp(-0x1_0000, 0x1_0000);
            pack::<F>(x.sign, exp + n, WideOf::<F>::from(sig.into()), rm, env, flags)
        }
        Class::Inf | Class::Nan => a,
    }
}

/// How the quotient of a remainder is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotient {
    /// To nearest, ties to even: IEEE 754's remainder (x87's FPREM1).
    NearestEven,
    /// Towards zero: C's `fmod` (x87's FPREM).
    TowardZero,
}

/// `a - b × q`, where `q` is `a ÷ b` rounded to an integer; and the low 64 bits of the magnitude of `q`. It is exact. A zero
/// result has the sign of `a`.
pub fn remainder<F: Format>(
    a: F::Bits,
    b: F::Bits,
    quotient: Quotient,
    env: impl Env,
    flags: &mut Flags,
) -> (F::Bits, u64) {
    let (x, y) = (unpack::<F>(a, env, flags), unpack::<F>(b, env, flags));
    if let Some(n) = nan_of::<F>(&[a, b], env, flags) {
        return (n, 0);
    }
    let ((ea, sa), divisor) = match (x.class, y.class) {
        (Class::Inf, _) | (_, Class::Zero) => return (invalid::<F>(env, flags), 0),
        (Class::Zero, _) => {
            note_subnormals::<F>(&[a, b], env, flags);
            return (F::zero(x.sign), 0);
        }
        (Class::Finite { exp, sig }, Class::Inf) => ((exp, sig), None),
        (Class::Finite { exp, sig }, Class::Finite { exp: eb, sig: sb }) => ((exp, sig), Some((eb, sb))),
        (Class::Nan, _) | (_, Class::Nan) => return (default_nan::<F>(env), 0),
    };
    note_subnormals::<F>(&[a, b], env, flags);
    let sa: u128 = sa.into();
    let pack = |sign, exp, sig: u128, flags: &mut Flags| {
        pack::<F>(sign, exp, WideOf::<F>::from(sig), Rounding::NearestEven, env, flags)
    };
    let Some((eb, sb)) = divisor else { return (pack(x.sign, ea, sa, flags), 0) };
    let sb: u128 = sb.into();
    // Long division. Both significands have their highest bit at the same place, so a quotient of less than a half needs `a`'s
    // exponent to be lower by two.
    if ea < eb - 1 {
        return (pack(x.sign, ea, sa, flags), 0);
    }
    let (mut rest, mut q, mut e) = (sa, 0u64, ea);
    if ea == eb - 1 {
        // The divisor's lowest place is one above the dividend's: the quotient is 0 or, rounded, 1.
    } else {
        if rest >= sb {
            rest -= sb;
            q = 1;
        }
        while e > eb && rest != 0 {
            e -= 1;
            rest <<= 1;
            q <<= 1;
            if rest >= sb {
                rest -= sb;
                q |= 1;
            }
        }
        if e > eb {
            // Nothing is left; only zeroes follow in the quotient.
            q = q.checked_shl((e - eb) as u32).unwrap_or(0);
            e = eb;
        }
    }
    let mut sign = x.sign;
    if quotient == Quotient::NearestEven && rest != 0 {
        // The divisor in the remainder's unit.
        let unit = sb << (eb - e) as u32;
        let twice = (rest << 1).cmp(&unit);
        if twice.is_gt() || twice.is_eq() && q & 1 != 0 {
            rest = unit - rest;
            sign = !sign;
            q = q.wrapping_add(1);
        }
    }
    if rest == 0 {
        return (F::zero(x.sign), q);
    }
    (pack(sign, e, rest, flags), q)
}
