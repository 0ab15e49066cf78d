//! The executor: a table of tasks, a ready queue, timers and a reactor, all of one thread.
//!
//! A round is: take what other threads sent, poll each task that was ready when the round began, fire timers, then
//! submit all new I/O with one system call and sleep in that same call if nothing is ready.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use base::IoResult;
use parking_lot::Mutex;
use slab::Slab;

use crate::reactor::{Backend, EventFd, Reactor};
use crate::sim::SimState;
use crate::spin::{Polling, Spin};
use crate::task::{self, Completer, Header, JoinHandle, MAIN, TaskFuture, Wrapped};
use crate::timer::Timers;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Local>>> = const { RefCell::new(None) };
}

/// Makes a task when it reaches its executor's thread.
type Spawn = Box<dyn FnOnce(&Rc<Local>) + Send>;

#[derive(Default)]
struct Inbox {
    woken: Vec<Arc<Header>>,
    spawns: Vec<Spawn>,
    closed: bool,
}

/// Timers further away than this are looked at again in between: kernels differ in how far they can count.
const LONGEST_SLEEP: Duration = Duration::from_secs(86_400);

/// The longest time that a storage thread looks for work before it sleeps: about what being woken costs. It is the default
/// of `poll-max-ns` too.
const LOOK: Duration = Duration::from_nanos(32_768);

/// What an executor may do with its thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conduct {
    polling: Polling,
    waits: bool,
    sole: bool,
}

impl Conduct {
    /// For a thread that serves requests of storage and nothing else. Where work comes every few microseconds it looks out
    /// for it instead of sleeping, and it makes some system calls itself that may wait for a moment.
    pub fn storage() -> Conduct {
        Conduct { polling: Polling { most: LOOK, ..Polling::default() }, waits: true, sole: false }
    }

    /// For a program that does one piece of work, so that nobody else waits while this thread does: it makes short system
    /// calls itself ([`crate::unblock_short`]) instead of waking another thread for each.
    pub fn tool() -> Conduct {
        Conduct { waits: true, sole: true, ..Conduct::default() }
    }

    /// The same with another way to look for work.
    pub fn polling(self, polling: Polling) -> Conduct {
        Conduct { polling, ..self }
    }
}

const RUNNING: u8 = 0;
const SLEEPING: u8 = 1;

/// The part of an executor that other threads see.
pub(crate) struct Shared {
    inbox: Mutex<Inbox>,
    /// Whether the inbox holds anything: spares the lock in a round where nothing came.
    has_mail: AtomicBool,
    state: AtomicU8,
    pub(crate) wakeup: EventFd,
}

impl Shared {
    fn ring(&self) {
        // Pairs with `prepare_sleep`: either we see SLEEPING, or the executor sees the mail.
        self.has_mail.store(true, Ordering::SeqCst);
        if self.state.load(Ordering::SeqCst) == SLEEPING
            && self.state.swap(RUNNING, Ordering::SeqCst) == SLEEPING
        {
            self.wakeup.signal();
        }
    }

    /// Announces sleep; false when mail is there already.
    fn prepare_sleep(&self) -> bool {
        self.state.store(SLEEPING, Ordering::SeqCst);
        if self.has_mail.load(Ordering::SeqCst) {
            self.state.store(RUNNING, Ordering::SeqCst);
            return false;
        }
        true
    }

    fn awake(&self) {
        self.state.store(RUNNING, Ordering::SeqCst);
    }
}

struct Slot {
    header: Arc<Header>,
    waker: Waker,
    /// Absent while it is being polled.
    future: Option<TaskFuture>,
}

/// The part of an executor that stays on its thread.
pub(crate) struct Local {
    pub(crate) shared: Arc<Shared>,
    tasks: RefCell<Slab<Slot>>,
    ready: RefCell<VecDeque<Arc<Header>>>,
    pub(crate) timers: Timers,
    pub(crate) reactor: Option<Reactor>,
    pub(crate) sim: Option<SimState>,
    running: Cell<bool>,
    /// Whether system calls may be made here that can wait.
    pub(crate) waits: bool,
    /// Whether nobody minds if they do.
    pub(crate) sole: bool,
    spin: RefCell<Spin>,
}

