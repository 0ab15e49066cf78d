//! The subcommands of `rhea img`, one module each; and, where the reference's tool is installed, word for word beside it.

#[path = "../common/mod.rs"]
mod folder;

mod bench;
mod bitmap;
mod commit;
mod common;
mod compare;
mod convert;
mod dd;
mod map;
mod measure;
mod rebase;
mod resize;
mod snapshot;
