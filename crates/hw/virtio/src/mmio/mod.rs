//! The MMIO transport (section 4.2): register layout 2, and the legacy layout 1.

mod regs;
mod state;
mod wires;

pub use state::{MmioQueueState, MmioState};

use crate::queue::{Layout, VirtQueue};
use crate::spec::{feature, status};
use crate::virtio_device::VirtioDevice;
use device::{BoxFuture, Bus, Category, Device, DeviceType, IrqLine, PropSpec, Reset, StateBlob, StateError};
use mem::{Dma, Mmio, Size};
use parking_lot::{Mutex, MutexGuard};
use qapi::{QError, qerr};
use regs::*;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use wires::Wires;

/// The size of the register window in bytes.
pub const MMIO_SIZE: u64 = 0x200;

/// `virtio-mmio`: the transports are the board's, so users set their properties but make none.
pub static TYPE: DeviceType = DeviceType {
    name: "virtio-mmio",
    alias: "",
    desc: "",
    category: Category::Misc,
    bus: "System",
    props: &[&[PropSpec::bool("force-legacy", true)]],
    create: |_, _| {
        Box::pin(std::future::ready(Err(QError::new("Parameter 'driver' expects a pluggable device type"))))
    },
    user_creatable: false,
};

/// Features that only a legacy driver sees.
const LEGACY_ONLY: u64 = feature::NOTIFY_ON_EMPTY | feature::ANY_LAYOUT;

/// One virtio-mmio transport: registers, and a bus with room for one device.
///
/// Any vCPU's thread may access the registers. A reset by the driver returns when the device has let go of guest
/// memory; so it may wait for requests that the host's storage is working on.
pub struct VirtioMmio {
    name: Box<str>,
    dma: Dma,
    legacy: bool,
    wires: Arc<Wires>,
    device: Mutex<Option<Arc<dyn VirtioDevice>>>,
    regs: Mutex<Regs>,
    /// Held over each call of the device's `activate`, `deactivate` and the like, so that they do not overlap.
    lifecycle: Mutex<()>,
}

struct Regs {
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    /// Legacy: GuestPageSize.
    page_size: u32,
    queues: Vec<QueueRegs>,
    /// The device has its queues.
    active: bool,
}

struct QueueRegs {
    max: u16,
    num: u32,
    /// Modern: QueueReady. Legacy: QueuePFN is not 0.
    ready: bool,
    align: u32,
    pfn: u32,
    desc: u64,
    driver: u64,
    device: u64,
    queue: Option<Arc<VirtQueue>>,
}

impl QueueRegs {
    fn new(max: u16) -> QueueRegs {
        QueueRegs {
            max,
            num: u32::from(max),
            ready: false,
            align: 0,
            pfn: 0,
            desc: 0,
            driver: 0,
            device: 0,
            queue: None,
        }
    }
}

impl Regs {
    fn new(queues: Vec<QueueRegs>) -> Regs {
        Regs {
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            page_size: 0,
            queues,
            active: false,
        }
    }

    fn selected(&mut self) -> Option<&mut QueueRegs> {
        self.queues.get_mut(self.queue_sel as usize)
    }

    /// Where a queue is; `None` where the driver has not set it up in a way that makes sense.
    fn layout(&self, q: &QueueRegs, legacy: bool) -> Option<Layout> {
        let size = u16::try_from(q.num).ok().filter(|n| *n > 0 && *n <= q.max)?;
        let features = self.driver_features;
        if !legacy {
            return Some(Layout { size, desc: q.desc, driver: q.driver, device: q.device, features });
        }
        // Section 2.7.2: the parts of a legacy ring follow one another.
        let align = u64::from(q.align);
        if !align.is_power_of_two() || !self.page_size.is_power_of_two() {
            return None;
        }
        let n = u64::from(size);
        let desc = u64::from(q.pfn) * u64::from(self.page_size);
        let driver = desc + 16 * n;
        let device = base::units::align_up(driver + 6 + 2 * n, align)?;
        Some(Layout { size, desc, driver, device, features })
    }
}

impl VirtioMmio {
    /// Transport number `index` of a board. `legacy` is the property `force-legacy`: register layout 1.
    pub fn new(index: usize, irq: IrqLine, dma: Dma, legacy: bool) -> Arc<VirtioMmio> {
        let name: Box<str> = format!("virtio-mmio-bus.{index}").into();
        let wires = Wires {
            warned: AtomicBool::new(false),
            irq,
            isr: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            driver_ok: AtomicBool::new(false),
            legacy,
            queues: Mutex::default(),
            name: name.clone(),
        };
        Arc::new(VirtioMmio {
            name,
            dma,
            legacy,
            wires: Arc::new(wires),
            device: Mutex::default(),
            regs: Mutex::new(Regs::new(Vec::new())),
            lifecycle: Mutex::default(),
        })
    }

