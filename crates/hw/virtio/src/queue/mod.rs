//! Virtqueues: the device's side of split and packed rings.
//!
//! The driver is not trusted. Whatever it writes, a ring gives requests whose buffers are RAM, of bounded number
//! and size, or a [`RingError`], after which the device stops until it is reset.

mod chain;
mod packed;
mod split;

pub use chain::{Chain, RingError};
pub(crate) use chain::{Desc, Token};

use crate::spec::{MAX_CHAIN, feature};
use chain::Builder;
use device::{StateError, saved_state};
use mem::Dma;
use packed::{Packed, Place};
use parking_lot::Mutex;
use split::Split;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a ring is, and what was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The number of descriptors.
    pub size: u16,
    /// The descriptor area.
    pub desc: u64,
    /// The driver area: the available ring, or the driver's event suppression.
    pub driver: u64,
    /// The device area: the used ring, or the device's event suppression.
    pub device: u64,
    /// The negotiated features.
    pub features: u64,
}

/// What a queue tells the transport.
pub trait QueueEvents: Send + Sync {
    /// The driver wants to be interrupted about used buffers of this queue.
    fn used_buffers(&self, queue: u16);

    /// The driver broke a ring or a request.
    fn broken(&self, queue: u16, why: &str);
}

/// Whether going from `old` to `new` passed `event` (2.7.7.1).
fn crosses(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Split(Split),
    Packed(Packed),
}

struct Ring {
    kind: Kind,
    /// With IN_ORDER: requests in the order in which they came, with the length once they are done.
    order: VecDeque<(Token, Option<u32>)>,
}

/// A queue that a driver has set up, from then until it is reset. Any thread may call.
///
/// After [`VirtQueue::close`] or a driver's mistake, nothing is taken any more and completions are dropped.
pub struct VirtQueue {
    index: u16,
    layout: Layout,
    dma: Dma,
    ring: Mutex<Ring>,
    open: AtomicBool,
    events: Arc<dyn QueueEvents>,
}

impl VirtQueue {
    /// A fresh queue.
    ///
    /// # Errors
    /// Where the size is none that this kind of ring can have.
    pub fn new(
        index: u16,
        layout: Layout,
        dma: Dma,
        events: Arc<dyn QueueEvents>,
    ) -> Result<Arc<VirtQueue>, RingError> {
        let packed = layout.features & feature::RING_PACKED != 0;
        let size = layout.size;
        // Section 2.7: a split queue's size is a power of two; 2.8.10.1: a packed one's need not be.
        if size == 0 || usize::from(size) > MAX_CHAIN || !(packed || size.is_power_of_two()) {
            return Err(RingError::Size);
        }
        let kind = if packed { Kind::Packed(Packed::new()) } else { Kind::Split(Split::new()) };
        let ring = Mutex::new(Ring { kind, order: VecDeque::new() });
        Ok(Arc::new(VirtQueue { index, layout, dma, ring, open: AtomicBool::new(true), events }))
    }

    /// A queue that goes on where another left off, at the position that [`VirtQueue::position`] told. For rings whose
    /// device was somewhere else before, or will be.
    ///
    /// # Errors
    /// As [`VirtQueue::new`]; and for a position that the ring does not have, or a ring that is not in RAM.
    pub fn at_position(
        index: u16,
        layout: Layout,
        dma: Dma,
        events: Arc<dyn QueueEvents>,
        position: u32,
    ) -> Result<Arc<VirtQueue>, RingError> {
        let queue = VirtQueue::new(index, layout, dma, events)?;
        match &mut queue.ring.lock().kind {
            Kind::Split(s) => s.start_at(&layout, &queue.dma, position as u16)?,
            Kind::Packed(p) => {
                let place = |v: u32| Place { slot: v as u16 & 0x7fff, wrap: v >> 15 & 1 != 0 };
                (p.avail, p.used) = (place(position), place(position >> 16));
                if p.avail.slot >= layout.size || p.used.slot >= layout.size {
                    return Err(RingError::AvailIndex);
                }
            }
        }
        Ok(queue)
    }

