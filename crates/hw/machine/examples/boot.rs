//! Boots a kernel on the riscv64 `virt` board with its serial port on standard output:
//! `boot [-smp N] [-m SIZE] [-bios FILE|none] [-kernel FILE] [-initrd FILE] [-append TEXT]`.
//! For work on boards without the rest of the program.

use device::{CharBackend, CharFrontend};
use machine::{Bios, Machine, MachineConfig, MachineEnv, MachineOptions, options};
use monitor::EventBus;
use qapi::QError;
use std::io::Write;
use std::sync::Arc;

/// Standard output; nothing comes in.
struct Stdout;

impl CharBackend for Stdout {
    fn id(&self) -> &str {
        "stdout"
    }
    fn attach(&self, _front: Arc<dyn CharFrontend>) -> Result<(), QError> {
        Ok(())
    }
    fn detach(&self) {}
    fn write(&self, bytes: &[u8]) -> usize {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
        bytes.len()
    }
    fn accept_input(&self) {}
    fn on_writable(&self, _f: Arc<dyn Fn() + Send + Sync>) {}
}

fn config() -> Result<MachineConfig, QError> {
    let mut o = MachineOptions::default();
    o.add("virt")?;
    let mut cfg = MachineConfig::new(o);
    cfg.serials = vec![Arc::new(Stdout)];
    let mut args = std::env::args().skip(1);
    while let (Some(name), Some(value)) = (args.next(), args.next()) {
        match &*name {
            "-machine" => cfg.options.add(&value)?,
            "-smp" => cfg.cpus = options::parse_smp(&value, cfg.options.kind)?,
            "-m" => cfg.ram = options::parse_memory(&value)?,
            "-bios" if value == "none" => cfg.bios = Bios::None,
            "-bios" => cfg.bios = Bios::File(value.into()),
            "-kernel" => cfg.kernel = Some(value.into()),
            "-initrd" => cfg.initrd = Some(value.into()),
            "-append" => cfg.append = Some(value),
            "-dtb" => cfg.dtb = Some(value.into()),
            _ => return Err(QError::new(format!("unknown option {name}"))),
        }
    }
    Ok(cfg)
}

async fn run() -> Result<i32, QError> {
    let cfg = config()?;
    let dump = cfg.options.dumpdtb.clone();
    let m = Machine::build(cfg, MachineEnv { events: EventBus::new(), graph: None }).await?;
    if let Some(path) = dump {
        m.dump_dtb(&path)?;
        return Ok(0);
    }
    m.start().await?;
    let code = m.wait_exit().await;
    m.close().await;
    Ok(code)
}

fn main() {
    let executor = rt::Executor::new().expect("an executor");
    let code = executor.block_on(run()).unwrap_or_else(|e| {
        eprintln!("boot: {}", e.desc());
        1
    });
    std::process::exit(code);
}
