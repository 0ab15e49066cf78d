//! `throttle-group`: limits on requests and bytes a second, shared by all who join.
//!
//! Each limit is a leaky bucket. A request pours its size into the buckets that it concerns, which leak at the limit's rate;
//! while a bucket is over its brim, the next request waits. The brim is a tenth of a second's worth, or with a burst rate as
//! much as the burst's length allows; a second bucket keeps a long burst at its rate.
//!
//! Members wait in queues of their own, which are served in turn, so that one with many requests does not starve the others.

use crate::object::{Object, Property};
use api::qom::{ThrottleGroupProperties, ThrottleLimits};
use event_listener::Event;
use parking_lot::Mutex;
use qapi::{Dict, QError, Value, from_json, qerr};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The greatest rate, and the greatest number of units in a burst.
const MAX: i64 = 1_000_000_000_000_000;

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    /// Units a second; 0 for no limit.
    avg: i64,
    /// Units a second in a burst; 0 for none.
    max: i64,
    /// Seconds.
    length: i64,
}

const NO_LIMIT: Limit = Limit { avg: 0, max: 0, length: 1 };

/// The limits of a group: bytes in total, read, written; requests in total, reads, writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    rates: [Limit; 6],
    /// Bytes that count as one request; 0 for any number.
    iops_size: i64,
}

/// The limits' names, in their order.
const NAMES: [&str; 6] = ["bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"];

impl Default for Limits {
    fn default() -> Self {
        Limits { rates: [NO_LIMIT; 6], iops_size: 0 }
    }
}

impl Limits {
    /// Takes over what is said.
    fn merge(&mut self, l: &ThrottleLimits) {
        let given = [
            (l.bps_total, l.bps_total_max, l.bps_total_max_length),
            (l.bps_read, l.bps_read_max, l.bps_read_max_length),
            (l.bps_write, l.bps_write_max, l.bps_write_max_length),
            (l.iops_total, l.iops_total_max, l.iops_total_max_length),
            (l.iops_read, l.iops_read_max, l.iops_read_max_length),
            (l.iops_write, l.iops_write_max, l.iops_write_max_length),
        ];
        for (to, (avg, max, length)) in self.rates.iter_mut().zip(given) {
            to.avg = avg.unwrap_or(to.avg);
            to.max = max.unwrap_or(to.max);
            to.length = length.unwrap_or(to.length);
        }
        self.iops_size = l.iops_size.unwrap_or(self.iops_size);
    }

    fn check(&self) -> Result<(), QError> {
        for half in self.rates.chunks(3) {
            let both = |f: fn(&Limit) -> i64| f(&half[0]) != 0 && (f(&half[1]) != 0 || f(&half[2]) != 0);
            if both(|l| l.avg) || both(|l| l.max) {
                return Err(qerr!(
                    "bps/iops/max total values and read/write values cannot be used at the same time"
                ));
            }
        }
        if self.iops_size != 0 && self.rates[3..].iter().all(|l| l.avg == 0) {
            return Err(qerr!("iops size requires an iops value to be set"));
        }
        for (name, l) in NAMES.iter().zip(&self.rates) {
            let range = 0..=MAX;
            if !range.contains(&l.avg) || !range.contains(&l.max) || !range.contains(&self.iops_size) {
                return Err(qerr!("bps/iops/max values must be within [0, {MAX}]"));
            }
            if !(0..=i64::from(u32::MAX)).contains(&l.length) {
                return Err(qerr!("{name}-max-length value must be in the range [0, {}]", u32::MAX));
            }
            if l.length == 0 {
                return Err(qerr!("the burst length cannot be 0"));
            }
            if l.length > 1 && l.max == 0 {
                return Err(qerr!("burst length set without burst rate"));
            }
            if l.max != 0 && l.length > MAX / l.max {
                return Err(qerr!("burst length too high for this burst rate"));
            }
            if l.max != 0 && l.avg == 0 {
                return Err(qerr!("bps_max/iops_max require corresponding bps/iops values"));
            }
            if l.max != 0 && l.max < l.avg {
                return Err(qerr!("bps_max/iops_max cannot be lower than bps/iops"));
            }
        }
        Ok(())
    }

