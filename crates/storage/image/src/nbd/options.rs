//! The command line.

use super::getopt::{self, Row};
use crate::open::Cache;
use api::block_core::BlockdevAioOptions;
use qapi::QapiEnum;
use qom::ObjectTree;
use std::sync::Arc;

/// Longest name and description of an export, bytes ("Values" of the protocol).
const MAX_TEXT: usize = 4096;

/// What the command line asks for.
pub enum Wanted {
    /// The help text.
    Help,
    /// The version.
    Version,
    /// What another server has.
    List(Connection),
    /// Let a kernel device go.
    Disconnect(String),
    /// Serve an image.
    Serve(Box<Options>),
}

/// A command line that is wrong: the whole text for standard error.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad(pub String);

/// Where the server is, and how to speak to it.
#[derive(Clone, Default)]
pub struct Connection {
    /// `-p`.
    pub port: Option<String>,
    /// `-b`.
    pub bind: Option<String>,
    /// `-k`.
    pub socket: Option<String>,
    /// `--tls-creds`.
    pub tls_creds: Option<String>,
    /// `--tls-hostname`.
    pub tls_hostname: Option<String>,
    /// `--tls-authz`.
    pub tls_authz: Option<String>,
    /// `--object`.
    pub objects: Arc<ObjectTree>,
}

impl Connection {
    /// Host and port.
    pub fn inet(&self) -> (&str, &str) {
        (self.bind.as_deref().unwrap_or("0.0.0.0"), self.port.as_deref().unwrap_or("10809"))
    }
}

/// The image, and how it is opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Its name, or its description with `image_opts`.
    pub name: String,
    /// `-f`.
    pub format: Option<String>,
    /// `--image-opts`.
    pub image_opts: bool,
    /// `-r`, or a snapshot that cannot be written.
    pub read_only: bool,
    /// `-n` and `--cache`.
    pub cache: Cache,
    /// `--aio`.
    pub aio: Option<String>,
    /// `--discard=unmap`.
    pub unmap: bool,
    /// `--detect-zeroes`.
    pub detect_zeroes: Option<String>,
    /// `-o`.
    pub offset: Option<u64>,
    /// `-s`.
    pub temporary: bool,
    /// `-l`: the id and the name of an internal snapshot, or one word that is either.
    pub snapshot: Option<(Option<String>, Option<String>)>,
}

/// How an image is served.
#[derive(Clone, Default)]
pub struct Options {
    /// Where.
    pub connection: Connection,
    /// What.
    pub image: Image,
    /// What is to be told of the command line, although it is understood.
    pub warnings: Vec<String>,
    /// `-x`.
    pub name: String,
    /// `-D`.
    pub description: Option<String>,
    /// `-e`: the most clients at a time; 0 for any number.
    pub shared: u32,
    /// `-t`.
    pub persistent: bool,
    /// `-v`.
    pub verbose: bool,
    /// `--fork`.
    pub fork: bool,
    /// `--pid-file`.
    pub pid_file: Option<String>,
    /// `-A`.
    pub depth: bool,
    /// `-B`.
    pub bitmaps: Vec<String>,
    /// `-c`.
    pub device: Option<String>,
    /// `--handshake-limit`, seconds; 0 for any time.
    pub handshake: u32,
    /// `-T`.
    pub trace: Vec<String>,
    /// `--selinux-label`.
    pub label: Option<String>,
}

