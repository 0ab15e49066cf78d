//! The two formats, and a number taken apart.

/// A binary interchange format (IEEE 754-2008, 3.4), by its bit pattern in the low bits of a `u64`.
pub(crate) trait Format: Copy {
    /// Bits of the significand, the hidden one included.
    const PRECISION: u32;
    /// Bits of the exponent field.
    const EXP_BITS: u32;

    /// Bits of the stored fraction.
    const FRAC_BITS: u32 = Self::PRECISION - 1;
    /// The exponent field of infinities and NaNs.
    const EXP_MAX: u64 = (1 << Self::EXP_BITS) - 1;
    /// The bias of the exponent field.
    const BIAS: i32 = (1 << (Self::EXP_BITS - 1)) - 1;
    /// The least exponent of a normal number.
    const EMIN: i32 = 1 - Self::BIAS;
    /// The position of the sign.
    const SIGN: u32 = Self::FRAC_BITS + Self::EXP_BITS;
    /// The canonical quiet NaN.
    const NAN: u64 = Self::EXP_MAX << Self::FRAC_BITS | 1 << (Self::FRAC_BITS - 1);

    /// An infinity.
    fn inf(sign: bool) -> u64 {
        (sign as u64) << Self::SIGN | Self::EXP_MAX << Self::FRAC_BITS
    }

    /// A zero.
    fn zero(sign: bool) -> u64 {
        (sign as u64) << Self::SIGN
    }

    /// Whether the bits are a signalling NaN.
    fn is_snan(bits: u64) -> bool {
        let frac = bits & ((1 << Self::FRAC_BITS) - 1);
        bits >> Self::FRAC_BITS & Self::EXP_MAX == Self::EXP_MAX
            && frac != 0
            && frac >> (Self::FRAC_BITS - 1) == 0
    }

    /// Whether the bits are any NaN.
    fn is_nan(bits: u64) -> bool {
        bits >> Self::FRAC_BITS & Self::EXP_MAX == Self::EXP_MAX && bits & ((1 << Self::FRAC_BITS) - 1) != 0
    }
}

/// binary32.
#[derive(Clone, Copy)]
pub(crate) struct F32;
/// binary64.
#[derive(Clone, Copy)]
pub(crate) struct F64;

impl Format for F32 {
    const PRECISION: u32 = 24;
    const EXP_BITS: u32 = 8;
}

impl Format for F64 {
    const PRECISION: u32 = 53;
    const EXP_BITS: u32 = 11;
}

/// A number taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Nan {
        signalling: bool,
    },
    Inf,
    Zero,
    /// `sig × 2^exp`, `sig` with its highest bit at `PRECISION - 1` (subnormals normalised too).
    Finite {
        exp: i32,
        sig: u64,
    },
}

/// A sign and what it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unpacked {
    pub(crate) sign: bool,
    pub(crate) class: Class,
}

pub(crate) fn unpack<F: Format>(bits: u64) -> Unpacked {
    let sign = bits >> F::SIGN & 1 != 0;
    let frac = bits & ((1 << F::FRAC_BITS) - 1);
    let field = bits >> F::FRAC_BITS & F::EXP_MAX;
    let class = if field == F::EXP_MAX {
        if frac == 0 { Class::Inf } else { Class::Nan { signalling: F::is_snan(bits) } }
    } else if field == 0 {
        if frac == 0 {
            Class::Zero
        } else {
            let up = frac.leading_zeros() - (64 - F::PRECISION);
            Class::Finite { exp: F::EMIN - F::FRAC_BITS as i32 - up as i32, sig: frac << up }
        }
    } else {
        Class::Finite { exp: field as i32 - F::BIAS - F::FRAC_BITS as i32, sig: frac | 1 << F::FRAC_BITS }
    };
    Unpacked { sign, class }
}
