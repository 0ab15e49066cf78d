//! Socket addresses as the user gives them.

use base::Errno;
use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// A TCP address: a host to resolve and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InetAddr {
    /// Host name or numeric address; empty means every address (to listen) or the local host (to connect).
    pub host: String,
    /// Port number; 0 lets the system choose one when listening.
    pub port: u16,
    /// The last port to try when listening and `port` is taken.
    pub to: Option<u16>,
    /// Whether IPv4 addresses may be used.
    pub ipv4: Option<bool>,
    /// Whether IPv6 addresses may be used.
    pub ipv6: Option<bool>,
}

impl InetAddr {
    /// The address `host:port`, of either IP version.
    pub fn new(host: impl Into<String>, port: u16) -> InetAddr {
        InetAddr { host: host.into(), port, to: None, ipv4: None, ipv6: None }
    }

    /// Whether an address of this IP version may be used: a version that was asked for excludes the other
    /// unless both were, and `off` excludes its own.
    pub(crate) fn allows(&self, v6: bool) -> bool {
        match (self.ipv4, self.ipv6) {
            (None, None) | (Some(true), Some(true)) => true,
            (v4, None) => v6 != v4.unwrap_or(true),
            (None, Some(want6)) => v6 == want6,
            (Some(v4), Some(want6)) => {
                if v6 {
                    want6
                } else {
                    v4
                }
            }
        }
    }
}

/// Where to connect or listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addr {
    /// A unix socket in the file system.
    Unix(PathBuf),
    /// A unix socket in Linux's abstract name space. With `tight` the name alone is the address; without,
    /// it is padded with zero bytes to the full length.
    Abstract {
        /// The name, without the leading zero byte.
        name: String,
        /// Whether the address ends with the name.
        tight: bool,
    },
    /// A TCP socket.
    Inet(InetAddr),
    /// A socket that the process already holds, by number. A duplicate of it is used.
    Fd(RawFd),
}

impl Addr {
    /// The TCP address `host:port`.
    pub fn inet(host: impl Into<String>, port: u16) -> Addr {
        Addr::Inet(InetAddr::new(host, port))
    }

    /// Parses `host:port`, where the host may be `[v6::address]` or empty.
    ///
    /// # Errors
    /// `EINVAL` where there is no port or it is not a number up to 65535.
    pub fn parse_inet(text: &str) -> Result<InetAddr, Errno> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(Errno::INVAL)?;
                (host, rest.strip_prefix(':').ok_or(Errno::INVAL)?)
            }
            None => text.rsplit_once(':').ok_or(Errno::INVAL)?,
        };
        Ok(InetAddr::new(host, port.parse().map_err(|_| Errno::INVAL)?))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Unix(path) => write!(f, "unix:{}", path.display()),
            Addr::Abstract { name, .. } => write!(f, "unix:{name},abstract=on"),
            Addr::Inet(a) if a.host.contains(':') => write!(f, "tcp:[{}]:{}", a.host, a.port),
            Addr::Inet(a) => write!(f, "tcp:{}:{}", a.host, a.port),
            Addr::Fd(n) => write!(f, "fd:{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inet_text() {
        assert_eq!(Addr::parse_inet("localhost:4444"), Ok(InetAddr::new("localhost", 4444)));
        assert_eq!(Addr::parse_inet(":0"), Ok(InetAddr::new("", 0)));
        assert_eq!(Addr::parse_inet("[::1]:5"), Ok(InetAddr::new("::1", 5)));
        for bad in ["", "localhost", "h:", "h:70000", "[::1:5", "[::1]5", "h:-1"] {
            assert_eq!(Addr::parse_inet(bad), Err(Errno::INVAL), "{bad}");
        }
        assert_eq!(Addr::inet("::1", 5).to_string(), "tcp:[::1]:5");
    }

    #[test]
    fn ip_versions() {
        let with = |v4, v6| InetAddr { ipv4: v4, ipv6: v6, ..InetAddr::new("x", 1) };
        for (v4, v6, want) in [
            (None, None, (true, true)),
            (Some(true), None, (true, false)),
            (Some(false), None, (false, true)),
            (None, Some(true), (false, true)),
            (None, Some(false), (true, false)),
            (Some(true), Some(true), (true, true)),
            (Some(true), Some(false), (true, false)),
            (Some(false), Some(false), (false, false)),
        ] {
            let a = with(v4, v6);
            assert_eq!((a.allows(false), a.allows(true)), want, "{a:?}");
        }
    }
}
