//! The reactor on io_uring.
//!
//! Each operation has a place in a table, and its memory and descriptor lie there until the kernel's completion has
//! come, whether or not anybody still waits. The place's number is the operation's name in the ring; it is given
//! away again only after the completion, so a late cancellation cannot hit another operation: the ring keeps the
//! order of submissions.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base::{Errno, IoResult};
use io_uring::{IoUring, opcode, squeue, types};
use mem::IoBuf;
use slab::Slab;

use super::{EventFd, Reactor};
use crate::executor::Local;
use crate::task::set_waker;

/// The name of a cancellation, whose own answer nobody needs.
const CANCEL: u64 = u64::MAX;
const ENTRIES: u32 = 256;

/// What an operation's submission points at.
pub(crate) struct Memory {
    /// Keeps the bytes alive.
    #[expect(dead_code, reason = "held, not read")]
    pub(crate) buf: IoBuf,
    /// Points into `buf`; the kernel may read the list itself as late as the data.
    pub(crate) iov: Box<[libc::iovec]>,
    /// Keeps the descriptor open.
    #[expect(dead_code, reason = "held, not read")]
    pub(crate) fd: Arc<OwnedFd>,
}

enum State {
    Waiting(Option<Waker>),
    Done(i32),
    /// Nobody waits any more.
    Orphan,
    /// The read of the eventfd that wakes the executor, and its buffer.
    Wakeup(#[expect(dead_code, reason = "held, not read")] Box<u64>),
}

struct Slot {
    state: State,
    memory: Option<Memory>,
}

pub(crate) struct Uring {
    ring: RefCell<IoUring>,
    ops: RefCell<Slab<Slot>>,
    wakeup: EventFd,
    /// Nothing new is started for the executor's own sake.
    closing: Cell<bool>,
}

fn build() -> std::io::Result<IoUring> {
    // Completions are worked off only where this thread asks for them: no interrupts of running code.
    let modern = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_clamp()
        .setup_cqsize(ENTRIES * 8)
        .build(ENTRIES);
    match modern {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => IoUring::builder().setup_clamp().build(ENTRIES),
        other => other,
    }
}

/// What a call of the ring answered, which is no error but one that passes.
fn usual(done: std::io::Result<usize>) {
    if let Err(e) = done {
        // The time was up, a signal came, or completions must be taken before more can go in.
        let e = Errno::from(e);
        let usual = [Errno::INTR, Errno::BUSY, Errno::AGAIN].contains(&e) || e.raw() == libc::ETIME;
        assert!(usual, "io_uring_enter: {e}");
    }
}

impl Uring {
    pub(crate) fn new(wakeup: &EventFd) -> IoResult<Uring> {
        let ring = build()?;
        let p = ring.params();
        // Waiting with a time limit, and completions that are never lost.
        if !p.is_feature_ext_arg() || !p.is_feature_nodrop() {
            return Err(Errno::NOTSUP);
        }
        let this = Uring {
            ring: RefCell::new(ring),
            ops: RefCell::default(),
            wakeup: wakeup.clone(),
            closing: Cell::new(false),
        };
        this.arm_wakeup();
        Ok(this)
    }

    fn arm_wakeup(&self) {
        let mut buf = Box::new(0u64);
        let entry = opcode::Read::new(
            types::Fd(self.wakeup.fd().as_raw_fd()),
            (&raw mut *buf).cast(),
            size_of::<u64>() as u32,
        );
        let memory = Memory { buf: IoBuf::new(), iov: Box::new([]), fd: self.wakeup.owned() };
        let key = self.ops.borrow_mut().insert(Slot { state: State::Wakeup(buf), memory: Some(memory) });
        self.push(&entry.build().user_data(key as u64));
    }

    fn push(&self, entry: &squeue::Entry) {
        let mut ring = self.ring.borrow_mut();
        loop {
            // SAFETY: what the entry points at lies in the table until its completion has been seen.
            if unsafe { ring.submission().push(entry) }.is_ok() {
                return;
            }
            if let Err(e) = ring.submit() {
                // EBUSY, EAGAIN: completions must be taken first; they lie in the ring, which is bigger.
                let e = Errno::from(e);
                assert!([Errno::BUSY, Errno::AGAIN, Errno::INTR].contains(&e), "io_uring_enter: {e}");
                drop(ring);
                self.reap();
                ring = self.ring.borrow_mut();
            }
        }
    }

    /// Puts an operation into the ring; it is submitted with the others of this round.
    ///
    /// # Safety
    /// Whatever `entry` points at must be kept alive, and at its place, by `memory`.
    unsafe fn start(&self, entry: squeue::Entry, memory: Memory) -> usize {
        let key = self.ops.borrow_mut().insert(Slot { state: State::Waiting(None), memory: Some(memory) });
        self.push(&entry.user_data(key as u64));
        key
    }

    fn cancel(&self, key: usize) {
        self.push(&opcode::AsyncCancel::new(key as u64).build().user_data(CANCEL));
    }

