//! Looking at an image that may be anybody's, for services that take users' images: what `rhea img inspect` does.
//!
//! The image is opened here and read in a process of its own ([`child`]), which can do nothing else ([`sandbox`]) and has little
//! memory and time. What it tells is taken for what the image is; whether that is acceptable is decided here ([`judge()`]).
//! A process that dies or takes too long is a reason to refuse.

pub mod child;
mod judge;
mod parent;
pub mod sandbox;

pub use judge::{Limits, judge};
pub use parent::{Ask, Outcome, inspect};
