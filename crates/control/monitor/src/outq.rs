//! A session's output: a bounded queue between those who have something to say and the one who writes it.

use event_listener::Event;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// A session with more bytes than this waiting to be sent starts no further command.
pub(crate) const THROTTLE: usize = 1 << 20;
/// A session with more bytes of events than this waiting to be sent is lost: its client does not read.
pub(crate) const OVERRUN: usize = 8 << 20;
/// Bytes gathered for one write.
const BATCH: usize = 64 << 10;

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// The queue was closed before.
    Closed,
    /// The limit was passed; the queue is closed now.
    Overrun,
}

#[derive(Default)]
struct State {
    lines: VecDeque<(Arc<str>, bool)>,
    bytes: usize,
    event_bytes: usize,
    /// Bytes handed to the writer that it has not reported as written.
    in_flight: usize,
    closed: bool,
    finishing: bool,
}

/// Lines without their ends; the writer adds them.
#[derive(Default)]
pub(crate) struct OutQueue {
    state: Mutex<State>,
    data: Event,
    room: Event,
}

impl OutQueue {
    /// Adds an event's line. Never waits.
    pub(crate) fn push_event(&self, line: Arc<str>) -> Pushed {
        let mut s = self.state.lock();
        if s.closed || s.finishing {
            return Pushed::Closed;
        }
        if s.event_bytes + line.len() > OVERRUN {
            s.closed = true;
            s.lines = VecDeque::new();
            drop(s);
            self.data.notify(usize::MAX);
            self.room.notify(usize::MAX);
            return Pushed::Overrun;
        }
        s.bytes += line.len();
        s.event_bytes += line.len();
        s.lines.push_back((line, true));
        drop(s);
        self.data.notify(1);
        Pushed::Queued
    }

    /// Adds a reply or other text; its amount is bounded by who produces it waiting in [`OutQueue::room`].
    pub(crate) fn push(&self, line: Arc<str>) {
        let mut s = self.state.lock();
        if s.closed {
            return;
        }
        s.bytes += line.len();
        s.lines.push_back((line, false));
        drop(s);
        self.data.notify(1);
    }

    /// Waits until little enough is queued to produce more; `false` once the queue is closed.
    pub(crate) async fn room(&self) -> bool {
        loop {
            let room = self.room.listen();
            {
                let s = self.state.lock();
                if s.closed {
                    return false;
                }
                if s.bytes + s.in_flight <= THROTTLE {
                    return true;
                }
            }
            room.await;
        }
    }

    /// The next bytes to write, each line followed by `end`; `None` once there will be no more.
    pub(crate) async fn next(&self, end: &str) -> Option<Vec<u8>> {
        loop {
            let data = self.data.listen();
            {
                let mut s = self.state.lock();
                s.in_flight = 0;
                if s.closed {
                    return None;
                }
                let mut batch = Vec::new();
                while batch.len() < BATCH
                    && let Some((line, event)) = s.lines.pop_front()
                {
                    s.bytes -= line.len();
                    if event {
                        s.event_bytes -= line.len();
                    }
                    batch.extend_from_slice(line.as_bytes());
                    batch.extend_from_slice(end.as_bytes());
                }
                s.in_flight = batch.len();
                let low = s.bytes + s.in_flight <= THROTTLE;
                let done = batch.is_empty() && s.finishing;
                drop(s);
                if low {
                    self.room.notify(usize::MAX);
                }
                if !batch.is_empty() {
                    return Some(batch);
                }
                if done {
                    self.close();
                    return None;
                }
            }
            data.await;
        }
    }

    /// Drops what is queued and takes no more.
    pub(crate) fn close(&self) {
        let mut s = self.state.lock();
        s.closed = true;
        s.lines = VecDeque::new();
        drop(s);
        self.data.notify(usize::MAX);
        self.room.notify(usize::MAX);
    }

    /// Lets the writer end once it has written what is queued.
    pub(crate) fn finish(&self) {
        self.state.lock().finishing = true;
        self.data.notify(usize::MAX);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Whether all was written (or never will be).
    pub(crate) fn is_drained(&self) -> bool {
        let s = self.state.lock();
        s.closed || (s.lines.is_empty() && s.in_flight == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_beyond_the_limit_close_the_queue() {
        let q = OutQueue::default();
        let line: Arc<str> = "x".repeat(1 << 20).into();
        for _ in 0..8 {
            assert_eq!(q.push_event(line.clone()), Pushed::Queued);
        }
        assert_eq!(q.push_event(line.clone()), Pushed::Overrun);
        assert_eq!(q.push_event(line), Pushed::Closed);
        assert_eq!(rt::block_on(q.next("\n")), None);
        assert!(!rt::block_on(q.room()));
    }

    #[test]
    fn a_large_reply_does_not_count_against_events() {
        let q = OutQueue::default();
        q.push("r".repeat(OVERRUN * 2).into());
        assert_eq!(q.push_event("e".into()), Pushed::Queued);
        rt::block_on(async {
            assert_eq!(q.next("\r\n").await.map(|b| b.len()), Some(OVERRUN * 2 + 2));
            assert_eq!(q.next("\r\n").await, Some(b"e\r\n".to_vec()));
            q.finish();
            assert_eq!(q.next("\r\n").await, None);
            assert!(q.is_drained());
        });
    }
}
