//! The command line as a configuration: what belongs together is put together, and everything that can be checked
//! without opening anything is checked here.

use std::path::PathBuf;

use machine::{JitOptions, Uuid};
use qapi::opts_parse;

use super::parse::Given;

/// What a command line asks for.
#[derive(Debug)]
pub(crate) struct Config {
    /// Each `-machine`, in their order: later ones add to earlier ones.
    pub(crate) machines: Vec<Given>,
    pub(crate) cpu: Option<Given>,
    /// How guest code is translated; `None`: not at all.
    pub(crate) translation: Option<JitOptions>,
    pub(crate) smp: Option<Given>,
    pub(crate) memory: Option<Given>,
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) append: Option<String>,
    pub(crate) dtb: Option<PathBuf>,
    pub(crate) bios: Option<String>,
    pub(crate) objects: Vec<Given>,
    pub(crate) chardevs: Vec<Given>,
    pub(crate) blockdevs: Vec<Given>,
    /// `-drive` and its short forms, whose values are in `-drive`'s form here.
    pub(crate) drives: Vec<Given>,
    pub(crate) devices: Vec<Given>,
    /// Driver, property, value.
    pub(crate) globals: Vec<(String, String, String)>,
    pub(crate) serials: Vec<Given>,
    pub(crate) monitors: Vec<MonitorOption>,
    /// Where debuggers are waited for.
    pub(crate) gdb: Option<Given>,
    /// `-S`.
    pub(crate) stopped: bool,
    pub(crate) no_reboot: bool,
    pub(crate) no_shutdown: bool,
    pub(crate) daemonize: bool,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) name: Name,
    pub(crate) uuid: Option<Uuid>,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) log_items: Vec<Given>,
    pub(crate) traces: Vec<Given>,
    /// The escape character of the console.
    pub(crate) escape: u8,
    /// `-msg timestamp=on`.
    pub(crate) timestamps: bool,
}

/// `-name`: what the machine and the process are called.
#[derive(Debug, Default)]
pub(crate) struct Name {
    pub(crate) guest: Option<String>,
    pub(crate) process: Option<String>,
}

/// A monitor that the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MonitorOption {
    /// QMP, not the human monitor.
    pub(crate) control: bool,
    pub(crate) pretty: bool,
    /// A character device in `-serial`'s form (`chardev:ID` for one of `-chardev`).
    pub(crate) device: String,
    /// What error messages begin with.
    pub(crate) spelt: String,
}

/// A mistake: the option it is in, if one, and what is wrong.
pub(crate) fn at(given: &Given, message: impl std::fmt::Display) -> String {
    format!("{}: {message}", given.spelt)
}

fn switch(given: &Given, key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(at(given, format_args!("Parameter '{key}' expects 'on' or 'off'"))),
    }
}

