//! vhost-user: devices for virtual machines of other programs, and the export `vhost-user-blk`.
//!
//! The problem: another program runs a machine and wants its disk to be served here, without a copy in between. It shares
//! the machine's memory, tells where the rings are, and hands over a descriptor for each direction of notification.
//! That program is not trusted: whatever it sends ends its own session at worst, and all that a session holds is bounded.
//! (One thing cannot be guarded against: see [`mem::Memory::shared`].)
//!
//! * [`message`]: the messages ("Vhost-user Protocol", in QEMU's documentation of interoperability), without I/O.
//! * [`session`]: one conversation: memory, rings, features. It serves any [`virtio::VirtioDevice`]; the device and its
//!   rings are those of the machine's own devices.
//! * [`VhostUserBlk`]: the kind of export, which puts a `virtio-blk` over a node of the block graph behind it.

mod blk;
pub mod memory;
pub mod message;
mod port;
mod ring;
pub mod session;
pub mod spec;

pub use blk::VhostUserBlk;