    /// Whether it has register layout 1.
    pub fn is_legacy(&self) -> bool {
        self.legacy
    }

    /// The device that is plugged in.
    pub fn device(&self) -> Option<Arc<dyn VirtioDevice>> {
        self.device.lock().clone()
    }

    /// Plugs a device in. Done once.
    ///
    /// # Errors
    /// `Bus 'x' is full`.
    pub fn plug_device(&self, dev: Arc<dyn VirtioDevice>) -> Result<(), QError> {
        let mut slot = self.device.lock();
        if slot.is_some() {
            return Err(qerr!("Bus '{}' is full", self.name));
        }
        *slot = Some(dev.clone());
        drop(slot);
        self.regs.lock().queues = dev.queue_sizes().into_iter().map(QueueRegs::new).collect();
        dev.connect(self.wires.clone());
        Ok(())
    }

    /// What this transport shows of a device's features.
    fn offered(&self, dev: &dyn VirtioDevice) -> u64 {
        if self.legacy {
            dev.features() & 0xffff_ffff
        } else {
            (dev.features() | feature::VERSION_1) & !LEGACY_ONLY
        }
    }

    fn read_reg(&self, off: u64) -> u32 {
        match off {
            MAGIC_VALUE => return MAGIC,
            VERSION => return if self.legacy { 1 } else { 2 },
            VENDOR_ID => return VENDOR,
            _ => {}
        }
        let Some(dev) = self.device() else { return 0 };
        let regs = self.regs.lock();
        let queue = regs.queues.get(regs.queue_sel as usize);
        match off {
            DEVICE_ID => dev.device_id(),
            DEVICE_FEATURES => {
                let sel = regs.device_features_sel;
                drop(regs);
                self.offered(&*dev).checked_shr(sel.saturating_mul(32)).unwrap_or(0) as u32
            }
            QUEUE_NUM_MAX => queue.map_or(0, |q| u32::from(q.max)),
            QUEUE_PFN if self.legacy => queue.map_or(0, |q| q.pfn),
            QUEUE_READY if !self.legacy => queue.map_or(0, |q| u32::from(q.ready)),
            // A queue's reset is over when the write of it returns.
            QUEUE_RESET => 0,
            INTERRUPT_STATUS => self.wires.isr.load(Ordering::SeqCst),
            STATUS => {
                let broken = self.wires.needs_reset.load(Ordering::SeqCst);
                regs.status | if broken { status::DEVICE_NEEDS_RESET } else { 0 }
            }
            // Section 4.2.2: a region of shared memory that does not exist has the length and base -1.
            SHM_LEN_LOW | SHM_LEN_HIGH | SHM_BASE_LOW | SHM_BASE_HIGH if !self.legacy => u32::MAX,
            CONFIG_GENERATION if !self.legacy => self.wires.generation.load(Ordering::SeqCst),
            _ => 0,
        }
    }

