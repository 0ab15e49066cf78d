use crate::{Memory, Scalar};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The size of a guest page in bytes.
pub const PAGE_SIZE: usize = 4096;

/// One 4 KiB page of RAM that keeps its block alive: what a vCPU's TLB entry points to.
///
/// Offsets are 0..4096. An access must not cross the page's end, and an atomic must be aligned to its size;
/// both are asserted.
#[derive(Clone)]
pub struct RamPage {
    ptr: NonNull<u8>,
    mem: Arc<Memory>,
}

// SAFETY: a page is a part of a `Memory`, which is Send and Sync for the same reason.
unsafe impl Send for RamPage {}
// SAFETY: as above.
unsafe impl Sync for RamPage {}

/// An atomic read-modify-write; the names and their meanings are those of the RISC-V A extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RmwOp {
    /// The operand.
    Swap,
    /// Wrapping sum.
    Add,
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
    /// The lesser as signed numbers.
    Min,
    /// The greater as signed numbers.
    Max,
    /// The lesser as unsigned numbers.
    Minu,
    /// The greater as unsigned numbers.
    Maxu,
}

macro_rules! atomics {
    ($rmw:ident, $cmpxchg:ident, $at:ident, $t:ty, $s:ty, $atomic:ty) => {
        #[inline(always)]
        fn $at(&self, off: usize) -> &$atomic {
            assert!(off <= PAGE_SIZE - size_of::<$t>() && off % size_of::<$t>() == 0);
            // SAFETY: aligned and inside the page, which `self.mem` keeps alive.
            unsafe { <$atomic>::from_ptr(self.ptr.as_ptr().add(off).cast()) }
        }

        /// Atomically replaces the little-endian value `old` at `off` by `op(old, v)` and returns `old`.
        /// Sequentially consistent.
        #[inline]
        pub fn $rmw(&self, off: usize, op: RmwOp, v: $t) -> $t {
            let a = self.$at(off);
            const SC: Ordering = Ordering::SeqCst;
            if cfg!(target_endian = "little") {
                match op {
                    RmwOp::Swap => return a.swap(v, SC),
                    RmwOp::Add => return a.fetch_add(v, SC),
                    RmwOp::And => return a.fetch_and(v, SC),
                    RmwOp::Or => return a.fetch_or(v, SC),
                    RmwOp::Xor => return a.fetch_xor(v, SC),
                    RmwOp::Minu => return a.fetch_min(v, SC),
                    RmwOp::Maxu => return a.fetch_max(v, SC),
                    RmwOp::Min | RmwOp::Max => {}
                }
            }
            let mut raw = a.load(Ordering::Relaxed);
            loop {
                let old = <$t>::from_le(raw);
                let new = match op {
                    RmwOp::Swap => v,
                    RmwOp::Add => old.wrapping_add(v),
                    RmwOp::And => old & v,
                    RmwOp::Or => old | v,
                    RmwOp::Xor => old ^ v,
                    RmwOp::Min => (old as $s).min(v as $s) as $t,
                    RmwOp::Max => (old as $s).max(v as $s) as $t,
                    RmwOp::Minu => old.min(v),
                    RmwOp::Maxu => old.max(v),
                };
                match a.compare_exchange_weak(raw, new.to_le(), SC, Ordering::Relaxed) {
                    Ok(_) => return old,
                    Err(now) => raw = now,
                }
            }
        }

        /// Atomically stores `new` where the little-endian value at `off` is `old`; the value found otherwise.
        /// Sequentially consistent.
        #[inline]
        pub fn $cmpxchg(&self, off: usize, old: $t, new: $t) -> Result<$t, $t> {
            self.$at(off)
                .compare_exchange(old.to_le(), new.to_le(), Ordering::SeqCst, Ordering::SeqCst)
                .map(<$t>::from_le)
                .map_err(<$t>::from_le)
        }
    };
}

