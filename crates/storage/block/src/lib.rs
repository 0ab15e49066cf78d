//! The block graph: nodes, edges, transactions, permissions, drain and the request core.

pub mod control;
pub mod drive;
pub mod driver;
pub mod gate;
pub mod graph;
#[cfg(test)]
mod graph_tests;
mod open;
pub mod options;
pub mod perm;
pub mod probe;
pub mod qmp;
mod query;
mod reopen;
pub mod request;
pub mod root;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod track;
mod txn;
#[cfg(test)]
mod txn_tests;

pub use control::{BlockGraph, Drained, Policy};
pub use drive::{Drive, ErrorAction, ErrorPolicy};
pub use graph::{Graph, Node, NodeId, RootEvent, RootId};
pub use perm::{Perm, PermPair, Role};
pub use root::{Root, RootConfig};
