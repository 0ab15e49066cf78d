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
}

struct Breakpoint {
    event: BlkdebugEvent,
    tag: String,
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
        self.list.lock().push(Arc::new(Breakpoint {
            event,
            tag: tag.to_owned(),
            state: Mutex::default(),
            changed: Notify::new(),
        }));
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

    /// A request comes to an event.
    pub(crate) async fn pass(&self, event: BlkdebugEvent) {
        let found = self.list.lock().iter().find(|b| b.event == event).cloned();
        let Some(b) = found else { return };
        b.state.lock().held += 1;
        b.changed.notify_all();
        loop {
            let changed = b.changed.notified();
            if b.state.lock().released {
                return;
            }
            changed.await;
        }
    }
}
