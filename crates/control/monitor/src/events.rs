//! Events: emitted anywhere, delivered to every session, some no more than once in a while.

use parking_lot::Mutex;
use qapi::{Event, Value};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

/// Picks from an event's data what tells one throttled stream of it from another, such as a device's id.
pub type EventKey = fn(&Value) -> Option<String>;

/// An event that happened.
#[derive(Debug)]
pub struct EventRecord {
    /// The event's name.
    pub name: &'static str,
    /// Its data, a dictionary; `None` for an event that has none.
    pub data: Option<Value>,
    /// When it was emitted.
    pub timestamp: SystemTime,
    line: OnceLock<Arc<str>>,
}

impl EventRecord {
    fn new(name: &'static str, data: Option<Value>) -> EventRecord {
        EventRecord { name, data, timestamp: SystemTime::now(), line: OnceLock::new() }
    }

    /// The event as a QMP object.
    pub fn to_value(&self) -> Value {
        let since = self.timestamp.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut at = qapi::Dict::new();
        at.insert("seconds", Value::Int(since.as_secs().cast_signed()));
        at.insert("microseconds", Value::Int(since.subsec_micros().into()));
        let mut d = qapi::Dict::new();
        d.insert("timestamp", Value::Dict(at));
        d.insert("event", Value::Str(self.name.to_owned()));
        if let Some(data) = &self.data {
            d.insert("data", data.clone());
        }
        Value::Dict(d)
    }

    /// The event as one line of JSON without its end; rendered once for all sessions.
    pub fn line(&self) -> Arc<str> {
        self.line.get_or_init(|| self.to_value().to_json_ranked(false).into()).clone()
    }
}

/// Somebody who gets every event. Called on the emitter's thread with the bus's lock held: it must be quick,
/// must not wait, and must not emit, subscribe or unsubscribe.
pub trait EventSink: Send + Sync {
    /// Takes an event; `false` ends the subscription.
    fn event(&self, event: &Arc<EventRecord>) -> bool;
}

/// Where events are emitted and subscribed to. Clones are the same bus; any thread may use it.
#[derive(Clone, Default)]
pub struct EventBus(Arc<Inner>);

#[derive(Default)]
struct Inner {
    sinks: Mutex<Sinks>,
    throttle: Mutex<Throttle>,
    /// Tells the task that delivers held-back events that there is a new deadline.
    changed: event_listener::Event,
    emitted: AtomicU64,
}

#[derive(Default)]
struct Sinks {
    list: Vec<(u64, Arc<dyn EventSink>)>,
    next: u64,
}

/// Gets events until it is dropped.
pub struct Subscription {
    bus: Weak<Inner>,
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(bus) = self.bus.upgrade() {
            // The sink may hold the last reference to much: it is dropped after the lock.
            let mut sinks = bus.sinks.lock();
            let at = sinks.list.iter().position(|(n, _)| *n == self.number);
            let gone = at.map(|at| sinks.list.remove(at));
            drop(sinks);
            drop(gone);
        }
    }
}

struct Limit {
    interval: Duration,
    key: Option<EventKey>,
}

struct Throttle {
    limits: HashMap<&'static str, Limit>,
    /// Streams of events in whose interval one was delivered.
    active: HashMap<(&'static str, Option<String>), Active>,
}

struct Active {
    until: Instant,
    interval: Duration,
    held: Option<Arc<EventRecord>>,
}

/// Streams of throttled events that are remembered at once. An event's key may come from outside (a port's
/// id), so this is bounded; beyond it events pass unthrottled.
const MAX_ACTIVE: usize = 4096;

fn member(data: &Value, name: &str) -> Option<String> {
    match data {
        Value::Dict(d) => match d.get(name) {
            Some(Value::Str(s)) => Some(s.clone()),
            Some(other) => Some(other.to_json()),
            None => None,
        },
        _ => None,
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.changed.notify(usize::MAX);
    }
}

impl Default for Throttle {
    fn default() -> Throttle {
        let second = Duration::from_secs(1);
        let plain = Limit { interval: second, key: None };
        let by = |key: EventKey| Limit { interval: second, key: Some(key) };
        let limits = HashMap::from([
            ("RTC_CHANGE", plain),
            ("WATCHDOG", Limit { interval: second, key: None }),
            ("BALLOON_CHANGE", Limit { interval: second, key: None }),
            ("HV_BALLOON_STATUS_REPORT", Limit { interval: second, key: None }),
            ("QUORUM_REPORT_BAD", by(|d| member(d, "node-name"))),
            ("QUORUM_FAILURE", Limit { interval: second, key: None }),
            ("VSERPORT_CHANGE", by(|d| member(d, "id"))),
            ("MEMORY_DEVICE_SIZE_CHANGE", by(|d| member(d, "qom-path"))),
        ]);
        Throttle { limits, active: HashMap::new() }
    }
}

impl EventBus {
    /// A bus with the usual rate limits and no subscriber.
    pub fn new() -> EventBus {
        EventBus::default()
    }

