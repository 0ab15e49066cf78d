//! The block graph: nodes, edges, transactions, permissions, drain and the request core.
//!
//! # The problem
//! Disks are trees of nodes (a format on a file, an overlay on a backing file) that change while a guest reads and
//! writes. A change must happen whole or not at all, must never be seen half-way, and must not lose a request.
//!
//! # How it is done
//! - The graph is an immutable value ([`Graph`]). A transaction edits a copy, has it checked whole
//!   ([`Graph::check`]: cycles, roles, frozen links, permissions), has the drivers stage what they must do, and
//!   publishes. Until then, giving up is `drop`.
//! - A request takes one snapshot and keeps it to its end ([`Root`]); the data path takes no lock of the graph.
//! - Quiescence is a closed [`gate`] at the roots: requests wait before it, and those inside are awaited.
//! - Alignment, splitting, ordering, fallbacks and block status exist once, in [`request`]; a driver ([`driver`])
//!   says what it can do and where bytes live.
//!
//! [`BlockGraph`] is the control handle; [`qmp`] registers the commands; [`drive`] understands `-drive`.

pub mod aside;
pub mod bitmap;
mod brake;
pub mod check;
mod control;
mod copy;
pub mod create;
pub mod drive;
pub mod driver;
mod encryption;
pub mod filename;
pub mod gate;
pub mod graph;
#[cfg(test)]
mod graph_tests;
mod hotplug;
pub mod job;
pub mod lists;
mod media;
mod nodeops;
mod open;
pub mod options;
pub mod perm;
mod policy;
pub mod probe;
pub mod qmp;
mod query;
mod query_stats;
pub mod ranges;
mod reopen;
pub mod request;
mod resize;
pub mod root;
pub mod stats;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod track;
pub mod transaction;
mod txn;
#[cfg(test)]
mod txn_tests;
pub mod zoned;

pub use control::{BlockGraph, Drained};
pub use copy::{Alone, Errand};
pub use drive::{Drive, ErrorAction, ErrorPolicy};
pub use graph::{Graph, Node, NodeId, RootEvent, RootId};
pub use perm::{Perm, PermPair, Role};
pub use policy::Policy;
pub use request::MAX_OFFSET;
pub use root::{Root, RootConfig};
pub use stats::Access;
pub use track::{Ranges, Ticket};
