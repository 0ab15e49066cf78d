//! The block device (section 5.2): `virtio-blk-device`.

mod conf;
mod port;
mod request;
mod spec;

pub use conf::{BlkConf, OnError};
pub use port::BlockPort;

use crate::common::read_config;
use crate::queue::{Chain, ChainState, VirtQueue};
use crate::runner::{Outcome, Runner, Service};
use crate::virtio_device::{TransportEvents, VirtioDevice};
use base::Errno;
use device::{
    BoxFuture, Category, CreateCx, Created, Device, DeviceType, HostEvents, IoErrorReport, LocalBoxFuture,
    Props, Reset, StateBlob, StateError, saved_state,
};
use parking_lot::Mutex;
use qapi::QError;
use request::Request;
use spec::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// `virtio-blk-device`.
pub static TYPE: DeviceType = DeviceType {
    name: "virtio-blk-device",
    alias: "",
    desc: "",
    category: Category::Storage,
    bus: "virtio-bus",
    props: conf::PROPS,
    create: |cx, props| Box::pin(create(cx, props)),
    user_creatable: true,
};

/// A disk. Requests run on its executor, as many at once as the driver makes available.
pub struct VirtioBlk {
    conf: BlkConf,
    path: String,
    port: Arc<dyn BlockPort>,
    exec: rt::Handle,
    host: Arc<dyn HostEvents>,
    /// The I/O thread, which must not be deleted meanwhile.
    _iothread: Option<Arc<dyn qom::Object>>,
    me: Weak<VirtioBlk>,
    events: OnceLock<Arc<dyn TransportEvents>>,
    writeback: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    features: u64,
    paused: bool,
    runners: Vec<Option<Arc<Runner>>>,
    /// Requests that failed while the policy is to stop; they run again at `resume`.
    parked: Vec<(u16, Chain)>,
    /// Parked requests of a loaded state whose queue is not there yet.
    to_restore: Vec<ChainState>,
}

saved_state! {
    /// The block device.
    pub struct BlkState: "virtio-blk", 1 {
        /// The kind of cache: write-back, or write-through.
        pub writeback: bool,
        /// Requests that wait to be tried again.
        pub parked: Vec<ChainState>,
    }
}

async fn create(cx: CreateCx<'_>, props: Props) -> Result<Created, QError> {
    // The port's callback needs the device, which needs the port.
    let me: Arc<OnceLock<Weak<VirtioBlk>>> = Arc::default();
    let target = me.clone();
    let on_change = Arc::new(move |_| {
        if let Some(dev) = target.get().and_then(Weak::upgrade) {
            dev.capacity_changed();
        }
    });
    let drive = props.str("drive").filter(|d| !d.is_empty());
    let drive = drive.ok_or_else(|| QError::new("drive property not set"))?;
    let conf = BlkConf::from_props(&props)?;
    let (iothread, exec) = match props.str("iothread") {
        Some(id) => {
            let (object, exec) = cx.link("iothread", &id, "iothread", |o| o.iothread())?;
            (Some(object), exec)
        }
        None => (None, cx.io.clone()),
    };
    let root = cx.drive(TYPE.name, Some(&drive), props.bool("share-rw"), on_change).await?;
    let dev = VirtioBlk::new(conf, cx.path, root, exec, cx.host.clone(), iothread);
    // The cell is ours alone until here.
    let _ = me.set(Arc::downgrade(&dev));
    let plug: Arc<dyn VirtioDevice> = dev.clone();
    Ok(Created { device: dev, plug: Box::new(plug), child_bus: None })
}

impl VirtioBlk {
    /// A disk on `port`, at the object path `path`, whose requests run on `exec`, which must be an executor of
    /// another thread than those that call the device's methods.
    pub fn new(
        conf: BlkConf,
        path: &str,
        port: Arc<dyn BlockPort>,
        exec: rt::Handle,
        host: Arc<dyn HostEvents>,
        iothread: Option<Arc<dyn qom::Object>>,
    ) -> Arc<VirtioBlk> {
        Arc::new_cyclic(|me| VirtioBlk {
            path: path.into(),
            port,
            exec,
            host,
            _iothread: iothread,
            me: me.clone(),
            events: OnceLock::new(),
            writeback: AtomicBool::new(conf.writeback),
            state: Mutex::default(),
            conf,
        })
    }

