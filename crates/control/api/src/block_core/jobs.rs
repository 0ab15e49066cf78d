//! Jobs on block nodes: what starts them, what is told of them.

use qapi::Qapi;

use super::{BlockErrorAction, BlockdevCreateOptions, IoOperationType, NewImageMode};
use crate::job::{JobStatus, JobType};

/// What a job does about an I/O error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockdevOnError {
    /// It fails.
    #[default]
    Report,
    /// It goes on, and tries again later where it can.
    Ignore,
    /// As `stop` where space ran out, else as `report`.
    Enospc,
    /// It pauses, and tries again when it is resumed.
    Stop,
    /// As `report`.
    Auto,
}

/// Whether a job has met an error that paused it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockJobIoStatus {
    /// None.
    #[default]
    Ok,
    /// An I/O error.
    Failed,
    /// No space was left.
    Nospace,
}

/// When a mirror copies a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum MirrorCopyMode {
    /// Some time after it was done.
    #[default]
    Background,
    /// Before it is acknowledged.
    WriteBlocking,
}

/// What a copy shall contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum MirrorSyncMode {
    /// Only what the topmost image has itself.
    Top,
    /// Everything.
    #[default]
    Full,
    /// Only what is written from now on.
    None,
    /// What a dirty bitmap says.
    Incremental,
    /// What a dirty bitmap says; another way of updating it.
    Bitmap,
}

/// What only a mirror tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockJobInfoMirror {
    /// Source and target are the same, and every write goes to both.
    pub actively_synced: bool,
}

/// What a kind of job tells beside the common things.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(tag = "type", tag_type = JobType)]
pub enum BlockJobInfoMore {
    /// A mirror.
    Mirror(BlockJobInfoMirror),
    /// A commit.
    #[default]
    Commit,
    /// A stream.
    Stream,
    /// A backup.
    Backup,
    /// The making of an image.
    Create,
    /// A change of an image's options.
    Amend,
    /// The loading of a snapshot.
    SnapshotLoad,
    /// The taking of a snapshot.
    SnapshotSave,
    /// The removal of a snapshot.
    SnapshotDelete,
}

/// What is told of a job on block nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockJobInfo {
    /// What it does, and what only such jobs tell.
    #[qapi(union)]
    pub r#type: BlockJobInfoMore,
    /// The job's id.
    pub device: String,
    /// The value of `offset` at which it will be done, as far as is known, bytes; it may grow.
    pub len: i64,
    /// How much is done, bytes.
    pub offset: i64,
    /// False where it does nothing at the moment and has nothing to do.
    pub busy: bool,
    /// Whether it is paused.
    pub paused: bool,
    /// Its limit in bytes per second; 0 for none.
    pub speed: i64,
    /// Whether it has met an I/O error that paused it.
    pub io_status: BlockJobIoStatus,
    /// Whether it can be completed.
    pub ready: bool,
    /// Where it is in its life.
    pub status: JobStatus,
    /// Whether its result becomes final by itself.
    pub auto_finalize: bool,
    /// Whether it goes away by itself.
    pub auto_dismiss: bool,
    /// Why it failed.
    pub error: Option<String>,
}

/// Lists the jobs on block nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-block-jobs", ret = Vec<BlockJobInfo>)]
pub struct QueryBlockJobs;

/// Limits a job's speed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-job-set-speed")]
pub struct BlockJobSetSpeed {
    /// The job.
    pub device: String,
    /// Bytes per second; 0 for no limit.
    pub speed: i64,
}

/// Cancels a job on block nodes. A mirror that is ready ends instead: its target stays as a copy, and nothing uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-job-cancel")]
pub struct BlockJobCancel {
    /// The job.
    pub device: String,
    /// Cancel it in any case. Off unless given.
    pub force: Option<bool>,
}

/// Pauses a job on block nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-job-pause")]
pub struct BlockJobPause {
    /// The job.
    pub device: String,
}

/// Lets a paused job on block nodes go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-job-resume")]
pub struct BlockJobResume {
    /// The job.
    pub device: String,
}

/// Completes a job on block nodes that is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-job-complete")]
pub struct BlockJobComplete {
    /// The job.
    pub device: String,
}

/// What may be changed of a running mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockJobChangeOptionsMirror {
    /// When writes are copied. Only `write-blocking` can be changed to.
    pub copy_mode: MirrorCopyMode,
}

