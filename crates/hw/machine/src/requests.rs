//! What vCPUs, devices and signals ask of their machine: noted at once, done by the control thread.

use crate::runstate::{RunState, ShutdownCause};
use parking_lot::Mutex;
use rt::sync::Notify;

/// The wishes; a later one of a kind takes an earlier one's place, so that a guest cannot pile them up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) shutdown: Option<(ShutdownCause, i32)>,
    pub(crate) reset: Option<ShutdownCause>,
    pub(crate) powerdown: bool,
    pub(crate) stop: Option<RunState>,
}

/// Where wishes are noted. Any thread may.
#[derive(Default)]
pub struct Requests {
    pending: Mutex<Pending>,
    arrived: Notify,
}

impl Requests {
    fn note(&self, f: impl FnOnce(&mut Pending)) {
        f(&mut self.pending.lock());
        self.arrived.notify_one();
    }

    /// Asks for a shutdown; `code` is the program's exit code then.
    pub fn shutdown(&self, cause: ShutdownCause, code: i32) {
        self.note(|p| p.shutdown = Some((cause, code)));
    }

    /// Asks for a reset.
    pub fn reset(&self, cause: ShutdownCause) {
        self.note(|p| p.reset = Some(cause));
    }

    /// Presses the power button.
    pub fn powerdown(&self) {
        self.note(|p| p.powerdown = true);
    }

    /// Asks that the machine stand still, in this state.
    pub fn stop(&self, state: RunState) {
        self.note(|p| p.stop = Some(state));
    }

    /// Waits for wishes and takes them.
    pub(crate) async fn next(&self) -> Pending {
        loop {
            let pending = std::mem::take(&mut *self.pending.lock());
            if pending != Pending::default() {
                return pending;
            }
            self.arrived.notified().await;
        }
    }
}
