//! The export `fuse`: a block node as a regular file of this host.
//!
//! The problem: programs that know nothing but files are to read and write what an image holds, whatever its format. The
//! kernel lets a program serve a file system, and a file system may consist of one regular file, which is mounted over
//! another one. So the file at the mount point shows the node's bytes for as long as the export lives.
//!
//! The requests of all who have the file open come through one descriptor. Each becomes a task of its own on the
//! export's executor, so a slow one keeps no other waiting; what they occupy of memory is bounded together. A client that
//! is killed leaves a request behind that goes on to its end, as at any root of the graph.
//!
//! * [`message`]: the kernel's requests, read without trust, and what answers are made of; without I/O.
//! * [`mod@file`]: what each request does with the node.
//! * [`Fuse`]: the kind of export, to be registered with [`export::Exports::register`].
//!
//! Numbers and layouts are those of the protocol of `/dev/fuse` (fuse(4), `linux/fuse.h`), version 7.

mod export_kind;
pub mod file;
pub mod message;
mod mount;
mod session;
pub mod spec;

pub use export_kind::Fuse;