/// The options. The order is that of the help text.
const GROUPS: &[(&str, &[Row])] = &[
    ("", &[(Some('h'), "help", None, "show this text"), (Some('V'), "version", None, "show the version")]),
    (
        "Where clients come",
        &[
            (Some('p'), "port", Some("PORT"), "the TCP port, 10809 unless given"),
            (Some('b'), "bind", Some("ADDRESS"), "the address of this host, 0.0.0.0 unless given"),
            (Some('k'), "socket", Some("PATH"), "a unix socket instead"),
            (
                Some('e'),
                "shared",
                Some("NUM"),
                "how many clients there may be at a time, 1 unless given; 0 for any number",
            ),
            (Some('t'), "persistent", None, "go on when the last client has left"),
            (Some('v'), "verbose", None, "tell more"),
            (Some('x'), "export-name", Some("NAME"), "the name of the export, empty unless given"),
            (Some('D'), "description", Some("TEXT"), "a text about the export, for people"),
            (
                None,
                "handshake-limit",
                Some("N"),
                "seconds that a client has to choose the export, 10 unless given; 0 for any time",
            ),
        ],
    ),
    (
        "What clients see",
        &[
            (Some('o'), "offset", Some("OFFSET"), "the byte of the image at which the export starts"),
            (
                Some('A'),
                "allocation-depth",
                None,
                "tell clients how deep in a chain of images each byte lies",
            ),
            (Some('B'), "bitmap", Some("NAME"), "let clients see a persistent dirty bitmap of the image"),
        ],
    ),
    (
        "General",
        &[
            (Some('L'), "list", None, "list what another server exports, and serve nothing"),
            (None, "object", Some("TYPE,id=ID,..."), "make an object, such as a secret or TLS credentials"),
            (None, "tls-creds", Some("ID"), "use TLS, with the credentials of this object"),
            (None, "tls-authz", Some("ID"), "let the object decide which clients may come"),
            (
                None,
                "tls-hostname",
                Some("NAME"),
                "the name that the certificate of a listed server must have",
            ),
            (Some('T'), "trace", Some("PATTERN"), "what to trace"),
            (None, "fork", None, "serve in the background; ends once clients can come"),
            (None, "pid-file", Some("PATH"), "write the number of the process to a file"),
            (None, "selinux-label", Some("LABEL"), "the SELinux label of the socket that clients come to"),
        ],
    ),
    (
        "Network block devices of this host's kernel",
        &[
            (
                Some('c'),
                "connect",
                Some("DEV"),
                "connect the image to the kernel's device DEV, and go to the background unless -v is given",
            ),
            (Some('d'), "disconnect", None, "disconnect the kernel's device FILE"),
        ],
    ),
    (
        "The image",
        &[
            (Some('f'), "format", Some("FORMAT"), "its format; found out unless given"),
            (Some('r'), "read-only", None, "serve it without letting clients write"),
            (
                Some('s'),
                "snapshot",
                None,
                "keep what clients write in a temporary image, and forget it at the end",
            ),
            (
                Some('l'),
                "load-snapshot",
                Some("SNAPSHOT"),
                "serve an internal snapshot, read-only: its id or name, or snapshot.id=ID,snapshot.name=NAME",
            ),
            (Some('n'), "nocache", None, "the same as --cache=none"),
            (
                None,
                "cache",
                Some("MODE"),
                "none, writeback, writethrough, directsync or unsafe; writeback unless given",
            ),
            (None, "aio", Some("MODE"), "threads, native or io_uring"),
            (None, "discard", Some("MODE"), "whether discards reach the image: ignore or unmap"),
            (
                None,
                "detect-zeroes",
                Some("MODE"),
                "whether zeroes that are written are noticed: off, on or unmap",
            ),
            (None, "image-opts", None, "take FILE as a description of the image (key=value,...)"),
        ],
    ),
];

/// The version, as the reference tells it.
pub fn version(program: &str) -> String {
    format!("{program} 10.0.2 (Rhea {})\n", env!("CARGO_PKG_VERSION"))
}

/// The help text.
pub fn help(program: &str) -> String {
    let mut out = format!(
        "Usage: {program} [OPTIONS] FILE\n  or:  {program} -L [OPTIONS]\nServes a disk image over the network block \
         device protocol (NBD).\n"
    );
    for (title, rows) in GROUPS {
        out.push('\n');
        if !title.is_empty() {
            out.push_str(&format!("{title}:\n"));
        }
        for (short, long, arg, what) in *rows {
            let short = short.map_or("    ".to_owned(), |s| format!("-{s}, "));
            let arg = arg.map_or(String::new(), |a| format!("={a}"));
            out.push_str(&format!("  {short}--{:<24} {what}\n", format!("{long}{arg}")));
        }
    }
    out
}

/// The order in which options of one beginning are told, where it is not that of the help text.
const ORDER: [&str; 22] = [
    "socket",
    "offset",
    "snapshot",
    "load-snapshot",
    "cache",
    "aio",
    "discard",
    "detect-zeroes",
    "shared",
    "format",
    "persistent",
    "verbose",
    "object",
    "export-name",
    "description",
    "tls-creds",
    "tls-hostname",
    "tls-authz",
    "trace",
    "fork",
    "pid-file",
    "selinux-label",
];

fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = GROUPS.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
    rows.sort_by_key(|r| ORDER.iter().position(|o| *o == r.1));
    rows
}

/// A whole number as the C library reads it, not below zero.
fn number(text: &str) -> Option<u64> {
    crate::options::integer(text).ok().filter(|(negative, _)| !negative).map(|(_, n)| n)
}

/// Understands the command line of `program`.
///
/// # Errors
/// It is wrong; what to tell the user.
pub fn parse(program: &str, given: &[String]) -> Result<Wanted, Bad> {
    let bad = |text: &str| Bad(format!("{program}: {}\n", text.replace('\0', &format!("\n{program}: "))));
    let parsed = getopt::parse(&rows(), given)
        .map_err(|e| bad(&format!("{e}\0Try `{program} --help' for more information.")))?;
    let mut g = Given { o: Options { shared: 1, handshake: 10, ..Options::default() }, ..Given::default() };
    for (name, value) in parsed.options {
        match name {
            "help" => return Ok(Wanted::Help),
            "version" => return Ok(Wanted::Version),
            _ => g.take(name, value).map_err(|e| bad(&e))?,
        }
    }
    g.end(program, parsed.rest).map_err(|e| bad(&e))
}

#[derive(Default)]
struct Given {
    o: Options,
    seen: Vec<&'static str>,
    list: bool,
    disconnect: bool,
}

impl Given {
    /// Remembers an option that may be given once only.
    fn once(&mut self, group: &'static str, what: &str) -> Result<(), String> {
        if self.seen.contains(&group) {
            return Err(format!("{what} can only be specified once"));
        }
        self.seen.push(group);
        Ok(())
    }

    fn take(&mut self, name: &'static str, value: String) -> Result<(), String> {
        let o = &mut self.o;
        match name {
            "port" => o.connection.port = Some(value),
            "bind" => o.connection.bind = Some(value),
            "socket" if !value.starts_with('/') => return Err("socket path must be absolute".into()),
            "socket" => o.connection.socket = Some(value),
            "shared" => {
                let n = number(&value).filter(|n| *n <= i32::MAX as u64);
                o.shared = n.ok_or_else(|| format!("Invalid shared device number '{value}'"))? as u32;
            }
            "persistent" => o.persistent = true,
            "verbose" => o.verbose = true,
            "export-name" if value.len() > MAX_TEXT => return Err(format!("export name '{value}' too long")),
            "export-name" => {
                o.name = value;
                self.seen.push("export-name");
            }
            "description" if value.len() > MAX_TEXT => {
                return Err(format!("export description '{value}' too long"));
            }
            "description" => o.description = Some(value),
            "handshake-limit" => {
                let n = number(&value).and_then(|n| u32::try_from(n).ok());
                o.handshake = n.ok_or_else(|| format!("Invalid handshake limit '{value}'"))?;
            }
            "offset" => {
                // The C library takes a sign, and counts down from 2^64.
                let (digits, negative) = value.strip_prefix('-').map_or((&*value, false), |d| (d, true));
                let n = number(digits).map(|n| if negative { n.wrapping_neg() } else { n });
                o.image.offset = Some(n.ok_or_else(|| format!("Invalid offset '{value}'"))?);
            }
            "allocation-depth" => o.depth = true,
            "bitmap" => o.bitmaps.insert(0, value),
            "list" => self.list = true,
            "object" => {
                let made =
                    qapi::from_arg(&value, Some("qom-type")).and_then(|p| o.connection.objects.add(&p));
                made.map_err(|e| e.desc().to_owned())?;
            }
            "tls-creds" => o.connection.tls_creds = Some(value),
            "tls-authz" => o.connection.tls_authz = Some(value),
            "tls-hostname" => o.connection.tls_hostname = Some(value),
            "trace" => o.trace.push(value),
            "fork" => o.fork = true,
            "pid-file" => o.pid_file = Some(value),
            "selinux-label" => o.label = Some(value),
            "connect" => o.device = Some(value),
            "disconnect" => self.disconnect = true,
            _ => return self.take_image(name, value),
        }
        Ok(())
    }

