//! Dirty bitmaps: which parts of a node were written since somebody last looked.
//!
//! A node's bitmaps belong to the node itself, not to one version of the graph, so that a write that is in flight when a
//! bitmap is added is recorded all the same. The request core records every write, zero-write and discard when it has
//! ended, whether it succeeded or not. Operations on bitmaps come from the control thread: one by one ([`ctl`]), or as
//! part of a transaction ([`plan`]).

mod bits;
mod ctl;
mod find;
mod plan;
pub mod qmp;

use crate::driver::Cx;
use parking_lot::{Mutex, RwLock};
use qapi::{QError, qerr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use bits::{Bits, MAX_BITS};
pub use ctl::BitmapSource;
pub(crate) use plan::BitmapPlan;
pub use plan::NewBitmap;

/// The longest name, bytes.
pub const MAX_NAME: usize = 1023;
/// The finest granularity, bytes.
pub const MIN_GRANULARITY: u32 = 512;

/// A dirty bitmap. Any thread may call any method.
#[derive(Debug)]
pub struct Bitmap {
    name: String,
    granularity: u32,
    persistent: bool,
    inconsistent: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bits: Bits,
    enabled: bool,
    busy: bool,
}

/// What an operation on a bitmap can live with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tolerate {
    /// The bitmap is stored in an image that is read-only now.
    pub read_only: bool,
    /// The bitmap was not stored properly.
    pub inconsistent: bool,
}

impl Bitmap {
    /// A clean bitmap over `size` bytes; `granularity` is a power of two from [`MIN_GRANULARITY`] on. An error where it
    /// would take more than [`MAX_BITS`] bits.
    pub fn new(
        name: &str,
        size: u64,
        granularity: u32,
        persistent: bool,
        enabled: bool,
    ) -> Result<Bitmap, QError> {
        if name.is_empty() {
            return Err(qerr!("Bitmap name cannot be empty"));
        }
        if name.len() > MAX_NAME {
            return Err(qerr!("Bitmap name too long: {name}"));
        }
        if granularity < MIN_GRANULARITY || !granularity.is_power_of_two() {
            return Err(qerr!("Granularity must be power of 2 and at least 512"));
        }
        let bits = Bits::new(size, granularity.trailing_zeros());
        let bits =
            bits.ok_or_else(|| qerr!("Bitmap '{name}' would be too large; use a coarser granularity"))?;
        let state = Mutex::new(State { bits, enabled, busy: false });
        Ok(Bitmap { name: name.to_owned(), granularity, persistent, inconsistent: false, state })
    }