    /// Where the next request will be taken from: on a split ring the available index; on a packed one the slot and, above
    /// it, the wrap counter (15 and 1 bits), and the same for used descriptors in the upper half. To be asked when no
    /// request is in flight.
    pub fn position(&self) -> u32 {
        match &self.ring.lock().kind {
            Kind::Split(s) => s.last_avail.into(),
            Kind::Packed(p) => {
                let place = |p: Place| u32::from(p.slot) | u32::from(p.wrap) << 15;
                place(p.avail) | place(p.used) << 16
            }
        }
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The number of descriptors.
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// The negotiated features.
    pub fn features(&self) -> u64 {
        self.layout.features
    }

    /// Whether the queue works.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Nothing is taken from the ring or written to it any more.
    pub fn close(&self) {
        // With the ring locked: whoever has it finishes first.
        let _ring = self.ring.lock();
        self.open.store(false, Ordering::Release);
    }

    /// The driver's request makes no sense to the device: it stops until it is reset.
    pub fn fail(&self, why: &str) {
        self.close();
        self.events.broken(self.index, why);
    }

    fn with<T: Default>(&self, f: impl FnOnce(&mut Ring) -> Result<T, RingError>) -> T {
        let mut ring = self.ring.lock();
        if !self.is_open() {
            return T::default();
        }
        match f(&mut ring) {
            Ok(v) => v,
            Err(e) => {
                self.open.store(false, Ordering::Release);
                drop(ring);
                self.events.broken(self.index, &e.to_string());
                T::default()
            }
        }
    }

    /// The next request; `None` where there is none (or the queue is broken).
    pub fn pop(&self) -> Option<Chain> {
        self.with(|r| {
            let chain = match &mut r.kind {
                Kind::Split(s) => s.pop(&self.layout, &self.dma)?,
                Kind::Packed(p) => p.pop(&self.layout, &self.dma)?,
            };
            if let Some(c) = &chain
                && self.layout.features & feature::IN_ORDER != 0
            {
                r.order.push_back((c.token, None));
            }
            Ok(chain)
        })
    }

    /// The next request; where there is none, the driver is asked for a kick before it adds one. For devices that
    /// take requests when they are kicked, without a loop of their own that says when it wants kicks.
    pub fn pop_or_want_kick(&self) -> Option<Chain> {
        self.pop().or_else(|| {
            self.want_kicks(true);
            // The driver may have added one before it saw that.
            self.pop()
        })
    }

    /// Whether a request is waiting.
    pub fn has_work(&self) -> bool {
        self.with(|r| match &r.kind {
            Kind::Split(s) => s.has_work(&self.layout, &self.dma),
            Kind::Packed(p) => p.has_work(&self.layout, &self.dma),
        })
    }

    /// Gives a request back; `written` bytes at the start of [`Chain::writable`] are new. The driver is told by
    /// [`VirtQueue::publish`].
    pub fn complete(&self, chain: Chain, written: u32) {
        self.with(|r| {
            if self.layout.features & feature::IN_ORDER == 0 {
                return r.complete(&self.layout, &self.dma, chain.token, written);
            }
            if let Some(slot) = r.order.iter_mut().find(|(t, done)| *t == chain.token && done.is_none()) {
                slot.1 = Some(written);
            }
            while let Some((token, Some(len))) = r.order.front().copied() {
                r.order.pop_front();
                r.complete(&self.layout, &self.dma, token, len)?;
            }
            Ok(())
        });
    }

    /// Tells the driver about completed requests, with an interrupt if it wants one.
    pub fn publish(&self) {
        let interrupt = self.with(|r| match &mut r.kind {
            Kind::Split(s) => s.publish(&self.layout, &self.dma),
            Kind::Packed(p) => p.publish(&self.layout, &self.dma),
        });
        if interrupt {
            self.events.used_buffers(self.index);
        }
    }

    /// Asks the driver to kick, or not to. After asking, look at [`VirtQueue::has_work`] once more.
    pub fn want_kicks(&self, want: bool) {
        self.with(|r| match &mut r.kind {
            Kind::Split(s) => s.want_kicks(&self.layout, &self.dma, want),
            Kind::Packed(p) => p.want_kicks(&self.layout, &self.dma, want),
        });
    }

    /// The ring's state, for saving. No request is in flight except those that the device saves by
    /// [`VirtQueue::save_chain`].
    pub(crate) fn save(&self) -> RingState {
        let ring = self.ring.lock();
        match &ring.kind {
            Kind::Split(s) => RingState {
                packed: false,
                avail: s.last_avail,
                avail_wrap: false,
                used: s.used,
                used_wrap: false,
                published: s.published,
                in_use: s.in_use,
                signalled: s.signalled,
                open: self.is_open(),
            },
            Kind::Packed(p) => RingState {
                packed: true,
                avail: p.avail.slot,
                avail_wrap: p.avail.wrap,
                used: p.used.slot,
                used_wrap: p.used.wrap,
                published: p.since,
                in_use: p.in_use,
                signalled: None,
                open: self.is_open(),
            },
        }
    }

    pub(crate) fn load(&self, s: &RingState) -> Result<(), StateError> {
        let mut ring = self.ring.lock();
        let size = self.layout.size;
        let bad = || StateError::new(format!("queue {}: impossible state of the ring", self.index));
        if s.in_use > size {
            return Err(bad());
        }
        match &mut ring.kind {
            Kind::Split(r) if !s.packed => {
                *r = Split {
                    last_avail: s.avail,
                    used: s.used,
                    published: s.published,
                    in_use: s.in_use,
                    signalled: s.signalled,
                };
            }
            Kind::Packed(r) if s.packed && s.avail < size && s.used < size => {
                *r = Packed {
                    avail: Place { slot: s.avail, wrap: s.avail_wrap },
                    used: Place { slot: s.used, wrap: s.used_wrap },
                    in_use: s.in_use,
                    since: s.published,
                };
            }
            _ => return Err(bad()),
        }
        self.open.store(s.open, Ordering::Release);
        Ok(())
    }

    /// A request that is neither completed nor lost: it goes into the saved state.
    pub(crate) fn save_chain(&self, chain: &Chain) -> ChainState {
        ChainState {
            queue: self.index,
            id: chain.token.id,
            count: chain.token.count,
            addrs: chain.descs.iter().map(|d| d.addr).collect(),
            lens: chain.descs.iter().map(|d| d.len).collect(),
            writes: chain.descs.iter().map(|d| d.write).collect(),
        }
    }

    /// The request that [`VirtQueue::save_chain`] saved.
    pub(crate) fn load_chain(&self, s: &ChainState) -> Result<Chain, StateError> {
        let bad = |why: &str| StateError::new(format!("queue {}: saved request: {why}", self.index));
        if s.addrs.len() != s.lens.len() || s.addrs.len() != s.writes.len() {
            return Err(bad("its parts differ in number"));
        }
        if s.id >= self.size() && self.layout.features & feature::RING_PACKED == 0 {
            return Err(bad("its number is outside the ring"));
        }
        if s.count == 0 || s.count > self.size() {
            return Err(bad("impossible number of descriptors"));
        }
        let mut b = Builder::new(&self.dma);
        for ((&addr, &len), &write) in s.addrs.iter().zip(&s.lens).zip(&s.writes) {
            b.add(Desc { addr, len, write }).map_err(|e| bad(&e.to_string()))?;
        }
        let chain = b.finish(Token { id: s.id, count: s.count });
        if self.layout.features & feature::IN_ORDER != 0 {
            self.ring.lock().order.push_back((chain.token, None));
        }
        Ok(chain)
    }
}

impl Ring {
    fn complete(&mut self, l: &Layout, dma: &Dma, token: Token, len: u32) -> Result<(), RingError> {
        match &mut self.kind {
            Kind::Split(s) => s.complete(l, dma, token, len),
            Kind::Packed(p) => p.complete(l, dma, token, len),
        }
    }
}

saved_state! {
    /// The device's side of a ring.
    pub struct RingState: "virtio-ring", 1 {
        /// A packed ring.
        pub packed: bool,
        /// Split: the next index of the available ring. Packed: the slot of the next request.
        pub avail: u16,
        /// Packed: the wrap counter there.
        pub avail_wrap: bool,
        /// Split: the next index of the used ring. Packed: the slot of the next used descriptor.
        pub used: u16,
        /// Packed: the wrap counter there.
        pub used_wrap: bool,
        /// Split: the used index that the driver can see. Packed: slots used since the last interrupt decision.
        pub published: u16,
        /// Descriptors (packed) or requests (split) taken and not used.
        pub in_use: u16,
        /// Split: the used index at the last interrupt decision.
        pub signalled: Option<u16>,
        /// The driver has not broken the ring.
        pub open: bool,
    }
}

saved_state! {
    /// A request taken from a ring and not completed.
    pub struct ChainState: "virtio-request", 1 {
        /// The queue.
        pub queue: u16,
        /// Split: the head descriptor. Packed: the buffer id.
        pub id: u16,
        /// Slots that it takes on a packed ring.
        pub count: u16,
        /// The buffers' addresses.
        pub addrs: Vec<u64>,
        /// The buffers' lengths.
        pub lens: Vec<u32>,
        /// Whether the device writes them.
        pub writes: Vec<bool>,
    }
}