    /// The storage has another size: the driver is told.
    pub fn capacity_changed(&self) {
        if let Some(e) = self.events.get() {
            e.config_changed();
        }
    }

    fn runner(&self, index: u16) -> Option<Arc<Runner>> {
        self.state.lock().runners.get(usize::from(index)).cloned().flatten()
    }

    fn runners(&self) -> Vec<Arc<Runner>> {
        self.state.lock().runners.iter().flatten().cloned().collect()
    }

    fn start(&self, queue: Arc<VirtQueue>, paused: bool) -> Arc<Runner> {
        let me: Weak<dyn Service> = self.me.clone();
        Arc::new(Runner::start(&self.exec, queue, me, paused))
    }

    /// Takes up parked requests of a loaded state whose queue is there now.
    fn restore(&self) {
        let mut state = self.state.lock();
        let waiting = std::mem::take(&mut state.to_restore);
        let mut broken = Vec::new();
        for c in waiting {
            match state.runners.get(usize::from(c.queue)).cloned().flatten() {
                Some(r) => match r.queue().load_chain(&c) {
                    Ok(chain) => state.parked.push((c.queue, chain)),
                    Err(e) => broken.push((r, e)),
                },
                None => state.to_restore.push(c),
            }
        }
        drop(state);
        for (r, e) in broken {
            r.queue().fail(&e.to_string());
        }
    }

    /// What to do after an error, and the tale of it for the machine.
    fn on_error(&self, read: bool, e: Errno) -> OnError {
        let nospace = e == Errno::NOSPC;
        let own = if read { self.conf.rerror } else { self.conf.werror };
        let policy = own.unwrap_or_else(|| self.port.on_error(read));
        let action = match policy {
            OnError::Enospc if nospace => OnError::Stop,
            OnError::Enospc => OnError::Report,
            p => p,
        };
        self.host.io_error(IoErrorReport {
            device: self.port.name().into(),
            qom_path: self.path.clone(),
            write: !read,
            action: match action {
                OnError::Ignore => "ignore",
                OnError::Stop => "stop",
                _ => "report",
            },
            nospace,
            reason: e.to_string(),
        });
        action
    }
}

impl Service for VirtioBlk {
    fn serve(self: Arc<Self>, queue: Arc<VirtQueue>, chain: Chain) -> LocalBoxFuture<'static, Outcome> {
        Box::pin(async move {
            let Some(status_at) = chain.writable.len().checked_sub(1) else {
                return Outcome::Broken("a request has no room for its status");
            };
            let data = chain.writable.slice(0..status_at);
            let request = match Request::parse(&self.conf, &*self.port, &chain.readable, data.clone()) {
                Ok(r) => r,
                Err(why) => return Outcome::Broken(why),
            };
            let fua = !self.writeback.load(Ordering::Relaxed);
            let status = match request.run(&self.conf, &*self.port, fua).await {
                Ok(s) => s,
                Err(e) => match self.on_error(request.is_read(), e) {
                    OnError::Ignore => S_OK,
                    OnError::Stop => {
                        let mut state = self.state.lock();
                        // A queue that was reset meanwhile wants nothing any more.
                        if queue.is_open() {
                            state.parked.push((queue.index(), chain));
                        }
                        return Outcome::Kept;
                    }
                    _ => {
                        // What the driver gets back is ours, so let it be nobody's data.
                        data.fill(0);
                        S_IOERR
                    }
                },
            };
            chain.writable.copy_from(status_at, &[status]);
            let written = chain.writable.len() as u32;
            Outcome::Done(chain, written)
        })
    }
}

impl VirtioDevice for VirtioBlk {
    fn device_id(&self) -> u32 {
        crate::spec::id::BLOCK
    }