    fn to_value(self) -> Value {
        let mut d = Dict::new();
        for (name, l) in NAMES.iter().zip(self.rates) {
            d.insert(*name, l.avg);
            d.insert(format!("{name}-max"), l.max);
            d.insert(format!("{name}-max-length"), l.length);
        }
        d.insert("iops-size", self.iops_size);
        Value::Dict(d)
    }
}

/// How full a limit's buckets are.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    level: f64,
    burst: f64,
}

impl Bucket {
    fn leak(&mut self, l: Limit, seconds: f64) {
        self.level = (self.level - l.avg as f64 * seconds).max(0.0);
        self.burst = (self.burst - l.max as f64 * seconds).max(0.0);
    }

    /// Seconds until the buckets are below their brims.
    fn wait(&self, l: Limit) -> f64 {
        if l.avg == 0 {
            return 0.0;
        }
        let (avg, max) = (l.avg as f64, l.max as f64);
        let brim = if l.max == 0 { avg / 10.0 } else { max * l.length as f64 };
        if self.level > brim {
            return (self.level - brim) / avg;
        }
        let burst = if l.length > 1 { self.burst - max / 10.0 } else { 0.0 };
        if burst > 0.0 { burst / max } else { 0.0 }
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It reads.
    Read,
    /// It writes, zeroes or discards.
    Write,
}

impl Direction {
    fn buckets(self) -> [usize; 4] {
        match self {
            Direction::Read => [0, 1, 3, 4],
            Direction::Write => [0, 2, 3, 5],
        }
    }
}

struct Waiter {
    id: u64,
    event: Arc<Event>,
}

/// Those who wait to read, or to write.
#[derive(Default)]
struct Line {
    /// Whose turn it is: member and waiter.
    turn: Option<(u64, u64)>,
    /// The member that was served last.
    last: u64,
    queues: BTreeMap<u64, VecDeque<Waiter>>,
}

impl Line {
    /// Says whose turn it is, if it is nobody's, and tells him.
    fn choose(&mut self) {
        if self.turn.is_some() {
            return;
        }
        let after = self.queues.range(self.last + 1..).next().or_else(|| self.queues.iter().next());
        if let Some((member, queue)) = after
            && let Some(w) = queue.front()
        {
            self.turn = Some((*member, w.id));
            w.event.notify(usize::MAX);
        }
    }

    fn leave(&mut self, member: u64, id: u64) {
        if let Some(queue) = self.queues.get_mut(&member) {
            queue.retain(|w| w.id != id);
            if queue.is_empty() {
                self.queues.remove(&member);
            }
        }
        if self.turn == Some((member, id)) {
            self.turn = None;
            self.last = member;
        }
        self.choose();
    }

    fn wake(&self, member: Option<u64>) {
        for (m, queue) in &self.queues {
            if member.is_none_or(|wanted| wanted == *m) {
                for w in queue {
                    w.event.notify(usize::MAX);
                }
            }
        }
    }
}

#[derive(Default)]
struct State {
    limits: Limits,
    buckets: [Bucket; 6],
    leaked: Option<Instant>,
    lines: [Line; 2],
}

impl State {
    /// How long a request of this direction must wait now; `None` if it need not.
    fn wait(&mut self, dir: Direction) -> Option<Duration> {
        let now = rt::now();
        let seconds = self.leaked.map_or(0.0, |t| now.saturating_duration_since(t).as_secs_f64());
        self.leaked = Some(now);
        for (b, l) in self.buckets.iter_mut().zip(self.limits.rates) {
            b.leak(l, seconds);
        }
        let wait = |i: usize| self.buckets[i].wait(self.limits.rates[i]);
        let longest = dir.buckets().into_iter().map(wait).fold(0.0, f64::max);
        // At most an hour at a time, so that no number is too great; then one looks again.
        (longest > 1e-9).then(|| Duration::from_secs_f64(longest.clamp(1e-6, 3600.0)))
    }

