//! Several actions at once: all of them or none.

use crate::block_core::{
    BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge, BlockdevBackup, BlockdevSnapshot,
    BlockdevSnapshotInternalSync, BlockdevSnapshotSync, DriveBackup,
};
use qapi::Qapi;

/// An action without effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct Abort {}

/// When the jobs of a transaction end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum ActionCompletionMode {
    /// Each by itself.
    #[default]
    Individual,
    /// All together: none is made final before all can be, and when one fails or is cancelled all are.
    Grouped,
}

/// One action of a transaction.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(tag = "type", tag_enum = "TransactionActionKind", wrap = "data")]
pub enum TransactionAction {
    /// Fails, so that the whole transaction does; for tests.
    Abort(Abort),
    /// As the command `block-dirty-bitmap-add`.
    BlockDirtyBitmapAdd(BlockDirtyBitmapAdd),
    /// As the command `block-dirty-bitmap-remove`.
    BlockDirtyBitmapRemove(BlockDirtyBitmap),
    /// As the command `block-dirty-bitmap-clear`.
    BlockDirtyBitmapClear(BlockDirtyBitmap),
    /// As the command `block-dirty-bitmap-enable`.
    BlockDirtyBitmapEnable(BlockDirtyBitmap),
    /// As the command `block-dirty-bitmap-disable`.
    BlockDirtyBitmapDisable(BlockDirtyBitmap),
    /// As the command `block-dirty-bitmap-merge`.
    BlockDirtyBitmapMerge(BlockDirtyBitmapMerge),
    /// As the command `blockdev-backup`.
    BlockdevBackup(BlockdevBackup),
    /// As the command `blockdev-snapshot`.
    BlockdevSnapshot(BlockdevSnapshot),
    /// As the command `blockdev-snapshot-internal-sync`.
    BlockdevSnapshotInternalSync(BlockdevSnapshotInternalSync),
    /// As the command `blockdev-snapshot-sync`.
    BlockdevSnapshotSync(BlockdevSnapshotSync),
    /// As the command `drive-backup`.
    DriveBackup(DriveBackup),
}

/// What holds for a whole transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct TransactionProperties {
    /// When its jobs end; `individual` unless given. Actions that start no job cannot be part of a grouped one.
    pub completion_mode: Option<ActionCompletionMode>,
}

/// Does several things at one moment, all of them or, where one cannot be done, none. The users of all nodes that are
/// named are kept off meanwhile. Later actions see what earlier ones do.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "transaction")]
pub struct Transaction {
    /// The actions.
    pub actions: Vec<TransactionAction>,
    /// What holds for all of them.
    pub properties: Option<TransactionProperties>,
}
