//! What a character device is to be, as `-chardev` says it.

use api::char::{ChardevBackend, ChardevOptions, ChardevSocket};
use api::sockets::SocketAddressLegacy;
use io::{Addr, InetAddr};
use qapi::{QError, opts_parse, qerr};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A character device's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its id.
    pub id: String,
    /// What stands behind it.
    pub kind: Kind,
    /// Whether several front ends share it.
    pub mux: bool,
    /// A file that gets a copy of everything written to the device.
    pub logfile: Option<PathBuf>,
    /// Whether that file is appended to rather than emptied.
    pub logappend: bool,
}

/// What stands behind a character device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: output is thrown away, there is no input.
    Null,
    /// Standard input and output. With `signal`, Ctrl-C and the like reach the process rather than the
    /// front end.
    Stdio {
        /// See above.
        signal: bool,
    },
    /// A file for output, and perhaps another that input is read from.
    File {
        /// The file for output.
        path: PathBuf,
        /// The file for input.
        input: Option<PathBuf>,
        /// Whether output is appended to the file rather than emptying it first.
        append: bool,
    },
    /// A pseudo-terminal, with a symbolic link to it at `path`.
    Pty {
        /// Where to put the link.
        path: Option<PathBuf>,
    },
    /// The last `size` bytes of output, in memory. A power of two.
    Ringbuf {
        /// Bytes.
        size: usize,
    },
    /// A socket.
    Socket(SocketConfig),
}

/// A socket's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// Where to listen or connect.
    pub addr: Addr,
    /// Listen rather than connect.
    pub server: bool,
    /// As a server, do not come up before the first client is there.
    pub wait: bool,
    /// Speak telnet: negotiate character mode, understand BREAK.
    pub telnet: bool,
    /// As a client, connect again this long after the connection ended or was refused.
    pub reconnect: Option<Duration>,
    /// The id of the TLS credentials: nothing goes over the socket unencrypted.
    pub tls_creds: Option<String>,
    /// As a server, the id of the object that decides who may connect, by the identity that TLS has proved.
    pub tls_authz: Option<String>,
}

/// The largest ring buffer; its memory is taken at once.
const MAX_RING: u64 = 1 << 30;

/// Drivers that the family has and Rhea has not.
const NOT_HERE: &[&str] = &[
    "udp",
    "vc",
    "pipe",
    "serial",
    "tty",
    "parallel",
    "parport",
    "hub",
    "braille",
    "msmouse",
    "wctablet",
    "testdev",
    "spicevmc",
    "spiceport",
    "qemu-vdagent",
    "dbus",
    "console",
    "mux",
    "memory",
];

/// Options one by one, each to be used.
pub(crate) struct Opts(BTreeMap<String, String>);

impl Opts {
    pub(crate) fn new(text: &str, implied: Option<&str>) -> Opts {
        Opts(opts_parse(text, implied).into_iter().collect())
    }

