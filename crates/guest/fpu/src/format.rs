//! The formats, and a number taken apart.

use crate::Flags;
use crate::rules::{Env, Subnormal};
use crate::wide::{Large, Medium, Narrow, Sig, Wide};
use std::fmt::{Debug, LowerHex};

/// The bits of a number of some format, in the low bits.
pub trait Bits: Copy + Eq + Ord + Debug + LowerHex + Send + Sync + 'static {
    /// The bits of `v` that fit.
    fn of(v: u128) -> Self;
    /// As the widest.
    fn wide(self) -> u128;
}

macro_rules! bits {
    ($($t:ty)*) => {$(
        impl Bits for $t {
            #[inline(always)]
            fn of(v: u128) -> $t {
                v as $t
            }
            #[inline(always)]
            fn wide(self) -> u128 {
                self.into()
            }
        }
    )*};
}

bits!(u16 u32 u64 u128);

/// A binary format (IEEE 754-2008, 3.4 and 3.7). The interchange formats have a hidden integer bit; the x87's 80 bits show it.
pub trait Format: Copy + Debug + Send + Sync + 'static {
    /// A number's bit pattern.
    type Bits: Bits;
    /// Its significand.
    type Sig: Sig;

    /// Bits of the significand, the integer bit included.
    const PRECISION: u32;
    /// Bits of the exponent field.
    const EXP_BITS: u32;
    /// Whether the integer bit is stored.
    const EXPLICIT: bool = false;

    /// Bits that are stored below the exponent field.
    const STORED: u32 = Self::PRECISION - 1 + Self::EXPLICIT as u32;
    /// The exponent field of infinities and NaNs.
    const EXP_MAX: u32 = (1 << Self::EXP_BITS) - 1;
    /// The bias of the exponent field.
    const BIAS: i32 = (1 << (Self::EXP_BITS - 1)) - 1;
    /// The least exponent of a normal number.
    const EMIN: i32 = 1 - Self::BIAS;
    /// The position of the sign.
    const SIGN: u32 = Self::STORED + Self::EXP_BITS;
    /// The integer bit of a significand.
    const INTEGER: u128 = 1 << (Self::PRECISION - 1);
    /// The bit that is set in a quiet NaN.
    const QUIET: u128 = 1 << (Self::PRECISION - 2);

    /// Whether the sign is minus.
    #[inline(always)]
    fn sign(bits: Self::Bits) -> bool {
        bits.wide() >> Self::SIGN & 1 != 0
    }

    /// The exponent field.
    #[inline(always)]
    fn field(bits: Self::Bits) -> u32 {
        (bits.wide() >> Self::STORED) as u32 & Self::EXP_MAX
    }

    /// What is stored below the exponent field.
    #[inline(always)]
    fn stored(bits: Self::Bits) -> u128 {
        bits.wide() & ((1 << Self::STORED) - 1)
    }

    /// The fraction: the significand without its integer bit.
    #[inline(always)]
    fn fraction(bits: Self::Bits) -> u128 {
        bits.wide() & (Self::INTEGER - 1)
    }

    /// A number from its sign, its exponent field, and its significand, of which a hidden bit is cut off.
    #[inline(always)]
    fn join(sign: bool, field: u32, sig: u128) -> Self::Bits {
        let stored = sig & ((1 << Self::STORED) - 1);
        Self::Bits::of((sign as u128) << Self::SIGN | (field as u128) << Self::STORED | stored)
    }

    /// An infinity.
    #[inline(always)]
    fn inf(sign: bool) -> Self::Bits {
        Self::join(sign, Self::EXP_MAX, Self::INTEGER)
    }

    /// The number of the greatest magnitude.
    #[inline(always)]
    fn greatest(sign: bool) -> Self::Bits {
        Self::join(sign, Self::EXP_MAX - 1, Self::INTEGER | (Self::INTEGER - 1))
    }

    /// A zero.
    #[inline(always)]
    fn zero(sign: bool) -> Self::Bits {
        Self::join(sign, 0, 0)
    }

    /// With the other sign.
    #[inline(always)]
    fn negate(bits: Self::Bits) -> Self::Bits {
        Self::Bits::of(bits.wide() ^ 1 << Self::SIGN)
    }

    /// Whether the bits are an encoding that the x87 gave up with the 80387: an unnormal, a pseudo-infinity or a pseudo-NaN.
    /// No operation takes one. (A pseudo-denormal is a number.)
    #[inline(always)]
    fn unsupported(bits: Self::Bits) -> bool {
        Self::EXPLICIT && Self::field(bits) != 0 && bits.wide() & Self::INTEGER == 0
    }

    /// Whether the bits are any NaN.
    #[inline(always)]
    fn is_nan(bits: Self::Bits) -> bool {
        Self::field(bits) == Self::EXP_MAX && Self::fraction(bits) != 0
    }

    /// Whether the bits are a signalling NaN.
    #[inline(always)]
    fn is_snan(bits: Self::Bits) -> bool {
        Self::is_nan(bits) && bits.wide() & Self::QUIET == 0
    }

    /// The number with the exponent field zero that is not zero.
    #[inline(always)]
    fn is_subnormal(bits: Self::Bits) -> bool {
        Self::field(bits) == 0 && Self::stored(bits) != 0
    }
}

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident $bits:ty, $sig:ty, $precision:literal $exp:literal $explicit:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Format for $name {
            type Bits = $bits;
            type Sig = $sig;
            const PRECISION: u32 = $precision;
            const EXP_BITS: u32 = $exp;
            const EXPLICIT: bool = $explicit;
        }
    )*};
}

