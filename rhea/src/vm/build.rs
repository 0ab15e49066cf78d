//! Wires what the configuration names: objects, character devices, block nodes, the machine, its devices, monitors.
//! All of it happens on the control thread.

use std::sync::Arc;
use std::time::Duration;

use block::driver::DriverType;
use block::job::Jobs;
use block::{BlockGraph, Drive};
use chardev::{Chardevs, Config as ChardevConfig, Legacy};
use device::{CharBackend, RawValue, Resources};
use export::Exports;
use machine::{
    Bios, Machine, MachineConfig, MachineEnv, MachineOptions, RebootAction, ShutdownAction, ShutdownCause,
};
use monitor::{CommandTable, EventBus, HmpOptions, HmpTable, Monitor, QmpOptions};
use qapi::{QError, Value};
use qom::{Object, ObjectTree};

use super::config::{Config, MonitorOption, at};
use super::parse::Given;
use super::pidfile::PidFile;
use super::{daemon, queries};

/// How long clients of the monitors have at the end to read what was said to them.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long jobs have at the end to undo what they did to the block graph.
const JOBS_PATIENCE: Duration = Duration::from_secs(10);

/// The block drivers of all crates.
pub(crate) fn drivers() -> Vec<&'static DriverType> {
    [block_file::DRIVERS, block_formats::DRIVERS, block_net::DRIVERS, block_qcow2::DRIVERS].concat()
}

/// What devices find by name.
struct Inventory {
    graph: Arc<BlockGraph>,
    jobs: Arc<Jobs>,
    chardevs: Chardevs,
    objects: Arc<ObjectTree>,
    exports: Arc<Exports>,
}

impl Resources for Inventory {
    fn chardev(&self, id: &str) -> Option<Arc<dyn CharBackend>> {
        self.chardevs.claim(id).ok()
    }

    fn block(&self) -> Option<Arc<BlockGraph>> {
        Some(self.graph.clone())
    }

    fn object(&self, id: &str) -> Option<Arc<dyn Object>> {
        self.objects.get(id)
    }
}

/// An error's text with its hint, behind the option that it is about.
fn about(g: &Given, e: QError) -> String {
    at(g, text(e))
}

fn text(e: QError) -> String {
    match e.hint() {
        Some(hint) => format!("{}\n{}", e.desc(), hint.trim_end()),
        None => e.desc().to_string(),
    }
}

/// Builds the machine, runs it to its end, and takes it down; the exit code.
pub(crate) async fn run(mut config: Config) -> Result<i32, String> {
    let io = rt::IoThread::spawn("chardev").map_err(|e| format!("cannot set up a thread: {e}"))?;
    let events = EventBus::new();
    let graph = BlockGraph::new(&drivers(), events.clone());
    let objects = Arc::new(ObjectTree::new());
    let inventory = Inventory {
        exports: Exports::new(graph.clone(), objects.clone()),
        jobs: Jobs::new(graph.clone()),
        graph,
        chardevs: Chardevs::new(io.handle()),
        objects,
    };
    inventory.chardevs.set_escape(config.escape);
    let result = live(&mut config, &inventory, events).await;
    inventory.exports.close_all().await;
    // A job that waits for storage must not keep everything else from being written back.
    if rt::timeout(JOBS_PATIENCE, inventory.jobs.cancel_all()).await.is_none() {
        tracing::error!("ending although jobs are still at work");
    }
    inventory.graph.close_all().await;
    inventory.chardevs.close_all();
    result
}

async fn live(config: &mut Config, inventory: &Inventory, events: EventBus) -> Result<i32, String> {
    for g in &config.objects {
        let options = qapi::from_arg(&g.value, Some("qom-type")).map_err(|e| about(g, e))?;
        inventory.objects.add(&options).map_err(|e| about(g, e))?;
    }
    for g in &config.chardevs {
        let c = ChardevConfig::parse(&g.value).map_err(|e| about(g, e))?;
        inventory.chardevs.add(c).await.map_err(|e| about(g, e))?;
    }
    let drives = block_nodes(config, &inventory.graph).await?;
    let machine_config = machine_config(config, inventory, &drives).await?;
    let dump = machine_config.options.dumpdtb.clone();
    let env = MachineEnv { events: events.clone(), graph: Some(inventory.graph.clone()) };
    let machine = Machine::build(machine_config, env).await.map_err(text)?;
    let result = with_machine(config, inventory, events, &machine, &drives, dump).await;
    machine.close().await;
    result
}

