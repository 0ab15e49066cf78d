//! Memory for native code.
//!
//! The same pages are mapped twice: once to write code, once to run it, so that no page can be written and run at the same
//! address. Code is put one piece behind the other and never changed; all of it goes at once, with the arena.

use base::{Errno, IoResult};
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;

/// Where a function may begin, bytes.
const ALIGN: usize = 16;
/// Links that are made at a time.
const LINKS: usize = 512;

/// A mapping of some length.
struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is memory, whoever looks at it; access is governed by `Arena`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody uses it any more: code is run only while its arena is held.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// Native code, and the data words through which it goes from one piece to the next.
pub(crate) struct Arena {
    write: Mapping,
    run: Mapping,
    used: Mutex<usize>,
    links: Mutex<Vec<Box<[AtomicU64]>>>,
    next_link: Mutex<usize>,
}

impl Arena {
    /// For `len` bytes of code (whole pages), of which memory is taken when it is used.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(len: usize) -> IoResult<Arena> {
        let errno = |e: rustix::io::Errno| Errno::from_raw(e.raw_os_error());
        let fd = memfd_create(c"rhea-jit", MemfdFlags::CLOEXEC).map_err(errno)?;
        ftruncate(&fd, len as u64).map_err(errno)?;
        let map = |prot| {
            // SAFETY: a new mapping at an address of the system's choice.
            let at = unsafe { mmap(null_mut(), len, prot, MapFlags::SHARED, &fd, 0) }.map_err(errno)?;
            NonNull::new(at.cast()).map(|at| Mapping { at, len }).ok_or(Errno::NOMEM)
        };
        Ok(Arena {
            write: map(ProtFlags::READ | ProtFlags::WRITE)?,
            run: map(ProtFlags::READ | ProtFlags::EXEC)?,
            used: Mutex::default(),
            links: Mutex::default(),
            next_link: Mutex::new(LINKS),
        })
    }

    /// Puts code there; the address to run it at. `None`: there is no room.
    pub(crate) fn add(&self, code: &[u8]) -> Option<u64> {
        let mut used = self.used.lock();
        let at = used.next_multiple_of(ALIGN);
        let end = at.checked_add(code.len()).filter(|e| *e <= self.write.len)?;
        // SAFETY: the range lies in the mapping, and nobody else writes or reads it: it is behind everything that was used.
        unsafe { self.write.at.as_ptr().add(at).copy_from_nonoverlapping(code.as_ptr(), code.len()) };
        *used = end;
        Some(self.run.at.as_ptr() as u64 + at as u64)
    }

    /// Bytes of code.
    pub(crate) fn used(&self) -> usize {
        *self.used.lock()
    }

    /// Whether code at the address is in here.
    pub(crate) fn has(&self, code: u64) -> bool {
        let start = self.run.at.as_ptr() as u64;
        (start..start + self.run.len as u64).contains(&code)
    }

    /// The address of a new link: a word that is 0 until the code to go on at is known. It lives as long as the arena.
    pub(crate) fn new_link(&self) -> u64 {
        let mut next = self.next_link.lock();
        let mut links = self.links.lock();
        if *next == LINKS {
            links.push((0..LINKS).map(|_| AtomicU64::new(0)).collect());
            *next = 0;
        }
        let at = *next;
        *next += 1;
        links.last().map_or(0, |chunk| &raw const chunk[at] as u64)
    }

    /// The link at an address; `None` if there is none.
    pub(crate) fn with_link(&self, address: u64, f: impl FnOnce(&AtomicU64)) -> Option<()> {
        let links = self.links.lock();
        let chunk = links.iter().find(|c| {
            let start = c.as_ptr() as u64;
            (start..start + (LINKS * 8) as u64).contains(&address)
        })?;
        f(&chunk[((address - chunk.as_ptr() as u64) / 8) as usize]);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn code_runs_where_it_was_put_and_room_ends() {
        let a = Arena::new(4096).unwrap();
        // mov eax, 42; ret
        let code = [0xb8, 42, 0, 0, 0, 0xc3];
        let at = a.add(&code).unwrap();
        let again = a.add(&code).unwrap();
        assert_eq!(again - at, 16);
        assert!(a.has(at) && !a.has(at + 4096));
        if cfg!(target_arch = "x86_64") {
            // SAFETY: the bytes are a function of that type.
            let f: extern "C" fn() -> u32 = unsafe { std::mem::transmute(at) };
            assert_eq!(f(), 42);
        }
        assert_eq!(a.add(&[0; 4096]), None);
        assert_eq!(a.used(), 22);
    }

    #[test]
    fn links_are_found_again() {
        let a = Arena::new(4096).unwrap();
        let all: Vec<u64> = (0..LINKS + 3).map(|_| a.new_link()).collect();
        a.with_link(all[LINKS + 1], |l| l.store(7, Ordering::Relaxed)).unwrap();
        a.with_link(all[LINKS + 1], |l| assert_eq!(l.load(Ordering::Relaxed), 7)).unwrap();
        assert!(a.with_link(4, |_| unreachable!()).is_none());
    }
}
