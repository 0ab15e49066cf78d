//! Addition, multiplication, division, square root, fused multiply-add, comparison, minimum and maximum,
//! classification.

use crate::format::{Class, F32, F64, Format, unpack};
use crate::round::{pack, shift_right_jam};
use crate::{Flags, Rounding};

fn invalid<F: Format>(flags: &mut Flags) -> u64 {
    *flags |= Flags::NV;
    F::NAN
}

fn nan_of<F: Format>(operands: &[u64], flags: &mut Flags) -> Option<u64> {
    if !operands.iter().any(|&v| F::is_nan(v)) {
        return None;
    }
    if operands.iter().any(|&v| F::is_snan(v)) {
        *flags |= Flags::NV;
    }
    Some(F::NAN)
}

/// The sum of two values `±sig × 2^exp` whose `sig` has its highest bit at 125 or is zero.
fn sum<F: Format>(
    (sa, ea, a): (bool, i32, u128),
    (sb, eb, b): (bool, i32, u128),
    rm: Rounding,
    flags: &mut Flags,
) -> u64 {
    let (e, a, b) = if ea >= eb {
        (ea, a, shift_right_jam(b, (ea - eb) as u32))
    } else {
        (eb, shift_right_jam(a, (eb - ea) as u32), b)
    };
    if sa == sb {
        return pack::<F>(sa, e, a + b, rm, flags);
    }
    match a.cmp(&b) {
        std::cmp::Ordering::Equal => F::zero(rm == Rounding::Down),
        std::cmp::Ordering::Greater => pack::<F>(sa, e, a - b, rm, flags),
        std::cmp::Ordering::Less => pack::<F>(sb, e, b - a, rm, flags),
    }
}

/// `sig × 2^exp` with the highest bit moved to 125.
fn high(exp: i32, sig: u128) -> (i32, u128) {
    let up = sig.leading_zeros() as i32 - 2;
    (exp - up, sig << up)
}

fn add<F: Format>(a: u64, b: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    if let Some(n) = nan_of::<F>(&[a, b], flags) {
        return n;
    }
    let (x, y) = (unpack::<F>(a), unpack::<F>(b));
    match (x.class, y.class) {
        (Class::Inf, Class::Inf) if x.sign != y.sign => invalid::<F>(flags),
        (Class::Inf, _) => a,
        (_, Class::Inf) => b,
        (Class::Zero, Class::Zero) if x.sign != y.sign => F::zero(rm == Rounding::Down),
        (_, Class::Zero) => a,
        (Class::Zero, _) => b,
        (Class::Finite { exp: ea, sig: sa }, Class::Finite { exp: eb, sig: sb }) => {
            let ((ea, sa), (eb, sb)) = (high(ea, sa.into()), high(eb, sb.into()));
            sum::<F>((x.sign, ea, sa), (y.sign, eb, sb), rm, flags)
        }
        (Class::Nan { .. }, _) | (_, Class::Nan { .. }) => F::NAN,
    }
}

fn negate<F: Format>(a: u64) -> u64 {
    a ^ 1 << F::SIGN
}

fn mul<F: Format>(a: u64, b: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    if let Some(n) = nan_of::<F>(&[a, b], flags) {
        return n;
    }
    let (x, y) = (unpack::<F>(a), unpack::<F>(b));
    let sign = x.sign != y.sign;
    match (x.class, y.class) {
        (Class::Inf, Class::Zero) | (Class::Zero, Class::Inf) => invalid::<F>(flags),
        (Class::Inf, _) | (_, Class::Inf) => F::inf(sign),
        (Class::Finite { exp: ea, sig: sa }, Class::Finite { exp: eb, sig: sb }) => {
            pack::<F>(sign, ea + eb, u128::from(sa) * u128::from(sb), rm, flags)
        }
        _ => F::zero(sign),
    }
}

