//! Backups: copies of a node as it was at one moment.

use qapi::Qapi;

use super::{BlockdevOnError, MirrorSyncMode, NewImageMode};

/// What becomes of a dirty bitmap that a backup uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BitmapSyncMode {
    /// Where the backup succeeds, what it copied is clean afterwards.
    #[default]
    OnSuccess,
    /// It stays as it is.
    Never,
    /// What was copied is clean afterwards, also where the backup fails.
    Always,
}

/// How a backup does its work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BackupPerf {
    /// Let the host copy where it can. A hint, which changes nothing now. Off unless given.
    pub use_copy_range: Option<bool>,
    /// How many pieces are copied at a time; 64 unless given.
    pub max_workers: Option<i64>,
    /// The longest piece that is copied at a time, bytes; 0 for no limit of its own. 0 unless given.
    pub max_chunk: Option<i64>,
    /// The least piece that is copied as one, bytes: a power of two, or 0. 0 unless given; the target's cluster size and
    /// 64 KiB are a limit always.
    pub min_cluster_size: Option<u64>,
}

/// What all backups are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BackupCommon {
    /// What to call the job. The name of the drive unless given.
    pub job_id: Option<String>,
    /// The node to be copied.
    pub device: String,
    /// What the copy shall contain.
    pub sync: MirrorSyncMode,
    /// Bytes per second; 0, no limit, unless given.
    pub speed: Option<i64>,
    /// The dirty bitmap of `device` that says what is to be copied (`bitmap`, `incremental`), or that is to be clean of
    /// what was copied.
    pub bitmap: Option<String>,
    /// What becomes of the bitmap. Must be given with a bitmap, unless `sync` is `incremental`.
    pub bitmap_mode: Option<BitmapSyncMode>,
    /// Store compressed. Off unless given.
    pub compress: Option<bool>,
    /// What to do about errors of reading; `report` unless given.
    pub on_source_error: Option<BlockdevOnError>,
    /// What to do about errors of writing; `report` unless given.
    pub on_target_error: Option<BlockdevOnError>,
    /// Make the result final without `job-finalize`. On unless given.
    pub auto_finalize: Option<bool>,
    /// Let go of the job without `job-dismiss`. On unless given.
    pub auto_dismiss: Option<bool>,
    /// What to call the filter that the job puts above `device`. One without a name is not shown to users.
    pub filter_node_name: Option<String>,
    /// Discard on the source what has been copied: for the past state that a `snapshot-access` node shows. Off unless
    /// given.
    pub discard_source: Option<bool>,
    /// How to do the work.
    #[qapi(unstable)]
    pub x_perf: Option<BackupPerf>,
}

/// Copies a node as it is now to another, while its users go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "blockdev-backup")]
pub struct BlockdevBackup {
    /// What and how.
    #[qapi(flatten)]
    pub common: BackupCommon,
    /// The node to copy to, of the same length.
    pub target: String,
}

/// As `blockdev-backup`, to an image that the command makes or opens itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "drive-backup", features = ["deprecated"])]
pub struct DriveBackup {
    /// What and how.
    #[qapi(flatten)]
    pub common: BackupCommon,
    /// The name of the image's file.
    pub target: String,
    /// The image's format. Unless given: that of `device` where the image is made, else what its first bytes look like.
    pub format: Option<String>,
    /// Whether the image is made (`absolute-paths`) or there already; made unless given. One that is made for `top` gets
    /// the backing file of `device`, one for `none` gets `device` itself.
    pub mode: Option<NewImageMode>,
}