    fn pour(&mut self, dir: Direction, bytes: u64) {
        let size = self.limits.iops_size;
        let ops = if size > 0 && bytes > size as u64 { bytes as f64 / size as f64 } else { 1.0 };
        for i in dir.buckets() {
            let units = if i < 3 { bytes as f64 } else { ops };
            self.buckets[i].level += units;
            self.buckets[i].burst += units;
        }
    }
}

/// A group of members that share limits.
#[derive(Default)]
pub struct ThrottleGroup {
    state: Mutex<State>,
    ids: AtomicU64,
}

impl ThrottleGroup {
    fn new(p: &ThrottleGroupProperties) -> Result<ThrottleGroup, QError> {
        let mut limits = Limits::default();
        let single = ThrottleLimits {
            bps_total: p.x_bps_total,
            bps_total_max: p.x_bps_total_max,
            bps_total_max_length: p.x_bps_total_max_length,
            bps_read: p.x_bps_read,
            bps_read_max: p.x_bps_read_max,
            bps_read_max_length: p.x_bps_read_max_length,
            bps_write: p.x_bps_write,
            bps_write_max: p.x_bps_write_max,
            bps_write_max_length: p.x_bps_write_max_length,
            iops_total: p.x_iops_total,
            iops_total_max: p.x_iops_total_max,
            iops_total_max_length: p.x_iops_total_max_length,
            iops_read: p.x_iops_read,
            iops_read_max: p.x_iops_read_max,
            iops_read_max_length: p.x_iops_read_max_length,
            iops_write: p.x_iops_write,
            iops_write_max: p.x_iops_write_max,
            iops_write_max_length: p.x_iops_write_max_length,
            iops_size: p.x_iops_size,
        };
        limits.merge(&single);
        let rates = limits.rates.iter().flat_map(|l| [l.avg, l.max, l.length]);
        if rates.chain([limits.iops_size]).any(|v| v < 0) {
            return Err(qerr!("Property values cannot be negative"));
        }
        limits.merge(p.limits.as_ref().unwrap_or(&ThrottleLimits::default()));
        limits.check()?;
        let state = State { limits, ..State::default() };
        Ok(ThrottleGroup { state: Mutex::new(state), ids: AtomicU64::new(1) })
    }

    fn set_limits(&self, l: &ThrottleLimits) -> Result<(), QError> {
        let now = self.state.lock().limits;
        self.put_limits(now, l)
    }

    fn put_limits(&self, mut limits: Limits, l: &ThrottleLimits) -> Result<(), QError> {
        limits.merge(l);
        limits.check()?;
        let mut state = self.state.lock();
        state.limits = limits;
        state.buckets = Default::default();
        state.lines.iter().for_each(|l| l.wake(None));
        Ok(())
    }

    /// Whether limits can be kept; what is not said is no limit.
    ///
    /// # Errors
    /// Limits that exclude each other, or are out of range.
    pub fn check(l: &ThrottleLimits) -> Result<(), QError> {
        let mut limits = Limits::default();
        limits.merge(l);
        limits.check()
    }

    /// Has these be the limits, and nothing else.
    ///
    /// # Errors
    /// As [`ThrottleGroup::check`]; then they stay as they were.
    pub fn replace_limits(&self, l: &ThrottleLimits) -> Result<(), QError> {
        self.put_limits(Limits::default(), l)
    }

    /// The limits, each of them.
    pub fn limits(&self) -> ThrottleLimits {
        let l = self.state.lock().limits;
        let [bt, br, bw, it, ir, iw] = l.rates;
        ThrottleLimits {
            bps_total: Some(bt.avg),
            bps_total_max: Some(bt.max),
            bps_total_max_length: Some(bt.length),
            bps_read: Some(br.avg),
            bps_read_max: Some(br.max),
            bps_read_max_length: Some(br.length),
            bps_write: Some(bw.avg),
            bps_write_max: Some(bw.max),
            bps_write_max_length: Some(bw.length),
            iops_total: Some(it.avg),
            iops_total_max: Some(it.max),
            iops_total_max_length: Some(it.length),
            iops_read: Some(ir.avg),
            iops_read_max: Some(ir.max),
            iops_read_max_length: Some(ir.length),
            iops_write: Some(iw.avg),
            iops_write_max: Some(iw.max),
            iops_write_max_length: Some(iw.length),
            iops_size: Some(l.iops_size),
        }
    }

