//! IEEE 754 arithmetic in software, bit by bit: results, exceptions and rounding as a guest's processor gives them.
//!
//! # Formats
//! A number is its bit pattern, a [`Format::Bits`] (`u16`, `u32`, `u64`, `u128`). The formats are types: [`F16`], [`BF16`],
//! [`F32`], [`F64`], the x87's [`X80`], [`F128`].
//!
//! # Operations
//! An operation is a function generic over the format, `add::<F64>(a, b, rounding, rules, &mut flags)`. It is pure: it adds to the
//! flags it is handed and touches nothing else.
//!
//! # Rules
//! What the standard leaves to the architecture (which NaN a result is, when it is tiny, what becomes of subnormals, what an
//! integer is that cannot hold the number) is in [`Rules`]. They are handed over as an [`Env`]: a [`Rules`] value that follows the
//! guest's control registers, or a type such as [`RiscV`] whose rules are known when the code is compiled. The functions
//! with a format in their names ([`f64_add`] and the others) are RISC-V's.
//!
//! # How
//! A finite value is `sig × 2^exp` with a `sig` wide enough to hold every intermediate result exactly or with one sticky bit:
//! 128 bits, or 256 for [`X80`] and [`F128`] (`wide`). `round::pack` alone rounds it to the format.

mod arith;
mod compare;
mod convert;
mod format;
mod integral;
mod nan;
mod riscv;
mod round;
mod rules;
mod wide;

pub use arith::*;
pub use compare::*;
pub use convert::*;
pub use format::{BF16, Bits, F16, F32, F64, F128, Format, X80};
pub use integral::*;
pub use nan::default_nan;
pub use riscv::*;
pub use rules::*;

use std::ops::{BitOr, BitOrAssign};

/// A rounding direction (IEEE 754-2008, 4.3), numbered as RISC-V's `frm` where that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rounding {
    /// To nearest, ties to even (RNE).
    NearestEven = 0,
    /// Towards zero (RTZ).
    TowardZero = 1,
    /// Towards minus infinity (RDN).
    Down = 2,
    /// Towards plus infinity (RUP).
    Up = 3,
    /// To nearest, ties away from zero (RMM).
    NearestMaxMagnitude = 4,
    /// To odd: the number of the two next to the exact result whose last bit is a one, so that rounding once more to a shorter
    /// format is as good as rounding once (Arm, Power).
    ToOdd = 5,
}

impl Rounding {
    /// The mode that `frm` (0 to 4) stands for; `None` for a reserved number.
    pub const fn from_frm(frm: u8) -> Option<Rounding> {
        Some(match frm {
            0 => Rounding::NearestEven,
            1 => Rounding::TowardZero,
            2 => Rounding::Down,
            3 => Rounding::Up,
            4 => Rounding::NearestMaxMagnitude,
            _ => return None,
        })
    }
}

/// Exceptions raised (IEEE 754-2008, 7), a set. The low five bits are those of RISC-V's `fflags`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No exception.
    pub const NONE: Flags = Flags(0);
    /// Inexact.
    pub const NX: Flags = Flags(1);
    /// Underflow: tiny, and inexact.
    pub const UF: Flags = Flags(2);
    /// Overflow.
    pub const OF: Flags = Flags(4);
    /// Division by zero.
    pub const DZ: Flags = Flags(8);
    /// Invalid operation.
    pub const NV: Flags = Flags(16);
    /// An operand was subnormal: raised where the [`Rules`] say so, never by RISC-V's.
    pub const DN: Flags = Flags(32);

    /// The set as `fflags` has it, with [`Flags::DN`] above.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set with `fflags`' low five bits.
    pub const fn from_bits(bits: u8) -> Flags {
        Flags(bits & 31)
    }

    /// Whether all of `other` is in the set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Flags;
    fn bitor(self, o: Flags) -> Flags {
        Flags(self.0 | o.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, o: Flags) {
        self.0 |= o.0;
    }
}
