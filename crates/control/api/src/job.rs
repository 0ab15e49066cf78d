//! Background jobs.

use qapi::Qapi;

/// What a job does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum JobType {
    /// Merges images into one below them.
    #[default]
    Commit,
    /// Copies into an image what shines through from its backing files.
    Stream,
    /// Keeps a copy of a node up to date.
    Mirror,
    /// Copies a node as it was at one moment.
    Backup,
    /// Makes an image.
    Create,
    /// Changes an image's options.
    Amend,
    /// Goes back to an internal snapshot.
    SnapshotLoad,
    /// Takes an internal snapshot.
    SnapshotSave,
    /// Removes an internal snapshot.
    SnapshotDelete,
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum JobStatus {
    /// Never seen.
    #[default]
    Undefined,
    /// Made, not started.
    Created,
    /// At work.
    Running,
    /// At rest, on demand or because its nodes are.
    Paused,
    /// Done with what there was, and following changes until it is told to complete.
    Ready,
    /// As `paused`, of a job that is ready.
    Standby,
    /// Done; others of its transaction are not.
    Waiting,
    /// Done; to be made final by `job-finalize` or by itself.
    Pending,
    /// Failed or cancelled, cleaning up.
    Aborting,
    /// Over; to be let go by `job-dismiss` or by itself.
    Concluded,
    /// Gone.
    Null,
}

/// What may be asked of a job; which of them depends on its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum JobVerb {
    /// `job-cancel`.
    Cancel,
    /// `job-pause`.
    Pause,
    /// `job-resume`.
    Resume,
    /// `block-job-set-speed`.
    SetSpeed,
    /// `job-complete`.
    Complete,
    /// `job-dismiss`.
    Dismiss,
    /// `job-finalize`.
    Finalize,
    /// `block-job-change`.
    Change,
}

/// A job's status has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "JOB_STATUS_CHANGE")]
pub struct JobStatusChangeEvent {
    /// What it is now. It comes first, as scripts that look at the text of the line know it.
    pub status: JobStatus,
    /// The job.
    pub id: String,
}

/// Pauses a job. It stops at the next opportunity; its status tells when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "job-pause")]
pub struct JobPause {
    /// The job.
    pub id: String,
}

/// Lets a paused job go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "job-resume")]
pub struct JobResume {
    /// The job.
    pub id: String,
}

/// Cancels a job; what it did to the block graph is undone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "job-cancel")]
pub struct JobCancel {
    /// The job.
    pub id: String,
}

/// Completes a job that is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "job-complete")]
pub struct JobComplete {
    /// The job.
    pub id: String,
}

/// Lets go of a job that is concluded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "job-dismiss")]
pub struct JobDismiss {
    /// The job.
    pub id: String,
}

/// Makes the result of a pending job, and of all jobs of its transaction, final.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "job-finalize")]
pub struct JobFinalize {
    /// The job.
    pub id: String,
}

/// What is told of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct JobInfo {
    /// Its id.
    pub id: String,
    /// What it does.
    pub r#type: JobType,
    /// Where it is in its life.
    pub status: JobStatus,
    /// How much is done, in the job's own unit (bytes for most).
    pub current_progress: i64,
    /// The value of `current-progress` at which it will be done, as far as is known; it may grow.
    pub total_progress: i64,
    /// Why it failed.
    pub error: Option<String>,
}

/// Lists all jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-jobs", ret = Vec<JobInfo>)]
pub struct QueryJobs;
