use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A clock in nanoseconds. It never goes backwards while timers are armed, except by [`TimerService::clock_changed`].
pub trait ClockSource: Send + Sync {
    /// Nanoseconds since the machine started, in guest time.
    fn now_ns(&self) -> u64;

    /// Whether the clock advances with host time now; a stopped machine's clock does not.
    fn is_running(&self) -> bool {
        true
    }
}

/// Timers on a guest clock; their callbacks run on one thread of the service's own.
///
/// Callbacks must be short and must not block. Clones share the service; its thread ends with the last of the
/// clones and timers.
#[derive(Clone)]
pub struct TimerService(Arc<Keeper>);

/// Stops the thread when the last handle goes.
struct Keeper(Arc<Shared>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.queue.lock().stop = true;
        self.0.wake.notify_all();
    }
}

struct Shared {
    clock: Arc<dyn ClockSource>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    next_id: u64,
    /// By deadline, then by timer.
    armed: BTreeMap<(u64, u64), Weak<TimerCell>>,
    stop: bool,
}

struct TimerCell {
    id: u64,
    /// The key in `armed`; changed with `queue` locked.
    deadline: Mutex<Option<u64>>,
    callback: Arc<dyn Fn() + Send + Sync>,
}

/// One timer. Dropping it cancels it.
pub struct Timer {
    cell: Arc<TimerCell>,
    service: TimerService,
}

impl TimerService {
    /// A service on `clock`, with a thread of its own.
    ///
    /// # Errors
    /// Where the host does not give a thread.
    pub fn new(clock: Arc<dyn ClockSource>) -> base::IoResult<TimerService> {
        let service = TimerService::manual(clock);
        let shared = service.0.0.clone();
        std::thread::Builder::new().name("timers".into()).spawn(move || shared.run())?;
        Ok(service)
    }

    /// A service without a thread: the owner calls [`TimerService::run_due`]. For tests and simulations.
    pub fn manual(clock: Arc<dyn ClockSource>) -> TimerService {
        let shared = Shared { clock, queue: Mutex::default(), wake: Condvar::new() };
        TimerService(Arc::new(Keeper(Arc::new(shared))))
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn ClockSource> {
        &self.0.0.clock
    }

    /// The clock's time now.
    pub fn now_ns(&self) -> u64 {
        self.0.0.clock.now_ns()
    }

    /// A timer, not armed yet, that calls `callback`.
    pub fn timer(&self, callback: Arc<dyn Fn() + Send + Sync>) -> Timer {
        let mut q = self.0.0.queue.lock();
        let id = q.next_id;
        q.next_id += 1;
        Timer {
            cell: Arc::new(TimerCell { id, deadline: Mutex::default(), callback }),
            service: self.clone(),
        }
    }

    /// The clock was stopped, started or set: look at the deadlines anew.
    pub fn clock_changed(&self) {
        // Taking the lock makes sure that the thread is either before its look at the clock or asleep.
        drop(self.0.0.queue.lock());
        self.0.0.wake.notify_all();
    }

    /// Calls the callbacks that are due; returns the next deadline.
    pub fn run_due(&self) -> Option<u64> {
        self.0.0.run_due()
    }
}

impl Shared {
    fn run_due(&self) -> Option<u64> {
        loop {
            let mut q = self.queue.lock();
            let (&(at, id), _) = q.armed.first_key_value()?;
            if q.stop || at > self.clock.now_ns() {
                return Some(at);
            }
            let Some(cell) = q.armed.remove(&(at, id)).and_then(|w| w.upgrade()) else { continue };
            *cell.deadline.lock() = None;
            drop(q);
            (cell.callback)();
        }
    }

