//! UARTs.