fn div<F: Format>(a: u64, b: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    if let Some(n) = nan_of::<F>(&[a, b], flags) {
        return n;
    }
    let (x, y) = (unpack::<F>(a), unpack::<F>(b));
    let sign = x.sign != y.sign;
    match (x.class, y.class) {
        (Class::Inf, Class::Inf) | (Class::Zero, Class::Zero) => invalid::<F>(flags),
        (Class::Inf, _) => F::inf(sign),
        (Class::Finite { .. }, Class::Zero) => {
            *flags |= Flags::DZ;
            F::inf(sign)
        }
        (Class::Finite { exp: ea, sig: sa }, Class::Finite { exp: eb, sig: sb }) => {
            let (n, d) = (u128::from(sa) << 70, u128::from(sb));
            let q = (n / d) << 1 | (n % d != 0) as u128;
            pack::<F>(sign, ea - eb - 71, q, rm, flags)
        }
        _ => F::zero(sign),
    }
}

fn sqrt<F: Format>(a: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    if let Some(n) = nan_of::<F>(&[a], flags) {
        return n;
    }
    let x = unpack::<F>(a);
    match x.class {
        Class::Zero => a,
        _ if x.sign => invalid::<F>(flags),
        Class::Finite { exp, sig } => {
            let (mut e, mut s) = high(exp, sig.into());
            if e & 1 != 0 {
                e -= 1;
                s <<= 1;
            }
            let r = s.isqrt();
            pack::<F>(false, e / 2 - 1, r << 1 | (r * r != s) as u128, rm, flags)
        }
        _ => a,
    }
}

fn fma<F: Format>(a: u64, b: u64, c: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    let (x, y, z) = (unpack::<F>(a), unpack::<F>(b), unpack::<F>(c));
    // Infinity times zero is invalid even when a quiet NaN is added (RISC-V, 11.6).
    if matches!((x.class, y.class), (Class::Inf, Class::Zero) | (Class::Zero, Class::Inf)) {
        return invalid::<F>(flags);
    }
    if let Some(n) = nan_of::<F>(&[a, b, c], flags) {
        return n;
    }
    let sign = x.sign != y.sign;
    match (x.class, y.class, z.class) {
        (Class::Inf, _, Class::Inf) | (_, Class::Inf, Class::Inf) if sign != z.sign => invalid::<F>(flags),
        (Class::Inf, _, _) | (_, Class::Inf, _) => F::inf(sign),
        (_, _, Class::Inf) => c,
        (Class::Finite { exp: ea, sig: sa }, Class::Finite { exp: eb, sig: sb }, _) => {
            let (exp, sig) = (ea + eb, u128::from(sa) * u128::from(sb));
            match z.class {
                Class::Finite { exp: ec, sig: sc } => {
                    let ((ep, sp), (ec, sc)) = (high(exp, sig), high(ec, sc.into()));
                    sum::<F>((sign, ep, sp), (z.sign, ec, sc), rm, flags)
                }
                _ => pack::<F>(sign, exp, sig, rm, flags),
            }
        }
        (_, _, Class::Zero) if sign != z.sign => F::zero(rm == Rounding::Down),
        _ => c,
    }
}

/// The order of two numbers that are no NaNs; zeroes are equal.
fn order<F: Format>(a: u64, b: u64) -> std::cmp::Ordering {
    let key = |v: u64| {
        let magnitude = (v & !(1 << F::SIGN)) as i64;
        if v >> F::SIGN & 1 != 0 { -magnitude } else { magnitude }
    };
    key(a).cmp(&key(b))
}

fn equal<F: Format>(a: u64, b: u64, flags: &mut Flags) -> bool {
    nan_of::<F>(&[a, b], flags).is_none() && order::<F>(a, b).is_eq()
}

/// The order of two numbers for a signalling comparison: any NaN is invalid and unordered.
fn order_signalling<F: Format>(a: u64, b: u64, flags: &mut Flags) -> Option<std::cmp::Ordering> {
    if F::is_nan(a) || F::is_nan(b) {
        *flags |= Flags::NV;
        return None;
    }
    Some(order::<F>(a, b))
}

fn minmax<F: Format>(a: u64, b: u64, max: bool, flags: &mut Flags) -> u64 {
    if F::is_snan(a) || F::is_snan(b) {
        *flags |= Flags::NV;
    }
    match (F::is_nan(a), F::is_nan(b)) {
        (true, true) => F::NAN,
        (true, false) => b,
        (false, true) => a,
        // Here -0 is less than +0.
        _ => {
            let a_is_less = order::<F>(a, b).then((b >> F::SIGN & 1).cmp(&(a >> F::SIGN & 1))).is_lt();
            if a_is_less != max { a } else { b }
        }
    }
}

