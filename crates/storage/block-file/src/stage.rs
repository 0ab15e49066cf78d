//! Changes of a node that has its file open: a reopen, or parents that come and go.
//!
//! Everything that can fail happens while the change is staged: locks are taken in addition to those that are held,
//! and looked at; a descriptor in the new mode is opened beside the old one. Committing is then an exchange, and
//! giving up is a matter of letting go.

use block::driver::{NodeFlags, Staged};
use block::perm::PermPair;
use qapi::{QError, qerr};
use std::sync::Arc;

use crate::driver::{Inner, wanted_mode};
use crate::lock::Locks;
use crate::open::Open;

/// A staged change.
pub(crate) struct Change {
    inner: Arc<Inner>,
    /// The descriptor to come, if the present one does not do.
    open: Option<Arc<Open>>,
    old: Locks,
    new: Locks,
    done: bool,
}

/// Stages what a node with these flags and permissions needs. Blocks.
pub(crate) fn prepare(
    inner: Arc<Inner>,
    flags: NodeFlags,
    perm: PermPair,
    writes: bool,
) -> Result<Change, QError> {
    inner.config.check_flags(flags)?;
    let new = if !inner.locking || flags.inactive { Locks::NONE } else { Locks::of(perm) };
    let current = inner.current();
    let old = *inner.locks.lock();
    new.acquire(current.file.fd(), old, &inner.config.filename)?;
    // From here on, a drop gives the new locks back.
    let mut change = Change { inner: inner.clone(), open: None, old, new, done: false };
    let mode = wanted_mode(flags, writes);
    if mode != current.mode {
        let open = Open::new(&inner.config.filename, inner.config.want, mode, inner.config.aio)?;
        same_file(&current, &open, &inner.config.filename)?;
        // No look for conflicts: the present descriptor's locks would be one, and they guard until the exchange.
        new.lock(open.file.fd()).map_err(|(byte, e)| qerr!("Failed to lock byte {byte}: {e}"))?;
        change.open = Some(Arc::new(open));
    }
    Ok(change)
}

/// Another file under the old name would be another disk, silently.
fn same_file(old: &Open, new: &Open, name: &str) -> Result<(), QError> {
    let id = |o: &Open| rustix::fs::fstat(o.file.fd()).map(|s| (s.st_dev, s.st_ino, s.st_rdev)).ok();
    if id(old) == id(new) {
        return Ok(());
    }
    Err(qerr!("Could not open '{name}': another file has taken its place"))
}

impl Staged for Change {
    fn commit(mut self: Box<Self>) {
        self.done = true;
        let inner = &self.inner;
        match self.open.take() {
            // The old descriptor goes when the last request on it has ended; its locks go now, or the next change
            // would take them for a stranger's.
            Some(open) => {
                let old = std::mem::replace(&mut *inner.open.write(), open);
                self.old.trim_to(old.file.fd(), Locks::NONE);
                self.new.trim_to(old.file.fd(), Locks::NONE);
            }
            None => self.old.trim_to(inner.current().file.fd(), self.new),
        }
        *inner.locks.lock() = self.new;
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if !self.done {
            self.new.trim_to(self.inner.current().file.fd(), self.old);
        }
    }
}
