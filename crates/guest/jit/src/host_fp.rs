//! The host's floating-point environment: rounding mode and sticky exceptions, as the guest wants them.
//!
//! Native code computes under the guest's rounding mode, and exceptions gather in the host's control register until native code
//! returns. Rust code expects the usual mode, so whatever native code calls changes back for as long.

#[cfg(target_arch = "x86_64")]
mod host {
    use std::arch::asm;

    /// Everything masked, to nearest.
    pub(super) const USUAL: u32 = 0x1f80;
    const FLAGS: u32 = 0x3f;
    const ROUNDING_SHIFT: u32 = 13;

    pub(super) fn get() -> u32 {
        let mut v = 0u32;
        // SAFETY: the instruction writes four bytes to the address.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut v, options(nostack, preserves_flags)) };
        v
    }

    pub(super) fn set(v: u32) {
        // SAFETY: the instruction reads four bytes of the address; the value leaves every exception masked.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const v, options(nostack, preserves_flags, readonly)) };
    }

    /// Under the guest's rounding mode `frm`; to nearest where the host has no such mode.
    pub(super) fn of(frm: u8) -> u32 {
        // To zero, down and up are other numbers here.
        let rc = [0, 3, 1, 2].get(usize::from(frm)).copied().unwrap_or(0);
        USUAL | rc << ROUNDING_SHIFT
    }

    /// The guest's flags: inexact, underflow, overflow, division by zero, invalid, from bit 0 on.
    pub(super) fn flags(v: u32) -> u8 {
        let v = v & FLAGS;
        let bit = |from: u32, to: u32| (v >> from & 1) << to;
        (bit(5, 0) | bit(4, 1) | bit(3, 2) | bit(2, 3) | bit(0, 4)) as u8
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod host {
    pub(super) const USUAL: u32 = 0;

    pub(super) fn get() -> u32 {
        USUAL
    }

    pub(super) fn set(_: u32) {}

    pub(super) fn of(_: u8) -> u32 {
        USUAL
    }

    pub(super) fn flags(_: u32) -> u8 {
        0
    }
}

/// The guest's environment, until it is dropped.
pub(crate) struct Guest;

impl Guest {
    /// Enters it, with no exception raised.
    pub(crate) fn enter(frm: u8) -> Guest {
        host::set(host::of(frm));
        Guest
    }

    /// Exceptions that were raised so far, as bits of the guest's `fflags`.
    pub(crate) fn flags(&self) -> u8 {
        host::flags(host::get())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        host::set(host::USUAL);
    }
}

/// The environment that Rust code expects, until it is dropped; then that of before.
pub(crate) struct Usual(u32);

impl Usual {
    pub(crate) fn enter() -> Usual {
        let before = host::get();
        if before != host::USUAL {
            host::set(host::USUAL);
        }
        Usual(before)
    }
}

impl Drop for Usual {
    fn drop(&mut self) {
        if self.0 != host::USUAL {
            host::set(self.0);
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn flags_and_modes_are_the_guests() {
        let g = Guest::enter(3);
        let third = black_box(black_box(1.0f64) / black_box(3.0));
        let seen = g.flags();
        drop(g);
        assert_eq!(seen, 1);
        assert!(third > 1.0 / 3.0);
        let g = Guest::enter(0);
        let _ = black_box(black_box(1.0f64) / black_box(0.0));
        {
            let _u = Usual::enter();
            let _ = black_box(black_box(f64::MAX) * black_box(2.0));
        }
        let seen = g.flags();
        drop(g);
        assert_eq!(seen, 8);
    }
}
