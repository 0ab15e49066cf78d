//! One ring of a session: what was said of it, and whether it runs.

use crate::memory::Table;
use crate::message::VringAddr;
use arc_swap::ArcSwapOption;
use rt::AsyncFd;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use virtio::VirtioDevice;
use virtio::queue::{Layout, QueueEvents, VirtQueue};

/// How often a ring is looked at whose driver has no way to notify.
const POLL: Duration = Duration::from_millis(1);

/// How a ring's driver is told.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) call: ArcSwapOption<OwnedFd>,
    pub(crate) err: ArcSwapOption<OwnedFd>,
}

/// The wires of all rings.
pub(crate) struct Wires(pub(crate) Vec<Wire>);

fn signal(fd: &ArcSwapOption<OwnedFd>) {
    if let Some(fd) = &*fd.load() {
        // A counter that is full says enough.
        _ = rustix::io::write(fd.as_fd(), &1u64.to_ne_bytes());
    }
}

impl QueueEvents for Wires {
    fn used_buffers(&self, queue: u16) {
        signal(&self.0[usize::from(queue)].call);
    }

    fn broken(&self, queue: u16, why: &str) {
        tracing::warn!(queue, "vhost-user: the driver broke its ring: {why}");
        signal(&self.0[usize::from(queue)].err);
    }
}

/// How a driver notifies.
#[derive(Clone)]
pub(crate) enum Kick {
    Fd(AsyncFd),
    /// Not at all.
    Poll,
}

/// A ring that runs.
pub(crate) struct Running {
    pub(crate) queue: Arc<VirtQueue>,
    pub(crate) layout: Layout,
    listening: rt::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A ring.
#[derive(Default)]
pub(crate) struct Ring {
    pub(crate) size: u16,
    pub(crate) addr: Option<VringAddr>,
    /// Where it begins when it is started next ([`VirtQueue::position`]).
    pub(crate) position: u32,
    pub(crate) kick: Option<Kick>,
    pub(crate) enabled: bool,
    pub(crate) running: Option<Running>,
}

impl Ring {
    /// Where the ring is in the machine's memory.
    pub(crate) fn layout(&self, table: &Table, features: u64) -> Option<Layout> {
        let a = self.addr?;
        Some(Layout {
            size: self.size,
            desc: table.translate(a.desc)?,
            driver: table.translate(a.avail)?,
            device: table.translate(a.used)?,
            features,
        })
    }

    /// Begins to listen for the driver's notifications of a queue that the device serves from now on.
    pub(crate) fn run(
        &mut self,
        device: &Arc<dyn VirtioDevice>,
        queue: Arc<VirtQueue>,
        layout: Layout,
        kick: Kick,
    ) {
        let (device, index) = (device.clone(), queue.index());
        let listening = rt::spawn_local(async move {
            match kick {
                Kick::Fd(fd) => listen(&fd, || device.kick(index)).await,
                Kick::Poll => loop {
                    device.kick(index);
                    rt::sleep(POLL).await;
                },
            }
        });
        self.running = Some(Running { queue, layout, listening });
    }
}

async fn listen(fd: &AsyncFd, kick: impl Fn()) {
    let mut count = [0; 8];
    while fd.readable().await.is_ok() {
        match rustix::io::read(fd.fd(), &mut count) {
            Ok(0) => return,
            Ok(_) => kick(),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        // A descriptor that is always readable must not keep others from their turn.
        rt::yield_now().await;
    }
}
