use crate::{
    CreateCx, Device, DeviceType, HostEvents, Props, RawValue, Registry, Resources, TimerService, check_id,
};
use mem::Dma;
use parking_lot::Mutex;
use qapi::{ErrorClass, QError, qerr};
use std::any::Any;
use std::sync::Arc;

/// Where devices are plugged in.
pub trait Bus: Send + Sync {
    /// The kind that device types ask for: `virtio-bus`.
    fn kind(&self) -> &str;

    /// The kind of this very bus, for messages: `virtio-mmio-bus`.
    fn type_name(&self) -> &str;

    /// Its name: `virtio-mmio-bus.0`.
    fn name(&self) -> &str;

    /// Whether no device can be added.
    fn is_full(&self) -> bool;

    /// Whether devices can come and go while the machine runs.
    fn hotplug(&self) -> bool {
        false
    }

    /// Guest RAM as devices on this bus see it.
    fn dma(&self) -> Dma;

    /// Takes a device; `plug` is what its type's `create` made for this kind of bus.
    ///
    /// # Errors
    /// Where it does not fit.
    fn plug(&self, plug: Box<dyn Any + Send + Sync>) -> Result<(), QError>;

    /// For a bus's own device types, which know its real type.
    fn as_any(&self) -> &dyn Any;
}

/// A device that a user plugged.
pub struct Instance {
    /// The user's id.
    pub id: Option<String>,
    /// Its object path.
    pub path: String,
    /// Its type.
    pub ty: &'static DeviceType,
    /// The name of the bus that it is on.
    pub bus: String,
    /// Its properties.
    pub props: Props,
    /// Its lifecycle.
    pub device: Arc<dyn Device>,
}

/// The buses of a machine and the devices that users plugged into them.
///
/// Changes are made on the control thread; any thread may look.
#[derive(Default)]
pub struct DeviceTree {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    buses: Vec<Arc<dyn Bus>>,
    devices: Vec<Arc<Instance>>,
    /// Ids of devices that are being made.
    claimed: Vec<String>,
    anonymous: usize,
}

/// What [`DeviceTree::plug`] hands to new devices.
pub struct PlugEnv<'a> {
    /// What a user made before.
    pub resources: &'a dyn Resources,
    /// Timers on the guest's clock.
    pub timers: &'a TimerService,
    /// The executor for devices without one of their own.
    pub io: rt::Handle,
    /// What devices tell their machine.
    pub host: Arc<dyn HostEvents>,
    /// The machine runs, so the bus must support that.
    pub hotplug: bool,
}

impl DeviceTree {
    /// A tree without buses.
    pub fn new() -> DeviceTree {
        DeviceTree::default()
    }

    /// Adds a bus. Where a user names none, a device goes on the first bus of its kind that has room.
    pub fn add_bus(&self, bus: Arc<dyn Bus>) {
        self.inner.lock().buses.push(bus);
    }

    /// The buses in the order in which they were added.
    pub fn buses(&self) -> Vec<Arc<dyn Bus>> {
        self.inner.lock().buses.clone()
    }

    /// The devices in the order in which they were plugged.
    pub fn devices(&self) -> Vec<Arc<Instance>> {
        self.inner.lock().devices.clone()
    }

    /// The device with this id or object path.
    ///
    /// # Errors
    /// `Device 'x' not found`.
    pub fn find(&self, id: &str) -> Result<Arc<Instance>, QError> {
        let inner = self.inner.lock();
        let hit = inner.devices.iter().find(|d| d.id.as_deref() == Some(id) || d.path == id);
        hit.cloned()
            .ok_or_else(|| QError::with_class(ErrorClass::DeviceNotFound, format!("Device '{id}' not found")))
    }

    fn find_bus(&self, ty: &DeviceType, name: Option<&str>) -> Result<Arc<dyn Bus>, QError> {
        let inner = self.inner.lock();
        let Some(name) = name else {
            let free = inner.buses.iter().find(|b| b.kind() == ty.bus && !b.is_full());
            return free.cloned().ok_or_else(|| qerr!("No '{}' bus found for device '{}'", ty.bus, ty.name));
        };
        let bus = inner.buses.iter().find(|b| b.name() == name);
        let bus = bus.ok_or_else(|| qerr!("Bus '{name}' not found"))?;
        if bus.kind() != ty.bus {
            return Err(qerr!("Device '{}' can't go on {} bus", ty.name, bus.type_name()));
        }
        if bus.is_full() {
            return Err(qerr!("Bus '{name}' is full"));
        }
        Ok(bus.clone())
    }

