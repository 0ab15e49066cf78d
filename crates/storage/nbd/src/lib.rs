//! The NBD protocol, without I/O: constants ([`spec`]), messages ([`message`]), and the handshake of both sides
//! ([`server`], [`client`]).
//!
//! The problem: what the other side sends is not to be trusted, and the same rules are needed by a server, by a
//! client, and by tests of both. So everything here is a pure function of bytes. A handshake tells how many bytes it
//! wants next, is fed with them, and answers with bytes to send and whether it is through; whoever drives it
//! moves the bytes, and no length from outside is believed before it was compared with a limit.
//!
//! The protocol is the one that the NBD project publishes ("The NBD protocol", doc/proto.md of the reference
//! implementation): fixed newstyle handshake, simple and structured replies, extended headers, metadata contexts.

pub mod addr;
pub mod client;
pub mod message;
pub mod server;
pub mod spec;
#[cfg(test)]
mod tests;
pub mod told;
