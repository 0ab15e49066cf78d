//! RISC-V's operations, by format.

use crate::compare::{MinMax, Which};
use crate::format::{BF16, F16, F32, F64};
use crate::rules::RiscV;
use crate::{Flags, Rounding};

macro_rules! api {
    ($t:ty, $f:ty, $bits:literal; $add:ident $sub:ident $mul:ident $div:ident $sqrt:ident $fma:ident
     $eq:ident $lt:ident $le:ident $min:ident $max:ident $class:ident) => {
        #[doc = concat!("`a + b` in binary", $bits, ".")]
        pub fn $add(a: $t, b: $t, rm: Rounding, f: &mut Flags) -> $t {
            crate::add::<$f>(a, b, rm, RiscV, f)
        }
        #[doc = concat!("`a - b` in binary", $bits, ".")]
        pub fn $sub(a: $t, b: $t, rm: Rounding, f: &mut Flags) -> $t {
            crate::sub::<$f>(a, b, rm, RiscV, f)
        }
        #[doc = concat!("`a × b` in binary", $bits, ".")]
        pub fn $mul(a: $t, b: $t, rm: Rounding, f: &mut Flags) -> $t {
            crate::mul::<$f>(a, b, rm, RiscV, f)
        }
        #[doc = concat!("`a ÷ b` in binary", $bits, ".")]
        pub fn $div(a: $t, b: $t, rm: Rounding, f: &mut Flags) -> $t {
            crate::div::<$f>(a, b, rm, RiscV, f)
        }
        #[doc = concat!("The square root of `a` in binary", $bits, ".")]
        pub fn $sqrt(a: $t, rm: Rounding, f: &mut Flags) -> $t {
            crate::sqrt::<$f>(a, rm, RiscV, f)
        }
        #[doc = concat!("`a × b + c` in binary", $bits, ", rounded once.")]
        pub fn $fma(a: $t, b: $t, c: $t, rm: Rounding, f: &mut Flags) -> $t {
            crate::fma::<$f>(a, b, c, rm, RiscV, f)
        }
        /// Whether `a = b`; only a signalling NaN is invalid.
        pub fn $eq(a: $t, b: $t, f: &mut Flags) -> bool {
            crate::compare::<$f>(a, b, RiscV, f).is_some_and(|o| o.is_eq())
        }
        /// Whether `a < b`; any NaN is invalid.
        pub fn $lt(a: $t, b: $t, f: &mut Flags) -> bool {
            crate::compare_signalling::<$f>(a, b, RiscV, f).is_some_and(|o| o.is_lt())
        }
        /// Whether `a ≤ b`; any NaN is invalid.
        pub fn $le(a: $t, b: $t, f: &mut Flags) -> bool {
            crate::compare_signalling::<$f>(a, b, RiscV, f).is_some_and(|o| o.is_le())
        }
        /// The lesser (IEEE 754-2019's minimumNumber).
        pub fn $min(a: $t, b: $t, f: &mut Flags) -> $t {
            crate::min_max::<$f>(a, b, Which::Min, MinMax::Number, RiscV, f)
        }
        /// The greater (IEEE 754-2019's maximumNumber).
        pub fn $max(a: $t, b: $t, f: &mut Flags) -> $t {
            crate::min_max::<$f>(a, b, Which::Max, MinMax::Number, RiscV, f)
        }
        /// What kind of number `a` is: one bit of ten, in the order of RISC-V's FCLASS.
        pub fn $class(a: $t) -> u16 {
            crate::classify::<$f>(a)
        }
    };
}

api!(u16, F16, "16"; f16_add f16_sub f16_mul f16_div f16_sqrt f16_fma f16_eq f16_lt f16_le f16_min f16_max f16_classify);
api!(u32, F32, "32"; f32_add f32_sub f32_mul f32_div f32_sqrt f32_fma f32_eq f32_lt f32_le f32_min f32_max f32_classify);
api!(u64, F64, "64"; f64_add f64_sub f64_mul f64_div f64_sqrt f64_fma f64_eq f64_lt f64_le f64_min f64_max f64_classify);

macro_rules! widen {
    ($($name:ident $a:ty, $ta:ty => $b:ty, $tb:ty;)*) => {$(
        /// To a wider format: always exact.
        pub fn $name(a: $ta, f: &mut Flags) -> $tb {
            crate::convert::<$a, $b>(a, Rounding::NearestEven, RiscV, f)
        }
    )*};
}

widen! {
    f32_to_f64 F32, u32 => F64, u64;
    f16_to_f32 F16, u16 => F32, u32;
    f16_to_f64 F16, u16 => F64, u64;
    bf16_to_f32 BF16, u16 => F32, u32;
}

macro_rules! narrow {
    ($($name:ident $a:ty, $ta:ty => $b:ty, $tb:ty;)*) => {$(
        /// To a narrower format.
        pub fn $name(a: $ta, rm: Rounding, f: &mut Flags) -> $tb {
            crate::convert::<$a, $b>(a, rm, RiscV, f)
        }
    )*};
}

narrow! {
    f64_to_f32 F64, u64 => F32, u32;
    f64_to_f16 F64, u64 => F16, u16;
    f32_to_f16 F32, u32 => F16, u16;
    f32_to_bf16 F32, u32 => BF16, u16;
}

macro_rules! ints {
    ($($t:ty, $f:ty, $int:ty, $to:ident, $from:ident;)*) => {$(
        #[doc = concat!("To `", stringify!($int), "`, saturating; a NaN gives the greatest value. Out of range is invalid.")]
        pub fn $to(a: $t, rm: Rounding, f: &mut Flags) -> $int {
            crate::to_int::<$f, $int>(a, rm, RiscV, f)
        }
        #[doc = concat!("From `", stringify!($int), "`.")]
        pub fn $from(v: $int, rm: Rounding, f: &mut Flags) -> $t {
            crate::from_int::<$int, $f>(v, rm, RiscV, f)
        }
    )*};
}

ints! {
    u16, F16, i32, f16_to_i32, i32_to_f16;
    u16, F16, u32, f16_to_u32, u32_to_f16;
    u16, F16, i64, f16_to_i64, i64_to_f16;
    u16, F16, u64, f16_to_u64, u64_to_f16;
    u32, F32, i32, f32_to_i32, i32_to_f32;
    u32, F32, u32, f32_to_u32, u32_to_f32;
    u32, F32, i64, f32_to_i64, i64_to_f32;
    u32, F32, u64, f32_to_u64, u64_to_f32;
    u64, F64, i32, f64_to_i32, i32_to_f64;
    u64, F64, u32, f64_to_u32, u32_to_f64;
    u64, F64, i64, f64_to_i64, i64_to_f64;
    u64, F64, u64, f64_to_u64, u64_to_f64;
}
