//! The table of system options: their names, what they take, and what Rhea does with them.
//!
//! One line an option. Help, parsing and the word that something is not there yet come from here.

use Takes::{Nothing, Value};

/// What stands behind an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing: it is a switch.
    Nothing,
    /// One argument.
    Value,
}

/// One option of the command line.
#[derive(Debug)]
pub(crate) struct OptionSpec {
    /// The name, without its dash.
    pub(crate) name: &'static str,
    pub(crate) takes: Takes,
    /// The argument's form, for the help text.
    pub(crate) form: &'static str,
    /// One line of help; `None` for an option that QEMU has and Rhea has not yet.
    pub(crate) help: Option<&'static str>,
    /// The name under which its values are kept, where several spellings mean one option.
    pub(crate) canonical: &'static str,
    /// The heading of the help text that it stands under.
    pub(crate) group: Group,
}

/// The headings of the help text, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Standard,
    Block,
    Devices,
    Boot,
    Channels,
    Monitoring,
    Running,
}

impl Group {
    pub(crate) const ALL: [(Group, &'static str); 7] = [
        (Group::Standard, "Machine"),
        (Group::Block, "Block nodes and drives"),
        (Group::Devices, "Devices and objects"),
        (Group::Boot, "What is started"),
        (Group::Channels, "Character devices, console and display"),
        (Group::Monitoring, "Monitors"),
        (Group::Running, "Running, logging, help"),
    ];
}

const fn has(
    group: Group,
    name: &'static str,
    takes: Takes,
    form: &'static str,
    help: &'static str,
) -> OptionSpec {
    OptionSpec { name, takes, form, help: Some(help), canonical: name, group }
}

const fn alias(of: &'static str, name: &'static str, takes: Takes) -> OptionSpec {
    OptionSpec { name, takes, form: "", help: Some(""), canonical: of, group: Group::Running }
}

const fn not_yet(name: &'static str, takes: Takes) -> OptionSpec {
    OptionSpec { name, takes, form: "", help: None, canonical: name, group: Group::Running }
}

/// Every option that the reference's system emulators have.
pub(crate) static OPTIONS: &[OptionSpec] = &[
    has(
        Group::Standard,
        "machine",
        Value,
        "[type=]NAME[,prop=value…]",
        "the board; '-machine help' lists them",
    ),
    alias("machine", "M", Value),
    has(Group::Standard, "cpu", Value, "MODEL[,prop=on|off…]", "the CPU; '-cpu help' lists them"),
    has(
        Group::Standard,
        "accel",
        Value,
        "NAME[,prop=value…]",
        "how guest code is run: tcg (also called rhea's own)",
    ),
    has(Group::Standard, "smp", Value, "[cpus=]N[,maxcpus=N…]", "how many CPUs, 1 to 64"),
    has(Group::Standard, "m", Value, "[size=]SIZE", "memory; MiB where it has no suffix (default 128 MiB)"),
    has(Group::Standard, "name", Value, "NAME[,process=P]", "the machine's name"),
    has(Group::Standard, "uuid", Value, "UUID", "the machine's UUID"),
    has(Group::Standard, "nodefaults", Nothing, "", "no default serial line and monitor"),
    has(Group::Standard, "no-user-config", Nothing, "", "accepted: Rhea reads no configuration files"),
    has(Group::Block, "blockdev", Value, "[driver=]NAME,node-name=…|JSON", "adds a block node"),
    has(
        Group::Block,
        "drive",
        Value,
        "file=…,if=none|virtio|pflash,format=…,id=…",
        "adds an image, and a device for it",
    ),
    has(Group::Block, "hda", Value, "FILE", "the same as -drive file=FILE,index=0,media=disk"),
    has(
        Group::Devices,
        "device",
        Value,
        "DRIVER[,prop=value…]|JSON",
        "adds a device; '-device help', '-device DRIVER,help'",
    ),
    has(
        Group::Devices,
        "object",
        Value,
        "TYPE,id=…[,prop=value…]|JSON",
        "adds an object: iothread, rng-random, …",
    ),
    has(
        Group::Devices,
        "global",
        Value,
        "DRIVER.PROP=VALUE",
        "a property's default for all devices of a driver",
    ),
    has(Group::Boot, "kernel", Value, "FILE", "a kernel: ELF, RISC-V Image, or raw"),
    has(Group::Boot, "initrd", Value, "FILE", "its initial RAM disk"),
    has(Group::Boot, "append", Value, "TEXT", "its command line"),
    has(Group::Boot, "dtb", Value, "FILE", "a device tree instead of the machine's own"),
    has(Group::Boot, "bios", Value, "FILE|none|default", "firmware in M-mode; by default Rhea's own SBI"),
    has(
        Group::Channels,
        "chardev",
        Value,
        "BACKEND,id=…[,prop=value…]",
        "a character device: stdio, socket, pty, file, null, ringbuf",
    ),
    has(
        Group::Channels,
        "serial",
        Value,
        "DEV",
        "where a serial line goes: stdio, mon:stdio, chardev:ID, unix:PATH, file:PATH, pty, null, none",
    ),
    has(Group::Channels, "nographic", Nothing, "", "serial line and monitor on standard input and output"),
    has(Group::Channels, "display", Value, "none", "the display; there is none yet"),
    has(Group::Channels, "vga", Value, "none", "the graphics card; there is none yet"),
    has(Group::Channels, "echr", Value, "N", "the character (number) that begins an escape on the console"),
    has(Group::Channels, "parallel", Value, "none", "where a parallel port goes: the boards have none"),
    has(Group::Channels, "net", Value, "none", "a network; there is none yet"),
    has(Group::Channels, "nic", Value, "none", "a network card; there is none yet"),
    has(
        Group::Monitoring,
        "qmp",
        Value,
        "DEV",
        "QMP on a character device, e.g. unix:PATH,server=on,wait=off",
    ),
    has(Group::Monitoring, "qmp-pretty", Value, "DEV", "the same, laid out for people"),
    has(Group::Monitoring, "monitor", Value, "DEV", "the human monitor on a character device"),
    has(
        Group::Monitoring,
        "mon",
        Value,
        "[chardev=]ID[,mode=readline|control][,pretty=on]",
        "a monitor on a -chardev",
    ),
    has(
        Group::Running,
        "gdb",
        Value,
        "DEV",
        "waits for debuggers (gdb's 'target remote') on a character device, e.g. tcp::1234",
    ),
    has(Group::Running, "s", Nothing, "", "the same as -gdb tcp::1234"),
    has(Group::Running, "S", Nothing, "", "does not start the CPUs: 'cont' does"),
    has(Group::Running, "no-reboot", Nothing, "", "ends where the guest would reboot"),
    has(Group::Running, "no-shutdown", Nothing, "", "stops where the guest would power off"),
    has(Group::Running, "pidfile", Value, "FILE", "writes the process's number to FILE"),
    has(Group::Running, "daemonize", Nothing, "", "goes to the background once everything is set up"),
    has(Group::Running, "D", Value, "FILE", "where the log goes (default: standard error)"),
    has(Group::Running, "d", Value, "ITEM[,ITEM…]", "what is logged; '-d help' lists the items"),
    has(Group::Running, "perfmap", Nothing, "", "writes /tmp/perf-PID.map: names of native code for perf"),
    has(
        Group::Running,
        "jitdump",
        Nothing,
        "",
        "writes jit-PID.dump here: native code with names for perf inject --jit",
    ),
    has(
        Group::Running,
        "trace",
        Value,
        "[enable=]PATTERN[,events=FILE][,file=FILE]",
        "trace points; '-trace help' lists them",
    ),
    has(Group::Running, "msg", Value, "[timestamp=on|off][,guest-name=on|off]", "the form of error messages"),
    has(Group::Running, "version", Nothing, "", "prints the version"),
    has(Group::Running, "h", Nothing, "", "prints this help"),
    alias("h", "help", Nothing),
    not_yet("numa", Value),
    not_yet("snapshot", Nothing),
    not_yet("add-fd", Value),
    not_yet("set", Value),
    not_yet("boot", Value),
    not_yet("mem-path", Value),
    not_yet("mem-prealloc", Nothing),
    not_yet("k", Value),
    not_yet("audio", Value),
    not_yet("audiodev", Value),
    not_yet("fda", Value),
    not_yet("fdb", Value),
    not_yet("hdb", Value),
    not_yet("hdc", Value),
    not_yet("hdd", Value),
    not_yet("cdrom", Value),
    not_yet("mtdblock", Value),
    not_yet("sd", Value),
    not_yet("pflash", Value),
    not_yet("fsdev", Value),
    not_yet("virtfs", Value),
    not_yet("iscsi", Value),
    not_yet("usb", Nothing),
    not_yet("usbdevice", Value),
    not_yet("spice", Value),
    not_yet("full-screen", Nothing),
    not_yet("vnc", Value),
    not_yet("smbios", Value),
    not_yet("acpitable", Value),
    not_yet("netdev", Value),
    not_yet("tpmdev", Value),
    not_yet("shim", Value),
    not_yet("compat", Value),
    not_yet("fw_cfg", Value),
    not_yet("debugcon", Value),
    not_yet("preconfig", Nothing),
    not_yet("overcommit", Value),
    not_yet("dfilter", Value),
    not_yet("seed", Value),
    not_yet("L", Value),
    not_yet("enable-kvm", Nothing),
    not_yet("action", Value),
    not_yet("loadvm", Value),
    not_yet("option-rom", Value),
    not_yet("rtc", Value),
    not_yet("icount", Value),
    not_yet("watchdog-action", Value),
    not_yet("incoming", Value),
    not_yet("only-migratable", Nothing),
    not_yet("semihosting", Nothing),
    not_yet("semihosting-config", Value),
    not_yet("sandbox", Value),
    not_yet("readconfig", Value),
    not_yet("plugin", Value),
    not_yet("run-with", Value),
    not_yet("dump-vmstate", Value),
    not_yet("enable-sync-profile", Nothing),
    not_yet("xen-domid", Value),
    not_yet("xen-attach", Nothing),
    not_yet("xen-domid-restrict", Nothing),
    not_yet("chroot", Value),
    not_yet("runas", Value),
    not_yet("no-hpet", Nothing),
    not_yet("g", Value),
];

/// The option of that name, without its dashes.
pub(crate) fn find(name: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|o| o.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_aliases_lead_somewhere() {
        for (i, o) in OPTIONS.iter().enumerate() {
            assert!(!OPTIONS[..i].iter().any(|p| p.name == o.name), "-{} twice", o.name);
            let target = find(o.canonical).unwrap();
            assert_eq!(target.takes, o.takes);
            assert_eq!(target.canonical, target.name);
        }
    }
}
