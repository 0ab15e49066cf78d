//! The export `x-rhea-ublk`: a block node as a block device of this host, through the kernel's ublk.
//!
//! The problem: `/dev/ublkbN` is used by the kernel itself (file systems, device mapper), whose requests must be answered
//! even while the device ends, and ending it waits in the kernel until they are. So the commands that make and end a device
//! run on threads that may wait, while the requests are served on the export's executors, and a device that was begun is
//! always taken away again. Like every export it is a root of the graph: a drain closes its gate.
//!
//! * [`spec`]: numbers of `linux/ublk_cmd.h`.
//! * [`message`]: what is sent and received, without I/O.
//! * [`disk`]: what requests do with the node; the loop that serves one tag of a queue.
//! * [`Ublk`]: the kind of export. The system calls are in [`rt::ublk`].

pub mod disk;
mod export_kind;
pub mod message;
pub mod spec;
mod users;

pub use export_kind::Ublk;