    /// A new member.
    pub fn join(self: &Arc<Self>) -> ThrottleMember {
        ThrottleMember { group: self.clone(), id: self.ids.fetch_add(1, SeqCst), exempt: AtomicUsize::new(0) }
    }
}

/// One who shares a group's limits.
pub struct ThrottleMember {
    group: Arc<ThrottleGroup>,
    id: u64,
    exempt: AtomicUsize,
}

impl ThrottleMember {
    /// Waits until a request of so many bytes may go on.
    pub async fn admit(&self, dir: Direction, bytes: u64) {
        let (id, event) = {
            let mut state = self.group.state.lock();
            let free = state.lines[dir as usize].queues.is_empty() && state.wait(dir).is_none();
            if free || self.exempt.load(SeqCst) > 0 {
                state.pour(dir, bytes);
                return;
            }
            let (id, event) = (self.group.ids.fetch_add(1, SeqCst), Arc::new(Event::new()));
            let line = &mut state.lines[dir as usize];
            line.queues.entry(self.id).or_default().push_back(Waiter { id, event: event.clone() });
            line.choose();
            (id, event)
        };
        let _place = Place { member: self, dir, id };
        loop {
            let listener = event.listen();
            let wait = {
                let mut state = self.group.state.lock();
                let wait = state.wait(dir);
                let turn = state.lines[dir as usize].turn == Some((self.id, id));
                if self.exempt.load(SeqCst) > 0 || (turn && wait.is_none()) {
                    state.pour(dir, bytes);
                    return;
                }
                wait.filter(|_| turn)
            };
            match wait {
                Some(t) => drop(rt::timeout(t, listener).await),
                None => listener.await,
            }
        }
    }

    /// How many reasons there are to let this member's requests pass; those that wait go on when there is one.
    pub fn set_exempt(&self, reasons: usize) {
        self.exempt.store(reasons, SeqCst);
        if reasons > 0 {
            self.group.state.lock().lines.iter().for_each(|l| l.wake(Some(self.id)));
        }
    }
}

/// A place in a line; given up when dropped.
struct Place<'m> {
    member: &'m ThrottleMember,
    dir: Direction,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.member.group.state.lock();
        state.lines[self.dir as usize].leave(self.member.id, self.id);
    }
}

/// The object.
pub struct ThrottleObject {
    group: Arc<ThrottleGroup>,
}

impl ThrottleObject {
    pub(crate) fn new(p: &ThrottleGroupProperties) -> Result<ThrottleObject, QError> {
        Ok(ThrottleObject { group: Arc::new(ThrottleGroup::new(p)?) })
    }

    fn names() -> impl Iterator<Item = String> {
        let each = |n: &'static str| ["", "-max", "-max-length"].map(|s| format!("{n}{s}"));
        NAMES.into_iter().flat_map(each).chain(["iops-size".to_owned()])
    }
}

impl Object for ThrottleObject {
    fn type_name(&self) -> &str {
        "throttle-group"
    }

    fn properties(&self) -> Vec<Property> {
        let own = Property::new("limits", "ThrottleLimits");
        std::iter::once(own).chain(Self::names().map(|n| Property::new(format!("x-{n}"), "int"))).collect()
    }

    fn get(&self, name: &str) -> Option<Value> {
        let all = self.group.state.lock().limits.to_value();
        match name {
            "limits" => Some(all),
            _ => all.get(name.strip_prefix("x-")?).cloned(),
        }
    }

    fn set(&self, name: &str, value: &Value) -> Result<(), QError> {
        if name == "limits" {
            // Read as a member, so that messages name it.
            let mut whole = Dict::new();
            whole.insert(name, value.clone());
            let p: ThrottleGroupProperties = from_json(Value::Dict(whole))?;
            return self.group.set_limits(&p.limits.unwrap_or_default());
        }
        if name.strip_prefix("x-").is_some_and(|n| Self::names().any(|k| k == n)) {
            return Err(qerr!("Property cannot be set after initialization"));
        }
        let what = if name == "type" { "is not writable" } else { "not found" };
        Err(qerr!("Property 'throttle-group.{name}' {what}"))
    }

    fn throttle_group(&self) -> Option<Arc<ThrottleGroup>> {
        Some(self.group.clone())
    }
}

#[cfg(test)]
mod tests;
