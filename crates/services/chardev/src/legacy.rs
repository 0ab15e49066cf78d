//! The short forms that `-serial`, `-monitor` and `-qmp` take.

use crate::config::{Config, Kind, Opts, SocketConfig, port_number, socket_flags};
use io::{Addr, InetAddr};
use qapi::{QError, qerr};

/// What a short form means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Legacy {
    /// `none`: no device.
    None,
    /// `chardev:ID`: a device that exists.
    Existing(String),
    /// A device to make, under the id that was given to [`Legacy::parse`].
    New {
        /// What to make.
        config: Config,
        /// `mon:…`: a human monitor shares the device.
        monitor: bool,
    },
}

impl Legacy {
    /// Parses `stdio`, `mon:stdio`, `file:PATH`, `unix:PATH,server=on,wait=off`, `tcp:HOST:PORT,…`,
    /// `telnet:HOST:PORT,…`, `pty`, `null`, `ringbuf`, `chardev:ID`, `none`. A new device gets the id `id`.
    ///
    /// # Errors
    /// Something else, or wrong options.
    pub fn parse(text: &str, id: &str) -> Result<Legacy, QError> {
        match text {
            "none" => return Ok(Legacy::None),
            _ if text.starts_with("chardev:") => {
                return Ok(Legacy::Existing(text["chardev:".len()..].to_owned()));
            }
            _ => {}
        }
        let (text, monitor) = match text.strip_prefix("mon:") {
            Some(t) => (t, true),
            None => (text, false),
        };
        // On a terminal that a monitor shares, Ctrl-C belongs to the guest: C-a x is there to quit.
        let stdio = Kind::Stdio { signal: !monitor };
        let (kind, mut opts) = match text.split_once(':') {
            None => {
                let (name, rest) = text.split_once(',').unwrap_or((text, ""));
                let kind = match name {
                    "null" => Kind::Null,
                    "stdio" => stdio,
                    "pty" => Kind::Pty { path: None },
                    "ringbuf" => Kind::Ringbuf { size: 64 << 10 },
                    _ => return Err(qerr!("'{text}' is not a valid char driver")),
                };
                (kind, Opts::new(rest, None))
            }
            Some(("file", path)) => {
                (Kind::File { path: path.into(), input: None, append: false }, Opts::new("", None))
            }
            Some(("pty", path)) => (Kind::Pty { path: Some(path.into()) }, Opts::new("", None)),
            Some(("unix", rest)) => {
                let mut o = Opts::new(rest, Some("path"));
                let path = o.str("path").unwrap_or_default();
                let abstract_ = o.bool("abstract")?.unwrap_or(false);
                let tight = o.bool("tight")?.unwrap_or(true);
                let addr =
                    if abstract_ { Addr::Abstract { name: path, tight } } else { Addr::Unix(path.into()) };
                (Kind::Socket(socket_flags(&mut o, addr)?), o)
            }
            Some((proto @ ("tcp" | "telnet"), rest)) => {
                let (at, flags) = rest.split_once(',').unwrap_or((rest, ""));
                let mut inet = inet(at).ok_or_else(|| qerr!("'{text}' is not a valid char driver"))??;
                let mut o = Opts::new(flags, None);
                inet.ipv4 = o.bool("ipv4")?;
                inet.ipv6 = o.bool("ipv6")?;
                inet.to = o.str("to").map(|t| port_number(&t)).transpose()?;
                let s = socket_flags(&mut o, Addr::Inet(inet))?;
                (Kind::Socket(SocketConfig { telnet: s.telnet || proto == "telnet", ..s }), o)
            }
            Some(("fd", rest)) => {
                let mut o = Opts::new(rest, Some("fd"));
                let fd = o.str("fd").unwrap_or_default();
                let fd = fd.parse().map_err(|_| qerr!("Unable to parse FD number {fd}"))?;
                (Kind::Socket(socket_flags(&mut o, Addr::Fd(fd))?), o)
            }
            Some((name @ ("vc" | "udp" | "pipe" | "websocket" | "tn3270"), _)) => {
                return Err(qerr!("chardev driver '{name}' is not available in Rhea"));
            }
            Some(_) => return Err(qerr!("'{text}' is not a valid char driver")),
        };
        let mut config = Config::new(id, kind);
        config.mux = monitor || opts.bool("mux")?.unwrap_or(false);
        config.logfile = opts.str("logfile").map(Into::into);
        config.logappend = opts.bool("logappend")?.unwrap_or(false);
        if let (Kind::Stdio { signal }, Some(given)) = (&mut config.kind, opts.bool("signal")?) {
            *signal = given;
        }
        opts.finish()?;
        Ok(Legacy::New { config, monitor })
    }
}

fn inet(at: &str) -> Option<Result<InetAddr, QError>> {
    let (host, port) = match at.strip_prefix('[') {
        Some(r) => r.split_once("]:")?,
        None => at.rsplit_once(':')?,
    };
    Some(port_number(port).map(|p| InetAddr::new(host, p)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(text: &str) -> (Config, bool) {
        match Legacy::parse(text, "serial0").unwrap() {
            Legacy::New { config, monitor } => (config, monitor),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn short_forms() {
        assert_eq!(Legacy::parse("none", "x").unwrap(), Legacy::None);
        assert_eq!(Legacy::parse("chardev:a", "x").unwrap(), Legacy::Existing("a".into()));
        assert_eq!(new("stdio"), (Config::new("serial0", Kind::Stdio { signal: true }), false));
        let (c, monitor) = new("mon:stdio");
        assert!(monitor && c.mux);
        assert_eq!(c.kind, Kind::Stdio { signal: false });
        assert_eq!(
            new("file:/tmp/a:b,c").0.kind,
            Kind::File { path: "/tmp/a:b,c".into(), input: None, append: false }
        );
        let Kind::Socket(s) = new("unix:/run/q,server=on,wait=off").0.kind else { panic!() };
        assert_eq!((s.addr, s.server, s.wait), (Addr::Unix("/run/q".into()), true, false));
        let Kind::Socket(s) = new("unix:/run/q,server,nowait").0.kind else { panic!() };
        assert_eq!((s.server, s.wait), (true, false));
        let Kind::Socket(s) = new("tcp:localhost:44,server").0.kind else { panic!() };
        assert_eq!((s.addr, s.server, s.wait), (Addr::inet("localhost", 44), true, true));
        let Kind::Socket(s) = new("telnet:[::1]:44,server=on,wait=off").0.kind else { panic!() };
        assert!(s.telnet && s.addr == Addr::inet("::1", 44));
        assert_eq!(new("pty").0.kind, Kind::Pty { path: None });
        assert_eq!(new("null").0.kind, Kind::Null);
    }

    #[test]
    fn refusals() {
        for (text, want) in [
            ("foo", "'foo' is not a valid char driver"),
            ("foo:bar", "'foo:bar' is not a valid char driver"),
            ("mon:foo", "'foo' is not a valid char driver"),
            ("unix:/x,bogus=1", "Invalid parameter 'bogus'"),
            ("udp:x:1", "chardev driver 'udp' is not available in Rhea"),
            ("tcp:localhost", "'tcp:localhost' is not a valid char driver"),
            ("tcp:localhost:x", "port 'x' is not a number between 0 and 65535"),
        ] {
            assert_eq!(Legacy::parse(text, "s").unwrap_err().desc(), want, "{text}");
        }
    }
}
