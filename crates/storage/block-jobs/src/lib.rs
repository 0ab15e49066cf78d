//! Jobs on the block graph.
//!
//! The engine that leads every job through its states is [`block::job`]; here stands what each kind of job does:
//!
//! - [`backing`]: what an image's header says of its backing file, which some jobs change at their end.
//! - [`commit`]: merges images into one below them. Where the topmost one is in use, it is a [`mirror`] into the base.
//! - [`mirror`]: copies a node and follows its changes, until its users get the copy.
//! - [`stream`]: copies into an image what shines through from its backing files.
//! - [`backup`]: copies a node as it was at one moment.
//! - [`create`]: makes images.
//! - [`replication`]: a disk that follows another machine's.
//! - [`transaction`]: several of these at once, with snapshots and changes of dirty bitmaps.
//!
//! Commit, mirror, backup and stream put a filter above the node that they are about, through which every change of it passes,
//! and hold the graph by it. A job that fails or is cancelled leaves the graph as it was.

pub mod amend;
pub mod backing;
pub mod backup;
pub mod commit;
mod copy;
pub mod create;
mod dirty;
mod flow;
pub mod mirror;
mod overlay;
pub mod qmp;
pub mod replication;
mod setup;
pub mod stream;
mod target;
pub mod transaction;

pub use qmp::register;
