//! The block layer: options of nodes, what is told about nodes and images, and the commands on them.

mod backup;
mod bitmap;
mod commands;
mod create;
mod debug;
mod device;
mod events;
mod filters;
mod graph;
mod image;
mod jobs;
mod media;
mod options;
mod quorum;
mod single;
mod snapshot;
mod ssh;
mod stats;

pub use backup::*;
pub use bitmap::*;
pub use commands::*;
pub use create::*;
pub use debug::*;
pub use device::*;
pub use events::*;
pub use filters::*;
pub use graph::*;
pub use image::*;
pub use jobs::*;
pub use media::*;
pub use options::*;
pub use quorum::*;
pub use single::*;
pub use snapshot::*;
pub use ssh::*;
pub use stats::*;
