//! The riscv64 `virt` board: harts, interrupt controllers, a serial port, a clock, flash, virtio transports.

mod flash_store;
mod images;
pub mod map;
mod sbi;
mod tree;

use crate::config::{Bios, MachineConfig};
use crate::requests::Requests;
use crate::roms::Roms;
use crate::runstate::{PanicAction, RunState, ShutdownCause};
use block::BlockGraph;
use device::{ClockSource, Device, DeviceTree, IrqLine, IrqSink, TimerService};
use firmware::fw_cfg::{FwCfg, Items, spec::key};
use firmware::sbi::Sbi;
use flash_store::RootStore;
use images::{Boot, Images};
use jit::Jit;
use mem::{AddressSpace, Dma, Memory, Mmio};
use misc::flash::FlashStore;
use misc::{Aclint, AclintLines, CfiFlash, Finish, GoldfishRtc, Plic, TestFinisher, aclint};
use parking_lot::Mutex;
use qapi::{QError, qerr};
use sbi::{Handler, VirtSbi};
use serial::{Uart16550, UartConfig};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};
use tree::TreeConfig;
use vcpu::{CpuClock, CpuSet, HartConfig, HartPins, SbiHandler, TIMEBASE_HZ};
use virtio::VirtioMmio;

/// A board that was built.
pub(crate) struct Board {
    pub(crate) space: Arc<AddressSpace>,
    pub(crate) cpus: Arc<CpuSet>,
    /// Makes native code for the harts, where that is done.
    pub(crate) jit: Option<Arc<Jit>>,
    /// The board's own devices, in the order in which they are reset.
    pub(crate) chips: Vec<Arc<dyn Device>>,
    roms: Roms,
    images: Mutex<Images>,
}

/// What a board is built with, beside its configuration.
pub(crate) struct BoardEnv<'a> {
    pub(crate) clock: &'a Arc<CpuClock>,
    pub(crate) timers: &'a TimerService,
    pub(crate) requests: &'a Arc<Requests>,
    pub(crate) tree: &'a DeviceTree,
    pub(crate) graph: Option<&'a Arc<BlockGraph>>,
    pub(crate) io: rt::Handle,
}

/// Guest time as devices see it.
pub(crate) struct GuestClock(pub(crate) Arc<CpuClock>);

impl ClockSource for GuestClock {
    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }

    fn is_running(&self) -> bool {
        self.0.is_running()
    }
}

/// A hart's interrupt inputs as the end of wires, by their numbers in `mip`.
struct Pins(Arc<HartPins>);

impl IrqSink for Pins {
    fn set_irq(&self, n: u32, level: bool) {
        self.0.set(n, level);
    }
}

/// The device tree that the board has with this configuration, as its blob.
fn own_tree(cfg: &MachineConfig) -> firmware::fdt::Node {
    tree::build(&TreeConfig {
        harts: cfg.cpus,
        ext: cfg.ext,
        ram: cfg.ram,
        aclint: cfg.options.aclint,
        model: "riscv-virtio,qemu",
        compatible: cfg.options.dt_compatible.as_deref().unwrap_or("riscv-virtio"),
    })
}

fn mapped<T>(what: &str, r: Result<T, mem::MapError>) -> Result<T, QError> {
    r.map_err(|e| qerr!("cannot map {what}: {e}"))
}