fn classify<F: Format>(a: u64) -> u16 {
    let u = unpack::<F>(a);
    let subnormal = a >> F::FRAC_BITS & F::EXP_MAX == 0;
    1 << match (u.class, u.sign) {
        (Class::Inf, true) => 0,
        (Class::Finite { .. }, true) => 1 + subnormal as u16,
        (Class::Zero, true) => 3,
        (Class::Zero, false) => 4,
        (Class::Finite { .. }, false) => 6 - subnormal as u16,
        (Class::Inf, false) => 7,
        (Class::Nan { signalling }, _) => 9 - signalling as u16,
    }
}

macro_rules! api {
    ($t:ty, $f:ty, $bits:literal; $add:ident $sub:ident $mul:ident $div:ident $sqrt:ident $fma:ident
     $eq:ident $lt:ident $le:ident $min:ident $max:ident $class:ident) => {
        #[doc = concat!("`a + b` in binary", $bits, ".")]
        pub fn $add(a: $t, b: $t, rm: Rounding, f: &mut Flags) -> $t {
            add::<$f>(a.into(), b.into(), rm, f) as $t
        }
        #[doc = concat!("`a - b` in binary", $bits, ".")]
        pub fn $sub(a: $t, b: $t, rm: Rounding, f: &mut Flags) -> $t {
            add::<$f>(a.into(), negate::<$f>(b.into()), rm, f) as $t
        }
        #[doc = concat!("`a × b` in binary", $bits, ".")]
        pub fn $mul(a: $t, b: $t, rm: Rounding, f: &mut Flags) -> $t {
            mul::<$f>(a.into(), b.into(), rm, f) as $t
        }
        #[doc = concat!("`a ÷ b` in binary", $bits, ".")]
        pub fn $div(a: $t, b: $t, rm: Rounding, f: &mut Flags) -> $t {
            div::<$f>(a.into(), b.into(), rm, f) as $t
        }
        #[doc = concat!("The square root of `a` in binary", $bits, ".")]
        pub fn $sqrt(a: $t, rm: Rounding, f: &mut Flags) -> $t {
            sqrt::<$f>(a.into(), rm, f) as $t
        }
        #[doc = concat!("`a × b + c` in binary", $bits, ", rounded once.")]
        pub fn $fma(a: $t, b: $t, c: $t, rm: Rounding, f: &mut Flags) -> $t {
            fma::<$f>(a.into(), b.into(), c.into(), rm, f) as $t
        }
        /// Whether `a = b`; only a signalling NaN is invalid.
        pub fn $eq(a: $t, b: $t, f: &mut Flags) -> bool {
            equal::<$f>(a.into(), b.into(), f)
        }
        /// Whether `a < b`; any NaN is invalid.
        pub fn $lt(a: $t, b: $t, f: &mut Flags) -> bool {
            order_signalling::<$f>(a.into(), b.into(), f).is_some_and(|o| o.is_lt())
        }
        /// Whether `a ≤ b`; any NaN is invalid.
        pub fn $le(a: $t, b: $t, f: &mut Flags) -> bool {
            order_signalling::<$f>(a.into(), b.into(), f).is_some_and(|o| o.is_le())
        }
        /// The lesser (IEEE 754-2019's minimumNumber).
        pub fn $min(a: $t, b: $t, f: &mut Flags) -> $t {
            minmax::<$f>(a.into(), b.into(), false, f) as $t
        }
        /// The greater (IEEE 754-2019's maximumNumber).
        pub fn $max(a: $t, b: $t, f: &mut Flags) -> $t {
            minmax::<$f>(a.into(), b.into(), true, f) as $t
        }
        /// What kind of number `a` is: one bit of ten, in the order of RISC-V's FCLASS.
        pub fn $class(a: $t) -> u16 {
            classify::<$f>(a.into())
        }
    };
}

api!(u32, F32, "32"; f32_add f32_sub f32_mul f32_div f32_sqrt f32_fma f32_eq f32_lt f32_le f32_min f32_max f32_classify);
api!(u64, F64, "64"; f64_add f64_sub f64_mul f64_div f64_sqrt f64_fma f64_eq f64_lt f64_le f64_min f64_max f64_classify);
