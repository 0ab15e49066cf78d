//! A bare machine around one hart, and the other emulator.

use isa_riscv::{Clock, CpuState, Exit, Ext, Hart, HartOptions, HartPins};
use mem::{AddressSpace, Memory, Mmio, Size};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub const RAM: u64 = 0x8000_0000;
pub const RAM_SIZE: u64 = 16 << 20;
pub const UART: u64 = 0x1000_0000;
pub const FINISHER: u64 = 0x10_0000;

/// Time that passes by being looked at.
#[derive(Default)]
struct CountingClock(AtomicU64);

impl Clock for CountingClock {
    fn ticks(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

struct Uart(Mutex<Vec<u8>>);

impl Mmio for Uart {
    fn read(&self, off: u64, _: Size) -> u64 {
        if off == 5 { 0x60 } else { 0 }
    }

    fn write(&self, off: u64, value: u64, _: Size) {
        if off == 0 {
            self.0.lock().unwrap().push(value as u8);
        }
    }

    fn name(&self) -> &str {
        "uart"
    }
}

struct Finisher(Arc<HartPins>, Arc<AtomicBool>);

impl Mmio for Finisher {
    fn read(&self, _: u64, _: Size) -> u64 {
        0
    }

    fn write(&self, _: u64, _: u64, _: Size) {
        self.1.store(true, Ordering::Relaxed);
        self.0.kick();
    }

    fn name(&self) -> &str {
        "finisher"
    }
}

/// Runs an image here; what it wrote to the serial port.
pub fn run_here(image: &[u8]) -> Vec<u8> {
    let space = AddressSpace::new("system");
    let ram = Memory::ram("ram", RAM_SIZE).unwrap();
    ram.write(0, image);
    space.map_ram(RAM, ram, 0, RAM_SIZE, false, 0, "ram").unwrap();
    let pins = Arc::new(HartPins::new());
    let done = Arc::new(AtomicBool::new(false));
    let uart = Arc::new(Uart(Mutex::default()));
    space.map_io(UART, 0x100, uart.clone(), 0).unwrap();
    space.map_io(FINISHER, 0x1000, Arc::new(Finisher(pins.clone(), done.clone())), 0).unwrap();
    let opts = HartOptions { id: 0, ext: Ext::ALL, sbi: false, reset_pc: RAM, vendor: [0; 3] };
    let mut hart = Hart::new(opts, space, pins.clone(), Arc::new(CountingClock::default()));
    // A guest that runs wild ends, too.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let (waiting, stop) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn({
        let pins = pins.clone();
        move || {
            while stop
                .recv_timeout(std::time::Duration::from_secs(1))
                .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                pins.kick();
            }
        }
    });
    while !done.load(Ordering::Relaxed) {
        let exit = hart.run();
        pins.flag().take();
        assert!(matches!(exit, Exit::Attention | Exit::Wfi), "{exit:?}");
        assert!(std::time::Instant::now() < end, "runs wild: {:x?}", hart.state());
    }
    drop(waiting);
    let _ = watchdog.join();
    uart.0.lock().unwrap().clone()
}

/// The other emulator's processor with the extensions that there are here.
pub const REFERENCE_CPU: &str = "rv64,h=false,v=false,sv57=false,zicond=on,zcb=on,zimop=on,zcmop=on,zfh=on,\
    zfbfmin=on,svnapot=on,svpbmt=on,zbkb=on,zbkc=on,zbkx=on,zknd=on,zkne=on,zknh=on,zksed=on,zksh=on";

