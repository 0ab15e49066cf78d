//! Wires what the configuration names: objects, character devices, block nodes, the machine, its devices, monitors.
//! All of it happens on the control thread.

use std::sync::Arc;
use std::time::Duration;

use block::{BlockGraph, Drive};
use chardev::{Chardevs, Legacy};
use device::{CharBackend, RawValue, Resources};
use gdb::GdbServer;
use machine::{
    Bios, Machine, MachineConfig, MachineEnv, MachineOptions, RebootAction, ShutdownAction, ShutdownCause,
};
use monitor::{CommandTable, HmpOptions, HmpTable, Monitor, QmpOptions};
use qapi::{QError, Value, qerr};
use qom::Object;

use super::config::{Config, MonitorOption, at};
use super::parse::Given;
use super::queries;
use crate::process::{PidFile, daemon, on_signals};
use crate::storage::{Storage, text};

/// How long clients of the monitors have at the end to read what was said to them.
const FAREWELL: Duration = Duration::from_secs(2);

/// What devices find by name.
struct Inventory<'a>(&'a Storage);

impl Resources for Inventory<'_> {
    fn chardev(&self, id: &str) -> Option<Arc<dyn CharBackend>> {
        self.0.chardevs.claim(id).ok()
    }

    fn block(&self) -> Option<Arc<BlockGraph>> {
        Some(self.0.graph.clone())
    }

    fn object(&self, id: &str) -> Option<Arc<dyn Object>> {
        self.0.objects.get(id)
    }
}

/// An error's text with its hint, behind the option that it is about.
fn about(g: &Given, e: QError) -> String {
    at(g, text(e))
}

/// Builds the machine, runs it to its end, and takes it down; the exit code.
pub(crate) async fn run(mut config: Config) -> Result<i32, String> {
    let storage = Storage::new()?;
    let policy = block::Policy { machine: true, ..storage.graph.policy() };
    storage.graph.set_policy(policy);
    storage.chardevs.set_escape(config.escape);
    let result = live(&mut config, &storage).await;
    storage.close().await;
    result
}

async fn live(config: &mut Config, storage: &Storage) -> Result<i32, String> {
    for g in &config.objects {
        storage.add_object(&g.value).map_err(|e| about(g, e))?;
    }
    for g in &config.chardevs {
        storage.add_chardev(&g.value).await.map_err(|e| about(g, e))?;
    }
    let drives = block_nodes(config, storage).await?;
    let machine_config = machine_config(config, storage, &drives).await?;
    let dump = machine_config.options.dumpdtb.clone();
    let env = MachineEnv { events: storage.events.clone(), graph: Some(storage.graph.clone()) };
    let machine = Machine::build(machine_config, env).await.map_err(text)?;
    let result = with_machine(config, storage, &machine, &drives, dump).await;
    machine.close().await;
    result
}

async fn with_machine(
    config: &Config,
    storage: &Storage,
    machine: &Arc<Machine>,
    drives: &[(Given, Drive)],
    dump: Option<std::path::PathBuf>,
) -> Result<i32, String> {
    if let Some(path) = dump {
        machine.dump_dtb(&path).map_err(text)?;
        base::print_error(&format!("dtb dumped to {}. Exiting.\n", path.display()));
        return Ok(0);
    }
    devices(config, storage, machine, drives).await?;

    let mut commands = CommandTable::new();
    let mut hmp = HmpTable::new();
    storage.register(&mut commands, &mut hmp);
    let interface = machine.kind().default_interface();
    block::qmp::register_devices(&mut commands, &mut hmp, &storage.graph, interface);
    block_jobs::qmp::register_hmp(&mut hmp, &storage.jobs);
    block_jobs::replication::register(&mut commands, &storage.jobs);
    machine::qmp::register(&mut commands, &mut hmp, machine);
    let gdb = GdbServer::new(machine, &storage.chardevs);
    gdb::register_hmp(&mut hmp, &gdb);
    let monitor = Monitor::new(commands, hmp, storage.events.clone(), rt::current())
        .map_err(|e| format!("cannot set up the monitors' thread: {e}"))?;
    let monitor = Arc::new(monitor);
    gdb.set_monitor(&monitor);
    if let Some(g) = &config.gdb {
        gdb.open(&g.value).await.map_err(|e| {
            format!("{}\n{}", about(g, e), about(g, qerr!("gdbstub: couldn't create chardev")))
        })?;
    }
    let requests = machine.requests().clone();
    storage.chardevs.on_quit(Arc::new(move || requests.shutdown(ShutdownCause::HostQmpQuit, 0)));
    for (i, m) in config.monitors.iter().enumerate() {
        serve(&monitor, &storage.chardevs, m, i).await.map_err(|e| format!("{}: {}", m.spelt, text(e)))?;
    }
    for id in config
        .serials
        .iter()
        .enumerate()
        .filter(|(_, g)| g.value.starts_with("mon:"))
        .map(|(i, _)| serial_label(i))
    {
        let stream = storage.chardevs.monitor_stream(&id, true).map_err(text)?;
        monitor.serve_hmp(stream, HmpOptions::default());
    }

    let _pidfile = config.pidfile.as_deref().map(PidFile::create).transpose()?;
    let requests = machine.requests().clone();
    on_signals(true, move || requests.shutdown(ShutdownCause::HostSignal, 0))?;
    if config.daemonize {
        daemon::ready().map_err(|e| format!("-daemonize: {e}"))?;
    }
    // A debugger that was quick decides when it runs.
    if !config.stopped && !gdb.is_attached() {
        machine.start().await.map_err(text)?;
    }
    let code = machine.wait_exit().await;
    gdb.machine_ended(code);
    monitor.shutdown(FAREWELL).await;
    Ok(code)
}

