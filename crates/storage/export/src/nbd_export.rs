//! One NBD export and its clients.

use crate::kind::{LocalFuture, Running};
use crate::server::Names;
use block::Root;
use block::bitmap::{Bitmap, Busy};
use io::Stream;
use nbd::server::ExportInfo;
use nbd::spec::*;
use parking_lot::Mutex;
use rt::sync::Notify;
use std::sync::Arc;

/// An export.
pub(crate) struct NbdExport {
    /// What clients ask for.
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) root: Arc<Root>,
    pub(crate) writable: bool,
    /// Every write is stable when it is answered.
    pub(crate) through: bool,
    /// Whether the depth context is offered.
    pub(crate) depth: bool,
    /// The dirty bitmaps that are offered.
    pub(crate) bitmaps: Vec<Arc<Bitmap>>,
    /// Keeps others from changing them for as long as the export is there.
    held: Mutex<Vec<Busy>>,
    /// Whether several clients may be there at a time.
    pub(crate) multi: bool,
    /// Where its clients are served, if not on the server's thread.
    pub(crate) thread: Option<rt::Handle>,
    /// Keeps the `iothread` object from being deleted.
    pub(crate) _iothread: Option<Arc<dyn qom::Object>>,
    /// Where clients find it.
    names: Names,
    clients: Mutex<Clients>,
    /// A client has left.
    left: Notify,
}

#[derive(Default)]
struct Clients {
    closed: bool,
    next: u64,
    list: Vec<(u64, Stream)>,
}

/// A client's place among those of an export; leaves when dropped.
pub(crate) struct Member {
    pub(crate) export: Arc<NbdExport>,
    number: u64,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.export.clients.lock().list.retain(|(n, _)| *n != self.number);
        self.export.left.notify_all();
    }
}

/// What an export is made from.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) writable: bool,
    pub(crate) through: bool,
    pub(crate) depth: bool,
    pub(crate) bitmaps: Vec<Busy>,
    pub(crate) multi: bool,
    pub(crate) iothread: Option<Arc<dyn qom::Object>>,
    pub(crate) names: Names,
}

impl NbdExport {
    pub(crate) fn new(parts: Parts, root: Arc<Root>) -> Arc<NbdExport> {
        Arc::new(NbdExport {
            name: parts.name,
            description: parts.description,
            root,
            writable: parts.writable,
            through: parts.through,
            depth: parts.depth,
            bitmaps: parts.bitmaps.iter().map(|b| b.bitmap().clone()).collect(),
            held: Mutex::new(parts.bitmaps),
            multi: parts.multi,
            thread: parts.iothread.as_ref().and_then(|o| o.iothread()),
            _iothread: parts.iothread,
            names: parts.names,
            clients: Mutex::default(),
            left: Notify::new(),
        })
    }

    /// Takes a client; `None` where the export is being removed.
    pub(crate) fn join(self: &Arc<Self>, stream: &Stream) -> Option<Member> {
        let mut clients = self.clients.lock();
        if clients.closed {
            return None;
        }
        let number = clients.next;
        clients.next += 1;
        clients.list.push((number, stream.clone()));
        Some(Member { export: self.clone(), number })
    }

    pub(crate) fn has_clients(&self) -> bool {
        !self.clients.lock().list.is_empty()
    }

    /// Disconnects the clients, and waits until their last requests have ended.
    pub(crate) async fn empty(&self) {
        let streams: Vec<Stream> = self.clients.lock().list.iter().map(|(_, s)| s.clone()).collect();
        streams.iter().for_each(Stream::shutdown);
        loop {
            let left = self.left.notified();
            if !self.has_clients() {
                return;
            }
            left.await;
        }
    }

    /// Waits until some client has come and none is there any more.
    pub(crate) async fn visited(&self) {
        loop {
            let left = self.left.notified();
            {
                let clients = self.clients.lock();
                if clients.next > 0 && clients.list.is_empty() {
                    return;
                }
            }
            left.await;
        }
    }

    /// What clients are told.
    pub(crate) fn info(&self) -> ExportInfo {
        let mut flags = TF_SEND_FLUSH | TF_SEND_FUA | TF_SEND_CACHE;
        if self.multi {
            flags |= TF_CAN_MULTI_CONN;
        }
        flags |= if self.writable {
            TF_SEND_TRIM | TF_SEND_WRITE_ZEROES | TF_SEND_FAST_ZERO
        } else {
            TF_READ_ONLY
        };
        // Requests of any size and place are served: only the preference is the node's.
        let limits = self.root.limits();
        let preferred =
            u32::try_from(limits.opt_transfer).unwrap_or(0).max(limits.request_alignment).max(4096);
        ExportInfo {
            name: self.name.clone(),
            description: self.description.clone(),
            size: self.root.len(),
            flags,
            block_size: (1, preferred.min(MAX_PAYLOAD).next_power_of_two(), MAX_PAYLOAD),
            depth: self.depth,
            bitmaps: self.bitmaps.iter().map(|b| b.name().to_owned()).collect(),
        }
    }
}

impl Running for NbdExport {
    fn root(&self) -> &Arc<Root> {
        &self.root
    }

    fn is_closed(&self) -> bool {
        self.clients.lock().closed
    }

    fn close(&self, hard: bool) -> bool {
        let mut clients = self.clients.lock();
        if !hard && !clients.list.is_empty() {
            return false;
        }
        clients.closed = true;
        drop(clients);
        self.names.lock().retain(|e| e.name != self.name);
        true
    }

    fn end(self: Arc<Self>) -> LocalFuture<'static> {
        Box::pin(async move {
            self.empty().await;
            self.held.lock().clear();
            self.root.detach().await;
        })
    }
}