/// Runs an image under the other emulator; `None`, having said why, if it is not installed.
pub fn run_there(image: &[u8], dir: &Path) -> Option<Vec<u8>> {
    let img = dir.join("image.bin");
    let out = dir.join("serial.out");
    std::fs::write(&img, image).unwrap();
    let child = Command::new("qemu-system-riscv64")
        .args([
            "-M",
            "virt",
            "-m",
            "16",
            "-bios",
            "none",
            "-display",
            "none",
            "-monitor",
            "none",
            "-nodefaults",
        ])
        .args(["-cpu", REFERENCE_CPU])
        .arg("-serial")
        .arg(format!("file:{}", out.display()))
        .arg("-device")
        .arg(format!("loader,file={},addr={RAM:#x},force-raw=on", img.display()))
        .stdin(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(c) => c,
        Err(e) => {
            println!("skipped: qemu-system-riscv64: {e}");
            return None;
        }
    };
    for _ in 0..600 {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return Some(std::fs::read(out).unwrap());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("the other emulator did not finish");
}

/// A directory that is removed at the end of a test.
pub struct TempDir(pub std::path::PathBuf);

impl TempDir {
    pub fn new(name: &str) -> TempDir {
        let p = std::env::temp_dir().join(format!("rhea-riscv-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&p).unwrap();
        TempDir(p)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A hart with RAM and a serial port, in M-mode, for a few instructions at a time.
pub struct Bare {
    pub hart: Hart,
    pub pins: Arc<HartPins>,
    pub space: Arc<AddressSpace>,
    stopped: Arc<AtomicBool>,
}

/// `wfi`, then, if that does not wait, a store to address 0, where the finisher is here.
const END: [u32; 3] = [0x1050_0073, 0x0000_3023, 0xff9f_f06f];

impl Bare {
    pub fn new() -> Bare {
        Bare::make(false, Ext::ALL)
    }

    /// With built-in firmware, in S-mode.
    pub fn with_sbi() -> Bare {
        Bare::make(true, Ext::ALL)
    }

    /// With other extensions than all.
    pub fn with(ext: Ext) -> Bare {
        Bare::make(false, ext)
    }

    fn make(sbi: bool, ext: Ext) -> Bare {
        let space = AddressSpace::new("system");
        let ram = Memory::ram("ram", RAM_SIZE).unwrap();
        space.map_ram(RAM, ram, 0, RAM_SIZE, false, 0, "ram").unwrap();
        space.map_io(UART, 0x100, Arc::new(Uart(Mutex::default())), 0).unwrap();
        let pins = Arc::new(HartPins::new());
        let opts = HartOptions { id: 0, ext, sbi, reset_pc: RAM, vendor: [0; 3] };
        let hart = Hart::new(opts, space.clone(), pins.clone(), Arc::new(CountingClock::default()));
        let stopped = Arc::new(AtomicBool::new(false));
        space.map_io(0, 0x1000, Arc::new(Finisher(pins.clone(), stopped.clone())), 0).unwrap();
        let mut t = Bare { hart, pins, space, stopped };
        // Traps end the run.
        let mut s = t.state();
        s.mtvec = RAM + 0x4000;
        t.set_state(&s);
        t.poke(RAM + 0x4000, &END);
        t
    }

    /// Where `run` puts its code.
    pub fn code(&self) -> u64 {
        RAM + 0x1000
    }

    pub fn poke(&mut self, at: u64, code: &[u32]) {
        for (n, w) in code.iter().enumerate() {
            self.space.write(at + 4 * n as u64, &w.to_le_bytes()).unwrap();
        }
        self.hart.fence_i();
    }

    /// Runs the instructions, from the start of the code area, until their end or a trap.
    pub fn run(&mut self, code: &[u32]) -> Exit {
        self.poke(self.code(), code);
        self.poke(self.code() + 4 * code.len() as u64, &END);
        let mut s = self.state();
        s.pc = self.code();
        self.set_state(&s);
        self.go()
    }

    fn go(&mut self) -> Exit {
        loop {
            self.pins.flag().take();
            let exit = self.hart.run();
            if exit != Exit::Attention || self.stopped.swap(false, Ordering::Relaxed) {
                return exit;
            }
        }
    }

    pub fn state(&self) -> CpuState {
        self.hart.state()
    }

    pub fn set_state(&mut self, s: &CpuState) {
        self.hart.set_state(s);
    }

    pub fn clear_trap(&mut self) {
        let mut s = self.state();
        (s.mcause, s.mtval) = (0, 0);
        self.set_state(&s);
    }

    pub fn x(&self, r: usize) -> u64 {
        self.state().x[r]
    }

    pub fn f(&self, r: usize) -> u64 {
        self.state().f[r]
    }

    pub fn set_x(&mut self, r: usize, v: u64) {
        let mut s = self.state();
        s.x[r] = v;
        self.set_state(&s);
    }

    pub fn set_f(&mut self, r: usize, v: u64) {
        let mut s = self.state();
        s.f[r] = v;
        self.set_state(&s);
    }

    pub fn enable_fp(&mut self) {
        let mut s = self.state();
        s.mstatus |= 1 << 13;
        self.set_state(&s);
    }

    /// Lets all modes access everything.
    pub fn open_pmp(&mut self) {
        self.set_x(5, u64::MAX);
        self.set_x(6, 0x1f);
        self.run(&[
            isa_riscv::encode::op("csrrw", 0, 5, 0, 0x3b0),
            isa_riscv::encode::op("csrrw", 0, 6, 0, 0x3a0),
        ]);
    }

    pub fn load(&self, at: u64) -> u64 {
        self.space.load(at, Size::B8).unwrap()
    }

    pub fn store(&self, at: u64, v: u64) {
        self.space.store(at, v, Size::B8).unwrap();
    }
}