formats! {
    /// binary16.
    F16 u16, Narrow, 11 5 false;
    /// bfloat16: the upper half of a binary32.
    BF16 u16, Narrow, 8 8 false;
    /// binary32.
    F32 u32, Narrow, 24 8 false;
    /// binary64.
    F64 u64, Narrow, 53 11 false;
    /// The x87's double extended format, 80 bits of a `u128`. Bits above them are ignored.
    X80 u128, Medium, 64 15 true;
    /// binary128.
    F128 u128, Large, 113 15 false;
}

/// What intermediate results of a format are computed in.
pub(crate) type WideOf<F> = <<F as Format>::Sig as Sig>::Wide;

/// A number taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class<S> {
    /// Also what [`Format::unsupported`] tells.
    Nan,
    Inf,
    Zero,
    /// `sig × 2^exp`, `sig` with its highest bit at `PRECISION - 1` (subnormals normalised too).
    Finite {
        exp: i32,
        sig: S,
    },
}

/// A sign and what it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unpacked<S> {
    pub(crate) sign: bool,
    pub(crate) class: Class<S>,
}

/// Takes a number apart; a subnormal is zero if the rules say so.
#[inline(always)]
pub(crate) fn unpack<F: Format>(bits: F::Bits, env: impl Env, flags: &mut Flags) -> Unpacked<F::Sig> {
    let (sign, field, stored) = (F::sign(bits), F::field(bits), F::stored(bits));
    let class = if field == F::EXP_MAX {
        if F::fraction(bits) == 0 && !F::unsupported(bits) { Class::Inf } else { Class::Nan }
    } else if field == 0 {
        if stored == 0 {
            Class::Zero
        } else {
            match env.rules().inputs {
                Subnormal::Zero => Class::Zero,
                Subnormal::ZeroFlagged => {
                    *flags |= Flags::DN;
                    Class::Zero
                }
                Subnormal::Keep | Subnormal::KeepFlagged => {
                    // A pseudo-denormal has its integer bit already.
                    let up = stored.leading_zeros() - (128 - F::PRECISION);
                    let exp = F::EMIN - (F::PRECISION - 1) as i32 - up as i32;
                    Class::Finite { exp, sig: F::Sig::of(stored << up) }
                }
            }
        }
    } else if F::unsupported(bits) {
        Class::Nan
    } else {
        let exp = field as i32 - F::BIAS - (F::PRECISION - 1) as i32;
        Class::Finite { exp, sig: F::Sig::of(stored | F::INTEGER) }
    };
    Unpacked { sign, class }
}

/// `sig × 2^exp` with the highest bit moved to the third from above.
#[inline(always)]
pub(crate) fn high<W: Wide>(exp: i32, sig: W) -> (i32, W) {
    let up = sig.leading_zeros() - 2;
    (exp - up as i32, sig << up)
}
