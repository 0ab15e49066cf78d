//! A bare machine around one hart, and the other emulator.

use isa_riscv::{Clock, Exit, Ext, Hart, HartOptions, HartPins};
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
        .args(["-cpu", "rv64,h=false,v=false,sv57=false"])
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
