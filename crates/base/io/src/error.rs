//! Errors of setting a channel up: what was tried, and the system's answer.

use base::Errno;
use std::fmt;

/// Why a connection or a listener could not be set up.
///
/// Moving bytes gives a plain [`Errno`]; only set-up names what it tried, because its text reaches the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What was tried, e.g. `Failed to connect to '/run/x'`.
    pub what: String,
    /// The system's answer.
    pub errno: Errno,
    /// What there is to tell in place of that, where the system did not give a number; nothing where it is empty.
    instead: Option<String>,
}

impl Error {
    /// An error of trying `what`.
    pub fn new(what: impl Into<String>, errno: Errno) -> Error {
        Error { what: what.into(), errno, instead: None }
    }

    /// The same, with another text than the system's for the answer.
    pub fn telling(self, text: impl Into<String>) -> Error {
        Error { instead: Some(text.into()), ..self }
    }
}

impl Error {
    /// The same, where `what` says it all.
    pub(crate) fn plain(self) -> Error {
        self.telling("")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.instead {
            Some(text) if text.is_empty() => f.write_str(&self.what),
            Some(text) => write!(f, "{}: {text}", self.what),
            None => write!(f, "{}: {}", self.what, self.errno),
        }
    }
}

impl std::error::Error for Error {}
