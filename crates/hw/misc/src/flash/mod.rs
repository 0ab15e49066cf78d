//! Parallel NOR flash with the Common Flash Interface: [`chip`] is one 16-bit chip, [`CfiFlash`] a 32-bit bank of two
//! chips side by side.

mod bus;
pub mod chip;
pub mod spec;

pub use bus::{CfiFlash, CfiFlashState, FlashStore};
