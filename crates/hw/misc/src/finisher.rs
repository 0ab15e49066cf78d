//! SiFive's test finisher: the register that ends a simulation. Also a `syscon` through which a kernel powers the board
//! off or resets it.

use device::{Device, Reset, StateBlob, StateError};
use mem::{Mmio, Size};
use std::sync::Arc;

/// Register values by the names of SiFive's software development kit.
mod spec {
    /// The status stands in the low half.
    pub const STATUS: u32 = 0xffff;
    pub const FAIL: u32 = 0x3333;
    pub const PASS: u32 = 0x5555;
    pub const RESET: u32 = 0x7777;
}

/// The register's value that powers the board off.
pub const POWEROFF: u32 = spec::PASS;
/// The register's value that resets the board.
pub const REBOOT: u32 = spec::RESET;
/// The registers' length.
pub const LEN: u64 = 0x1000;

/// What a guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Power off; all is well.
    Pass,
    /// Power off; the test failed with this code.
    Fail(u16),
    /// Reset the board.
    Reset,
}

/// The finisher.
pub struct TestFinisher(Arc<dyn Fn(Finish) + Send + Sync>);

impl TestFinisher {
    /// A finisher that tells `f` what the guest asks for, on the thread of the vCPU that does.
    pub fn new(f: Arc<dyn Fn(Finish) + Send + Sync>) -> Arc<TestFinisher> {
        Arc::new(TestFinisher(f))
    }
}

impl Mmio for TestFinisher {
    fn read(&self, _off: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, off: u64, value: u64, _size: Size) {
        let value = value as u32;
        if off != 0 {
            return;
        }
        match value & spec::STATUS {
            spec::FAIL => (self.0)(Finish::Fail((value >> 16) as u16)),
            spec::PASS => (self.0)(Finish::Pass),
            spec::RESET => (self.0)(Finish::Reset),
            v => trace::log!(GuestErrors, "test finisher: 0x{v:x} means nothing"),
        }
    }

    fn accepts(&self, _off: u64, size: Size, _write: bool) -> bool {
        matches!(size, Size::B2 | Size::B4)
    }

    fn name(&self) -> &str {
        "riscv.sifive.test"
    }
}

impl Device for TestFinisher {
    fn reset(&self, _kind: Reset) {}

    fn save(&self) -> StateBlob {
        StateBlob::empty("sifive_test")
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        state.expect("sifive_test", 1, &[])
    }

    fn name(&self) -> &str {
        "riscv.sifive.test"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn three_values_mean_something() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let l = log.clone();
        let t = TestFinisher::new(Arc::new(move |f| l.lock().push(f)));
        for v in [0x5555, 0x7777, 0x0007_3333, 0, 0x1234, 0xffff_ffff] {
            Mmio::write(&*t, 0, v, Size::B4);
        }
        Mmio::write(&*t, 4, 0x5555, Size::B4);
        assert_eq!(*log.lock(), [Finish::Pass, Finish::Reset, Finish::Fail(7)]);
        assert_eq!(Mmio::read(&*t, 0, Size::B4), 0);
    }
}
