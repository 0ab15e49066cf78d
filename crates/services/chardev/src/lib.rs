//! Character devices: stdio, socket, pty, file, null, ringbuf, and their multiplexer.
//!
//! The problem: a guest's serial port and a monitor both want a two-way stream of bytes, and the user decides
//! what stands behind it. The guest side must never wait (a vCPU writes to its UART), the outer side may come and
//! go, and one terminal may serve several front ends at once.
//!
//! - [`Config`] says what a device is; it is read from `-chardev` ([`Config::parse`]) or from the short forms
//!   of `-serial` and `-monitor` ([`Legacy::parse`]).
//! - [`Chardevs`] makes devices and keeps them by id. All their I/O runs on one executor.
//! - [`Chardev`] is a device; it implements [`device::CharBackend`], as does each [`MuxPort`] of one that several front
//!   ends share.
//! - [`CharStream`] turns a back end into an [`io::Acceptor`] for a monitor.

mod config;
mod core;
mod files;
mod legacy;
mod mux;
mod pty;
mod registry;
mod ring;
mod socket;
mod stdio;
mod stream;
mod telnet;
mod tls;

pub use config::{Config, Kind, SocketConfig};
pub use core::Chardev;
pub use legacy::Legacy;
pub use mux::{MAX_PORTS, MuxPort};
pub use registry::{Chardevs, LegacyDevice, register_hmp};
pub use stdio::restore_terminal;
pub use stream::CharStream;
