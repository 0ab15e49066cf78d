//! Byte channels and listeners: unix and TCP sockets, files, standard input and output.
//!
//! The problem: monitors, character devices and network block servers all move bytes over descriptors of
//! several kinds, and must neither block their executor nor know which kind it is. So a [`Stream`] is any
//! descriptor that can be read and written without blocking, a [`Listener`] makes them, an [`Addr`] says
//! where, and [`Channel`] and [`Acceptor`] are the object-safe view that upper floors hold: a channel may
//! as well be a character device that several front ends share.
//!
//! Nothing here is bound to an executor: a stream may be used from any thread that runs one.

mod addr;
mod channel;
mod connect;
mod error;
mod listener;
mod stream;
pub mod tls;

pub use addr::{Addr, InetAddr};
pub use channel::{Acceptor, Channel, IoFut, read_exact, write_all};
pub use connect::connect;
pub use error::Error;
pub use listener::Listener;
pub use stream::{MAX_FDS, Stream};
