//! Executors (one a thread), timers, file operations, the blocking pool, and the seeded simulation executor.

#![allow(unsafe_code)] // UNSAFETY: to be stated by the crate's owner
