//! Connecting to a socket.

use crate::listener::{dup_fd, resolve, sys, unix_addr};
use crate::{Addr, Error, InetAddr, Stream};
use base::Errno;
use rt::AsyncFd;
use rustix::io::Errno as Sys;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use std::net::SocketAddr;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Connects to `addr`. Host names are resolved on the blocking pool; every address of a host is tried.
///
/// # Errors
/// What failed and why, in words for the user.
pub async fn connect(addr: &Addr) -> Result<Stream, Error> {
    match addr {
        Addr::Unix(_) | Addr::Abstract { .. } => connect_unix(addr).await,
        Addr::Inet(inet) => connect_inet(inet).await,
        Addr::Fd(n) => {
            Stream::from_fd(dup_fd(*n)?).map_err(|e| Error::new(format!("Unable to use descriptor {n}"), e))
        }
    }
}

async fn connect_unix(addr: &Addr) -> Result<Stream, Error> {
    let shown = match addr {
        Addr::Unix(p) => p.display().to_string(),
        Addr::Abstract { name, .. } => name.clone(),
        other => other.to_string(),
    };
    let failed = |e: Errno| Error::new(format!("Failed to connect to '{shown}'"), e);
    let sun = unix_addr(addr)?.ok_or_else(|| failed(Errno::INVAL))?;
    loop {
        let fd = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)
            .map_err(|e| failed(sys(e)))?;
        match net::connect(&fd, &sun) {
            Ok(()) => return Stream::from_fd(fd).map_err(failed),
            // The listener's queue is full: unix sockets cannot be polled for that.
            Err(Sys::AGAIN) => rt::sleep(std::time::Duration::from_millis(10)).await,
            Err(Sys::INTR) => {}
            Err(e) => return Err(failed(sys(e))),
        }
    }
}

async fn connect_inet(inet: &InetAddr) -> Result<Stream, Error> {
    let wanted = inet.clone();
    let addrs = rt::unblock(move || resolve(&wanted, false)).await?;
    let mut last = Errno::NOENT;
    for addr in addrs {
        match connect_one(&addr).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(Error::new(format!("Failed to connect to '{}:{}'", inet.host, inet.port), last))
}

async fn connect_one(addr: &SocketAddr) -> Result<Stream, Errno> {
    let family = if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd = net::socket_with(family, SocketType::STREAM, FLAGS, None).map_err(sys)?;
    match net::connect(&fd, addr) {
        Ok(()) => {}
        Err(Sys::INPROGRESS | Sys::INTR) => {
            let polled = AsyncFd::new(fd.try_clone()?)?;
            polled.writable().await?;
            net::sockopt::socket_error(&fd).map_err(sys)?.map_err(sys)?;
        }
        Err(e) => return Err(sys(e)),
    }
    Stream::from_fd(fd)
}
