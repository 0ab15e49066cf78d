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

/// How an executor looks for work before it sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polling {
    /// The longest time to look, at most a second; zero for not at all.
    pub most: Duration,
    /// What the time is multiplied with where it was too short; 0 for 2.
    pub grow: u32,
    /// What the time is divided by where waits are much longer than `most`; 0 to begin anew.
    pub shrink: u32,
}

/// What was learnt from the waits so far.
#[derive(Debug)]
pub(crate) struct Spin {
    how: Polling,
    /// How long to look now.
    window: Duration,
    /// Waits to sleep through at the next failure, and still.
    penalty: u32,
    skip: u32,
}

impl Spin {
    /// Nothing yet. On a host with one processor nothing will ever come while looking.
    pub(crate) fn new(how: Polling) -> Spin {
        // To ask how many processors there are reads files: not where the answer does not matter.
        let alone = || std::thread::available_parallelism().map_or(1, usize::from) < 2;
        let most =
            if how.most.is_zero() || alone() { Duration::ZERO } else { how.most.min(Duration::from_secs(1)) };
        Spin { how: Polling { most, ..how }, window: Duration::ZERO, penalty: 0, skip: 0 }
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
        !self.how.most.is_zero()
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
        let Polling { most, grow, shrink } = self.how;
        // Being woken is a part of what a wait through sleep took: without it, it may be short enough.
        if idle > most * 2 {
            self.window = self.window.checked_div(shrink).unwrap_or_default();
        } else if idle > looked {
            let factor = if grow == 0 { 2 } else { grow };
            self.window = self.window.saturating_mul(factor).max(LEAST).min(most);
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
        let how = Polling { most: us(32), ..Polling::default() };
        Spin { how, window: us(0), penalty: 0, skip: 0 }
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
    fn growing_and_shrinking_are_as_asked_for() {
        let mut s = spin();
        (s.how.grow, s.how.shrink) = (4, 2);
        for want in [4, 16, 32] {
            s.slept(us(0), us(20));
            assert_eq!(s.window(), us(want));
        }
        s.slept(us(0), us(1000));
        assert_eq!(s.window(), us(16));
        s.slept(us(0), us(60));
        assert_eq!(s.window(), us(32), "looking may find what sleep found later");
        s.how.most = us(1);
        s.slept(us(0), us(1));
        assert_eq!(s.window(), us(1), "even where that is shorter than what is worth while");
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
