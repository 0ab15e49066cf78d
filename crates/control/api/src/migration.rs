//! Two machines that run in step: what their disks need of it.

use qapi::Qapi;

/// Begins or ends replication in all nodes of the driver `replication`.
///
/// Where a node cannot begin, none does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "xen-set-replication")]
pub struct XenSetReplication {
    /// True to begin, false to end.
    pub enable: bool,
    /// Which side this is: true for the primary one. Nodes of the other `mode` are an error. Only looked at when replication
    /// begins.
    pub primary: bool,
    /// Only for an end: true where the other side has failed. A secondary side then keeps what its own machine wrote, and
    /// forgets it otherwise. False unless given.
    pub failover: Option<bool>,
}

/// Tells whether replication goes on without errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-xen-replication-status", ret = ReplicationStatus)]
pub struct QueryXenReplicationStatus;

/// How replication goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ReplicationStatus {
    /// Something is wrong: a node has not begun, or a request to a disk failed.
    pub error: bool,
    /// What is wrong.
    pub desc: Option<String>,
}

/// Has the secondary side's disks show, from now on, what the primary side has written up to now. What the secondary
/// side's machine wrote since the last time is forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "xen-colo-do-checkpoint")]
pub struct XenColoDoCheckpoint;