    /// Emits an event. Never waits.
    pub fn emit<E: Event>(&self, event: E) {
        let data = match qapi::to_value(&event) {
            Value::Dict(d) if d.is_empty() => None,
            Value::Null => None,
            v => Some(v),
        };
        self.emit_value(E::NAME, data);
    }

    /// Emits an event by name. Prefer [`EventBus::emit`], which checks the event's type.
    pub fn emit_value(&self, name: &'static str, data: Option<Value>) {
        self.0.emitted.fetch_add(1, Ordering::Relaxed);
        let event = Arc::new(EventRecord::new(name, data));
        if self.hold_back(&event) {
            self.0.changed.notify(usize::MAX);
        } else {
            self.deliver(&event);
        }
    }

    /// How many events were emitted so far.
    pub fn emitted(&self) -> u64 {
        self.0.emitted.load(Ordering::Relaxed)
    }

    /// Limits event `name` to one per `interval` (and per value of `key`): the first passes at once, of those
    /// that follow within the interval only the last is delivered, at its end. A zero interval lifts a limit.
    pub fn set_rate_limit(&self, name: &'static str, interval: Duration, key: Option<EventKey>) {
        let mut t = self.0.throttle.lock();
        if interval.is_zero() {
            t.limits.remove(name);
        } else {
            t.limits.insert(name, Limit { interval, key });
        }
    }

    /// Adds a subscriber, until the subscription is dropped or the sink has had enough.
    #[must_use]
    pub fn subscribe(&self, sink: Arc<dyn EventSink>) -> Subscription {
        let mut sinks = self.0.sinks.lock();
        let number = sinks.next;
        sinks.next += 1;
        sinks.list.push((number, sink));
        Subscription { bus: Arc::downgrade(&self.0), number }
    }

    /// A stream of the events from now on; it holds at most `capacity` that were not received yet, and
    /// loses further ones.
    pub fn listen(&self, capacity: usize) -> EventStream {
        let (tx, rx) = flume::bounded(capacity);
        let subscription = self.subscribe(Arc::new(StreamSink(tx)));
        EventStream { events: rx, _subscription: subscription }
    }

    fn deliver(&self, event: &Arc<EventRecord>) {
        self.0.sinks.lock().list.retain(|(_, s)| s.event(event));
    }

    /// Whether `event` waits for its interval to end.
    fn hold_back(&self, event: &Arc<EventRecord>) -> bool {
        let mut t = self.0.throttle.lock();
        let Some(limit) = t.limits.get(event.name) else { return false };
        let key = limit.key.and_then(|k| event.data.as_ref().and_then(k));
        let (interval, now) = (limit.interval, Instant::now());
        if t.active.len() >= MAX_ACTIVE {
            t.active.retain(|_, a| a.held.is_some() || a.until > now);
            if t.active.len() >= MAX_ACTIVE {
                return false;
            }
        }
        let a = t.active.entry((event.name, key)).or_insert(Active { until: now, interval, held: None });
        if now < a.until || a.held.is_some() {
            a.held = Some(event.clone());
            return true;
        }
        a.until = now + interval;
        false
    }

