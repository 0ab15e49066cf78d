//! IEEE 754 binary32 and binary64 arithmetic in software, with the guest's rounding mode and exception flags.
//!
//! A number is its bit pattern (`u32` or `u64`). Results and flags are those of IEEE 754-2008 with the choices that
//! the RISC-V F and D extensions make: a NaN result is the canonical quiet NaN, tininess is detected after rounding,
//! and a conversion to an integer saturates. Every function is pure: it adds to the flags it is handed and touches
//! nothing else.
//!
//! All operations share one idea: a finite value is `sig × 2^exp` with a 128-bit `sig`, wide enough to hold every
//! intermediate result exactly or with one sticky bit; `round::pack` alone rounds it to the format.

mod arith;
mod convert;
mod format;
mod round;

pub use arith::*;
pub use convert::*;

use std::ops::{BitOr, BitOrAssign};

/// A rounding direction (IEEE 754-2008, 4.3), numbered as RISC-V's `frm`.
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

/// Exceptions raised (IEEE 754-2008, 7), a set with the bits of RISC-V's `fflags`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No exception.
    pub const NONE: Flags = Flags(0);
    /// Inexact.
    pub const NX: Flags = Flags(1);
    /// Underflow: tiny after rounding, and inexact.
    pub const UF: Flags = Flags(2);
    /// Overflow.
    pub const OF: Flags = Flags(4);
    /// Division by zero.
    pub const DZ: Flags = Flags(8);
    /// Invalid operation.
    pub const NV: Flags = Flags(16);

    /// The set as `fflags` has it.
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
