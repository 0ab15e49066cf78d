//! How fast a job may go.

use std::time::{Duration, Instant};

/// Work that may be caught up after a moment in which the job could not go on.
const CREDIT: Duration = Duration::from_millis(50);

/// Bytes that a job has copied, or is about to, over what its speed allowed so far. What is owed is worked off as time
/// goes by; the job begins nothing new until then.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes per second; 0 for no limit.
    speed: u64,
    /// Bytes, as of `at`. Negative: work that may be caught up.
    owed: f64,
    at: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(speed: u64) -> Pace {
        Pace { speed, owed: 0.0, at: None }
    }

    /// Sets the speed from now on. What was owed at the old speed is forgotten.
    pub(crate) fn set(&mut self, speed: u64) {
        *self = Pace::new(speed);
    }

    /// Bytes per second; 0 for no limit.
    pub(crate) fn speed(&self) -> u64 {
        self.speed
    }

    fn settle(&mut self, now: Instant) {
        let speed = self.speed as f64;
        if let Some(at) = self.at {
            let worked = speed * now.saturating_duration_since(at).as_secs_f64();
            self.owed = (self.owed - worked).max(-speed * CREDIT.as_secs_f64());
        }
        self.at = Some(now);
    }

    /// `bytes` are about to be copied.
    pub(crate) fn owe(&mut self, bytes: u64, now: Instant) {
        if self.speed > 0 {
            self.settle(now);
            self.owed += bytes as f64;
        }
    }

    /// `bytes` that were to be copied need not be.
    pub(crate) fn forgive(&mut self, bytes: u64, now: Instant) {
        if self.speed > 0 {
            self.settle(now);
            self.owed -= bytes as f64;
        }
    }

    /// How long the job has to wait; `None` where it may go on.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        if self.speed == 0 {
            return None;
        }
        self.settle(now);
        // Less than a byte is nothing to wait for, and would be no time at all.
        (self.owed >= 1.0).then(|| Duration::from_secs_f64((self.owed / self.speed as f64).min(1e9)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_speed() {
        let start = Instant::now();
        let (mut p, mut now, mut done) = (Pace::new(1000), start, 0u64);
        for i in 0..500 {
            if let Some(w) = p.wait(now) {
                now += w + Duration::from_millis(i % 7);
                assert_eq!(p.wait(now), None);
            }
            let n = 50 + i % 100;
            p.owe(n, now);
            done += n;
        }
        let took = (now - start).as_secs_f64();
        assert!((took - done as f64 / 1000.0).abs() < 0.2, "{done} bytes in {took} s");
    }

    #[test]
    fn a_new_speed_counts_at_once_and_what_is_not_copied_not_at_all() {
        let now = Instant::now();
        let mut p = Pace::new(1);
        p.owe(1 << 20, now);
        assert!(p.wait(now).is_some_and(|w| w > Duration::from_secs(1_000_000)));
        p.forgive(1 << 20, now);
        assert_eq!(p.wait(now), None);
        p.owe(1 << 20, now);
        p.set(0);
        assert_eq!(p.wait(now), None);
        // A long rest earns no more than the credit.
        p.set(1000);
        p.owe(1, now);
        p.owe(1000, now + Duration::from_secs(100));
        let w = p.wait(now + Duration::from_secs(100));
        assert!(w.is_some_and(|w| w >= Duration::from_millis(940)), "{w:?}");
    }
}
