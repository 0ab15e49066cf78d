//! All jobs, what is asked of them, and how they end.

use super::{Body, Group, Job, JobConfig, cancelled, int, status};
use crate::control::BlockGraph;
use crate::graph::{Graph, NodeId};
use crate::perm::Role;
use api::block_core::{
    BlockJobChangeMore, BlockJobInfo, BlockJobInfoMirror, BlockJobInfoMore, BlockJobIoStatus,
};
use api::job::{JobInfo, JobStatus, JobType, JobVerb};
use parking_lot::Mutex;
use qapi::{ErrorClass, QError, qerr};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};

/// All jobs. Queries may come from any thread; everything else belongs to the control thread.
pub struct Jobs {
    graph: Arc<BlockGraph>,
    list: Mutex<Vec<Arc<Job>>>,
    me: Weak<Jobs>,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.list.lock().iter()).finish()
    }
}

impl Jobs {
    /// No job yet.
    pub fn new(graph: Arc<BlockGraph>) -> Arc<Jobs> {
        Arc::new_cyclic(|me| Jobs { graph, list: Mutex::default(), me: me.clone() })
    }

    /// The graph that the jobs are for.
    pub fn graph(&self) -> &Arc<BlockGraph> {
        &self.graph
    }

    /// An error unless a job may get this id.
    pub fn check_id(&self, id: &str) -> Result<(), QError> {
        let mut chars = id.chars();
        let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
        if !first || !chars.all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
            return Err(qerr!("Invalid job ID '{id}'"));
        }
        if self.list.lock().iter().any(|j| j.id() == id) {
            return Err(qerr!("Job ID '{id}' already in use"));
        }
        Ok(())
    }

    /// Makes a job, in state `created`. It ends either by [`Jobs::start`] or by [`Jobs::forget`].
    pub fn create(&self, config: JobConfig, group: Option<&Arc<Group>>) -> Result<Arc<Job>, QError> {
        let job = self.create_quietly(config, group)?;
        job.announce();
        Ok(job)
    }

    /// As [`Jobs::create`], and no event tells of the job before [`Job::announce`]: it may turn out that there will be none.
    pub fn create_quietly(&self, config: JobConfig, group: Option<&Arc<Group>>) -> Result<Arc<Job>, QError> {
        if !config.internal {
            self.check_id(&config.id)?;
        }
        let mut list = self.list.lock();
        let group = group.cloned().unwrap_or_default();
        let job = Job::new(config, self.graph.events().clone(), group.clone());
        group.jobs.lock().push(job.clone());
        list.push(job.clone());
        job.quiet.store(true, SeqCst);
        job.become_(JobStatus::Created);
        Ok(job)
    }

    /// Gives up a job that has not been started.
    pub fn forget(&self, job: &Arc<Job>) {
        job.group.jobs.lock().retain(|j| !Arc::ptr_eq(j, job));
        self.dismiss(job);
    }

    fn dismiss(&self, job: &Arc<Job>) {
        self.list.lock().retain(|j| !Arc::ptr_eq(j, job));
        job.become_(JobStatus::Null);
    }

    /// Sets a job to work.
    pub fn start(&self, job: &Arc<Job>, body: Arc<dyn Body>) {
        let fresh = job.body.set(body.clone()).is_ok();
        debug_assert!(fresh, "a job starts once");
        job.state.lock().started = true;
        job.become_(JobStatus::Running);
        let (me, job) = (self.me.clone(), job.clone());
        drop(rt::spawn_local(async move {
            let result = body.run(&job).await;
            if result.is_err() {
                // Whoever set it to work is answered before it is told of a failure that comes at once.
                for _ in 0..ANSWERED {
                    rt::yield_now().await;
                }
            }
            if let Some(me) = me.upgrade() {
                me.done(&job, result).await;
            }
        }));
    }

    /// Does something to its end, whatever happens to the caller.
    async fn to_the_end(&self, f: impl AsyncFnOnce(Arc<Jobs>) + 'static) {
        if let Some(me) = self.me.upgrade() {
            rt::spawn_local(async move { f(me).await }).await;
        }
    }

    /// A job's work has ended.
    async fn done(&self, job: &Arc<Job>, result: Result<(), QError>) {
        let ok = {
            let mut s = job.state.lock();
            s.done = true;
            // Whoever drains or pauses it has nothing to pause any more.
            s.resting = false;
            match s.status {
                JobStatus::Paused => job.become_locked(&mut s, JobStatus::Running),
                JobStatus::Standby => job.become_locked(&mut s, JobStatus::Ready),
                _ => {}
            }
            if let Err(e) = &result {
                s.error.get_or_insert_with(|| e.desc().to_owned());
            }
            result.is_ok() && !s.cancelled
        };
        job.wake();
        let group = job.group.clone();
        if group.aborting.load(SeqCst) {
            // Whoever aborts the transaction waits for this.
            return;
        }
        if !ok {
            return self.abort(&group, Some(job)).await;
        }
        job.become_(JobStatus::Waiting);
        let jobs = group.jobs.lock().clone();
        if jobs.iter().any(|j| j.status() != JobStatus::Waiting) {
            return;
        }
        for j in &jobs {
            j.become_(JobStatus::Pending);
            if !j.config.auto_finalize {
                j.tell_pending();
            }
        }
        if jobs.iter().all(|j| j.config.auto_finalize) {
            self.finalize(&group).await;
        }
    }

    /// Makes the results of all jobs of a transaction final.
    async fn finalize(&self, group: &Arc<Group>) {
        if group.aborting.load(SeqCst) || group.finalizing.swap(true, SeqCst) {
            return;
        }
        let jobs = group.jobs.lock().clone();
        for j in &jobs {
            let Some(body) = j.body() else { continue };
            if let Err(e) = body.prepare(j).await {
                j.state.lock().error.get_or_insert_with(|| e.desc().to_owned());
                return self.abort(group, Some(j)).await;
            }
        }
        for j in &jobs {
            if let Some(body) = j.body() {
                body.commit(j).await;
                body.clean(j).await;
            }
            self.conclude(j);
        }
        group.end();
    }

    /// Undoes all jobs of a transaction, because `culprit` failed or was cancelled.
    async fn abort(&self, group: &Arc<Group>, culprit: Option<&Arc<Job>>) {
        if group.aborting.swap(true, SeqCst) {
            return;
        }
        let jobs = group.jobs.lock().clone();
        for j in &jobs {
            if culprit.is_none_or(|c| !Arc::ptr_eq(c, j)) {
                j.state.lock().cancelled = true;
                j.wake();
            }
        }
        for j in &jobs {
            loop {
                let listener = j.changed.listen();
                let waits = {
                    let s = j.state.lock();
                    s.started && !s.done
                };
                if !waits {
                    break;
                }
                listener.await;
            }
            {
                let mut s = j.state.lock();
                s.error.get_or_insert_with(|| cancelled().desc().to_owned());
                j.become_locked(&mut s, JobStatus::Aborting);
            }
            if let Some(body) = j.body() {
                body.abort(j).await;
                body.clean(j).await;
            }
            self.conclude(j);
        }
        group.end();
    }

    fn conclude(&self, job: &Arc<Job>) {
        job.tell_end();
        job.become_(JobStatus::Concluded);
        if job.config.auto_dismiss {
            self.dismiss(job);
        }
        job.wake();
    }

    /// Cancels every job and waits for their ends: for the end of the program.
    pub async fn cancel_all(&self) {
        let jobs = self.list.lock().clone();
        for j in jobs {
            if self.cancel(&j, true).await.is_err() {
                continue;
            }
            j.ended().await;
        }
    }

    // ---- what is asked ----

    /// The job of this id, for the commands named `job-…`.
    pub fn get(&self, id: &str) -> Result<Arc<Job>, QError> {
        let job = self.list.lock().iter().find(|j| j.id() == id && !j.config.internal).cloned();
        job.ok_or_else(|| qerr!("Job not found"))
    }

    /// The job of this id, for the commands named `block-job-…`.
    pub fn get_block(&self, id: &str) -> Result<Arc<Job>, QError> {
        let job =
            self.list.lock().iter().find(|j| j.id() == id && j.config.block && !j.config.internal).cloned();
        job.ok_or_else(|| {
            QError::with_class(ErrorClass::DeviceNotActive, format!("Block job '{id}' not found"))
        })
    }

    fn check(job: &Job, verb: JobVerb) -> Result<(), QError> {
        status::check(job.id(), job.status(), verb)
    }

    /// `job-pause`.
    pub fn pause(&self, job: &Job) -> Result<(), QError> {
        Self::check(job, JobVerb::Pause)?;
        let mut s = job.state.lock();
        if s.user_paused {
            return Err(qerr!("Job is already paused"));
        }
        s.user_paused = true;
        drop(s);
        job.wake();
        Ok(())
    }

    /// `job-resume`.
    pub fn resume(&self, job: &Job) -> Result<(), QError> {
        let mut s = job.state.lock();
        if !s.user_paused {
            return Err(qerr!("Can't resume a job that was not paused"));
        }
        status::check(job.id(), s.status, JobVerb::Resume)?;
        s.user_paused = false;
        s.io_status = BlockJobIoStatus::Ok;
        drop(s);
        job.wake();
        Ok(())
    }

    /// `job-cancel`, and `block-job-cancel` with and without `force`.
    pub async fn cancel(&self, job: &Arc<Job>, force: bool) -> Result<(), QError> {
        // It ends soon, one way or the other.
        while job.group.finalizing.load(SeqCst) && job.status() == JobStatus::Pending {
            let listener = job.changed.listen();
            if job.status() == JobStatus::Pending {
                listener.await;
            }
        }
        Self::check(job, JobVerb::Cancel)?;
        let completes = job.body().is_some_and(|b| b.completes());
        let ended = {
            let mut s = job.state.lock();
            if !force && s.user_paused {
                return Err(qerr!("The block job for device '{}' is currently paused", job.id()));
            }
            let ready = matches!(s.status, JobStatus::Ready | JobStatus::Standby);
            if !force && ready && completes {
                if !s.complete {
                    (s.soft, s.complete) = (true, true);
                }
                drop(s);
                job.wake();
                return Ok(());
            }
            s.cancelled = true;
            matches!(s.status, JobStatus::Waiting | JobStatus::Pending) || !s.started
        };
        if let Some(target) = job.body().and_then(|b| b.target()) {
            give_up(&self.graph.snapshot(), target);
        }
        job.wake();
        if ended {
            let job = job.clone();
            self.to_the_end(async move |me| me.abort(&job.group.clone(), Some(&job)).await).await;
        }
        Ok(())
    }

    /// `job-complete`.
    pub fn complete(&self, job: &Arc<Job>) -> Result<(), QError> {
        Self::check(job, JobVerb::Complete)?;
        let completes = job.body().is_some_and(|b| b.completes());
        let mut s = job.state.lock();
        if s.cancelled || !completes {
            return Err(qerr!("The active block job '{}' cannot be completed", job.id()));
        }
        s.complete = true;
        drop(s);
        job.wake();
        Ok(())
    }

    /// `job-finalize`: all jobs of the transaction.
    pub async fn finalize_job(&self, job: &Arc<Job>) -> Result<(), QError> {
        Self::check(job, JobVerb::Finalize)?;
        let group = job.group.clone();
        self.to_the_end(async move |me| me.finalize(&group).await).await;
        Ok(())
    }

    /// `job-dismiss`.
    pub fn dismiss_job(&self, job: &Arc<Job>) -> Result<(), QError> {
        Self::check(job, JobVerb::Dismiss)?;
        self.dismiss(job);
        Ok(())
    }

    /// `block-job-set-speed`.
    pub fn set_speed(&self, job: &Job, speed: i64) -> Result<(), QError> {
        Self::check(job, JobVerb::SetSpeed)?;
        let speed = speed_of(Some(speed))?;
        let mut s = job.state.lock();
        s.pace.set(speed);
        drop(s);
        job.wake();
        Ok(())
    }

    /// `block-job-change`.
    pub fn change(&self, job: &Job, to: &BlockJobChangeMore) -> Result<(), QError> {
        Self::check(job, JobVerb::Change)?;
        match job.body() {
            Some(body) => body.change(to),
            None => Err(qerr!("Job type does not support change")),
        }
    }

    /// `query-jobs`: youngest first.
    pub fn query(&self) -> Vec<JobInfo> {
        let list = self.list.lock();
        list.iter()
            .rev()
            .filter(|j| !j.config.internal)
            .map(|j| {
                let s = j.state.lock();
                JobInfo {
                    id: j.id().to_owned(),
                    r#type: j.config.ty,
                    status: s.status,
                    current_progress: int(s.current),
                    total_progress: int(s.total),
                    error: s.error.clone(),
                }
            })
            .collect()
    }

    /// `query-block-jobs`: youngest first.
    pub fn query_block(&self) -> Vec<BlockJobInfo> {
        let list = self.list.lock().clone();
        list.iter()
            .rev()
            .filter(|j| j.config.block && !j.config.internal)
            .map(|j| {
                let synced = j.body().is_some_and(|b| b.actively_synced());
                let mut s = j.state.lock();
                let ready = matches!(s.status, JobStatus::Ready | JobStatus::Standby);
                BlockJobInfo {
                    r#type: more(j.config.ty, synced),
                    device: j.id().to_owned(),
                    len: int(s.total),
                    offset: int(s.current),
                    busy: s.status == JobStatus::Running && !s.resting && s.pace.wait(rt::now()).is_none(),
                    paused: s.user_paused || s.drained > 0,
                    speed: int(s.pace.speed()),
                    io_status: s.io_status,
                    ready,
                    status: s.status,
                    auto_finalize: j.config.auto_finalize,
                    auto_dismiss: j.config.auto_dismiss,
                    error: s.error.clone(),
                }
            })
            .collect()
    }
}

