//! The listener, and the handshake with those who come.

use crate::conn;
use crate::nbd_export::NbdExport;
use crate::threads::{Seat, Threads};
use base::{Errno, IoResult};
use io::tls::Credentials;
use io::{Listener, Stream};
use nbd::server::{ExportInfo, Exports, Handshake, Session, Step};
use parking_lot::Mutex;
use rt::sync::Semaphore;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What clients may ask for, in the order in which it came: clients that ask for a list see it so. No two have one name.
pub(crate) type Names = Arc<Mutex<Vec<Arc<NbdExport>>>>;

/// The export of this name.
pub(crate) fn named(names: &Names, name: &str) -> Option<Arc<NbdExport>> {
    names.lock().iter().find(|e| e.name == name).cloned()
}

/// What TLS asks of clients.
pub(crate) struct Tls {
    pub(crate) creds: Arc<Credentials>,
    /// Decides who may come.
    pub(crate) authz: Option<Arc<dyn qom::Object>>,
}

/// A server.
pub(crate) struct Server {
    tls: Option<Tls>,
    names: Names,
    /// How long a client has for the handshake.
    limit: Option<Duration>,
    /// The most clients at a time; 0 for any number.
    pub(crate) max_connections: u32,
    room: Semaphore,
    /// Those in the handshake.
    greeted: Mutex<HashMap<u64, Stream>>,
    next: AtomicU64,
    /// The socket stays when the server goes.
    leaves: AtomicBool,
    accepting: Mutex<Option<rt::JoinHandle<()>>>,
    threads: Arc<Threads>,
}

struct ByName<'a>(&'a Names);

impl Exports for ByName<'_> {
    type Export = Arc<NbdExport>;

    fn list(&self) -> Vec<(String, String)> {
        self.0.lock().iter().map(|e| (e.name.clone(), e.description.clone())).collect()
    }

    fn find(&self, name: &str) -> Option<Arc<NbdExport>> {
        named(self.0, name)
    }

    fn info(&self, export: &Arc<NbdExport>) -> ExportInfo {
        export.info()
    }
}

/// A listener that leaves its socket behind where its server says so.
struct Leaving(Listener, Arc<Server>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if self.1.leaves.load(Relaxed) {
            self.0.leave_socket();
        }
    }
}

impl Server {
    /// One that takes no clients yet. 0 as a maximum means any number, 0 seconds any time.
    pub(crate) fn new(
        names: Names,
        max_connections: u32,
        handshake_seconds: u32,
        tls: Option<Tls>,
    ) -> Arc<Server> {
        let room = if max_connections == 0 { 1 << 20 } else { max_connections as usize };
        Arc::new(Server {
            tls,
            names,
            limit: (handshake_seconds > 0).then(|| Duration::from_secs(handshake_seconds.into())),
            max_connections,
            room: Semaphore::new(room),
            greeted: Mutex::default(),
            next: AtomicU64::new(0),
            leaves: AtomicBool::new(false),
            accepting: Mutex::default(),
            threads: Threads::new(),
        })
    }

    /// Begins to take clients, on `thread`.
    pub(crate) fn begin(self: &Arc<Self>, listener: Listener, thread: &rt::Handle) {
        let me = self.clone();
        let task = thread.spawn(move || async move { me.accept(listener).await });
        *self.accepting.lock() = Some(task);
    }

    /// Has the server leave its socket behind.
    pub(crate) fn leave_socket(&self) {
        self.leaves.store(true, Relaxed);
    }

    /// Takes no clients any more, and disconnects those that have no export yet.
    pub(crate) async fn stop(&self) {
        let task = self.accepting.lock().take();
        if let Some(task) = task {
            task.abort();
            // The listener is gone when this is through.
            _ = task.outcome().await;
        }
        self.greeted.lock().values().for_each(Stream::shutdown);
    }

    async fn accept(self: Arc<Self>, listener: Listener) {
        let listener = Leaving(listener, self.clone());
        loop {
            let place = self.room.acquire().await;
            match listener.0.accept().await {
                Ok(stream) => {
                    place.forget();
                    let me = self.clone();
                    drop(rt::spawn_local(async move {
                        me.serve(stream).await;
                        me.room.add(1);
                    }));
                }
                Err(e) => {
                    // Out of descriptors, for example: that passes.
                    tracing::warn!("accepting an NBD client: {e}");
                    rt::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(&self, mut stream: Stream) {
        let number = self.next.fetch_add(1, Relaxed);
        self.greeted.lock().insert(number, stream.clone());
        let session = match self.limit {
            Some(limit) => rt::timeout(limit, self.handshake(&stream)).await.unwrap_or(Err(Errno::TIMEDOUT)),
            None => self.handshake(&stream).await,
        };
        let member = match session {
            Ok(Some((session, encrypted))) => {
                stream = encrypted;
                session.export.join(&stream).map(|member| (member, session.mode, session.contexts))
            }
            Ok(None) => None,
            Err(e) => {
                tracing::debug!(client = stream.peer(), "a handshake failed: {e}");
                None
            }
        };
        self.greeted.lock().remove(&number);
        let Some((member, mode, contexts)) = member else {
            stream.shutdown();
            return;
        };
        let seat = if member.export.thread.is_none() { self.threads.seat() } else { None };
        match member.export.thread.as_ref().or(seat.as_ref().map(Seat::handle)).cloned() {
            Some(thread) => {
                let task = thread.spawn(move || conn::serve(member, stream, mode, contexts));
                _ = task.outcome().await;
            }
            None => conn::serve(member, stream, mode, contexts).await,
        }
    }

    /// The session that was agreed on, and the stream that it is on from now on.
    async fn handshake(&self, stream: &Stream) -> IoResult<Option<(Session<Arc<NbdExport>>, Stream)>> {
        let mut stream = stream.clone();
        let mut handshake = if self.tls.is_some() { Handshake::with_tls() } else { Handshake::default() };
        let (mut input, mut out) = (Vec::new(), Vec::new());
        stream.write_all(&Handshake::greeting()).await?;
        loop {
            input.resize(handshake.want(), 0);
            stream.read_exact(&mut input).await?;
            out.clear();
            let step = handshake.feed(&input, &ByName(&self.names), &mut out);
            stream.write_all(&out).await?;
            match step {
                Ok(Step::More) => {}
                Ok(Step::Begin(session)) => return Ok(Some((session, stream))),
                Ok(Step::StartTls) => stream = self.encrypt(&stream).await?,
                Ok(Step::End) => return Ok(None),
                Err(e) => {
                    tracing::debug!(client = stream.peer(), "a client breaks the protocol: {e}");
                    return Err(Errno::PROTO);
                }
            }
        }
    }

    /// The TLS handshake; whoever may not come is sent away.
    async fn encrypt(&self, stream: &Stream) -> IoResult<Stream> {
        let tls = self.tls.as_ref().ok_or(Errno::PROTO)?;
        let encrypted = io::tls::accept(stream, &tls.creds).await.map_err(|e| {
            tracing::warn!(client = stream.peer(), "TLS handshake failed: {e}");
            Errno::PROTO
        })?;
        if let Some(authz) = &tls.authz {
            // Nobody in particular is nobody who may.
            let who = encrypted.identity();
            let may = who.as_deref().and_then(|w| authz.allows(w)).unwrap_or(false);
            if !may {
                tracing::warn!(client = stream.peer(), "{} is denied", who.as_deref().unwrap_or("nobody"));
                return Err(Errno::ACCES);
            }
        }
        Ok(encrypted)
    }
}