    fn features(&self) -> u64 {
        self.conf.features(self.port.read_only())
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.conf.queue_size; usize::from(self.conf.num_queues)]
    }

    fn read_config(&self, off: u64, dst: &mut [u8]) {
        read_config(&self.conf.space(self.port.len(), self.writeback.load(Ordering::Relaxed)), off, dst);
    }

    fn write_config(&self, off: u64, src: &[u8]) {
        let at = (config::WRITEBACK as u64).checked_sub(off).and_then(|i| src.get(i as usize));
        if let Some(v) = at
            && self.state.lock().features & F_CONFIG_WCE != 0
        {
            self.writeback.store(*v != 0, Ordering::Relaxed);
        }
    }

    fn connect(&self, events: Arc<dyn TransportEvents>) {
        let _ = self.events.set(events);
    }

    fn negotiated(&self, features: u64) {
        self.state.lock().features = features;
        // Section 5.2.5.2: without a choice, the cache is what the driver can cope with.
        if features & F_CONFIG_WCE == 0 {
            self.writeback.store(features & F_FLUSH != 0, Ordering::Relaxed);
        }
    }

    fn activate(&self, _features: u64, queues: Vec<Option<Arc<VirtQueue>>>) {
        let mut state = self.state.lock();
        let paused = state.paused;
        state.runners = queues.into_iter().map(|q| q.map(|q| self.start(q, paused))).collect();
        drop(state);
        self.restore();
    }

    fn deactivate(&self) {
        let mut state = self.state.lock();
        let runners = std::mem::take(&mut state.runners);
        state.features = 0;
        drop(state);
        for r in runners.into_iter().flatten() {
            r.stop();
        }
        // Only now can no request park itself any more.
        let mut state = self.state.lock();
        state.parked.clear();
        state.to_restore.clear();
        drop(state);
        self.writeback.store(self.conf.writeback, Ordering::Relaxed);
    }

    fn kick(&self, index: u16) {
        if let Some(r) = self.runner(index) {
            r.kick();
        }
    }

    fn reset_queue(&self, index: u16) {
        let runner = self.state.lock().runners.get_mut(usize::from(index)).and_then(Option::take);
        if let Some(r) = runner {
            r.stop();
            self.state.lock().parked.retain(|(q, _)| *q != index);
        }
    }

    fn restart_queue(&self, queue: Arc<VirtQueue>) {
        let mut state = self.state.lock();
        let paused = state.paused;
        if let Some(slot) = state.runners.get_mut(usize::from(queue.index())) {
            *slot = Some(self.start(queue, paused));
        }
    }
}

impl Device for VirtioBlk {
    fn reset(&self, _kind: Reset) {
        self.deactivate();
    }

    fn pause(&self) -> BoxFuture<'_> {
        self.state.lock().paused = true;
        let runners = self.runners();
        for r in &runners {
            r.pause();
        }
        Box::pin(async move {
            for r in runners {
                r.idle().await;
            }
        })
    }

    fn resume(&self) {
        let mut state = self.state.lock();
        state.paused = false;
        let parked = std::mem::take(&mut state.parked);
        let runners = state.runners.clone();
        drop(state);
        for r in runners.iter().flatten() {
            r.resume();
        }
        for (q, chain) in parked {
            if let Some(r) = runners.get(usize::from(q)).and_then(Option::as_ref)
                && let Some(chain) = r.again(chain)
            {
                self.state.lock().parked.push((q, chain));
            }
        }
    }

    fn save(&self) -> StateBlob {
        let state = self.state.lock();
        let mut parked = state.to_restore.clone();
        for (q, chain) in &state.parked {
            if let Some(r) = state.runners.get(usize::from(*q)).and_then(Option::as_ref) {
                parked.push(r.queue().save_chain(chain));
            }
        }
        BlkState { writeback: self.writeback.load(Ordering::Relaxed), parked }.to_blob()
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        let s = BlkState::from_blob(state)?;
        if let Some(c) = s.parked.iter().find(|c| c.queue >= self.conf.num_queues) {
            return Err(StateError::new(format!("virtio-blk: there is no queue {}", c.queue)));
        }
        self.writeback.store(s.writeback, Ordering::Relaxed);
        let mut mine = self.state.lock();
        mine.parked.clear();
        mine.to_restore = s.parked;
        drop(mine);
        self.restore();
        Ok(())
    }

    fn name(&self) -> &str {
        "virtio-blk"
    }
}