    fn take_image(&mut self, name: &'static str, value: String) -> Result<(), String> {
        match name {
            "nocache" | "cache" => {
                self.once("cache", "-n and --cache")?;
                let mode = if name == "nocache" { "none" } else { &value };
                let cache = Cache::parse(mode).ok_or_else(|| format!("Invalid cache mode `{mode}'"))?;
                self.o.image.cache = cache;
            }
            "aio" => {
                self.once("aio", "--aio")?;
                if BlockdevAioOptions::from_str(&value).is_none() {
                    return Err(format!("Invalid aio mode '{value}'"));
                }
                self.o.image.aio = Some(value);
            }
            "discard" => {
                self.once("discard", "--discard")?;
                self.o.image.unmap = match value.as_str() {
                    "unmap" | "on" => true,
                    "ignore" | "off" => false,
                    _ => return Err(format!("Invalid discard mode `{value}'")),
                };
            }
            "detect-zeroes" => {
                if !["off", "on", "unmap"].contains(&value.as_str()) {
                    let what = "Failed to parse detect_zeroes mode: invalid parameter value";
                    return Err(format!("{what}: {value}"));
                }
                if value == "unmap" && !self.o.image.unmap {
                    return Err("setting detect-zeroes to unmap is not allowed without setting discard \
                                operation to unmap"
                        .into());
                }
                self.o.image.detect_zeroes = Some(value);
            }
            "format" => self.o.image.format = Some(value),
            "read-only" => self.o.image.read_only = true,
            "snapshot" => self.o.image.temporary = true,
            "load-snapshot" => {
                if value.starts_with("snapshot.") {
                    self.o.warnings.extend(qapi::opts_short_forms(&value, None));
                }
                self.o.image.snapshot = Some(snapshot(value)?);
                self.o.image.read_only = true;
            }
            _ => self.o.image.image_opts = true,
        }
        Ok(())
    }

    fn end(mut self, program: &str, rest: Vec<String>) -> Result<Wanted, String> {
        let o = &mut self.o;
        let wrong = format!("Invalid number of arguments\nTry `{program} --help' for more information.");
        if self.list {
            let i = &o.image;
            let own = self.seen.contains(&"export-name")
                || self.disconnect
                || o.description.is_some()
                || !o.bitmaps.is_empty()
                || o.device.is_some()
                || o.depth
                || i.offset.is_some_and(|n| n > 0)
                || i.format.is_some()
                || i.snapshot.is_some()
                || self.seen.iter().any(|s| ["aio", "discard", "cache"].contains(s));
            if !rest.is_empty() {
                return Err("List mode is incompatible with a file name".into());
            }
            if own {
                return Err("List mode is incompatible with per-device settings".into());
            }
            if o.fork {
                return Err("List mode is incompatible with forking".into());
            }
        } else {
            match <[String; 1]>::try_from(rest) {
                Ok([name]) => o.image.name = name,
                Err(_) => return Err(wrong),
            }
        }
        let c = &o.connection;
        if c.tls_creds.is_none() {
            if c.tls_authz.is_some() {
                return Err("--tls-authz is not permitted without --tls-creds".into());
            }
            if c.tls_hostname.is_some() {
                return Err("--tls-hostname is not permitted without --tls-creds".into());
            }
        } else {
            if self.list && c.tls_authz.is_some() {
                return Err("TLS authorization is incompatible with export list".into());
            }
            if !self.list && c.tls_hostname.is_some() {
                return Err("TLS hostname is only supported with export list".into());
            }
            if o.device.is_some() {
                return Err("TLS is not supported with a host device".into());
            }
        }
        if self.list {
            return Ok(Wanted::List(self.o.connection));
        }
        if self.disconnect {
            return Ok(Wanted::Disconnect(self.o.image.name));
        }
        if o.image.image_opts && o.image.format.is_some() {
            return Err("--image-opts and -f are mutually exclusive".into());
        }
        if o.image.image_opts {
            let short = qapi::opts_short_forms(&o.image.name, Some("file"));
            self.o.warnings.extend(short);
        }
        // Whoever connects a device goes on with it.
        self.o.fork |= self.o.device.is_some() && !self.o.verbose;
        Ok(Wanted::Serve(Box::new(self.o)))
    }
}

