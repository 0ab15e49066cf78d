//! Errors of the control plane: their class and text are part of the contract with management tools.

use std::fmt;

/// The class of an error, as it stands in a QMP error reply.
///
/// Clients are meant to look at the class only; all but a few errors are [`ErrorClass::GenericError`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Anything that has no class of its own.
    #[default]
    GenericError,
    /// The command does not exist, or may not be used now.
    CommandNotFound,
    /// A device exists but is not in a state in which it could do that.
    DeviceNotActive,
    /// A device or node does not exist.
    DeviceNotFound,
    /// The host's KVM lacks something that was asked for.
    KVMMissingCap,
}

impl ErrorClass {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorClass::GenericError => "GenericError",
            ErrorClass::CommandNotFound => "CommandNotFound",
            ErrorClass::DeviceNotActive => "DeviceNotActive",
            ErrorClass::DeviceNotFound => "DeviceNotFound",
            ErrorClass::KVMMissingCap => "KVMMissingCap",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of the control plane.
///
/// `desc` is what management tools see and match; `hint` is advice for a human at a command line or the human
/// monitor and never goes over QMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QError(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    class: ErrorClass,
    desc: String,
    hint: Option<String>,
}

impl QError {
    /// An error of class [`ErrorClass::GenericError`].
    pub fn new(desc: impl Into<String>) -> QError {
        QError::with_class(ErrorClass::GenericError, desc)
    }

    /// An error of the given class.
    pub fn with_class(class: ErrorClass, desc: impl Into<String>) -> QError {
        QError(Box::new(Inner { class, desc: desc.into(), hint: None }))
    }

    /// The same error with advice for a human; several hints are put on lines of their own.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> QError {
        let hint = hint.into();
        self.0.hint = Some(match self.0.hint.take() {
            Some(mut old) => {
                if !old.ends_with('\n') {
                    old.push('\n');
                }
                old + &hint
            }
            None => hint,
        });
        self
    }

    /// The same error with `context` and `": "` before its text.
    #[must_use]
    pub fn prepend(mut self, context: &str) -> QError {
        self.0.desc = format!("{context}: {}", self.0.desc);
        self
    }

    /// The class.
    pub fn class(&self) -> ErrorClass {
        self.0.class
    }

    /// The text.
    pub fn desc(&self) -> &str {
        &self.0.desc
    }

    /// The advice, if there is any.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for QError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.desc)
    }
}

impl std::error::Error for QError {}

impl From<String> for QError {
    fn from(desc: String) -> QError {
        QError::new(desc)
    }
}

impl From<&str> for QError {
    fn from(desc: &str) -> QError {
        QError::new(desc)
    }
}

/// A [`QError`] of class GenericError with a formatted text.
#[macro_export]
macro_rules! qerr {
    ($($arg:tt)*) => { $crate::QError::new(::std::format!($($arg)*)) };
}
