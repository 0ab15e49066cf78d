//! One client's conversation.

use super::request::{self, Request};
use crate::events::{EventRecord, EventSink};
use crate::outq::{OutQueue, Pushed};
use crate::own;
use crate::server::{QmpOptions, Shared};
use crate::table::Handler;
use event_listener::Event;
use io::Channel;
use parking_lot::Mutex;
use qapi::{ErrorClass, JsonStream, QError, Value};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Requests that may wait behind the one that runs, where out-of-band execution is on. Where it is off, the
/// next request is not read before the previous one is answered.
const QUEUE: usize = 8;
const READ: usize = 4096;
/// How long the last replies may take to be written once the client has ended its side.
const LINGER: Duration = Duration::from_secs(5);

enum Item {
    Request(Value),
    Rubbish(QError),
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    running: bool,
    ended: bool,
}

/// What the tasks of a session share. Events come from any thread; all else is the monitor's thread.
pub(crate) struct Session {
    channel: Arc<dyn Channel>,
    shared: Arc<Shared>,
    options: QmpOptions,
    out: OutQueue,
    /// Capabilities were negotiated: commands are taken and events are sent.
    ready: AtomicBool,
    oob: AtomicBool,
    queue: Mutex<Queue>,
    changed: Event,
}

/// Several lines, whose ends within are CRLF as well.
fn pretty(value: &Value) -> Arc<str> {
    value.to_json_ranked(true).replace('\n', "\r\n").into()
}

/// What became of a request so far.
enum Begun {
    /// It is done, with this result.
    Done(Value),
    /// It is noted; this carries it out once it is answered.
    Noted(Box<dyn FnOnce() + Send>),
    /// The command of this name runs, and answers itself.
    Running(String, rt::JoinHandle<()>),
}

fn internal_error(command: &str) -> QError {
    tracing::error!("QMP command {command} failed inside");
    qapi::qerr!("The command {command} failed because of an internal error")
}

impl EventSink for Session {
    fn event(&self, event: &Arc<EventRecord>) -> bool {
        if !self.ready.load(Ordering::Acquire) {
            return !self.out.is_closed();
        }
        let line = if self.options.pretty { pretty(&event.to_value()) } else { event.line() };
        match self.out.push_event(line) {
            Pushed::Queued => true,
            Pushed::Closed => false,
            Pushed::Overrun => {
                tracing::warn!("QMP client {} does not read its events; disconnected", self.channel.peer());
                self.channel.shutdown();
                false
            }
        }
    }
}

impl Session {
    fn send(&self, value: &Value) {
        self.out.push(if self.options.pretty { pretty(value) } else { value.to_json_ranked(false).into() });
    }

    /// Finds a request's command and checks that it may run now.
    fn find(&self, request: &Request) -> Result<Handler, QError> {
        let not_found = |desc: String| Err(QError::with_class(ErrorClass::CommandNotFound, desc));
        let negotiating = !self.ready.load(Ordering::Acquire);
        let is_caps = request.command == own::CAPABILITIES;
        if negotiating && !is_caps {
            return not_found(format!("Expecting capabilities negotiation with '{}'", own::CAPABILITIES));
        }
        let Some(entry) = self.shared.commands.get(&request.command) else {
            return not_found(format!("The command {} has not been found", request.command));
        };
        if request.oob && !entry.allow_oob {
            return Err(qapi::qerr!("The command {} does not support OOB", request.command));
        }
        if !entry.allow_preconfig && self.shared.preconfig.load(Ordering::Acquire) {
            return Err(qapi::qerr!(
                "The command '{}' is permitted only after machine initialization has completed",
                request.command
            ));
        }
        if is_caps && !negotiating {
            return not_found(String::from("Capabilities negotiation is already complete, command ignored"));
        }
        Ok(entry.handler.clone())
    }

    fn negotiate(&self, arguments: Value) -> Result<Value, QError> {
        let oob = own::negotiate(arguments, self.options.oob)?;
        self.oob.store(oob, Ordering::Release);
        self.ready.store(true, Ordering::Release);
        Ok(Value::Dict(qapi::Dict::new()))
    }

    /// Runs a request in its turn, on the control executor, and answers it. What this gives is to be called then.
    async fn execute(self: &Arc<Self>, item: Value) -> Option<Box<dyn FnOnce() + Send>> {
        let id = request::id(&item);
        let (answer, after) = match self.begin(item, id.clone()) {
            Ok(Begun::Done(v)) => (Ok(v), None),
            Ok(Begun::Noted(f)) => (Ok(Value::Dict(qapi::Dict::new())), Some(f)),
            Ok(Begun::Running(command, task)) => match task.outcome().await {
                Ok(()) => return None,
                Err(_) => (Err(internal_error(&command)), None),
            },
            Err(e) => (Err(e), None),
        };
        self.send(&request::reply(answer, id));
        after
    }

    fn begin(self: &Arc<Self>, item: Value, id: Option<Value>) -> Result<Begun, QError> {
        let request = request::check(item, self.oob.load(Ordering::Acquire))?;
        let handler = self.find(&request)?;
        let arguments = request.arguments;
        // The answer is given where the command ran, before anything else runs there: what the command set going tells
        // of itself behind it. A command that was begun is finished even if its client is gone by then.
        let me = self.clone();
        let task = match handler {
            Handler::Session => return self.negotiate(arguments).map(Begun::Done),
            Handler::Request(f) => return f(arguments).map(Begun::Noted),
            Handler::Async(f) => self.shared.control.spawn(move || async move {
                let result = f(arguments).await;
                me.send(&request::reply(result, id));
            }),
            Handler::Sync(f) => self.shared.control.spawn(move || async move {
                let result = f(arguments);
                me.send(&request::reply(result, id));
            }),
        };
        Ok(Begun::Running(request.command, task))
    }