    /// Makes the device that `options` describe (with the keys `driver`, `id` and `bus` beside the type's
    /// properties) and plugs it in. Nothing is left behind on an error.
    ///
    /// # Errors
    /// The reference's messages on unknown types, properties, values, buses and duplicate ids; and what the
    /// device itself says.
    pub async fn plug(
        &self,
        registry: &Registry,
        options: &[(String, RawValue)],
        env: PlugEnv<'_>,
    ) -> Result<Arc<Instance>, QError> {
        let find = |key: &str| options.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v);
        let text = |key: &str| match find(key) {
            None => Ok(None),
            Some(RawValue::Text(s) | RawValue::Str(s)) => Ok(Some(s.as_str())),
            Some(_) => Err(qerr!("Invalid parameter type for '{key}', expected: string")),
        };
        let driver = text("driver")?.ok_or_else(|| qerr!("Parameter 'driver' is missing"))?;
        let ty = registry.find(driver)?;
        let bus = self.find_bus(ty, text("bus")?)?;
        if env.hotplug && !bus.hotplug() {
            return Err(qerr!("Bus '{}' does not support hotplugging", bus.name()));
        }
        let id = text("id")?;
        if let Some(id) = id {
            check_id(id)?;
        }
        let mut props = Props::new(ty.name, ty.props);
        for (k, v) in options {
            if !matches!(k.as_str(), "driver" | "id" | "bus") {
                props.set(k, v)?;
            }
        }
        let claim = self.claim(id, matches!(find("id"), Some(RawValue::Text(_))))?;
        let cx = CreateCx {
            id,
            path: &claim.path,
            dma: bus.dma(),
            bus: bus.clone(),
            tree: self,
            resources: env.resources,
            timers: env.timers,
            io: env.io,
            host: env.host,
        };
        let made = (ty.create)(cx, props.clone()).await?;
        bus.plug(made.plug)?;
        let instance = Arc::new(Instance {
            id: id.map(Into::into),
            path: claim.path.clone(),
            ty,
            bus: bus.name().into(),
            props,
            device: made.device,
        });
        let mut inner = self.inner.lock();
        inner.devices.push(instance.clone());
        inner.buses.extend(made.child_bus);
        Ok(instance)
    }

    /// Reserves an id, so that two devices that are made at the same time cannot both have it.
    fn claim(&self, id: Option<&str>, from_text: bool) -> Result<Claim<'_>, QError> {
        let mut inner = self.inner.lock();
        let Some(id) = id else {
            let n = inner.anonymous;
            inner.anonymous += 1;
            let path = format!("/machine/peripheral-anon/device[{n}]");
            return Ok(Claim { tree: self, id: None, number: Some(n), path });
        };
        if inner.claimed.iter().any(|c| c == id) || inner.devices.iter().any(|d| d.id.as_deref() == Some(id))
        {
            return Err(if from_text {
                qerr!("Duplicate ID '{id}' for device")
            } else {
                qerr!("Duplicate device ID '{id}'")
            });
        }
        inner.claimed.push(id.into());
        Ok(Claim { tree: self, id: Some(id.into()), number: None, path: format!("/machine/peripheral/{id}") })
    }
}

struct Claim<'a> {
    tree: &'a DeviceTree,
    id: Option<String>,
    /// Of a device without id.
    number: Option<usize>,
    path: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut inner = self.tree.inner.lock();
        if let Some(id) = &self.id {
            inner.claimed.retain(|c| c != id);
        }
        // A device that did not come to be gives its number back, if it was the last.
        if let Some(n) = self.number
            && inner.anonymous == n + 1
            && inner.devices.iter().all(|d| d.path != self.path)
        {
            inner.anonymous = n;
        }
    }
}
