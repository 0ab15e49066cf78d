//! Guest RAM, guest address spaces, I/O buffers and the DMA handle.
//!
//! Guest memory changes under our feet: a vCPU thread, a device and the kernel may touch the same byte at the
//! same time. So nothing here ever hands out a `&[u8]` or `&mut [u8]` over shared memory. A [`Memory`] is read
//! and written by copy, with relaxed atomic accesses; an [`IoBuf`] is a list of ranges that keep their block
//! alive until the last user (possibly the kernel) is done; a [`RamPage`] is one page for a vCPU's TLB.
//!
//! An [`AddressSpace`] is a tree of regions with priorities. Every change renders it into a [`FlatMap`], a
//! sorted list of disjoint ranges, which is published as a whole; a reader never takes a lock. Devices get a
//! [`Dma`] handle, which reaches RAM only: a device's DMA can never re-enter a device's register handler.

#![allow(unsafe_code)] // UNSAFETY: raw pointers to mmap'ed or heap memory that guests, devices and the kernel share.

mod dma;
mod flat;
mod iobuf;
mod memory;
mod mmio;
mod page;
mod rows;
mod scalar;
mod space;
mod spare;

pub use dma::Dma;
pub use flat::{BusError, BusErrorKind, FlatKind, FlatMap, FlatRange};
pub use iobuf::{IoBuf, Segment};
pub use memory::Memory;
pub use mmio::{Mmio, Size, SplitRegs, read_split, write_split};
pub use page::{PAGE_SIZE, RamPage, RmwOp};
pub use scalar::Scalar;
pub use space::{AddressSpace, MapError, RegionId};
