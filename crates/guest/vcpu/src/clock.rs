//! Guest time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Ticks of the guest's timebase in a second.
pub const TIMEBASE_HZ: u64 = 10_000_000;
const NS_PER_TICK: u64 = 1_000_000_000 / TIMEBASE_HZ;
const RUNNING: u64 = 1;

/// Guest time: nanoseconds since the start, which stand still while the machine is paused.
///
/// Any thread may read it without a lock. It starts paused, at 0.
#[derive(Debug)]
pub struct CpuClock {
    epoch: Instant,
    /// Running: the host time (since `epoch`) at which guest time was 0. Paused: guest time. Shifted left by
    /// one, with the lowest bit telling which. Nanoseconds; 63 bits last 292 years.
    state: AtomicU64,
}

impl Default for CpuClock {
    fn default() -> CpuClock {
        CpuClock::new()
    }
}

impl CpuClock {
    /// A paused clock at 0.
    pub fn new() -> CpuClock {
        CpuClock { epoch: Instant::now(), state: AtomicU64::new(0) }
    }

    fn host_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn at(&self, state: u64, host: u64) -> u64 {
        // Shifting back as signed: guest time may be ahead of the host's after a `set`.
        let v = (state as i64 >> 1) as u64;
        if state & RUNNING != 0 { host.wrapping_sub(v) } else { v }
    }

    /// Guest time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.at(self.state.load(Ordering::Acquire), self.host_ns())
    }

    /// Whether time passes.
    pub fn is_running(&self) -> bool {
        self.state.load(Ordering::Acquire) & RUNNING != 0
    }

    /// Lets time pass. Nothing changes where it does already.
    pub fn resume(&self) {
        let host = self.host_ns();
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |s| {
            (s & RUNNING == 0).then(|| host.wrapping_sub(self.at(s, host)) << 1 | RUNNING)
        });
    }

    /// Stops time.
    pub fn pause(&self) {
        let host = self.host_ns();
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |s| {
            (s & RUNNING != 0).then(|| self.at(s, host) << 1)
        });
    }

    /// Sets guest time, running or not: what a loaded snapshot says.
    pub fn set_ns(&self, ns: u64) {
        let host = self.host_ns();
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |s| {
            Some(if s & RUNNING != 0 { host.wrapping_sub(ns) << 1 | RUNNING } else { ns << 1 })
        });
    }

    /// The guest time of a tick of the timebase, in nanoseconds.
    pub fn ns_of_ticks(ticks: u64) -> u64 {
        ticks.saturating_mul(NS_PER_TICK)
    }
}

impl isa_riscv::Clock for CpuClock {
    fn ticks(&self) -> u64 {
        self.now_ns() / NS_PER_TICK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_passes_only_while_running() {
        let c = CpuClock::new();
        assert_eq!(c.now_ns(), 0);
        c.pause();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(c.now_ns(), 0);
        c.resume();
        c.resume();
        std::thread::sleep(Duration::from_millis(5));
        let a = c.now_ns();
        assert!((5_000_000..2_000_000_000).contains(&a), "{a}");
        c.pause();
        let b = c.now_ns();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(c.now_ns(), b);
        c.set_ns(1 << 50);
        assert_eq!(c.now_ns(), 1 << 50);
        c.resume();
        assert!(c.now_ns() >= 1 << 50 && c.now_ns() < (1 << 50) + 1_000_000_000);
        assert!(isa_riscv::Clock::ticks(&c) >= (1 << 50) / 100);
    }
}
