//! Character devices: what serial ports, consoles and monitors are connected to.

use qapi::Qapi;

use crate::sockets::SocketAddressLegacy;

/// Options of every character device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ChardevCommon {
    /// A file into which everything that the guest writes is copied.
    pub logfile: Option<String>,
    /// Append to `logfile` instead of starting it anew. Off unless given.
    pub logappend: Option<bool>,
}

/// A file: output goes to it, and input may come from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ChardevFile {
    /// Options of every character device.
    #[qapi(flatten)]
    pub common: ChardevCommon,
    /// The file that is read; none unless given.
    pub r#in: Option<String>,
    /// The file that is written.
    pub out: String,
    /// Append to `out` instead of starting it anew. Off unless given.
    pub append: Option<bool>,
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct ChardevSocket {
    /// Options of every character device.
    #[qapi(flatten)]
    pub common: ChardevCommon,
    /// Where to listen or to connect to.
    pub addr: SocketAddressLegacy,
    /// The id of the TLS credentials to use; no TLS unless given.
    pub tls_creds: Option<String>,
    /// The id of the object that decides which TLS clients may connect.
    pub tls_authz: Option<String>,
    /// Listen instead of connecting. On unless given.
    pub server: Option<bool>,
    /// When listening: wait for a client before going on. Off unless given.
    pub wait: Option<bool>,
    /// Send small packets at once (TCP_NODELAY). Off unless given.
    pub nodelay: Option<bool>,
    /// Speak telnet when listening. Off unless given.
    pub telnet: Option<bool>,
    /// Speak TN3270 when listening. Off unless given.
    pub tn3270: Option<bool>,
    /// Speak websocket when listening. Off unless given.
    pub websocket: Option<bool>,
    /// Seconds after which a lost connection is tried again; 0 for never. Use `reconnect-ms`.
    #[qapi(deprecated)]
    pub reconnect: Option<i64>,
    /// Milliseconds after which a lost connection is tried again; 0, the default, for never.
    pub reconnect_ms: Option<i64>,
}

/// Standard input and output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ChardevStdio {
    /// Options of every character device.
    #[qapi(flatten)]
    pub common: ChardevCommon,
    /// Whether control characters such as Ctrl-C act on this program rather than go to the guest. On unless given.
    pub signal: Option<bool>,
}

/// A pseudo terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ChardevPty {
    /// Options of every character device.
    #[qapi(flatten)]
    pub common: ChardevCommon,
    /// A path at which a link to its other side is made.
    pub path: Option<String>,
}

/// A ring buffer in memory that holds the last output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ChardevRingbuf {
    /// Options of every character device.
    #[qapi(flatten)]
    pub common: ChardevCommon,
    /// Bytes that it holds: a power of two; 65536 unless given.
    pub size: Option<i64>,
}

/// A multiplexer that gives several users one character device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ChardevMux {
    /// Options of every character device.
    #[qapi(flatten)]
    pub common: ChardevCommon,
    /// The id of the device that is shared.
    pub chardev: String,
}

/// What a character device is connected to; on the wire the branch's members stand in `data`.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "type", tag_enum = "ChardevBackendKind", wrap = "data")]
pub enum ChardevBackend {
    /// Files.
    File(ChardevFile),
    /// A socket.
    Socket(ChardevSocket),
    /// A pseudo terminal.
    Pty(ChardevPty),
    /// Nothing: output vanishes.
    Null(ChardevCommon),
    /// Another character device, shared.
    Mux(ChardevMux),
    /// Standard input and output.
    Stdio(ChardevStdio),
    /// A ring buffer in memory.
    Ringbuf(ChardevRingbuf),
}

/// A character device to be made.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct ChardevOptions {
    /// Its id.
    pub id: String,
    /// What it is connected to.
    pub backend: ChardevBackend,
}

/// What became of a new character device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ChardevReturn {
    /// For a pseudo terminal: the path of its other side.
    pub pty: Option<String>,
}

/// A guest opened or closed a port of its console device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "VSERPORT_CHANGE")]
pub struct VserportChangeEvent {
    /// The port's id.
    pub id: String,
    /// Whether it is open now.
    pub open: bool,
}
