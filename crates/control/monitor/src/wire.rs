//! The types of the monitor's own commands.

use qapi::Qapi;

/// What a session may turn on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
#[qapi(schema_name = "QMPCapability")]
pub enum QMPCapability {
    /// Out-of-band execution.
    Oob,
}

/// Begins a session.
#[derive(Clone, Debug, Qapi)]
#[qapi(command = "qmp_capabilities", ret = (), allow_preconfig)]
pub struct QmpCapabilities {
    /// What to turn on.
    pub enable: Option<Vec<QMPCapability>>,
}

/// A version number.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct VersionTriple {
    /// The last part.
    pub micro: i64,
    /// The middle part.
    pub minor: i64,
    /// The first part.
    pub major: i64,
}

/// The version of the program.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct VersionInfo {
    /// The emulator's whose contract this is.
    pub qemu: VersionTriple,
    /// Who built it.
    pub package: String,
}

/// Tells the version.
#[derive(Clone, Debug, Qapi)]
#[qapi(command = "query-version", ret = VersionInfo, allow_preconfig)]
pub struct QueryVersion {}

/// A command.
#[derive(Clone, Debug, Qapi)]
pub struct CommandInfo {
    /// Its name.
    pub name: String,
}

/// Tells the commands.
#[derive(Clone, Debug, Qapi)]
#[qapi(command = "query-commands", ret = Vec<CommandInfo>, allow_preconfig)]
pub struct QueryCommands {}

/// Tells the contract.
#[derive(Clone, Debug, Qapi)]
#[qapi(command = "query-qmp-schema", ret = Vec<qapi::Value>, allow_preconfig)]
pub struct QueryQmpSchema {}

/// Runs a command of the human monitor.
#[derive(Clone, Debug, Qapi)]
#[qapi(command = "human-monitor-command", ret = String)]
pub struct HumanMonitorCommand {
    /// The command.
    pub command_line: String,
    /// The CPU that it is about.
    pub cpu_index: Option<i64>,
}
