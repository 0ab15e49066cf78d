//! How random commands may be answered otherwise than by the reference, and why.

use crate::random::Step;

/// A difference between the two in one command.
pub enum Difference<'a> {
    /// Both refuse, with these texts: ours, theirs.
    Texts(&'a str, &'a str),
    /// One refuses: ours, theirs.
    Done(Option<&'a str>, Option<&'a str>),
    /// What can be seen afterwards: lines that only ours has, and those that only theirs has.
    State(&'a [String], &'a [String]),
    /// The reference ends.
    Ends,
}

/// Checks that are made one by one. Where a command is wrong in several ways, it is told which comes first, and the order of
/// the checks is nobody's promise.
const CHECKS: &[&str] = &[
    "Duplicate nodes with node-name",
    "Cannot find device=",
    "force-share=on can only be used with read-only images",
    "setting detect-zeroes to unmap is not allowed",
    "Permission conflict on node",
    "Image is not in qcow2 format",
    "Could not read qcow2 header",
    "Throttle group '",
    "Block node is read-only",
    "Need a root block node",
    "does not exist on device",
    "does not support internal snapshots",
    "Failed to get a snapshot list",
    "is read only",
    "The node is read-only",
    "Cannot change the option",
    "Cannot change frozen",
    "is given twice with different values",
    "backing is missing for",
    "cannot be reset to its default value",
    "does not support reopening files",
    "would create a cycle",
    "is in use",
    "is busy",
    "already in use",
    "not in a chain starting from",
    "not in this backing file chain",
    "not in the backing chain of",
    "is not a backing image of",
    "is a filter, use a non-filter node",
    "could not be found",
    "not found",
    "into itself",
    "Failed to get shared",
    "Could not read",
    "Operation not supported",
    "without file child",
    "guaranteed that",
    "Inactive '",
    "without a backing file",
    "not in the same chain",
    "different sizes",
];

fn check(text: &str) -> Option<&'static str> {
    CHECKS.iter().copied().find(|c| text.contains(c))
}

/// Why a difference is as it should be; `None` for one that is not known.
pub fn why(step: &Step, what: &Difference<'_>) -> Option<&'static str> {
    let is =
        |command: &str| step.command == command || step.arguments.contains(&format!("'type':'{command}'"));
    match what {
        Difference::Ends => Some("the reference does not survive this"),
        Difference::Texts(a, b) => {
            let a = a.strip_prefix("GenericError: ")?;
            let b = b.strip_prefix("GenericError: ")?;
            let outer =
                b.strip_prefix("Could not create node: ").or(b.strip_prefix("Could not replace node: "));
            if outer == Some(a) {
                return Some("who asked for the node does not matter");
            }
            check(a).and(check(b)).map(|_| "several things are wrong")
        }
        Difference::Done(None, Some(theirs)) => {
            let known = [
                ("Cannot change the option 'force-share'", "what stays as it is may be said"),
                ("does not support reopening files", "filters can be reopened"),
            ];
            known.iter().find(|(text, _)| theirs.contains(text)).map(|(_, why)| *why)
        }
        Difference::Done(Some(ours), None) => {
            let known = [
                ("is given twice with different values", "the reference takes whichever comes last"),
                ("persistent in", "a bitmap on a read-only node would never be stored"),
                ("Cannot change frozen", "a job's source would change under it"),
            ];
            known.iter().find(|(text, _)| ours.contains(text)).map(|(_, why)| *why)
        }
        Difference::Done(..) => None,
        Difference::State(ours, theirs) => {
            let overlay = |l: &String| l.starts_with("node ") && l.contains(" qcow2 ");
            if is("blockdev-snapshot-sync") && theirs.is_empty() && ours.iter().all(overlay) {
                return Some("an overlay without users stays until it is deleted");
            }
            let inactive = |l: &String| l.contains(" active=false ");
            if is("blockdev-set-active") && ours.iter().chain(*theirs).any(inactive) {
                return Some("who stands on an inactive node is inactive, too");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_and_what_is_not() {
        let step = Step { command: "blockdev-add".into(), arguments: String::new() };
        let texts = |a, b| why(&step, &Difference::Texts(a, b));
        let (a, b) =
            ("GenericError: Duplicate nodes with node-name='a'", "GenericError: Block node is read-only");
        assert!(texts(a, b).is_some());
        assert!(texts(a, "GenericError: Something else").is_none());
        assert!(texts(a, "DeviceNotFound: Block node is read-only").is_none());
        assert!(why(&step, &Difference::Done(None, Some("GenericError: No"))).is_none());
        assert!(why(&step, &Difference::Done(None, None)).is_none());
        let line = ["node n1 qcow2 ro=false".to_owned()];
        assert!(why(&step, &Difference::State(&line, &[])).is_none());
        let step = Step { command: "blockdev-snapshot-sync".into(), ..step };
        assert!(why(&step, &Difference::State(&line, &[])).is_some());
        assert!(why(&step, &Difference::State(&[], &line)).is_none());
    }
}
