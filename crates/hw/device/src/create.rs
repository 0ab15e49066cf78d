use crate::{Bus, CharBackend, Device, TimerService};
use mem::Dma;
use qapi::QError;
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A boxed future that stays on its thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What [`DeviceType::create`](crate::DeviceType) gives.
pub type CreateFuture<'a> = LocalBoxFuture<'a, Result<Created, QError>>;

/// What a device that is being made may use. It runs on the control thread.
pub struct CreateCx<'a> {
    /// The user's id.
    pub id: Option<&'a str>,
    /// The object path, e.g. `/machine/peripheral/disk0`.
    pub path: &'a str,
    /// The bus that it will be plugged into.
    pub bus: Arc<dyn Bus>,
    /// Guest RAM, as seen from that bus.
    pub dma: Dma,
    /// What a user made before: block nodes, character devices, objects.
    pub resources: &'a dyn Resources,
    /// Timers on the guest's clock.
    pub timers: &'a TimerService,
    /// The executor for devices that have no I/O thread of their own.
    pub io: rt::Handle,
    /// What a running device tells its machine.
    pub host: Arc<dyn HostEvents>,
}

/// A new device.
pub struct Created {
    /// Its lifecycle.
    pub device: Arc<dyn Device>,
    /// What its bus takes; for `virtio-bus` an `Arc<dyn virtio::VirtioDevice>`.
    pub plug: Box<dyn Any + Send + Sync>,
    /// The bus that it brings along.
    pub child_bus: Option<Arc<dyn Bus>>,
}

/// Where a new device finds what its properties name.
pub trait Resources {
    /// The character device `id`; `None` where there is none.
    fn chardev(&self, id: &str) -> Option<Arc<dyn CharBackend>>;

    /// An object that a user made (`-object`), whatever its type; `None` where there is none.
    fn object(&self, id: &str) -> Option<Arc<dyn Any + Send + Sync>>;
}

/// An I/O error of a block device, as its event tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoErrorReport {
    /// The backend's name; may be empty.
    pub device: String,
    /// The device's object path.
    pub qom_path: String,
    /// A write, or a read.
    pub write: bool,
    /// `report`, `ignore` or `stop`.
    pub action: &'static str,
    /// The error was that no space was left.
    pub nospace: bool,
    /// The error's text.
    pub reason: String,
}

/// What a running device tells its machine. Called from any thread; must not block or call back.
pub trait HostEvents: Send + Sync {
    /// An I/O error; with the action `stop` the machine has to stop, and the device tries again at `resume`.
    fn io_error(&self, report: IoErrorReport);

    /// A guest opened or closed a console port.
    fn port_open(&self, id: &str, open: bool);
}

/// A machine that listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHost;

impl HostEvents for NoHost {
    fn io_error(&self, _report: IoErrorReport) {}

    fn port_open(&self, _id: &str, _open: bool) {}
}
