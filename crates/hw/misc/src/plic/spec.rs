//! The register map of the RISC-V Platform-Level Interrupt Controller specification 1.0.0, chapter 3.

/// Source priorities, four bytes a source; source 0 does not exist.
pub const PRIORITY: u64 = 0x00_0000;
/// Pending bits, one a source, in 32-bit words.
pub const PENDING: u64 = 0x00_1000;
/// Enable bits of the first context.
pub const ENABLE: u64 = 0x00_2000;
/// From one context's enable bits to the next's.
pub const ENABLE_STRIDE: u64 = 0x80;
/// The first context's threshold; its claim and complete register follows.
pub const CONTEXT: u64 = 0x20_0000;
/// From one context's threshold to the next's.
pub const CONTEXT_STRIDE: u64 = 0x1000;
/// The priority threshold within a context.
pub const THRESHOLD: u64 = 0;
/// Claim (read) and complete (write) within a context.
pub const CLAIM: u64 = 4;