    /// A stored bitmap whose content is not to be trusted: it can only be removed.
    pub fn broken(name: &str, granularity: u32) -> Bitmap {
        let state = State { bits: Bits::empty(granularity.trailing_zeros()), enabled: false, busy: false };
        let state = Mutex::new(state);
        Bitmap { name: name.to_owned(), granularity, persistent: true, inconsistent: true, state }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that one bit stands for.
    pub fn granularity(&self) -> u32 {
        self.granularity
    }

    /// Whether the image keeps it.
    pub fn persistent(&self) -> bool {
        self.persistent
    }

    /// Whether it was not stored properly.
    pub fn inconsistent(&self) -> bool {
        self.inconsistent
    }

    /// Whether it records.
    pub fn enabled(&self) -> bool {
        self.state.lock().enabled
    }

    /// Makes it record, or not.
    pub fn set_enabled(&self, on: bool) {
        self.state.lock().enabled = on;
    }

    /// Whether an operation has it for itself.
    pub fn busy(&self) -> bool {
        self.state.lock().busy
    }

    /// Takes it for an operation; `None` where another has it. Recording goes on.
    pub fn occupy(self: &Arc<Self>) -> Option<Busy> {
        let mut s = self.state.lock();
        (!std::mem::replace(&mut s.busy, true)).then(|| Busy(self.clone()))
    }

    /// Bytes that are dirty, in whole bits.
    pub fn dirty_bytes(&self) -> u64 {
        let s = self.state.lock();
        s.bits.count().saturating_mul(u64::from(self.granularity))
    }

    /// Bytes that it covers.
    pub fn size(&self) -> u64 {
        self.state.lock().bits.size()
    }

    /// Covers `size` bytes from now on; what is new is clean.
    pub fn resize(&self, size: u64) {
        self.state.lock().bits.resize(size);
    }

    /// Marks a range, whether or not it records.
    pub fn set(&self, off: u64, len: u64) {
        self.state.lock().bits.set(off, len);
    }

    /// Marks every bit that lies wholly within the range as clean.
    pub fn reset(&self, off: u64, len: u64) {
        self.state.lock().bits.reset(off, len);
    }

    /// Records a write.
    fn record(&self, off: u64, len: u64) {
        let mut s = self.state.lock();
        if s.enabled && !self.inconsistent {
            s.bits.set(off, len);
        }
    }

    /// The first dirty range at or behind `off` and before `end`: (offset, length).
    pub fn next_dirty(&self, off: u64, end: u64) -> Option<(u64, u64)> {
        self.state.lock().bits.next_dirty(off, end)
    }

    /// The same, of a range of at most `most` bytes, which are not 0.
    pub fn next_run(&self, off: u64, end: u64, most: u64) -> Option<(u64, u64)> {
        self.state.lock().bits.next_run(off, end, most)
    }

    /// Whether the byte at `off` is dirty.
    pub fn is_dirty(&self, off: u64) -> bool {
        self.state.lock().bits.get(off)
    }

    /// Makes everything clean; answers what was dirty, for [`Bitmap::put_back`].
    pub fn clear(&self) -> Bits {
        let mut s = self.state.lock();
        let empty = s.bits.clean_copy();
        std::mem::replace(&mut s.bits, empty)
    }

    /// A copy of the bits.
    pub fn bits(&self) -> Bits {
        self.state.lock().bits.clone()
    }

    /// Adds bits: undoes [`Bitmap::clear`], or merges another bitmap's. Granularities may differ.
    pub fn put_back(&self, bits: &Bits) {
        self.state.lock().bits.merge(bits);
    }

    /// Replaces all bits; what was recorded meanwhile is lost.
    pub fn replace(&self, bits: Bits) {
        let mut s = self.state.lock();
        let size = s.bits.size();
        s.bits = bits;
        s.bits.resize(size);
    }

    /// Why an operation may not use it, if so. `read_only`: the node that it belongs to is.
    pub fn check(&self, read_only: bool, tolerate: Tolerate) -> Result<(), QError> {
        let name = &self.name;
        if self.busy() {
            return Err(qerr!("Bitmap '{name}' is currently in use by another operation and cannot be used"));
        }
        if read_only && self.persistent && !tolerate.read_only {
            return Err(qerr!("Bitmap '{name}' is readonly and cannot be modified"));
        }
        if self.inconsistent && !tolerate.inconsistent {
            return Err(qerr!("Bitmap '{name}' is inconsistent and cannot be used")
                .with_hint("Try block-dirty-bitmap-remove to delete this bitmap from disk"));
        }
        Ok(())
    }

    fn info(&self) -> api::block_core::BlockDirtyInfo {
        let s = self.state.lock();
        let count = s.bits.count().saturating_mul(u64::from(self.granularity));
        api::block_core::BlockDirtyInfo {
            name: Some(self.name.clone()),
            count: i64::try_from(count).unwrap_or(i64::MAX),
            granularity: self.granularity,
            recording: s.enabled,
            busy: s.busy,
            persistent: self.persistent,
            inconsistent: self.inconsistent.then_some(true),
        }
    }
}

/// A bitmap that an operation has for itself; dropping gives it back.
#[derive(Debug)]
pub struct Busy(Arc<Bitmap>);

impl Busy {
    /// The bitmap.
    pub fn bitmap(&self) -> &Arc<Bitmap> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state.lock().busy = false;
    }
}

/// The bitmaps of one node, the youngest first.
#[derive(Debug, Default)]
pub(crate) struct Bitmaps {
    list: RwLock<Vec<Arc<Bitmap>>>,
    /// Whether there are any: writes look no further where there are none.
    any: AtomicBool,
    /// Whether an image keeps some of them.
    persistent: AtomicBool,
}

impl Bitmaps {
    /// Records a write in all that record.
    pub(crate) fn record(&self, off: u64, len: u64) {
        if self.any.load(Ordering::Acquire) {
            for b in self.list.read().iter() {
                b.record(off, len);
            }
        }
    }

    /// The node's length has changed.
    pub(crate) fn resize(&self, size: u64) {
        for b in self.list.read().iter().filter(|b| !b.inconsistent) {
            b.resize(size);
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Bitmap>> {
        self.list.read().clone()
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Bitmap>> {
        self.list.read().iter().find(|b| b.name == name).cloned()
    }

    pub(crate) fn add(&self, b: Arc<Bitmap>) {
        let mut list = self.list.write();
        list.insert(0, b);
        self.count(&list);
    }

    pub(crate) fn remove(&self, name: &str) {
        let mut list = self.list.write();
        list.retain(|b| b.name != name);
        self.count(&list);
    }

    fn count(&self, list: &[Arc<Bitmap>]) {
        self.any.store(!list.is_empty(), Ordering::Release);
        self.persistent.store(list.iter().any(|b| b.persistent && !b.inconsistent), Ordering::Release);
    }

    /// Whether an image keeps some of them.
    pub(crate) fn any_persistent(&self) -> bool {
        self.persistent.load(Ordering::Acquire)
    }

    /// The image belongs to somebody else: those that it keeps are not ours any more.
    pub(crate) fn forget_stored(&self) {
        let mut list = self.list.write();
        list.retain(|b| !b.persistent);
        self.any.store(!list.is_empty(), Ordering::Release);
    }

    /// What queries show; `None` where there are none.
    pub(crate) fn info(&self) -> Option<Vec<api::block_core::BlockDirtyInfo>> {
        let list = self.list.read();
        (!list.is_empty()).then(|| list.iter().map(|b| b.info()).collect())
    }
}

impl Cx<'_> {
    /// The node's dirty bitmaps, the youngest first.
    pub fn bitmaps(&self) -> Vec<Arc<Bitmap>> {
        self.node.live.bitmaps.all()
    }
}
