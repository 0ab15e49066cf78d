//! Register maps of the RISC-V Advanced Core Local Interruptor specification 1.0 and of the SiFive CLINT that its
//! first two devices look like.

/// MSWI: four bytes a hart, bit 0 is the machine software interrupt.
pub const MSIP: u64 = 0x0000;
/// From where the timer's registers stand in a CLINT.
pub const MTIMER: u64 = 0x4000;
/// MTIMER: eight bytes a hart, the time at which its timer interrupt rises.
pub const MTIMECMP: u64 = 0x0000;
/// MTIMER in a CLINT: the time.
pub const MTIME: u64 = 0x7ff8;
/// The length of MSWI, and of SSWI.
pub const SWI_LEN: u64 = 0x4000;
/// The length of MTIMER in a CLINT.
pub const MTIMER_LEN: u64 = 0x8000;
/// SSWI: four bytes a hart; writing bit 0 raises its supervisor software interrupt, reads give 0.
pub const SETSSIP: u64 = 0x0000;
/// Harts that one device of each kind can serve.
pub const MAX_HARTS: usize = 4095;
