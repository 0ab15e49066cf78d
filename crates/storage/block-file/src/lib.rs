//! The file and host_device drivers.

#![allow(unsafe_code)] // UNSAFETY: to be stated by the crate's owner
