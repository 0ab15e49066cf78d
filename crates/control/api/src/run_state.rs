//! Whether the machine runs, and what ended it.

use qapi::Qapi;

/// What the machine is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum RunState {
    /// A debugger stopped it.
    Debug,
    /// It waits for an incoming migration.
    Inmigrate,
    /// An error inside the program stopped it.
    InternalError,
    /// It stopped for an I/O error of a device that is set to do so.
    IoError,
    /// It was stopped by a command.
    Paused,
    /// It was stopped after it had been migrated away.
    Postmigrate,
    /// It was not started yet.
    #[default]
    Prelaunch,
    /// It was stopped for the last part of a migration.
    FinishMigrate,
    /// It was stopped to restore a snapshot.
    RestoreVm,
    /// It is running.
    Running,
    /// It was stopped to save a snapshot.
    SaveVm,
    /// The guest shut down, and the program was told not to end then.
    Shutdown,
    /// The guest is asleep (ACPI S3).
    Suspended,
    /// A watchdog stopped it.
    Watchdog,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// It was stopped for a checkpoint of a mirrored machine.
    Colo,
}

/// Why the machine was reset or shut down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum ShutdownCause {
    /// It was not.
    #[default]
    None,
    /// An error of the host that could not be helped.
    HostError,
    /// The command `quit`.
    HostQmpQuit,
    /// The command `system_reset`.
    HostQmpSystemReset,
    /// A signal, such as SIGINT.
    HostSignal,
    /// Its window was closed.
    HostUi,
    /// The guest shut down.
    GuestShutdown,
    /// The guest asked for a reset, and that is set to end the machine.
    GuestReset,
    /// The guest's kernel panicked, and that is set to end the machine.
    GuestPanic,
    /// A part of the machine, not all of it, is reset.
    SubsystemReset,
    /// A snapshot is being loaded.
    SnapshotLoad,
}

/// Whether the machine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Qapi)]
pub struct StatusInfo {
    /// Whether its processors run.
    pub running: bool,
    /// What it is doing.
    pub status: RunState,
}

/// Tells whether the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-status", ret = StatusInfo, allow_preconfig)]
pub struct QueryStatus;

/// The machine was shut down; the program ends soon, unless it was told not to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "SHUTDOWN")]
pub struct ShutdownEvent {
    /// Whether the guest asked for it.
    pub guest: bool,
    /// Why.
    pub reason: ShutdownCause,
}

/// The machine was reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "RESET")]
pub struct ResetEvent {
    /// Whether the guest asked for it.
    pub guest: bool,
    /// Why.
    pub reason: ShutdownCause,
}

/// The guest was asked to power down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "POWERDOWN")]
pub struct PowerdownEvent;

/// The machine's processors were stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "STOP")]
pub struct StopEvent;

/// The machine's processors go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "RESUME")]
pub struct ResumeEvent;