    /// Runs an out-of-band request, here and now.
    fn execute_oob(&self, item: Value) -> Result<Value, QError> {
        let request = request::check(item, self.oob.load(Ordering::Acquire))?;
        match self.find(&request)? {
            // This is the thread of all sessions: one command's failure must not end them.
            Handler::Sync(f) => catch_unwind(AssertUnwindSafe(|| f(request.arguments)))
                .unwrap_or_else(|_| Err(internal_error(&request.command))),
            Handler::Async(_) | Handler::Request(_) | Handler::Session => {
                Err(qapi::qerr!("The command {} does not support OOB", request.command))
            }
        }
    }

    /// Waits until the queue has room for one more request; `false` once the session is over.
    async fn room(&self) -> bool {
        loop {
            let changed = self.changed.listen();
            {
                let q = self.queue.lock();
                if self.out.is_closed() {
                    return false;
                }
                let room = if self.oob.load(Ordering::Acquire) {
                    q.items.len() < QUEUE
                } else {
                    q.items.is_empty() && !q.running
                };
                if room {
                    return true;
                }
            }
            changed.await;
        }
    }

    /// Reads requests until the client ends its side or the channel fails.
    async fn read(&self) {
        let mut json = JsonStream::new();
        let mut buf = [0; READ];
        loop {
            let n = match self.channel.read(&mut buf).await {
                Ok(n) if n > 0 => n,
                Ok(_) => {
                    json.finish();
                    0
                }
                Err(e) => {
                    trace::point!("monitor_qmp_read_failed", error = %e);
                    self.out.close();
                    return;
                }
            };
            json.push(&buf[..n]);
            for message in json.by_ref() {
                if !self.room().await || !self.out.room().await {
                    return;
                }
                self.take(message);
            }
            if n == 0 {
                return;
            }
        }
    }

    fn take(&self, message: Result<Value, QError>) {
        let item = match message {
            Ok(v) if request::is_oob(&v) => {
                let id = request::id(&v);
                let result = self.execute_oob(v);
                self.send(&request::reply(result, id));
                return;
            }
            Ok(v) => Item::Request(v),
            Err(e) => Item::Rubbish(e),
        };
        self.queue.lock().items.push_back(item);
        self.changed.notify(usize::MAX);
    }

    /// The next request in turn; `None` once there will be no more.
    async fn next(&self) -> Option<Item> {
        loop {
            let changed = self.changed.listen();
            {
                let mut q = self.queue.lock();
                if self.out.is_closed() || self.shared.sessions.is_deaf() {
                    return None;
                }
                if let Some(item) = q.items.pop_front() {
                    q.running = true;
                    return Some(item);
                }
                if q.ended {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Runs requests one after another.
    async fn dispatch(self: &Arc<Self>) {
        while let Some(item) = self.next().await {
            // A client that does not read its replies gets no more of them.
            if !self.out.room().await {
                return;
            }
            match item {
                Item::Rubbish(e) => self.send(&request::reply(Err(e), None)),
                Item::Request(v) => {
                    if let Some(f) = self.execute(v).await {
                        f();
                    }
                }
            }
            self.queue.lock().running = false;
            self.changed.notify(usize::MAX);
        }
    }

    async fn write(&self) {
        while let Some(bytes) = self.out.next("\r\n").await {
            if let Err(e) = io::write_all(&*self.channel, &bytes).await {
                trace::point!("monitor_qmp_write_failed", error = %e);
                break;
            }
        }
        self.out.close();
        self.changed.notify(usize::MAX);
    }

    /// Whether everything that was asked is answered and written.
    pub(crate) fn is_idle(&self) -> bool {
        let q = self.queue.lock();
        let answered = !q.running && (q.items.is_empty() || self.shared.sessions.is_deaf());
        self.out.is_closed() || (answered && self.out.is_drained())
    }

    /// Has the session look again at what was changed from outside.
    pub(crate) fn stir(&self) {
        self.changed.notify(usize::MAX);
    }

    /// Ends the session at once.
    pub(crate) fn close(&self) {
        self.out.close();
        self.channel.shutdown();
        self.changed.notify(usize::MAX);
    }
}

/// Serves one client until it is gone.
pub(crate) async fn run(shared: Arc<Shared>, channel: Arc<dyn Channel>, options: QmpOptions) {
    let session = Arc::new(Session {
        channel,
        shared: shared.clone(),
        options,
        out: OutQueue::default(),
        ready: AtomicBool::new(false),
        oob: AtomicBool::new(false),
        queue: Mutex::new(Queue::default()),
        changed: Event::new(),
    });
    let Some(_registered) = shared.sessions.register(&session) else { return };
    session.send(&own::greeting(options.oob));
    let _events = shared.events.subscribe(session.clone());

    let s = session.clone();
    let writer = rt::spawn_local(async move { s.write().await });
    let s = session.clone();
    let dispatcher = rt::spawn_local(async move { s.dispatch().await });

    session.read().await;
    // The client may have ended its side and still wait for answers.
    session.queue.lock().ended = true;
    session.changed.notify(usize::MAX);
    dispatcher.await;
    session.out.finish();
    if rt::timeout(LINGER, writer).await.is_none() {
        trace::point!("monitor_qmp_linger_over");
    }
    session.close();
}
