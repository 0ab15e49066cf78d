//! Commands for zoned devices. No node is one yet: they check their arguments, and fail as on any other.

use super::session::{Done, Session};
use super::table::Words;
use base::Errno;

/// Reads the numbers and tells that it cannot be done.
fn refuse(s: &Session, w: &Words<'_>, what: &str) -> Done {
    // The option of an append.
    for word in w.words.iter().filter(|w| *w != "-p") {
        if let Err(failed) = s.size(word) {
            return failed;
        }
    }
    let medium = s.image.as_ref().is_some_and(|i| i.root.has_medium());
    s.fail(&format!("zone {what} failed: {}", if medium { Errno::NOTSUP } else { Errno::NOMEDIUM }))
}

pub(super) async fn report(s: &mut Session, w: Words<'_>) -> Done {
    refuse(s, &w, "report")
}

pub(super) async fn open(s: &mut Session, w: Words<'_>) -> Done {
    refuse(s, &w, "open")
}

pub(super) async fn close(s: &mut Session, w: Words<'_>) -> Done {
    refuse(s, &w, "close")
}

pub(super) async fn finish(s: &mut Session, w: Words<'_>) -> Done {
    refuse(s, &w, "finish")
}

pub(super) async fn reset(s: &mut Session, w: Words<'_>) -> Done {
    refuse(s, &w, "reset")
}

pub(super) async fn append(s: &mut Session, w: Words<'_>) -> Done {
    refuse(s, &w, "append")
}
