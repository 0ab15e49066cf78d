//! The flag that asks guest code to stop.

use std::sync::atomic::{AtomicBool, Ordering};

/// Asks whoever runs guest code to return to its caller soon.
///
/// Guest code tests it where control flow may loop; a raised flag stays raised until it is taken, so a
/// request made while the vCPU is outside of guest code is not lost.
#[derive(Debug, Default)]
pub struct ExitFlag(AtomicBool);

impl ExitFlag {
    /// Not raised.
    pub const fn new() -> ExitFlag {
        ExitFlag(AtomicBool::new(false))
    }

    /// Asks. What the caller wrote before is visible to whoever takes the flag.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it is raised; cheap, orders nothing.
    #[inline(always)]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Lowers it and tells whether it was raised.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}