/// How many times others run before a job that fails at once is said to fail: more than an answer has tasks to go through.
const ANSWERED: u32 = 8;

/// A speed as commands have it.
pub fn speed_of(speed: Option<i64>) -> Result<u64, QError> {
    u64::try_from(speed.unwrap_or(0)).map_err(|_| qerr!("Parameter 'speed' expects a non-negative value"))
}

fn more(ty: JobType, actively_synced: bool) -> BlockJobInfoMore {
    match ty {
        JobType::Mirror => BlockJobInfoMore::Mirror(BlockJobInfoMirror { actively_synced }),
        JobType::Commit => BlockJobInfoMore::Commit,
        JobType::Stream => BlockJobInfoMore::Stream,
        JobType::Backup => BlockJobInfoMore::Backup,
        JobType::Create => BlockJobInfoMore::Create,
        JobType::Amend => BlockJobInfoMore::Amend,
        JobType::SnapshotLoad => BlockJobInfoMore::SnapshotLoad,
        JobType::SnapshotSave => BlockJobInfoMore::SnapshotSave,
        JobType::SnapshotDelete => BlockJobInfoMore::SnapshotDelete,
    }
}

/// Has a node, and those that it keeps its bytes in, wait no longer for what was lost.
fn give_up(graph: &Graph, node: NodeId) {
    let Some(node) = graph.node(node) else { return };
    if let Some(driver) = &node.driver {
        driver.give_up();
    }
    for e in node.edges.iter().filter(|e| !e.role.contains(Role::COW)) {
        give_up(graph, e.child);
    }
}