    /// Takes completions off the ring; true if there was any.
    fn reap(&self) -> bool {
        let mut wake: Vec<Waker> = Vec::new();
        let mut freed = Vec::new();
        let mut rearm = false;
        let mut any = false;
        {
            let mut ring = self.ring.borrow_mut();
            let mut ops = self.ops.borrow_mut();
            for cqe in ring.completion() {
                any = true;
                if cqe.user_data() == CANCEL {
                    continue;
                }
                let key = cqe.user_data() as usize;
                let slot = ops.get_mut(key).expect("a completion belongs to an operation in flight");
                freed.push(slot.memory.take());
                match std::mem::replace(&mut slot.state, State::Done(cqe.result())) {
                    State::Waiting(w) => wake.extend(w),
                    State::Orphan => drop(ops.remove(key)),
                    State::Wakeup(_) => {
                        ops.remove(key);
                        rearm = !self.closing.get();
                    }
                    State::Done(_) => unreachable!("an operation completes once"),
                }
            }
        }
        // Outside the borrows: the last reference to a buffer may go here.
        drop(freed);
        if rearm {
            self.arm_wakeup();
        }
        for w in wake {
            w.wake();
        }
        any
    }

    pub(crate) fn turn(&self, wait: Option<Duration>) {
        let poll = wait == Some(Duration::ZERO);
        let done = {
            let mut ring = self.ring.borrow_mut();
            let ready = !ring.completion().is_empty();
            if poll || ready {
                let sq = ring.submission();
                let enter = !sq.is_empty() || sq.taskrun() || sq.cq_overflow();
                drop(sq);
                if enter { ring.submit() } else { Ok(0) }
            } else if let Some(d) = wait {
                let ts = types::Timespec::from(d);
                ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&ts))
            } else {
                ring.submit_and_wait(1)
            }
        };
        usual(done);
        self.reap();
    }

    /// Submits what is new.
    pub(crate) fn submit(&self) {
        let mut ring = self.ring.borrow_mut();
        if !ring.submission().is_empty() {
            usual(ring.submit());
        }
    }

    /// Whether there are completions, or work of the kernel's that leads to some.
    pub(crate) fn is_ready(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        !ring.completion().is_empty() || ring.submission().taskrun()
    }

    /// Cancels everything and waits for the last completion.
    pub(crate) fn shut_down(&self) {
        self.closing.set(true);
        let keys: Vec<usize> = {
            let ops = self.ops.borrow();
            ops.iter().filter(|(_, s)| s.memory.is_some()).map(|(k, _)| k).collect()
        };
        for k in keys {
            self.cancel(k);
        }
        while self.ops.borrow().iter().any(|(_, s)| s.memory.is_some()) {
            self.turn(None);
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The kernel may use what lies in the table until it has answered, even when the ring is closed.
        self.shut_down();
    }
}

/// An operation in flight. Dropping it asks the kernel to give up; the memory stays until the kernel has.
pub(crate) struct Op {
    local: Rc<Local>,
    key: Option<usize>,
}

impl Op {
    /// Starts `entry` on `local`'s ring.
    ///
    /// # Safety
    /// Whatever `entry` points at must be kept alive, and at its place, by `memory`.
    pub(crate) unsafe fn start(local: &Rc<Local>, entry: squeue::Entry, memory: Memory) -> Op {
        let Some(Reactor::Uring(u)) = &local.reactor else {
            unreachable!("the caller has seen that there is a ring")
        };
        // SAFETY: the caller's promise.
        let key = unsafe { u.start(entry, memory) };
        Op { local: local.clone(), key: Some(key) }
    }

    fn uring(&self) -> &Uring {
        match &self.local.reactor {
            Some(Reactor::Uring(u)) => u,
            _ => unreachable!("operations exist only on a ring"),
        }
    }
}

impl Future for Op {
    /// The kernel's answer: a count, or `-errno`.
    type Output = i32;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<i32> {
        let key = self.key.expect("an operation is not polled after its end");
        let done = {
            let mut ops = self.uring().ops.borrow_mut();
            match &mut ops[key].state {
                State::Waiting(w) => {
                    set_waker(w, cx.waker());
                    None
                }
                State::Done(res) => {
                    let res = *res;
                    ops.remove(key);
                    Some(res)
                }
                State::Orphan | State::Wakeup(_) => unreachable!("this operation has a waiter"),
            }
        };
        match done {
            None => Poll::Pending,
            Some(res) => {
                self.key = None;
                Poll::Ready(res)
            }
        }
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let u = self.uring();
        let in_flight = {
            let mut ops = u.ops.borrow_mut();
            match ops[key].state {
                State::Waiting(_) => {
                    ops[key].state = State::Orphan;
                    true
                }
                _ => {
                    ops.remove(key);
                    false
                }
            }
        };
        if in_flight {
            u.cancel(key);
        }
    }
}
