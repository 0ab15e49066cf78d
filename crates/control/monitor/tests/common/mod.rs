//! A monitor with a few commands, and clients over real sockets that wait with a limit.

use io::Listener;
use monitor::{CommandTable, EventBus, HmpArgs, HmpTable, Monitor, QmpOptions};
use qapi::{Qapi, qerr};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Waits until the gate is open.
#[derive(Debug, Qapi)]
#[qapi(command = "wait-gate", ret = ())]
pub struct WaitGate {}

/// Blocks the control executor's whole thread until the gate is open.
#[derive(Debug, Qapi)]
#[qapi(command = "block-thread", ret = ())]
pub struct BlockThread {}

/// Opens the gate.
#[derive(Debug, Qapi)]
#[qapi(command = "open-gate", ret = (), allow_oob)]
pub struct OpenGate {}

/// Gives a number back.
#[derive(Debug, Qapi)]
#[qapi(command = "echo", ret = Number)]
pub struct Echo {
    /// The number.
    pub n: i64,
    /// Wanted trouble.
    pub fail: Option<bool>,
}

/// Panics.
#[derive(Debug, Qapi)]
#[qapi(command = "panic", ret = ())]
pub struct Panic {}

/// Panics, out of band.
#[derive(Debug, Qapi)]
#[qapi(command = "panic-oob", ret = (), allow_oob)]
pub struct PanicOob {}

/// Emits events.
#[derive(Debug, Qapi)]
#[qapi(command = "emit", ret = ())]
pub struct Emit {
    /// How many.
    pub count: u32,
}

/// Sets something going that emits an event at once.
#[derive(Debug, Qapi)]
#[qapi(command = "set-going", ret = ())]
pub struct SetGoing {
    /// The event's number.
    pub n: u32,
}

/// Emits an event and lets no further command begin, once it is answered.
#[derive(Debug, Qapi)]
#[qapi(command = "leave", ret = ())]
pub struct Leave {
    /// The event's number.
    pub n: u32,
}

/// A number.
#[derive(Debug, Qapi)]
pub struct Number {
    /// It.
    pub n: i64,
}

/// An event with data.
#[derive(Debug, Qapi)]
#[qapi(event = "TICK")]
pub struct Tick {
    /// Which.
    pub n: u32,
    /// Ballast.
    pub text: String,
}

/// An event without data.
#[derive(Debug, Qapi)]
#[qapi(event = "PLAIN")]
pub struct Plain {}

pub struct Rig {
    pub monitor: Arc<Monitor>,
    pub bus: EventBus,
    pub gate: Arc<AtomicBool>,
    pub waits_done: Arc<AtomicU32>,
    pub path: PathBuf,
    pub tcp: u16,
    pub control: rt::IoThread,
}

pub fn rig(name: &str) -> Rig {
    rig_with(name, QmpOptions::default())
}

pub fn rig_with(name: &str, options: QmpOptions) -> Rig {
    let bus = EventBus::new();
    let gate = Arc::new(AtomicBool::new(false));
    let waits_done = Arc::new(AtomicU32::new(0));
    let mut t = CommandTable::new();
    let (g, done) = (gate.clone(), waits_done.clone());
    t.register(move |_: WaitGate| {
        let (g, done) = (g.clone(), done.clone());
        async move {
            while !g.load(Ordering::SeqCst) {
                rt::sleep(Duration::from_millis(2)).await;
            }
            done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let g = gate.clone();
    t.register(move |_: BlockThread| {
        while !g.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        async { Ok(()) }
    });
    let g = gate.clone();
    t.register_oob(move |_: OpenGate| {
        g.store(true, Ordering::SeqCst);
        Ok(())
    });
    t.register(|e: Echo| async move {
        if e.fail == Some(true) { Err(qerr!("echo failed")) } else { Ok(Number { n: e.n }) }
    });
    t.register(|_: Panic| async { panic!("wanted by the test") });
    t.register_oob(|_: PanicOob| panic!("wanted by the test"));
    let b = bus.clone();
    t.register(move |e: Emit| {
        let b = b.clone();
        async move {
            for n in 0..e.count {
                b.emit(Tick { n, text: "x".repeat(100) });
            }
            Ok(())
        }
    });
    let b = bus.clone();
    t.register(move |s: SetGoing| {
        let b = b.clone();
        drop(rt::spawn_local(async move { b.emit(Tick { n: s.n, text: String::new() }) }));
        async { Ok(()) }
    });
    let (b, this) = (bus.clone(), Arc::new(std::sync::OnceLock::<std::sync::Weak<Monitor>>::new()));
    let left = this.clone();
    t.register_request(move |l: Leave| {
        left.get().and_then(std::sync::Weak::upgrade).unwrap().stop_commands();
        b.emit(Tick { n: l.n, text: String::new() });
    });
    t.event::<Tick>();
    t.event::<Plain>();
    let mut hmp = HmpTable::new();
    hmp.register("say|y", "[-u] word", "say a word", |a: HmpArgs| async move {
        let w = a.str("word").to_owned();
        if a.flag('u') { w.to_uppercase() + "\n" } else { w + "\n" }
    });
    let control = rt::IoThread::spawn("control").unwrap();
    let monitor = Arc::new(Monitor::new(t, hmp, bus.clone(), control.handle()).unwrap());
    this.set(Arc::downgrade(&monitor)).unwrap();
    let path = std::env::temp_dir().join(format!("rhea-mon-{}-{name}.sock", std::process::id()));
    let unix = Listener::unix(&path).unwrap();
    let tcp = rt::block_on(Listener::tcp("127.0.0.1", 0)).unwrap();
    let io::Addr::Inet(at) = tcp.addr().clone() else { unreachable!() };
    monitor.serve_qmp(Arc::new(unix), options);
    monitor.serve_qmp(Arc::new(tcp), options);
    Rig { monitor, bus, gate, waits_done, path, tcp: at.port, control }
}

pub struct Client<S> {
    pub reader: BufReader<S>,
    pub writer: S,
}

pub const CAPS: &str = r#"{"execute":"qmp_capabilities"}"#;
pub const CAPS_OOB: &str = r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#;

impl Rig {
    pub fn raw(&self) -> Client<UnixStream> {
        let s = UnixStream::connect(&self.path).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        s.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        Client { reader: BufReader::new(s.try_clone().unwrap()), writer: s }
    }

    /// A client that has read the greeting.
    pub fn greeted(&self) -> Client<UnixStream> {
        let mut c = self.raw();
        c.line();
        c
    }

    /// A client that has negotiated.
    pub fn client(&self, caps: &str) -> Client<UnixStream> {
        let mut c = self.greeted();
        assert_eq!(c.ask(caps), r#"{"return": {}}"#);
        c
    }
}

impl<S: Read + Write> Client<S> {
    pub fn send(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).unwrap();
    }

    /// The next line without its end, which must be CRLF.
    pub fn line(&mut self) -> String {
        let mut s = String::new();
        self.reader.read_line(&mut s).unwrap();
        s.strip_suffix("\r\n").unwrap_or_else(|| panic!("no CRLF: {s:?}")).to_owned()
    }

    pub fn ask(&mut self, text: &str) -> String {
        self.send(text);
        self.line()
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> String {
        let mut s = Vec::new();
        let _ = self.reader.read_to_end(&mut s);
        String::from_utf8(s).unwrap()
    }
}
