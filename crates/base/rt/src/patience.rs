//! How long a thread that has other things to do as well may wait in system calls.
//!
//! Time that is lost is a debt, which is paid back as time goes by: when the debt is too high, what may wait is handed to
//! other threads until all of it is paid. So in the long run a thread waits a [small part](SHARE) of the time, and never
//! goes on waiting where everything waits. Time in which the thread could have run, but others ran, is not lost by waiting
//! and does not count; to tell the two apart costs a system call, which is made only for a while after a call that was late.

use std::time::{Duration, Instant};

/// What takes longer than this has waited, or was put aside by the scheduler.
pub(crate) const LATE: Duration = Duration::from_millis(1);
/// The debt that ends the patience.
const LIMIT: Duration = Duration::from_millis(50);
/// One part of this many of the time may be lost.
const SHARE: u32 = 20;
/// For how long after a late call others are looked at closely.
const SUSPICION: Duration = Duration::from_secs(2);

/// The patience of the threads that use one file.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    debt: Duration,
    /// When the debt was that.
    at: Option<Instant>,
    /// Nothing is done that may wait, until the debt is paid.
    over: bool,
    /// The last late call.
    late: Option<Instant>,
}

/// One call that is watched: how often the thread had waited before it, if that is known.
pub(crate) struct Watch(Option<i64>);

impl Watch {
    /// Whether the thread has waited since; `None` where nobody has looked.
    pub(crate) fn has_waited(&self) -> Option<bool> {
        self.0.map(|before| waits() != before)
    }
}

/// How often this thread has given the processor up by itself.
fn waits() -> i64 {
    // SAFETY: all zeroes is a value of the structure, and the call fills it; it lives through the call.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage.ru_nvcsw
    }
}

impl Patience {
    /// Begins a call that may wait; `None` where it should not be made now.
    pub(crate) fn watch(&mut self, now: Instant) -> Option<Watch> {
        if self.over && !self.paid(now) {
            return None;
        }
        let suspicious = self.late.is_some_and(|t| now.saturating_duration_since(t) < SUSPICION);
        Some(Watch(suspicious.then(waits)))
    }

    /// Pays what time has paid; whether that is all.
    fn paid(&mut self, now: Instant) -> bool {
        let since = self.at.map_or(Duration::ZERO, |t| now.saturating_duration_since(t));
        self.debt = self.debt.saturating_sub(since / SHARE);
        self.at = Some(now);
        self.over &= !self.debt.is_zero();
        self.debt.is_zero()
    }

    /// A call that began at `begun` took this long, which was late. `waited` says whether that was by waiting.
    pub(crate) fn took(&mut self, begun: Instant, took: Duration, waited: Option<bool>) {
        self.paid(begun);
        self.late = Some(begun + took);
        // Far too long is too long in any case.
        if waited.unwrap_or(took > LIMIT) {
            self.at = Some(begun + took);
            self.debt += took;
            self.over |= self.debt > LIMIT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn debts_end_the_patience_until_they_are_paid() {
        let start = Instant::now();
        let mut p = Patience::default();
        assert!(p.watch(start).is_some());
        p.took(start, ms(30), Some(true));
        assert!(p.watch(start + ms(30)).is_some(), "below the limit");
        p.took(start + ms(30), ms(30), Some(true));
        assert!(p.watch(start + ms(60)).is_none());
        let end = start + ms(60) + ms(60) * SHARE;
        assert!(p.watch(end - ms(1)).is_none());
        assert!(p.watch(end + ms(1)).is_some());
        assert!(p.watch(end + ms(2)).is_some());
    }

    #[test]
    fn being_put_aside_is_no_debt() {
        let start = Instant::now();
        let mut p = Patience::default();
        for i in 0..100 {
            p.took(start + ms(10 * i), ms(9), Some(false));
            assert!(p.watch(start + ms(10 * i + 9)).is_some());
        }
        p.took(start + ms(2000), ms(500), None);
        assert!(p.watch(start + ms(2500)).is_none(), "unless it was very long and nobody looked");
    }

    #[test]
    fn waiting_is_told_from_running() {
        let start = Instant::now();
        let mut p = Patience::default();
        assert_eq!(p.watch(start).unwrap().has_waited(), None);
        p.took(start, ms(2), None);
        let watch = p.watch(start + ms(3)).unwrap();
        std::thread::sleep(ms(2));
        assert_eq!(watch.has_waited(), Some(true));
    }
}
