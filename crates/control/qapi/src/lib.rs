//! The QAPI visitor: strict JSON, key=value input, QError, and introspection.

mod error;

pub use error::{ErrorClass, QError};
pub use qapi_derive::Qapi;
