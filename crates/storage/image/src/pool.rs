//! Memory for pieces of disks that is used again and again: fresh memory costs more than what is done with it.

use std::cell::RefCell;

use mem::IoBuf;

/// Buffers of one size, for one thread. There are never more than were in use at a time.
pub(crate) struct Pool {
    usual: usize,
    free: RefCell<Vec<IoBuf>>,
}

impl Pool {
    /// `usual`: how long most buffers are, bytes.
    pub(crate) fn new(usual: u64) -> Pool {
        Pool { usual: usual as usize, free: RefCell::default() }
    }

    /// Memory of at least `len` bytes, with anything in it. [`Pool::give`] takes it back.
    pub(crate) fn take(&self, len: u64) -> IoBuf {
        let free = self.free.borrow_mut().pop().filter(|b| b.len() as u64 >= len);
        free.unwrap_or_else(|| IoBuf::zeroed(self.usual.max(len as usize)))
    }

    /// Takes back what nothing uses any more.
    pub(crate) fn give(&self, buf: IoBuf) {
        self.free.borrow_mut().push(buf);
    }
}
