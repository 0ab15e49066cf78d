//! The console device (section 5.3): `virtio-serial-device`, a bus of ports (`virtconsole`, `virtserialport`).

mod port;
mod spec;

pub use port::PortState;

use crate::common::{COMMON_PROPS, common_features, read_config};
use crate::queue::{Chain, VirtQueue};
use crate::virtio_device::{TransportEvents, VirtioDevice};
use device::{
    BoxFuture, Bus, Category, CreateCx, Created, Device, DeviceType, HostEvents, PropDefault, PropKind,
    PropSpec, Props, Reset, StateBlob, StateError, saved_state,
};
use mem::Dma;
use parking_lot::Mutex;
use port::Port;
use qapi::{QError, qerr};
use spec::*;
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// `virtio-serial-device`.
pub static TYPE: DeviceType = DeviceType {
    name: "virtio-serial-device",
    alias: "",
    desc: "",
    category: Category::Input,
    bus: "virtio-bus",
    props: &[
        COMMON_PROPS,
        &[PropSpec::uint("max_ports", PropKind::U32, 31), PropSpec::bool("emergency-write", true)],
    ],
    create: |cx, props| Box::pin(async move { create(&cx, &props) }),
    user_creatable: true,
};

/// `virtconsole`.
pub static CONSOLE_TYPE: DeviceType = DeviceType {
    name: "virtconsole",
    alias: "",
    desc: "",
    category: Category::Input,
    bus: BUS_KIND,
    props: &[PORT_PROPS],
    create: |cx, props| Box::pin(async move { create_port(&cx, &props, true) }),
    user_creatable: true,
};

/// `virtserialport`.
pub static PORT_TYPE: DeviceType = DeviceType {
    name: "virtserialport",
    alias: "",
    desc: "",
    category: Category::Input,
    bus: BUS_KIND,
    props: &[PORT_PROPS],
    create: |cx, props| Box::pin(async move { create_port(&cx, &props, false) }),
    user_creatable: true,
};

static PORT_PROPS: &[PropSpec] = &[
    PropSpec::new("chardev", PropKind::Chardev, PropDefault::Unset),
    PropSpec::str("name"),
    PropSpec::uint("nr", PropKind::U32, ANY_PORT as u64),
];

const BUS_KIND: &str = "virtio-serial-bus";

/// `nr`: the first free one.
const ANY_PORT: u32 = u32::MAX;

/// As many as have queues.
const MAX_PORTS: u32 = 511;

/// The size of a port's queues, and of the control queues.
const PORT_QUEUE_SIZE: u16 = 128;
const CONTROL_QUEUE_SIZE: u16 = 32;

/// The most control messages that wait for the driver: several a port.
const MAX_CONTROL: usize = 4 * MAX_PORTS as usize;

/// The console device: control messages, and its ports.
pub struct VirtioSerial {
    shared: Arc<SerialShared>,
    features: u64,
}

pub(crate) struct SerialShared {
    max_ports: u32,
    exec: rt::Handle,
    host: Arc<dyn HostEvents>,
    paused: AtomicBool,
    /// Negotiated features.
    features: AtomicU64,
    ports: Mutex<BTreeMap<u32, Arc<Port>>>,
    control: Mutex<Control>,
    /// The state of ports of a saved state, until their queues are there.
    to_restore: Mutex<Vec<PortState>>,
    emergency: AtomicBool,
}

#[derive(Default)]
struct Control {
    rx: Option<Arc<VirtQueue>>,
    tx: Option<Arc<VirtQueue>>,
    /// Messages for which the driver has no buffers yet.
    waiting: VecDeque<Vec<u8>>,
}

saved_state! {
    /// The console device.
    pub struct ConsoleState: "virtio-console", 1 {
        /// Control messages for which the driver has no buffers yet.
        pub messages: Vec<device::StateBytes>,
        /// The ports.
        pub ports: Vec<PortState>,
    }
}

