//! Socket addresses of the contract as addresses to connect to or to listen at.

use api::sockets::{SocketAddress, SocketAddressLegacy};
use io::{Addr, InetAddr};
use qapi::{QError, qerr};

/// The address that an option or argument means.
///
/// # Errors
/// The port or descriptor is no number, or the kind of socket is one that Rhea does not have.
pub fn to_io(addr: &SocketAddress) -> Result<Addr, QError> {
    Ok(match addr {
        SocketAddress::Inet(a) => {
            let port = a.port.parse().map_err(|_| qerr!("can't convert to a number: {}", a.port))?;
            Addr::Inet(InetAddr { host: a.host.clone(), port, to: a.to, ipv4: a.ipv4, ipv6: a.ipv6 })
        }
        SocketAddress::Unix(a) if a.r#abstract == Some(true) => {
            Addr::Abstract { name: a.path.clone(), tight: a.tight.unwrap_or(true) }
        }
        SocketAddress::Unix(a) => Addr::Unix(a.path.clone().into()),
        SocketAddress::Fd(a) => {
            Addr::Fd(a.str.parse().map_err(|_| qerr!("Unable to parse FD number {}", a.str))?)
        }
        SocketAddress::Vsock(_) => return Err(qerr!("socket family AF_VSOCK unsupported")),
    })
}

/// The same for the older form.
///
/// # Errors
/// As for [`to_io`].
pub fn legacy_to_io(addr: SocketAddressLegacy) -> Result<Addr, QError> {
    to_io(&addr.into())
}
