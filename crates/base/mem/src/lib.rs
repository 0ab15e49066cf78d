//! Guest RAM, guest address spaces, I/O buffers and the DMA handle.

#![allow(unsafe_code)] // UNSAFETY: to be stated by the crate's owner