    fn write_reg(&self, off: u64, v: u32) {
        let Some(dev) = self.device() else { return };
        let legacy = self.legacy;
        match off {
            QUEUE_NOTIFY => return self.notify(&*dev, v),
            INTERRUPT_ACK => return self.wires.ack(v),
            STATUS => return self.set_status(&*dev, v),
            QUEUE_PFN if legacy => return self.set_pfn(&*dev, v),
            QUEUE_READY if !legacy => return self.set_ready(&*dev, v & 1 != 0),
            QUEUE_RESET if !legacy && v == 1 => return self.set_ready(&*dev, false),
            _ => {}
        }
        let mut regs = self.regs.lock();
        // A queue's place is fixed while it is in use.
        let set = |regs: &mut Regs, f: fn(&mut QueueRegs, u32)| {
            if let Some(q) = regs.selected().filter(|q| !q.ready) {
                f(q, v);
            }
        };
        match off {
            DEVICE_FEATURES_SEL => regs.device_features_sel = v,
            DRIVER_FEATURES_SEL => regs.driver_features_sel = v,
            DRIVER_FEATURES => {
                if regs.status & (status::FEATURES_OK | status::DRIVER_OK) != 0 {
                    return;
                }
                match regs.driver_features_sel {
                    0 => regs.driver_features = regs.driver_features & !0xffff_ffff | u64::from(v),
                    1 => regs.driver_features = regs.driver_features & 0xffff_ffff | u64::from(v) << 32,
                    _ => {}
                }
                if legacy {
                    regs.driver_features &= dev.features() & 0xffff_ffff;
                }
            }
            GUEST_PAGE_SIZE if legacy => regs.page_size = v,
            QUEUE_SEL => regs.queue_sel = v,
            QUEUE_NUM => set(&mut regs, |q, v| q.num = v),
            QUEUE_ALIGN if legacy => set(&mut regs, |q, v| q.align = v),
            QUEUE_DESC_LOW if !legacy => set(&mut regs, |q, v| low(&mut q.desc, v)),
            QUEUE_DESC_HIGH if !legacy => set(&mut regs, |q, v| high(&mut q.desc, v)),
            QUEUE_DRIVER_LOW if !legacy => set(&mut regs, |q, v| low(&mut q.driver, v)),
            QUEUE_DRIVER_HIGH if !legacy => set(&mut regs, |q, v| high(&mut q.driver, v)),
            QUEUE_DEVICE_LOW if !legacy => set(&mut regs, |q, v| low(&mut q.device, v)),
            QUEUE_DEVICE_HIGH if !legacy => set(&mut regs, |q, v| high(&mut q.device, v)),
            _ => {}
        }
    }

    fn notify(&self, dev: &dyn VirtioDevice, index: u32) {
        let regs = self.regs.lock();
        let known = regs.queues.get(index as usize).is_some_and(|q| q.queue.is_some());
        let active = regs.active;
        drop(regs);
        if active && known {
            dev.kick(index as u16);
        }
    }

    fn set_status(&self, dev: &dyn VirtioDevice, v: u32) {
        let _turn = self.lifecycle.lock();
        let v = v & 0xff & !status::DEVICE_NEEDS_RESET;
        if v == 0 {
            return self.reset_locked(Some(dev));
        }
        let mut regs = self.regs.lock();
        let old = regs.status;
        let mut new = v;
        if !self.legacy && v & !old & status::FEATURES_OK != 0 {
            let (offered, taken) = (self.offered(dev), regs.driver_features);
            if taken & !offered != 0 || taken & feature::VERSION_1 == 0 {
                new &= !status::FEATURES_OK;
            } else {
                drop(regs);
                dev.negotiated(taken);
                regs = self.regs.lock();
            }
        }
        regs.status = new;
        if new & !old & status::DRIVER_OK != 0 && !regs.active {
            self.activate(regs, dev);
        }
    }

    /// Gives the device its queues.
    fn activate(&self, mut regs: MutexGuard<'_, Regs>, dev: &dyn VirtioDevice) {
        if !self.legacy && regs.status & status::FEATURES_OK == 0 {
            drop(regs);
            crate::queue::QueueEvents::broken(&*self.wires, 0, "the driver is ready without features");
            return;
        }
        let mut wrong = None;
        for i in 0..regs.queues.len() {
            if !regs.queues[i].ready {
                continue;
            }
            match self.make_queue(&regs, i) {
                Some(q) => regs.queues[i].queue = Some(q),
                None => wrong = Some(i),
            }
        }
        regs.active = true;
        let features = regs.driver_features;
        let queues: Vec<_> = regs.queues.iter().map(|q| q.queue.clone()).collect();
        drop(regs);
        *self.wires.queues.lock() = queues.iter().flatten().cloned().collect();
        self.wires.driver_ok.store(true, Ordering::SeqCst);
        if self.legacy {
            dev.negotiated(features);
        }
        dev.activate(features, queues);
        if let Some(i) = wrong {
            crate::queue::QueueEvents::broken(&*self.wires, i as u16, "it has an impossible layout");
        }
    }

    fn make_queue(&self, regs: &Regs, index: usize) -> Option<Arc<VirtQueue>> {
        let layout = regs.layout(&regs.queues[index], self.legacy)?;
        VirtQueue::new(index as u16, layout, self.dma.clone(), self.wires.clone()).ok()
    }

    /// Legacy: QueuePFN. 0 takes the queue away.
    fn set_pfn(&self, dev: &dyn VirtioDevice, pfn: u32) {
        let _turn = self.lifecycle.lock();
        if pfn == 0 {
            return self.stop_queue(dev);
        }
        let mut regs = self.regs.lock();
        if let Some(q) = regs.selected().filter(|q| !q.ready) {
            q.pfn = pfn;
            q.ready = true;
            self.restart_if_active(regs, dev);
        }
    }

