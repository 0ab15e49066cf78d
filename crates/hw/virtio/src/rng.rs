//! The entropy device (section 5.4): `virtio-rng-device`.

use crate::common::{COMMON_PROPS, common_features};
use crate::queue::{Chain, ChainState, VirtQueue};
use crate::runner::{Outcome, Runner, Service};
use crate::virtio_device::{TransportEvents, VirtioDevice};
use device::{
    BoxFuture, Category, CreateCx, Created, Device, DeviceType, LocalBoxFuture, PropDefault, PropKind,
    PropSpec, Props, Reset, StateBlob, StateError, Timer, TimerService, saved_state,
};
use parking_lot::Mutex;
use qapi::QError;
use qom::{Object, RngBackend, RngBuiltin};
use std::sync::{Arc, Weak};

/// `virtio-rng-device`.
pub static TYPE: DeviceType = DeviceType {
    name: "virtio-rng-device",
    alias: "",
    desc: "",
    category: Category::Misc,
    bus: "virtio-bus",
    props: &[COMMON_PROPS, PROPS],
    create: |cx, props| Box::pin(async move { create(&cx, &props) }),
    user_creatable: true,
};

static PROPS: &[PropSpec] = &[
    PropSpec::uint("max-bytes", PropKind::U64, NO_LIMIT),
    PropSpec::uint("period", PropKind::U32, 1 << 16),
    PropSpec::new("rng", PropKind::Link("rng-backend"), PropDefault::Unset),
];

/// `max-bytes`: as many as the driver asks for.
const NO_LIMIT: u64 = i64::MAX as u64;

/// The size of the only queue.
const QUEUE_SIZE: u16 = 8;

/// The most bytes that one request gets; a driver that wants more asks again.
const MAX_REQUEST: usize = 64 << 10;

/// A source of entropy for the guest, with a limit on bytes in a period.
pub struct VirtioRng {
    features: u64,
    max_bytes: u64,
    period_ns: u64,
    backend: Arc<dyn RngBackend>,
    /// The object that gives it, which must not be deleted meanwhile.
    _object: Option<Arc<dyn Object>>,
    exec: rt::Handle,
    me: Weak<VirtioRng>,
    /// Refills the quota.
    timer: Timer,
    state: Mutex<State>,
}

struct State {
    paused: bool,
    runner: Option<Arc<Runner>>,
    /// Bytes left in this period.
    quota: u64,
    /// Requests that wait for the next period.
    waiting: Vec<Chain>,
    /// Such requests of a loaded state whose queue is not there yet.
    to_restore: Vec<ChainState>,
}

saved_state! {
    /// The entropy device.
    pub struct RngState: "virtio-rng", 1 {
        /// Bytes left in this period.
        pub quota: u64,
        /// Requests that wait for the next period.
        pub waiting: Vec<ChainState>,
    }
}

fn create(cx: &CreateCx<'_>, props: &Props) -> Result<Created, QError> {
    let period = props.u32("period");
    if period == 0 {
        return Err(QError::new("'period' parameter expects a positive integer"));
    }
    let max_bytes = props.u64("max-bytes");
    if max_bytes > NO_LIMIT {
        return Err(QError::new("'max-bytes' parameter must be positive, and less than 2^63"));
    }
    let (object, backend) = match props.str("rng") {
        Some(id) => {
            let (o, b) = cx.link("rng", &id, "rng-backend", |o| o.rng())?;
            (Some(o), b)
        }
        None => (None, Arc::new(RngBuiltin) as Arc<dyn RngBackend>),
    };
    let features = common_features(props)?;
    let dev = VirtioRng::new(features, max_bytes, period, backend, object, cx.io.clone(), cx.timers);
    let plug: Arc<dyn VirtioDevice> = dev.clone();
    Ok(Created { device: dev, plug: Box::new(plug), child_bus: None })
}

impl VirtioRng {
    /// A device that gives at most `max_bytes` of `backend` in `period` milliseconds; `exec` serves its requests.
    pub fn new(
        features: u64,
        max_bytes: u64,
        period: u32,
        backend: Arc<dyn RngBackend>,
        object: Option<Arc<dyn Object>>,
        exec: rt::Handle,
        timers: &TimerService,
    ) -> Arc<VirtioRng> {
        Arc::new_cyclic(|me: &Weak<VirtioRng>| {
            let target = me.clone();
            let refill = move || {
                if let Some(dev) = target.upgrade() {
                    dev.refill();
                }
            };
            VirtioRng {
                features,
                max_bytes,
                period_ns: u64::from(period) * 1_000_000,
                backend,
                _object: object,
                exec,
                me: me.clone(),
                timer: timers.timer(Arc::new(refill)),
                state: Mutex::new(State {
                    paused: false,
                    runner: None,
                    quota: max_bytes,
                    waiting: Vec::new(),
                    to_restore: Vec::new(),
                }),
            }
        })
    }

    /// A new period begins.
    fn refill(&self) {
        let mut state = self.state.lock();
        state.quota = self.max_bytes;
        if state.paused {
            return;
        }
        self.retry(&mut state);
    }

