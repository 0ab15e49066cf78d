//! Guest code on a bare hart.
//!
//! `instructions`, `memory` and `traps` state what single instructions do. `random` and `programs` compare with
//! an independent emulator: the same bare-metal image runs under both, each writes what it sees to the serial
//! port, and the two streams are compared byte by byte. The images are random instruction sequences made from
//! the decoder's table, and small programs for the privileged architecture, which need a cross compiler.

mod asm;
mod bench;
mod debug;
mod extensions;
mod instructions;
mod memory;
mod programs;
mod random;
mod text;
mod traps;
