//! The trait Sem: what a guest instruction may do.
