//! Sockets that wait for connections.

use crate::{Addr, Error, InetAddr, Stream};
use base::{Errno, IoResult};
use rt::AsyncFd;
use rustix::io::Errno as Sys;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Connections that the kernel may hold for us before they are accepted.
const BACKLOG: i32 = 16;

/// A listening socket. A unix socket's file is removed when the listener is dropped.
pub struct Listener {
    fd: AsyncFd,
    addr: Addr,
    unlink: Option<PathBuf>,
}

pub(crate) fn sys(e: Sys) -> Errno {
    Errno::from_raw(e.raw_os_error())
}

pub(crate) fn unix_addr(addr: &Addr) -> Result<Option<SocketAddrUnix>, Error> {
    match addr {
        Addr::Unix(path) => SocketAddrUnix::new(path.as_path()).map(Some).map_err(|_| {
            Error::new(format!("UNIX socket path '{}' is too long", path.display()), Errno::RANGE).plain()
        }),
        Addr::Abstract { name, tight } => {
            let mut bytes = name.clone().into_bytes();
            if !tight {
                // Everything of sun_path after the leading zero byte.
                bytes.resize(bytes.len().max(107), 0);
            }
            SocketAddrUnix::new_abstract_name(&bytes).map(Some).map_err(|_| {
                Error::new(format!("UNIX socket path '{name}' is too long"), Errno::RANGE).plain()
            })
        }
        Addr::Inet(_) | Addr::Fd(_) => Ok(None),
    }
}

/// A duplicate of this process's descriptor `n`. The kernel looks the number up, so no promise about who
/// else holds it is needed.
pub(crate) fn dup_fd(n: i32) -> Result<OwnedFd, Error> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    pidfd_open(getpid(), PidfdFlags::empty())
        .and_then(|me| pidfd_getfd(me, n, PidfdGetfdFlags::empty()))
        .map_err(|e| Error::new(format!("Unable to use file descriptor {n}"), sys(e)))
}

fn poll(fd: OwnedFd) -> Result<AsyncFd, Error> {
    AsyncFd::new(fd).map_err(|e| Error::new("Failed to poll socket", e))
}

impl Listener {
    /// Listens at `addr`. Host names are resolved on the blocking pool.
    ///
    /// # Errors
    /// What failed and why, in words for the user.
    pub async fn bind(addr: &Addr) -> Result<Listener, Error> {
        match addr {
            Addr::Unix(_) | Addr::Abstract { .. } => Listener::bind_unix(addr),
            Addr::Inet(inet) => {
                let inet = inet.clone();
                let (fd, addr) = rt::unblock(move || bind_inet(&inet)).await?;
                Ok(Listener { fd: poll(fd)?, addr, unlink: None })
            }
            Addr::Fd(n) => {
                let fd = dup_fd(*n)?;
                let fd = poll(fd)?;
                Ok(Listener { fd, addr: addr.clone(), unlink: None })
            }
        }
    }