    pub(crate) fn str(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    pub(crate) fn bool(&mut self, key: &str) -> Result<Option<bool>, QError> {
        match self.0.remove(key).as_deref() {
            None => Ok(None),
            Some("on") => Ok(Some(true)),
            Some("off") => Ok(Some(false)),
            Some(_) => Err(qerr!("Parameter '{key}' expects 'on' or 'off'")),
        }
    }

    fn number(&mut self, key: &str) -> Result<Option<u64>, QError> {
        self.0
            .remove(key)
            .map(|v| v.parse().map_err(|_| qerr!("Parameter '{key}' expects a number")))
            .transpose()
    }

    fn size(&mut self, key: &str) -> Result<Option<u64>, QError> {
        self.0
            .remove(key)
            .map(|v| {
                base::units::parse_size(&v, 1)
                    .map_err(|_| qerr!("Parameter '{key}' expects a non-negative number below 2^64"))
            })
            .transpose()
    }

    pub(crate) fn finish(self) -> Result<(), QError> {
        match self.0.into_keys().next() {
            Some(key) => Err(qerr!("Invalid parameter '{key}'")),
            None => Ok(()),
        }
    }
}

/// Whether `id` may name an object: a letter, then letters, digits, `-`, `.` and `_`.
pub(crate) fn well_formed(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

impl Config {
    /// A device `id` of this kind, with nothing special.
    pub fn new(id: impl Into<String>, kind: Kind) -> Config {
        Config { id: id.into(), kind, mux: false, logfile: None, logappend: false }
    }

    /// Parses the argument of `-chardev`: `socket,id=a,path=/run/x,server=on,wait=off`.
    ///
    /// # Errors
    /// An unknown driver, a missing, unknown or wrong option, or options that contradict each other.
    pub fn parse(text: &str) -> Result<Config, QError> {
        let mut o = Opts::new(text, Some("backend"));
        let id = o.str("id");
        if let Some(id) = &id
            && !well_formed(id)
        {
            return Err(QError::new("Parameter 'id' expects an identifier").with_hint(
                "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
            ));
        }
        let id = id.ok_or_else(|| QError::new("chardev: no id specified"))?;
        let backend = o.str("backend").ok_or_else(|| qerr!("chardev: \"{id}\" missing backend"))?;
        let mux = o.bool("mux")?.unwrap_or(false);
        let logfile = o.str("logfile").map(PathBuf::from);
        let logappend = o.bool("logappend")?.unwrap_or(false);
        let kind = match backend.as_str() {
            "null" => Kind::Null,
            "stdio" => Kind::Stdio { signal: o.bool("signal")?.unwrap_or(true) },
            "file" => {
                let path = o.str("path").ok_or_else(|| QError::new("chardev: file: no filename given"))?;
                let input = o.str("input-path").map(PathBuf::from);
                Kind::File { path: path.into(), input, append: o.bool("append")?.unwrap_or(false) }
            }
            "pty" => Kind::Pty { path: o.str("path").map(PathBuf::from) },
            "ringbuf" => {
                let size = o.size("size")?.unwrap_or(64 << 10);
                Kind::Ringbuf { size: ring_size(size)? }
            }
            "socket" => Kind::Socket(socket(&mut o)?),
            other if NOT_HERE.contains(&other) => {
                return Err(qerr!("chardev driver '{other}' is not available in Rhea"));
            }
            other => return Err(qerr!("'{other}' is not a valid char driver name")),
        };
        o.finish()?;
        Ok(Config { id, kind, mux, logfile, logappend })
    }
}

/// A backend of the contract's types, as `chardev-add` takes it.
impl TryFrom<ChardevOptions> for Config {
    type Error = QError;

    fn try_from(options: ChardevOptions) -> Result<Config, QError> {
        let (kind, common) = match options.backend {
            ChardevBackend::Null(common) => (Kind::Null, common),
            ChardevBackend::Stdio(o) => (Kind::Stdio { signal: o.signal.unwrap_or(true) }, o.common),
            ChardevBackend::Pty(o) => (Kind::Pty { path: o.path.map(PathBuf::from) }, o.common),
            ChardevBackend::Ringbuf(o) => {
                let size = o.size.map_or(Ok(64 << 10), u64::try_from);
                let size = size.map_err(|_| QError::new("size of ringbuf chardev must be power of two"))?;
                (Kind::Ringbuf { size: ring_size(size)? }, o.common)
            }
            ChardevBackend::File(o) => {
                let (path, input) = (o.out.into(), o.r#in.map(PathBuf::from));
                (Kind::File { path, input, append: o.append.unwrap_or(false) }, o.common)
            }
            ChardevBackend::Socket(o) => {
                let common = o.common.clone();
                (Kind::Socket(api_socket(o)?), common)
            }
            ChardevBackend::Mux(_) => {
                return Err(QError::new("chardev driver 'mux' is not available in Rhea"));
            }
        };
        let logfile = common.logfile.map(PathBuf::from);
        let logappend = common.logappend.unwrap_or(false);
        Ok(Config { id: options.id, kind, mux: false, logfile, logappend })
    }
}

/// The contract's socket through the same checks as the command line's.
fn api_socket(o: ChardevSocket) -> Result<SocketConfig, QError> {
    let mut flags = BTreeMap::new();
    let mut flag = |name: &str, on: Option<bool>| {
        if let Some(on) = on {
            flags.insert(name.to_owned(), String::from(if on { "on" } else { "off" }));
        }
    };
    // Unlike on the command line, a socket listens unless told otherwise.
    let server = o.server.unwrap_or(true);
    flag("server", Some(server));
    flag("wait", if server { Some(o.wait.unwrap_or(false)) } else { o.wait });
    flag("telnet", o.telnet);
    flag("tn3270", o.tn3270);
    flag("websocket", o.websocket);
    let numbers = [("reconnect", o.reconnect), ("reconnect-ms", o.reconnect_ms)];
    flags.extend(numbers.into_iter().filter_map(|(k, v)| v.map(|v| (k.to_owned(), v.to_string()))));
    let texts = [("tls-creds", o.tls_creds), ("tls-authz", o.tls_authz)];
    flags.extend(texts.into_iter().filter_map(|(k, v)| v.map(|v| (k.to_owned(), v))));
    let addr = match o.addr {
        SocketAddressLegacy::Inet(a) => {
            let port = port_number(&a.port)?;
            Addr::Inet(InetAddr { host: a.host, port, to: a.to, ipv4: a.ipv4, ipv6: a.ipv6 })
        }
        SocketAddressLegacy::Unix(a) if a.r#abstract == Some(true) => {
            Addr::Abstract { name: a.path, tight: a.tight.unwrap_or(true) }
        }
        SocketAddressLegacy::Unix(a) => Addr::Unix(a.path.into()),
        SocketAddressLegacy::Fd(a) => {
            Addr::Fd(a.str.parse().map_err(|_| qerr!("Unable to parse FD number {}", a.str))?)
        }
        SocketAddressLegacy::Vsock(_) => {
            return Err(QError::new("socket address type 'vsock' is not available in Rhea"));
        }
    };
    socket_flags(&mut Opts(flags), addr)
}

fn ring_size(size: u64) -> Result<usize, QError> {
    if !size.is_power_of_two() {
        return Err(QError::new("size of ringbuf chardev must be power of two"));
    }
    if size > MAX_RING {
        return Err(qerr!("size of ringbuf chardev must be at most {MAX_RING} bytes"));
    }
    Ok(size as usize)
}

/// The options of a socket, but for its address.
pub(crate) fn socket_flags(o: &mut Opts, addr: Addr) -> Result<SocketConfig, QError> {
    let server = o.bool("server")?.unwrap_or(false);
    let wait = o.bool("wait")?;
    let telnet = o.bool("telnet")?.unwrap_or(false);
    // Small writes are never delayed here; the option says nothing new.
    o.bool("nodelay")?;
    o.bool("delay")?;
    for missing in ["websocket", "tn3270"] {
        if o.bool(missing)? == Some(true) {
            return Err(qerr!("chardev option '{missing}' is not available in Rhea"));
        }
    }
    let (tls_creds, tls_authz) = (o.str("tls-creds"), o.str("tls-authz"));
    if tls_authz.is_some() && tls_creds.is_none() {
        return Err(QError::new("'tls_authz' option requires 'tls_creds' option"));
    }
    let seconds = o.number("reconnect")?;
    let millis = o.number("reconnect-ms")?;
    if seconds.is_some() && millis.is_some() {
        return Err(QError::new("'reconnect' and 'reconnect-ms' are mutually exclusive"));
    }
    let millis = millis.or(seconds.map(|s| s.saturating_mul(1000))).unwrap_or(0);
    if !server && wait.is_some() {
        return Err(QError::new("'wait' option is incompatible with socket in client connect mode"));
    }
    if server && millis > 0 {
        return Err(QError::new("'reconnect' option is incompatible with socket in server listen mode"));
    }
    let reconnect = (millis > 0).then(|| Duration::from_millis(millis.min(86_400_000)));
    let wait = wait.unwrap_or(true);
    Ok(SocketConfig { addr, server, wait, telnet, reconnect, tls_creds, tls_authz })
}

fn socket(o: &mut Opts) -> Result<SocketConfig, QError> {
    let (path, fd, host) = (o.str("path"), o.str("fd"), o.str("host"));
    if [&path, &fd, &host].iter().filter(|x| x.is_some()).count() > 1 {
        return Err(QError::new("None or one of 'path', 'fd' or 'host' option required."));
    }
    let abstract_ = o.bool("abstract")?.unwrap_or(false);
    let tight = o.bool("tight")?.unwrap_or(true);
    let port = o.str("port");
    let addr = match (path, fd) {
        (Some(name), _) if abstract_ => Addr::Abstract { name, tight },
        (Some(path), _) => Addr::Unix(path.into()),
        (None, Some(fd)) => Addr::Fd(fd.parse().map_err(|_| qerr!("Unable to parse FD number {fd}"))?),
        (None, None) => {
            let port = port.ok_or_else(|| match host {
                Some(_) => QError::new("chardev: socket: no port given"),
                None => QError::new("None or one of 'path', 'fd' or 'host' option required."),
            })?;
            let mut inet = InetAddr::new(host.unwrap_or_default(), port_number(&port)?);
            inet.to = o.number("to")?.map(|n| n.min(65_535) as u16);
            inet.ipv4 = o.bool("ipv4")?;
            inet.ipv6 = o.bool("ipv6")?;
            Addr::Inet(inet)
        }
    };
    socket_flags(o, addr)
}

pub(crate) fn port_number(text: &str) -> Result<u16, QError> {
    text.parse().map_err(|_| qerr!("port '{text}' is not a number between 0 and 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(text: &str) -> String {
        Config::parse(text).unwrap_err().desc().to_owned()
    }

    #[test]
    fn good_ones() {
        let c = Config::parse("socket,id=a,path=/run/a,,b,server=on,wait=off").unwrap();
        assert_eq!(c.id, "a");
        let want = SocketConfig {
            addr: Addr::Unix("/run/a,b".into()),
            server: true,
            wait: false,
            telnet: false,
            reconnect: None,
            tls_creds: None,
            tls_authz: None,
        };
        assert_eq!(c.kind, Kind::Socket(want));
        let c = Config::parse("socket,id=a,host=::1,port=5,server,nowait,telnet").unwrap();
        let Kind::Socket(s) = c.kind else { panic!() };
        assert!(s.server && !s.wait && s.telnet);
        assert_eq!(s.addr, Addr::inet("::1", 5));
        let c = Config::parse("socket,id=a,path=x,reconnect-ms=250").unwrap();
        let Kind::Socket(s) = c.kind else { panic!() };
        assert_eq!(s.reconnect, Some(Duration::from_millis(250)));
        let c = Config::parse("stdio,id=s,mux=on,signal=off,logfile=/x,logappend=on").unwrap();
        assert!(c.mux && c.logappend && c.logfile == Some("/x".into()));
        assert_eq!(c.kind, Kind::Stdio { signal: false });
        assert_eq!(Config::parse("ringbuf,id=r").unwrap().kind, Kind::Ringbuf { size: 65536 });
        assert_eq!(Config::parse("ringbuf,id=r,size=1M").unwrap().kind, Kind::Ringbuf { size: 1 << 20 });
        assert_eq!(Config::parse("backend=null,id=n").unwrap().kind, Kind::Null);
    }

    #[test]
    fn the_contracts_types() {
        let parse = |json: &str| {
            let value = qapi::Value::parse_json(json).unwrap();
            Config::try_from(qapi::from_json::<ChardevOptions>(value).unwrap())
        };
        let unix = "'addr': {'type': 'unix', 'data': {'path': '/run/x'}}";
        let c =
            parse(&format!("{{'id': 'a', 'backend': {{'type': 'socket', 'data': {{{unix}}}}}}}")).unwrap();
        let Kind::Socket(s) = c.kind else { panic!() };
        assert!(s.server && !s.wait && s.addr == Addr::Unix("/run/x".into()));
        let client = format!(
            "{{'id': 'a', 'backend': {{'type': 'socket', 'data': {{{unix}, 'server': false, 'reconnect-ms': 5}}}}}}"
        );
        let Kind::Socket(s) = parse(&client).unwrap().kind else { panic!() };
        assert_eq!((s.server, s.reconnect), (false, Some(Duration::from_millis(5))));
        let c = parse("{'id': 'r', 'backend': {'type': 'ringbuf', 'data': {'size': 4096, 'logfile': '/l'}}}");
        assert_eq!(c.unwrap().logfile, Some("/l".into()));
        for bad in ["-1", "3"] {
            let text = format!("{{'id': 'r', 'backend': {{'type': 'ringbuf', 'data': {{'size': {bad}}}}}}}");
            assert_eq!(parse(&text).unwrap_err().desc(), "size of ringbuf chardev must be power of two");
        }
    }

    #[test]
    fn the_references_messages() {
        for (text, want) in [
            ("foo,id=a", "'foo' is not a valid char driver name"),
            ("foo", "chardev: no id specified"),
            ("id=b", "chardev: \"b\" missing backend"),
            ("null,id=a,bogus=1", "Invalid parameter 'bogus'"),
            ("null,id=a,mux=maybe", "Parameter 'mux' expects 'on' or 'off'"),
            ("null,id=1a", "Parameter 'id' expects an identifier"),
            ("socket,id=a,host=localhost", "chardev: socket: no port given"),
            ("file,id=a", "chardev: file: no filename given"),
            ("ringbuf,id=a,size=3", "size of ringbuf chardev must be power of two"),
            (
                "socket,id=a,path=x,wait=off",
                "'wait' option is incompatible with socket in client connect mode",
            ),
            ("socket,id=a,path=x,host=y", "None or one of 'path', 'fd' or 'host' option required."),
            ("spicevmc,id=a", "chardev driver 'spicevmc' is not available in Rhea"),
            ("socket,id=a,path=x,tls-authz=t", "'tls_authz' option requires 'tls_creds' option"),
        ] {
            assert_eq!(fails(text), want, "{text}");
        }
        for bad in [
            "socket,id=a,host=h,port=70000",
            "ringbuf,id=a,size=0",
            "ringbuf,id=a,size=1T",
            "socket,id=a,fd=x",
            "socket,id=a",
            "socket,id=a,path=x,server=on,reconnect=1",
            "socket,id=a,path=x,reconnect=99999999999999999999",
        ] {
            fails(bad);
        }
    }
}
