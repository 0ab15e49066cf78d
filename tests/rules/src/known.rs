//! How random commands may be answered otherwise than by the reference, and why.

use crate::random::{Seen, Step};

/// A difference between the two in one command.
pub enum Difference<'a> {
    /// Both refuse, with these texts (ours, theirs), what could be seen before being this.
    Texts(&'a str, &'a str, &'a Seen),
    /// One refuses (ours, theirs), what could be seen before being this.
    Done(Option<&'a str>, Option<&'a str>, &'a Seen),
    /// What can be seen afterwards: lines that only ours has, and those that only theirs has.
    State(&'a [String], &'a [String]),
    /// The reference ends.
    Ends,
}

/// Checks that are made one by one, with what must be so where one of them fails. Where a command is wrong in several ways,
/// it is told which comes first, and the order of the checks is nobody's promise.
const CHECKS: &[(&str, fn(&Case<'_>) -> bool)] = &[
    ("Duplicate nodes with node-name", |c| c.named_twice() || c.is_node(c.last())),
    ("Cannot find device=", |c| !c.is_node(c.last())),
    ("Failed to find node with node-name", |c| !c.is_node(c.last())),
    ("force-share=on can only be used with read-only images", |c| {
        c.says("'force-share':true") || c.reopens()
    }),
    ("The overlay is already in use", |c| c.all_there()),
    ("The overlay already has a backing image", |c| c.all_there()),
    ("Filters cannot be used as overlays", |c| c.all_there()),
    ("does not support backing files", |c| c.reopens()),
    ("sum of offset (", |c| c.says("'offset':")),
    ("setting detect-zeroes to unmap is not allowed", |c| c.says("'detect-zeroes':'unmap'")),
    ("Throttle group '", |c| c.says(&format!("'throttle-group':'{}'", c.last()))),
    ("is given twice with different values", |c| c.step.arguments.matches("'node-name':").count() > 1),
    ("Image is not in qcow2 format", |c| c.opens_qcow2()),
    ("Could not read qcow2 header", |c| c.opens_qcow2()),
    ("Bitmap '", |c| c.says(&format!("'{}'", c.first()))),
    ("Dirty bitmap '", |c| c.says(&format!("'{}'", c.first()))),
    ("Bitmap already exists", |c| c.seen.lines.iter().any(|l| l.contains("bitmaps=b"))),
    ("Source and target cannot be the same", |c| c.same_twice()),
    ("into itself", |c| c.same_twice() || c.step.command == "block-commit"),
    ("would create a cycle", |c| c.all_there()),
    ("Block node is read-only", |c| c.something_is_read_only()),
    ("The node is read-only", |c| c.something_is_read_only()),
    ("is read only", |c| c.something_is_read_only() || c.something_is_inactive()),
    ("Could not read", |c| c.opens_qcow2()),
    ("Inactive '", |c| c.something_is_inactive()),
    ("Need a root block node", |c| c.seen.lines.len() > 1),
    ("Job ID '", |c| c.seen.jobs.iter().any(|j| j == c.first())),
    ("Permission conflict on node", |c| c.all_there()),
    ("does not exist on device", |c| c.all_there()),
    ("does not support internal snapshots", |c| c.all_there()),
    ("Failed to get a snapshot list", |c| c.all_there()),
    ("Cannot change the option", |c| c.reopens() || !c.seen.jobs.is_empty()),
    ("Cannot change frozen", |c| c.reopens() && !c.seen.jobs.is_empty()),
    ("backing is missing for", |c| c.reopens()),
    ("cannot be reset to its default value", |c| c.reopens()),
    ("does not support reopening files", |c| c.reopens()),
    ("is in use", |c| c.all_there()),
    ("is busy", |c| c.all_there()),
    ("already in use", |c| c.all_there()),
    ("not in a chain starting from", |c| c.all_there()),
    ("not in this backing file chain", |c| c.all_there()),
    ("not in the backing chain of", |c| c.all_there()),
    ("is not a backing image of", |c| c.all_there()),
    ("is a filter, use a non-filter node", |c| c.all_there()),
    ("Failed to get shared", |c| c.seen.lines.iter().any(|l| l.contains(" file "))),
    ("Can't set node '", |c| c.reopens() && c.something_is_read_only()),
    ("already has export named", |c| c.step.command == "block-export-add"),
    ("Operation not supported", |_| true),
    ("without file child", |_| true),
    ("guaranteed that", |c| c.all_there()),
    ("without a backing file", |_| true),
    ("not in the same chain", |c| c.all_there()),
    ("different sizes", |c| c.all_there()),
];

/// A refusal: the text, the command, and what could be seen before it.
struct Case<'a> {
    text: &'a str,
    step: &'a Step,
    seen: &'a Seen,
}

impl<'a> Case<'a> {
    /// What stands in quotes in the text.
    fn quoted(&self) -> impl Iterator<Item = &'a str> {
        self.text.split('\'').skip(1).step_by(2)
    }

    fn first(&self) -> &'a str {
        self.quoted().next().unwrap_or("")
    }

    fn last(&self) -> &'a str {
        self.quoted().last().unwrap_or("")
    }

    fn says(&self, what: &str) -> bool {
        self.step.arguments.contains(what)
    }

    fn is_node(&self, name: &str) -> bool {
        self.seen.names.iter().any(|n| n == name)
    }

    /// Two nodes that the command makes have the same name.
    fn named_twice(&self) -> bool {
        self.step.arguments.matches(&format!("-name':'{}'", self.last())).count() > 1
    }

    /// Two of the command's arguments are the same node.
    fn same_twice(&self) -> bool {
        let named = |n: &&String| self.step.arguments.matches(&format!("'{n}'")).count() > 1;
        self.seen.names.iter().any(|n| named(&n))
    }

    /// Every node that the text speaks of is there, or is being made.
    fn all_there(&self) -> bool {
        let is = |n: &str| n.starts_with("#block") || self.is_node(n) || self.says(&format!("'{n}'"));
        self.quoted().filter(|q| q.len() == 2 && q.starts_with('n')).all(is)
    }

    fn reopens(&self) -> bool {
        self.step.command == "blockdev-reopen" && self.all_there()
    }

    fn opens_qcow2(&self) -> bool {
        self.says("'driver':'qcow2'") || self.says("'snapshot-file'")
    }

    fn something_is_read_only(&self) -> bool {
        self.says("read-only':true") || self.seen.lines.iter().any(|l| l.contains(" ro=true "))
    }

    fn something_is_inactive(&self) -> bool {
        self.seen.lines.iter().any(|l| l.contains(" active=false "))
    }

    /// Whether this is one of the checks, and fails for what it says.
    fn holds(&self) -> bool {
        CHECKS.iter().any(|(text, so)| self.text.contains(text) && so(self))
    }
}

