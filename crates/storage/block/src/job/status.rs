//! The states of a job's life, and what may be asked of it in each.

use api::job::{JobStatus, JobVerb};
use qapi::{QError, QapiEnum, qerr};

/// Whether a job may go from one state to another.
pub(crate) fn may_become(from: JobStatus, to: JobStatus) -> bool {
    use JobStatus::*;
    match from {
        Undefined => to == Created,
        Created => matches!(to, Running | Aborting | Null),
        Running => matches!(to, Paused | Ready | Waiting | Aborting),
        Paused => to == Running,
        Ready => matches!(to, Standby | Waiting | Aborting),
        Standby => to == Ready,
        Waiting => matches!(to, Pending | Aborting),
        Pending => matches!(to, Aborting | Concluded),
        Aborting => matches!(to, Aborting | Concluded),
        Concluded => to == Null,
        Null => false,
    }
}

/// Whether `verb` may be asked of a job in this state.
pub(crate) fn accepts(status: JobStatus, verb: JobVerb) -> bool {
    use JobStatus::*;
    let alive = matches!(status, Created | Running | Paused | Ready | Standby);
    match verb {
        JobVerb::Cancel => alive || matches!(status, Waiting | Pending),
        JobVerb::Pause | JobVerb::Resume | JobVerb::SetSpeed | JobVerb::Change => alive,
        // At rest it completes when it is resumed.
        JobVerb::Complete => matches!(status, Ready | Standby),
        JobVerb::Finalize => status == Pending,
        JobVerb::Dismiss => status == Concluded,
    }
}

/// The error where it may not.
pub(crate) fn check(id: &str, status: JobStatus, verb: JobVerb) -> Result<(), QError> {
    if accepts(status, verb) {
        return Ok(());
    }
    let (state, verb) = (status.as_str(), verb.as_str());
    Err(qerr!("Job '{id}' in state '{state}' cannot accept command verb '{verb}'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use JobStatus::*;

    const ALL: [JobStatus; 11] =
        [Undefined, Created, Running, Paused, Ready, Standby, Waiting, Pending, Aborting, Concluded, Null];

    #[test]
    fn every_life_ends() {
        for s in ALL {
            let mut seen = vec![s];
            while let Some(n) =
                ALL.iter().find(|n| !seen.contains(n) && seen.iter().any(|s| may_become(*s, **n)))
            {
                seen.push(*n);
            }
            assert!(seen.contains(&Null), "{s:?}");
            assert_eq!(s == Null, !ALL.iter().any(|n| may_become(s, *n)));
        }
    }

    #[test]
    fn verbs() {
        assert_eq!(
            check("c0", Running, JobVerb::Complete).unwrap_err().desc(),
            "Job 'c0' in state 'running' cannot accept command verb 'complete'"
        );
        assert!(accepts(Pending, JobVerb::Cancel) && !accepts(Aborting, JobVerb::Cancel));
        assert!(ALL.iter().filter(|s| accepts(**s, JobVerb::Pause)).count() == 5);
        for s in ALL {
            assert_eq!(accepts(s, JobVerb::Dismiss), s == Concluded);
            assert_eq!(accepts(s, JobVerb::Finalize), s == Pending);
            assert_eq!(accepts(s, JobVerb::Complete), matches!(s, Ready | Standby));
        }
    }
}
