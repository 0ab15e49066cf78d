//! The requests of one mount.

use crate::file::{Answer, File};
use crate::message::{self, Op, Request};
use crate::spec::*;
use base::{Errno, IoResult};
use mem::IoBuf;
use rt::AsyncFd;
use rt::sync::{Notify, Semaphore};
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Poll;

/// Bytes of memory that all requests together may take.
const BUDGET: usize = 16 << 20;
/// What even the smallest request is counted as: so many are in flight at most.
const SMALLEST: usize = 16 << 10;
/// A write's data up to here is copied out of where it was read to; of a longer one the memory is handed on.
const COPIED: usize = 64 << 10;
/// So many requests are begun before others on the executor have their turn.
const ROUND: usize = 16;

/// A switch that is turned once, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    on: AtomicBool,
    turned: Notify,
}

impl Closing {
    pub(crate) fn turn(&self) {
        self.on.store(true, SeqCst);
        self.turned.notify_all();
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.load(SeqCst)
    }

    /// What comes, or `None` once the switch is turned.
    async fn or<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let turned = self.turned.notified();
        if self.is_on() {
            return None;
        }
        let (mut what, mut turned) = (pin!(what), pin!(turned));
        std::future::poll_fn(|cx| {
            if turned.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            what.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

struct Session {
    device: AsyncFd,
    file: File,
    budget: Semaphore,
    in_flight: Cell<usize>,
    ended: Notify,
}

/// Serves until the switch is turned or the mount is gone, and all requests have ended. With the descriptor's last clone
/// whoever still has the file open loses it. Returns why it ended by itself.
pub(crate) async fn serve(device: AsyncFd, file: File, closing: &Closing) -> Option<Errno> {
    let session = Rc::new(Session {
        device,
        file,
        budget: Semaphore::new(BUDGET),
        in_flight: Cell::new(0),
        ended: Notify::new(),
    });
    let end = closing.or(session.clone().read()).await;
    loop {
        let ended = session.ended.notified();
        if session.in_flight.get() == 0 {
            break;
        }
        ended.await;
    }
    end
}

impl Session {
    /// Reads requests and begins them.
    async fn read(self: Rc<Self>) -> Errno {
        let head = IoBuf::zeroed(WRITE_PREFIX);
        let mut body = IoBuf::zeroed(MAX_IO);
        let mut begun = 0;
        loop {
            let mut all = head.clone();
            all.append(body.clone());
            let n = match self.device.try_read_into(&all) {
                // A request that was taken back before it could be read.
                Err(Errno::NOENT | Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    begun = 0;
                    if let Err(e) = self.device.readable().await {
                        return e;
                    }
                    continue;
                }
                Err(e) => return e,
                Ok(n) => n,
            };
            let mut first = [0; LONGEST];
            let first = &mut first[..n.min(LONGEST)];
            all.copy_to(0, first);
            let request = match message::parse(first, n) {
                Ok(r) => r,
                Err(e) => return e,
            };
            let mut data = IoBuf::new();
            let mut cost = 0;
            match request.op {
                Ok(Op::Read { size, .. }) => cost = size,
                Ok(Op::Write { size, .. }) if size <= COPIED => {
                    cost = size;
                    data = IoBuf::zeroed(size);
                    data.copy_from_buf(&body.slice(0..size));
                }
                Ok(Op::Write { size, .. }) => {
                    // All of it is kept, however much is used.
                    cost = MAX_IO;
                    data = std::mem::replace(&mut body, IoBuf::zeroed(MAX_IO)).slice(0..size);
                }
                _ => {}
            }
            let cost = cost.max(SMALLEST);
            self.budget.acquire_many(cost).await.forget();
            self.begin(request, data, cost);
            begun += 1;
            if begun >= ROUND {
                begun = 0;
                rt::yield_now().await;
            }
        }
    }

    fn begin(self: &Rc<Self>, request: Request, data: IoBuf, cost: usize) {
        self.in_flight.set(self.in_flight.get() + 1);
        let me = self.clone();
        drop(rt::spawn_local(async move {
            let done = match request.op {
                Ok(Op::Init { major, minor, readahead, flags }) => {
                    message::init(major, minor, readahead, flags, rustix::param::page_size())
                        .map(Answer::Fields)
                }
                Ok(op) => me.file.handle(op, data).await,
                Err(e) => Err(e),
            };
            // The kernel refuses an answer to what it has given up meanwhile.
            if let Err(e) = me.answer(request.unique, done) {
                tracing::debug!("a FUSE answer is not wanted: {e}");
            }
            me.budget.add(cost);
            me.in_flight.set(me.in_flight.get() - 1);
            if me.in_flight.get() == 0 {
                me.ended.notify_all();
            }
        }));
    }

    /// An answer is one write, which never waits.
    fn answer(&self, unique: u64, done: IoResult<Answer>) -> IoResult<()> {
        let (error, bytes) = match done {
            Ok(Answer::Silence) => return Ok(()),
            Ok(Answer::Data(data)) => {
                let mut all = IoBuf::from_bytes(&message::head(unique, None, data.len()));
                all.append(data);
                return self.device.try_write_from(&all).map(drop);
            }
            Ok(Answer::Fields(bytes)) => (None, bytes),
            Err(e) => (Some(e), Vec::new()),
        };
        let mut all = message::head(unique, error, bytes.len()).to_vec();
        all.extend(bytes);
        rustix::io::write(self.device.fd(), &all).map_err(|e| Errno::from_raw(e.raw_os_error())).map(drop)
    }
}
