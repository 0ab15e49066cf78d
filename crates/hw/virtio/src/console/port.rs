//! One port: a stream of bytes in each direction between two queues and a character device.

use super::{SerialShared, spec::*};
use crate::queue::{Chain, ChainState, VirtQueue};
use device::{CharBackend, CharEvent, CharFrontend, StateError, saved_state};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// How many requests are taken at one kick before somebody else goes on with it.
const BURST: usize = 256;

/// A port of a console device.
pub(super) struct Port {
    pub(super) nr: u32,
    pub(super) console: bool,
    pub(super) name: Option<String>,
    pub(super) id: String,
    backend: Option<Arc<dyn CharBackend>>,
    device: Weak<SerialShared>,
    /// The other end is there.
    pub(super) host_open: AtomicBool,
    /// The guest has the port open.
    pub(super) guest_open: AtomicBool,
    /// How many threads are inside [`CharFrontend::receive`].
    receiving: AtomicUsize,
    rx: Mutex<Rx>,
    tx: Mutex<Tx>,
}

/// To the guest.
#[derive(Default)]
struct Rx {
    queue: Option<Arc<VirtQueue>>,
    /// A buffer taken from the queue and not filled yet.
    current: Option<Chain>,
    /// Input that came during a pause.
    held: Vec<u8>,
}

/// From the guest.
#[derive(Default)]
struct Tx {
    queue: Option<Arc<VirtQueue>>,
    /// Written in part: so many bytes.
    current: Option<(Chain, usize)>,
    /// Somebody is writing, with the lock dropped.
    busy: bool,
    /// There was another reason to write meanwhile.
    again: bool,
}

saved_state! {
    /// A port.
    pub struct PortState: "virtio-console-port", 1 {
        /// Its number.
        pub nr: u32,
        /// The guest has it open.
        pub guest_open: bool,
        /// A buffer of the driver that waits for input.
        pub rx: Option<ChainState>,
        /// Input that came during the pause.
        pub held: device::StateBytes,
        /// A buffer of the driver that is being written out.
        pub tx: Option<ChainState>,
        /// How much of it is written.
        pub tx_done: u64,
    }
}

impl Port {
    pub(super) fn new(
        nr: u32,
        console: bool,
        name: Option<String>,
        id: String,
        backend: Option<Arc<dyn CharBackend>>,
        device: Weak<SerialShared>,
    ) -> Arc<Port> {
        Arc::new(Port {
            nr,
            console,
            name,
            id,
            host_open: AtomicBool::new(backend.is_some()),
            guest_open: AtomicBool::new(false),
            backend,
            device,
            receiving: AtomicUsize::new(0),
            rx: Mutex::default(),
            tx: Mutex::default(),
        })
    }

    /// Sets the queues; `None` takes them away, with what was taken from them.
    pub(super) fn set_queues(&self, rx: Option<Arc<VirtQueue>>, tx: Option<Arc<VirtQueue>>) {
        self.set_rx(rx);
        self.set_tx(tx);
    }

    pub(super) fn set_rx(&self, queue: Option<Arc<VirtQueue>>) {
        *self.rx.lock() = Rx { queue, current: None, held: Vec::new() };
    }

    pub(super) fn set_tx(&self, queue: Option<Arc<VirtQueue>>) {
        let mut t = self.tx.lock();
        t.queue = queue;
        t.current = None;
    }

    fn paused(&self) -> bool {
        self.device.upgrade().is_none_or(|d| d.paused.load(Ordering::SeqCst))
    }

    /// The driver has added buffers for input.
    pub(super) fn rx_kick(&self) {
        if let Some(b) = &self.backend
            && !self.paused()
        {
            b.accept_input();
        }
    }

    /// The driver has output, or the back end has room. Writes out what goes.
    pub(super) fn tx_kick(self: &Arc<Self>) {
        let mut t = self.tx.lock();
        if t.busy {
            t.again = true;
            return;
        }
        t.busy = true;
        let mut left = BURST;
        loop {
            t.again = false;
            let Some(queue) = t.queue.clone().filter(|q| q.is_open()) else { break };
            let mut taken = t.current.take();
            drop(t);
            let mut stuck = self.paused();
            while !stuck && left > 0 {
                let Some((chain, done)) = taken.take().or_else(|| queue.pop_or_want_kick().map(|c| (c, 0)))
                else {
                    break;
                };
                left -= 1;
                match self.write_out(&chain, done) {
                    done if done == chain.readable.len() => queue.complete(chain, 0),
                    done => {
                        taken = Some((chain, done));
                        stuck = true;
                    }
                }
            }
            queue.publish();
            t = self.tx.lock();
            // Unless the queue was reset meanwhile.
            if t.queue.as_ref().is_some_and(|q| Arc::ptr_eq(q, &queue)) {
                t.current = taken;
            }
            if left == 0 {
                // A driver that never stops must not keep this thread.
                if let Some(d) = self.device.upgrade() {
                    let me = Arc::downgrade(self);
                    drop(d.exec.spawn(move || async move {
                        if let Some(p) = me.upgrade() {
                            p.tx_kick();
                        }
                    }));
                }
                break;
            }
            if !t.again {
                break;
            }
        }
        t.busy = false;
    }

