//! The wish that a program end.

use rt::sync::Notify;
use std::sync::atomic::{AtomicBool, Ordering};

/// The wish that the program end. Any thread.
#[derive(Default)]
pub(crate) struct Stop {
    asked: AtomicBool,
    changed: Notify,
}

impl Stop {
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    pub(crate) async fn wait(&self) {
        loop {
            let changed = self.changed.notified();
            if self.asked.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }
}