/// The argument of `-l`.
fn snapshot(text: String) -> Result<(Option<String>, Option<String>), String> {
    if !text.starts_with("snapshot.") {
        return Ok((Some(text.clone()), Some(text)));
    }
    let (mut id, mut name) = (None, None);
    for (key, value) in qapi::opts_parse(&text, None) {
        match key.as_str() {
            "snapshot.id" => id = Some(value),
            "snapshot.name" => name = Some(value),
            other => {
                // Two lines; the second one's beginning is put in where the program's name is known.
                let warnings: String =
                    qapi::opts_short_forms(&text, None).into_iter().map(|w| w + "\0").collect();
                return Err(format!(
                    "{warnings}Invalid parameter '{other}'\0Failed in parsing snapshot param `{text}'"
                ));
            }
        }
    }
    Ok((id, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let given: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        match parse("qemu-nbd", &given) {
            Ok(_) => String::new(),
            Err(Bad(text)) => text.trim_end().trim_start_matches("qemu-nbd: ").to_owned(),
        }
    }

    fn served(text: &str) -> Options {
        let given: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        match parse("qemu-nbd", &given) {
            Ok(Wanted::Serve(o)) => *o,
            _ => panic!("{text}: {}", error(text)),
        }
    }

    #[test]
    fn messages() {
        let more = "\nTry `qemu-nbd --help' for more information.";
        for (args, want) in [
            ("", format!("Invalid number of arguments{more}")),
            ("a b", format!("Invalid number of arguments{more}")),
            (
                "-x",
                "option requires an argument -- 'x'\nqemu-nbd: Try `qemu-nbd --help' for more information."
                    .into(),
            ),
            ("-k rel a", "socket path must be absolute".into()),
            ("--cache=foo a", "Invalid cache mode `foo'".into()),
            ("--aio=foo a", "Invalid aio mode 'foo'".into()),
            ("--aio=native --aio=native a", "--aio can only be specified once".into()),
            ("-n --cache=none a", "-n and --cache can only be specified once".into()),
            ("--discard=foo a", "Invalid discard mode `foo'".into()),
            (
                "--detect-zeroes=foo a",
                "Failed to parse detect_zeroes mode: invalid parameter value: foo".into(),
            ),
            (
                "--detect-zeroes=unmap a",
                "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
                    .into(),
            ),
            ("-o foo a", "Invalid offset 'foo'".into()),
            ("-e -1 a", "Invalid shared device number '-1'".into()),
            ("--handshake-limit=x a", "Invalid handshake limit 'x'".into()),
            ("-L a", "List mode is incompatible with a file name".into()),
            ("-L -x a", "List mode is incompatible with per-device settings".into()),
            ("-L --fork", "List mode is incompatible with forking".into()),
            ("--tls-authz=x a", "--tls-authz is not permitted without --tls-creds".into()),
            ("--tls-hostname=x a", "--tls-hostname is not permitted without --tls-creds".into()),
            ("--image-opts -f raw a", "--image-opts and -f are mutually exclusive".into()),
            ("--object foo a", "Parameter 'qom-type' does not accept value 'foo'".into()),
            (
                "-l snapshot.foo= a",
                "Invalid parameter 'snapshot.foo'\nqemu-nbd: Failed in parsing snapshot param `snapshot.foo='".into(),
            ),
        ] {
            assert_eq!(error(args), want, "{args}");
        }
        assert_eq!(
            error(&format!("-x {} a", "x".repeat(5000))),
            format!("export name '{}' too long", "x".repeat(5000))
        );
    }

    #[test]
    fn what_is_served() {
        let o =
            served("-t -e 0 -x n -D d -A -B b -o 0x200 --cache=writethrough --discard=unmap -f qcow2 img");
        assert_eq!((o.persistent, o.shared, o.name.as_str(), o.depth), (true, 0, "n", true));
        assert_eq!((o.image.offset, o.image.unmap, o.image.cache.write_through), (Some(512), true, true));
        assert_eq!((o.shared, served("img").shared, served("img").handshake), (0, 1, 10));
        assert!(served("-c /dev/nbd0 img").fork && !served("-v -c /dev/nbd0 img").fork);
        assert!(served("-v -c /dev/nbd0 --fork img").fork && !served("img").fork);
        let o = served("-l snapshot.id=1,snapshot.name=x img");
        assert_eq!(o.image.snapshot, Some((Some("1".into()), Some("x".into()))));
        assert!(o.image.read_only);
        for (_, rows) in GROUPS {
            for (_, long, ..) in *rows {
                assert!(help("p").contains(&format!("--{long}")));
            }
        }
    }
}
