//! The interpreter against an independent emulator: the same bare-metal image runs under both, each writes
//! what it sees to the serial port, and the two streams are compared byte by byte.
//!
//! Images start in M-mode at the start of RAM. They are random instruction sequences made from the decoder's
//! table, and small programs for the privileged architecture, which need a cross compiler.

mod asm;
mod bench;
mod programs;
mod random;
