//! The texts of `-machine`, `-smp`, `-m`, `-cpu` and `-action`.

use crate::config::MachineKind;
use crate::runstate::{Actions, PanicAction, RebootAction, ShutdownAction};
use base::units::{MIB, SizeError, parse_size};
use qapi::{QError, Value, keyval_parse, qerr};
use std::path::PathBuf;
use vcpu::Ext;

/// A machine's kind and properties: `-machine`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineOptions {
    /// The kind.
    pub kind: MachineKind,
    /// An ACLINT instead of a CLINT.
    pub aclint: bool,
    /// Write the device tree there and end.
    pub dumpdtb: Option<PathBuf>,
    /// The root node's `compatible`.
    pub dt_compatible: Option<String>,
    /// `kernel=`, as `-kernel`.
    pub kernel: Option<PathBuf>,
    /// `initrd=`, as `-initrd`.
    pub initrd: Option<PathBuf>,
    /// `append=`, as `-append`.
    pub append: Option<String>,
    /// `dtb=`, as `-dtb`.
    pub dtb: Option<PathBuf>,
    /// `firmware=`, as `-bios`.
    pub firmware: Option<String>,
    /// `pflash0=`, `pflash1=`: block nodes of the flash banks.
    pub pflash: [Option<String>; 2],
}

/// `on`, `yes`, `true`, `y` and their opposites.
fn on_off(name: &str, value: &str) -> Result<bool, QError> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(qerr!("Parameter '{name}' expects 'on' or 'off'")),
    }
}