impl Local {
    pub(crate) fn new(
        reactor: Option<Reactor>,
        sim: Option<SimState>,
        wakeup: EventFd,
        conduct: Conduct,
    ) -> Rc<Local> {
        Rc::new(Local {
            shared: Arc::new(Shared {
                inbox: Mutex::default(),
                has_mail: AtomicBool::new(false),
                state: AtomicU8::new(RUNNING),
                wakeup,
            }),
            tasks: RefCell::default(),
            ready: RefCell::default(),
            timers: Timers::default(),
            reactor,
            sim,
            running: Cell::new(false),
            waits: conduct.waits,
            sole: conduct.sole,
            spin: RefCell::new(Spin::new(conduct.polling)),
        })
    }

    pub(crate) fn is_sim(&self) -> bool {
        self.sim.is_some()
    }

    pub(crate) fn now(&self) -> Instant {
        self.sim.as_ref().map_or_else(Instant::now, SimState::now)
    }

    fn spawn<F: Future + 'static>(&self, fut: F, done: Completer<F::Output>) {
        let header = {
            let mut tasks = self.tasks.borrow_mut();
            let entry = tasks.vacant_entry();
            let header = Header::new(self.shared.clone(), entry.key());
            done.bind(&header);
            let waker = Waker::from(header.clone());
            let future: TaskFuture = Box::pin(Wrapped::new(fut, done));
            entry.insert(Slot { header: header.clone(), waker, future: Some(future) });
            header
        };
        header.queued.store(true, Ordering::Release);
        self.ready.borrow_mut().push_back(header);
    }

    /// Takes what other threads sent.
    fn collect(self: &Rc<Self>) {
        if !self.shared.has_mail.load(Ordering::SeqCst) {
            return;
        }
        let (woken, spawns) = {
            let mut inbox = self.shared.inbox.lock();
            self.shared.has_mail.store(false, Ordering::SeqCst);
            (std::mem::take(&mut inbox.woken), std::mem::take(&mut inbox.spawns))
        };
        self.ready.borrow_mut().extend(woken);
        for s in spawns {
            s(self);
        }
    }

    /// Polls (or, aborted, drops) the task of `header`; true if it is `block_on`'s own future that is to be polled.
    fn run_task(&self, header: &Arc<Header>) -> bool {
        header.queued.store(false, Ordering::Release);
        if header.key == MAIN {
            return true;
        }
        let (mut future, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            match tasks.get_mut(header.key) {
                // A waker may outlive its task, and the table's place then holds another.
                Some(slot) if Arc::ptr_eq(&slot.header, header) => match slot.future.take() {
                    Some(f) => (f, slot.waker.clone()),
                    None => return false,
                },
                _ => return false,
            }
        };
        let aborted = || header.aborted.load(Ordering::Acquire);
        let mut guard = RemoveOnUnwind { local: self, key: header.key, armed: true };
        let ended =
            aborted() || future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() || aborted();
        guard.armed = false;
        let slot = {
            let mut tasks = self.tasks.borrow_mut();
            if ended {
                Some(tasks.remove(header.key))
            } else {
                tasks[header.key].future = Some(future);
                return false;
            }
        };
        // Outside the borrow: these drops run foreign code, which may spawn.
        drop(future);
        drop(slot);
        false
    }

    /// One round of ready tasks; true if the main future is to be polled.
    fn run_ready(self: &Rc<Self>) -> bool {
        self.collect();
        let mut main = false;
        if let Some(sim) = &self.sim {
            // One task at a time, each chosen afresh.
            let header = {
                let mut ready = self.ready.borrow_mut();
                let n = ready.len();
                if n == 0 {
                    return false;
                }
                ready.swap_remove_back(sim.choose(n))
            };
            return header.is_some_and(|h| self.run_task(&h));
        }
        let n = self.ready.borrow().len();
        for _ in 0..n {
            let Some(header) = self.ready.borrow_mut().pop_front() else { break };
            main |= self.run_task(&header);
        }
        main
    }

    fn is_idle(&self) -> bool {
        self.ready.borrow().is_empty() && !self.shared.has_mail.load(Ordering::SeqCst)
    }

    pub(crate) fn block_on<F: Future>(self: &Rc<Self>, fut: F) -> F::Output {
        assert!(!self.running.get(), "block_on was called inside itself");
        let _enter = Enter::new(self, true);
        let main = Header::new(self.shared.clone(), MAIN);
        let waker = Waker::from(main.clone());
        let mut cx = Context::from_waker(&waker);
        let mut fut = pin!(fut);
        Header::schedule(&main);
        loop {
            if self.run_ready()
                && let Poll::Ready(v) = fut.as_mut().poll(&mut cx)
            {
                return v;
            }
            if let Some(sim) = &self.sim {
                if self.is_idle() {
                    sim.advance(self.timers.first(), self.tasks.borrow().len());
                }
                self.timers.fire(sim.now());
                continue;
            }
            self.turn();
        }
    }

    /// Timers, I/O, and sleep if nothing is ready.
    fn turn(&self) {
        let reactor = self.reactor.as_ref().expect("an executor outside a simulation has a reactor");
        let mut wait = Some(Duration::ZERO);
        if let Some(at) = self.timers.first() {
            let now = Instant::now();
            if at <= now {
                self.timers.fire(now);
            } else if self.is_idle() {
                wait = Some((at - now).min(LONGEST_SLEEP));
            }
        } else if self.is_idle() {
            wait = None;
        }
        let mut spin = self.spin.borrow_mut();
        if !spin.is_on() || wait == Some(Duration::ZERO) {
            drop(spin);
            self.sleep(reactor, wait);
            return;
        }
        let (begun, window) = (Instant::now(), spin.window());
        // A timer that is due soon ends the sleep anyway.
        if !window.is_zero() && wait.is_none_or(|w| w > window) && self.look_out(reactor, begun + window) {
            spin.found();
            reactor.turn(Some(Duration::ZERO));
            return;
        }
        self.sleep(reactor, wait);
        spin.slept(window, begun.elapsed());
    }

    /// Sleeps in the reactor; not at all where there is something to do by now.
    fn sleep(&self, reactor: &Reactor, wait: Option<Duration>) {
        if wait == Some(Duration::ZERO) || !self.shared.prepare_sleep() {
            reactor.turn(Some(Duration::ZERO));
            return;
        }
        reactor.turn(wait);
        self.shared.awake();
    }

    /// Looks for work until `end`; whether there is any.
    fn look_out(&self, reactor: &Reactor, end: Instant) -> bool {
        reactor.submit();
        loop {
            for _ in 0..8 {
                if reactor.is_ready() || self.shared.has_mail.load(Ordering::Relaxed) {
                    return true;
                }
                std::hint::spin_loop();
            }
            if Instant::now() >= end {
                return false;
            }
        }
    }

    /// Drops every task and waits for the I/O that the kernel still holds.
    pub(crate) fn shut_down(self: &Rc<Self>) {
        let _enter = Enter::new(self, false);
        let spawns = {
            let mut inbox = self.shared.inbox.lock();
            inbox.closed = true;
            inbox.woken.clear();
            std::mem::take(&mut inbox.spawns)
        };
        drop(spawns);
        // Dropping a future may spawn again.
        loop {
            let slots: Vec<Slot> = self.tasks.borrow_mut().drain().collect();
            let ready: Vec<_> = self.ready.borrow_mut().drain(..).collect();
            if slots.is_empty() && ready.is_empty() {
                break;
            }
        }
        if let Some(r) = &self.reactor {
            r.shut_down();
        }
    }
}

