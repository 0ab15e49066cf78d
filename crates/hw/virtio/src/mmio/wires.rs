use super::regs::{INT_CONFIG, INT_USED};
use crate::queue::{QueueEvents, VirtQueue};
use crate::virtio_device::TransportEvents;
use device::IrqLine;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What queues and devices may touch from any thread: the interrupt status, its wire, and the flags of failure.
pub(super) struct Wires {
    /// The user has been told that the driver broke a queue.
    pub(super) warned: AtomicBool,
    pub(super) irq: IrqLine,
    pub(super) isr: AtomicU32,
    pub(super) generation: AtomicU32,
    pub(super) needs_reset: AtomicBool,
    /// The driver is ready: it may be interrupted about the configuration.
    pub(super) driver_ok: AtomicBool,
    pub(super) legacy: bool,
    /// The queues in use.
    pub(super) queues: Mutex<Vec<Arc<VirtQueue>>>,
    pub(super) name: Box<str>,
}

impl Wires {
    /// Drives the wire from the interrupt status, without a lock: whoever sets the wire last has seen the status
    /// that holds then, for it looks once more after setting.
    pub(super) fn sync(&self) {
        loop {
            let level = self.isr.load(Ordering::SeqCst) != 0;
            self.irq.set(level);
            if (self.isr.load(Ordering::SeqCst) != 0) == level {
                return;
            }
        }
    }

    pub(super) fn raise(&self, bits: u32) {
        if self.isr.fetch_or(bits, Ordering::SeqCst) == 0 {
            self.sync();
        }
    }

    pub(super) fn ack(&self, bits: u32) {
        self.isr.fetch_and(!bits, Ordering::SeqCst);
        self.sync();
    }

    pub(super) fn reset(&self) {
        self.needs_reset.store(false, Ordering::SeqCst);
        self.driver_ok.store(false, Ordering::SeqCst);
        self.isr.store(0, Ordering::SeqCst);
        self.sync();
    }
}

impl QueueEvents for Wires {
    fn used_buffers(&self, _queue: u16) {
        self.raise(INT_USED);
    }

    fn broken(&self, queue: u16, why: &str) {
        trace::log!(GuestErrors, "{}: queue {queue}: {why}; the device stops until it is reset", self.name);
        // Once, or a guest could fill the log.
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("{}: queue {queue}: {why}; the device stops until it is reset", self.name);
        }
        let queues = self.queues.lock().clone();
        for q in queues {
            q.close();
        }
        // Section 2.1.2. A legacy driver has no such bit.
        if !self.legacy {
            self.needs_reset.store(true, Ordering::SeqCst);
            if self.driver_ok.load(Ordering::SeqCst) {
                self.raise(INT_CONFIG);
            }
        }
    }
}

impl TransportEvents for Wires {
    fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        if self.driver_ok.load(Ordering::SeqCst) {
            self.raise(INT_CONFIG);
        }
    }
}
