use crate::{Bus, CharBackend, Device, DeviceTree, TimerService};
use block::{BlockGraph, Perm, Root, RootConfig, RootEvent};
use mem::Dma;
use qapi::{ErrorClass, QError, qerr};
use qom::Object;
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
    /// All buses and devices.
    pub tree: &'a DeviceTree,
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

    /// The block graph; `None` where the process has none.
    fn block(&self) -> Option<Arc<BlockGraph>>;

    /// An object that a user made (`-object`), whatever its type; `None` where there is none.
    fn object(&self, id: &str) -> Option<Arc<dyn Object>>;
}

impl CreateCx<'_> {
    /// The name of a bus that the device brings along: `ID.0`, or `KIND.N` where the user gave no id.
    pub fn child_bus_name(&self, kind: &str) -> String {
        match self.id {
            Some(id) => format!("{id}.0"),
            None => {
                let prefix = format!("{kind}.");
                let taken = self.tree.buses().iter().filter(|b| b.name().starts_with(&prefix)).count();
                format!("{prefix}{taken}")
            }
        }
    }

    /// The object that the link property `prop` names, and what `pick` takes of it. Keep the object as long as it is
    /// used: that is what holds off its deletion.
    ///
    /// # Errors
    /// `Device 'x' not found`, or that `pick` finds it to be of another type than `expected`.
    pub fn link<T>(
        &self,
        prop: &str,
        id: &str,
        expected: &str,
        pick: impl FnOnce(&dyn Object) -> Option<T>,
    ) -> Result<(Arc<dyn Object>, T), QError> {
        let object = self.resources.object(id).ok_or_else(|| {
            QError::with_class(ErrorClass::DeviceNotFound, format!("Device '{id}' not found"))
        })?;
        let picked = pick(&*object)
            .ok_or_else(|| qerr!("Invalid parameter type for '{prop}', expected: {expected}"))?;
        Ok((object, picked))
    }

    /// The character device that a property of `type_name` names.
    ///
    /// # Errors
    /// `Property 'TYPE.chardev' can't find value 'x'`.
    pub fn chardev(&self, type_name: &str, prop: &str, id: &str) -> Result<Arc<dyn CharBackend>, QError> {
        let found = self.resources.chardev(id);
        found.ok_or_else(|| qerr!("Property '{type_name}.{prop}' can't find value '{id}'"))
    }

    /// Takes the block node or drive that the property `drive` of `type_name` names, to read it and, unless it is
    /// read-only, to write it; with `share_rw` others may write it too.
    ///
    /// # Errors
    /// `drive property not set`, `Property 'TYPE.drive' can't find value 'x'`, or a conflict with other users.
    pub async fn drive(
        &self,
        type_name: &str,
        drive: Option<&str>,
        share_rw: bool,
        on_change: Arc<dyn Fn(RootEvent) + Send + Sync>,
    ) -> Result<Arc<Root>, QError> {
        let drive = drive.filter(|d| !d.is_empty()).ok_or_else(|| QError::new("drive property not set"))?;
        let not_found = || qerr!("Property '{type_name}.drive' can't find value '{drive}'");
        let graph = self.resources.block().ok_or_else(not_found)?;
        let snapshot = graph.snapshot();
        let node = match snapshot.drive(drive) {
            Some(d) => d.node.and_then(|n| snapshot.node(n)),
            None => Some(snapshot.by_name(drive).ok_or_else(not_found)?),
        };
        let writable = node.is_some_and(|n| n.writable());
        let mut config = RootConfig {
            qdev: Some(self.path.to_owned()),
            perm: Perm::CONSISTENT_READ,
            // The guest learns of a new size, so others may resize.
            shared: Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED | Perm::RESIZE,
            desc: "block device".into(),
            on_change: Some(on_change),
            ..RootConfig::default()
        };
        config.perm.set(Perm::WRITE, writable);
        config.shared.set(Perm::WRITE, share_rw);
        graph.attach(drive, config).await
    }
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
