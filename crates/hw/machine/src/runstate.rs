//! What a machine is doing, why it stopped or was reset, and what it does then.

pub use api::run_state::{RunState, ShutdownCause};
use qapi::QapiEnum;

/// Whether only a reset leads on from a state.
pub(crate) fn needs_reset(state: RunState) -> bool {
    matches!(state, RunState::InternalError | RunState::Shutdown)
}

/// The human monitor's line about a state.
pub(crate) fn hmp_line(state: RunState) -> String {
    match state {
        RunState::Running => "VM status: running\n".into(),
        RunState::Paused => "VM status: paused\n".into(),
        other => format!("VM status: paused ({})\n", other.as_str()),
    }
}

/// Whether the guest, and not the host, is the cause.
pub(crate) fn by_guest(cause: ShutdownCause) -> bool {
    matches!(cause, ShutdownCause::GuestShutdown | ShutdownCause::GuestReset | ShutdownCause::GuestPanic)
}

/// What a machine does when a reset is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RebootAction {
    /// Resets.
    #[default]
    Reset,
    /// Shuts down (`-no-reboot`).
    Shutdown,
}

/// What a machine does when it is shut down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShutdownAction {
    /// Ends the program.
    #[default]
    Poweroff,
    /// Stands still (`-no-shutdown`).
    Pause,
}

/// What a machine does when its guest says that it failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PanicAction {
    /// As for a shutdown.
    #[default]
    Shutdown,
    /// Stands still.
    Pause,
    /// Ends the program with an error.
    ExitFailure,
    /// Nothing.
    None,
}

/// What happens on the guest's requests: `-action`, `-no-reboot`, `-no-shutdown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// On a reset.
    pub reboot: RebootAction,
    /// On a shutdown.
    pub shutdown: ShutdownAction,
    /// On a panic.
    pub panic: PanicAction,
}