/// The configuration that the options make. An error is a message without the program's name.
pub(crate) fn config(given: Vec<Given>) -> Result<Config, String> {
    let mut c = Config {
        machines: Vec::new(),
        cpu: None,
        translation: Some(JitOptions::default()),
        smp: None,
        memory: None,
        kernel: None,
        initrd: None,
        append: None,
        dtb: None,
        bios: None,
        objects: Vec::new(),
        chardevs: Vec::new(),
        blockdevs: Vec::new(),
        drives: Vec::new(),
        devices: Vec::new(),
        globals: Vec::new(),
        serials: Vec::new(),
        monitors: Vec::new(),
        gdb: None,
        stopped: false,
        no_reboot: false,
        no_shutdown: false,
        daemonize: false,
        pidfile: None,
        name: Name::default(),
        uuid: None,
        log_file: None,
        log_items: Vec::new(),
        traces: Vec::new(),
        escape: 1,
        timestamps: false,
    };
    let (mut nographic, mut nodefaults, mut display) = (false, false, false);
    let mut monitor_said = false;
    let (mut perf_map, mut jit_dump) = (false, false);
    for g in given {
        match g.name {
            "machine" => c.machines.push(g),
            "cpu" => c.cpu = Some(g),
            "accel" => c.translation = accel(&g)?,
            "smp" => c.smp = Some(g),
            "m" => c.memory = Some(g),
            "kernel" => c.kernel = Some(g.value.into()),
            "initrd" => c.initrd = Some(g.value.into()),
            "append" => c.append = Some(g.value),
            "dtb" => c.dtb = Some(g.value.into()),
            "bios" => c.bios = Some(g.value),
            "object" => c.objects.push(g),
            "chardev" => c.chardevs.push(g),
            "blockdev" => c.blockdevs.push(g),
            "drive" => c.drives.push(g),
            "hda" => {
                let value = format!("file={},index=0,media=disk", g.value.replace(',', ",,"));
                c.drives.push(Given { value, ..g });
            }
            "device" => c.devices.push(g),
            "global" => c.globals.push(global(&g)?),
            "serial" => c.serials.push(g),
            "monitor" => {
                monitor_said = true;
                if g.value != "none" {
                    let Given { value, spelt, .. } = g;
                    c.monitors.push(MonitorOption { control: false, pretty: false, device: value, spelt });
                }
            }
            "qmp" | "qmp-pretty" => {
                monitor_said = true;
                if g.value != "none" {
                    let pretty = g.name == "qmp-pretty";
                    c.monitors.push(MonitorOption { control: true, pretty, device: g.value, spelt: g.spelt });
                }
            }
            "mon" => {
                monitor_said = true;
                c.monitors.push(mon(&g)?);
            }
            "nographic" => nographic = true,
            "nodefaults" => nodefaults = true,
            "display" | "vga" | "parallel" | "net" | "nic" => {
                if g.value != "none" {
                    return Err(at(&g, "Rhea has only 'none' here yet"));
                }
                display |= g.name == "display";
            }
            "no-user-config" => {}
            "gdb" => c.gdb = Some(g),
            "s" => c.gdb = Some(Given { value: "tcp::1234".into(), ..g }),
            "perfmap" => perf_map = true,
            "jitdump" => jit_dump = true,
            "S" => c.stopped = true,
            "no-reboot" => c.no_reboot = true,
            "no-shutdown" => c.no_shutdown = true,
            "daemonize" => c.daemonize = true,
            "pidfile" => c.pidfile = Some(g.value.into()),
            "name" => c.name = name(&g)?,
            "uuid" => c.uuid = Some(uuid(&g)?),
            "D" => c.log_file = Some(g.value.into()),
            "d" => c.log_items.push(g),
            "trace" => c.traces.push(g),
            "echr" => {
                c.escape = parse_u8(&g.value).ok_or_else(|| at(&g, "invalid argument for -echr"))?;
            }
            "msg" => {
                for (key, value) in opts_parse(&g.value, None) {
                    match key.as_str() {
                        "timestamp" => c.timestamps = switch(&g, &key, &value)?,
                        "guest-name" => _ = switch(&g, &key, &value)?,
                        _ => return Err(at(&g, format_args!("Invalid parameter '{key}'"))),
                    }
                }
            }
            other => unreachable!("-{other} is in the table of options and not handled"),
        }
    }
    if let Some(t) = &mut c.translation {
        (t.perf_map, t.jit_dump) = (perf_map, jit_dump);
    }
    defaults(&mut c, nographic, nodefaults, display, monitor_said);
    if c.daemonize {
        let stdio = |d: &str| d == "stdio" || d == "mon:stdio";
        let on_console =
            c.serials.iter().any(|s| stdio(&s.value)) || c.monitors.iter().any(|m| stdio(&m.device));
        if on_console {
            return Err("-daemonize: a serial line or monitor on standard input and output cannot go to the background".into());
        }
    }
    Ok(c)
}

