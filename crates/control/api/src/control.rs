//! The monitor itself: negotiation, version, list of commands, quitting.

use qapi::Qapi;

/// Something that a client may switch on when it starts to talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum QMPCapability {
    /// Commands that run out of band.
    Oob,
}

/// Ends negotiation: from now on commands are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "qmp_capabilities", allow_preconfig)]
pub struct QmpCapabilities {
    /// Capabilities to switch on; none unless given. The greeting lists those that there are.
    pub enable: Option<Vec<QMPCapability>>,
}

/// A version in three numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct VersionTriple {
    /// Raised with big changes.
    pub major: i64,
    /// Raised with every release.
    pub minor: i64,
    /// Raised with every bug fix release.
    pub micro: i64,
}

/// The version of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct VersionInfo {
    /// The version of QEMU whose contract is kept.
    pub qemu: VersionTriple,
    /// Who built what; free text.
    pub package: String,
}

/// Tells the version of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-version", ret = VersionInfo, allow_preconfig)]
pub struct QueryVersion;

/// A command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct CommandInfo {
    /// Its name.
    pub name: String,
}

/// Lists the commands that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-commands", ret = Vec<CommandInfo>, allow_preconfig)]
pub struct QueryCommands;

/// Ends the program.
///
/// The reply may still come, or the connection may be closed before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "quit", allow_preconfig)]
pub struct Quit;

/// How a monitor talks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum MonitorMode {
    /// Lines of text for humans.
    #[default]
    Readline,
    /// JSON for programs.
    Control,
}

/// A monitor to be set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct MonitorOptions {
    /// Its id; made up unless given.
    pub id: Option<String>,
    /// How it talks; `readline` in a machine and `control` in a storage daemon unless given.
    pub mode: Option<MonitorMode>,
    /// Write JSON on many lines. Only with `control`. Off unless given.
    pub pretty: Option<bool>,
    /// The id of the character device that it talks through.
    pub chardev: String,
}
