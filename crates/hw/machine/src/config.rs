//! What a machine is to be.

use crate::identity::Uuid;
use crate::options::MachineOptions;
use crate::runstate::Actions;
use device::{CharBackend, Registry};
use jit::JitOptions;
use std::path::PathBuf;
use std::sync::Arc;
use vcpu::Ext;

/// The kinds of machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MachineKind {
    /// Nothing at all: for control programs that want block nodes and monitors only.
    #[default]
    None,
    /// The riscv64 `virt` board.
    Virt,
}

impl MachineKind {
    /// All kinds with their names and descriptions.
    pub const ALL: [(MachineKind, &'static str, &'static str); 2] =
        [(MachineKind::None, "none", "empty machine"), (MachineKind::Virt, "virt", "RISC-V VirtIO board")];

    /// What a drive is for whose options do not say it (`if`).
    pub fn default_interface(self) -> &'static str {
        match self {
            MachineKind::None => "none",
            MachineKind::Virt => "virtio",
        }
    }

    /// The kind's name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|k| k.0 == self).map_or("none", |k| k.1)
    }

    /// Harts at most.
    pub fn max_cpus(self) -> u32 {
        match self {
            MachineKind::None => 1,
            MachineKind::Virt => 64,
        }
    }
}

/// The firmware in M-mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Bios {
    /// None: the machine itself offers the SBI, and the kernel starts in S-mode.
    #[default]
    BuiltIn,
    /// None at all: the kernel starts in M-mode (`-bios none`).
    None,
    /// A file, such as OpenSBI's `fw_dynamic.bin`.
    File(PathBuf),
}

/// What a machine is built from. Paths are opened while it is built.
#[derive(Clone)]
pub struct MachineConfig {
    /// The kind and its properties.
    pub options: MachineOptions,
    /// The harts' extensions.
    pub ext: Ext,
    /// How many harts.
    pub cpus: u32,
    /// How guest code is translated to the host's; `None`: all of it is interpreted.
    pub translation: Option<JitOptions>,
    /// RAM in bytes.
    pub ram: u64,
    /// The firmware.
    pub bios: Bios,
    /// The kernel.
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub append: Option<String>,
    /// A device tree in place of the board's own.
    pub dtb: Option<PathBuf>,
    /// The serial ports' back ends.
    pub serials: Vec<Arc<dyn CharBackend>>,
    /// What the user calls it.
    pub name: Option<String>,
    /// Its UUID, which the guest finds in the firmware configuration device.
    pub uuid: Uuid,
    /// Files of the firmware configuration device.
    pub fw_cfg: Vec<(String, Vec<u8>)>,
    /// What happens on the guest's requests.
    pub actions: Actions,
    /// Whether virtio transports have register layout 1 (`force-legacy`).
    pub legacy_virtio: bool,
    /// The device types that can be plugged.
    pub registry: Registry,
}

impl MachineConfig {
    /// A machine with one hart and 128 MiB, and nothing to run.
    pub fn new(options: MachineOptions) -> MachineConfig {
        MachineConfig {
            options,
            ext: Ext::RV64,
            cpus: 1,
            translation: Some(JitOptions::default()),
            ram: 128 << 20,
            bios: Bios::BuiltIn,
            kernel: None,
            initrd: None,
            append: None,
            dtb: None,
            serials: Vec::new(),
            name: None,
            uuid: Uuid::default(),
            fw_cfg: Vec::new(),
            actions: Actions::default(),
            legacy_virtio: true,
            registry: Registry::default(),
        }
    }
}