fn create(cx: &CreateCx<'_>, props: &Props) -> Result<Created, QError> {
    let max_ports = props.u32("max_ports");
    if max_ports == 0 {
        return Err(QError::new("Maximum number of serial ports not specified"));
    }
    if max_ports > MAX_PORTS {
        return Err(qerr!("maximum ports supported: {MAX_PORTS}"));
    }
    let emergency = props.bool("emergency-write");
    let dev =
        VirtioSerial::new(common_features(props)?, max_ports, emergency, cx.io.clone(), cx.host.clone());
    let name = cx.child_bus_name(BUS_KIND);
    let bus = SerialBus { name, dma: cx.dma.clone(), device: dev.shared.clone() };
    let plug: Arc<dyn VirtioDevice> = dev.clone();
    Ok(Created { device: dev, plug: Box::new(plug), child_bus: Some(Arc::new(bus)) })
}

/// Where ports are plugged in.
struct SerialBus {
    name: String,
    dma: Dma,
    device: Arc<SerialShared>,
}

impl Bus for SerialBus {
    fn kind(&self) -> &str {
        BUS_KIND
    }

    fn type_name(&self) -> &str {
        BUS_KIND
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn is_full(&self) -> bool {
        false
    }

    fn dma(&self) -> Dma {
        self.dma.clone()
    }

    fn plug(&self, plug: Box<dyn Any + Send + Sync>) -> Result<(), QError> {
        let port = plug.downcast::<Arc<Port>>().map_err(|_| qerr!("Bus '{}' takes ports only", self.name))?;
        self.device.ports.lock().insert(port.nr, *port);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn create_port(cx: &CreateCx<'_>, props: &Props, console: bool) -> Result<Created, QError> {
    let bus = cx.bus.as_any().downcast_ref::<SerialBus>();
    let bus = bus.ok_or_else(|| qerr!("Bus '{}' takes no ports", cx.bus.name()))?;
    let dev = &bus.device;
    let backend = match props.str("chardev") {
        Some(id) => Some(cx.chardev(props.type_name(), "chardev", &id)?),
        None => None,
    };
    let name = props.str("name");
    let nr = dev.port_number(props.u32("nr"), console, name.as_deref())?;
    let id = cx.id.unwrap_or_default().to_owned();
    let port = Port::new(nr, console, name, id, backend.clone(), Arc::downgrade(dev));
    if let Some(b) = backend {
        b.attach(port.clone()).map_err(|e| {
            let prop = format!("Property '{}.chardev' can't take value '{}'", props.type_name(), b.id());
            e.prepend(&prop)
        })?;
        let me = Arc::downgrade(&port);
        b.on_writable(Arc::new(move || {
            if let Some(p) = me.upgrade() {
                p.tx_kick();
            }
        }));
    }
    Ok(Created { device: Arc::new(PortDevice), plug: Box::new(port), child_bus: None })
}

/// A port's own lifecycle: its state belongs to the console device.
struct PortDevice;

impl Device for PortDevice {
    fn reset(&self, _kind: Reset) {}

    fn save(&self) -> StateBlob {
        StateBlob::empty("virtio-console-port-device")
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        state.expect("virtio-console-port-device", 1, &[])
    }

    fn name(&self) -> &str {
        "virtio-console-port"
    }
}

impl SerialShared {
    fn multiport(&self) -> bool {
        self.features.load(Ordering::Relaxed) & F_MULTIPORT != 0
    }

    fn all_ports(&self) -> Vec<Arc<Port>> {
        self.ports.lock().values().cloned().collect()
    }

    /// The number that a new port gets.
    fn port_number(&self, want: u32, console: bool, name: Option<&str>) -> Result<u32, QError> {
        let ports = self.ports.lock();
        let err = |text: String| Err(QError::new(format!("virtio-serial-bus: {text}")));
        if want == 0 && !console {
            return Err(QError::new(
                "Port number 0 on virtio-serial devices reserved for virtconsole devices for backward compatibility.",
            ));
        }
        if let Some(n) = name
            && ports.values().any(|p| p.name.as_deref() == Some(n))
        {
            return err(format!("A port already exists by name {n}"));
        }
        if want == ANY_PORT {
            let first = u32::from(!console);
            return match (first..self.max_ports).find(|n| !ports.contains_key(n)) {
                Some(n) => Ok(n),
                None => err("Maximum port limit for this device reached".into()),
            };
        }
        if ports.contains_key(&want) {
            return err(format!("A port already exists at id {want}"));
        }
        if want >= self.max_ports {
            return err(format!("Out-of-range port id specified, max. allowed: {}", self.max_ports - 1));
        }
        Ok(want)
    }

    /// Sends a control message, as soon as the driver has a buffer for it.
    fn send(&self, port: u32, event: u16, value: u16, tail: &[u8]) {
        if !self.multiport() {
            return;
        }
        let mut m = Vec::with_capacity(CONTROL + tail.len());
        m.extend_from_slice(&port.to_le_bytes());
        m.extend_from_slice(&event.to_le_bytes());
        m.extend_from_slice(&value.to_le_bytes());
        m.extend_from_slice(tail);
        let mut c = self.control.lock();
        if c.rx.is_none() {
            return;
        }
        if c.waiting.len() < MAX_CONTROL {
            c.waiting.push_back(m);
        }
        drop(c);
        self.flush_control();
    }

    fn flush_control(&self) {
        let mut c = self.control.lock();
        if self.paused.load(Ordering::SeqCst) {
            return;
        }
        let Some(rx) = c.rx.clone() else { return };
        while !c.waiting.is_empty()
            && let Some(chain) = rx.pop_or_want_kick()
        {
            let Some(m) = c.waiting.pop_front() else { break };
            let n = m.len().min(chain.writable.len());
            chain.writable.copy_from(0, &m[..n]);
            rx.complete(chain, n as u32);
        }
        drop(c);
        rx.publish();
    }

    /// Takes control messages from the driver.
    fn read_control(self: &Arc<Self>) {
        if self.paused.load(Ordering::SeqCst) {
            return;
        }
        let Some(tx) = self.control.lock().tx.clone() else { return };
        for _ in 0..tx.size() {
            let Some(chain) = tx.pop_or_want_kick() else { return tx.publish() };
            self.control_message(&chain);
            tx.complete(chain, 0);
        }
        tx.publish();
        // A driver that never stops must not keep this thread.
        let me = Arc::downgrade(self);
        drop(self.exec.spawn(move || async move {
            if let Some(device) = me.upgrade() {
                device.read_control();
            }
        }));
    }

    fn control_message(&self, chain: &Chain) {
        let mut m = [0; CONTROL];
        if chain.readable.len() < CONTROL {
            return;
        }
        chain.readable.copy_to(0, &mut m);
        let nr = u32::from_le_bytes([m[0], m[1], m[2], m[3]]);
        let event = u16::from_le_bytes([m[4], m[5]]);
        let value = u16::from_le_bytes([m[6], m[7]]);
        if event == DEVICE_READY {
            if value != 0 {
                for p in self.all_ports() {
                    self.send(p.nr, DEVICE_ADD, 1, &[]);
                }
            }
            return;
        }
        let Some(port) = self.ports.lock().get(&nr).cloned() else { return };
        match event {
            PORT_READY if value != 0 => {
                if port.console {
                    self.send(nr, CONSOLE_PORT, 1, &[]);
                }
                if let Some(name) = &port.name {
                    self.send(nr, PORT_NAME, 1, name.as_bytes());
                }
                if port.host_open.load(Ordering::Relaxed) {
                    self.send(nr, PORT_OPEN, 1, &[]);
                }
            }
            PORT_OPEN => {
                let open = value != 0;
                if port.guest_open.swap(open, Ordering::Relaxed) != open {
                    if !port.id.is_empty() {
                        self.host.port_open(&port.id, open);
                    }
                    port.rx_kick();
                }
            }
            _ => {}
        }
    }

    fn port_of(&self, queue: u16) -> Option<(Arc<Port>, bool)> {
        let nr = if queue < 2 { 0 } else { u32::from(queue) / 2 - 1 };
        if (CONTROL_RX..=CONTROL_TX).contains(&queue) {
            return None;
        }
        Some((self.ports.lock().get(&nr)?.clone(), queue % 2 == 1))
    }

    fn restore(&self) {
        for s in std::mem::take(&mut *self.to_restore.lock()) {
            let port = self.ports.lock().get(&s.nr).cloned();
            if let Some(Err(e)) = port.map(|p| p.load(&s)) {
                tracing::warn!("virtio-console: port {}: {e}", s.nr);
            }
        }
    }
}

impl VirtioSerial {
    /// A device without ports yet, with room for `max_ports` (1 to 511).
    pub fn new(
        common: u64,
        max_ports: u32,
        emergency: bool,
        exec: rt::Handle,
        host: Arc<dyn HostEvents>,
    ) -> Arc<VirtioSerial> {
        assert!((1..=MAX_PORTS).contains(&max_ports));
        let mut features = common | F_MULTIPORT;
        if emergency {
            features |= F_EMERG_WRITE;
        }
        let shared = SerialShared {
            max_ports,
            exec,
            host,
            paused: AtomicBool::new(false),
            features: AtomicU64::new(0),
            ports: Mutex::default(),
            control: Mutex::default(),
            to_restore: Mutex::default(),
            emergency: AtomicBool::new(emergency),
        };
        Arc::new(VirtioSerial { shared: Arc::new(shared), features })
    }
}

impl VirtioDevice for VirtioSerial {
    fn device_id(&self) -> u32 {
        crate::spec::id::CONSOLE
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut v = vec![PORT_QUEUE_SIZE; 2 * (self.shared.max_ports as usize + 1)];
        v[usize::from(CONTROL_RX)] = CONTROL_QUEUE_SIZE;
        v[usize::from(CONTROL_TX)] = CONTROL_QUEUE_SIZE;
        v
    }

    fn read_config(&self, off: u64, dst: &mut [u8]) {
        let mut b = [0; config::LEN];
        b[config::MAX_NR_PORTS..][..4].copy_from_slice(&self.shared.max_ports.to_le_bytes());
        read_config(&b, off, dst);
    }

    fn write_config(&self, off: u64, src: &[u8]) {
        // Section 5.3.4: a byte for the console at any time, before all setting up.
        if off == config::EMERG_WR
            && self.shared.emergency.load(Ordering::Relaxed)
            && let Some(byte) = src.first()
        {
            let port = self.shared.ports.lock().values().find(|p| p.console).cloned();
            if let Some(p) = port {
                p.write_now(*byte);
            }
        }
    }

    fn connect(&self, _events: Arc<dyn TransportEvents>) {}

    fn negotiated(&self, features: u64) {
        self.shared.features.store(features, Ordering::Relaxed);
    }

    fn activate(&self, _features: u64, queues: Vec<Option<Arc<VirtQueue>>>) {
        let get = |i: u16| queues.get(usize::from(i)).cloned().flatten();
        let mut c = self.shared.control.lock();
        (c.rx, c.tx) = (get(CONTROL_RX), get(CONTROL_TX));
        drop(c);
        for p in self.shared.all_ports() {
            let rx = port_queue(p.nr);
            p.set_queues(get(rx), get(rx + 1));
            // Without control messages the only port is always open.
            if !self.shared.multiport() && p.nr == 0 {
                p.guest_open.store(true, Ordering::Relaxed);
            }
        }
        self.shared.restore();
        if !self.shared.paused.load(Ordering::SeqCst) {
            self.resume();
        }
    }

    fn deactivate(&self) {
        *self.shared.control.lock() = Control::default();
        self.shared.features.store(0, Ordering::Relaxed);
        self.shared.to_restore.lock().clear();
        for p in self.shared.all_ports() {
            p.set_queues(None, None);
            if p.guest_open.swap(false, Ordering::Relaxed) && !p.id.is_empty() {
                self.shared.host.port_open(&p.id, false);
            }
        }
    }

    fn kick(&self, index: u16) {
        match index {
            CONTROL_RX => self.shared.flush_control(),
            CONTROL_TX => self.shared.read_control(),
            _ => match self.shared.port_of(index) {
                Some((p, true)) => p.tx_kick(),
                Some((p, false)) => p.rx_kick(),
                None => {}
            },
        }
    }

    fn reset_queue(&self, index: u16) {
        match index {
            CONTROL_RX => self.shared.control.lock().rx = None,
            CONTROL_TX => self.shared.control.lock().tx = None,
            _ => match self.shared.port_of(index) {
                Some((p, true)) => p.set_tx(None),
                Some((p, false)) => p.set_rx(None),
                None => {}
            },
        }
    }

    fn restart_queue(&self, queue: Arc<VirtQueue>) {
        match queue.index() {
            CONTROL_RX => self.shared.control.lock().rx = Some(queue),
            CONTROL_TX => self.shared.control.lock().tx = Some(queue),
            i => match self.shared.port_of(i) {
                Some((p, true)) => p.set_tx(Some(queue)),
                Some((p, false)) => p.set_rx(Some(queue)),
                None => {}
            },
        }
    }
}

impl Device for VirtioSerial {
    fn reset(&self, _kind: Reset) {
        self.deactivate();
    }

    fn pause(&self) -> BoxFuture<'_> {
        // Everything runs at once where it is asked for, so nothing is in flight but what has begun elsewhere.
        self.shared.paused.store(true, Ordering::SeqCst);
        drop(self.shared.control.lock());
        let ports = self.shared.all_ports();
        Box::pin(async move {
            for p in ports {
                while p.is_busy() {
                    rt::yield_now().await;
                }
            }
        })
    }

    fn resume(&self) {
        self.shared.paused.store(false, Ordering::SeqCst);
        self.shared.read_control();
        self.shared.flush_control();
        for p in self.shared.all_ports() {
            p.tx_kick();
            p.deliver_held();
            p.rx_kick();
        }
    }

    fn save(&self) -> StateBlob {
        let waiting = self.shared.control.lock().waiting.clone();
        let mut ports: Vec<PortState> = self.shared.all_ports().iter().map(|p| p.save()).collect();
        // What was loaded and not taken up yet is still the state.
        for s in self.shared.to_restore.lock().iter() {
            if let Some(p) = ports.iter_mut().find(|p| p.nr == s.nr) {
                *p = s.clone();
            }
        }
        ConsoleState { messages: waiting.into_iter().map(device::StateBytes).collect(), ports }.to_blob()
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        let s = ConsoleState::from_blob(state)?;
        let have: Vec<u32> = self.shared.all_ports().iter().map(|p| p.nr).collect();
        if s.ports.iter().map(|p| p.nr).ne(have) {
            return Err(StateError::new("virtio-console: the state has other ports"));
        }
        if s.messages.len() > MAX_CONTROL {
            return Err(StateError::new("virtio-console: too many messages"));
        }
        let mut c = self.shared.control.lock();
        c.waiting = s.messages.into_iter().map(|m| m.0).collect();
        let active = c.rx.is_some() || c.tx.is_some();
        drop(c);
        *self.shared.to_restore.lock() = s.ports;
        if active {
            self.shared.restore();
        }
        Ok(())
    }

    fn name(&self) -> &str {
        "virtio-console"
    }
}
