//! Jobs: long work on the block graph that management starts, watches and ends.
//!
//! One engine leads every job through the same states ([`status`]) and tells the same events in the same order; what a
//! job does stands in its [`Body`]. A job's work runs as a task of the control executor; its requests pass a gate of
//! its own ([`io`]), so that a drain of its nodes holds it like any other user.
//!
//! Jobs belong to a transaction (usually of one): only when all of them have done their work are they finalized, and
//! when one fails all are undone.

pub mod change;
pub mod filter;
pub mod io;
mod jobs;
mod pace;
pub mod qmp;
mod status;

pub use change::Change;
pub use io::{JobRoot, Op};
pub use jobs::{Jobs, speed_of};

use crate::driver::CtlFuture;
use crate::graph::NodeId;
use api::block_core::{
    BlockErrorAction, BlockJobCancelledEvent, BlockJobChangeMore, BlockJobCompletedEvent, BlockJobErrorEvent,
    BlockJobIoStatus, BlockJobPendingEvent, BlockJobReadyEvent, BlockdevOnError, IoOperationType,
};
use api::job::{JobStatus, JobStatusChangeEvent, JobType};
use base::Errno;
use event_listener::{Event, EventListener};
use monitor::EventBus;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What a job does. Every method runs on the control executor.
pub trait Body: Send + Sync + 'static {
    /// The work. Ends early with an error when [`Job::pause_point`] says so.
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a>;

    /// Makes the result final as far as that can fail.
    fn prepare<'a>(&'a self, job: &'a Arc<Job>) -> CtlFuture<'a> {
        let _ = job;
        Box::pin(async { Ok(()) })
    }

    /// The result is final.
    fn commit<'a>(&'a self, job: &'a Arc<Job>) -> DoneFuture<'a> {
        let _ = job;
        Box::pin(async {})
    }

    /// Undoes what the job did to the graph.
    fn abort<'a>(&'a self, job: &'a Arc<Job>) -> DoneFuture<'a> {
        let _ = job;
        Box::pin(async {})
    }

    /// The last call, after `commit` or `abort`.
    fn clean<'a>(&'a self, job: &'a Arc<Job>) -> DoneFuture<'a> {
        let _ = job;
        Box::pin(async {})
    }

    /// Whether it becomes ready and is completed on demand.
    fn completes(&self) -> bool {
        false
    }

    /// Changes options of the running job.
    fn change(&self, to: &BlockJobChangeMore) -> Result<(), QError> {
        let _ = to;
        Err(qerr!("Job type does not support change"))
    }

    /// The node that it copies to: who cancels the job does not want requests to wait for a lost server.
    fn target(&self) -> Option<NodeId> {
        None
    }

    /// For a mirror: whether source and target are the same and kept so.
    fn actively_synced(&self) -> bool {
        false
    }
}

/// The end of something that cannot fail.
pub type DoneFuture<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// How a job is to be.
#[derive(Clone, Debug)]
pub struct JobConfig {
    /// Its id.
    pub id: String,
    /// What it does.
    pub ty: JobType,
    /// Whether it is a job on block nodes, with events and queries of its own.
    pub block: bool,
    /// Finalized without a command.
    pub auto_finalize: bool,
    /// Dismissed without a command.
    pub auto_dismiss: bool,
    /// Bytes per second; 0 for no limit.
    pub speed: u64,
    /// Seen by nobody but its maker: no command finds it, no event tells of it. It completes as soon as it can.
    pub internal: bool,
}

/// What a failed request is to be followed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The job fails.
    Fail,
    /// It goes on as if nothing had happened.
    GoOn,
    /// It has been paused, and tries again.
    Retry,
}

/// Whether a job's work may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// It may.
    On,
    /// Only after this time, by the job's speed.
    Wait(Duration),
    /// The job is to rest ([`Job::pause_point`]).
    Pause,
    /// The work is to end.
    Cancelled,
}

#[derive(Debug)]
struct State {
    status: JobStatus,
    started: bool,
    /// The work has ended.
    done: bool,
    /// At rest at a pause point.
    resting: bool,
    user_paused: bool,
    /// Drained sections that its nodes are in.
    drained: u32,
    cancelled: bool,
    complete: bool,
    /// Completed by a cancel that leaves users where they are.
    soft: bool,
    pace: pace::Pace,
    current: u64,
    total: u64,
    io_status: BlockJobIoStatus,
    error: Option<String>,
}

/// A job.
pub struct Job {
    config: JobConfig,
    events: EventBus,
    body: OnceLock<Arc<dyn Body>>,
    /// Nobody has been told of it yet.
    quiet: AtomicBool,
    pub(crate) group: Arc<Group>,
    state: Mutex<State>,
    changed: Event,
}

