//! Small chips: interrupt controllers and timers of RISC-V, a real-time clock, the test finisher, flash memory.
//!
//! Each is a pure chip with its tests and a bus glue. Wires run one way, from a source through a controller to a hart, so
//! a glue may hold its ordering lock while it sets the next wire's level.

pub mod aclint;
pub mod finisher;
pub mod flash;
pub mod plic;
pub mod rtc;

pub use aclint::{Aclint, AclintLines};
pub use finisher::{Finish, TestFinisher};
pub use flash::CfiFlash;
pub use plic::Plic;
pub use rtc::GoldfishRtc;