/// Takes a task whose poll panicked out of the table.
struct RemoveOnUnwind<'a> {
    local: &'a Local,
    key: usize,
    armed: bool,
}

impl Drop for RemoveOnUnwind<'_> {
    fn drop(&mut self) {
        if self.armed {
            let slot = self.local.tasks.borrow_mut().try_remove(self.key);
            drop(slot);
        }
    }
}

/// Makes an executor the thread's current one for as long as it lives.
struct Enter<'a> {
    local: &'a Local,
    previous: Option<Rc<Local>>,
    ran: bool,
}

impl<'a> Enter<'a> {
    fn new(local: &'a Rc<Local>, run: bool) -> Enter<'a> {
        let previous = CURRENT.with(|c| c.borrow_mut().replace(local.clone()));
        let ran = local.running.replace(run || local.running.get());
        Enter { local, previous, ran }
    }
}

impl Drop for Enter<'_> {
    fn drop(&mut self) {
        self.local.running.set(self.ran);
        let previous = self.previous.take();
        let old = CURRENT.with(|c| std::mem::replace(&mut *c.borrow_mut(), previous));
        drop(old);
    }
}

/// Runs `f` on the thread's current executor, if there is one.
pub(crate) fn with_current<T>(f: impl FnOnce(&Rc<Local>) -> T) -> Option<T> {
    CURRENT.try_with(|c| c.borrow().as_ref().map(f)).ok().flatten()
}

