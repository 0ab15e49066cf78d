//! A connection that comes back when it is lost.

use crate::conn::{Answer, Conn, Failed, Lost, Target};
use base::{Errno, IoResult};
use mem::IoBuf;
use nbd::client::Offer;
use nbd::message::Request;
use nbd::spec::TF_READ_ONLY;
use parking_lot::Mutex;
use rt::sync::Notify;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The shortest and the longest time between two tries to connect again.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);
/// How long one try may take.
pub(crate) const TRY: Duration = Duration::from_secs(30);

/// The thread on which answers are read and connections are made, for all nodes: it waits for sockets only.
pub(crate) fn thread() -> IoResult<rt::Handle> {
    static THREAD: OnceLock<IoResult<rt::IoThread>> = OnceLock::new();
    match THREAD.get_or_init(|| rt::IoThread::spawn("nbd-client")) {
        Ok(t) => Ok(t.handle()),
        Err(e) => Err(*e),
    }
}

enum State {
    Up(Arc<Conn>),
    /// Lost at this time.
    Down(Instant),
    /// Lost, and nobody is to wait for it to come back.
    GivenUp,
    Closed,
}

/// The way to a server.
pub(crate) struct Link {
    target: Target,
    /// How long requests wait for a lost connection.
    patience: Duration,
    /// What the first connection offered; a later one must offer as much.
    pub(crate) offer: Offer,
    state: Mutex<State>,
    changed: Notify,
}

impl Link {
    /// Connects, trying for as long as `timeout` says.
    pub(crate) async fn open(
        target: Target,
        timeout: Duration,
        patience: Duration,
    ) -> Result<Arc<Link>, Failed> {
        let reach = |e: Errno| Failed::Reach(format!("cannot start a thread: {e}"));
        let thread = thread().map_err(reach)?;
        let task = thread.spawn(move || async move {
            let conn = first(&target, timeout).await?;
            let link = Arc::new(Link {
                target,
                patience,
                offer: conn.offer.clone(),
                state: Mutex::new(State::Up(conn.clone())),
                changed: Notify::new(),
            });
            drop(rt::spawn_local(link.clone().live(conn)));
            Ok(link)
        });
        match task.outcome().await {
            Ok(done) => done,
            Err(_) => Err(reach(Errno::CANCELED)),
        }
    }

    /// Reads answers; when that ends, connects again, until the link is closed.
    async fn live(self: Arc<Self>, mut conn: Arc<Conn>) {
        loop {
            let end = conn.read().await;
            {
                let mut state = self.state.lock();
                if !matches!(*state, State::Closed) {
                    tracing::warn!(server = %self.target.addr, "the connection to the NBD server is lost: {end:?}");
                    *state = State::Down(Instant::now());
                }
            }
            conn.give_up();
            self.changed.notify_all();
            let mut pause = SHORTEST;
            conn = loop {
                let changed = self.changed.notified();
                if matches!(*self.state.lock(), State::Closed) {
                    return;
                }
                match rt::timeout(TRY, Conn::open(&self.target)).await {
                    Some(Ok(conn)) if self.suits(&conn.offer) => break conn,
                    Some(Ok(conn)) => {
                        tracing::warn!(server = %self.target.addr, "the export has changed; not used any more");
                        conn.close().await;
                    }
                    Some(Err(e)) => {
                        tracing::debug!(server = %self.target.addr, "cannot connect again: {e:?}")
                    }
                    None => {}
                }
                // Ends early when the link is closed.
                _ = rt::timeout(pause, changed).await;
                pause = (pause * 2).min(LONGEST);
            };
            let closed = {
                let mut state = self.state.lock();
                let closed = matches!(*state, State::Closed);
                if !closed {
                    *state = State::Up(conn.clone());
                }
                closed
            };
            if closed {
                return conn.close().await;
            }
            self.changed.notify_all();
        }
    }

    /// What it connects to.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Whether a new connection can stand for the first.
    pub(crate) fn suits(&self, offer: &Offer) -> bool {
        let old = &self.offer;
        offer.size == old.size
            && offer.mode >= old.mode
            && offer.flags & !TF_READ_ONLY & old.flags == old.flags & !TF_READ_ONLY
            && (offer.flags & TF_READ_ONLY == 0 || old.flags & TF_READ_ONLY != 0)
            && offer.min_block <= old.min_block
            && offer.max_block >= old.max_block
            && (offer.allocation.is_some() || old.allocation.is_none())
    }

    /// Makes a request; where the connection is lost meanwhile, on the next one.
    pub(crate) async fn request(&self, req: Request, data: IoBuf) -> Answer {
        loop {
            let conn = self.up().await?;
            match conn.request(req, data.clone()).await {
                Ok(answer) => return answer,
                Err(Lost) if self.patience.is_zero() => return Err(Errno::IO),
                // Whoever reads tells the state soon.
                Err(Lost) => {
                    let changed = self.changed.notified();
                    if matches!(&*self.state.lock(), State::Up(c) if Arc::ptr_eq(c, &conn)) {
                        changed.await;
                    }
                }
            }
        }
    }

    /// The connection, after waiting for it if it is to be waited for.
    async fn up(&self) -> IoResult<Arc<Conn>> {
        loop {
            let changed = self.changed.notified();
            let since = match &*self.state.lock() {
                State::Up(conn) if !conn.is_lost() => return Ok(conn.clone()),
                State::Up(_) => Instant::now(),
                State::Down(since) => *since,
                State::GivenUp | State::Closed => return Err(Errno::IO),
            };
            let left = self.patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(Errno::IO);
            }
            _ = rt::timeout(left, changed).await;
        }
    }

    /// While the connection is lost, requests fail; once it is there again, they are made as before.
    pub(crate) fn give_up(&self) {
        let mut state = self.state.lock();
        if matches!(*state, State::Down(_)) {
            *state = State::GivenUp;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the connection for good, at once.
    pub(crate) fn abandon(&self) {
        let old = std::mem::replace(&mut *self.state.lock(), State::Closed);
        self.changed.notify_all();
        if let State::Up(conn) = old {
            conn.give_up();
        }
    }

    /// Ends the connection for good.
    pub(crate) async fn close(&self) {
        let old = std::mem::replace(&mut *self.state.lock(), State::Closed);
        self.changed.notify_all();
        if let State::Up(conn) = old {
            conn.close().await;
        }
    }
}

/// The first connection.
async fn first(target: &Target, timeout: Duration) -> Result<Arc<Conn>, Failed> {
    let end = Instant::now() + timeout;
    let mut pause = SHORTEST;
    loop {
        let last = match rt::timeout(TRY.max(timeout), Conn::open(target)).await {
            Some(Ok(conn)) => return Ok(conn),
            Some(Err(e)) => e,
            None => Failed::Reach(format!("Failed to connect to '{}': {}", target.addr, Errno::TIMEDOUT)),
        };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(last);
        }
        rt::sleep(pause.min(left)).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