/// Adds `-blockdev` nodes, each after those that it names, and then the drives.
async fn block_nodes(config: &Config, storage: &Storage) -> Result<Vec<(Given, Drive)>, String> {
    for g in &config.blockdevs {
        storage.add_blockdev(&g.value).await.map_err(|e| about(g, e))?;
    }
    let mut drives = Vec::new();
    for g in &config.drives {
        let mut drive = Drive::parse(&g.value).map_err(|e| about(g, e))?;
        drive.find_place(|name| drives.iter().any(|(_, other): &(Given, Drive)| other.name() == name));
        if let Some(warning) = storage.graph.add_drive(drive.clone()).await.map_err(|e| about(g, e))? {
            base::print_error(&format!("WARNING: {warning}\n"));
        }
        drives.push((Given { name: g.name, spelt: g.spelt.clone(), value: g.value.clone() }, drive));
    }
    Ok(drives)
}

fn serial_label(i: usize) -> String {
    format!("serial{i}")
}

async fn machine_config(
    config: &mut Config,
    storage: &Storage,
    drives: &[(Given, Drive)],
) -> Result<MachineConfig, String> {
    let mut options = MachineOptions::default();
    for g in &config.machines {
        options.add(&g.value).map_err(|e| text_about_machine(g, e))?;
    }
    if config.machines.is_empty() {
        return Err(
            "No machine specified, and there is no default\nUse -machine help to list supported machines"
                .into(),
        );
    }
    let bios = config.bios.take().or_else(|| options.firmware.take());
    for (g, drive) in drives.iter().filter(|(_, d)| d.interface.as_deref() == Some("pflash")) {
        let unit = drive.place.0.or(drive.place.2).unwrap_or(0);
        let Some(bank) = options.pflash.get_mut(unit as usize).filter(|b| b.is_none()) else {
            return Err(at(g, format_args!("the machine has no free flash bank {unit}")));
        };
        *bank = Some(drive.name());
    }
    let mut mc = MachineConfig::new(options);
    if let Some(g) = &config.smp {
        mc.cpus = machine::options::parse_smp(&g.value, mc.options.kind).map_err(text)?;
    }
    if let Some(g) = &config.memory {
        mc.ram = machine::options::parse_memory(&g.value).map_err(|e| about(g, e))?;
    }
    if let Some(g) = &config.cpu {
        mc.ext = machine::options::parse_cpu(&g.value).map_err(text)?;
    }
    mc.bios = match bios.as_deref() {
        None | Some("default") => Bios::BuiltIn,
        Some("none") => Bios::None,
        Some(file) => Bios::File(file.into()),
    };
    mc.translation = config.translation;
    mc.name = config.name.guest.take();
    mc.uuid = config.uuid.unwrap_or_default();
    mc.kernel = config.kernel.take();
    mc.initrd = config.initrd.take();
    mc.append = config.append.take();
    mc.dtb = config.dtb.take();
    if config.no_reboot {
        mc.actions.reboot = RebootAction::Shutdown;
    }
    if config.no_shutdown {
        mc.actions.shutdown = ShutdownAction::Pause;
    }
    for (driver, property, value) in &config.globals {
        if driver == "virtio-mmio" && property == "force-legacy" {
            mc.legacy_virtio = match value.as_str() {
                "on" | "true" | "yes" => true,
                "off" | "false" | "no" => false,
                _ => {
                    return Err(format!(
                        "can't apply global {driver}.{property}={value}: Parameter '{property}' expects 'on' or 'off'"
                    ));
                }
            };
        }
    }
    for (i, g) in config.serials.iter().enumerate() {
        let device =
            storage.chardevs.open_legacy(&g.value, &serial_label(i)).await.map_err(|e| about(g, e))?;
        mc.serials.extend(device.backend);
    }
    mc.registry = queries::devices();
    Ok(mc)
}

