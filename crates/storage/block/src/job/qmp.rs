//! The commands that ask something of jobs, whatever they do.

use super::Jobs;
use api::block_core::{
    BlockJobCancel, BlockJobCancelledEvent, BlockJobChange, BlockJobComplete, BlockJobCompletedEvent,
    BlockJobDismiss, BlockJobErrorEvent, BlockJobFinalize, BlockJobPause, BlockJobPendingEvent,
    BlockJobReadyEvent, BlockJobResume, BlockJobSetSpeed, QueryBlockJobs,
};
use api::job::{
    JobCancel, JobComplete, JobDismiss, JobFinalize, JobPause, JobResume, JobStatusChangeEvent, QueryJobs,
};
use monitor::CommandTable;
use std::sync::Arc;

/// Registers a command that looks a job up and asks something of it.
macro_rules! verb {
    ($table:expr, $jobs:expr, $command:ty, $get:ident, $field:ident, |$j:ident, $job:ident, $c:ident| $call:expr) => {
        let jobs = $jobs.clone();
        $table.register(move |$c: $command| {
            let $j = jobs.clone();
            async move {
                let $job = $j.$get(&$c.$field)?;
                $call
            }
        });
    };
}

/// Registers the commands, and the events that jobs send.
pub fn register(table: &mut CommandTable, jobs: &Arc<Jobs>) {
    table.event::<JobStatusChangeEvent>();
    table.event::<BlockJobCancelledEvent>();
    table.event::<BlockJobCompletedEvent>();
    table.event::<BlockJobErrorEvent>();
    table.event::<BlockJobPendingEvent>();
    table.event::<BlockJobReadyEvent>();
    let j = jobs.clone();
    table.register(move |_: QueryJobs| {
        let list = j.query();
        async move { Ok(list) }
    });
    let j = jobs.clone();
    table.register(move |_: QueryBlockJobs| {
        let list = j.query_block();
        async move { Ok(list) }
    });
    verb!(table, jobs, JobPause, get, id, |j, job, c| j.pause(&job));
    verb!(table, jobs, JobResume, get, id, |j, job, c| j.resume(&job));
    verb!(table, jobs, JobCancel, get, id, |j, job, c| j.cancel(&job, true).await);
    verb!(table, jobs, JobComplete, get, id, |j, job, c| j.complete(&job));
    verb!(table, jobs, JobFinalize, get, id, |j, job, c| j.finalize_job(&job).await);
    verb!(table, jobs, JobDismiss, get, id, |j, job, c| j.dismiss_job(&job));
    verb!(table, jobs, BlockJobPause, get_block, device, |j, job, c| j.pause(&job));
    verb!(table, jobs, BlockJobResume, get_block, device, |j, job, c| j.resume(&job));
    verb!(table, jobs, BlockJobSetSpeed, get_block, device, |j, job, c| j.set_speed(&job, c.speed));
    verb!(table, jobs, BlockJobCancel, get_block, device, |j, job, c| {
        j.cancel(&job, c.force.unwrap_or(false)).await
    });
    verb!(table, jobs, BlockJobComplete, get_block, device, |j, job, c| j.complete(&job));
    verb!(table, jobs, BlockJobChange, get_block, id, |j, job, c| j.change(&job, &c.r#type));
    verb!(table, jobs, BlockJobFinalize, get_block, id, |j, job, c| j.finalize_job(&job).await);
    verb!(table, jobs, BlockJobDismiss, get_block, id, |j, job, c| j.dismiss_job(&job));
}