    fn retry(&self, state: &mut State) {
        let Some(runner) = state.runner.clone() else { return };
        for chain in std::mem::take(&mut state.waiting) {
            if let Some(chain) = runner.again(chain) {
                state.waiting.push(chain);
            }
        }
    }

    /// How many of `want` bytes may be given now; 0: not before the next period.
    fn take_quota(&self, want: usize) -> usize {
        if self.max_bytes == NO_LIMIT {
            return want;
        }
        let mut state = self.state.lock();
        let n = state.quota.min(want as u64);
        state.quota -= n;
        if self.timer.deadline().is_none() {
            self.timer.arm_after(self.period_ns);
        }
        n as usize
    }

    fn keep(&self, queue: &VirtQueue, chain: Chain) {
        let mut state = self.state.lock();
        if queue.is_open() {
            state.waiting.push(chain);
            if self.timer.deadline().is_none() {
                self.timer.arm_after(self.period_ns);
            }
        }
    }

    fn restore(&self, state: &mut State) {
        let Some(runner) = state.runner.clone() else { return };
        for c in std::mem::take(&mut state.to_restore) {
            match runner.queue().load_chain(&c) {
                Ok(chain) => state.waiting.push(chain),
                Err(e) => runner.queue().fail(&e.to_string()),
            }
        }
        if !state.waiting.is_empty() && self.timer.deadline().is_none() {
            self.timer.arm_after(self.period_ns);
        }
    }
}

impl Service for VirtioRng {
    fn serve(self: Arc<Self>, queue: Arc<VirtQueue>, chain: Chain) -> LocalBoxFuture<'static, Outcome> {
        Box::pin(async move {
            let want = chain.writable.len().min(MAX_REQUEST);
            if want == 0 {
                return Outcome::Done(chain, 0);
            }
            let n = self.take_quota(want);
            if n == 0 {
                self.keep(&queue, chain);
                return Outcome::Kept;
            }
            match self.backend.bytes(n).await {
                Ok(bytes) if !bytes.is_empty() => {
                    let got = bytes.len().min(n);
                    chain.writable.copy_from(0, &bytes[..got]);
                    Outcome::Done(chain, got as u32)
                }
                // No entropy is no reason to hand out something else: try again later.
                other => {
                    tracing::warn!("virtio-rng: the source gives nothing: {:?}", other.err());
                    self.keep(&queue, chain);
                    Outcome::Kept
                }
            }
        })
    }
}

impl VirtioDevice for VirtioRng {
    fn device_id(&self) -> u32 {
        crate::spec::id::RNG
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, _off: u64, dst: &mut [u8]) {
        dst.fill(0);
    }

    fn write_config(&self, _off: u64, _src: &[u8]) {}

    fn connect(&self, _events: Arc<dyn TransportEvents>) {}

    fn activate(&self, _features: u64, queues: Vec<Option<Arc<VirtQueue>>>) {
        if let Some(q) = queues.into_iter().next().flatten() {
            self.restart_queue(q);
        }
    }

    fn deactivate(&self) {
        self.reset_queue(0);
        let mut state = self.state.lock();
        state.to_restore.clear();
        state.quota = self.max_bytes;
        drop(state);
        self.timer.cancel();
    }

    fn kick(&self, _index: u16) {
        let runner = self.state.lock().runner.clone();
        if let Some(r) = runner {
            r.kick();
        }
    }

    fn reset_queue(&self, _index: u16) {
        let runner = self.state.lock().runner.take();
        if let Some(r) = runner {
            r.stop();
        }
        self.state.lock().waiting.clear();
    }

    fn restart_queue(&self, queue: Arc<VirtQueue>) {
        let me: Weak<dyn Service> = self.me.clone();
        let mut state = self.state.lock();
        state.runner = Some(Arc::new(Runner::start(&self.exec, queue, me, state.paused)));
        self.restore(&mut state);
    }
}

impl Device for VirtioRng {
    fn reset(&self, _kind: Reset) {
        self.deactivate();
    }

    fn pause(&self) -> BoxFuture<'_> {
        let mut state = self.state.lock();
        state.paused = true;
        let runner = state.runner.clone();
        drop(state);
        if let Some(r) = &runner {
            r.pause();
        }
        Box::pin(async move {
            if let Some(r) = runner {
                r.idle().await;
            }
        })
    }

    fn resume(&self) {
        let mut state = self.state.lock();
        state.paused = false;
        if let Some(r) = &state.runner {
            r.resume();
        }
        self.retry(&mut state);
    }

    fn save(&self) -> StateBlob {
        let state = self.state.lock();
        let mut waiting = state.to_restore.clone();
        if let Some(r) = &state.runner {
            waiting.extend(state.waiting.iter().map(|c| r.queue().save_chain(c)));
        }
        RngState { quota: state.quota, waiting }.to_blob()
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        let s = RngState::from_blob(state)?;
        let mut mine = self.state.lock();
        mine.quota = s.quota.min(self.max_bytes);
        mine.waiting.clear();
        mine.to_restore = s.waiting;
        self.restore(&mut mine);
        Ok(())
    }

    fn name(&self) -> &str {
        "virtio-rng"
    }
}