async fn with_machine(
    config: &Config,
    inventory: &Inventory,
    events: EventBus,
    machine: &Arc<Machine>,
    drives: &[(Given, Drive)],
    dump: Option<std::path::PathBuf>,
) -> Result<i32, String> {
    if let Some(path) = dump {
        machine.dump_dtb(&path).map_err(text)?;
        eprintln!("dtb dumped to {}. Exiting.", path.display());
        return Ok(0);
    }
    devices(config, inventory, machine, drives).await?;

    let mut commands = CommandTable::new();
    let mut hmp = HmpTable::new();
    block::qmp::register(&mut commands, &mut hmp, &inventory.graph);
    block_jobs::register(&mut commands, &inventory.jobs);
    export::qmp::register(&mut commands, &inventory.exports);
    machine::qmp::register(&mut commands, &mut hmp, machine);
    chardev::register_hmp(&mut hmp, &inventory.chardevs);
    let monitor = Monitor::new(commands, hmp, events, rt::current())
        .map_err(|e| format!("cannot set up the monitors' thread: {e}"))?;
    let requests = machine.requests().clone();
    inventory.chardevs.on_quit(Arc::new(move || requests.shutdown(ShutdownCause::HostQmpQuit, 0)));
    for (i, m) in config.monitors.iter().enumerate() {
        serve(&monitor, &inventory.chardevs, m, i).await.map_err(|e| format!("{}: {}", m.spelt, text(e)))?;
    }
    for id in config
        .serials
        .iter()
        .enumerate()
        .filter(|(_, g)| g.value.starts_with("mon:"))
        .map(|(i, _)| serial_label(i))
    {
        let stream = inventory.chardevs.monitor_stream(&id, true).map_err(text)?;
        monitor.serve_hmp(stream, HmpOptions::default());
    }

    let _pidfile = config.pidfile.as_deref().map(PidFile::create).transpose()?;
    catch_signals(machine)?;
    if config.daemonize {
        daemon::ready().map_err(|e| format!("-daemonize: {e}"))?;
    }
    if !config.stopped {
        machine.start().await.map_err(text)?;
    }
    let code = machine.wait_exit().await;
    monitor.shutdown(FAREWELL).await;
    Ok(code)
}

/// Adds `-blockdev` nodes, each after those that it names, and then the drives.
async fn block_nodes(config: &Config, graph: &Arc<BlockGraph>) -> Result<Vec<(Given, Drive)>, String> {
    for g in &config.blockdevs {
        let options = qapi::from_arg(&g.value, Some("driver")).map_err(|e| about(g, e))?;
        graph.add(options).await.map_err(|e| about(g, e))?;
    }
    let mut drives = Vec::new();
    for g in &config.drives {
        let drive = Drive::parse(&g.value).map_err(|e| about(g, e))?;
        if let Some(warning) = graph.add_drive(drive.clone()).await.map_err(|e| about(g, e))? {
            tracing::warn!("{warning}");
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
    inventory: &Inventory,
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
            inventory.chardevs.open_legacy(&g.value, &serial_label(i)).await.map_err(|e| about(g, e))?;
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
    inventory: &Inventory,
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
        machine.plug(&with_globals(config, options), inventory).await.map_err(|e| about(g, e))?;
    }
    for g in &config.devices {
        let options = device_options(&g.value).map_err(|e| about(g, e))?;
        machine.plug(&with_globals(config, options), inventory).await.map_err(|e| about(g, e))?;
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

/// Makes SIGINT, SIGHUP and SIGTERM end the machine in order; a second one ends the process at once.
fn catch_signals(machine: &Machine) -> Result<(), String> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let requests = machine.requests().clone();
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGHUP, SIGTERM])
        .map_err(|e| format!("cannot catch signals: {e}"))?;
    let watch = move || {
        for (n, signal) in signals.forever().enumerate() {
            if n > 0 {
                chardev::restore_terminal();
                std::process::exit(128 + signal);
            }
            tracing::info!("terminating on signal {signal}");
            requests.shutdown(ShutdownCause::HostSignal, 0);
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(watch)
        .map(drop)
        .map_err(|e| format!("cannot start a thread: {e}"))
}
