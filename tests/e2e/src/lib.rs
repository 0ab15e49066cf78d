//! End-to-end tests: real guests and real clients.
