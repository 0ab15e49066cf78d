//! Unsigned integers that are wide enough for intermediate results: `u128`, and 256 bits for the formats whose products
//! and roots do not fit.

use std::ops::{Add, BitOr, Shl, Shr, Sub};

/// What the rounding of a result works on.
pub trait Wide:
    Copy
    + Ord
    + From<u128>
    + Add<Output = Self>
    + Sub<Output = Self>
    + BitOr<Output = Self>
    + Shl<u32, Output = Self>
    + Shr<u32, Output = Self>
{
    /// Its width.
    const BITS: u32;
    /// Zero.
    const ZERO: Self;
    /// Where the highest bit of a radicand may stand at most.
    const ROOT_TOP: u32;

    /// Leading zero bits.
    fn leading_zeros(self) -> u32;
    /// The low 128 bits.
    fn low(self) -> u128;
    /// Whether any of the low `n` bits is set; `n` is less than the width.
    fn any_below(self, n: u32) -> bool;
    /// The rounded-down square root, and whether it is exact. The highest bit is at [`Wide::ROOT_TOP`] or one above.
    fn root(self) -> (Self, bool);

    /// The low `n` bits, `n` less than the width.
    #[inline(always)]
    fn below(self, n: u32) -> Self {
        self - (self >> n << n)
    }

    /// `self >> by`, with every bit that falls out or-ed into the lowest bit.
    #[inline(always)]
    fn shift_right_jam(self, by: u32) -> Self {
        if by == 0 {
            self
        } else if by < Self::BITS {
            self >> by | Self::from(self.any_below(by) as u128)
        } else {
            Self::from((self != Self::ZERO) as u128)
        }
    }
}

impl Wide for u128 {
    const BITS: u32 = 128;
    const ZERO: u128 = 0;
    const ROOT_TOP: u32 = 125;

    #[inline(always)]
    fn leading_zeros(self) -> u32 {
        self.leading_zeros()
    }

    #[inline(always)]
    fn low(self) -> u128 {
        self
    }

    #[inline(always)]
    fn any_below(self, n: u32) -> bool {
        self & ((1 << n) - 1) != 0
    }

    #[inline(always)]
    fn below(self, n: u32) -> u128 {
        self & ((1 << n) - 1)
    }

    #[inline(always)]
    fn root(self) -> (u128, bool) {
        let r = self.isqrt();
        (r, r * r == self)
    }
}

/// 256 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct U256 {
    // The order of the fields is that of the comparison.
    hi: u128,
    lo: u128,
}

impl U256 {
    /// `a * b`.
    #[inline]
    pub(crate) fn product(a: u128, b: u128) -> U256 {
        const LOW: u128 = u64::MAX as u128;
        let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
        let (low, high) = (a0 * b0, a1 * b1);
        let (x, y) = (a1 * b0, a0 * b1);
        let middle = (low >> 64) + (x & LOW) + (y & LOW);
        U256 { lo: low & LOW | middle << 64, hi: high + (x >> 64) + (y >> 64) + (middle >> 64) }
    }
}

impl From<u128> for U256 {
    #[inline(always)]
    fn from(lo: u128) -> U256 {
        U256 { hi: 0, lo }
    }
}

impl Add for U256 {
    type Output = U256;
    #[inline(always)]
    fn add(self, o: U256) -> U256 {
        let (lo, carry) = self.lo.overflowing_add(o.lo);
        U256 { hi: self.hi + o.hi + carry as u128, lo }
    }
}

impl Sub for U256 {
    type Output = U256;
    #[inline(always)]
    fn sub(self, o: U256) -> U256 {
        let (lo, borrow) = self.lo.overflowing_sub(o.lo);
        U256 { hi: self.hi - o.hi - borrow as u128, lo }
    }
}

impl BitOr for U256 {
    type Output = U256;
    #[inline(always)]
    fn bitor(self, o: U256) -> U256 {
        U256 { hi: self.hi | o.hi, lo: self.lo | o.lo }
    }
}

impl Shl<u32> for U256 {
    type Output = U256;
    #[inline(always)]
    fn shl(self, n: u32) -> U256 {
        match n {
            0 => self,
            1..=127 => U256 { hi: self.hi << n | self.lo >> (128 - n), lo: self.lo << n },
            _ => U256 { hi: self.lo << (n - 128), lo: 0 },
        }
    }
}

