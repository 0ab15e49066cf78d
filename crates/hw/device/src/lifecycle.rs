use crate::{StateBlob, StateError};
use std::future::Future;
use std::pin::Pin;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T = ()> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Power-on: everything is as when the device was made.
    Cold,
    /// The machine was reset while running; only what hardware keeps over a reset (a clock, flash) is kept.
    Warm,
}

/// A device's lifecycle. Any thread may call; calls for one device come one after the other.
///
/// The order is: made; `reset(Cold)`; any number of {`pause`, `save` or `load` or `reset`, `resume`}.
pub trait Device: Send + Sync {
    /// Puts the device into its reset state. Afterwards it is the same as a fresh device, except for what
    /// hardware keeps over such a reset. Work in flight may still complete, but the guest never sees it.
    fn reset(&self, kind: Reset);

    /// Stops producing: no request is taken from the guest any more, and the future ends when nothing is in
    /// flight. Input that arrives is kept. Dropping the future leaves the device paused, with work in flight.
    fn pause(&self) -> BoxFuture<'_> {
        Box::pin(std::future::ready(()))
    }

    /// Takes up the work that waited during the pause.
    fn resume(&self) {}

    /// The state that a guest can tell, by its published schema. The device is paused.
    fn save(&self) -> StateBlob;

    /// Takes over a saved state. The device is paused.
    ///
    /// # Errors
    /// A state of another device, an unknown version, or values that cannot be; then nothing has changed.
    fn load(&self, state: &StateBlob) -> Result<(), StateError>;

    /// The device's name, for people.
    fn name(&self) -> &str;
}
