//! Places at which requests stop until somebody lets them go on: storage that does not answer, for tests.

use api::block_core::BlkdebugEvent;
use parking_lot::Mutex;
use rt::sync::Notify;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// The breakpoints of one `blkdebug` node. Any thread may call any method.
#[derive(Default)]
pub struct Breakpoints {
    list: Mutex<Vec<Arc<Breakpoint>>>,
    /// What happened at breakpoints for one request each, as lines for people.
    told: Mutex<Vec<String>>,
}

struct Breakpoint {
    event: BlkdebugEvent,
    tag: String,
    /// Holds one request only.
    once: bool,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    held: usize,
    released: bool,
}

/// By the name of the node.
static ALL: Mutex<BTreeMap<String, Weak<Breakpoints>>> = Mutex::new(BTreeMap::new());

impl Breakpoints {
    /// Those of the node of this name, the youngest where there are several in this process.
    pub fn of(node_name: &str) -> Option<Arc<Breakpoints>> {
        ALL.lock().get(node_name).and_then(Weak::upgrade)
    }

    pub(crate) fn new(node_name: &str) -> Arc<Breakpoints> {
        let new = Arc::new(Breakpoints::default());
        let mut all = ALL.lock();
        all.retain(|_, b| b.strong_count() > 0);
        all.insert(node_name.to_owned(), Arc::downgrade(&new));
        new
    }

    /// Holds all requests that come to this event from now on, until [`Breakpoints::resume`] names `tag`.
    pub fn set(&self, event: BlkdebugEvent, tag: &str) {
        self.add(event, tag, false);
    }

    /// Holds the next request that comes to this event, until [`Breakpoints::resume_one`] or [`Breakpoints::remove`] names
    /// `tag`.
    pub fn set_once(&self, event: BlkdebugEvent, tag: &str) {
        self.add(event, tag, true);
    }

    fn add(&self, event: BlkdebugEvent, tag: &str, once: bool) {
        self.list.lock().push(Arc::new(Breakpoint {
            event,
            tag: tag.to_owned(),
            once,
            state: Mutex::default(),
            changed: Notify::new(),
        }));
    }

    /// Whether there is a breakpoint of this tag, or a request that it holds.
    pub fn has(&self, tag: &str) -> bool {
        self.list.lock().iter().any(|b| b.tag == tag)
    }

    /// The tags of all breakpoints.
    pub fn tags(&self) -> Vec<String> {
        self.list.lock().iter().map(|b| b.tag.clone()).collect()
    }

    /// Takes all breakpoints of this tag away, and lets go what they hold; whether one of them held nothing yet.
    pub fn remove(&self, tag: &str) -> bool {
        let mut waiting = false;
        for b in self.list.lock().extract_if(.., |b| b.tag == tag) {
            let mut state = b.state.lock();
            if b.once && state.held > 0 {
                self.told.lock().push(format!("blkdebug: Resuming request '{tag}'"));
            } else {
                waiting = true;
            }
            state.released = true;
            b.changed.notify_all();
        }
        waiting
    }

    /// Lets one request go on that is held at `tag`; whether there was one.
    pub fn resume_one(&self, tag: &str) -> bool {
        let mut list = self.list.lock();
        let Some(at) = list.iter().position(|b| b.tag == tag && b.once && b.state.lock().held > 0) else {
            return false;
        };
        let b = list.remove(at);
        self.told.lock().push(format!("blkdebug: Resuming request '{tag}'"));
        b.state.lock().released = true;
        b.changed.notify_all();
        true
    }

    /// What happened at breakpoints for one request since this was called last, as lines for people.
    pub fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock())
    }

    /// Waits until `n` requests are held at `tag`.
    pub async fn held(&self, tag: &str, n: usize) {
        let found = self.list.lock().iter().find(|b| b.tag == tag).cloned();
        let Some(b) = found else { return };
        loop {
            let changed = b.changed.notified();
            if b.state.lock().held >= n {
                return;
            }
            changed.await;
        }
    }

    /// Lets go what is held at `tag`, and holds nothing there any more.
    pub fn resume(&self, tag: &str) {
        let mut list = self.list.lock();
        for b in list.extract_if(.., |b| b.tag == tag) {
            b.state.lock().released = true;
            b.changed.notify_all();
        }
    }

    /// A request comes to an event. One request is held by all breakpoints for one that are there, the youngest first, and
    /// goes on when it was let go at each.
    pub(crate) async fn pass(&self, event: BlkdebugEvent) {
        for b in self.stop(event) {
            loop {
                let changed = b.changed.notified();
                if b.state.lock().released {
                    break;
                }
                changed.await;
            }
        }
    }

    /// The breakpoints that hold a request which comes to this event.
    fn stop(&self, event: BlkdebugEvent) -> Vec<Arc<Breakpoint>> {
        let list = self.list.lock();
        let free = |b: &&Arc<Breakpoint>| b.event == event && !(b.once && b.state.lock().held > 0);
        let found: Vec<_> = list.iter().rev().filter(free).cloned().collect();
        for b in &found {
            b.state.lock().held += 1;
            if b.once {
                self.told.lock().push(format!("blkdebug: Suspended request '{}'", b.tag));
            }
            b.changed.notify_all();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BlkdebugEvent::ReadAio;

    #[test]
    fn one_request_each() {
        rt::block_on(async {
            let b = Breakpoints::new("breakpoints-one-request-each");
            b.set_once(ReadAio, "A");
            let (first, second) = (b.clone(), b.clone());
            let first = rt::spawn_local(async move { first.pass(ReadAio).await });
            b.held("A", 1).await;
            assert!(!b.resume_one("B"));
            // Another is held by those that are set now, both, until it was let go at both.
            b.set_once(ReadAio, "B");
            b.set_once(ReadAio, "C");
            let second = rt::spawn_local(async move { second.pass(ReadAio).await });
            b.held("B", 1).await;
            b.pass(ReadAio).await;
            assert!(b.resume_one("C") && !b.resume_one("C"));
            rt::yield_now().await;
            assert!(!second.is_finished());
            assert!(!b.remove("B") && !b.has("B"));
            second.await;
            b.set_once(ReadAio, "D");
            assert!(b.remove("D") && !b.remove("D"));
            assert!(b.resume_one("A") && !b.has("A"));
            first.await;
            let told =
                ["Suspended A", "Suspended C", "Suspended B", "Resuming C", "Resuming B", "Resuming A"]
                    .map(|t| t.split_once(' ').unwrap());
            assert_eq!(b.told(), told.map(|(what, tag)| format!("blkdebug: {what} request '{tag}'")));
            assert!(b.told().is_empty());
        });
    }
}
