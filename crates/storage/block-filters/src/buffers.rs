//! Memory for copying, used again and again: fresh memory costs more than the copying itself.

use mem::IoBuf;
use parking_lot::Mutex;
use std::sync::Arc;

/// How much is kept for later, bytes; a single buffer may be longer.
const KEPT: usize = 64 << 20;
/// The least length of a buffer, bytes: so that most of them serve for any request.
const USUAL: usize = 1 << 20;

/// Buffers of one copier. Any thread may call.
#[derive(Debug, Default)]
pub struct Buffers(Mutex<Free>);

#[derive(Debug, Default)]
struct Free {
    list: Vec<IoBuf>,
    bytes: usize,
}

/// A buffer that goes back when dropped.
#[derive(Debug)]
pub struct Buffer<'a> {
    home: &'a Buffers,
    whole: IoBuf,
    /// The part that was asked for.
    pub buf: IoBuf,
}

impl Buffers {
    /// A buffer of `len` bytes, whatever is in them.
    pub fn take(&self, len: u64) -> Buffer<'_> {
        let len = len as usize;
        let whole = {
            let mut free = self.0.lock();
            let fits = free.list.iter().rposition(|b| b.len() >= len);
            let found = fits.map(|i| free.list.swap_remove(i));
            free.bytes -= found.as_ref().map_or(0, IoBuf::len);
            found
        };
        let whole = whole.unwrap_or_else(|| IoBuf::zeroed(len.max(USUAL)));
        Buffer { home: self, buf: whole.slice(0..len), whole }
    }

    /// Frees what is kept for later.
    pub fn clear(&self) {
        *self.0.lock() = Free::default();
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.buf = IoBuf::new();
        // Memory that anybody still holds is not written again under his hands.
        if !self.whole.segments().all(|s| Arc::strong_count(s.memory()) == 1) {
            return;
        }
        let mut free = self.home.0.lock();
        if free.bytes == 0 || free.bytes + self.whole.len() <= KEPT {
            free.bytes += self.whole.len();
            free.list.push(std::mem::take(&mut self.whole));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(b: &Buffer<'_>) -> usize {
        b.whole.segments().map(|s| Arc::as_ptr(s.memory()) as usize).sum()
    }

    #[test]
    fn buffers_come_back_unless_they_are_held() {
        let all = Buffers::default();
        let first = all.take(100);
        let at = place(&first);
        assert_eq!(first.buf.len(), 100);
        let held = first.buf.clone();
        drop(first);
        let second = all.take(100);
        assert_ne!(place(&second), at);
        let at = place(&second);
        drop((held, second));
        let third = all.take(USUAL as u64);
        assert_eq!(place(&third), at);
        drop(third);
        all.clear();
        let free = all.0.lock();
        assert_eq!((free.bytes, free.list.len()), (0, 0));
        drop(free);
        assert!(all.take(100).buf.len() == 100);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let all = Buffers::default();
        let many: Vec<_> = (0..100).map(|_| all.take(1)).collect();
        drop(many);
        assert_eq!(all.0.lock().list.len(), KEPT / USUAL);
        let bound = |f: &Free| f.bytes == f.list.iter().map(IoBuf::len).sum::<usize>();
        let long = all.take(KEPT as u64 + 1);
        drop(long);
        assert!(bound(&all.0.lock()) && all.0.lock().bytes <= KEPT);
    }
}
