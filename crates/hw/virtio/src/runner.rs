//! Serving a queue on an executor: many requests at once, interrupts in batches, pause and stop.

use crate::queue::{Chain, VirtQueue};
use device::LocalBoxFuture;
use parking_lot::{Condvar, Mutex};
use rt::sync::Notify;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// How a request ended.
#[allow(clippy::large_enum_variant)] // Moved twice and never stored; a box would cost an allocation a request.
pub(crate) enum Outcome {
    /// It goes back to the driver, with so many bytes written.
    Done(Chain, u32),
    /// It made no sense: the device stops until it is reset.
    Broken(&'static str),
    /// The service keeps it for later.
    Kept,
}

/// What serves the requests of a queue.
pub(crate) trait Service: Send + Sync + 'static {
    /// Serves a request, on the executor's thread.
    fn serve(self: Arc<Self>, queue: Arc<VirtQueue>, chain: Chain) -> LocalBoxFuture<'static, Outcome>;
}

/// Counts requests in flight, and lets none in during a pause.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    empty: Condvar,
    changed: Notify,
}

#[derive(Default)]
struct GateState {
    inside: usize,
    paused: bool,
}

/// A request in flight.
struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        let mut s = self.0.state.lock();
        s.inside -= 1;
        let empty = s.inside == 0;
        drop(s);
        if empty {
            self.0.empty.notify_all();
            self.0.changed.notify_all();
        }
    }
}

impl Gate {
    fn enter(self: &Arc<Gate>) -> Option<Pass> {
        let mut s = self.state.lock();
        if s.paused {
            return None;
        }
        s.inside += 1;
        Some(Pass(self.clone()))
    }

    fn set_paused(&self, paused: bool) {
        self.state.lock().paused = paused;
    }

    async fn idle(&self) {
        loop {
            let changed = self.changed.notified();
            if self.state.lock().inside == 0 {
                return;
            }
            changed.await;
        }
    }

    fn wait_idle(&self) {
        let mut s = self.state.lock();
        while s.inside > 0 {
            self.empty.wait(&mut s);
        }
    }
}

/// How many requests are taken before other tasks of the executor get their turn.
const BURST: u32 = 64;

/// A queue that is being served. Dropping it ends the service without waiting for requests in flight.
pub(crate) struct Runner {
    shared: Arc<Shared>,
    exec: rt::Handle,
}

struct Shared {
    queue: Arc<VirtQueue>,
    service: Weak<dyn Service>,
    kick: Notify,
    gate: Arc<Gate>,
    /// A task that will publish completions is on its way.
    publishing: AtomicBool,
}

impl Runner {
    /// Begins to serve `queue` on `exec`; taking requests waits for `resume` if `paused`.
    pub(crate) fn start(
        exec: &rt::Handle,
        queue: Arc<VirtQueue>,
        service: Weak<dyn Service>,
        paused: bool,
    ) -> Runner {
        let gate = Arc::new(Gate::default());
        gate.set_paused(paused);
        let shared = Arc::new(Shared {
            queue,
            service,
            kick: Notify::new(),
            gate,
            publishing: AtomicBool::new(false),
        });
        let task = shared.clone();
        drop(exec.spawn(move || task.run()));
        Runner { shared, exec: exec.clone() }
    }

    /// The queue.
    pub(crate) fn queue(&self) -> &Arc<VirtQueue> {
        &self.shared.queue
    }

    /// There may be requests.
    pub(crate) fn kick(&self) {
        self.shared.kick.notify_one();
    }

    /// Takes no more requests; those in flight go on.
    pub(crate) fn pause(&self) {
        self.shared.gate.set_paused(true);
    }

    /// Returns when nothing is in flight.
    pub(crate) fn idle(&self) -> impl Future<Output = ()> + Send + 'static {
        let gate = self.shared.gate.clone();
        async move { gate.idle().await }
    }

    /// Takes requests again.
    pub(crate) fn resume(&self) {
        self.shared.gate.set_paused(false);
        self.kick();
    }

    /// Serves a request once more that the service kept; gives it back where the queue is paused.
    pub(crate) fn again(&self, chain: Chain) -> Option<Chain> {
        let Some(pass) = self.shared.gate.enter() else { return Some(chain) };
        let shared = self.shared.clone();
        drop(self.exec.spawn(move || shared.serve(chain, pass)));
        None
    }

    /// Ends the service and waits until no request touches guest memory any more. On the executor's own thread
    /// there is nothing to wait with: the requests end by themselves.
    pub(crate) fn stop(&self) {
        self.shared.queue.close();
        self.shared.kick.notify_one();
        if !self.exec.is_current() {
            self.shared.gate.wait_idle();
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.shared.queue.close();
        self.shared.kick.notify_one();
    }
}

impl Shared {
    async fn run(self: Arc<Shared>) {
        while self.queue.is_open() {
            self.queue.want_kicks(false);
            let mut burst = 0;
            // The pass comes first, so that a pause never misses a request that is just being taken.
            while let Some(pass) = self.gate.enter() {
                let Some(chain) = self.queue.pop() else { break };
                drop(rt::spawn_local(self.clone().serve(chain, pass)));
                burst += 1;
                if u32::is_multiple_of(burst, BURST) {
                    rt::yield_now().await;
                }
            }
            self.queue.want_kicks(true);
            // The driver may have added some before it saw that we want to be told.
            if self.gate.enter().is_some() && self.queue.has_work() {
                continue;
            }
            if !self.queue.is_open() {
                return;
            }
            self.kick.notified().await;
        }
    }

    async fn serve(self: Arc<Shared>, chain: Chain, pass: Pass) {
        let Some(service) = self.service.upgrade() else { return };
        match service.serve(self.queue.clone(), chain).await {
            Outcome::Done(chain, written) => {
                self.queue.complete(chain, written);
                if !self.publishing.swap(true, Ordering::Relaxed) {
                    // Whatever else is complete by now comes along with one interrupt. The pass goes along too,
                    // so that a pause waits for it.
                    let me = self.clone();
                    drop(rt::spawn_local(async move {
                        rt::yield_now().await;
                        me.publishing.store(false, Ordering::Relaxed);
                        me.queue.publish();
                        drop(pass);
                    }));
                }
            }
            Outcome::Broken(why) => self.queue.fail(why),
            Outcome::Kept => {}
        }
    }
}
