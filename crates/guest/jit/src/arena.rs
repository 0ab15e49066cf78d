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
///
/// Code begins at the beginning, links at the end, so that each may reach the other by a distance of 32 bits.
pub(crate) struct Arena {
    write: Mapping,
    run: Mapping,
    used: Mutex<Used>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    /// Bytes of code.
    code: usize,
    /// Bytes of links.
    links: usize,
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
        })
    }

    /// The address that the first code has.
    pub(crate) fn start(&self) -> u64 {
        self.run.at.as_ptr() as u64
    }

    /// Puts code of `len` bytes there, which `make` gives when it knows the address to run it at; that address. `None`: there is no
    /// room.
    pub(crate) fn add<'a>(&self, len: usize, make: impl FnOnce(u64) -> &'a [u8]) -> Option<u64> {
        let mut used = self.used.lock();
        let at = used.code.next_multiple_of(ALIGN);
        let end = at.checked_add(len).filter(|e| *e <= self.write.len - used.links)?;
        let address = self.start() + at as u64;
        let code = make(address);
        assert_eq!(code.len(), len, "code is as long as it was said to be");
        // SAFETY: the range lies in the mapping, and nobody else writes or reads it: it is behind all code and before all links.
        unsafe { self.write.at.as_ptr().add(at).copy_from_nonoverlapping(code.as_ptr(), len) };
        used.code = end;
        Some(address)
    }

    /// Bytes of code.
    pub(crate) fn used(&self) -> usize {
        self.used.lock().code
    }

    /// Whether code at the address is in here.
    pub(crate) fn has(&self, code: u64) -> bool {
        (self.start()..self.start() + self.run.len as u64).contains(&code)
    }

    /// The address of a new link: a word that native code reads to know where to go on. It is 0 at first. `None`: there is no room.
    pub(crate) fn new_link(&self) -> Option<u64> {
        let mut used = self.used.lock();
        let links = used.links + 8;
        if used.code + links > self.run.len {
            return None;
        }
        used.links = links;
        Some(self.start() + (self.run.len - links) as u64)
    }

    /// The link at an address; `None` if there is none.
    pub(crate) fn with_link(&self, address: u64, f: impl FnOnce(&AtomicU64)) -> Option<()> {
        let offset = usize::try_from(address.checked_sub(self.start())?).ok()?;
        let first = self.run.len - self.used.lock().links;
        if offset % 8 != 0 || !(first..self.run.len).contains(&offset) {
            return None;
        }
        // SAFETY: the word lies in the mapping, is aligned as its beginning is to pages, and is only used as this.
        f(unsafe { &*self.write.at.as_ptr().add(offset).cast::<AtomicU64>() });
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
        let at = a.add(6, |_| &code).unwrap();
        let again = a.add(6, |_| &code).unwrap();
        assert_eq!(again - at, 16);
        assert!(a.has(at) && !a.has(at + 4096));
        if cfg!(target_arch = "x86_64") {
            // SAFETY: the bytes are a function of that type.
            let f: extern "C" fn() -> u32 = unsafe { std::mem::transmute(at) };
            assert_eq!(f(), 42);
        }
        assert_eq!(a.add(4096, |_| &[0; 4096]), None);
        assert_eq!(a.used(), 22);
    }

    #[test]
    fn links_and_code_share_the_room() {
        let a = Arena::new(4096).unwrap();
        let all: Vec<u64> = std::iter::from_fn(|| a.new_link()).take(500).collect();
        assert_eq!(all[0], a.start() + 4088);
        a.with_link(all[400], |l| l.store(7, Ordering::Relaxed)).unwrap();
        a.with_link(all[400], |l| assert_eq!(l.load(Ordering::Relaxed), 7)).unwrap();
        assert!(a.with_link(all[499] - 8, |_| unreachable!()).is_none());
        assert!(a.with_link(4, |_| unreachable!()).is_none());
        a.add(90, |_| &[0; 90]).unwrap();
        assert_eq!(a.add(90, |_| &[0; 90]), None);
        assert!(a.new_link().is_none());
    }
}