/// Jobs that end together.
#[derive(Default)]
pub struct Group {
    pub(crate) jobs: Mutex<Vec<Arc<Job>>>,
    pub(crate) aborting: AtomicBool,
    /// The results are being made final: too late to cancel.
    pub(crate) finalizing: AtomicBool,
}

impl Group {
    /// All of its jobs have ended. They hold the group, so it must not go on holding them.
    pub(crate) fn end(&self) {
        self.jobs.lock().clear();
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("config", &self.config)
            .field("state", &*self.state.lock())
            .finish_non_exhaustive()
    }
}

impl Job {
    pub(crate) fn new(config: JobConfig, events: EventBus, group: Arc<Group>) -> Arc<Job> {
        let speed = config.speed;
        let state = State {
            status: JobStatus::Undefined,
            started: false,
            done: false,
            resting: false,
            user_paused: false,
            drained: 0,
            cancelled: false,
            complete: false,
            soft: false,
            pace: pace::Pace::new(speed),
            current: 0,
            total: 0,
            io_status: BlockJobIoStatus::Ok,
            error: None,
        };
        Arc::new(Job {
            config,
            events,
            body: OnceLock::new(),
            quiet: AtomicBool::new(false),
            group,
            state: Mutex::new(state),
            changed: Event::new(),
        })
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.config.id
    }

    /// What it does.
    pub fn ty(&self) -> JobType {
        self.config.ty
    }

    /// Whether only its maker sees it.
    pub(crate) fn is_internal(&self) -> bool {
        self.config.internal
    }

    /// Where it is in its life.
    pub fn status(&self) -> JobStatus {
        self.state.lock().status
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.state.lock().cancelled
    }

    /// Whether it was told to complete (or, softly cancelled, to end).
    pub fn complete_asked(&self) -> bool {
        self.state.lock().complete
    }

    /// Whether completing shall leave users where they are.
    pub fn soft(&self) -> bool {
        self.state.lock().soft
    }

    /// Tells of a job that [`Jobs::create_quietly`] made.
    pub fn announce(&self) {
        if self.quiet.swap(false, SeqCst) {
            let s = self.state.lock();
            self.tell(JobStatusChangeEvent { id: self.config.id.clone(), status: s.status });
        }
    }

    /// Why it failed, once it has.
    pub fn error(&self) -> Option<String> {
        self.state.lock().error.clone()
    }

    /// Waits for its end, good or bad.
    pub async fn ended(&self) {
        loop {
            let listener = self.changed.listen();
            if matches!(self.status(), JobStatus::Concluded | JobStatus::Null) {
                return;
            }
            listener.await;
        }
    }

    fn body(&self) -> Option<Arc<dyn Body>> {
        self.body.get().cloned()
    }

    fn become_(&self, to: JobStatus) {
        let mut s = self.state.lock();
        self.become_locked(&mut s, to);
    }

    /// Changes the state and tells so. Events of one job are in the order of its states, as the lock is held.
    fn become_locked(&self, s: &mut State, to: JobStatus) {
        debug_assert!(status::may_become(s.status, to), "{:?} to {to:?}", s.status);
        s.status = to;
        self.tell(JobStatusChangeEvent { id: self.config.id.clone(), status: to });
    }

    fn tell<E: qapi::Event>(&self, event: E) {
        if !self.config.internal && !self.quiet.load(SeqCst) {
            self.events.emit(event);
        }
    }

    fn wake(&self) {
        self.changed.notify(usize::MAX);
    }

    // ---- for bodies ----

    /// Waits while the job is paused. An error when it is cancelled: the work is then to end.
    pub async fn pause_point(&self) -> Result<(), QError> {
        loop {
            let listener = self.changed.listen();
            {
                let mut s = self.state.lock();
                if s.cancelled || !s.user_paused {
                    if std::mem::take(&mut s.resting) {
                        self.move_on(&mut s);
                    }
                    return if s.cancelled { Err(cancelled()) } else { Ok(()) };
                }
                if !s.resting {
                    s.resting = true;
                    self.come_to_rest(&mut s);
                }
            }
            listener.await;
        }
    }

    fn come_to_rest(&self, s: &mut State) {
        match s.status {
            JobStatus::Running => self.become_locked(s, JobStatus::Paused),
            JobStatus::Ready => self.become_locked(s, JobStatus::Standby),
            _ => {}
        }
    }

    fn move_on(&self, s: &mut State) {
        if s.resting || s.drained > 0 {
            return;
        }
        match s.status {
            JobStatus::Paused => self.become_locked(s, JobStatus::Running),
            JobStatus::Standby => self.become_locked(s, JobStatus::Ready),
            _ => {}
        }
    }