impl MachineOptions {
    /// Takes the text of one `-machine`; later ones add to earlier ones.
    ///
    /// # Errors
    /// An unknown kind, property or value, by the reference's messages; and properties of the reference's board that
    /// this one does not have.
    pub fn add(&mut self, text: &str) -> Result<(), QError> {
        let dict = keyval_parse(text, Some("type"))?;
        if let Some(v) = dict.get("type") {
            let name = v.as_str().unwrap_or_default();
            let kind = MachineKind::ALL.iter().find(|k| k.1 == name);
            self.kind = kind.map(|k| k.0).ok_or_else(|| {
                qerr!("unsupported machine type: \"{name}\"")
                    .with_hint("Use -machine help to list supported machines")
            })?;
        }
        for (name, value) in qapi::flatten(&Value::Dict(dict)) {
            if name != "type" {
                self.set(&name, value.as_str().unwrap_or_default())?;
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), QError> {
        let unsupported =
            || Err(qerr!("Property '{}-machine.{name}' is not supported yet", self.kind.name()));
        let text = || Some(value.to_owned());
        let path = || Some(PathBuf::from(value));
        match name {
            "kernel" => self.kernel = path(),
            "initrd" => self.initrd = path(),
            "append" => self.append = text(),
            "dtb" => self.dtb = path(),
            "firmware" => self.firmware = text(),
            "dumpdtb" => self.dumpdtb = path(),
            "dt-compatible" => self.dt_compatible = text(),
            // What is about the host's memory management, and has no effect on the guest.
            "mem-merge" | "dump-guest-core" | "graphics" | "suppress-vmdesc" => drop(on_off(name, value)?),
            "usb" if !on_off(name, value)? => {}
            "accel" if value.split(':').any(|a| a == "tcg") => {}
            "accel" => return Err(qerr!("invalid accelerator {value}")),
            "usb" | "memory-backend" | "memory-encryption" | "confidential-guest-support" | "shim" => {
                return unsupported();
            }
            _ if self.kind == MachineKind::Virt => match name {
                "aclint" => self.aclint = on_off(name, value)?,
                "pflash0" => self.pflash[0] = text(),
                "pflash1" => self.pflash[1] = text(),
                "acpi" | "iommu-sys" => match value {
                    "off" | "auto" => {}
                    "on" => return unsupported(),
                    _ => return Err(qerr!("Parameter '{name}' does not accept value '{value}'")),
                },
                "aia" => match value {
                    "none" => {}
                    "aplic" | "aplic-imsic" => return unsupported(),
                    _ => {
                        return Err(qerr!("Invalid AIA interrupt controller type")
                            .with_hint("Valid values are none, aplic, and aplic-imsic."));
                    }
                },
                "aia-guests" => return unsupported(),
                _ => return Err(self.unknown(name)),
            },
            _ => return Err(self.unknown(name)),
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> QError {
        qerr!("Property '{}-machine.{name}' not found", self.kind.name())
    }
}

/// The text of `-machine help`.
pub fn machine_help() -> String {
    let mut s = String::from("Supported machines are:\n");
    for (_, name, desc) in MachineKind::ALL {
        s += &format!("{name:<20} {desc}\n");
    }
    s
}

/// The text of `-machine virt,help`.
pub fn virt_help() -> &'static str {
    "virt-machine options:\n\
     \x20 aclint=<bool>          - (TCG only) Set on/off to enable/disable emulating ACLINT devices\n\
     \x20 append=<string>        - Linux kernel command line\n\
     \x20 dt-compatible=<string> - Overrides the \"compatible\" property of the dt root node\n\
     \x20 dtb=<string>           - Linux kernel device tree file\n\
     \x20 dumpdtb=<string>       - Dump current dtb to a file and quit\n\
     \x20 firmware=<string>      - Firmware image\n\
     \x20 initrd=<string>        - Linux initial ramdisk file\n\
     \x20 kernel=<string>        - Linux kernel image file\n\
     \x20 pflash0=<string>       - Node name or ID of a block device to use as a backend\n\
     \x20 pflash1=<string>       - Node name or ID of a block device to use as a backend\n"
}

/// The number of harts that the text of `-smp` means.
///
/// # Errors
/// The reference's messages on what is not a topology, or one that the machine cannot have.
pub fn parse_smp(text: &str, kind: MachineKind) -> Result<u32, QError> {
    let dict = keyval_parse(text, Some("cpus"))?;
    let mut get = std::collections::BTreeMap::new();
    for (name, value) in qapi::flatten(&Value::Dict(dict)) {
        const KNOWN: [&str; 5] = ["cpus", "maxcpus", "sockets", "cores", "threads"];
        const UNSUPPORTED: [&str; 5] = ["drawers", "books", "dies", "clusters", "modules"];
        if UNSUPPORTED.contains(&&*name) && value.as_str() == Some("1") {
            continue;
        }
        if UNSUPPORTED.contains(&&*name) {
            return Err(qerr!("{name} > 1 not supported by this machine's CPU topology"));
        }
        if !KNOWN.contains(&&*name) {
            return Err(qerr!("Parameter 'smp.{name}' is unexpected"));
        }
        let n = value.as_str().and_then(|s| s.parse::<u32>().ok());
        let n = n.ok_or_else(|| qerr!("Parameter 'smp.{name}' expects integer"))?;
        if n == 0 {
            return Err(qerr!("Invalid CPU topology: CPU topology parameters must be greater than zero"));
        }
        get.insert(name, u64::from(n));
    }
    let given = |n: &str| get.get(n).copied();
    let parts: u64 = ["sockets", "cores", "threads"].iter().map(|n| given(n).unwrap_or(1)).product();
    let asked = ["sockets", "cores", "threads"].iter().any(|n| given(n).is_some());
    // A topology without numbers of processors has as many as fit into it.
    let cpus = given("cpus").or(given("maxcpus")).unwrap_or(parts);
    let max = given("maxcpus").unwrap_or(cpus);
    if asked && parts != max {
        return Err(qerr!(
            "Invalid CPU topology: product of the hierarchy must match maxcpus: {parts} != maxcpus ({max})"
        ));
    }
    if max < cpus {
        return Err(qerr!(
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: maxcpus ({max}) < smp_cpus ({cpus})"
        ));
    }
    if max > u64::from(kind.max_cpus()) {
        return Err(qerr!(
            "Invalid SMP CPUs {max}. The max CPUs supported by machine '{}' is {}",
            kind.name(),
            kind.max_cpus()
        ));
    }
    Ok(cpus as u32)
}

/// RAM in bytes that the text of `-m` means; a number without a suffix is in MiB.
///
/// # Errors
/// The reference's messages on what is not a size; memory to be added later is not supported yet.
pub fn parse_memory(text: &str) -> Result<u64, QError> {
    const DEFAULT: u64 = 128 * MIB;
    let mut size = DEFAULT;
    for (name, value) in qapi::opts_parse(text, Some("size")) {
        match &*name {
            "size" => {
                size = parse_size(&value, MIB).map_err(|e| match e {
                    SizeError::OutOfRange => qerr!("Value '{value}' is out of range for parameter 'size'"),
                    SizeError::Invalid => qerr!("Parameter 'size' expects a non-negative number below 2^64")
                        .with_hint(
                            "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                         and exabytes, respectively.",
                        ),
                })?;
            }
            "slots" | "maxmem" => return Err(qerr!("Parameter '{name}' is not supported yet")),
            _ => return Err(qerr!("Invalid parameter '{name}'")),
        }
    }
    Ok(match size {
        0 => DEFAULT,
        n => base::units::align_up(n, 8192).ok_or_else(|| qerr!("ram size too large"))?,
    })
}

/// The text of `-cpu help`.
pub fn cpu_help() -> &'static str {
    "Available CPUs:\n  max\n  rv64\n"
}

/// The harts' extensions that the text of `-cpu` means: a model, and extensions that are `true` or `false`.
///
/// # Errors
/// The reference's messages on unknown models, properties and values.
pub fn parse_cpu(text: &str) -> Result<Ext, QError> {
    let mut parts = text.split(',');
    let model = parts.next().unwrap_or_default();
    if !matches!(model, "rv64" | "max") {
        return Err(qerr!("unable to find CPU model '{model}'"));
    }
    let mut ext = if model == "max" { Ext::ALL } else { Ext::RV64 };
    for p in parts {
        let (name, value) =
            p.split_once('=').ok_or_else(|| qerr!("Expected key=value format, found {p}."))?;
        let global = |e: QError| e.prepend(&format!("can't apply global {model}-riscv-cpu.{name}={value}"));
        let known = Ext::by_name(name);
        let known = known.ok_or_else(|| global(qerr!("Property '{model}-riscv-cpu.{name}' not found")))?;
        let on = on_off(name, value).map_err(global)?;
        ext = if on { ext.with(known) } else { ext.without(known) };
    }
    Ok(ext)
}

/// Changes what is done on the guest's requests as the text of `-action` says.
///
/// # Errors
/// Unknown events or actions.
pub fn parse_action(text: &str, actions: &mut Actions) -> Result<(), QError> {
    for (name, value) in qapi::opts_parse(text, None) {
        let bad = || qerr!("Parameter '{name}' does not accept value '{value}'");
        match &*name {
            "reboot" => {
                actions.reboot = match &*value {
                    "reset" => RebootAction::Reset,
                    "shutdown" => RebootAction::Shutdown,
                    _ => return Err(bad()),
                }
            }
            "shutdown" => {
                actions.shutdown = match &*value {
                    "poweroff" => ShutdownAction::Poweroff,
                    "pause" => ShutdownAction::Pause,
                    _ => return Err(bad()),
                }
            }
            "panic" => {
                actions.panic = match &*value {
                    "shutdown" => PanicAction::Shutdown,
                    "pause" => PanicAction::Pause,
                    "exit-failure" => PanicAction::ExitFailure,
                    "none" => PanicAction::None,
                    _ => return Err(bad()),
                }
            }
            "watchdog" => {
                return Err(qerr!("Parameter 'watchdog' is not supported yet: the machine has none"));
            }
            _ => return Err(qerr!("Invalid parameter '{name}'")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn err<T: std::fmt::Debug>(r: Result<T, QError>) -> String {
        r.unwrap_err().desc().to_owned()
    }

    #[test]
    fn machine_texts() {
        let mut m = MachineOptions::default();
        m.add("virt,aclint=on").unwrap();
        m.add("dumpdtb=/x").unwrap();
        m.add("type=virt,acpi=off,pflash1=node0").unwrap();
        assert!(m.kind == MachineKind::Virt && m.aclint);
        assert_eq!((m.dumpdtb.clone(), m.pflash[1].as_deref()), (Some("/x".into()), Some("node0")));
        assert_eq!(err(m.add("bogus")), "unsupported machine type: \"bogus\"");
        assert_eq!(err(m.add("foo=1")), "Property 'virt-machine.foo' not found");
        assert_eq!(err(m.add("aclint=x")), "Parameter 'aclint' expects 'on' or 'off'");
        assert_eq!(err(m.add("acpi=maybe")), "Parameter 'acpi' does not accept value 'maybe'");
        assert!(err(m.add("acpi=on")).contains("not supported yet"));
        assert_eq!(
            err(MachineOptions::default().add("none,aclint=on")),
            "Property 'none-machine.aclint' not found"
        );
    }

    #[test]
    fn topologies() {
        let smp = |t| parse_smp(t, MachineKind::Virt);
        assert_eq!(smp("4").unwrap(), 4);
        assert_eq!(smp("cpus=2,maxcpus=4").unwrap(), 2);
        assert_eq!(smp("sockets=2,cores=2").unwrap(), 4);
        assert_eq!(smp("4,cores=2,threads=2,dies=1").unwrap(), 4);
        assert_eq!(err(smp("0")), "Invalid CPU topology: CPU topology parameters must be greater than zero");
        assert_eq!(err(smp("2,foo=1")), "Parameter 'smp.foo' is unexpected");
        assert_eq!(err(smp("abc")), "Parameter 'smp.cpus' expects integer");
        assert!(err(smp("4,sockets=3")).contains("must match maxcpus"));
        assert!(err(smp("cpus=2,maxcpus=1")).contains("maxcpus (1) < smp_cpus (2)"));
        assert!(
            err(smp("9999"))
                .starts_with("Invalid SMP CPUs 9999. The max CPUs supported by machine 'virt' is")
        );
        assert_eq!(smp("4294967295,sockets=4294967295,cores=4294967295,threads=1").ok(), None);
    }

    #[test]
    fn sizes_of_memory() {
        assert_eq!(parse_memory("256").unwrap(), 256 << 20);
        assert_eq!(parse_memory("1G").unwrap(), 1 << 30);
        assert_eq!(parse_memory("size=64M").unwrap(), 64 << 20);
        assert_eq!(parse_memory("0").unwrap(), 128 << 20);
        assert_eq!(err(parse_memory("abc")), "Parameter 'size' expects a non-negative number below 2^64");
        assert_eq!(err(parse_memory("99999999T")), "Value '99999999T' is out of range for parameter 'size'");
        assert_eq!(err(parse_memory("size=1M,foo=3")), "Invalid parameter 'foo'");
    }

    #[test]
    fn processors_and_actions() {
        assert_eq!(parse_cpu("rv64").unwrap(), Ext::RV64);
        assert_eq!(parse_cpu("max").unwrap(), Ext::ALL);
        assert!(parse_cpu("rv64,zfh=on").unwrap().has(Ext::ZFH.with(Ext::ZFHMIN)));
        assert!(!parse_cpu("max,zfhmin=off").unwrap().has(Ext::ZFH));
        assert!(!parse_cpu("rv64,zba=off").unwrap().has(Ext::ZBA));
        assert_eq!(err(parse_cpu("foo")), "unable to find CPU model 'foo'");
        assert!(err(parse_cpu("rv64,foo=on")).ends_with("Property 'rv64-riscv-cpu.foo' not found"));
        assert!(err(parse_cpu("rv64,zba=x")).ends_with("Parameter 'zba' expects 'on' or 'off'"));
        let mut a = Actions::default();
        parse_action("reboot=shutdown,shutdown=pause,panic=none", &mut a).unwrap();
        assert_eq!(
            (a.reboot, a.shutdown, a.panic),
            (RebootAction::Shutdown, ShutdownAction::Pause, PanicAction::None)
        );
        assert!(parse_action("reboot=x", &mut a).is_err());
    }
}
