//! A hart's interrupt inputs and the flag that gets it out of guest code.

use sem::ExitFlag;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;

/// The guest's timer: how many ticks of the timebase have passed.
pub trait Clock: Send + Sync {
    /// Ticks of the timebase since the machine was started; stands still while it is paused.
    fn ticks(&self) -> u64;
}

/// The interrupt inputs of one hart: the bits of `mip` that come from outside.
///
/// Any thread may set a pin at any time; no lock is taken. A change gets the hart out of a `wfi` or, if it
/// runs, makes it look at its interrupts soon.
///
/// Bit 1 (SSI) is a latch rather than a level: the guest clears it through `sip` or `mip`.
#[derive(Debug, Default)]
pub struct HartPins {
    mip: AtomicU64,
    /// Deadline of the SBI timer, in ticks; all ones: none.
    sbi_timer: AtomicU64,
    flag: ExitFlag,
    thread: OnceLock<Thread>,
}

impl HartPins {
    /// All inputs low.
    pub fn new() -> HartPins {
        HartPins { sbi_timer: AtomicU64::new(u64::MAX), ..HartPins::default() }
    }

    /// Sets an input: `bit` is its number in `mip` (1 SSI, 3 MSI, 5 STI, 7 MTI, 9 SEI, 11 MEI; others are
    /// ignored).
    pub fn set(&self, bit: u32, level: bool) {
        if !matches!(bit, 1 | 3 | 5 | 7 | 9 | 11) {
            return;
        }
        let mask = 1 << bit;
        let old = if level {
            self.mip.fetch_or(mask, Ordering::AcqRel)
        } else {
            self.mip.fetch_and(!mask, Ordering::AcqRel)
        };
        if level && old & mask == 0 {
            self.kick();
        }
    }

    /// The guest's own change of SSI, which needs no kick.
    pub(crate) fn set_ssi_by_guest(&self, level: bool) {
        if level {
            self.mip.fetch_or(1 << 1, Ordering::AcqRel);
        } else {
            self.mip.fetch_and(!(1 << 1), Ordering::AcqRel);
        }
    }

    /// The inputs' levels as bits of `mip`.
    #[inline]
    pub fn levels(&self) -> u64 {
        self.mip.load(Ordering::Acquire)
    }

    /// Sets the deadline of the timer that built-in SBI firmware gives the hart (ticks; all ones: none). It
    /// raises STI while the time is at or past it.
    pub fn set_sbi_timer(&self, ticks: u64) {
        self.sbi_timer.store(ticks, Ordering::Release);
        self.kick();
    }

    /// The deadline that [`HartPins::set_sbi_timer`] set.
    #[inline]
    pub fn sbi_timer(&self) -> u64 {
        self.sbi_timer.load(Ordering::Acquire)
    }

    /// Gets the hart out of guest code or out of its sleep.
    pub fn kick(&self) {
        self.flag.raise();
        if let Some(t) = self.thread.get() {
            t.unpark();
        }
    }

    /// The flag that a running hart watches.
    #[inline(always)]
    pub fn flag(&self) -> &ExitFlag {
        &self.flag
    }

    /// Tells which thread sleeps for this hart; the first caller counts.
    pub fn bind_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// All inputs low and no timer: a reset of the machine.
    pub fn reset(&self) {
        self.mip.store(0, Ordering::Release);
        self.sbi_timer.store(u64::MAX, Ordering::Release);
    }
}
