//! Addresses of sockets.

use qapi::Qapi;

/// A host and a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct InetSocketAddressBase {
    /// Host name or address.
    pub host: String,
    /// Port number or service name.
    pub port: String,
}

/// A TCP address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct InetSocketAddress {
    /// Host name or address. Empty to listen on all addresses.
    pub host: String,
    /// Port number or service name.
    pub port: String,
    /// Whether host and port are known to be numbers, so that nothing needs to be looked up. Off unless given.
    pub numeric: Option<bool>,
    /// When listening: the highest port to try, from `port` on, until a free one is found. Only `port` unless given.
    pub to: Option<u16>,
    /// Whether to use IPv4. When only one of `ipv4` and `ipv6` is given, the other is its opposite; when none is, both are on.
    pub ipv4: Option<bool>,
    /// Whether to use IPv6.
    pub ipv6: Option<bool>,
    /// Ask the peer now and then whether it is still there. Off unless given.
    pub keep_alive: Option<bool>,
    /// Use multipath TCP. Off unless given.
    pub mptcp: Option<bool>,
}

/// A Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct UnixSocketAddress {
    /// Its path, or its name in the abstract namespace.
    pub path: String,
    /// Whether it is in Linux's abstract namespace. Off unless given.
    pub r#abstract: Option<bool>,
    /// For an abstract one: whether its length is that of `path`, not that of the whole address. On unless given.
    pub tight: Option<bool>,
}

/// An address between a machine and its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct VsockSocketAddress {
    /// Number of the machine.
    pub cid: String,
    /// Port number.
    pub port: String,
}

/// A file descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct FdSocketAddress {
    /// Its number, or the name under which it was handed over.
    pub str: String,
}

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "type", tag_enum = "SocketAddressType")]
pub enum SocketAddress {
    /// TCP.
    Inet(InetSocketAddress),
    /// A Unix socket.
    Unix(UnixSocketAddress),
    /// Between a machine and its host.
    Vsock(VsockSocketAddress),
    /// A file descriptor that is a socket.
    Fd(FdSocketAddress),
}

/// The address of a socket, as older parts of the contract write it: the branch's members stand in `data`.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "type", tag_type = SocketAddressType, wrap = "data")]
pub enum SocketAddressLegacy {
    /// TCP.
    Inet(InetSocketAddress),
    /// A Unix socket.
    Unix(UnixSocketAddress),
    /// Between a machine and its host.
    Vsock(VsockSocketAddress),
    /// A file descriptor that is a socket.
    Fd(FdSocketAddress),
}

impl From<SocketAddressLegacy> for SocketAddress {
    fn from(addr: SocketAddressLegacy) -> SocketAddress {
        match addr {
            SocketAddressLegacy::Inet(a) => SocketAddress::Inet(a),
            SocketAddressLegacy::Unix(a) => SocketAddress::Unix(a),
            SocketAddressLegacy::Vsock(a) => SocketAddress::Vsock(a),
            SocketAddressLegacy::Fd(a) => SocketAddress::Fd(a),
        }
    }
}

impl From<SocketAddress> for SocketAddressLegacy {
    fn from(addr: SocketAddress) -> SocketAddressLegacy {
        match addr {
            SocketAddress::Inet(a) => SocketAddressLegacy::Inet(a),
            SocketAddress::Unix(a) => SocketAddressLegacy::Unix(a),
            SocketAddress::Vsock(a) => SocketAddressLegacy::Vsock(a),
            SocketAddress::Fd(a) => SocketAddressLegacy::Fd(a),
        }
    }
}
