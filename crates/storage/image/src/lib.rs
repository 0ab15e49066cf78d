//! What rhea img does, as a library.
