//! Addition, multiplication, division, square root, fused multiply-add.

use crate::format::{Class, Format, WideOf, high, unpack};
use crate::nan::{default_nan, invalid, nan_of, nan_of_fma, note_subnormals};
use crate::round::pack_arith;
use crate::rules::Env;
use crate::wide::{Sig, Wide};
use crate::{Flags, Rounding};

/// The sum of two values `±sig × 2^exp` whose `sig` is as [`high`] leaves it.
#[inline(always)]
fn sum<F: Format>(
    (sa, ea, a): (bool, i32, WideOf<F>),
    (sb, eb, b): (bool, i32, WideOf<F>),
    rm: Rounding,
    env: impl Env,
    flags: &mut Flags,
) -> F::Bits {
    let (e, a, b) = if ea >= eb {
        (ea, a, b.shift_right_jam((ea - eb) as u32))
    } else {
        (eb, a.shift_right_jam((eb - ea) as u32), b)
    };
    if sa == sb {
        return pack_arith::<F>(sa, e, a + b, rm, env, flags);
    }
    match a.cmp(&b) {
        std::cmp::Ordering::Equal => F::zero(rm == Rounding::Down),
        std::cmp::Ordering::Greater => pack_arith::<F>(sa, e, a - b, rm, env, flags),
        std::cmp::Ordering::Less => pack_arith::<F>(sb, e, b - a, rm, env, flags),
    }
}

/// A value that is an operand already, as a result: precision control and the flushing of tiny results hold for it too.
#[inline(always)]
fn again<F: Format>(
    sign: bool,
    exp: i32,
    sig: F::Sig,
    rm: Rounding,
    env: impl Env,
    flags: &mut Flags,
) -> F::Bits {
    pack_arith::<F>(sign, exp, WideOf::<F>::from(sig.into()), rm, env, flags)
}

/// `a + b`.
#[inline]
pub fn add<F: Format>(a: F::Bits, b: F::Bits, rm: Rounding, env: impl Env, flags: &mut Flags) -> F::Bits {
    let (x, y) = (unpack::<F>(a, env, flags), unpack::<F>(b, env, flags));
    if let Some(n) = nan_of::<F>(&[a, b], env, flags) {
        return n;
    }
    if x.class == Class::Inf && y.class == Class::Inf && x.sign != y.sign {
        return invalid::<F>(env, flags);
    }
    note_subnormals::<F>(&[a, b], env, flags);
    match (x.class, y.class) {
        (Class::Inf, _) => F::inf(x.sign),
        (_, Class::Inf) => F::inf(y.sign),
        (Class::Zero, Class::Zero) => F::zero(if x.sign == y.sign { x.sign } else { rm == Rounding::Down }),
        (Class::Finite { exp, sig }, Class::Zero) => again::<F>(x.sign, exp, sig, rm, env, flags),
        (Class::Zero, Class::Finite { exp, sig }) => again::<F>(y.sign, exp, sig, rm, env, flags),
        (Class::Finite { exp: ea, sig: sa }, Class::Finite { exp: eb, sig: sb }) => {
            let (ea, sa) = high(ea, WideOf::<F>::from(sa.into()));
            let (eb, sb) = high(eb, WideOf::<F>::from(sb.into()));
            sum::<F>((x.sign, ea, sa), (y.sign, eb, sb), rm, env, flags)
        }
        (Class::Nan, _) | (_, Class::Nan) => default_nan::<F>(env),
    }
}

/// `a - b`.
#[inline]
pub fn sub<F: Format>(a: F::Bits, b: F::Bits, rm: Rounding, env: impl Env, flags: &mut Flags) -> F::Bits {
    // A NaN keeps its sign.
    if let Some(n) = nan_of::<F>(&[a, b], env, flags) {
        unpack::<F>(a, env, flags);
        unpack::<F>(b, env, flags);
        return n;
    }
    add::<F>(a, F::negate(b), rm, env, flags)
}

/// `a × b`.
#[inline]
pub fn mul<F: Format>(a: F::Bits, b: F::Bits, rm: Rounding, env: impl Env, flags: &mut Flags) -> F::Bits {
    let (x, y) = (unpack::<F>(a, env, flags), unpack::<F>(b, env, flags));
    if let Some(n) = nan_of::<F>(&[a, b], env, flags) {
        return n;
    }
    if matches!((x.class, y.class), (Class::Inf, Class::Zero) | (Class::Zero, Class::Inf)) {
        return invalid::<F>(env, flags);
    }
    note_subnormals::<F>(&[a, b], env, flags);
    let sign = x.sign != y.sign;
    match (x.class, y.class) {
        (Class::Inf, _) | (_, Class::Inf) => F::inf(sign),
        (Class::Finite { exp: ea, sig: sa }, Class::Finite { exp: eb, sig: sb }) => {
            pack_arith::<F>(sign, ea + eb, sa.times(sb), rm, env, flags)
        }
        _ => F::zero(sign),
    }
}

