//! Where guest code goes on: which of it is hot, and native code by virtual address.

/// Counts how often control came to an address, by a hash of it.
///
/// Guest code is worth translating once it was reached some number of times.
pub(crate) struct Heat {
    counts: Box<[u16; Heat::SIZE]>,
    /// How often an address is reached before it is hot.
    hot: u16,
    /// An address got hot, and nobody has looked at it yet.
    pub(crate) tripped: bool,
}

impl Heat {
    const SIZE: usize = 4096;

    pub(crate) fn new() -> Heat {
        Heat { counts: Box::new([0; Heat::SIZE]), hot: u16::MAX, tripped: false }
    }

    /// Sets how often an address is reached before it is hot.
    pub(crate) fn set_hot(&mut self, times: u16) {
        self.hot = times.max(1);
        self.counts.fill(0);
    }

    /// Control came to `pc`; whether that made it hot.
    #[inline(always)]
    pub(crate) fn count(&mut self, pc: u64) -> bool {
        let n = &mut self.counts[(pc >> 1) as usize & (Heat::SIZE - 1)];
        *n += 1;
        if *n < self.hot {
            return false;
        }
        *n = 0;
        self.tripped = true;
        true
    }
}

/// An entry of the [`JumpCache`], which native code reads: 32 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Jump {
    pc: u64,
    /// [`JumpCache::now`] of when it was made.
    when: u64,
    /// The address of the native code.
    code: u64,
    unused: u64,
}

/// Native code by virtual address, for jumps whose target is known only when they are made, and for those to other pages.
///
/// An entry holds as long as translations and code do: whatever makes the TLB forget, or copies of code suspect, makes
/// this forget everything, which is the change of a number.
pub(crate) struct JumpCache {
    pub(crate) entries: Box<[Jump; JumpCache::SIZE]>,
    /// What an entry of the present context has in [`Jump::when`]: how often everything was forgotten, and the context.
    pub(crate) now: u64,
    /// Pages that entries are of, hashed.
    pages: [u64; 16],
}

impl JumpCache {
    /// Entries.
    pub(crate) const SIZE: usize = 4096;
    /// Bits of a context's number.
    const CONTEXT: u32 = 12;

    pub(crate) fn new() -> JumpCache {
        let none = Jump { pc: u64::MAX, when: 0, code: 0, unused: 0 };
        JumpCache { entries: Box::new([none; JumpCache::SIZE]), now: 1 << JumpCache::CONTEXT, pages: [0; 16] }
    }

    /// Makes `context` the present one.
    pub(crate) fn select(&mut self, context: u64) {
        self.now = self.now >> JumpCache::CONTEXT << JumpCache::CONTEXT | context;
    }

    /// Forgets everything.
    pub(crate) fn forget(&mut self) {
        self.now += 1 << JumpCache::CONTEXT;
        self.pages = [0; 16];
    }

    fn hash(page: u64) -> (usize, u64) {
        let h = (page >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        (h as usize >> 6, 1 << (h & 63))
    }

    /// Whether there may be entries of some of the pages from the first to the last one.
    pub(crate) fn leads_to(&self, (first, last): (u64, u64)) -> bool {
        last - first > 64 << 12
            || (first..=last).step_by(0x1000).any(|page| {
                let (i, bit) = Self::hash(page);
                self.pages[i] & bit != 0
            })
    }

    /// Remembers that the code of `pc` is at `code`.
    pub(crate) fn set(&mut self, pc: u64, code: u64) {
        let (i, bit) = Self::hash(pc);
        self.pages[i] |= bit;
        self.entries[(pc >> 1) as usize & (JumpCache::SIZE - 1)] =
            Jump { pc, when: self.now, code, unused: 0 };
    }
}

/// Where native code finds what it needs of this; bytes.
pub(crate) mod layout {
    use super::{Jump, JumpCache};
    use std::mem::offset_of;

    pub(crate) const ENTRIES: usize = offset_of!(JumpCache, entries);
    pub(crate) const NOW: usize = offset_of!(JumpCache, now);
    pub(crate) const PC: usize = offset_of!(Jump, pc);
    pub(crate) const WHEN: usize = offset_of!(Jump, when);
    pub(crate) const CODE: usize = offset_of!(Jump, code);
    pub(crate) const ENTRY: usize = size_of::<Jump>();
}