/// Whether other tasks of this thread's executor wait for being polled.
pub(crate) fn has_more_to_do() -> bool {
    with_current(|l| !l.is_idle()).unwrap_or(false)
}

pub(crate) fn current_local() -> Rc<Local> {
    with_current(Rc::clone).expect("this future must be polled inside an executor of this crate")
}

/// Puts a woken task into its executor's queue: directly on its own thread, by the inbox from another.
pub(crate) fn enqueue(header: &Arc<Header>) {
    let local = with_current(|l| {
        if !Arc::ptr_eq(&l.shared, &header.shared) {
            return false;
        }
        l.ready.borrow_mut().push_back(header.clone());
        true
    });
    if local == Some(true) {
        return;
    }
    {
        let mut inbox = header.shared.inbox.lock();
        if inbox.closed {
            return;
        }
        inbox.woken.push(header.clone());
    }
    header.shared.ring();
}

/// A single-threaded executor. It belongs to the thread that made it.
///
/// Dropping it drops its tasks, then waits until the kernel has given back all memory of theirs.
pub struct Executor {
    local: Rc<Local>,
}

impl Executor {
    /// An executor on io_uring, or on epoll and threads where the kernel refuses io_uring or the environment has
    /// `RHEA_AIO_FALLBACK=1`.
    pub fn new() -> IoResult<Executor> {
        Executor::with_conduct(Conduct::default())
    }

    /// The same for a thread of this kind.
    pub fn with_conduct(conduct: Conduct) -> IoResult<Executor> {
        let fallback = std::env::var_os("RHEA_AIO_FALLBACK").is_some_and(|v| v == "1");
        if !fallback {
            match Executor::build(Backend::Uring, conduct) {
                Ok(e) => return Ok(e),
                Err(e) => tracing::debug!("no io_uring ({e}): using threads and epoll"),
            }
        }
        Executor::build(Backend::Epoll, conduct)
    }

    /// An executor on exactly this backend; an error where the kernel refuses it.
    pub fn with_backend(backend: Backend) -> IoResult<Executor> {
        Executor::build(backend, Conduct::default())
    }

    fn build(backend: Backend, conduct: Conduct) -> IoResult<Executor> {
        let wakeup = EventFd::new()?;
        let reactor = Reactor::new(backend, &wakeup)?;
        Ok(Executor { local: Local::new(Some(reactor), None, wakeup, conduct) })
    }

