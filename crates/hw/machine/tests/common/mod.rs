//! Small guests and a console for tests of whole machines.

#![allow(dead_code)] // Each test file uses a part.

use device::{CharBackend, CharFrontend, Registry};
use machine::{Bios, Machine, MachineConfig, MachineEnv, MachineOptions};
use monitor::EventBus;
use parking_lot::Mutex;
use qapi::{QError, QapiEnum, Value};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A serial line that keeps what comes out.
#[derive(Default)]
pub struct Console {
    out: Mutex<Vec<u8>>,
    front: Mutex<Option<Arc<dyn CharFrontend>>>,
}

impl Console {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out.lock()).into_owned()
    }

    pub fn send(&self, bytes: &[u8]) {
        let front = self.front.lock().clone().expect("a front end");
        front.receive(bytes);
    }
}

impl CharBackend for Console {
    fn id(&self) -> &str {
        "console"
    }
    fn attach(&self, front: Arc<dyn CharFrontend>) -> Result<(), QError> {
        *self.front.lock() = Some(front);
        Ok(())
    }
    fn detach(&self) {
        *self.front.lock() = None;
    }
    fn write(&self, bytes: &[u8]) -> usize {
        self.out.lock().extend(bytes);
        bytes.len()
    }
    fn accept_input(&self) {}
    fn on_writable(&self, _f: Arc<dyn Fn() + Send + Sync>) {}
}

/// A file that is removed at the end.
pub struct TempFile(pub PathBuf);