/// The serial line and monitor that nobody asked for, unless they were declined.
fn defaults(c: &mut Config, nographic: bool, nodefaults: bool, display: bool, monitor_said: bool) {
    let serial_said = !c.serials.is_empty();
    if nodefaults {
        return;
    }
    // There is no display that could hold a virtual console: without '-display none', the terminal is the console.
    if !nographic && display {
        return;
    }
    let serial =
        |value: &str| Given { name: "serial", spelt: format!("-serial {value}"), value: value.into() };
    match (serial_said, monitor_said) {
        (false, false) => c.serials.push(serial("mon:stdio")),
        (false, true) => c.serials.push(serial("stdio")),
        (true, false) if nographic && !c.serials.iter().any(|s| s.value.ends_with("stdio")) => {
            let (device, spelt) = ("stdio".to_string(), "-monitor stdio".to_string());
            c.monitors.push(MonitorOption { control: false, pretty: false, device, spelt });
        }
        _ => {}
    }
}

/// `-accel`: one of a list (`kvm:tcg`) that is there, with its properties.
fn accel(g: &Given) -> Result<Option<JitOptions>, String> {
    let options = opts_parse(&g.value, Some("accel"));
    let list = options.iter().find(|(n, _)| n == "accel").map_or("", |(_, v)| v);
    if list != "help" && !list.split(':').any(|a| a == "tcg") {
        let first = list.split(':').next().unwrap_or_default();
        return Err(at(g, format_args!("invalid accelerator {first}")));
    }
    let mut translation = Some(JitOptions::default());
    for (name, value) in options.iter().filter(|(n, _)| n != "accel") {
        let on_off = || match value.as_str() {
            "on" | "true" | "yes" | "y" => Ok(true),
            "off" | "false" | "no" | "n" => Ok(false),
            _ => Err(at(g, format_args!("Parameter '{name}' expects 'on' or 'off'"))),
        };
        match name.as_str() {
            // Each instruction on its own is what the interpreter does.
            "one-insn-per-tb" if on_off()? => translation = None,
            "one-insn-per-tb" => {}
            // Code is never written where it is run, whatever is asked for.
            "split-wx" => drop(on_off()?),
            "tb-size" => {
                let Ok(mib) = value.parse::<u64>() else {
                    return Err(at(g, format_args!("Parameter 'tb-size' expects uint64")));
                };
                let Ok(mib) = u32::try_from(mib) else {
                    return Err(at(g, format_args!("Parameter 'tb-size' expects uint32_t")));
                };
                if let Some(t) = translation.as_mut().filter(|_| mib > 0) {
                    t.size = (mib as usize) << 20;
                }
            }
            // There is one thread a hart, which is right with every guest.
            "thread" if value == "single" || value == "multi" => {}
            "thread" => return Err(at(g, format_args!("Invalid 'thread' setting {value}"))),
            _ => return Err(at(g, format_args!("Property 'tcg-accel.{name}' not found"))),
        }
    }
    Ok(translation)
}

fn global(g: &Given) -> Result<(String, String, String), String> {
    if let Some((left, value)) = g.value.split_once('=')
        && let Some((driver, property)) = left.split_once('.')
        && !driver.contains(',')
    {
        return Ok((driver.into(), property.into(), value.into()));
    }
    let mut found = [None, None, None];
    for (key, value) in opts_parse(&g.value, None) {
        let Some(i) = ["driver", "property", "value"].iter().position(|k| *k == key) else {
            return Err(at(g, format_args!("Invalid parameter '{key}'")));
        };
        found[i] = Some(value);
    }
    match found {
        [Some(d), Some(p), Some(v)] => Ok((d, p, v)),
        _ => Err(at(g, "Invalid 'global' option: DRIVER.PROPERTY=VALUE is its form")),
    }
}

fn mon(g: &Given) -> Result<MonitorOption, String> {
    let mut m =
        MonitorOption { control: false, pretty: false, device: String::new(), spelt: g.spelt.clone() };
    for (key, value) in opts_parse(&g.value, Some("chardev")) {
        match key.as_str() {
            "chardev" => m.device = format!("chardev:{value}"),
            "mode" => {
                m.control = match value.as_str() {
                    "control" => true,
                    "readline" => false,
                    _ => return Err(at(g, format_args!("unknown monitor mode \"{value}\""))),
                }
            }
            "pretty" => m.pretty = switch(g, &key, &value)?,
            "id" => {}
            _ => return Err(at(g, format_args!("Invalid parameter '{key}'"))),
        }
    }
    if m.device.is_empty() {
        return Err(at(g, "Parameter 'chardev' is missing"));
    }
    Ok(m)
}