/// Why a difference is as it should be; `None` for one that is not known.
pub fn why(step: &Step, what: &Difference<'_>) -> Option<&'static str> {
    let is =
        |command: &str| step.command == command || step.arguments.contains(&format!("'type':'{command}'"));
    match what {
        Difference::Ends => Some("the reference does not survive this"),
        Difference::Texts(a, b, seen) => {
            let a = a.strip_prefix("GenericError: ")?;
            let b = b.strip_prefix("GenericError: ")?;
            let outer =
                b.strip_prefix("Could not create node: ").or(b.strip_prefix("Could not replace node: "));
            if outer == Some(a) {
                return Some("who asked for the node does not matter");
            }
            let holds = |text| Case { text, step, seen }.holds();
            (holds(a) && holds(b)).then_some("several things are wrong")
        }
        Difference::Done(None, Some(theirs), seen) => {
            let known = [
                ("Cannot change the option 'force-share'", "what stays as it is may be said"),
                ("does not support reopening files", "filters can be reopened"),
            ];
            let copies = "copy-before-write";
            let filter = step.arguments.contains(copies) || seen.lines.iter().any(|l| l.contains(copies));
            if filter && (theirs.contains("Failed to get shared") || theirs.contains("as 'file' child).")) {
                return Some("a filter whose parents ask for nothing is as one without parents");
            }
            known.iter().find(|(text, _)| theirs.contains(text)).map(|(_, why)| *why)
        }
        Difference::Done(Some(ours), None, seen) => {
            let known = [
                ("", "is given twice with different values", "the reference takes whichever comes last"),
                ("", "persistent in", "a bitmap on a read-only node would never be stored"),
                ("", "Cannot change frozen", "a job's source would change under it"),
                ("", "device is in use by block job: stream", "another job's filter would be lost"),
                ("block-commit", "as 'target' child", "nobody else writes what an image is merged into"),
                ("blockdev-mirror", "Failed to get shared", "nobody writes past a job's filter"),
            ];
            let jobs = [("block-export-add", "as 'backing' child).", "nobody writes past a job's filter")];
            let past = "snapshot-access";
            let read = step.arguments.contains(past) || seen.lines.iter().any(|l| l.contains(past));
            if read && ours.contains("'consistent read' are both required") {
                return Some("who reads a past state relies on the filter that keeps it");
            }
            let running = if seen.jobs.is_empty() { &[][..] } else { &jobs[..] };
            let fits = |k: &&(&str, &str, _)| (k.0.is_empty() || is(k.0)) && ours.contains(k.1);
            known.iter().chain(running).find(fits).map(|k| k.2)
        }
        Difference::Done(..) => None,
        Difference::State(ours, theirs) => {
            let overlay = |l: &String| l.starts_with("node ") && l.contains(" qcow2 ");
            if is("blockdev-snapshot-sync") && theirs.is_empty() && ours.iter().all(overlay) {
                return Some("an overlay without users stays until it is deleted");
            }
            let unlike = |a: &String, b: &String, key: &str, how: fn(&str, &str) -> bool| {
                let (a, b) = (a.split(' '), b.split(' '));
                let other: Vec<_> = a.clone().zip(b.clone()).filter(|(a, b)| a != b).collect();
                a.count() == b.count() && other.iter().all(|(a, b)| a.starts_with(key) && how(a, b))
            };
            let all = |key, how| {
                ours.len() == theirs.len() && ours.iter().zip(*theirs).all(|(a, b)| unlike(a, b, key, how))
            };
            if all("backing=", |_, theirs| theirs == "backing=json:") {
                return Some("names of images do not speak of filters");
            }
            let snapshot = is("blockdev-snapshot") || is("blockdev-snapshot-sync");
            if snapshot && all("ro=", |ours, _| ours == "ro=true") {
                return Some("filters can be reopened");
            }
            if is("block_resize") && all("size=", |_, _| true) {
                return Some("who stands above a node has its new size at once");
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
        let arguments = "{'node-name':'a','driver':'raw','file':'b','force-share':true}".into();
        let step = Step { command: "blockdev-add".into(), arguments };
        let seen = Seen { names: vec!["a".into()], jobs: Vec::new(), lines: Vec::new() };
        let texts = |a, b| why(&step, &Difference::Texts(a, b, &seen));
        let a = "GenericError: Duplicate nodes with node-name='a'";
        let b = "GenericError: force-share=on can only be used with read-only images";
        assert!(texts(a, b).is_some());
        assert!(
            texts("GenericError: Duplicate nodes with node-name='c'", b).is_none(),
            "there is no such node"
        );
        assert!(texts(a, "GenericError: Block node is read-only").is_none(), "none is");
        assert!(texts(a, "GenericError: Something else").is_none());
        assert!(texts(a, "DeviceNotFound: Block node is read-only").is_none());
        assert!(why(&step, &Difference::Done(None, Some("GenericError: No"), &seen)).is_none());
        assert!(why(&step, &Difference::Done(None, None, &seen)).is_none());
        let line = ["node n1 qcow2 ro=false".to_owned()];
        assert!(why(&step, &Difference::State(&line, &[])).is_none());
        let step = Step { command: "blockdev-snapshot-sync".into(), ..step };
        assert!(why(&step, &Difference::State(&line, &[])).is_some());
        assert!(why(&step, &Difference::State(&[], &line)).is_none());
    }
}