    /// What this executor does its I/O with.
    pub fn backend(&self) -> Backend {
        self.local.reactor.as_ref().map_or(Backend::Epoll, Reactor::backend)
    }

    /// Runs `f`, and the executor's tasks meanwhile, until `f` ends. Tasks that remain wait for the next call.
    pub fn block_on<F: Future>(&self, f: F) -> F::Output {
        self.local.block_on(f)
    }

    /// A handle that other threads may use to spawn tasks here.
    pub fn handle(&self) -> Handle {
        Handle { shared: self.local.shared.clone() }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.local.shut_down();
    }
}

/// A handle on an executor, for any thread.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({:p})", Arc::as_ptr(&self.shared))
    }
}

impl Handle {
    /// Runs the future that `f` makes as a task of the handle's executor; `f` itself runs on that thread too, so
    /// the future need not be `Send`. If the executor has ended, the task counts as aborted.
    pub fn spawn<F, Fut, T>(&self, f: F) -> JoinHandle<T>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (done, handle) = task::join_pair();
        let spawn: Spawn = Box::new(move |local| local.spawn(async move { f().await }, done));
        {
            let mut inbox = self.shared.inbox.lock();
            if inbox.closed {
                drop(inbox);
                drop(spawn);
                return handle;
            }
            inbox.spawns.push(spawn);
        }
        self.shared.ring();
        handle
    }

    /// Whether this thread is at the moment inside the handle's executor.
    pub fn is_current(&self) -> bool {
        with_current(|l| Arc::ptr_eq(&l.shared, &self.shared)).unwrap_or(false)
    }
}

/// The handle of the executor that runs this code. Panics outside an executor.
pub fn current() -> Handle {
    Handle { shared: current_local().shared.clone() }
}

/// Whether this code runs inside an executor (or a simulation).
pub fn in_executor() -> bool {
    with_current(|_| ()).is_some()
}

/// Runs `f` as a task of the current executor. Panics outside an executor.
pub fn spawn_local<F: Future + 'static>(f: F) -> JoinHandle<F::Output> {
    let (done, handle) = task::join_pair();
    current_local().spawn(f, done);
    handle
}

/// Runs `f` on a new executor of this thread.
pub fn block_on<F: Future>(f: F) -> F::Output {
    Executor::new().expect("the system has descriptors for an executor").block_on(f)
}

/// A thread that runs an executor until it is dropped; the drop waits for the thread.
pub struct IoThread {
    handle: Handle,
    stop: Option<crate::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl IoThread {
    /// Starts the thread, under this name (cut to the system's 15 bytes).
    pub fn spawn(name: &str) -> IoResult<IoThread> {
        IoThread::spawn_as(name, Conduct::default())
    }

    /// Starts a thread of this kind.
    pub fn spawn_as(name: &str, conduct: Conduct) -> IoResult<IoThread> {
        let (ready_tx, ready_rx) = flume::bounded(1);
        let (stop_tx, stop_rx) = crate::sync::oneshot::channel::<()>();
        let thread = thread::Builder::new().name(name.replace('\0', "")).spawn(move || {
            let executor = match Executor::with_conduct(conduct) {
                Ok(e) => e,
                Err(e) => {
                    let _ = ready_tx.send(Err(e));
                    return;
                }
            };
            let _ = ready_tx.send(Ok(executor.handle()));
            executor.block_on(stop_rx);
        })?;
        let handle = ready_rx.recv().map_err(|_| base::Errno::IO)??;
        Ok(IoThread { handle, stop: Some(stop_tx), thread: Some(thread) })
    }

    /// The handle of its executor.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        let Some(t) = self.thread.take() else { return };
        // The last owner may be a task of the thread itself, which cannot wait for its own end.
        if t.thread().id() == thread::current().id() {
            return;
        }
        if t.join().is_err() {
            tracing::error!("an I/O thread ended by a panic");
        }
    }
}
