//! The monitor: the thread that sessions live on, and what they share.

use crate::events::EventBus;
use crate::hmp::{self, HmpTable};
use crate::own;
use crate::qmp::{self, Session};
use crate::table::CommandTable;
use base::IoResult;
use event_listener::Event;
use io::{Acceptor, Channel};
use parking_lot::Mutex;
use qapi::{Dict, Value};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// Sessions of one source at a time; further clients wait to be accepted.
const MAX_SESSIONS: usize = 64;

/// How a QMP source's sessions behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QmpOptions {
    /// Replies and events on several lines, indented (`pretty=on`).
    pub pretty: bool,
    /// Whether out-of-band execution is offered. Off where a channel is shared with another front end.
    pub oob: bool,
}

impl Default for QmpOptions {
    fn default() -> QmpOptions {
        QmpOptions { pretty: false, oob: true }
    }
}

/// How a human monitor's sessions behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HmpOptions {
    /// Echo, line editing and a prompt; without, input is plain lines and only output is written.
    pub readline: bool,
}

impl Default for HmpOptions {
    fn default() -> HmpOptions {
        HmpOptions { readline: true }
    }
}

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) commands: CommandTable,
    pub(crate) hmp: HmpTable,
    pub(crate) events: EventBus,
    pub(crate) control: rt::Handle,
    pub(crate) preconfig: AtomicBool,
    pub(crate) sessions: Sessions,
    pub(crate) command_list: Value,
    /// Made when it is first asked for: it is large, and start-up does not wait for it.
    schema: OnceLock<Value>,
}

impl Shared {
    pub(crate) fn schema(&self) -> &Value {
        self.schema.get_or_init(|| self.commands.introspect())
    }

    /// Runs a human monitor's command line and gives its output. On the control executor.
    pub(crate) async fn hmp_run(&self, line: &str) -> String {
        match self.hmp.parse(line) {
            Ok(call) => (call.handler)(call.args).await,
            Err(text) => text,
        }
    }
}

/// The QMP sessions that live.
#[derive(Default)]
pub(crate) struct Sessions {
    list: Mutex<Vec<Weak<Session>>>,
    closing: AtomicBool,
    deaf: AtomicBool,
}

pub(crate) struct Registered<'a>(&'a Sessions, Weak<Session>);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.list.lock().retain(|s| !s.ptr_eq(&self.1) && s.strong_count() > 0);
    }
}