impl RamPage {
    /// # Safety
    /// `ptr` starts 4096 bytes inside `mem`, aligned to 8 at least.
    pub(crate) unsafe fn new(ptr: NonNull<u8>, mem: Arc<Memory>) -> RamPage {
        RamPage { ptr, mem }
    }

    /// Loads a little-endian scalar (single-copy atomic when aligned).
    #[inline(always)]
    pub fn load<T: Scalar>(&self, off: usize) -> T {
        assert!(off <= PAGE_SIZE - T::SIZE);
        // SAFETY: inside the page, which `self.mem` keeps alive.
        unsafe { T::load_raw(self.ptr.as_ptr().add(off)) }
    }

    /// Stores a little-endian scalar (single-copy atomic when aligned).
    #[inline(always)]
    pub fn store<T: Scalar>(&self, off: usize, v: T) {
        assert!(off <= PAGE_SIZE - T::SIZE);
        // SAFETY: inside the page, which `self.mem` keeps alive.
        unsafe { T::store_raw(self.ptr.as_ptr().add(off), v) }
    }

    atomics!(rmw_u32, cmpxchg_u32, at_u32, u32, i32, AtomicU32);
    atomics!(rmw_u64, cmpxchg_u64, at_u64, u64, i64, AtomicU64);

    /// The block that this is a page of, and the page's offset there.
    pub fn block(&self) -> (&Arc<Memory>, u64) {
        (&self.mem, (self.ptr.as_ptr().addr() - self.mem.raw_ptr().addr()) as u64)
    }

    /// The page's host address: an identity that is unique while anybody holds the block.
    #[inline(always)]
    pub fn host_addr(&self) -> usize {
        self.ptr.as_ptr().addr()
    }

    /// Whether both are the same page of the same block.
    #[inline(always)]
    pub fn ptr_eq(&self, other: &RamPage) -> bool {
        self.ptr == other.ptr
    }
}

impl fmt::Debug for RamPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mem, off) = self.block();
        write!(f, "RamPage({:?} + {off:#x})", mem.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_modify_write_follows_its_operation() {
        let m = Memory::ram("ram", 8192).unwrap();
        let p = m.page(4096);
        let cases: [(RmwOp, u32, u32, u32); 9] = [
            (RmwOp::Swap, 5, 7, 7),
            (RmwOp::Add, u32::MAX, 2, 1),
            (RmwOp::And, 6, 3, 2),
            (RmwOp::Or, 6, 3, 7),
            (RmwOp::Xor, 6, 3, 5),
            (RmwOp::Min, 1, u32::MAX, u32::MAX),
            (RmwOp::Max, 1, u32::MAX, 1),
            (RmwOp::Minu, 1, u32::MAX, 1),
            (RmwOp::Maxu, 1, u32::MAX, u32::MAX),
        ];
        for (op, old, v, new) in cases {
            p.store(4, old);
            assert_eq!(p.rmw_u32(4, op, v), old);
            assert_eq!(p.load::<u32>(4), new, "{op:?}");
            let wide = |x: u32| i64::from(x as i32) as u64;
            p.store(8, wide(old));
            assert_eq!(p.rmw_u64(8, op, wide(v)), wide(old));
            assert_eq!(p.load::<u64>(8), wide(new), "{op:?}");
        }
        p.store(16, 1u64);
        assert_eq!(p.cmpxchg_u64(16, 2, 3), Err(1));
        assert_eq!(p.cmpxchg_u64(16, 1, 3), Ok(1));
        assert_eq!(m.load::<u64>(4096 + 16), 3);
        assert_eq!(p.block().1, 4096);
        assert!(p.ptr_eq(&m.page(4096)) && !p.ptr_eq(&m.page(0)));
    }

    #[test]
    #[should_panic(expected = "off <= PAGE_SIZE")]
    fn an_access_across_the_end_of_a_page_panics() {
        Memory::ram("ram", 8192).unwrap().page(0).load::<u32>(4093);
    }
}