    /// Listens at a unix socket's `path`; a socket that is left over there is replaced.
    ///
    /// # Errors
    /// What failed and why.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Listener, Error> {
        Listener::bind_unix(&Addr::Unix(path.into()))
    }

    /// Listens at a TCP port; port 0 lets the system choose ([`Listener::addr`] tells which).
    ///
    /// # Errors
    /// What failed and why.
    pub async fn tcp(host: &str, port: u16) -> Result<Listener, Error> {
        Listener::bind(&Addr::inet(host, port)).await
    }

    fn bind_unix(addr: &Addr) -> Result<Listener, Error> {
        let sun = unix_addr(addr)?.ok_or_else(|| Error::new("not a unix address", Errno::INVAL))?;
        let shown = match addr {
            Addr::Unix(p) => p.display().to_string(),
            Addr::Abstract { name, .. } => name.clone(),
            other => other.to_string(),
        };
        let unlink = match addr {
            Addr::Unix(path) => {
                remove_socket(path)
                    .map_err(|e| Error::new(format!("Failed to unlink socket {}", path.display()), e))?;
                Some(path.clone())
            }
            _ => None,
        };
        let bound = (|| {
            let fd = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
            net::bind(&fd, &sun)?;
            net::listen(&fd, BACKLOG)?;
            Ok(fd)
        })();
        let fd = bound.map_err(|e: Sys| Error::new(format!("Failed to bind socket to {shown}"), sys(e)))?;
        Ok(Listener { fd: poll(fd)?, addr: addr.clone(), unlink })
    }

    /// Leaves the unix socket where it is when this goes.
    pub fn leave_socket(&mut self) {
        self.unlink = None;
    }

    /// Where this listens; a port that the system chose is filled in.
    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    /// The next connection. Dropping the future loses none.
    ///
    /// # Errors
    /// The system's; connections that ended before they were accepted are passed over.
    pub async fn accept(&self) -> IoResult<Stream> {
        loop {
            match net::accept_with(self.fd.fd(), FLAGS) {
                Ok(fd) => match Stream::from_fd(fd) {
                    Ok(stream) => return Ok(stream),
                    Err(e) => tracing::warn!("a connection to {} was lost at once: {e}", self.addr),
                },
                Err(Sys::INTR | Sys::CONNABORTED) => {}
                Err(Sys::AGAIN) => self.fd.readable().await?,
                // The shortage is the process's or the system's (accept(2)): wait for it to pass.
                Err(e @ (Sys::MFILE | Sys::NFILE | Sys::NOBUFS | Sys::NOMEM)) => {
                    tracing::warn!("cannot accept on {} now: {}", self.addr, sys(e));
                    rt::sleep(Duration::from_millis(100)).await;
                }
                // Errors of a connection that is gone already; slowly, should they be something else.
                Err(
                    Sys::PERM
                    | Sys::PROTO
                    | Sys::NETDOWN
                    | Sys::NETUNREACH
                    | Sys::HOSTDOWN
                    | Sys::HOSTUNREACH
                    | Sys::NONET
                    | Sys::NOPROTOOPT,
                ) => rt::sleep(Duration::from_millis(10)).await,
                Err(e) => return Err(sys(e)),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.unlink {
            let _ = std::fs::remove_file(path);
        }
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Removes a socket at `path`. Anything else that lives there is left for bind to stumble over.
fn remove_socket(path: &Path) -> IoResult<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(m) if m.file_type().is_socket() => Ok(std::fs::remove_file(path)?),
        _ => Ok(()),
    }
}

/// The addresses of `inet`, in the resolver's order. An empty host means `any`.
pub(crate) fn resolve(inet: &InetAddr, any: bool) -> Result<Vec<SocketAddr>, Error> {
    let all: Vec<SocketAddr> = if inet.host.is_empty() {
        let (v6, v4) = if any {
            (Ipv6Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED)
        } else {
            (Ipv6Addr::LOCALHOST, Ipv4Addr::LOCALHOST)
        };
        vec![(IpAddr::V6(v6), inet.port).into(), (IpAddr::V4(v4), inet.port).into()]
    } else {
        (inet.host.as_str(), inet.port)
            .to_socket_addrs()
            .map_err(|e| {
                let what = format!("address resolution failed for {}:{}", inet.host, inet.port);
                // The resolver's own failures carry no system error number, but a text with a prefix.
                let text = e.to_string();
                match e.raw_os_error() {
                    Some(n) => Error::new(what, Errno::from_raw(n)),
                    None => Error::new(what, Errno::NOENT)
                        .telling(text.rsplit_once(": ").map_or(text.as_str(), |(_, told)| told)),
                }
            })?
            .collect()
    };
    Ok(all.into_iter().filter(|a| inet.allows(a.is_ipv6())).collect())
}

fn bind_inet(inet: &InetAddr) -> Result<(OwnedFd, Addr), Error> {
    let last = inet.to.unwrap_or(inet.port).max(inet.port);
    let mut failed = Errno::NOENT;
    let addrs = resolve(inet, true)?;
    for port in inet.port..=last {
        for addr in &addrs {
            let mut addr = *addr;
            addr.set_port(port);
            match bind_one(&addr) {
                Ok(fd) => {
                    let port = net::getsockname(&fd)
                        .ok()
                        .and_then(|a| SocketAddr::try_from(a).ok())
                        .map_or(port, |a| a.port());
                    return Ok((fd, Addr::Inet(InetAddr { port, ..inet.clone() })));
                }
                Err(e) => failed = sys(e),
            }
        }
    }
    let what = if failed == sys(Sys::ADDRINUSE) {
        "Failed to find an available port"
    } else {
        "Failed to bind socket"
    };
    Err(Error::new(what, failed))
}

fn bind_one(addr: &SocketAddr) -> Result<OwnedFd, Sys> {
    let family = if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd = net::socket_with(family, SocketType::STREAM, FLAGS, None)?;
    net::sockopt::set_socket_reuseaddr(&fd, true)?;
    net::bind(&fd, addr)?;
    net::listen(&fd, BACKLOG)?;
    Ok(fd)
}