/// What may be changed of a running job of each kind.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "type", tag_type = JobType)]
pub enum BlockJobChangeMore {
    /// A mirror.
    Mirror(BlockJobChangeOptionsMirror),
    /// A commit.
    Commit,
    /// A stream.
    Stream,
    /// A backup.
    Backup,
    /// The making of an image.
    Create,
    /// A change of an image's options.
    Amend,
    /// The loading of a snapshot.
    SnapshotLoad,
    /// The taking of a snapshot.
    SnapshotSave,
    /// The removal of a snapshot.
    SnapshotDelete,
}

/// Changes options of a running job on block nodes.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "block-job-change")]
pub struct BlockJobChange {
    /// The job's kind, and what is to be changed.
    #[qapi(union)]
    pub r#type: BlockJobChangeMore,
    /// The job.
    pub id: String,
}

/// Lets go of a concluded job on block nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-job-dismiss")]
pub struct BlockJobDismiss {
    /// The job.
    pub id: String,
}

/// Makes the result of a pending job on block nodes final.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-job-finalize")]
pub struct BlockJobFinalize {
    /// The job.
    pub id: String,
}

/// Merges a part of a chain of images into the image below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-commit")]
pub struct BlockCommit {
    /// What to call the job. Needed.
    pub job_id: Option<String>,
    /// The topmost image of the chain.
    pub device: String,
    /// The image to merge into; the lowest of the chain unless given.
    pub base_node: Option<String>,
    /// The same, by its file name.
    #[qapi(deprecated)]
    pub base: Option<String>,
    /// The topmost image to be merged; `device` itself unless given.
    pub top_node: Option<String>,
    /// The same, by its file name.
    #[qapi(deprecated)]
    pub top: Option<String>,
    /// What the header of the image above `top-node` shall say of its new backing file; its file name unless given.
    pub backing_file: Option<String>,
    /// Write the driver of a file as `raw` into that header. Off unless given.
    pub backing_mask_protocol: Option<bool>,
    /// Bytes per second; 0, no limit, unless given.
    pub speed: Option<i64>,
    /// What to do about I/O errors; `report` unless given.
    pub on_error: Option<BlockdevOnError>,
    /// What to call the filter that the job puts above `top-node`. One without a name is not shown to users.
    pub filter_node_name: Option<String>,
    /// Make the result final without `job-finalize`. On unless given.
    pub auto_finalize: Option<bool>,
    /// Let go of the job without `job-dismiss`. On unless given.
    pub auto_dismiss: Option<bool>,
}

/// Copies into an image what shines through from its backing files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-stream")]
pub struct BlockStream {
    /// What to call the job. Needed.
    pub job_id: Option<String>,
    /// The image to copy into.
    pub device: String,
    /// The image, by its file name, that stays below; none, so that `device` will need no backing file, unless given.
    pub base: Option<String>,
    /// The same, by its node.
    pub base_node: Option<String>,
    /// What the header of `device` shall say of its new backing file; its file name unless given.
    pub backing_file: Option<String>,
    /// Write the driver of a file as `raw` into that header. Off unless given.
    pub backing_mask_protocol: Option<bool>,
    /// The lowest image to be copied from; another way of saying `base-node`.
    pub bottom: Option<String>,
    /// Bytes per second; 0, no limit, unless given.
    pub speed: Option<i64>,
    /// What to do about I/O errors; `report` unless given.
    pub on_error: Option<BlockdevOnError>,
    /// What to call the filter that the job puts above `device`. One without a name is not shown to users.
    pub filter_node_name: Option<String>,
    /// Make the result final without `job-finalize`. On unless given.
    pub auto_finalize: Option<bool>,
    /// Let go of the job without `job-dismiss`. On unless given.
    pub auto_dismiss: Option<bool>,
}

/// Copies a node to another and keeps the copy up to date, until it is completed (its users then get the copy) or ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-mirror")]
pub struct BlockdevMirror {
    /// What to call the job. Needed.
    pub job_id: Option<String>,
    /// The node to be copied.
    pub device: String,
    /// The node to copy to.
    pub target: String,
    /// The node whose users get the copy on completion; `device` unless given.
    pub replaces: Option<String>,
    /// What the copy shall contain.
    pub sync: MirrorSyncMode,
    /// Bytes per second; 0, no limit, unless given.
    pub speed: Option<i64>,
    /// Bytes that are tracked together: a power of two from 512 to 64 MiB.
    pub granularity: Option<u32>,
    /// How much memory to use, bytes.
    pub buf_size: Option<i64>,
    /// What to do about errors of reading; `report` unless given.
    pub on_source_error: Option<BlockdevOnError>,
    /// What to do about errors of writing; `report` unless given.
    pub on_target_error: Option<BlockdevOnError>,
    /// What to call the filter that the job puts above `device`. One without a name is not shown to users.
    pub filter_node_name: Option<String>,
    /// When writes are copied; `background` unless given.
    pub copy_mode: Option<MirrorCopyMode>,
    /// Make the result final without `job-finalize`. On unless given.
    pub auto_finalize: Option<bool>,
    /// Let go of the job without `job-dismiss`. On unless given.
    pub auto_dismiss: Option<bool>,
}