    fn run(&self) {
        loop {
            let next = self.run_due();
            let mut q = self.queue.lock();
            if q.stop {
                return;
            }
            // Something may have been armed, or the clock changed, between `run_due` and the lock.
            let first = q.armed.first_key_value().map(|(k, _)| k.0);
            if first != next {
                continue;
            }
            match first {
                Some(at) if self.clock.is_running() => {
                    let left = at.saturating_sub(self.clock.now_ns());
                    if left > 0 {
                        // A guest clock may run differently from the host's: look again after a second at most.
                        self.wake.wait_for(&mut q, Duration::from_nanos(left.min(1_000_000_000)));
                    }
                }
                _ => self.wake.wait(&mut q),
            }
        }
    }
}

impl Timer {
    /// Arms the timer for the clock's time `ns`, in place of what it was armed for. A time that has passed is
    /// due at once, on the service's thread.
    pub fn arm_at(&self, ns: u64) {
        let shared = &self.service.0.0;
        let mut q = shared.queue.lock();
        let mut deadline = self.cell.deadline.lock();
        if *deadline == Some(ns) {
            return;
        }
        if let Some(old) = deadline.replace(ns) {
            q.armed.remove(&(old, self.cell.id));
        }
        let key = (ns, self.cell.id);
        q.armed.insert(key, Arc::downgrade(&self.cell));
        if q.armed.first_key_value().map(|(k, _)| *k) == Some(key) {
            shared.wake.notify_all();
        }
    }

    /// Arms the timer for `ns` nanoseconds from now.
    pub fn arm_after(&self, ns: u64) {
        self.arm_at(self.service.now_ns().saturating_add(ns));
    }

    /// Disarms the timer. A callback that has begun may still be running on the service's thread.
    pub fn cancel(&self) {
        let mut q = self.service.0.0.queue.lock();
        if let Some(old) = self.cell.deadline.lock().take() {
            q.armed.remove(&(old, self.cell.id));
        }
    }

    /// What the timer is armed for.
    pub fn deadline(&self) -> Option<u64> {
        *self.cell.deadline.lock()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timer").field(&self.deadline()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Instant;

    #[derive(Default)]
    struct Hand(AtomicU64);

    impl ClockSource for Hand {
        fn now_ns(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn timers_fire_in_order_and_once() {
        let clock = Arc::new(Hand::default());
        let service = TimerService::manual(clock.clone());
        let log = Arc::new(Mutex::new(Vec::new()));
        let make = |n: u32| {
            let log = log.clone();
            service.timer(Arc::new(move || log.lock().push(n)))
        };
        let (a, b, c, d) = (make(1), make(2), make(3), make(4));
        a.arm_at(30);
        b.arm_at(10);
        c.arm_at(20);
        d.arm_at(5);
        d.cancel();
        c.arm_at(40);
        assert_eq!(service.run_due(), Some(10));
        clock.0.store(30, Ordering::SeqCst);
        assert_eq!(service.run_due(), Some(40));
        assert_eq!(*log.lock(), [2, 1]);
        drop(c);
        clock.0.store(100, Ordering::SeqCst);
        assert_eq!(service.run_due(), None);
        assert_eq!(*log.lock(), [2, 1]);
        assert_eq!((a.deadline(), d.deadline()), (None, None));
    }

    struct Host {
        start: Instant,
        running: AtomicBool,
    }

    impl ClockSource for Host {
        fn now_ns(&self) -> u64 {
            if self.is_running() { self.start.elapsed().as_nanos() as u64 } else { 0 }
        }

        fn is_running(&self) -> bool {
            self.running.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn the_thread_fires_and_stands_still_with_its_clock() {
        let clock = Arc::new(Host { start: Instant::now(), running: AtomicBool::new(false) });
        let service = TimerService::new(clock.clone()).unwrap();
        let (tx, rx) = std::sync::mpsc::channel();
        let timer = service.timer(Arc::new(move || tx.send(()).unwrap()));
        timer.arm_at(1_000_000);
        assert!(rx.recv_timeout(Duration::from_millis(30)).is_err());
        clock.running.store(true, Ordering::SeqCst);
        service.clock_changed();
        rx.recv_timeout(Duration::from_secs(5)).unwrap();
        timer.arm_after(1_000_000);
        rx.recv_timeout(Duration::from_secs(5)).unwrap();
    }
}
