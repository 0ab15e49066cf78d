//! Several connections to one server: the one that comes back when it is lost ([`Link`]), and others beside it while there is
//! much to do. Those are made when they are needed, and forgotten when they are lost.
//!
//! Only servers that set `CAN_MULTI_CONN` are connected to more than once: what one connection has written, all others read,
//! and a flush on one is a flush for all (section "Transmission flags" of the protocol).

use crate::conn::{Answer, Conn};
use crate::link::{Link, TRY, thread};
use mem::IoBuf;
use nbd::message::Request;
use nbd::spec::TF_CAN_MULTI_CONN;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The most connections that a node may have.
pub(crate) const MOST: u32 = 16;
/// With so many requests on their way on each connection, another one is worth its while.
const CROWDED: usize = 8;
/// How long no further connection is tried after one could not be made.
const REST: Duration = Duration::from_secs(60);

/// A further connection.
struct Lane {
    conn: Arc<Conn>,
    busy: AtomicUsize,
}

#[derive(Default)]
struct State {
    lanes: Vec<Arc<Lane>>,
    /// One is being made.
    connecting: bool,
    /// No other is tried before.
    not_before: Option<Instant>,
    closed: bool,
}

/// The connections of a node.
pub(crate) struct Lanes {
    pub(crate) link: Arc<Link>,
    /// Requests on the link.
    busy: AtomicUsize,
    /// The most connections beside the link.
    more: usize,
    state: Mutex<State>,
    me: Weak<Lanes>,
}

/// Counts a request while it lives.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(n: &'a AtomicUsize) -> Busy<'a> {
        n.fetch_add(1, Relaxed);
        Busy(n)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Lanes {
    /// Up to `most` connections, the link among them.
    pub(crate) fn new(link: Arc<Link>, most: u32) -> Arc<Lanes> {
        let multi = link.offer.flags & TF_CAN_MULTI_CONN != 0;
        let more = if multi { most.saturating_sub(1) as usize } else { 0 };
        Arc::new_cyclic(|me| Lanes {
            link,
            busy: AtomicUsize::new(0),
            more,
            state: Mutex::default(),
            me: me.clone(),
        })
    }

    /// Makes a request on the connection that has the fewest; where one of the further ones is lost meanwhile, on the link.
    pub(crate) async fn request(&self, req: Request, data: IoBuf) -> Answer {
        if self.more > 0
            && let Some(lane) = self.quietest()
        {
            let _busy = Busy::new(&lane.busy);
            if let Ok(answer) = lane.conn.request(req, data.clone()).await {
                return answer;
            }
            self.forget(&lane);
        }
        let _busy = Busy::new(&self.busy);
        self.link.request(req, data).await
    }

    /// The further connection to take; `None` for the link. Has another one made where all have much to do.
    fn quietest(&self) -> Option<Arc<Lane>> {
        let mut state = self.state.lock();
        let least = state.lanes.iter().min_by_key(|l| l.busy.load(Relaxed)).cloned();
        let link = self.busy.load(Relaxed);
        let few = least.as_ref().map_or(link, |l| l.busy.load(Relaxed).min(link));
        let rests = state.not_before.is_some_and(|t| Instant::now() < t);
        if few >= CROWDED && state.lanes.len() < self.more && !state.connecting && !state.closed && !rests {
            state.connecting = true;
            self.connect(&mut state);
        }
        least.filter(|l| l.busy.load(Relaxed) < link)
    }

    fn connect(&self, state: &mut State) {
        let (Ok(thread), me) = (thread(), self.me.clone()) else {
            state.connecting = false;
            state.not_before = Some(Instant::now() + REST);
            return;
        };
        let link = self.link.clone();
        drop(thread.spawn(move || async move {
            let conn = match rt::timeout(TRY, Conn::open(link.target())).await {
                Some(Ok(conn)) if link.suits(&conn.offer) => Some(conn),
                Some(Ok(conn)) => {
                    conn.close().await;
                    None
                }
                other => {
                    let why = other.and_then(Result::err);
                    tracing::debug!(server = %link.target().addr, "no further connection: {why:?}");
                    None
                }
            };
            drop(link);
            let Some(lane) = me.upgrade().and_then(|me| me.connected(conn.clone())) else {
                if let Some(conn) = conn {
                    conn.close().await;
                }
                return;
            };
            let end = lane.conn.read().await;
            tracing::debug!("a further connection to an NBD server ends: {end:?}");
            lane.conn.give_up();
            if let Some(me) = me.upgrade() {
                me.forget(&lane);
            }
        }));
    }

    /// A connection was made, or could not be made. The lane that it is; `None` where it is not wanted any more.
    fn connected(&self, conn: Option<Arc<Conn>>) -> Option<Arc<Lane>> {
        let mut state = self.state.lock();
        state.connecting = false;
        let Some(conn) = conn else {
            state.not_before = Some(Instant::now() + REST);
            return None;
        };
        if state.closed {
            return None;
        }
        let lane = Arc::new(Lane { conn, busy: AtomicUsize::new(0) });
        state.lanes.push(lane.clone());
        Some(lane)
    }

    fn forget(&self, lane: &Arc<Lane>) {
        self.state.lock().lanes.retain(|l| !Arc::ptr_eq(l, lane));
    }

    fn close_lanes(&self) -> Vec<Arc<Lane>> {
        let mut state = self.state.lock();
        state.closed = true;
        std::mem::take(&mut state.lanes)
    }

    /// Ends all connections for good, at once.
    pub(crate) fn abandon(&self) {
        self.close_lanes().iter().for_each(|l| l.conn.give_up());
        self.link.abandon();
    }

    /// Ends all connections for good.
    pub(crate) async fn close(&self) {
        for lane in self.close_lanes() {
            lane.conn.close().await;
        }
        self.link.close().await;
    }
}
