//! The 16550A UART: [`chip`] is the pure chip, [`Uart16550`] its bus glue, [`spec`] the data sheet's names.

mod bus;
pub mod chip;
#[cfg(test)]
mod chip_tests;
pub mod spec;

pub use bus::{Uart16550, UartConfig};
