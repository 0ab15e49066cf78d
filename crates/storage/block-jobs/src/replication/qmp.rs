//! The commands.

use super::{Replica, Stage, all, begin, fail_over, forget, stop};
use api::migration::{QueryXenReplicationStatus, ReplicationStatus, XenColoDoCheckpoint, XenSetReplication};
use block::job::Jobs;
use monitor::CommandTable;
use qapi::{QError, qerr};
use std::sync::Arc;

async fn start_all(jobs: &Arc<Jobs>, primary: bool) -> Result<(), QError> {
    // One that has ended has nothing to begin: its side became the other one.
    let nodes: Vec<_> =
        all(&jobs.graph().snapshot()).into_iter().filter(|(_, r)| r.stage() != Stage::Done).collect();
    for (_, r) in &nodes {
        if r.stage() != Stage::None {
            return Err(qerr!("Block replication is running or done"));
        }
        if r.primary != primary {
            let (needs, got) = (u8::from(r.primary) ^ 1, u8::from(primary) ^ 1);
            return Err(qerr!("The parameter mode's value is invalid, needs {needs}, but got {got}"));
        }
    }
    let mut begun: Vec<Arc<Replica>> = Vec::new();
    for (node, r) in nodes {
        let done = match primary {
            true => {
                r.become_(Stage::Running, false);
                Ok(())
            }
            false => begin(jobs, &node, &r).await,
        };
        if let Err(e) = done {
            for r in begun {
                // What could not be undone is told by its own side's state; the first error counts.
                _ = stop(jobs, &r).await;
                r.become_(Stage::None, false);
            }
            return Err(e);
        }
        begun.push(r);
    }
    Ok(())
}

async fn stop_all(jobs: &Arc<Jobs>, failed: bool) -> Result<(), QError> {
    let mut first = Ok(());
    for (_, r) in all(&jobs.graph().snapshot()) {
        let done = match r.stage() {
            Stage::None if failed => Ok(()),
            Stage::None => Err(qerr!("Block replication is not running")),
            Stage::Failover | Stage::FailoverFailed | Stage::Done => Ok(()),
            Stage::Running if failed => fail_over(jobs, &r).await,
            Stage::Running => stop(jobs, &r).await,
        };
        first = first.and(done);
    }
    first
}

async fn checkpoint(jobs: &Arc<Jobs>) -> Result<(), QError> {
    for (_, r) in all(&jobs.graph().snapshot()) {
        if r.primary || r.stage() == Stage::Done {
            continue;
        }
        let side = r.state.lock().side.clone();
        let side = side.ok_or_else(|| qerr!("Backup job was cancelled unexpectedly"))?;
        forget(jobs, &side).await?;
    }
    Ok(())
}

fn status(jobs: &Jobs) -> ReplicationStatus {
    let wrong = |desc: &str| ReplicationStatus { error: true, desc: Some(desc.to_owned()) };
    let told = all(&jobs.graph().snapshot()).into_iter().find_map(|(_, r)| {
        let s = r.state.lock();
        match s.stage {
            Stage::None => Some(wrong("Block replication is not running")),
            _ if s.failed => Some(wrong("I/O error occurred")),
            _ => None,
        }
    });
    told.unwrap_or_default()
}

/// Registers these commands: for programs that run machines.
pub fn register(table: &mut CommandTable, jobs: &Arc<Jobs>) {
    let j = jobs.clone();
    table.register(move |c: XenSetReplication| {
        let j = j.clone();
        async move {
            match (c.enable, c.failover) {
                (true, Some(_)) => Err(qerr!("Parameter 'failover' is only for stopping replication")),
                (true, None) => start_all(&j, c.primary).await,
                (false, failover) => stop_all(&j, failover.unwrap_or(false)).await,
            }
        }
    });
    let j = jobs.clone();
    table.register(move |_: QueryXenReplicationStatus| {
        let told = status(&j);
        async move { Ok(told) }
    });
    let j = jobs.clone();
    table.register(move |_: XenColoDoCheckpoint| {
        let j = j.clone();
        async move { checkpoint(&j).await }
    });
}
