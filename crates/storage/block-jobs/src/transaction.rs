//! `transaction` and the commands that are transactions of one action.
//!
//! The frame is [`block::transaction`]; here each action of the contract gets its implementation. An action that starts
//! a job is told the group that its job belongs to: in a grouped transaction all jobs have the same one, and the engine
//! of jobs finalizes or cancels them together.

use crate::backup::Start;
use crate::overlay::SnapshotSync;
use api::block_core::{BlockDirtyBitmap, BlockdevSnapshot, BlockdevSnapshotSync};
use api::transaction::{ActionCompletionMode, Transaction, TransactionAction};
use block::bitmap::NewBitmap;
use block::job::{Group, Jobs};
use block::transaction::Action;
use block::transaction::actions::{Abort, BitmapOp, InternalSnapshot, OnBitmap, Snapshot};
use monitor::CommandTable;
use qapi::{QError, QapiEnum, Union, qerr};
use std::sync::Arc;

fn on_bitmap(b: BlockDirtyBitmap, op: impl FnOnce(String) -> BitmapOp) -> Box<dyn Action> {
    Box::new(OnBitmap { node: b.node, op: op(b.name) })
}

/// The implementation of an action. `group`: what its job shall belong to, in a grouped transaction.
fn action(
    jobs: &Arc<Jobs>,
    group: Option<&Arc<Group>>,
    action: TransactionAction,
) -> Result<Box<dyn Action>, QError> {
    let starts_job =
        matches!(action, TransactionAction::BlockdevBackup(_) | TransactionAction::DriveBackup(_));
    if group.is_some() && !starts_job {
        return Err(qerr!(
            "Action '{}' does not support transaction property completion-mode = grouped",
            action.tag().as_str()
        ));
    }
    Ok(match action {
        TransactionAction::Abort(_) => Box::new(Abort),
        TransactionAction::BlockDirtyBitmapAdd(a) => {
            let new = NewBitmap {
                name: a.name,
                granularity: a.granularity,
                persistent: a.persistent.unwrap_or(false),
                disabled: a.disabled.unwrap_or(false),
            };
            Box::new(OnBitmap { node: a.node, op: BitmapOp::Add(new) })
        }
        TransactionAction::BlockDirtyBitmapRemove(b) => on_bitmap(b, BitmapOp::Remove),
        TransactionAction::BlockDirtyBitmapClear(b) => on_bitmap(b, BitmapOp::Clear),
        TransactionAction::BlockDirtyBitmapEnable(b) => on_bitmap(b, |n| BitmapOp::Enable(n, true)),
        TransactionAction::BlockDirtyBitmapDisable(b) => on_bitmap(b, |n| BitmapOp::Enable(n, false)),
        TransactionAction::BlockDirtyBitmapMerge(m) => {
            let sources = m.bitmaps.into_iter().map(block::bitmap::qmp::source).collect();
            Box::new(OnBitmap { node: m.node, op: BitmapOp::Merge(m.target, sources) })
        }
        TransactionAction::BlockdevBackup(b) => Box::new(Start::new(jobs, b.into(), group.cloned())),
        TransactionAction::BlockdevSnapshot(s) => Box::new(Snapshot(s)),
        TransactionAction::BlockdevSnapshotInternalSync(s) => Box::new(InternalSnapshot::new(s)),
        TransactionAction::BlockdevSnapshotSync(s) => Box::new(SnapshotSync(s)),
        TransactionAction::DriveBackup(b) => Box::new(Start::new(jobs, b.into(), group.cloned())),
    })
}

/// `transaction`.
pub async fn transaction(jobs: &Arc<Jobs>, t: Transaction) -> Result<(), QError> {
    let mode = t.properties.and_then(|p| p.completion_mode).unwrap_or_default();
    let group = (mode == ActionCompletionMode::Grouped).then(Arc::<Group>::default);
    let actions: Result<Vec<_>, _> = t.actions.into_iter().map(|a| action(jobs, group.as_ref(), a)).collect();
    jobs.graph().transact(actions?).await
}

/// Registers the commands.
pub(crate) fn register(table: &mut CommandTable, jobs: &Arc<Jobs>) {
    let j = jobs.clone();
    table.register(move |c: Transaction| {
        let j = j.clone();
        async move { transaction(&j, c).await }
    });
    let j = jobs.clone();
    table.register(move |c: BlockdevSnapshot| {
        let j = j.clone();
        async move { j.graph().transact(vec![Box::new(Snapshot(c))]).await }
    });
    let j = jobs.clone();
    table.register(move |c: BlockdevSnapshotSync| {
        let j = j.clone();
        async move { j.graph().transact(vec![Box::new(SnapshotSync(c))]).await }
    });
}
