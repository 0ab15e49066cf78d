//! The export `vhost-user-blk`.

use crate::port::Port;
use crate::session::{self, Notices};
use api::block_export::{BlockExportKind, BlockExportOptionsVhostUserBlk, BlockExportType};
use api::sockets::SocketAddress;
use base::IoResult;
use block::{Root, RootConfig};
use device::NoHost;
use export::{ExportKind, LocalFuture, NewExport, Running};
use io::{Listener, Stream};
use parking_lot::Mutex;
use qapi::{QError, qerr};
use rt::sync::Notify;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;
use std::time::Duration;
use virtio::blk::{BlkConf, OnError, VirtioBlk};
use virtio::spec::{MAX_CHAIN, MAX_QUEUES, feature};
use virtio::{VirtioDevice, spec};

/// The kind of export: to be registered with [`export::Exports::register`].
#[derive(Clone, Copy, Debug, Default)]
pub struct VhostUserBlk;

/// Most segments of a request, as drivers are told. Rings may be longer.
const SEG_MAX: u32 = 126;
/// Sectors of the longest discard or zero-write.
const MAX_SECTORS: u32 = (1 << 31) / 512;

/// An export that listens for a front end, and serves one at a time.
struct Served {
    root: Arc<Root>,
    closed: AtomicBool,
    closing: Notify,
    current: Mutex<Option<Stream>>,
    listening: Mutex<Option<rt::JoinHandle<()>>>,
    /// The export's own thread, unless it has an iothread.
    thread: Mutex<Option<rt::IoThread>>,
    /// Keeps the iothread from being deleted.
    _iothread: Option<Arc<dyn qom::Object>>,
}

impl ExportKind for VhostUserBlk {
    fn ty(&self) -> BlockExportType {
        BlockExportType::VhostUserBlk
    }

    fn start<'a>(&'a self, new: NewExport<'a>) -> LocalFuture<'a, Result<Arc<dyn Running>, QError>> {
        Box::pin(async move { start(new).await.map(|s| s as Arc<dyn Running>) })
    }
}

fn conf(o: &BlockExportOptionsVhostUserBlk, through: bool) -> Result<BlkConf, QError> {
    let logical = o.logical_block_size.unwrap_or(512);
    if !logical.is_power_of_two() || !(512..=2 << 20).contains(&logical) {
        return Err(qerr!("parameter logical-block-size must be a power of 2 between 512 and 2097152"));
    }
    let num_queues = o.num_queues.unwrap_or(1);
    if num_queues == 0 {
        return Err(qerr!("num-queues must be greater than 0"));
    }
    // A ring's number is 8 bits in some messages.
    let most = MAX_QUEUES.min(crate::spec::VRING_INDEX_MASK as usize + 1);
    if usize::from(num_queues) > most {
        return Err(qerr!("num-queues must be at most {most}"));
    }
    let logical = logical as u32;
    Ok(BlkConf {
        common_features: feature::INDIRECT_DESC
            | feature::EVENT_IDX
            | feature::RING_PACKED
            | spec::feature::VERSION_1,
        serial: "vhost_user_blk".into(),
        num_queues,
        queue_size: MAX_CHAIN as u16,
        seg_max: SEG_MAX,
        logical_block_size: logical,
        physical_block_size: logical,
        min_io_size: 0,
        opt_io_size: logical,
        geometry: None,
        config_wce: !through,
        writeback: !through,
        discard: true,
        discard_alignment: logical,
        max_discard_sectors: MAX_SECTORS,
        write_zeroes: true,
        max_write_zeroes_sectors: MAX_SECTORS,
        rerror: Some(OnError::Report),
        werror: Some(OnError::Report),
    })
}