    /// Writes a request's bytes from `done` on; returns how many are done then.
    fn write_out(&self, chain: &Chain, mut done: usize) -> usize {
        let Some(b) = &self.backend else { return chain.readable.len() };
        let mut bytes = [0; 1024];
        while done < chain.readable.len() {
            let n = (chain.readable.len() - done).min(bytes.len());
            chain.readable.copy_to(done, &mut bytes[..n]);
            let took = b.write(&bytes[..n]).min(n);
            done += took;
            if took < n {
                break;
            }
        }
        done
    }

    /// Writes a byte past the queues; it is lost where the back end has no room.
    pub(super) fn write_now(&self, byte: u8) {
        if let Some(b) = &self.backend {
            b.write(&[byte]);
        }
    }

    /// Whether some thread is moving bytes.
    pub(super) fn is_busy(&self) -> bool {
        self.receiving.load(Ordering::SeqCst) > 0 || self.tx.lock().busy
    }

    /// Hands over the input that came during a pause.
    pub(super) fn deliver_held(&self) {
        let held = std::mem::take(&mut self.rx.lock().held);
        if !held.is_empty() {
            self.fill(&held);
        }
    }

    /// Copies bytes into the driver's buffers; what does not fit is lost.
    fn fill(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.take_buffer() > 0 {
            let mut rx = self.rx.lock();
            let Some(chain) = rx.current.take() else { continue };
            let n = chain.writable.len().min(bytes.len());
            chain.writable.copy_from(0, &bytes[..n]);
            bytes = &bytes[n..];
            if let Some(q) = &rx.queue {
                q.complete(chain, n as u32);
            }
        }
        let queue = self.rx.lock().queue.clone();
        if let Some(q) = queue {
            q.publish();
        }
    }

    /// Makes sure that there is a buffer to fill, if there can be; returns its size.
    fn take_buffer(&self) -> usize {
        let mut rx = self.rx.lock();
        let Rx { queue: Some(queue), current, .. } = &mut *rx else { return 0 };
        // A buffer without room for anything goes back; at most a lap of them.
        for _ in 0..queue.size() {
            match current.take().or_else(|| queue.pop_or_want_kick()) {
                Some(c) if c.writable.is_empty() => {
                    queue.complete(c, 0);
                    queue.publish();
                }
                Some(c) => {
                    let room = c.writable.len();
                    *current = Some(c);
                    return room;
                }
                None => return 0,
            }
        }
        0
    }

    pub(super) fn save(&self) -> PortState {
        let (rx, tx) = (self.rx.lock(), self.tx.lock());
        let save = |q: &Option<Arc<VirtQueue>>, c: Option<&Chain>| Some(q.as_ref()?.save_chain(c?));
        PortState {
            nr: self.nr,
            guest_open: self.guest_open.load(Ordering::Relaxed),
            rx: save(&rx.queue, rx.current.as_ref()),
            held: device::StateBytes(rx.held.clone()),
            tx: save(&tx.queue, tx.current.as_ref().map(|c| &c.0)),
            tx_done: tx.current.as_ref().map_or(0, |c| c.1 as u64),
        }
    }

    /// Takes up the requests of a saved state; the queues are there.
    pub(super) fn load(&self, s: &PortState) -> Result<(), StateError> {
        self.guest_open.store(s.guest_open, Ordering::Relaxed);
        let (mut rx, mut tx) = (self.rx.lock(), self.tx.lock());
        if let (Some(c), Some(q)) = (&s.rx, &rx.queue) {
            rx.current = Some(q.load_chain(c)?);
        }
        rx.held = s.held.0.clone();
        if let (Some(c), Some(q)) = (&s.tx, &tx.queue) {
            let chain = q.load_chain(c)?;
            let done = (s.tx_done as usize).min(chain.readable.len());
            tx.current = Some((chain, done));
        }
        Ok(())
    }
}

impl CharFrontend for Port {
    fn room(&self) -> usize {
        if self.paused() {
            return 0;
        }
        // A serial port nobody has open in the guest takes no input; a console always does.
        let multiport = self.device.upgrade().is_some_and(|d| d.multiport());
        if multiport && !self.guest_open.load(Ordering::Relaxed) {
            return 0;
        }
        if !self.rx.lock().held.is_empty() {
            return 0;
        }
        self.take_buffer()
    }

    fn receive(&self, bytes: &[u8]) {
        // Counted first: a pause that does not see us here is seen by us.
        self.receiving.fetch_add(1, Ordering::SeqCst);
        if self.paused() {
            self.rx.lock().held.extend_from_slice(bytes);
        } else {
            self.fill(bytes);
        }
        self.receiving.fetch_sub(1, Ordering::SeqCst);
    }

    fn event(&self, event: CharEvent) {
        let open = match event {
            CharEvent::Opened => true,
            CharEvent::Closed => false,
            CharEvent::Break => return,
        };
        if self.host_open.swap(open, Ordering::Relaxed) != open
            && let Some(d) = self.device.upgrade()
        {
            d.send(self.nr, PORT_OPEN, u16::from(open), &[]);
        }
    }
}
