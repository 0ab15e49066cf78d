//! The Goldfish real-time clock: nanoseconds since 1970 and one alarm.

mod bus;
pub mod spec;

pub use bus::{GoldfishRtc, GoldfishRtcState, WallClock};
