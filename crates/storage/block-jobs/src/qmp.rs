//! The commands that start jobs.

use api::block_core::{
    BlockCommit, BlockStream, BlockdevBackup, BlockdevCreate, BlockdevMirror, ChangeBackingFile, DriveBackup,
    DriveMirror, XBlockdevAmend,
};
use block::job::Jobs;
use monitor::{CommandTable, HmpTable};
use std::sync::Arc;

/// Registers these commands, and those that ask something of any job.
pub fn register(table: &mut CommandTable, jobs: &Arc<Jobs>) {
    block::job::qmp::register(table, jobs);
    crate::transaction::register(table, jobs);
    let j = jobs.clone();
    table.register(move |c: ChangeBackingFile| {
        let j = j.clone();
        async move { crate::backing::change_backing_file(&j, c).await }
    });
    let j = jobs.clone();
    table.register(move |c: BlockdevCreate| {
        let j = j.clone();
        async move { crate::create::create(&j, c).await }
    });
    let j = jobs.clone();
    table.register(move |c: XBlockdevAmend| {
        let j = j.clone();
        async move { crate::amend::amend(&j, c).await }
    });
    let j = jobs.clone();
    table.register(move |c: BlockCommit| {
        let j = j.clone();
        async move { crate::commit::commit(&j, c).await }
    });
    let j = jobs.clone();
    table.register(move |c: BlockdevMirror| {
        let j = j.clone();
        async move { crate::mirror::mirror(&j, c).await }
    });
    let j = jobs.clone();
    table.register(move |c: BlockdevBackup| {
        let j = j.clone();
        async move { crate::backup::backup(&j, c).await }
    });
    let j = jobs.clone();
    table.register(move |c: DriveMirror| {
        let j = j.clone();
        async move { crate::mirror::drive_mirror(&j, c).await }
    });
    let j = jobs.clone();
    table.register(move |c: DriveBackup| {
        let j = j.clone();
        async move { crate::backup::drive_backup(&j, c).await }
    });
    let j = jobs.clone();
    table.register(move |c: BlockStream| {
        let j = j.clone();
        async move { crate::stream::stream(&j, c).await }
    });
}

/// Registers the human monitor's command `commit`.
pub fn register_hmp(hmp: &mut HmpTable, jobs: &Arc<Jobs>) {
    let j = jobs.clone();
    let shown = ("device:B", "device|all");
    let help = "commit changes to the disk images (if -snapshot is used) or backing files";
    hmp.register_shown("commit", shown, help, move |a| {
        let j = j.clone();
        async move { crate::commit::commit_drives(&j, a.str("device")).await }
    });
}
