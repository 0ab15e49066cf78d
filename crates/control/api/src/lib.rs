//! Every QAPI type, command and event, one module for each schema file.

pub mod block_core;
pub mod common;
pub mod crypto;