/// The reference names the option only where its value does not parse.
fn text_about_machine(g: &Given, e: QError) -> String {
    if e.desc().starts_with("unsupported machine type") { text(e) } else { about(g, e) }
}

async fn devices(
    config: &Config,
    storage: &Storage,
    machine: &Arc<Machine>,
    drives: &[(Given, Drive)],
) -> Result<(), String> {
    for (g, drive) in drives {
        match drive.interface.as_deref() {
            Some("none" | "pflash") => continue,
            None | Some("virtio") => {}
            Some(other) => {
                let (bus, unit) = (drive.place.1.unwrap_or(0), drive.place.0.or(drive.place.2).unwrap_or(0));
                return Err(at(
                    g,
                    format_args!("machine type does not support if={other},bus={bus},unit={unit}"),
                ));
            }
        }
        let options = [("driver", "virtio-blk-device".to_string()), ("drive", drive.name())];
        let options: Vec<_> = options.map(|(k, v)| (k.to_string(), RawValue::Text(v))).into();
        machine.plug(&with_globals(config, options), &Inventory(storage)).await.map_err(|e| about(g, e))?;
    }
    for g in &config.devices {
        let options = device_options(&g.value).map_err(|e| about(g, e))?;
        machine.plug(&with_globals(config, options), &Inventory(storage)).await.map_err(|e| about(g, e))?;
    }
    Ok(())
}

/// `-device`'s argument: JSON, or options between commas.
fn device_options(value: &str) -> Result<Vec<(String, RawValue)>, QError> {
    if !value.starts_with('{') {
        let options = qapi::opts_parse(value, Some("driver"));
        return Ok(options.into_iter().map(|(k, v)| (k, RawValue::Text(v))).collect());
    }
    let Value::Dict(dict) = Value::parse_json(value)? else {
        return Err(QError::new("expected a JSON object"));
    };
    Ok(dict.iter().map(|(k, v)| (k.to_string(), RawValue::from(v))).collect())
}

/// Puts `-global` settings of the device's driver before its own options.
fn with_globals(config: &Config, options: Vec<(String, RawValue)>) -> Vec<(String, RawValue)> {
    let driver = options.iter().find(|(k, _)| k == "driver").and_then(|(_, v)| match v {
        RawValue::Text(s) | RawValue::Str(s) => Some(s.as_str()),
        _ => None,
    });
    let globals = config
        .globals
        .iter()
        .filter(|(d, p, _)| Some(d.as_str()) == driver && !options.iter().any(|(k, _)| k == p));
    globals.map(|(_, p, v)| (p.clone(), RawValue::Text(v.clone()))).chain(options.clone()).collect()
}

/// Starts one monitor of the command line.
async fn serve(monitor: &Monitor, chardevs: &Chardevs, m: &MonitorOption, i: usize) -> Result<(), QError> {
    let label = format!("compat_monitor{i}");
    let id = match Legacy::parse(&m.device, &label)? {
        Legacy::None => return Ok(()),
        Legacy::Existing(id) => id,
        Legacy::New { config, .. } => {
            chardevs.add(config).await?;
            label
        }
    };
    let stream = chardevs.monitor_stream(&id, !m.control)?;
    if m.control {
        monitor.serve_qmp(stream, QmpOptions { pretty: m.pretty, oob: !chardevs.is_mux(&id) });
    } else {
        monitor.serve_hmp(stream, HmpOptions::default());
    }
    Ok(())
}
