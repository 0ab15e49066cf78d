//! The monitor's own commands.

use crate::hmp::{HmpArgs, HmpTable};
use crate::server::Shared;
use crate::table::CommandTable;
use api::control::{QMPCapability, QmpCapabilities, QueryCommands, QueryVersion, VersionInfo, VersionTriple};
use api::introspect::QueryQmpSchema;
use api::misc::HumanMonitorCommand;
use qapi::{Command, Dict, QError, Value};
use std::sync::{Arc, OnceLock};

/// The command that a session begins with.
pub(crate) const CAPABILITIES: &str = QmpCapabilities::NAME;

/// The version that the greeting and `query-version` tell: that of the emulator whose contract this is, so that
/// clients which decide by it decide right, and Rhea's own as the package.
pub fn version() -> VersionInfo {
    VersionInfo {
        qemu: VersionTriple { micro: 2, minor: 0, major: 10 },
        package: format!("Rhea {}", env!("CARGO_PKG_VERSION")),
    }
}

/// What `info version` shows, without the line's end.
pub fn hmp_version_text() -> String {
    let v = version();
    format!("{}.{}.{} ({})", v.qemu.major, v.qemu.minor, v.qemu.micro, v.package)
}

/// The first line of a QMP session.
pub(crate) fn greeting(oob: bool) -> Value {
    let mut inner = Dict::new();
    inner.insert("version", qapi::to_value(&version()));
    let caps: Vec<Value> = if oob { vec!["oob".into()] } else { Vec::new() };
    inner.insert("capabilities", caps);
    let mut d = Dict::new();
    d.insert("QMP", inner);
    Value::Dict(d)
}

/// Checks a negotiation's arguments: whether out-of-band execution is wanted.
pub(crate) fn negotiate(arguments: Value, oob_offered: bool) -> Result<bool, QError> {
    let wanted: QmpCapabilities = qapi::from_json(arguments)?;
    let mut oob = false;
    for cap in wanted.enable.unwrap_or_default() {
        match cap {
            QMPCapability::Oob if oob_offered => oob = true,
            QMPCapability::Oob => return Err(QError::new("Capability oob not available")),
        }
    }
    Ok(oob)
}

/// Registers the monitor's own commands. Those that tell about the table itself are filled in through the cell,
/// once the table is complete.
pub(crate) fn register(table: &mut CommandTable, shared: &Arc<OnceLock<std::sync::Weak<Shared>>>) {
    table.register_session::<QmpCapabilities>();
    table.register_value::<QueryVersion>(|| qapi::to_value(&version()));
    let cell = shared.clone();
    let with = move |f: fn(&Shared) -> Value| {
        cell.get().and_then(std::sync::Weak::upgrade).map_or(Value::List(Vec::new()), |s| f(&s))
    };
    let of = with.clone();
    table.register_value::<QueryCommands>(move || of(|s| s.command_list.clone()));
    table.register_value::<QueryQmpSchema>(move || with(|s| s.schema().clone()));
}

/// Registers what there is where people have a monitor too.
pub(crate) fn register_hmp(
    table: &mut CommandTable,
    hmp: &mut HmpTable,
    shared: &Arc<OnceLock<std::sync::Weak<Shared>>>,
) {
    let cell = shared.clone();
    table.register(move |c: HumanMonitorCommand| {
        let shared = cell.get().and_then(std::sync::Weak::upgrade);
        async move {
            let shared = shared.ok_or_else(|| QError::new("The monitor is closing"))?;
            Ok(crate::hmp::terminal(&shared.hmp_run(&c.command_line).await))
        }
    });
    hmp.register(
        "log",
        "items",
        "select the log items that are written (none for none)",
        |a: HmpArgs| async move {
            match trace::parse(a.str("items")) {
                Ok((items, patterns)) => {
                    trace::set_items(&items);
                    if !patterns.is_empty() {
                        trace::select(patterns.iter().collect());
                    }
                    String::new()
                }
                Err(e) => format!("{}\n", e.to_string().trim_end()),
            }
        },
    );
    hmp.register("logfile", "filename", "write what is logged to a file", |a: HmpArgs| async move {
        trace::open_file(a.str("filename")).map_err(QError::from)
    });
    hmp.register("info version", "", "show the version of Rhea", |_| async {
        format!("{}\n", hmp_version_text())
    });
}
