//! Flash content in a block node: read when the board is built, written back as the guest changes it.

use block::driver::WriteFlags;
use block::{BlockGraph, Perm, Root, RootConfig};
use device::BoxFuture;
use mem::{IoBuf, Memory};
use misc::flash::FlashStore;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use rt::sync::Notify;
use std::sync::Arc;

/// A bank's block node.
pub(crate) struct RootStore(Arc<Inner>);

struct Inner {
    root: Arc<Root>,
    io: rt::Handle,
    state: Mutex<State>,
    idle: Notify,
}

#[derive(Default)]
struct State {
    /// What is to be written, as one range: a driver programs one place after another.
    dirty: Option<(u64, u64)>,
    mem: Option<Arc<Memory>>,
    writing: bool,
}

impl RootStore {
    /// Takes the drive or node `drive`, reads its whole content into `mem`, and stands for it from then on. What the
    /// guest changes is written back unless the node is read-only.
    pub(crate) async fn open(
        name: &str,
        drive: &str,
        graph: Option<&Arc<BlockGraph>>,
        mem: &Arc<Memory>,
        io: rt::Handle,
    ) -> Result<RootStore, QError> {
        let not_found = || qerr!("Property 'cfi.pflash01.drive' can't find value '{drive}'");
        let graph = graph.ok_or_else(not_found)?;
        let snapshot = graph.snapshot();
        let node = match snapshot.drive(drive) {
            Some(d) => d.node.and_then(|n| snapshot.node(n)),
            None => Some(snapshot.by_name(drive).ok_or_else(not_found)?),
        };
        let mut config = RootConfig {
            qdev: Some(format!("/machine/{name}")),
            perm: Perm::CONSISTENT_READ,
            shared: Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED,
            desc: "block device".into(),
            ..RootConfig::default()
        };
        config.perm.set(Perm::WRITE, node.is_some_and(|n| n.writable()));
        let root = graph.attach(drive, config).await?;
        if root.len() != mem.len() {
            let (want, got) = (mem.len(), root.len());
            root.detach().await;
            return Err(qerr!("device '{name}' requires {want} bytes, block backend provides {got} bytes"));
        }
        let all = IoBuf::from_memory(mem.clone(), 0, mem.len());
        root.read(0, all).await.map_err(|e| qerr!("can't read block backend of '{name}': {e}"))?;
        Ok(RootStore(Arc::new(Inner { root, io, state: Mutex::default(), idle: Notify::new() })))
    }
}

impl FlashStore for RootStore {
    fn changed(&self, mem: &Arc<Memory>, off: u64, len: u64) {
        let inner = self.0.clone();
        if inner.root.read_only() {
            return; // The content changes for this run only.
        }
        {
            let mut s = inner.state.lock();
            let (start, end) = s.dirty.unwrap_or((off, off + len));
            // Whole sectors, which every node takes.
            s.dirty = Some((start.min(off) & !511, end.max(off + len).next_multiple_of(512)));
            s.mem = Some(mem.clone());
            if std::mem::replace(&mut s.writing, true) {
                return;
            }
        }
        let io = inner.io.clone();
        drop(io.spawn(move || async move { inner.write_back().await }));
    }

    fn written(&self) -> BoxFuture<'_> {
        Box::pin(async move {
            loop {
                let idle = self.0.idle.notified();
                if !self.0.state.lock().writing {
                    return;
                }
                idle.await;
            }
        })
    }
}

impl Inner {
    async fn write_back(&self) {
        loop {
            let work = {
                let mut s = self.state.lock();
                let work = s.dirty.take().zip(s.mem.clone());
                s.writing = work.is_some();
                work
            };
            let Some(((start, end), mem)) = work else { break };
            let buf = IoBuf::from_memory(mem, start, end - start);
            if let Err(e) = self.root.write(start, buf, WriteFlags::empty()).await {
                tracing::error!("flash: writing {start:#x} to {end:#x} back failed: {e}");
            }
        }
        self.idle.notify_all();
    }
}
