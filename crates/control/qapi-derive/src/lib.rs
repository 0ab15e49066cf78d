//! The derive macro Qapi.