impl Sessions {
    /// Adds a session until the guard is dropped; `None` while the monitor closes.
    pub(crate) fn register(&self, session: &Arc<Session>) -> Option<Registered<'_>> {
        if self.closing.load(Ordering::Acquire) {
            return None;
        }
        let weak = Arc::downgrade(session);
        self.list.lock().push(weak.clone());
        Some(Registered(self, weak))
    }

    /// Whether no request is begun any more.
    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::Acquire)
    }

    fn all(&self) -> Vec<Arc<Session>> {
        self.list.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// Serves QMP and human monitor sessions on a thread of its own. Dropping it ends them.
pub struct Monitor {
    shared: Arc<Shared>,
    thread: rt::IoThread,
}

impl Monitor {
    /// A monitor with these commands and events. In-band and human commands run on `control`. The monitor's
    /// own commands (`qmp_capabilities`, `query-version`, `query-commands`, `query-qmp-schema`,
    /// `human-monitor-command`; `info version`) are added here. Without a table for the human monitor there is
    /// no `human-monitor-command` either.
    ///
    /// # Errors
    /// The system's, where the thread cannot be started.
    pub fn new(
        mut commands: CommandTable,
        hmp: impl Into<Option<HmpTable>>,
        events: EventBus,
        control: rt::Handle,
    ) -> IoResult<Monitor> {
        let cell = Arc::new(OnceLock::new());
        own::register(&mut commands, &cell);
        let mut hmp = hmp.into();
        if let Some(hmp) = &mut hmp {
            own::register_hmp(&mut commands, hmp, &cell);
        }
        let command_list = commands.names().map(|n| Value::Dict(Dict::from_iter([("name", n)]))).collect();
        let shared = Arc::new(Shared {
            commands,
            hmp: hmp.unwrap_or_default(),
            events: events.clone(),
            control,
            preconfig: AtomicBool::new(false),
            sessions: Sessions::default(),
            command_list: Value::List(command_list),
            schema: OnceLock::new(),
        });
        let _ = cell.set(Arc::downgrade(&shared));
        let thread = rt::IoThread::spawn("monitor")?;
        drop(thread.handle().spawn(move || async move { events.run_held_back().await }));
        Ok(Monitor { shared, thread })
    }

    /// Whether the machine is not built yet, so that only commands which allow that may run.
    pub fn set_preconfig(&self, on: bool) {
        self.shared.preconfig.store(on, Ordering::Release);
    }

    /// The bus whose events the sessions send.
    pub fn events(&self) -> &EventBus {
        &self.shared.events
    }

    /// What `query-qmp-schema` answers.
    pub fn schema(&self) -> &Value {
        self.shared.schema()
    }

    /// The monitor's thread, for channels that want to live on it.
    pub fn handle(&self) -> rt::Handle {
        self.thread.handle()
    }

    /// Serves QMP to every client of `source`, until the source ends.
    pub fn serve_qmp(&self, source: Arc<dyn Acceptor>, options: QmpOptions) {
        let shared = self.shared.clone();
        self.serve(source, move |channel| qmp::run(shared.clone(), channel, options));
    }

    /// Serves a human monitor to every client of `source`, until the source ends.
    pub fn serve_hmp(&self, source: Arc<dyn Acceptor>, options: HmpOptions) {
        let shared = self.shared.clone();
        self.serve(source, move |channel| hmp::run(shared.clone(), channel, options));
    }

    fn serve<F, Fut>(&self, source: Arc<dyn Acceptor>, session: F)
    where
        F: Fn(Arc<dyn Channel>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        drop(self.thread.handle().spawn(move || async move {
            let live = Arc::new((AtomicUsize::new(0), Event::new()));
            loop {
                loop {
                    let ended = live.1.listen();
                    if live.0.load(Ordering::Acquire) < MAX_SESSIONS {
                        break;
                    }
                    ended.await;
                }
                let channel = match source.accept().await {
                    Ok(c) => c,
                    Err(e) => {
                        trace::point!("monitor_source_ended", error = %e);
                        return;
                    }
                };
                live.0.fetch_add(1, Ordering::AcqRel);
                let count = Counted(live.clone());
                let running = session(channel);
                drop(rt::spawn_local(async move {
                    let _count = count;
                    running.await;
                }));
            }
        }));
    }

    /// Runs a human monitor's command line on the control executor and gives its output.
    pub async fn hmp_command(&self, line: &str) -> String {
        let (shared, line) = (self.shared.clone(), line.to_owned());
        self.shared.control.spawn(move || async move { shared.hmp_run(&line).await }).await
    }

    /// Begins no further QMP command; those that run go on and are answered. Events are sent as before.
    pub fn stop_commands(&self) {
        self.shared.sessions.deaf.store(true, Ordering::Release);
        self.shared.sessions.all().iter().for_each(|s| s.stir());
    }

    /// Takes no new QMP sessions, waits (at most `limit`) until those that live have answered what they were asked
    /// and written it, and closes them. To be called on the control executor before the process ends.
    pub async fn shutdown(&self, limit: Duration) {
        self.shared.sessions.closing.store(true, Ordering::Release);
        let until = rt::now() + limit;
        // The reply to the command that led here is made just after that command returns.
        rt::yield_now().await;
        while rt::now() < until && !self.shared.sessions.all().iter().all(|s| s.is_idle()) {
            rt::sleep(Duration::from_millis(1)).await;
        }
        for s in self.shared.sessions.all() {
            s.close();
        }
    }
}

struct Counted(Arc<(AtomicUsize, Event)>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
        self.0.1.notify(usize::MAX);
    }
}
