//! Conversions between the formats and to and from integers.

use crate::format::{Class, F32, F64, Format, unpack};
use crate::round::{pack, round_shift, shift_right_jam};
use crate::{Flags, Rounding};

fn reformat<A: Format, B: Format>(a: u64, rm: Rounding, flags: &mut Flags) -> u64 {
    let u = unpack::<A>(a);
    match u.class {
        Class::Nan { signalling } => {
            if signalling {
                *flags |= Flags::NV;
            }
            B::NAN
        }
        Class::Inf => B::inf(u.sign),
        Class::Zero => B::zero(u.sign),
        Class::Finite { exp, sig } => pack::<B>(u.sign, exp, sig.into(), rm, flags),
    }
}

/// The integer between `min` and `max` that `a` rounds to; outside it is invalid and saturates, a NaN to `max`.
fn to_int<F: Format>(a: u64, min: i128, max: i128, rm: Rounding, flags: &mut Flags) -> i128 {
    let u = unpack::<F>(a);
    let (exp, sig) = match u.class {
        Class::Zero => return 0,
        Class::Nan { .. } => {
            *flags |= Flags::NV;
            return max;
        }
        Class::Inf => {
            *flags |= Flags::NV;
            return if u.sign { min } else { max };
        }
        Class::Finite { exp, sig } => (exp, u128::from(sig)),
    };
    let (magnitude, inexact) = if exp > 64 {
        (1 << 100, false)
    } else if exp >= 0 {
        (sig << exp, false)
    } else {
        let by = (-exp) as u32;
        if by > 100 {
            round_shift(shift_right_jam(sig, by - 100), 100, u.sign, rm)
        } else {
            round_shift(sig, by, u.sign, rm)
        }
    };
    let v = if u.sign { -(magnitude as i128) } else { magnitude as i128 };
    if v < min || v > max {
        *flags |= Flags::NV;
        return v.clamp(min, max);
    }
    if inexact {
        *flags |= Flags::NX;
    }
    v
}

fn from_int<F: Format>(v: i128, rm: Rounding, flags: &mut Flags) -> u64 {
    pack::<F>(v < 0, 0, v.unsigned_abs(), rm, flags)
}

/// binary32 to binary64: always exact.
pub fn f32_to_f64(a: u32, f: &mut Flags) -> u64 {
    reformat::<F32, F64>(a.into(), Rounding::NearestEven, f)
}

/// binary64 to binary32.
pub fn f64_to_f32(a: u64, rm: Rounding, f: &mut Flags) -> u32 {
    reformat::<F64, F32>(a, rm, f) as u32
}

macro_rules! ints {
    ($($t:ty, $f:ty, $int:ty, $to:ident, $from:ident;)*) => {$(
        #[doc = concat!("To `", stringify!($int), "`, saturating; a NaN gives the greatest value. Out of range is invalid.")]
        pub fn $to(a: $t, rm: Rounding, f: &mut Flags) -> $int {
            to_int::<$f>(a.into(), <$int>::MIN.into(), <$int>::MAX.into(), rm, f) as $int
        }
        #[doc = concat!("From `", stringify!($int), "`.")]
        pub fn $from(v: $int, rm: Rounding, f: &mut Flags) -> $t {
            from_int::<$f>(v.into(), rm, f) as $t
        }
    )*};
}

ints! {
    u32, F32, i32, f32_to_i32, i32_to_f32;
    u32, F32, u32, f32_to_u32, u32_to_f32;
    u32, F32, i64, f32_to_i64, i64_to_f32;
    u32, F32, u64, f32_to_u64, u64_to_f32;
    u64, F64, i32, f64_to_i32, i32_to_f64;
    u64, F64, u32, f64_to_u32, u32_to_f64;
    u64, F64, i64, f64_to_i64, i64_to_f64;
    u64, F64, u64, f64_to_u64, u64_to_f64;
}
