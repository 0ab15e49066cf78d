use qapi::QError;
use std::sync::Arc;

/// Something happened to the other end of a character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharEvent {
    /// Somebody connected.
    Opened,
    /// The peer went away.
    Closed,
    /// A break condition on a serial line.
    Break,
}

/// The front end of a character device: the chip (a UART, a console port) or monitor that a back end feeds.
///
/// Called on the back end's thread with no lock of its held.
pub trait CharFrontend: Send + Sync {
    /// How many bytes [`CharFrontend::receive`] would take now.
    fn room(&self) -> usize;

    /// Bytes from the outside, at most [`CharFrontend::room`] many.
    fn receive(&self, bytes: &[u8]);

    /// The other end changed.
    fn event(&self, event: CharEvent);
}

/// The back end of a character device: stdio, a socket, a file. Any thread may call.
pub trait CharBackend: Send + Sync {
    /// Its id.
    fn id(&self) -> &str;

    /// Takes a front end.
    ///
    /// # Errors
    /// Where there is one already: `chardev 'x' is already in use`.
    fn attach(&self, front: Arc<dyn CharFrontend>) -> Result<(), QError>;

    /// Lets go of the front end.
    fn detach(&self);

    /// Writes without blocking; returns how many bytes were taken. If fewer than given, the callback of
    /// [`CharBackend::on_writable`] is called when there is room again.
    fn write(&self, bytes: &[u8]) -> usize;

    /// The front end, whose `room` was too small, has room again.
    fn accept_input(&self);

    /// Sets the function to call when a back end that took less than it was given can take more.
    fn on_writable(&self, f: Arc<dyn Fn() + Send + Sync>);
}
