//! Small formats and filters: raw, null-co.