    /// The job's nodes are being drained: it counts as paused. Its gate keeps its requests back.
    pub(crate) fn drain_begin(&self) {
        let mut s = self.state.lock();
        s.drained += 1;
        self.come_to_rest(&mut s);
    }

    pub(crate) fn drain_end(&self) {
        let mut s = self.state.lock();
        s.drained -= 1;
        self.move_on(&mut s);
    }

    /// Hears of the next change: of what was asked of the job, or a [`Job::kick`].
    pub fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    /// Something happened that the work may wait for.
    pub fn kick(&self) {
        self.wake();
    }

    /// Whether the work may go on now. Listen ([`Job::listen`]) before asking.
    pub fn may_go(&self) -> Go {
        let mut s = self.state.lock();
        if s.cancelled {
            Go::Cancelled
        } else if s.user_paused {
            Go::Pause
        } else {
            s.pace.wait(rt::now()).map_or(Go::On, Go::Wait)
        }
    }

    /// About that many bytes are to be copied at a time, so that the speed is kept at any moment.
    pub fn stride(&self) -> u64 {
        match self.state.lock().pace.speed() {
            0 => u64::MAX,
            speed => speed / 10,
        }
    }

    /// `bytes` are about to be copied: they count for the speed.
    pub fn owe(&self, bytes: u64) {
        self.state.lock().pace.owe(bytes, rt::now());
    }

    /// `bytes` that were to be copied need not be.
    pub fn forgive(&self, bytes: u64) {
        self.state.lock().pace.forgive(bytes, rt::now());
        self.wake();
    }

    /// `bytes` are done.
    pub fn advance(&self, bytes: u64) {
        let mut s = self.state.lock();
        s.current = s.current.saturating_add(bytes);
    }

    /// Says how much is done.
    pub fn set_progress(&self, current: u64, total: u64) {
        let mut s = self.state.lock();
        (s.current, s.total) = (current, total);
    }

    /// Says how much remains to be done.
    pub fn set_remaining(&self, bytes: u64) {
        let mut s = self.state.lock();
        s.total = s.current.saturating_add(bytes);
    }

    /// The work is done as far as it goes, until the job is told to complete.
    pub fn set_ready(&self) {
        let mut s = self.state.lock();
        match s.status {
            JobStatus::Running => self.become_locked(&mut s, JobStatus::Ready),
            // Ready while at rest in a drained section.
            JobStatus::Paused => {
                self.become_locked(&mut s, JobStatus::Running);
                self.become_locked(&mut s, JobStatus::Ready);
                self.become_locked(&mut s, JobStatus::Standby);
            }
            _ => return,
        }
        let (len, offset, speed) = (int(s.total), int(s.current), int(s.pace.speed()));
        let (ty, device) = (self.config.ty, self.config.id.clone());
        s.complete |= self.config.internal;
        self.tell(BlockJobReadyEvent { r#type: ty, device, len, offset, speed });
    }

    /// A request failed: tells so, and decides what follows.
    pub fn failed(&self, policy: BlockdevOnError, write: bool, error: Errno) -> Then {
        let (action, then) = match policy {
            BlockdevOnError::Ignore => (BlockErrorAction::Ignore, Then::GoOn),
            BlockdevOnError::Stop => (BlockErrorAction::Stop, Then::Retry),
            BlockdevOnError::Enospc if error == Errno::NOSPC => (BlockErrorAction::Stop, Then::Retry),
            _ => (BlockErrorAction::Report, Then::Fail),
        };
        let operation = if write { IoOperationType::Write } else { IoOperationType::Read };
        self.tell(BlockJobErrorEvent { device: self.config.id.clone(), operation, action });
        if then == Then::Retry {
            let mut s = self.state.lock();
            s.user_paused = true;
            let nospace = error == Errno::NOSPC;
            s.io_status = if nospace { BlockJobIoStatus::Nospace } else { BlockJobIoStatus::Failed };
        }
        then
    }

    // ---- the end ----

    fn tell_end(&self) {
        if !self.config.block {
            return;
        }
        let s = self.state.lock();
        let (len, offset, speed) = (int(s.total), int(s.current), int(s.pace.speed()));
        let (ty, device) = (self.config.ty, self.config.id.clone());
        if s.cancelled {
            self.tell(BlockJobCancelledEvent { r#type: ty, device, len, offset, speed });
        } else {
            let error = s.error.clone();
            self.tell(BlockJobCompletedEvent { r#type: ty, device, len, offset, speed, error });
        }
    }

    fn tell_pending(&self) {
        if self.config.block {
            self.events.emit(BlockJobPendingEvent { r#type: self.config.ty, id: self.config.id.clone() });
        }
    }
}

pub(crate) fn int(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}

/// Why a cancelled job's work ends.
pub fn cancelled() -> QError {
    qerr!("Operation canceled")
}