    fn set_ready(&self, dev: &dyn VirtioDevice, ready: bool) {
        let _turn = self.lifecycle.lock();
        if !ready {
            return self.stop_queue(dev);
        }
        let mut regs = self.regs.lock();
        if let Some(q) = regs.selected().filter(|q| !q.ready) {
            q.ready = true;
            self.restart_if_active(regs, dev);
        }
    }

    /// A queue that is set up while the device runs: one that was reset, or a legacy driver's late one.
    fn restart_if_active(&self, mut regs: MutexGuard<'_, Regs>, dev: &dyn VirtioDevice) {
        if !regs.active || self.wires.needs_reset.load(Ordering::SeqCst) {
            return;
        }
        let i = regs.queue_sel as usize;
        match self.make_queue(&regs, i) {
            Some(q) => {
                regs.queues[i].queue = Some(q.clone());
                drop(regs);
                self.wires.queues.lock().push(q.clone());
                dev.restart_queue(q);
            }
            None => {
                drop(regs);
                crate::queue::QueueEvents::broken(&*self.wires, i as u16, "it has an impossible layout");
            }
        }
    }

    /// Takes the selected queue away from the device; its registers go back to their defaults.
    fn stop_queue(&self, dev: &dyn VirtioDevice) {
        let mut regs = self.regs.lock();
        let i = regs.queue_sel;
        let Some(q) = regs.selected() else { return };
        let gone = q.queue.take();
        *q = QueueRegs::new(q.max);
        drop(regs);
        if let Some(q) = gone {
            q.close();
            self.wires.queues.lock().retain(|x| !Arc::ptr_eq(x, &q));
            dev.reset_queue(i as u16);
        }
    }

    fn reset_locked(&self, dev: Option<&dyn VirtioDevice>) {
        let mut regs = self.regs.lock();
        let maxes: Vec<u16> = regs.queues.iter().map(|q| q.max).collect();
        // Legacy drivers set the page size once, before the reset that every driver begins with.
        let page_size = regs.page_size;
        *regs = Regs::new(maxes.into_iter().map(QueueRegs::new).collect());
        regs.page_size = page_size;
        drop(regs);
        let queues = std::mem::take(&mut *self.wires.queues.lock());
        for q in queues {
            q.close();
        }
        if let Some(dev) = dev {
            dev.deactivate();
        }
        self.wires.reset();
    }
}

fn low(r: &mut u64, v: u32) {
    *r = *r & !0xffff_ffff | u64::from(v);
}

fn high(r: &mut u64, v: u32) {
    *r = *r & 0xffff_ffff | u64::from(v) << 32;
}

impl Mmio for VirtioMmio {
    fn read(&self, off: u64, size: Size) -> u64 {
        if off < CONFIG {
            // Section 4.2.2.2: registers are accessed by 32 bits.
            return if size == Size::B4 && off.is_multiple_of(4) { self.read_reg(off).into() } else { 0 };
        }
        let mut b = [0; 8];
        if let Some(dev) = self.device() {
            dev.read_config(off - CONFIG, &mut b[..size.bytes()]);
        }
        u64::from_le_bytes(b)
    }

    fn write(&self, off: u64, value: u64, size: Size) {
        if off < CONFIG {
            if size == Size::B4 && off.is_multiple_of(4) {
                self.write_reg(off, value as u32);
            }
        } else if let Some(dev) = self.device() {
            dev.write_config(off - CONFIG, &value.to_le_bytes()[..size.bytes()]);
        }
    }

    fn name(&self) -> &str {
        "virtio-mmio"
    }
}

impl Bus for VirtioMmio {
    fn kind(&self) -> &str {
        "virtio-bus"
    }