impl TempFile {
    pub fn new(bytes: &[u8]) -> TempFile {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rhea-machine-{}-{n}", std::process::id()));
        std::fs::write(&path, bytes).expect("a temporary file");
        TempFile(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub const ZERO: u32 = 0;
pub const T0: u32 = 5;
pub const T1: u32 = 6;
pub const A0: u32 = 10;
pub const A1: u32 = 11;
pub const A2: u32 = 12;
pub const A6: u32 = 16;
pub const A7: u32 = 17;

/// Instructions of a guest, as an assembler would give them.
#[derive(Default)]
pub struct Asm(pub Vec<u32>);

impl Asm {
    /// `li rd, v` for any 32-bit value, zero-extended: `lui`, `addiw`, `slli`, `srli`.
    pub fn li(mut self, rd: u32, v: u32) -> Asm {
        let low = v & 0xfff;
        let high = v.wrapping_add(0x800) & 0xffff_f000;
        self.0.push(high | rd << 7 | 0x37);
        self.0.push(low << 20 | rd << 15 | rd << 7 | 0x1b);
        self.0.push(32 << 20 | rd << 15 | 1 << 12 | rd << 7 | 0x13);
        self.0.push(32 << 20 | rd << 15 | 5 << 12 | rd << 7 | 0x13);
        self
    }

    /// `addi rd, rs, v`.
    pub fn addi(mut self, rd: u32, rs: u32, v: i32) -> Asm {
        self.0.push((v as u32) << 20 | rs << 15 | rd << 7 | 0x13);
        self
    }

    /// `sw rs, 0(base)`.
    pub fn sw(mut self, rs: u32, base: u32) -> Asm {
        self.0.push(rs << 20 | base << 15 | 2 << 12 | 0x23);
        self
    }

    /// `sb rs, 0(base)`.
    pub fn sb(mut self, rs: u32, base: u32) -> Asm {
        self.0.push(rs << 20 | base << 15 | 0x23);
        self
    }

    /// `lw rd, 0(base)`.
    pub fn lw(mut self, rd: u32, base: u32) -> Asm {
        self.0.push(base << 15 | 2 << 12 | rd << 7 | 0x03);
        self
    }

    /// `li t0, at; li t1, v; sw t1, 0(t0)`.
    pub fn poke(self, at: u32, v: u32) -> Asm {
        self.li(T0, at).li(T1, v).sw(T1, T0)
    }

    /// `ecall`.
    pub fn ecall(mut self) -> Asm {
        self.0.push(0x73);
        self
    }

    /// `j .`: the end.
    pub fn hang(mut self) -> Asm {
        self.0.push(0x0000_006f);
        self
    }

    /// `j` back to the instruction `to`.
    pub fn jump_to(mut self, to: usize) -> Asm {
        let off = (to as i32 - self.0.len() as i32) * 4;
        let o = off as u32;
        let imm = (o >> 20 & 1) << 31 | (o >> 1 & 0x3ff) << 21 | (o >> 11 & 1) << 20 | (o >> 12 & 0xff) << 12;
        self.0.push(imm | 0x6f);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|w| w.to_le_bytes()).collect()
    }
}

/// A guest that writes `v` to the test finisher.
pub fn finisher(v: u32) -> Asm {
    Asm::default().poke(0x10_0000, v).hang()
}

/// A guest that counts at `COUNTER` for ever.
pub const COUNTER: u64 = 0x8010_0000;

pub fn counter() -> Asm {
    Asm::default().li(T0, COUNTER as u32).addi(T1, T1, 1).sw(T1, T0).jump_to(4)
}

/// A machine with its console and the file of its kernel.
pub struct Rig {
    pub m: Arc<Machine>,
    pub console: Arc<Console>,
    pub events: EventBus,
    stream: monitor::EventStream,
    _kernel: TempFile,
}

impl Rig {
    /// A `virt` machine with 64 MiB whose kernel is `code`.
    pub async fn new(code: &Asm, bios: Bios, change: impl FnOnce(&mut MachineConfig)) -> Rig {
        let kernel = TempFile::new(&code.bytes());
        let console = Arc::new(Console::default());
        let mut cfg = config();
        cfg.bios = bios;
        cfg.kernel = Some(kernel.0.clone());
        cfg.serials = vec![console.clone()];
        change(&mut cfg);
        let events = EventBus::new();
        let stream = events.listen(1000);
        let m =
            Machine::build(cfg, MachineEnv { events: events.clone(), graph: None }).await.expect("a machine");
        Rig { m, console, events, stream, _kernel: kernel }
    }

    /// The events since the last call: `NAME` or `NAME:reason`.
    pub fn events(&self) -> Vec<String> {
        std::iter::from_fn(|| self.stream.try_next())
            .map(|e| match e.to_value().get("data").and_then(|d| d.get("reason")) {
                Some(Value::Str(r)) => format!("{}:{r}", e.name),
                _ => e.name.to_string(),
            })
            .collect()
    }

    pub fn state(&self) -> &'static str {
        self.m.run_state().as_str()
    }

    pub fn peek(&self, at: u64) -> u32 {
        let mut b = [0; 4];
        self.m.memory().unwrap().read(at, &mut b).unwrap();
        u32::from_le_bytes(b)
    }

    /// Waits until `f` holds, ten seconds at most.
    pub async fn until(&self, what: &str, f: impl Fn(&Rig) -> bool) {
        for _ in 0..2000 {
            if f(self) {
                return;
            }
            rt::sleep(Duration::from_millis(5)).await;
        }
        panic!("{what} did not come; console: {}", self.console.text());
    }

    /// Waits for the end and returns the exit code.
    pub async fn end(&self) -> i32 {
        let code = rt::timeout(Duration::from_secs(10), self.m.wait_exit()).await.expect("the machine's end");
        self.m.close().await;
        code
    }
}

pub fn config() -> MachineConfig {
    let mut o = MachineOptions::default();
    o.add("virt").unwrap();
    let mut cfg = MachineConfig::new(o);
    cfg.ram = 64 << 20;
    cfg.registry = Registry::new(virtio::DEVICES.iter().copied());
    cfg
}

/// Builds a machine that cannot be; the error.
pub fn build_error(cfg: MachineConfig) -> String {
    rt::block_on(async {
        let built = Machine::build(cfg, MachineEnv { events: EventBus::new(), graph: None }).await;
        built.err().expect("an error").desc().to_owned()
    })
}
