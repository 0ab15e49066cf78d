//! The QAPI visitor: strict JSON, key=value input, QError, and introspection.
