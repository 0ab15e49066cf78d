//! The block graph: nodes, edges, transactions, permissions, drain and the request core.

pub mod driver;
pub mod gate;
pub mod graph;
pub mod options;
pub mod perm;
pub mod request;
mod track;
