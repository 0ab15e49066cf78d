//! Buffers that were given back, kept for the next request on the same thread.
//!
//! I/O buffers are page-aligned and live for one request. The system's allocator is slow at those: it cuts them out of bigger
//! pieces, and gives big ones back to the kernel, which has to zero and map every page anew.

use crate::PAGE_SIZE;
use std::alloc::Layout;
use std::cell::RefCell;
use std::ptr::NonNull;

/// The sizes that are kept: pages, doubled up to 1 MiB.
const CLASSES: usize = 9;
/// The most bytes of a size that a thread keeps, unless that is less than [`FEW`] buffers.
const KEPT: usize = 512 << 10;
/// How many buffers of the big sizes a thread keeps.
const FEW: usize = 4;

/// From this size on, memory is mapped by itself, bytes.
const MAPPED: usize = 1 << 20;

struct Spare([Vec<NonNull<u8>>; CLASSES]);

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare([const { Vec::new() }; CLASSES])) };
}

fn layout_of(class: usize) -> Layout {
    Layout::from_size_align(PAGE_SIZE << class, PAGE_SIZE).expect("a size and an alignment that fit")
}

/// Which of the sizes a layout is.
fn class_of(layout: Layout) -> Option<usize> {
    let pages = layout.size() / PAGE_SIZE;
    let class = pages.checked_ilog2()? as usize;
    (class < CLASSES && layout == layout_of(class)).then_some(class)
}

/// Whether memory of this layout is mapped by itself: it is zeroed page by page as it is touched, which the allocator's
/// aligned memory is not.
fn is_mapped(layout: Layout) -> bool {
    layout.size() >= MAPPED && layout.align() <= PAGE_SIZE
}

/// Fresh zeroed memory of this layout, whose size is not 0.
fn fresh(layout: Layout) -> Option<NonNull<u8>> {
    if !is_mapped(layout) {
        // SAFETY: the layout's size is not 0.
        return NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) });
    }
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a fresh anonymous mapping at an address that the kernel chooses aliases nothing.
    let p = unsafe { mmap_anonymous(std::ptr::null_mut(), layout.size(), prot, flags) };
    NonNull::new(p.ok()?.cast())
}

/// Gives memory back to the system.
///
/// # Safety
/// `p` is what [`fresh`] gave for this layout, and nobody uses it any more.
unsafe fn free(p: NonNull<u8>, layout: Layout) {
    if is_mapped(layout) {
        // SAFETY: the mapping was made with this size.
        let _ = unsafe { rustix::mm::munmap(p.as_ptr().cast(), layout.size()) };
    } else {
        // SAFETY: it was allocated with this layout.
        unsafe { std::alloc::dealloc(p.as_ptr(), layout) }
    }
}

/// Zeroed memory of this layout, whose size is not 0; `None` where there is none.
pub(crate) fn take(layout: Layout) -> Option<NonNull<u8>> {
    let kept =
        class_of(layout).and_then(|class| SPARE.try_with(|s| s.borrow_mut().0[class].pop()).ok().flatten());
    match kept {
        Some(p) => {
            // SAFETY: a buffer of this layout that nobody else has any more.
            unsafe { p.write_bytes(0, layout.size()) };
            Some(p)
        }
        None => fresh(layout),
    }
}

/// Takes memory back.
///
/// # Safety
/// `p` is what [`take`] gave for this layout, and nobody uses it any more.
pub(crate) unsafe fn give_back(p: NonNull<u8>, layout: Layout) {
    let kept = class_of(layout).is_some_and(|class| {
        SPARE
            .try_with(|s| {
                let list = &mut s.borrow_mut().0[class];
                let room = list.len() < (KEPT / layout.size()).max(FEW);
                if room {
                    list.push(p);
                }
                room
            })
            .unwrap_or(false)
    });
    if !kept {
        // SAFETY: the caller's promise.
        unsafe { free(p, layout) }
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        for (class, list) in self.0.iter_mut().enumerate() {
            for p in list.drain(..) {
                // SAFETY: it was made with this layout, and only this list has it.
                unsafe { free(p, layout_of(class)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Memory;

    #[test]
    fn what_comes_again_is_zeroed_and_kept_within_bounds() {
        for len in [4096, 8192, 1 << 20, 12288, 4097, 2 << 20] {
            for _ in 0..3 {
                let some: Vec<_> = (0..300 / (len / 4096) + 6).map(|_| Memory::buffer(len, 4096)).collect();
                for m in &some {
                    assert!(m.is_zero(0, len as u64) && m.raw_ptr().addr() % 4096 == 0);
                    m.fill(0, len as u64, 0xa5);
                }
            }
        }
        // Given back on another thread than they were taken on, and at the end of a thread.
        let m = Memory::buffer(4096, 4096);
        std::thread::spawn(move || drop((m, Memory::buffer(4096, 4096)))).join().unwrap();
        super::SPARE.with(|s| {
            for (class, list) in s.borrow().0.iter().enumerate() {
                assert!(list.len() <= (super::KEPT / (4096 << class)).max(super::FEW));
            }
            assert!(!s.borrow().0[0].is_empty());
        });
    }
}
