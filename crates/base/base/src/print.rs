//! Words for the user on standard output and standard error.
//!
//! The standard library's `print!` and `eprint!` panic where nobody reads any more (`rhea … | head -1`). A program that
//! serves others goes on, as one with a terminal that was closed does.

use std::io::Write;

/// Writes `text` to standard output, at once. What cannot be written is left out.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes `text` to standard error. What cannot be written is left out.
pub fn print_error(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
