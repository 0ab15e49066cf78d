//! Trace points and log items: what `-trace` and `-d` select, and where they are written.
//!
//! Two kinds of reports exist, both off unless asked for, and both one relaxed load where they are off:
//!
//! - A **log item** ([`Item`], `-d int,guest_errors,…`) is a class of plain text lines that people know from
//!   this family of emulators. Code says `trace::log!(GuestErrors, "uart: bad register {off:#x}")`.
//! - A **trace point** is a named event with values, `trace::point!("virtio_queue_notify", queue, count)`, or
//!   any event of the `tracing` crate at level `TRACE` or `DEBUG`. `-trace PATTERN` selects by name (or
//!   by target, `virtio::queue`), with `*` and `?` as wild cards and a leading `-` to leave out.
//!
//! `tracing` events of level `INFO` and above are for the user and go to standard error in the form
//! `rhea: warning: …`, whatever is selected.
//!
//! Everything selected goes to one place: standard error, or the file that `-D` names ([`open_file`]).

mod item;
mod pattern;
mod sink;
mod subscriber;

pub use item::{Item, ParseError, enabled, help, parse, set_items};
pub use pattern::{Patterns, parse_events_file};
pub use sink::{open_file, set_program_name, to_stderr, write_line};
pub use subscriber::{PLAIN, REPORT, init, init_plain, select, selected, set_timestamps};

#[doc(hidden)]
pub use tracing as __tracing;

/// Writes a line of a log item if `-d` selected it: `log!(GuestErrors, "format {}", value)`.
#[macro_export]
macro_rules! log {
    ($item:ident, $($arg:tt)+) => {
        if $crate::enabled($crate::Item::$item) {
            $crate::write_line(::std::format_args!($($arg)+));
        }
    };
}

/// A trace point: a name in the form `subsystem_event`, then `tracing` fields.
#[macro_export]
macro_rules! point {
    ($name:literal) => {
        $crate::__tracing::event!(name: $name, target: "trace::point", $crate::__tracing::Level::TRACE, {})
    };
    ($name:literal, $($field:tt)+) => {
        $crate::__tracing::event!(name: $name, target: "trace::point", $crate::__tracing::Level::TRACE, $($field)+)
    };
}
