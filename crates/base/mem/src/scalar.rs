use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

mod sealed {
    pub trait Sealed {}
}

/// A little-endian scalar in shared memory: `u8`, `u16`, `u32` or `u64`.
///
/// An access that is aligned to its size is single-copy atomic (relaxed); a misaligned one is made of smaller
/// aligned accesses, so another thread may see it in parts, as on real hardware.
pub trait Scalar: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The size in bytes.
    const SIZE: usize;

    /// Zero-extended to 64 bits.
    fn to_u64(self) -> u64;

    /// The low bits of `v`.
    fn from_u64(v: u64) -> Self;

    /// Loads a little-endian value.
    ///
    /// # Safety
    /// `p` must be valid for reads of `SIZE` bytes of memory that is only accessed atomically or by the kernel.
    unsafe fn load_raw(p: *const u8) -> Self;

    /// Stores a little-endian value.
    ///
    /// # Safety
    /// `p` must be valid for writes of `SIZE` bytes of memory that is only accessed atomically or by the kernel.
    unsafe fn store_raw(p: *mut u8, v: Self);
}

impl sealed::Sealed for u8 {}

impl Scalar for u8 {
    const SIZE: usize = 1;

    #[inline(always)]
    fn to_u64(self) -> u64 {
        u64::from(self)
    }

    #[inline(always)]
    fn from_u64(v: u64) -> u8 {
        v as u8
    }

    #[inline(always)]
    unsafe fn load_raw(p: *const u8) -> u8 {
        // SAFETY: the caller promises a valid pointer; a byte is always aligned.
        unsafe { AtomicU8::from_ptr(p.cast_mut()) }.load(Ordering::Relaxed)
    }

    #[inline(always)]
    unsafe fn store_raw(p: *mut u8, v: u8) {
        // SAFETY: as above.
        unsafe { AtomicU8::from_ptr(p) }.store(v, Ordering::Relaxed);
    }
}

macro_rules! scalar {
    ($t:ty, $half:ty, $atomic:ty) => {
        impl sealed::Sealed for $t {}

        impl Scalar for $t {
            const SIZE: usize = size_of::<$t>();

            #[inline(always)]
            fn to_u64(self) -> u64 {
                u64::from(self)
            }

            #[inline(always)]
            fn from_u64(v: u64) -> $t {
                v as $t
            }

            #[inline(always)]
            unsafe fn load_raw(p: *const u8) -> $t {
                if p.addr() % Self::SIZE == 0 {
                    // SAFETY: valid by the caller's promise, and aligned as just checked.
                    <$t>::from_le(unsafe { <$atomic>::from_ptr(p.cast_mut().cast()) }.load(Ordering::Relaxed))
                } else {
                    // SAFETY: the lower half of the range that the caller vouches for.
                    let lo = unsafe { <$half>::load_raw(p) };
                    // SAFETY: its upper half.
                    let hi = unsafe { <$half>::load_raw(p.add(Self::SIZE / 2)) };
                    <$t>::from(lo) | <$t>::from(hi) << (Self::SIZE * 4)
                }
            }

            #[inline(always)]
            unsafe fn store_raw(p: *mut u8, v: $t) {
                if p.addr() % Self::SIZE == 0 {
                    // SAFETY: valid by the caller's promise, and aligned as just checked.
                    unsafe { <$atomic>::from_ptr(p.cast()) }.store(v.to_le(), Ordering::Relaxed);
                } else {
                    // SAFETY: both halves lie inside the range that the caller vouches for.
                    unsafe {
                        <$half>::store_raw(p, v as $half);
                        <$half>::store_raw(p.add(Self::SIZE / 2), (v >> (Self::SIZE * 4)) as $half);
                    }
                }
            }
        }
    };
}

scalar!(u16, u8, AtomicU16);
scalar!(u32, u16, AtomicU32);
scalar!(u64, u32, AtomicU64);
