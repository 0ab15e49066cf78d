//! Looking for work for a moment before going to sleep.
//!
//! Going to sleep and being woken costs a thread, and whoever wakes it, more than many requests do. Where the next piece of
//! work mostly comes within some microseconds, looking out for it is quicker, and cheaper for both. How long to look is
//! learnt from how long the waits were: nothing at all where they are long. And where looking does not help, because the
//! others need this processor, it is given up for longer and longer.

use std::time::Duration;

/// The shortest time worth looking.
const LEAST: Duration = Duration::from_micros(4);
/// The most waits that are slept through after looking in vain.
const MOST_SKIPPED: u32 = 4096;

/// What was learnt from the waits so far.
#[derive(Debug)]
pub(crate) struct Spin {
    /// The longest time to look.
    most: Duration,
    /// How long to look now.
    window: Duration,
    /// Waits to sleep through at the next failure, and still.
    penalty: u32,
    skip: u32,
}

impl Spin {
    /// Looks for `most` at most; never on a host with one processor.
    pub(crate) fn new(most: Duration) -> Spin {
        let alone = std::thread::available_parallelism().map_or(1, usize::from) < 2;
        let most = if alone { Duration::ZERO } else { most };
        Spin { most, window: Duration::ZERO, penalty: 0, skip: 0 }
    }

    /// How long to look before the sleep that is to come; zero for not at all.
    pub(crate) fn window(&mut self) -> Duration {
        if self.skip > 0 {
            self.skip -= 1;
            return Duration::ZERO;
        }
        self.window
    }

    /// Whether the length of sleeps is of interest.
    pub(crate) fn is_on(&self) -> bool {
        !self.most.is_zero()
    }

    /// There was work in the time of looking.
    pub(crate) fn found(&mut self) {
        self.penalty /= 2;
    }

    /// There was none in `looked`, and all in all it took `idle`.
    pub(crate) fn slept(&mut self, looked: Duration, idle: Duration) {
        if !looked.is_zero() {
            self.penalty = (self.penalty * 2).clamp(1, MOST_SKIPPED);
            self.skip = self.penalty;
        }
        if idle > self.most {
            self.window = Duration::ZERO;
        } else if idle > looked {
            self.window = (self.window * 2).clamp(LEAST, self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    fn spin() -> Spin {
        Spin { most: us(32), window: us(0), penalty: 0, skip: 0 }
    }

    #[test]
    fn short_waits_are_learnt() {
        let mut s = spin();
        assert_eq!(s.window(), us(0));
        for want in [4, 8, 16, 32, 32] {
            s.slept(us(0), us(20));
            assert_eq!(s.window(), us(want));
        }
        s.found();
        assert_eq!(s.window(), us(32));
        s.slept(us(0), us(1000));
        assert_eq!(s.window(), us(0));
    }

    #[test]
    fn what_does_not_help_is_given_up() {
        let mut s = spin();
        let mut spent = us(0);
        for _ in 0..100_000 {
            let looked = s.window();
            spent += looked;
            // Sleeping is short, but nothing ever comes while looking.
            s.slept(looked, looked + us(10));
        }
        assert!(spent < us(100_000 / 10), "{spent:?}");
    }
}
