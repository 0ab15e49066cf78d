use crate::rows::{self, ROW};
use crate::{PAGE_SIZE, RamPage, Scalar, spare};
use base::{Errno, IoResult};
use std::alloc::Layout;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A block of host memory that guests, devices and the kernel may share: guest RAM or an I/O buffer.
///
/// Held by `Arc`; it is unmapped or freed with the last holder. Offsets are bytes from its start. An access
/// beyond the end is an internal error and panics: whoever takes an offset from outside checks it first.
pub struct Memory {
    ptr: NonNull<u8>,
    len: u64,
    name: Box<str>,
    backing: Backing,
}

enum Backing {
    Mapped,
    /// A file that others map too: the mapping's own start and length.
    Shared(NonNull<u8>, usize),
    Heap(Layout),
}

// SAFETY: the block is plain memory, accessed only by relaxed atomics (or by the kernel) from any thread.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeroed memory of `size` bytes (rounded up to host pages) that is committed page by page on first touch.
    ///
    /// # Errors
    /// `EINVAL` for a size of 0 or beyond the host's address space, else what `mmap` says (`ENOMEM`).
    pub fn ram(name: &str, size: u64) -> IoResult<Arc<Memory>> {
        let len = usize::try_from(size).ok().filter(|&l| l > 0 && l <= isize::MAX as usize - PAGE_SIZE);
        let len = len.ok_or(Errno::INVAL)?;
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        // SAFETY: a fresh anonymous mapping at an address that the kernel chooses aliases nothing.
        let p = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        let ptr = NonNull::new(p.cast::<u8>()).ok_or(Errno::NOMEM)?;
        if len >= 2 << 20 {
            // Only advice: fewer TLB misses where the host has huge pages.
            // SAFETY: the range is exactly the mapping made above.
            let _ = unsafe { rustix::mm::madvise(p, len, rustix::mm::Advice::LinuxHugepage) };
        }
        Ok(Arc::new(Memory { ptr, len: size, name: name.into(), backing: Backing::Mapped }))
    }

    /// `len` bytes from `off` on of a file that another program shares with this one (a memfd, a file in shared memory or
    /// of huge pages). The descriptor is not needed afterwards.
    ///
    /// Whoever holds the file may shrink it later, and an access to what is gone then ends this program with `SIGBUS`: where
    /// that matters, the file must be sealed against it.
    ///
    /// # Errors
    /// `EINVAL` for a length of 0 or a range behind the file's end; else what the system says.
    pub fn shared(name: &str, fd: std::os::fd::BorrowedFd<'_>, off: u64, len: u64) -> IoResult<Arc<Memory>> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let sys = |e: rustix::io::Errno| Errno::from_raw(e.raw_os_error());
        let stat = rustix::fs::fstat(fd).map_err(sys)?;
        let end = off.checked_add(len).filter(|end| len > 0 && i64::try_from(*end).is_ok());
        let end = end.filter(|end| *end <= stat.st_size as u64).ok_or(Errno::INVAL)?;
        // Huge pages are mapped and unmapped as a whole, so the mapping begins where the file does.
        let unit = u64::try_from(stat.st_blksize).ok().filter(|b| b.is_power_of_two()).unwrap_or(1);
        let whole = end.checked_next_multiple_of(unit.max(PAGE_SIZE as u64)).ok_or(Errno::INVAL)?;
        let whole = usize::try_from(whole).ok().filter(|l| *l <= isize::MAX as usize).ok_or(Errno::INVAL)?;
        // SAFETY: a fresh mapping at an address that the kernel chooses aliases nothing of ours.
        let p = unsafe {
            mmap(ptr::null_mut(), whole, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)
        }
        .map_err(sys)?;
        let start = NonNull::new(p.cast::<u8>()).ok_or(Errno::NOMEM)?;
        // SAFETY: `off` is inside of the mapping.
        let ptr = unsafe { start.add(off as usize) };
        Ok(Arc::new(Memory { ptr, len, name: name.into(), backing: Backing::Shared(start, whole) }))
    }

    /// A zeroed host buffer of `len` bytes whose address is a multiple of `align` (a power of two).
    /// Aborts the process where the host has no memory; see [`Memory::try_buffer`].
    pub fn buffer(len: usize, align: usize) -> Arc<Memory> {
        match Memory::try_buffer(len, align) {
            Ok(m) => m,
            Err(_) => std::alloc::handle_alloc_error(
                Layout::from_size_align(len, align).unwrap_or(Layout::new::<u64>()),
            ),
        }
    }

    /// As [`Memory::buffer`], but `ENOMEM` where there is no memory.
    pub fn try_buffer(len: usize, align: usize) -> IoResult<Arc<Memory>> {
        // At least word alignment, so that bulk copies go by words.
        let layout = Layout::from_size_align(len.max(1), align.max(8)).map_err(|_| Errno::NOMEM)?;
        let ptr = spare::take(layout).ok_or(Errno::NOMEM)?;
        Ok(Arc::new(Memory { ptr, len: len as u64, name: "".into(), backing: Backing::Heap(layout) }))
    }

    /// A host buffer that holds a copy of `bytes`.
    pub fn from_slice(bytes: &[u8]) -> Arc<Memory> {
        let m = Memory::buffer(bytes.len(), 8);
        m.write(0, bytes);
        m
    }

    /// The size in bytes.
    #[inline]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the block has no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The name it was made with; empty for a buffer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host address of the first byte, for system calls. Whoever writes through it must do so as the kernel
    /// would (never through a Rust reference), inside `0..len()`, while the block is held.
    #[inline]
    pub fn raw_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    #[inline]
    fn at(&self, off: u64, len: u64) -> *mut u8 {
        assert!(
            off <= self.len && len <= self.len - off,
            "access of {len} bytes at {off:#x} of a block of {:#x}",
            self.len
        );
        // SAFETY: `off` is inside the allocation, or one past its end for an empty access.
        unsafe { self.ptr.as_ptr().add(off as usize) }
    }

    /// Copies `dst.len()` bytes at `off` out of the block. Panics where the range leaves the block.
    pub fn read(&self, off: u64, dst: &mut [u8]) {
        let p = self.at(off, dst.len() as u64);
        let head = p.align_offset(8).min(dst.len());
        let (dst_head, rest) = dst.split_at_mut(head);
        for (i, d) in dst_head.iter_mut().enumerate() {
            // SAFETY: `at` checked the whole range.
            *d = unsafe { u8::load_raw(p.add(i)) };
        }
        let mut done = head;
        let mut words = rest.chunks_exact_mut(8);
        for d in &mut words {
            // SAFETY: inside the checked range, and aligned since `head` bytes lie before.
            let w = unsafe { AtomicU64::from_ptr(p.add(done).cast()) }.load(Ordering::Relaxed);
            d.copy_from_slice(&w.to_ne_bytes());
            done += 8;
        }
        for (i, d) in words.into_remainder().iter_mut().enumerate() {
            // SAFETY: inside the checked range.
            *d = unsafe { u8::load_raw(p.add(done + i)) };
        }
    }

    /// Copies `src` into the block at `off`. Panics where the range leaves the block.
    pub fn write(&self, off: u64, src: &[u8]) {
        let p = self.at(off, src.len() as u64);
        let head = p.align_offset(8).min(src.len());
        let (src_head, rest) = src.split_at(head);
        for (i, s) in src_head.iter().enumerate() {
            // SAFETY: `at` checked the whole range.
            unsafe { u8::store_raw(p.add(i), *s) };
        }
        let mut done = head;
        let words = rest.chunks_exact(8);
        let tail = words.remainder();
        for s in words {
            let mut w = [0; 8];
            w.copy_from_slice(s);
            // SAFETY: inside the checked range, and aligned since `head` bytes lie before.
            unsafe { AtomicU64::from_ptr(p.add(done).cast()) }
                .store(u64::from_ne_bytes(w), Ordering::Relaxed);
            done += 8;
        }
        for (i, s) in tail.iter().enumerate() {
            // SAFETY: inside the checked range.
            unsafe { u8::store_raw(p.add(done + i), *s) };
        }
    }

    /// Sets `len` bytes at `off` to `byte`. Panics where the range leaves the block.
    pub fn fill(&self, off: u64, len: u64, byte: u8) {
        let p = self.at(off, len);
        let len = len as usize;
        let word = u64::from_ne_bytes([byte; 8]);
        let mut i = 0;
        while i < len {
            // SAFETY: `i < len`, and `at` checked the whole range.
            let q = unsafe { p.add(i) };
            if q.addr() % 8 == 0 && len - i >= 8 {
                // SAFETY: aligned, and eight bytes are left in the checked range.
                unsafe { AtomicU64::from_ptr(q.cast()) }.store(word, Ordering::Relaxed);
                i += 8;
            } else {
                // SAFETY: one byte is left in the checked range.
                unsafe { u8::store_raw(q, byte) };
                i += 1;
            }
        }
    }

    /// Whether `len` bytes at `off` are all zero. Panics where the range leaves the block.
    pub fn is_zero(&self, off: u64, len: u64) -> bool {
        let p = self.at(off, len);
        let len = len as usize;
        let head = p.align_offset(8).min(len);
        let rows = (len - head) / ROW;
        // SAFETY: `at` checked the whole range, of which these are parts.
        let byte = |i: usize| unsafe { u8::load_raw(p.add(i)) } == 0;
        // SAFETY: rows inside of the checked range, aligned since `head` bytes lie before.
        let in_rows = || unsafe { rows::zero_rows(p.add(head), rows) } == rows;
        (0..head).all(byte) && in_rows() && (head + rows * ROW..len).all(byte)
    }

    /// Where `len` bytes at `off` first differ from those at `other_off` of another block, counted from `off`. Panics where a
    /// range leaves its block.
    pub fn first_difference(&self, off: u64, other: &Memory, other_off: u64, len: u64) -> Option<u64> {
        let (p, q) = (self.at(off, len), other.at(other_off, len));
        let len = len as usize;
        // SAFETY: `at` checked both ranges.
        let differ = |i: &usize| unsafe { u8::load_raw(p.add(*i)) != u8::load_raw(q.add(*i)) };
        let head = p.align_offset(8).min(len);
        // Words can be compared only where both are aligned at the same places.
        let rows = if (p.addr() ^ q.addr()) % 8 == 0 { (len - head) / ROW } else { 0 };
        if let Some(i) = (0..head).find(differ) {
            return Some(i as u64);
        }
        // SAFETY: rows inside of the checked ranges, aligned since `head` bytes lie before.
        let same = head + unsafe { rows::equal_rows(p.add(head), q.add(head), rows) } * ROW;
        (same..len).find(differ).map(|i| i as u64)
    }

    /// Loads a little-endian scalar. Panics where the range leaves the block.
    #[inline]
    pub fn load<T: Scalar>(&self, off: u64) -> T {
        let p = self.at(off, T::SIZE as u64);
        // SAFETY: `at` checked the range.
        unsafe { T::load_raw(p) }
    }

    /// Stores a little-endian scalar. Panics where the range leaves the block.
    #[inline]
    pub fn store<T: Scalar>(&self, off: u64, v: T) {
        let p = self.at(off, T::SIZE as u64);
        // SAFETY: `at` checked the range.
        unsafe { T::store_raw(p, v) }
    }

    /// The page at `off`, which must be a multiple of 4096 with a whole page behind it (else it panics).
    pub fn page(self: &Arc<Self>, off: u64) -> RamPage {
        assert!(off.is_multiple_of(PAGE_SIZE as u64), "page offset {off:#x}");
        let p = self.at(off, PAGE_SIZE as u64);
        // SAFETY: `p` starts a whole page inside the block that `self` keeps alive.
        unsafe { RamPage::new(NonNull::new_unchecked(p), self.clone()) }
    }

    /// Commits every page of mapped memory now.
    ///
    /// # Errors
    /// `ENOMEM` where the host has not so much, or what else the system says.
    pub fn populate(&self) -> IoResult<()> {
        if !matches!(self.backing, Backing::Mapped) {
            return Ok(());
        }
        let advice = rustix::mm::Advice::LinuxPopulateWrite;
        // SAFETY: exactly our own mapping; its contents do not change.
        unsafe { rustix::mm::madvise(self.ptr.as_ptr().cast(), self.len as usize, advice) }
            .map_err(|e| Errno::from_raw(e.raw_os_error()))
    }

    /// Gives the pages of a range back to the host; they read as zero afterwards. Whole host pages of mapped
    /// memory are dropped, everything else is filled with zeroes.
    pub fn discard(&self, off: u64, len: u64) {
        let p = self.at(off, len);
        if matches!(self.backing, Backing::Mapped)
            && p.addr().is_multiple_of(PAGE_SIZE)
            && len.is_multiple_of(PAGE_SIZE as u64)
            && len > 0
        {
            // SAFETY: a page-aligned range of our own private anonymous mapping, whose contents become zero.
            if unsafe { rustix::mm::madvise(p.cast(), len as usize, rustix::mm::Advice::LinuxDontNeed) }
                .is_ok()
            {
                return;
            }
        }
        self.fill(off, len, 0);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.backing {
            Backing::Mapped => {
                // SAFETY: the mapping was made by `ram` with this length, and nobody holds it any more.
                let _ = unsafe { rustix::mm::munmap(self.ptr.as_ptr().cast(), self.len as usize) };
            }
            Backing::Shared(start, len) => {
                // SAFETY: the mapping was made by `shared` so, and nobody holds it any more.
                let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), len) };
            }
            Backing::Heap(layout) => {
                // SAFETY: taken by `try_buffer` with this layout, and nobody holds it any more.
                unsafe { spare::give_back(self.ptr, layout) }
            }
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({:?}, {:#x})", self.name, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_in_and_come_out_at_every_alignment() {
        let m = Memory::buffer(64, 1);
        for off in 0..20u64 {
            for len in 0..40usize {
                m.fill(0, 64, 0xee);
                let src: Vec<u8> = (0..len as u8).map(|b| b ^ 0x55).collect();
                m.write(off, &src);
                let mut back = vec![0; len];
                m.read(off, &mut back);
                assert_eq!(back, src);
                let mut all = vec![0; 64];
                m.read(0, &mut all);
                assert!(all[..off as usize].iter().all(|&b| b == 0xee));
                assert!(all[off as usize + len..].iter().all(|&b| b == 0xee));
            }
        }
    }

    #[test]
    fn zeroes_and_differences_are_found_at_every_place() {
        let (a, b) = (Memory::buffer(400, 64), Memory::buffer(400, 64));
        for (off, other) in [(0, 0), (3, 3), (8, 16), (1, 2), (5, 0)] {
            for len in [0u64, 1, 7, 8, 63, 64, 65, 130, 200] {
                a.fill(0, 400, 0);
                // What lies around does not count.
                a.fill(0, off, 1);
                a.fill(off + len, 9, 1);
                b.fill(0, 400, 0);
                assert!(a.is_zero(off, len));
                assert_eq!(a.first_difference(off, &b, other, len), None);
                for at in 0..len {
                    b.fill(other + at, 1, 0x10);
                    assert!(!b.is_zero(other, len), "{at} of {len}");
                    assert_eq!(a.first_difference(off, &b, other, len), Some(at));
                    b.fill(other + len - 1, 1, 0x10);
                    assert_eq!(a.first_difference(off, &b, other, len), Some(at));
                    b.fill(0, 400, 0);
                }
            }
        }
    }

    #[test]
    fn scalars_are_little_endian_at_every_alignment() {
        let m = Memory::buffer(32, 8);
        for off in 0..16 {
            m.store(off, 0x8877_6655_4433_2211u64);
            let mut b = [0; 8];
            m.read(off, &mut b);
            assert_eq!(b, [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
            assert_eq!(m.load::<u64>(off), 0x8877_6655_4433_2211);
            assert_eq!(m.load::<u32>(off + 1), 0x5544_3322);
            assert_eq!(m.load::<u16>(off + 3), 0x5544);
            assert_eq!(m.load::<u8>(off + 7), 0x88);
        }
    }

    #[test]
    fn ram_is_zero_lazy_and_can_be_given_back() {
        // Far more than the host has: only touched pages are committed.
        let m = Memory::ram("pc.ram", 1 << 40).unwrap();
        assert_eq!((m.len(), m.name()), (1 << 40, "pc.ram"));
        m.store((1 << 40) - 8, 7u64);
        assert!(m.is_zero(0, 1 << 16));
        m.fill(4096, 8192, 9);
        assert!(!m.is_zero(0, 1 << 16));
        m.discard(4096, 8192);
        m.discard((1 << 40) - 8, 8);
        assert!(m.is_zero(0, 1 << 16));
        assert_eq!(m.load::<u64>((1 << 40) - 8), 0);
        assert!(Memory::ram("x", 0).is_err());
        assert!(Memory::ram("x", u64::MAX).is_err());
    }

    #[test]
    fn a_shared_file_is_seen_at_both_ends() {
        use std::os::fd::AsFd;
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 10_000).unwrap();
        let a = Memory::shared("a", fd.as_fd(), 4096, 5904).unwrap();
        let b = Memory::shared("b", fd.as_fd(), 0, 10_000).unwrap();
        a.write(5, b"hello");
        let mut got = [0; 5];
        b.read(4101, &mut got);
        assert_eq!(&got, b"hello");
        rustix::io::pread(&fd, &mut got, 4101).unwrap();
        assert_eq!(&got, b"hello");
        a.discard(0, 4096);
        assert!(b.is_zero(0, 10_000));
        for (off, len) in [(4096, 5905), (10_001, 0), (0, 0), (u64::MAX, 2), (20_000, 1)] {
            assert_eq!(Memory::shared("c", fd.as_fd(), off, len).err(), Some(Errno::INVAL));
        }
        let (r, _w) = rustix::pipe::pipe().unwrap();
        assert!(Memory::shared("c", r.as_fd(), 0, 4096).is_err());
    }

    #[test]
    #[should_panic(expected = "access of 8 bytes")]
    fn an_access_beyond_the_end_panics() {
        Memory::buffer(15, 8).load::<u64>(8);
    }
}