/// As `blockdev-mirror`, to an image that the command makes or opens itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "drive-mirror")]
pub struct DriveMirror {
    /// What to call the job. The name of the drive unless given.
    pub job_id: Option<String>,
    /// The node to be copied.
    pub device: String,
    /// The name of the image's file.
    pub target: String,
    /// The image's format. Unless given: that of `device` where the image is made, else what its first bytes look like.
    pub format: Option<String>,
    /// What to call the image's node.
    pub node_name: Option<String>,
    /// The node whose users get the copy on completion; `device` unless given. Needs `node-name`.
    pub replaces: Option<String>,
    /// What the copy shall contain.
    pub sync: MirrorSyncMode,
    /// Whether the image is made (`absolute-paths`) or there already; made unless given. One that is made for `top` gets
    /// the backing file of `device`, one for `none` gets `device` itself; one that is there has the one that its header
    /// names when the job completes.
    pub mode: Option<NewImageMode>,
    /// Bytes per second; 0, no limit, unless given.
    pub speed: Option<i64>,
    /// Bytes that are tracked together: a power of two from 512 to 64 MiB.
    pub granularity: Option<u32>,
    /// How much memory to use, bytes.
    pub buf_size: Option<i64>,
    /// What to do about errors of reading; `report` unless given.
    pub on_source_error: Option<BlockdevOnError>,
    /// What to do about errors of writing; `report` unless given.
    pub on_target_error: Option<BlockdevOnError>,
    /// Let zeroes free space in the image. On unless given.
    pub unmap: Option<bool>,
    /// When writes are copied; `background` unless given.
    pub copy_mode: Option<MirrorCopyMode>,
    /// Make the result final without `job-finalize`. On unless given.
    pub auto_finalize: Option<bool>,
    /// Let go of the job without `job-dismiss`. On unless given.
    pub auto_dismiss: Option<bool>,
}

/// Makes an image, as a job. It is never dismissed by itself.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "blockdev-create")]
pub struct BlockdevCreate {
    /// What to call the job.
    pub job_id: String,
    /// The image.
    pub options: BlockdevCreateOptions,
}

/// A job on block nodes has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "BLOCK_JOB_COMPLETED")]
pub struct BlockJobCompletedEvent {
    /// What the job does.
    pub r#type: JobType,
    /// The job.
    pub device: String,
    /// The value of `offset` at which it would be done, bytes.
    pub len: i64,
    /// How much is done, bytes.
    pub offset: i64,
    /// Its limit in bytes per second; 0 for none.
    pub speed: i64,
    /// Why it failed.
    pub error: Option<String>,
}

/// A job on block nodes was cancelled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "BLOCK_JOB_CANCELLED")]
pub struct BlockJobCancelledEvent {
    /// What the job does.
    pub r#type: JobType,
    /// The job.
    pub device: String,
    /// The value of `offset` at which it would be done, bytes.
    pub len: i64,
    /// How much is done, bytes.
    pub offset: i64,
    /// Its limit in bytes per second; 0 for none.
    pub speed: i64,
}

/// A job on block nodes can be completed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "BLOCK_JOB_READY")]
pub struct BlockJobReadyEvent {
    /// What the job does.
    pub r#type: JobType,
    /// The job.
    pub device: String,
    /// The value of `offset` at which it would be done, bytes.
    pub len: i64,
    /// How much is done, bytes.
    pub offset: i64,
    /// Its limit in bytes per second; 0 for none.
    pub speed: i64,
}

/// A job on block nodes waits to be made final.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "BLOCK_JOB_PENDING")]
pub struct BlockJobPendingEvent {
    /// What the job does.
    pub r#type: JobType,
    /// The job.
    pub id: String,
}

/// A job on block nodes met an I/O error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "BLOCK_JOB_ERROR")]
pub struct BlockJobErrorEvent {
    /// The job.
    pub device: String,
    /// Whether it was reading or writing.
    pub operation: IoOperationType,
    /// What the job does about it.
    pub action: BlockErrorAction,
}