    /// Delivers what is due; the time of the next deadline.
    fn flush_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut due = Vec::new();
        let next = {
            let mut t = self.0.throttle.lock();
            t.active.retain(|_, a| {
                if a.until > now {
                    return true;
                }
                match a.held.take() {
                    Some(e) => {
                        due.push(e);
                        a.until = now + a.interval;
                        true
                    }
                    None => false,
                }
            });
            t.active.values().filter(|a| a.held.is_some()).map(|a| a.until).min()
        };
        due.sort_by_key(|e| e.timestamp);
        for e in &due {
            self.deliver(e);
        }
        next
    }

    /// Delivers events that a rate limit holds back, until the bus is gone. One task runs this.
    pub(crate) async fn run_held_back(&self) {
        let weak: Weak<Inner> = Arc::downgrade(&self.0);
        loop {
            let Some(inner) = weak.upgrade() else { return };
            let changed = inner.changed.listen();
            let next = EventBus(inner).flush_due();
            match next {
                Some(at) => {
                    rt::timeout(at.saturating_duration_since(Instant::now()), changed).await;
                }
                None => changed.await,
            }
        }
    }
}

struct StreamSink(flume::Sender<Arc<EventRecord>>);

impl EventSink for StreamSink {
    fn event(&self, event: &Arc<EventRecord>) -> bool {
        !matches!(self.0.try_send(event.clone()), Err(flume::TrySendError::Disconnected(_)))
    }
}

/// Events received one by one; see [`EventBus::listen`].
pub struct EventStream {
    events: flume::Receiver<Arc<EventRecord>>,
    _subscription: Subscription,
}

impl EventStream {
    /// The next event; `None` once the bus is gone.
    pub async fn next(&self) -> Option<Arc<EventRecord>> {
        self.events.recv_async().await.ok()
    }

    /// The next event, if one is there already.
    pub fn try_next(&self) -> Option<Arc<EventRecord>> {
        self.events.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(s: &EventStream) -> Vec<(&'static str, Option<String>)> {
        std::iter::from_fn(|| s.try_next())
            .map(|e| (e.name, e.data.as_ref().and_then(|d| member(d, "n"))))
            .collect()
    }

    fn data(id: &str, n: i64) -> Option<Value> {
        let mut d = qapi::Dict::new();
        d.insert("id", Value::Str(id.into()));
        d.insert("n", Value::Int(n));
        Some(Value::Dict(d))
    }

    #[test]
    fn rate_limits_keep_the_first_and_the_last() {
        let bus = EventBus::new();
        let s = bus.listen(100);
        bus.set_rate_limit("A", Duration::from_millis(80), Some(|d| member(d, "id")));
        for n in 0..5 {
            bus.emit_value("A", data("x", n));
            bus.emit_value("A", data("y", n));
            bus.emit_value("B", data("x", n));
        }
        let got = names(&s);
        assert_eq!(got.iter().filter(|(e, _)| *e == "A").count(), 2, "one for each key: {got:?}");
        assert_eq!(got.iter().filter(|(e, _)| *e == "B").count(), 5);
        assert!(bus.flush_due().is_some());
        assert!(names(&s).is_empty(), "the interval is not over");
        std::thread::sleep(Duration::from_millis(100));
        assert!(bus.flush_due().is_none());
        assert_eq!(names(&s), [("A", Some("4".into())), ("A", Some("4".into()))]);
        // Delivered late, it starts the next interval.
        bus.emit_value("A", data("x", 9));
        assert!(names(&s).is_empty());
        bus.set_rate_limit("A", Duration::ZERO, None);
        bus.emit_value("A", data("x", 10));
        assert_eq!(names(&s), [("A", Some("10".into()))]);
    }

    #[test]
    fn a_stream_loses_what_it_cannot_hold_and_ends_when_dropped() {
        let bus = EventBus::new();
        let s = bus.listen(2);
        for n in 0..5 {
            bus.emit_value("A", data("x", n));
        }
        assert_eq!(names(&s).len(), 2);
        drop(s);
        assert!(bus.0.sinks.lock().list.is_empty());
    }

    #[test]
    fn the_keys_of_throttled_events_are_bounded() {
        let bus = EventBus::new();
        for n in 0..MAX_ACTIVE as i64 + 10 {
            bus.emit_value("VSERPORT_CHANGE", data(&format!("port{n}"), n));
        }
        assert!(bus.0.throttle.lock().active.len() <= MAX_ACTIVE);
    }
}