    fn type_name(&self) -> &str {
        "virtio-mmio-bus"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn is_full(&self) -> bool {
        self.device.lock().is_some()
    }

    fn dma(&self) -> Dma {
        self.dma.clone()
    }

    fn plug(&self, plug: Box<dyn Any + Send + Sync>) -> Result<(), QError> {
        match plug.downcast::<Arc<dyn VirtioDevice>>() {
            Ok(dev) => self.plug_device(*dev),
            Err(_) => Err(qerr!("Bus '{}' takes virtio devices only", self.name)),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Device for VirtioMmio {
    fn reset(&self, _kind: Reset) {
        let _turn = self.lifecycle.lock();
        self.reset_locked(self.device().as_deref());
        self.regs.lock().page_size = 0;
        self.wires.generation.store(0, Ordering::SeqCst);
    }

    fn pause(&self) -> BoxFuture<'_> {
        // The device behind it is paused by itself; without vCPUs nothing happens here.
        Box::pin(std::future::ready(()))
    }

    fn save(&self) -> StateBlob {
        let regs = self.regs.lock();
        MmioState {
            device_id: self.device().map_or(0, |d| d.device_id()),
            legacy: self.legacy,
            status: regs.status,
            needs_reset: self.wires.needs_reset.load(Ordering::SeqCst),
            isr: self.wires.isr.load(Ordering::SeqCst),
            generation: self.wires.generation.load(Ordering::SeqCst),
            device_features_sel: regs.device_features_sel,
            driver_features_sel: regs.driver_features_sel,
            driver_features: regs.driver_features,
            queue_sel: regs.queue_sel,
            page_size: regs.page_size,
            active: regs.active,
            queues: regs.queues.iter().map(QueueRegs::save).collect(),
        }
        .to_blob()
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        let s = MmioState::from_blob(state)?;
        let dev = self.device();
        if s.device_id != dev.as_ref().map_or(0, |d| d.device_id()) || s.legacy != self.legacy {
            return Err(StateError::new(format!("{}: the state is of another device", self.name)));
        }
        let _turn = self.lifecycle.lock();
        // Everything is made and checked before anything changes.
        let mut regs = Regs::new(Vec::new());
        regs.status = s.status & 0xff & !status::DEVICE_NEEDS_RESET;
        regs.device_features_sel = s.device_features_sel;
        regs.driver_features_sel = s.driver_features_sel;
        regs.driver_features = s.driver_features;
        regs.queue_sel = s.queue_sel;
        regs.page_size = s.page_size;
        regs.active = s.active;
        let maxes: Vec<u16> = self.regs.lock().queues.iter().map(|q| q.max).collect();
        if maxes.len() != s.queues.len() {
            return Err(StateError::new(format!("{}: the state has another number of queues", self.name)));
        }
        if let Some(d) = &dev
            && s.driver_features & !self.offered(&**d) != 0
        {
            return Err(StateError::new(format!(
                "{}: the driver uses features that are not offered",
                self.name
            )));
        }
        for (max, q) in maxes.iter().zip(&s.queues) {
            regs.queues.push(q.to_regs(*max));
        }
        let mut made = Vec::new();
        for (i, q) in s.queues.iter().enumerate() {
            if let Some(ring) = &q.ring {
                let queue = self.make_queue(&regs, i);
                let queue = queue.filter(|_| s.active && q.ready);
                let queue = queue
                    .ok_or_else(|| StateError::new(format!("{}: queue {i} has no layout", self.name)))?;
                queue.load(ring)?;
                made.push((i, queue));
            }
        }
        for (i, q) in made {
            regs.queues[i].queue = Some(q);
        }
        // A device that never had queues may have loaded its own state before.
        let was_active = self.regs.lock().active;
        self.reset_locked(dev.as_deref().filter(|_| was_active));
        let queues: Vec<_> = regs.queues.iter().map(|q| q.queue.clone()).collect();
        *self.wires.queues.lock() = queues.iter().flatten().cloned().collect();
        self.wires.needs_reset.store(s.needs_reset, Ordering::SeqCst);
        self.wires.driver_ok.store(s.active, Ordering::SeqCst);
        self.wires.generation.store(s.generation, Ordering::SeqCst);
        self.wires.isr.store(s.isr & (INT_USED | INT_CONFIG), Ordering::SeqCst);
        let features = s.driver_features;
        let negotiated = regs.status & status::FEATURES_OK != 0 || s.active;
        *self.regs.lock() = regs;
        if let Some(d) = dev {
            if negotiated {
                d.negotiated(features);
            }
            if s.active {
                d.activate(features, queues);
            }
        }
        self.wires.sync();
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl QueueRegs {
    fn save(&self) -> MmioQueueState {
        MmioQueueState {
            num: self.num,
            ready: self.ready,
            align: self.align,
            pfn: self.pfn,
            desc: self.desc,
            driver: self.driver,
            device: self.device,
            ring: self.queue.as_ref().map(|q| q.save()),
        }
    }
}

impl MmioQueueState {
    fn to_regs(&self, max: u16) -> QueueRegs {
        QueueRegs {
            max,
            num: self.num,
            ready: self.ready,
            align: self.align,
            pfn: self.pfn,
            desc: self.desc,
            driver: self.driver,
            device: self.device,
            queue: None,
        }
    }
}