async fn start(new: NewExport<'_>) -> Result<Arc<Served>, QError> {
    let BlockExportKind::VhostUserBlk(options) = &new.options.kind else {
        return Err(qerr!("The options are not those of a vhost-user-blk export"));
    };
    let conf = conf(options, new.options.writethrough.unwrap_or(false))?;
    if !matches!(options.addr, SocketAddress::Unix(_) | SocketAddress::Fd(_)) {
        return Err(qerr!("Only socket address types 'unix' and 'fd' are supported"));
    }
    let addr = nbd::addr::to_io(&options.addr)?;
    let listener = Listener::bind(&addr).await.map_err(|e| QError::new(e.to_string()))?;
    let (thread, exec) = match new.iothread.as_ref().and_then(|o| o.iothread()) {
        Some(exec) => (None, exec),
        None => {
            let thread = rt::IoThread::spawn_as("vhost-user", rt::Conduct::storage())
                .map_err(|e| qerr!("cannot start a thread: {e}"))?;
            let exec = thread.handle();
            (Some(thread), exec)
        }
    };
    // The root's callback needs the device, which needs the root.
    let target: Arc<OnceLock<Weak<VirtioBlk>>> = Arc::default();
    let dev = target.clone();
    let on_change = Arc::new(move |_| {
        if let Some(dev) = dev.get().and_then(Weak::upgrade) {
            dev.capacity_changed();
        }
    });
    let config = RootConfig { on_change: Some(on_change), ..new.root };
    let root = new.graph.attach(&new.options.node_name, config).await?;
    let writable = new.options.writable.unwrap_or(false);
    let port = Arc::new(Port { root: root.clone(), writable });
    let device = VirtioBlk::new(conf, &new.options.id, port, exec.clone(), Arc::new(NoHost), None);
    _ = target.set(Arc::downgrade(&device));
    let served = Arc::new(Served {
        root,
        closed: AtomicBool::new(false),
        closing: Notify::new(),
        current: Mutex::default(),
        listening: Mutex::default(),
        thread: Mutex::new(thread),
        _iothread: new.iothread,
    });
    let me = served.clone();
    let task = exec.spawn(move || async move { me.listen(listener, device).await });
    *served.listening.lock() = Some(task);
    Ok(served)
}

impl Served {
    async fn listen(self: Arc<Self>, listener: Listener, device: Arc<VirtioBlk>) {
        let notices = Arc::new(Notices::default());
        device.connect(notices.clone());
        while let Some(came) = self.or_closed(listener.accept()).await {
            let Ok(stream) = came else {
                rt::sleep(Duration::from_millis(100)).await;
                continue;
            };
            *self.current.lock() = Some(stream.clone());
            if !self.closed.load(SeqCst) {
                let end = session::serve(&stream, device.clone(), notices.clone()).await;
                tracing::debug!("vhost-user: a front end leaves: {end:?}");
            }
            *self.current.lock() = None;
        }
    }

    /// What comes, or `None` once the export is closed.
    async fn or_closed<T>(&self, what: impl Future<Output = IoResult<T>>) -> Option<IoResult<T>> {
        let closing = self.closing.notified();
        if self.closed.load(SeqCst) {
            return None;
        }
        let (mut what, mut closing) = (pin!(what), pin!(closing));
        std::future::poll_fn(|cx| {
            if closing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            what.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

impl Running for Served {
    fn root(&self) -> &Arc<Root> {
        &self.root
    }

    fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// A front end does not keep the export, as in the reference: it is disconnected in any case.
    fn close(&self, _hard: bool) -> bool {
        self.closed.store(true, SeqCst);
        self.closing.notify_all();
        if let Some(stream) = &*self.current.lock() {
            stream.shutdown();
        }
        true
    }

    fn end(self: Arc<Self>) -> LocalFuture<'static> {
        Box::pin(async move {
            let task = self.listening.lock().take();
            if let Some(task) = task {
                _ = task.outcome().await;
            }
            let thread = self.thread.lock().take();
            // Its end is waited for elsewhere than on the control thread.
            rt::unblock(move || drop(thread)).await;
            self.root.detach().await;
        })
    }
}