/// `a ÷ b`.
#[inline]
pub fn div<F: Format>(a: F::Bits, b: F::Bits, rm: Rounding, env: impl Env, flags: &mut Flags) -> F::Bits {
    let (x, y) = (unpack::<F>(a, env, flags), unpack::<F>(b, env, flags));
    if let Some(n) = nan_of::<F>(&[a, b], env, flags) {
        return n;
    }
    let sign = x.sign != y.sign;
    match (x.class, y.class) {
        (Class::Inf, Class::Inf) | (Class::Zero, Class::Zero) => return invalid::<F>(env, flags),
        (Class::Finite { .. }, Class::Zero) => {
            *flags |= Flags::DZ;
            return F::inf(sign);
        }
        _ => {}
    }
    note_subnormals::<F>(&[a, b], env, flags);
    match (x.class, y.class) {
        (Class::Inf, _) => F::inf(sign),
        (Class::Finite { exp: ea, sig: sa }, Class::Finite { exp: eb, sig: sb }) => {
            let (q, n) = sa.quotient(sb);
            pack_arith::<F>(sign, ea - eb - n, q, rm, env, flags)
        }
        _ => F::zero(sign),
    }
}

/// The square root of `a`.
#[inline]
pub fn sqrt<F: Format>(a: F::Bits, rm: Rounding, env: impl Env, flags: &mut Flags) -> F::Bits {
    let x = unpack::<F>(a, env, flags);
    if let Some(n) = nan_of::<F>(&[a], env, flags) {
        return n;
    }
    match x.class {
        Class::Zero => F::zero(x.sign),
        _ if x.sign => invalid::<F>(env, flags),
        Class::Finite { exp, sig } => {
            note_subnormals::<F>(&[a], env, flags);
            let sig = WideOf::<F>::from(sig.into());
            let up = sig.leading_zeros() - (WideOf::<F>::BITS - 1 - WideOf::<F>::ROOT_TOP);
            let (mut e, mut s) = (exp - up as i32, sig << up);
            if e & 1 != 0 {
                e -= 1;
                s = s << 1;
            }
            let (r, exact) = s.root();
            let r = r << 1 | WideOf::<F>::from(!exact as u128);
            pack_arith::<F>(false, e / 2 - 1, r, rm, env, flags)
        }
        Class::Inf | Class::Nan => a,
    }
}

/// `a × b + c`, rounded once.
#[inline]
pub fn fma<F: Format>(
    a: F::Bits,
    b: F::Bits,
    c: F::Bits,
    rm: Rounding,
    env: impl Env,
    flags: &mut Flags,
) -> F::Bits {
    let (x, y, z) = (unpack::<F>(a, env, flags), unpack::<F>(b, env, flags), unpack::<F>(c, env, flags));
    let inf_zero = matches!((x.class, y.class), (Class::Inf, Class::Zero) | (Class::Zero, Class::Inf));
    if let Some(n) = nan_of_fma::<F>([a, b, c], inf_zero, env, flags) {
        return n;
    }
    let sign = x.sign != y.sign;
    let product_is_inf = x.class == Class::Inf || y.class == Class::Inf;
    if product_is_inf && z.class == Class::Inf && sign != z.sign {
        return invalid::<F>(env, flags);
    }
    note_subnormals::<F>(&[a, b, c], env, flags);
    if product_is_inf {
        return F::inf(sign);
    }
    match (x.class, y.class, z.class) {
        (_, _, Class::Inf) => F::inf(z.sign),
        (Class::Finite { exp: ea, sig: sa }, Class::Finite { exp: eb, sig: sb }, _) => {
            let (exp, sig) = (ea + eb, sa.times(sb));
            match z.class {
                Class::Finite { exp: ec, sig: sc } => {
                    let (ep, sp) = high(exp, sig);
                    let (ec, sc) = high(ec, WideOf::<F>::from(sc.into()));
                    sum::<F>((sign, ep, sp), (z.sign, ec, sc), rm, env, flags)
                }
                _ => pack_arith::<F>(sign, exp, sig, rm, env, flags),
            }
        }
        (_, _, Class::Finite { exp, sig }) => again::<F>(z.sign, exp, sig, rm, env, flags),
        _ => F::zero(if sign == z.sign { sign } else { rm == Rounding::Down }),
    }
}
