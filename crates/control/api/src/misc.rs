//! Stopping and going on, the name that the user gave, and the human monitor.

use qapi::Qapi;

/// Stops the machine's processors. Nothing happens when they stand already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "stop")]
pub struct Stop;

/// Lets the machine's processors go on. Fails when an error must be dealt with first, say by a reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "cont")]
pub struct Cont;

/// Returns the machine's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-name", ret = NameInfo)]
pub struct QueryName;

/// A machine's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct NameInfo {
    /// The name of the option `-name`; left out where none was given.
    pub name: Option<String>,
}

/// Runs a command of the human monitor and returns what it prints.
///
/// Its output is meant for humans and changes between versions; errors are part of that text. Commands that need a terminal to ask on
/// do not work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "human-monitor-command", ret = String, features = ["savevm-monitor-nodes"])]
pub struct HumanMonitorCommand {
    /// The command and its arguments.
    pub command_line: String,
    /// The processor that commands about one processor mean; the first unless given.
    pub cpu_index: Option<i64>,
}
