//! Comparison, minimum and maximum, classification.

use crate::Flags;
use crate::format::{Class, Format, unpack};
use crate::nan::{default_nan, nan_of, note_subnormals};
use crate::rules::Env;
use std::cmp::Ordering;

/// The order of two numbers that are no NaNs; zeroes are equal.
#[inline(always)]
fn order<F: Format>(a: F::Bits, b: F::Bits, env: impl Env, flags: &mut Flags) -> Ordering {
    use crate::format::Bits;
    let (x, y) = (unpack::<F>(a, env, flags), unpack::<F>(b, env, flags));
    note_subnormals::<F>(&[a, b], env, flags);
    if F::EXPLICIT {
        // A pseudo-denormal has another number's value.
        let key = |class| match class {
            Class::Zero => (i32::MIN, 0),
            Class::Finite { exp, sig } => (exp, crate::wide::Sig::wide(sig)),
            Class::Inf | Class::Nan => (i32::MAX, 0),
        };
        let (p, q) = (key(x.class), key(y.class));
        return match (x.sign, y.sign) {
            (false, false) => p.cmp(&q),
            (true, true) => q.cmp(&p),
            _ if x.class == Class::Zero && y.class == Class::Zero => Ordering::Equal,
            (minus, _) => {
                if minus {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        };
    }
    // The order of magnitudes is that of the bits.
    let magnitude =
        |class, v: F::Bits| if class == Class::Zero { 0 } else { v.wide() & ((1 << F::SIGN) - 1) };
    let (p, q) = (magnitude(x.class, a), magnitude(y.class, b));
    if F::SIGN < 64 {
        let key = |minus: bool, v: u128| if minus { -(v as i64) } else { v as i64 };
        return key(x.sign, p).cmp(&key(y.sign, q));
    }
    let key = |minus: bool, v: u128| if minus { -(v as i128) } else { v as i128 };
    key(x.sign, p).cmp(&key(y.sign, q))
}

/// The order of two numbers, `None` if one is a NaN; only a signalling NaN is invalid.
#[inline]
pub fn compare<F: Format>(a: F::Bits, b: F::Bits, env: impl Env, flags: &mut Flags) -> Option<Ordering> {
    if nan_of::<F>(&[a, b], env, flags).is_some() {
        return None;
    }
    Some(order::<F>(a, b, env, flags))
}

/// The order of two numbers, `None` if one is a NaN; any NaN is invalid.
#[inline]
pub fn compare_signalling<F: Format>(
    a: F::Bits,
    b: F::Bits,
    env: impl Env,
    flags: &mut Flags,
) -> Option<Ordering> {
    if [a, b].iter().any(|&v| F::is_nan(v) || F::unsupported(v)) {
        *flags |= Flags::NV;
        return None;
    }
    Some(order::<F>(a, b, env, flags))
}

/// Kinds of minimum and maximum; they differ in what they make of NaNs, and of zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinMax {
    /// IEEE 754-2019's minimumNumber and maximumNumber: the number, if the other is a NaN of any kind (RISC-V).
    Number,
    /// IEEE 754-2019's minimum and maximum: a NaN, if one is a NaN (Arm's FMIN; RISC-V's FMINM).
    Propagating,
    /// IEEE 754-2008's minNum and maxNum: the number, if the other is a quiet NaN; a NaN, if one is signalling (Arm's FMINNM).
    Number2008,
    /// SSE's: the second operand, unless the first is less (greater). Any NaN is invalid; zeroes are equal.
    Second,
}

/// What makes the lesser or greater of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The minimum.
    Min,
    /// The maximum.
    Max,
    /// The number of the lesser magnitude; of equal ones the minimum.
    MinMagnitude,
    /// The number of the greater magnitude; of equal ones the maximum.
    MaxMagnitude,
}

/// The lesser or greater of two numbers. -0 is less than +0, except with [`MinMax::Second`].
#[inline]
pub fn min_max<F: Format>(
    a: F::Bits,
    b: F::Bits,
    which: Which,
    kind: MinMax,
    env: impl Env,
    flags: &mut Flags,
) -> F::Bits {
    let is_nan = |v| F::is_nan(v) || F::unsupported(v);
    let max = matches!(which, Which::Max | Which::MaxMagnitude);
    if kind == MinMax::Second {
        let wanted = if max { Ordering::Greater } else { Ordering::Less };
        let first = compare_signalling::<F>(a, b, env, flags) == Some(wanted);
        return flushed::<F>(if first { a } else { b }, env, &mut Flags::default());
    }
    if is_nan(a) || is_nan(b) {
        let signalling = |v| F::is_snan(v) || F::unsupported(v);
        let any_signalling = signalling(a) || signalling(b);
        if any_signalling {
            *flags |= Flags::NV;
        }
        let number = match kind {
            MinMax::Number => true,
            MinMax::Number2008 => !any_signalling,
            MinMax::Propagating | MinMax::Second => false,
        };
        return match (is_nan(a), is_nan(b)) {
            (true, false) if number => flushed::<F>(b, env, flags),
            (false, true) if number => flushed::<F>(a, env, flags),
            _ => nan_of::<F>(&[a, b], env, flags).unwrap_or(default_nan::<F>(env)),
        };
    }
    let by_value = || order::<F>(a, b, env, &mut Flags::default()).then(F::sign(b).cmp(&F::sign(a)));
    let of = |v| if F::sign(v) { F::negate(v) } else { v };
    let order_ = match which {
        Which::Min | Which::Max => by_value(),
        _ => order::<F>(of(a), of(b), env, &mut Flags::default()).then(by_value()),
    };
    order::<F>(a, b, env, flags);
    flushed::<F>(if order_.is_lt() != max { a } else { b }, env, &mut Flags::default())
}

/// The operand, or zero where the rules make subnormal operands zero.
#[inline(always)]
fn flushed<F: Format>(v: F::Bits, env: impl Env, flags: &mut Flags) -> F::Bits {
    match unpack::<F>(v, env, flags).class {
        Class::Zero => F::zero(F::sign(v)),
        _ => v,
    }
}

/// What kind of number `a` is: one bit of ten, in the order of RISC-V's FCLASS. What is no number at all in the x87's format
/// counts as a signalling NaN.
#[inline]
pub fn classify<F: Format>(a: F::Bits) -> u16 {
    let u = unpack::<F>(a, crate::RiscV, &mut Flags::default());
    let subnormal = F::field(a) == 0;
    1 << match (u.class, u.sign) {
        (Class::Inf, true) => 0,
        (Class::Finite { .. }, true) => 1 + subnormal as u16,
        (Class::Zero, true) => 3,
        (Class::Zero, false) => 4,
        (Class::Finite { .. }, false) => 6 - subnormal as u16,
        (Class::Inf, false) => 7,
        (Class::Nan, _) => 9 - (F::is_snan(a) || F::unsupported(a)) as u16,
    }
}