impl Board {
    /// Builds the board; harts stand still.
    pub(crate) async fn build(cfg: &MachineConfig, env: BoardEnv<'_>) -> Result<Board, QError> {
        // What can fail on the user's side comes first.
        let images = Images::load(cfg, own_tree(cfg))?;
        let space = AddressSpace::new("memory");
        let ram = Memory::ram("riscv_virt_board.ram", cfg.ram)
            .map_err(|e| qerr!("cannot set up guest memory 'riscv_virt_board.ram': {e}"))?;
        mapped("RAM", space.map_ram(map::DRAM, ram, 0, cfg.ram, false, 0, "riscv_virt_board.ram"))?;
        let rom = Memory::buffer(map::MROM.len as usize, 4096);
        mapped(
            "the reset vector",
            space.map_ram(map::MROM.base, rom, 0, map::MROM.len, true, 0, "riscv_virt_board.mrom"),
        )?;
        let dma = Dma::new(space.clone());

        let sbi = (cfg.bios == Bios::BuiltIn).then(|| {
            Arc::new(VirtSbi {
                harts: cfg.cpus,
                dma: dma.clone(),
                requests: env.requests.clone(),
                cpus: OnceLock::new(),
                uart: OnceLock::new(),
            })
        });
        let handler = sbi.clone().map(|s| Arc::new(Handler(Sbi::new(s))) as Arc<dyn SbiHandler>);
        let jit = cfg.translation.map(Jit::new).transpose().map_err(QError::new)?.flatten();
        let hart = |id| HartConfig {
            id,
            ext: cfg.ext,
            sbi: handler.clone(),
            reset_pc: map::MROM.base,
            mem: space.clone(),
            clock: env.clock.clone(),
            engine: jit.clone().map(|j| j as Arc<dyn vcpu::Engine>),
        };
        let cpus = CpuSet::new((0..cfg.cpus).map(hart).collect())
            .map_err(|e| qerr!("cannot start vCPU threads: {e}"))?;

        let mut b = Builder { space: &space, cpus: &cpus, env: &env, chips: Vec::new() };
        let plic = b.interrupts(cfg)?;
        let uart = b.devices(cfg, &plic)?;
        b.transports(cfg, &plic, &dma)?;
        b.flash(cfg).await?;
        b.fw_cfg(cfg, &dma)?;
        let chips = b.chips;
        if let Some(s) = sbi {
            let _ = s.cpus.set(Arc::downgrade(&cpus));
            let _ = s.uart.set(uart);
        }
        let mut roms = Roms::default();
        roms.add(images.segments.iter().cloned());
        Ok(Board { space, cpus, jit, chips, roms, images: Mutex::new(images) })
    }

    /// Puts the images into memory and lets the harts begin at the beginning once they run. They are paused.
    pub(crate) fn boot(&self) -> Result<(), QError> {
        let (dtb, boot, dtb_at) = {
            let mut i = self.images.lock();
            (i.dtb(), i.boot, i.dtb_at)
        };
        self.roms.load(&self.space).map_err(|e| qerr!("cannot load the images: {e}"))?;
        self.space.write_rom(dtb.addr, &dtb.data).map_err(|e| qerr!("cannot load the device tree: {e}"))?;
        if let Boot::Supervisor(entry) = boot {
            let started = self.cpus.start_hart(0, entry, 0, dtb_at, vcpu::Mode::S);
            started.map_err(|e| qerr!("cannot start hart 0: {e}"))?;
        }
        Ok(())
    }

    /// The device tree's blob.
    pub(crate) fn dtb(&self) -> Vec<u8> {
        self.images.lock().dtb().data.to_vec()
    }
}

struct Builder<'a> {
    space: &'a Arc<AddressSpace>,
    cpus: &'a Arc<CpuSet>,
    env: &'a BoardEnv<'a>,
    chips: Vec<Arc<dyn Device>>,
}