/// Threads have names in any case, so `debug-threads` changes nothing.
fn name(g: &Given) -> Result<Name, String> {
    let mut name = Name::default();
    for (key, value) in opts_parse(&g.value, Some("guest")) {
        match key.as_str() {
            "guest" => name.guest = Some(value),
            "process" => name.process = Some(value),
            "debug-threads" => _ = switch(g, &key, &value)?,
            _ => return Err(at(g, format_args!("Invalid parameter '{key}'"))),
        }
    }
    Ok(name)
}

fn uuid(g: &Given) -> Result<Uuid, String> {
    g.value.parse().map_err(|_| at(g, "failed to parse UUID string: wrong format"))
}

fn parse_u8(text: &str) -> Option<u8> {
    match text.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn of(line: &str) -> Result<Config, String> {
        let args: Vec<String> = line.split(' ').map(String::from).collect();
        config(parse::parse(&args)?)
    }

    #[test]
    fn the_console_goes_where_the_reference_puts_it() {
        let serials =
            |line: &str| of(line).unwrap().serials.iter().map(|s| s.value.clone()).collect::<Vec<_>>();
        let monitors =
            |line: &str| of(line).unwrap().monitors.iter().map(|m| m.device.clone()).collect::<Vec<_>>();
        assert_eq!(serials("-nographic"), ["mon:stdio"]);
        assert_eq!(serials("-nographic -monitor none"), ["stdio"]);
        assert_eq!(serials("-nographic -serial file:x"), ["file:x"]);
        assert_eq!(monitors("-nographic -serial file:x"), ["stdio"]);
        assert_eq!(serials("-M virt"), ["mon:stdio"]);
        assert_eq!(serials("-M virt -display none"), [""; 0]);
        assert_eq!(serials("-nodefaults -nographic"), [""; 0]);
        assert!(monitors("-nodefaults -nographic").is_empty());
        let c = of("-display none -qmp unix:s -mon chardev=c,mode=control,pretty=on").unwrap();
        assert!(c.monitors[0].control && !c.monitors[0].pretty);
        assert!(c.monitors[1].control && c.monitors[1].pretty);
        assert_eq!(c.monitors[1].device, "chardev:c");
    }

    #[test]
    fn accelerators() {
        assert!(of("-accel kvm:tcg").is_ok());
        assert_eq!(of("-accel kvm").unwrap_err(), "-accel kvm: invalid accelerator kvm");
        let size = |line: &str| of(line).map(|c| c.translation.map(|t| t.size >> 20));
        assert_eq!(size("-accel tcg,tb-size=32,thread=multi,split-wx=on"), Ok(Some(32)));
        assert_eq!(size("-accel tcg,tb-size=0"), Ok(Some(256)));
        assert_eq!(size("-accel tcg,one-insn-per-tb=on"), Ok(None));
        for (property, wrong) in [
            ("tb-size=x", "Parameter 'tb-size' expects uint64"),
            ("tb-size=99999999999", "Parameter 'tb-size' expects uint32_t"),
            ("thread=bad", "Invalid 'thread' setting bad"),
            ("one-insn-per-tb=x", "Parameter 'one-insn-per-tb' expects 'on' or 'off'"),
            ("foo=1", "Property 'tcg-accel.foo' not found"),
        ] {
            let line = format!("-accel tcg,{property}");
            assert_eq!(size(&line), Err(format!("{line}: {wrong}")));
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert!(of("-nographic -daemonize").is_err());
        assert!(of("-nodefaults -nographic -daemonize").is_ok());
        assert!(of("-display gtk").is_err());
        assert!(of("-uuid 1234").is_err());
        assert!(of("-uuid 00112233-4455-6677-8899-aabbccddeeff").is_ok());
        assert_eq!(
            of("-global virtio-mmio.force-legacy=off").unwrap().globals,
            [("virtio-mmio".to_string(), "force-legacy".to_string(), "off".to_string())]
        );
    }
}
