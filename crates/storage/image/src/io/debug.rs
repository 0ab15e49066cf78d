//! Commands that have requests stop at a node of the driver `blkdebug`.

use super::session::{Done, Session};
use super::table::Words;
use api::block_core::BlkdebugEvent;
use base::Errno;
use block_test::Breakpoints;
use qapi::QapiEnum;
use std::sync::Arc;

/// The breakpoints of the first such node below the image's own.
fn breakpoints(s: &Session) -> Result<Arc<Breakpoints>, Errno> {
    let image = s.image.as_ref().ok_or(Errno::NOMEDIUM)?;
    let snapshot = image.graph.snapshot();
    let mut node = snapshot.by_name(&image.node);
    while let Some(n) = node {
        if n.ty.name == "blkdebug" {
            return Breakpoints::of(&n.name).ok_or(Errno::NOTSUP);
        }
        node = n.primary().and_then(|e| snapshot.node(e.child));
    }
    Err(Errno::NOTSUP)
}

/// Lets everything go that is held: the image is to be closed.
pub(super) fn release(s: &Session) {
    if let Ok(b) = breakpoints(s) {
        b.tags().iter().for_each(|tag| b.resume(tag));
    }
}

/// Prints what happened at breakpoints.
pub(super) fn tell(s: &Session) {
    if let Ok(b) = breakpoints(s) {
        b.told().iter().for_each(|line| s.text.line(line));
    }
}

pub(super) async fn set(s: &mut Session, w: Words<'_>) -> Done {
    let done = breakpoints(s).and_then(|b| {
        let event = BlkdebugEvent::from_str(&w.words[0]).ok_or(Errno::NOENT)?;
        b.set_once(event, &w.words[1]);
        Ok(())
    });
    match done {
        Ok(()) => Done::Well,
        Err(e) => s.fail(&format!("Could not set breakpoint: {e}")),
    }
}

pub(super) async fn remove(s: &mut Session, w: Words<'_>) -> Done {
    let tag = &w.words[0];
    let done = breakpoints(s).and_then(|b| if b.remove(tag) { Ok(()) } else { Err(Errno::NOENT) });
    tell(s);
    match done {
        Ok(()) => Done::Well,
        Err(e) => s.fail(&format!("Could not remove breakpoint {tag}: {e}")),
    }
}

pub(super) async fn resume(s: &mut Session, w: Words<'_>) -> Done {
    match breakpoints(s).and_then(|b| if b.resume_one(&w.words[0]) { Ok(()) } else { Err(Errno::NOENT) }) {
        Ok(()) => Done::Well,
        Err(e) => s.fail(&format!("Could not resume request: {e}")),
    }
}

pub(super) async fn wait(s: &mut Session, w: Words<'_>) -> Done {
    let tag = &w.words[0];
    // Where nothing can stop, the reference waits for ever.
    match breakpoints(s).and_then(|b| if b.has(tag) { Ok(b) } else { Err(Errno::NOENT) }) {
        Ok(b) => {
            b.held(tag, 1).await;
            Done::Well
        }
        Err(e) => s.fail(&format!("Could not wait for breakpoint {tag}: {e}")),
    }
}