impl Builder<'_> {
    fn io(&self, base: u64, len: u64, dev: Arc<dyn Mmio>) -> Result<(), QError> {
        let name = dev.name().to_owned();
        mapped(&name, self.space.map_io(base, len, dev, 0)).map(drop)
    }

    fn pin(&self, hart: u32, bit: u32) -> IrqLine {
        IrqLine::new(Arc::new(Pins(self.cpus.pins(hart))), bit)
    }

    fn interrupts(&mut self, cfg: &MachineConfig) -> Result<Arc<Plic>, QError> {
        let lines = |h| AclintLines { msip: self.pin(h, 3), mtip: self.pin(h, 7), ssip: self.pin(h, 1) };
        let clint = Aclint::new((0..cfg.cpus).map(lines).collect(), TIMEBASE_HZ, self.env.timers);
        self.io(map::CLINT.base, aclint::spec::SWI_LEN, clint.mswi())?;
        self.io(map::CLINT.base + aclint::spec::MTIMER, aclint::spec::MTIMER_LEN, clint.mtimer())?;
        if cfg.options.aclint {
            self.io(map::SSWI.base, map::SSWI.len, clint.sswi())?;
        }
        // Contexts are M and S of each hart, in turn.
        let outputs = (0..cfg.cpus).flat_map(|h| [self.pin(h, 11), self.pin(h, 9)]).collect();
        let plic = Plic::new("riscv.sifive.plic", map::IRQ_SOURCES, outputs);
        self.io(map::PLIC.base, map::PLIC.len, plic.clone())?;
        self.chips.push(clint);
        self.chips.push(plic.clone());
        Ok(plic)
    }

    fn devices(&mut self, cfg: &MachineConfig, plic: &Arc<Plic>) -> Result<Arc<Uart16550>, QError> {
        let irq = |n| IrqLine::new(plic.clone(), n);
        if cfg.serials.len() > 1 {
            return Err(qerr!("the machine has one serial port, but {} were given", cfg.serials.len()));
        }
        let uart = UartConfig {
            name: "serial".into(),
            clock_hz: map::UART_CLOCK,
            irq: irq(map::IRQ_UART),
            chardev: cfg.serials.first().cloned(),
        };
        let uart = Uart16550::new(uart, self.env.timers)?;
        self.io(map::UART.base, 8, uart.clone())?;
        let wall = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let rtc = GoldfishRtc::new(irq(map::IRQ_RTC), self.env.timers, Arc::new(wall));
        self.io(map::RTC.base, misc::rtc::spec::LEN, rtc.clone())?;
        let (requests, panic) = (self.env.requests.clone(), cfg.actions.panic);
        let test = TestFinisher::new(Arc::new(move |f| finish(&requests, panic, f)));
        self.io(map::TEST.base, map::TEST.len, test.clone())?;
        self.chips.extend([uart.clone() as Arc<dyn Device>, rtc, test]);
        Ok(uart)
    }

    fn transports(&mut self, cfg: &MachineConfig, plic: &Arc<Plic>, dma: &Dma) -> Result<(), QError> {
        // A user's first device goes on the last transport.
        for n in (0..map::VIRTIO_COUNT).rev() {
            let irq = IrqLine::new(plic.clone(), map::IRQ_VIRTIO + n);
            let t = VirtioMmio::new(n as usize, irq, dma.clone(), cfg.legacy_virtio);
            self.io(map::virtio(n).base, virtio::MMIO_SIZE, t.clone())?;
            self.env.tree.add_bus(t.clone());
            self.chips.push(t);
        }
        Ok(())
    }

    async fn flash(&mut self, cfg: &MachineConfig) -> Result<(), QError> {
        for (n, drive) in cfg.options.pflash.iter().enumerate() {
            let (n, name) = (n as u32, format!("virt.flash{n}"));
            let mem = Memory::ram(&name, map::FLASH.len).map_err(|e| qerr!("cannot set up '{name}': {e}"))?;
            let store: Option<Arc<dyn FlashStore>> = match drive {
                Some(d) => Some(Arc::new(
                    RootStore::open(&name, d, self.env.graph, &mem, self.env.io.clone()).await?,
                )),
                None => None,
            };
            let flash = CfiFlash::new(&name, mem, map::FLASH_BLOCK, store);
            mapped(&name, flash.map(self.space, map::flash(n).base, 0))?;
            self.chips.push(flash);
        }
        Ok(())
    }

    fn fw_cfg(&mut self, cfg: &MachineConfig, dma: &Dma) -> Result<(), QError> {
        let cpus = cfg.cpus as u16;
        let mut items = Items::new(cpus, cpus, cfg.ram);
        items.set(key::UUID, cfg.uuid.0);
        if cfg.options.pflash[0].is_some() {
            // A firmware in flash finds the kernel here.
            let o = &cfg.options;
            for (path, size, data) in [
                (cfg.kernel.as_ref().or(o.kernel.as_ref()), key::KERNEL_SIZE, key::KERNEL_DATA),
                (cfg.initrd.as_ref().or(o.initrd.as_ref()), key::INITRD_SIZE, key::INITRD_DATA),
            ] {
                if let Some(p) = path {
                    items.set_sized(size, data, firmware::load::read_file(p, "could not load")?.into());
                }
            }
            if let Some(a) = cfg.append.as_ref().or(o.append.as_ref()) {
                let text: Vec<u8> = a.bytes().chain([0]).collect();
                items.set_sized(key::CMDLINE_SIZE, key::CMDLINE_DATA, text.into());
            }
        }
        for (name, data) in &cfg.fw_cfg {
            items.add_file(name, data.clone())?;
        }
        let fw_cfg = FwCfg::new(items, dma.clone());
        self.io(map::FW_CFG.base, map::FW_CFG.len, fw_cfg.clone())?;
        self.chips.push(fw_cfg);
        Ok(())
    }
}

fn finish(requests: &Requests, panic: PanicAction, f: Finish) {
    match (f, panic) {
        (Finish::Pass, _) => requests.shutdown(ShutdownCause::GuestShutdown, 0),
        (Finish::Reset, _) => requests.reset(ShutdownCause::GuestReset),
        (Finish::Fail(_), PanicAction::None) => {}
        (Finish::Fail(_), PanicAction::Pause) => requests.stop(RunState::GuestPanicked),
        (Finish::Fail(code), _) => requests.shutdown(ShutdownCause::GuestPanic, code.into()),
    }
}
