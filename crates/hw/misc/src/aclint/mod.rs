//! The core-local interruptor of RISC-V: machine timer, machine and supervisor software interrupts.
//!
//! One [`Aclint`] serves all harts through up to three windows: [`Aclint::mswi`] and [`Aclint::mtimer`], which side by
//! side are a SiFive CLINT, and [`Aclint::sswi`].

mod bus;
pub mod spec;

pub use bus::{Aclint, AclintLines, AclintState, Window};
