//! Gates: the one notion of quiescence.
//!
//! Every request from outside passes its root's gate. While the gate is closed (drained), new requests wait before it;
//! whoever closed it can wait until those inside have left.

use crate::brake::Brake;
use event_listener::Event;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// Counts of a gate in one word: closings in the upper half, requests inside in the lower.
const CLOSED: u64 = 1 << 32;
const INSIDE: u64 = CLOSED - 1;

/// A gate that requests pass.
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU64,
    opened: Event,
    left: Event,
    /// Whether there is a brake.
    braked: AtomicBool,
    brake: Mutex<Option<Arc<Brake>>>,
}

/// One request inside the gate; leaves when dropped.
#[derive(Debug)]
pub struct Inside(Arc<Gate>);

/// A closing of the gate; opens it again when dropped. Closings nest.
#[derive(Debug)]
pub struct Closed(Arc<Gate>);

impl Gate {
    /// An open gate with nobody inside.
    pub fn new() -> Arc<Gate> {
        Arc::new(Gate::default())
    }

    /// Passes the gate if it is open.
    pub fn try_enter(self: &Arc<Self>) -> Option<Inside> {
        let mut now = self.state.load(SeqCst);
        loop {
            if now >= CLOSED {
                return None;
            }
            assert!(now & INSIDE != INSIDE, "too many requests inside a gate");
            match self.state.compare_exchange_weak(now, now + 1, SeqCst, SeqCst) {
                Ok(_) => return Some(Inside(self.clone())),
                Err(v) => now = v,
            }
        }
    }

    /// Passes the gate, after waiting for it to open.
    pub async fn enter(self: &Arc<Self>) -> Inside {
        loop {
            if let Some(inside) = self.try_enter() {
                return inside;
            }
            let listener = self.opened.listen();
            if let Some(inside) = self.try_enter() {
                return inside;
            }
            listener.await;
        }
    }

    /// Counts what goes on behind a request that is inside, even if the gate is closed: whoever waits for that request
    /// waits for this too.
    pub(crate) fn stay(self: &Arc<Self>) -> Inside {
        let was = self.state.fetch_add(1, SeqCst);
        assert!(was & INSIDE != INSIDE, "too many requests inside a gate");
        Inside(self.clone())
    }

    /// Closes the gate. Requests inside go on; see [`Gate::idle`].
    pub fn close(self: &Arc<Self>) -> Closed {
        self.state.fetch_add(CLOSED, SeqCst);
        self.ease();
        Closed(self.clone())
    }

    /// What holds requests inside back, if anything does.
    pub(crate) fn brake(&self) -> Option<Arc<Brake>> {
        if self.braked.load(SeqCst) { self.brake.lock().clone() } else { None }
    }

    /// Puts another brake in, or none. Requests that the old one holds go on.
    pub(crate) fn set_brake(&self, brake: Option<Arc<Brake>>) {
        let mut now = self.brake.lock();
        self.braked.store(brake.is_some(), SeqCst);
        let old = std::mem::replace(&mut *now, brake);
        drop(now);
        self.ease();
        if let Some(old) = old {
            old.set_exempt(usize::MAX);
        }
    }

    /// A closed gate is to become empty: nothing is held back then.
    fn ease(&self) {
        if self.braked.load(SeqCst) {
            let brake = self.brake.lock();
            if let Some(b) = &*brake {
                b.set_exempt((self.state.load(SeqCst) / CLOSED) as usize);
            }
        }
    }

    /// Waits until nobody is inside. Meant for a closed gate: an open one may fill again at once.
    pub async fn idle(&self) {
        loop {
            if self.state.load(SeqCst) & INSIDE == 0 {
                return;
            }
            let listener = self.left.listen();
            if self.state.load(SeqCst) & INSIDE == 0 {
                return;
            }
            listener.await;
        }
    }

    /// How many requests are inside.
    pub fn in_flight(&self) -> u64 {
        self.state.load(SeqCst) & INSIDE
    }

    /// Whether the gate is closed.
    pub fn is_closed(&self) -> bool {
        self.state.load(SeqCst) >= CLOSED
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let was = self.0.state.fetch_sub(1, SeqCst);
        if was & INSIDE == 1 {
            self.0.left.notify(usize::MAX);
        }
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let was = self.0.state.fetch_sub(CLOSED, SeqCst);
        self.0.ease();
        if was < 2 * CLOSED {
            self.0.opened.notify(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closings_nest() {
        let g = Gate::new();
        let a = g.close();
        let b = g.close();
        assert!(g.try_enter().is_none());
        drop(a);
        assert!(g.try_enter().is_none());
        drop(b);
        let inside = g.try_enter();
        assert!(inside.is_some());
        assert_eq!(g.in_flight(), 1);
        drop(inside);
        assert_eq!(g.in_flight(), 0);
    }

    #[test]
    fn idle_waits_for_the_last_and_enter_for_the_opening() {
        rt::sim::Sim::new(1).block_on(async {
            let g = Gate::new();
            let inside = g.enter().await;
            let closed = g.close();
            let g2 = g.clone();
            let waiting = rt::spawn_local(async move { drop(g2.enter().await) });
            let g3 = g.clone();
            let idle = rt::spawn_local(async move { g3.idle().await });
            rt::yield_now().await;
            assert!(!idle.is_finished() && !waiting.is_finished());
            drop(inside);
            idle.await;
            assert!(!waiting.is_finished());
            drop(closed);
            waiting.await;
        });
    }
}
