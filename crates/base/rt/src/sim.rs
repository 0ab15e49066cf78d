//! The simulation executor: one thread, virtual time, and an order of events that a seed decides.
//!
//! Everything in the block layer that runs on [`crate::spawn_local`], [`crate::sleep`], [`crate::sync`],
//! [`crate::yield_now`] and [`crate::unblock`] runs here unchanged. The next task is drawn at random among those
//! that are ready; when none is, the clock jumps to the next timer; when there is no timer either, all tasks wait
//! for each other and the run panics. Each panic names the seed, and the same seed gives the same run.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::executor::{self, Conduct, Local};
use crate::reactor::EventFd;

/// Polls without a step of the clock after which a run counts as going round in circles.
const LIVELOCK: u64 = 20_000_000;

/// A deterministic source of random numbers (xoshiro256++, seeded by splitmix64). Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

impl Rng {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Rng {
        let mut x = seed;
        Rng(std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in `0..n`; `n` must not be 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "an empty range has no number");
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// A number in `lo..hi`, which must not be empty.
    pub fn range(&mut self, lo: u64, hi: u64) -> u64 {
        lo + self.below(hi - lo)
    }

    /// True `num` times in `den`.
    pub fn chance(&mut self, num: u64, den: u64) -> bool {
        self.below(den) < num
    }

    /// Fills `dst` with random bytes.
    pub fn fill(&mut self, dst: &mut [u8]) {
        for chunk in dst.chunks_mut(8) {
            let v = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&v[..chunk.len()]);
        }
    }
}

/// What a simulation adds to an executor.
pub(crate) struct SimState {
    seed: u64,
    rng: Rc<RefCell<Rng>>,
    start: Instant,
    elapsed: Cell<Duration>,
    steps: Cell<u64>,
}

impl SimState {
    pub(crate) fn now(&self) -> Instant {
        self.start + self.elapsed.get()
    }

    pub(crate) fn choose(&self, n: usize) -> usize {
        self.steps.set(self.steps.get() + 1);
        assert!(
            self.steps.get() < LIVELOCK,
            "simulation with seed {}: {LIVELOCK} polls and time stands still",
            self.seed
        );
        if n == 1 { 0 } else { self.rng.borrow_mut().below(n as u64) as usize }
    }

    /// Nothing is ready: time jumps to the next timer.
    pub(crate) fn advance(&self, next: Option<Instant>, tasks: usize) {
        let Some(at) = next else {
            panic!("simulation with seed {}: deadlock, {tasks} tasks and the main future wait", self.seed);
        };
        self.steps.set(0);
        if let Some(d) = at.checked_duration_since(self.start) {
            self.elapsed.set(self.elapsed.get().max(d));
        }
    }
}

/// A simulation; see the module.
pub struct Sim {
    local: Rc<Local>,
    seed: u64,
}

impl Sim {
    /// A simulation whose every choice comes from `seed`.
    pub fn new(seed: u64) -> Sim {
        let state = SimState {
            seed,
            rng: Rc::new(RefCell::new(Rng::new(seed))),
            start: Instant::now(),
            elapsed: Cell::new(Duration::ZERO),
            steps: Cell::new(0),
        };
        let wakeup = EventFd::new().expect("the system has a descriptor left");
        Sim { local: Local::new(None, Some(state), wakeup, Conduct::default()), seed }
    }

    /// Runs `f` and every task that it spawns until `f` ends.
    ///
    /// # Panics
    /// With the seed in the text, when all tasks wait for each other; a panic of `f`, or of a task whose handle is
    /// gone, goes on after the seed was printed.
    pub fn block_on<F: Future>(&self, f: F) -> F::Output {
        match catch_unwind(AssertUnwindSafe(|| self.local.block_on(f))) {
            Ok(v) => v,
            Err(p) => {
                eprintln!("simulation with seed {} failed", self.seed);
                resume_unwind(p)
            }
        }
    }

    /// The virtual time that has gone by.
    pub fn elapsed(&self) -> Duration {
        self.local.sim.as_ref().map_or(Duration::ZERO, |s| s.elapsed.get())
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.local.shut_down();
    }
}

/// A handle on the current simulation's random numbers; the executor draws from the same sequence.
#[derive(Clone)]
pub struct SimRng(Rc<RefCell<Rng>>);

impl SimRng {
    /// The next 64 bits.
    pub fn next_u64(&self) -> u64 {
        self.0.borrow_mut().next_u64()
    }

    /// A number in `0..n`; `n` must not be 0.
    pub fn below(&self, n: u64) -> u64 {
        self.0.borrow_mut().below(n)
    }

    /// A number in `lo..hi`, which must not be empty.
    pub fn range(&self, lo: u64, hi: u64) -> u64 {
        self.0.borrow_mut().range(lo, hi)
    }

    /// True `num` times in `den`.
    pub fn chance(&self, num: u64, den: u64) -> bool {
        self.0.borrow_mut().chance(num, den)
    }

    /// Fills `dst` with random bytes.
    pub fn fill(&self, dst: &mut [u8]) {
        self.0.borrow_mut().fill(dst);
    }
}

/// The random numbers of the simulation that runs this code. Panics outside a simulation.
pub fn rng() -> SimRng {
    executor::with_current(|l| l.sim.as_ref().map(|s| SimRng(s.rng.clone())))
        .flatten()
        .expect("random numbers of a simulation exist only inside one")
}

/// Whether this code runs inside a simulation.
pub fn is_active() -> bool {
    executor::with_current(|l| l.is_sim()).unwrap_or(false)
}

/// The seed of the simulation that runs this code, if any.
pub fn seed() -> Option<u64> {
    executor::with_current(|l| l.sim.as_ref().map(|s| s.seed)).flatten()
}
