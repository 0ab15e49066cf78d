//! Every QAPI type, command and event, one module for each schema file: data only.
//!
//! The doc comments are the reference manual, so they tell what a user of the contract needs: what a member means, its unit, and what
//! happens when it is left out. What Rhea does not do is not declared: tools look at the introspection to learn what works.

pub mod block_core;
pub mod block_export;
pub mod char;
pub mod common;
pub mod control;
pub mod crypto;
pub mod introspect;
pub mod job;
pub mod machine;
pub mod migration;
pub mod misc;
pub mod qom;
pub mod run_state;
pub mod sockets;
pub mod transaction;

use qapi::{Introspection, Value};

/// The introspection of every command and event that is defined here, whether or not a program registers it.
///
/// What a running program answers to `query-qmp-schema` is assembled from the commands that it registered; this is for tests and
/// for the manual.
pub fn introspection() -> Introspection {
    let mut i = Introspection::new();
    i.command::<run_state::QueryStatus>();
    i.command::<misc::QueryName>();
    i.command::<machine::QueryUuid>();
    i.event::<run_state::ShutdownEvent>();
    i.event::<run_state::PowerdownEvent>();
    i.event::<run_state::ResetEvent>();
    i.event::<run_state::StopEvent>();
    i.event::<run_state::ResumeEvent>();
    i.command::<block_core::QueryBlock>();
    i.command::<block_core::BlockSetIoThrottle>();
    i.command::<block_core::QueryNamedBlockNodes>();
    i.command::<block_core::QueryBlockstats>();
    i.command::<block_core::BlockLatencyHistogramSet>();
    i.command::<block_core::BlockdevAdd>();
    i.command::<block_core::BlockdevReopen>();
    i.command::<block_core::BlockdevDel>();
    i.command::<block_core::XBlockdevChange>();
    i.event::<block_core::QuorumFailureEvent>();
    i.event::<block_core::QuorumReportBadEvent>();
    i.command::<block_core::BlockResize>();
    i.command::<block_core::BlockdevSnapshotInternalSync>();
    i.command::<block_core::BlockdevSnapshotDeleteInternalSync>();
    i.command::<block_core::BlockdevSnapshot>();
    i.command::<block_core::BlockdevSnapshotSync>();
    i.command::<transaction::Transaction>();
    i.command::<block_core::ChangeBackingFile>();
    i.command::<block_core::BlockdevSetActive>();
    i.command::<block_core::XBlockdevSetIothread>();
    i.command::<block_core::XDebugQueryBlockGraph>();
    i.command::<block_core::BlockSetWriteThreshold>();
    i.event::<block_core::BlockWriteThresholdEvent>();
    i.command::<block_core::Eject>();
    i.command::<block_core::BlockdevOpenTray>();
    i.command::<block_core::BlockdevCloseTray>();
    i.command::<block_core::BlockdevRemoveMedium>();
    i.command::<block_core::BlockdevInsertMedium>();
    i.command::<block_core::BlockdevChangeMedium>();
    i.command::<block_core::BlockDirtyBitmapAdd>();
    i.command::<block_core::BlockDirtyBitmapRemove>();
    i.command::<block_core::BlockDirtyBitmapClear>();
    i.command::<block_core::BlockDirtyBitmapEnable>();
    i.command::<block_core::BlockDirtyBitmapDisable>();
    i.command::<block_core::BlockDirtyBitmapMerge>();
    i.command::<block_core::XDebugBlockDirtyBitmapSha256>();
    i.command::<job::JobPause>();
    i.command::<job::JobResume>();
    i.command::<job::JobCancel>();
    i.command::<job::JobComplete>();
    i.command::<job::JobDismiss>();
    i.command::<job::JobFinalize>();
    i.command::<job::QueryJobs>();
    i.command::<block_core::QueryBlockJobs>();
    i.command::<block_core::BlockJobSetSpeed>();
    i.command::<block_core::BlockJobCancel>();
    i.command::<block_core::BlockJobPause>();
    i.command::<block_core::BlockJobResume>();
    i.command::<block_core::BlockJobComplete>();
    i.command::<block_core::BlockJobChange>();
    i.command::<block_core::BlockJobDismiss>();
    i.command::<block_core::BlockJobFinalize>();
    i.command::<block_core::BlockCommit>();
    i.command::<block_core::BlockStream>();
    i.command::<block_core::BlockdevMirror>();
    i.command::<block_core::BlockdevBackup>();
    i.command::<block_core::DriveMirror>();
    i.command::<block_core::DriveBackup>();
    i.command::<block_core::BlockdevCreate>();
    i.command::<block_core::XBlockdevAmend>();
    i.event::<job::JobStatusChangeEvent>();
    i.event::<block_core::BlockJobCompletedEvent>();
    i.event::<block_core::BlockJobCancelledEvent>();
    i.event::<block_core::BlockJobReadyEvent>();
    i.event::<block_core::BlockJobPendingEvent>();
    i.event::<block_core::BlockJobErrorEvent>();
    i.event::<block_core::BlockIoErrorEvent>();
    i.event::<block_core::BlockImageCorruptedEvent>();
    i.command::<block_export::BlockExportAdd>();
    i.command::<block_export::BlockExportDel>();
    i.command::<block_export::QueryBlockExports>();
    i.command::<block_export::NbdServerStart>();
    i.command::<block_export::NbdServerAdd>();
    i.command::<block_export::NbdServerRemove>();
    i.command::<block_export::NbdServerStop>();
    i.event::<block_export::BlockExportDeletedEvent>();
    i.event::<char::VserportChangeEvent>();
    i.command::<control::QmpCapabilities>();
    i.command::<control::QueryVersion>();
    i.command::<control::QueryCommands>();
    i.command::<control::Quit>();
    i.command::<introspect::QueryQmpSchema>();
    i.command::<machine::SystemReset>();
    i.command::<machine::SystemPowerdown>();
    i.command::<migration::XenSetReplication>();
    i.command::<migration::QueryXenReplicationStatus>();
    i.command::<migration::XenColoDoCheckpoint>();
    i.command::<misc::Stop>();
    i.command::<misc::Cont>();
    i.command::<misc::HumanMonitorCommand>();
    i.command::<qom::ObjectAdd>();
    i.command::<qom::ObjectDel>();
    i.command::<qom::QomList>();
    i.command::<qom::QomGet>();
    i.command::<qom::QomSet>();
    i
}

/// The value that `query-qmp-schema` would return if every command and event of this crate were registered.
pub fn schema() -> Value {
    introspection().finish()
}
