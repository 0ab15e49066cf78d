//! Where log lines go.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

enum Sink {
    Stderr,
    File(File),
}

static SINK: Mutex<Sink> = Mutex::new(Sink::Stderr);
static PROGRAM: OnceLock<String> = OnceLock::new();

/// The name that messages for the user start with; `rhea` unless set. Only the first call counts.
pub fn set_program_name(name: &str) {
    let _ = PROGRAM.set(name.to_owned());
}

pub(crate) fn program_name() -> &'static str {
    PROGRAM.get().map_or("rhea", String::as_str)
}

/// Sends log lines and trace points to the file that `template` names (`-D`): `%d` in it becomes the
/// process's number.
///
/// # Errors
/// The text for the user: the template has another `%`, or the file cannot be created.
pub fn open_file(template: &str) -> Result<(), String> {
    let mut parts = template.splitn(2, "%d");
    let (before, after) = (parts.next().unwrap_or_default(), parts.next());
    if before.contains('%') || after.is_some_and(|a| a.contains('%')) {
        return Err(format!("Bad logfile template: {template}"));
    }
    let path = match after {
        Some(after) => format!("{before}{}{after}", std::process::id()),
        None => template.to_owned(),
    };
    let file = File::create(&path).map_err(|e| {
        let text = e.to_string();
        format!("Error opening logfile {path}: {}", text.split(" (os error").next().unwrap_or(&text))
    })?;
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = Sink::File(file);
    Ok(())
}

/// Sends log lines and trace points to standard error again.
pub fn to_stderr() {
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = Sink::Stderr;
}

/// Writes one line to the sink. A sink that fails loses lines and nothing else.
pub fn write_line(line: fmt::Arguments<'_>) {
    // One write a line, so that lines of several threads do not mix.
    let mut text = line.to_string();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let mut sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = match &mut *sink {
        Sink::Stderr => io::stderr().write_all(text.as_bytes()),
        Sink::File(f) => f.write_all(text.as_bytes()),
    };
}
