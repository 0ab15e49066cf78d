//! UARTs.
//!
//! A UART is two files: a pure chip, a state machine without locks, clocks or callbacks that is tested on its own; and
//! its bus glue, which gives the chip an interrupt line, a timer and a character back end.

pub mod uart16550;

pub use uart16550::{Uart16550, UartConfig};