impl Shr<u32> for U256 {
    type Output = U256;
    #[inline(always)]
    fn shr(self, n: u32) -> U256 {
        match n {
            0 => self,
            1..=127 => U256 { hi: self.hi >> n, lo: self.lo >> n | self.hi << (128 - n) },
            _ => U256 { hi: 0, lo: self.hi >> (n - 128) },
        }
    }
}

impl Wide for U256 {
    const BITS: u32 = 256;
    const ZERO: U256 = U256 { hi: 0, lo: 0 };
    // So that remainders of the root's digits fit in 128 bits.
    const ROOT_TOP: u32 = 249;

    #[inline(always)]
    fn leading_zeros(self) -> u32 {
        if self.hi != 0 { self.hi.leading_zeros() } else { 128 + self.lo.leading_zeros() }
    }

    #[inline(always)]
    fn low(self) -> u128 {
        self.lo
    }

    #[inline(always)]
    fn any_below(self, n: u32) -> bool {
        if n < 128 { self.lo.any_below(n) } else { self.lo != 0 || self.hi.any_below(n - 128) }
    }

    fn root(self) -> (U256, bool) {
        // The root of the high half, then a binary digit for each two bits of the low half.
        let mut root = self.hi.isqrt();
        let mut rest = self.hi - root * root;
        for n in (0..64).rev() {
            rest = rest << 2 | self.lo >> (2 * n) & 3;
            let with_one = root << 2 | 1;
            root <<= 1;
            if rest >= with_one {
                rest -= with_one;
                root |= 1;
            }
        }
        (root.into(), rest == 0)
    }
}

/// A significand.
pub trait Sig: Copy + Ord + Into<u128> {
    /// As the widest.
    #[inline(always)]
    fn wide(self) -> u128 {
        self.into()
    }

    /// For products of two.
    type Wide: Wide;

    /// The low bits.
    fn of(v: u128) -> Self;
    /// `self * o`.
    fn times(self, o: Self) -> Self::Wide;
    /// `self * 2^n / o` rounded down with a sticky lowest bit, and that `n`. Both have their highest bit at the same place.
    fn quotient(self, o: Self) -> (Self::Wide, i32);
}

/// A significand of up to 62 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Narrow(u64);

/// A significand of up to 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Medium(u64);

/// A significand of up to 113 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Large(u128);

macro_rules! from_sig {
    ($($t:ident)*) => {$(
        impl From<$t> for u128 {
            #[inline(always)]
            fn from(v: $t) -> u128 {
                v.0.into()
            }
        }
    )*};
}

from_sig!(Narrow Medium Large);

impl Sig for Narrow {
    type Wide = u128;

    #[inline(always)]
    fn of(v: u128) -> Narrow {
        Narrow(v as u64)
    }

    #[inline(always)]
    fn times(self, o: Narrow) -> u128 {
        u128::from(self.0) * u128::from(o.0)
    }

    #[inline(always)]
    fn quotient(self, o: Narrow) -> (u128, i32) {
        let (n, d) = (u128::from(self.0) << 64, u128::from(o.0));
        let q = n / d;
        (q << 1 | (q * d != n) as u128, 65)
    }
}

impl Sig for Medium {
    type Wide = U256;

    #[inline(always)]
    fn of(v: u128) -> Medium {
        Medium(v as u64)
    }

    #[inline(always)]
    fn times(self, o: Medium) -> U256 {
        (u128::from(self.0) * u128::from(o.0)).into()
    }

    #[inline(always)]
    fn quotient(self, o: Medium) -> (U256, i32) {
        let (n, d) = (u128::from(self.0) << 63, u128::from(o.0));
        let high = n / d;
        let rest = (n - high * d) << 32;
        let low = rest / d;
        ((high << 33 | low << 1 | (low * d != rest) as u128).into(), 96)
    }
}

impl Sig for Large {
    type Wide = U256;

    #[inline(always)]
    fn of(v: u128) -> Large {
        Large(v)
    }

    #[inline(always)]
    fn times(self, o: Large) -> U256 {
        U256::product(self.0, o.0)
    }

    fn quotient(self, o: Large) -> (U256, i32) {
        // Fifteen digits at a time: a remainder of 113 bits leaves as much room.
        let mut q = (self >= o) as u128;
        let mut rest = self.0 - q * o.0;
        for _ in 0..8 {
            rest <<= 15;
            let digits = rest / o.0;
            q = q << 15 | digits;
            rest -= digits * o.0;
        }
        // At most 121 bits.
        ((q << 1 | (rest != 0) as u128).into(), 121)
    }
}
