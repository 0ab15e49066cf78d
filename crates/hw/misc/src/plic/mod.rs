//! The platform-level interrupt controller of RISC-V: [`chip`] is the pure controller, [`Plic`] its bus glue.

mod bus;
pub mod chip;
pub mod spec;

pub use bus::Plic;
