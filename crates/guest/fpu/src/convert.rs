//! Conversions between the formats and to and from integers.

use crate::format::{Class, Format, WideOf, unpack};
use crate::nan::{convert_nan, note_subnormals};
use crate::round::{pack, round_shift, round_shift_64};
use crate::rules::{Env, IntRule};
use crate::{Flags, Rounding};

/// `a` in another format. (The x87's stores to memory raise no [`Flags::DN`]: they use [`Subnormal::Keep`](crate::Subnormal::Keep).)
#[inline]
pub fn convert<A: Format, B: Format>(a: A::Bits, rm: Rounding, env: impl Env, flags: &mut Flags) -> B::Bits {
    let u = unpack::<A>(a, env, flags);
    match u.class {
        Class::Nan => convert_nan::<A, B>(a, env, flags),
        Class::Inf => B::inf(u.sign),
        Class::Zero => B::zero(u.sign),
        Class::Finite { exp, sig } => {
            note_subnormals::<A>(&[a], env, flags);
            pack::<B>(u.sign, exp, WideOf::<B>::from(sig.into()), rm, env, flags)
        }
    }
}

/// An integer that conversions know: 8 to 128 bits, signed or not.
pub trait Int: Copy {
    /// Whether it is signed.
    const SIGNED: bool;
    /// Its width.
    const BITS: u32;
    /// Its low bits from those of a two's complement number.
    fn of(v: u128) -> Self;
    /// The sign and the magnitude.
    fn parts(self) -> (bool, u128);
}

macro_rules! ints {
    ($($t:ty, $signed:literal;)*) => {$(
        impl Int for $t {
            const SIGNED: bool = $signed;
            const BITS: u32 = <$t>::BITS;
            #[inline(always)]
            fn of(v: u128) -> $t {
                v as $t
            }
            #[inline(always)]
            #[allow(unused_comparisons, reason = "also for unsigned ones")]
            fn parts(self) -> (bool, u128) {
                let negative = self < 0;
                (negative, if negative { (self as u128).wrapping_neg() } else { self as u128 })
            }
        }
    )*};
}

ints! {
    i8, true; i16, true; i32, true; i64, true; i128, true;
    u8, false; u16, false; u32, false; u64, false; u128, false;
}

/// What is not an integer of the wanted kind.
enum Beyond {
    Nan,
    Below,
    Above,
}

/// The sign and magnitude of `a × 2^scale` rounded, and whether that was inexact; a magnitude that does not fit is `None`.
#[inline(always)]
fn integral<F: Format>(
    a: F::Bits,
    scale: i32,
    rm: Rounding,
    env: impl Env,
    flags: &mut Flags,
) -> Result<(bool, Option<u128>, bool), Beyond> {
    let u = unpack::<F>(a, env, flags);
    let (exp, sig) = match u.class {
        Class::Zero => return Ok((u.sign, Some(0), false)),
        Class::Nan => return Err(Beyond::Nan),
        Class::Inf if u.sign => return Err(Beyond::Below),
        Class::Inf => return Err(Beyond::Above),
        Class::Finite { exp, sig } => (exp.saturating_add(scale), sig.into()),
    };
    if exp >= 0 {
        let fits = exp <= 128 - F::PRECISION as i32;
        return Ok((u.sign, fits.then(|| sig << exp), false));
    }
    // What is below a quarter is as good as an eighth; two bits more than the significand are enough for that.
    let limit = F::PRECISION + 2;
    let by = exp.unsigned_abs();
    let (sig, by) = if by > limit { (1, limit) } else { (sig, by) };
    let (v, inexact) = if limit < 64 {
        let (v, inexact) = round_shift_64(sig as u64, by, u.sign, rm);
        (v.into(), inexact)
    } else {
        round_shift(sig, by, u.sign, rm)
    };
    Ok((u.sign, Some(v), inexact))
}

/// The integer that `a` rounds to. What the integer cannot hold is invalid and gives what the rules say.
#[inline]
pub fn to_int<F: Format, I: Int>(a: F::Bits, rm: Rounding, env: impl Env, flags: &mut Flags) -> I {
    to_int_scaled::<F, I>(a, 0, rm, env, flags)
}

/// The integer that `a × 2^scale` rounds to: a conversion to fixed point.
#[inline]
pub fn to_int_scaled<F: Format, I: Int>(
    a: F::Bits,
    scale: i32,
    rm: Rounding,
    env: impl Env,
    flags: &mut Flags,
) -> I {
    let ones = u128::MAX >> (128 - I::BITS);
    let greatest = if I::SIGNED { ones >> 1 } else { ones };
    let least = if I::SIGNED { greatest + 1 } else { 0 };
    let beyond = match integral::<F>(a, scale, rm, env, flags) {
        Ok((sign, Some(v), inexact)) if v <= if sign { least } else { greatest } => {
            if inexact {
                *flags |= Flags::NX;
            }
            return I::of(if sign { v.wrapping_neg() } else { v });
        }
        Ok((true, ..)) => Beyond::Below,
        Ok((false, ..)) => Beyond::Above,
        Err(b) => b,
    };
    *flags |= Flags::NV;
    I::of(match (env.rules().to_int, beyond) {
        (IntRule::Indefinite, _) => {
            if I::SIGNED {
                least
            } else {
                ones
            }
        }
        (_, Beyond::Below) | (IntRule::SaturateNanMin, Beyond::Nan) => least,
        (_, Beyond::Above) | (IntRule::SaturateNanMax, Beyond::Nan) => greatest,
        (IntRule::SaturateNanZero, Beyond::Nan) => 0,
    })
}

/// The low bits of the integer that `a` rounds to, in two's complement; zero for an infinity or a NaN. Invalid where
/// [`to_int`] is (JavaScript's conversion: RISC-V's FCVTMOD, Arm's FJCVTZS).
pub fn to_int_modular<F: Format, I: Int>(a: F::Bits, rm: Rounding, env: impl Env, flags: &mut Flags) -> I {
    to_int::<F, I>(a, rm, env, flags);
    let u = unpack::<F>(a, env, &mut Flags::default());
    let Class::Finite { exp, sig } = u.class else { return I::of(0) };
    let v = match integral::<F>(a, 0, rm, env, &mut Flags::default()) {
        Ok((_, Some(v), _)) => v,
        _ if exp < 128 => sig.into() << exp,
        _ => 0,
    };
    I::of(if u.sign { v.wrapping_neg() } else { v })
}

/// The number nearest to an integer.
#[inline]
pub fn from_int<I: Int, F: Format>(v: I, rm: Rounding, env: impl Env, flags: &mut Flags) -> F::Bits {
    from_int_scaled::<I, F>(v, 0, rm, env, flags)
}

/// The number nearest to `v × 2^scale`: a conversion from fixed point.
#[inline]
pub fn from_int_scaled<I: Int, F: Format>(
    v: I,
    scale: i32,
    rm: Rounding,
    env: impl Env,
    flags: &mut Flags,
) -> F::Bits {
    let (sign, magnitude) = v.parts();
    let scale = scale.clamp(-0x1_0000, 0x1_0000);
    pack::<F>(sign, scale, WideOf::<F>::from(magnitude), rm, env, flags)
}
