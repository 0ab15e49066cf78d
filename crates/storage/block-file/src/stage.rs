//! Changes of a node that has its file open: a reopen, or parents that come and go.
//!
//! Everything that can fail happens while the change is staged: locks are taken in addition to those that are held,
//! and looked at; a descriptor in the new mode is opened beside the old one. Committing is then an exchange, and
//! giving up is a matter of letting go.

use block::driver::{NodeFlags, Staged};
use block::perm::{Perm, PermPair};
use qapi::{QError, qerr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::driver::{Inner, wanted_mode};
use crate::lock::Locks;
use crate::open::{self, Open};
use crate::zoned::{self, Pointers};

/// A staged change.
pub(crate) struct Change {
    inner: Arc<Inner>,
    /// The descriptor to come, if the present one does not do.
    open: Option<Arc<Open>>,
    old: Locks,
    new: Locks,
    /// The file's length as it was known, and as it is; to be taken over: another program may have changed it while
    /// nobody here wrote.
    bytes: Option<(u64, u64)>,
    /// Where the zones of a zoned device are written next, likewise.
    pointers: Option<(Pointers, Pointers)>,
    done: bool,
}

/// What the node is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) flags: NodeFlags,
    pub(crate) perm: PermPair,
    /// Whether some parent will write.
    pub(crate) writes: bool,
    /// A reopen: the node is drained, and what is known of the file may be looked up anew.
    pub(crate) reopen: bool,
}

/// Stages what a node needs to become `target`. Blocks.
pub(crate) fn prepare(inner: Arc<Inner>, target: Target) -> Result<Change, QError> {
    let Target { flags, mut perm, writes, reopen } = target;
    inner.config.check_flags(flags)?;
    if flags.force_share {
        perm.shared = Perm::all();
    }
    let new = if !inner.locking || flags.inactive { Locks::NONE } else { Locks::of(perm) };
    let current = inner.current();
    let old = *inner.locks.lock();
    new.acquire(current.file.fd(), old, &inner.config.filename)?;
    // From here on, a drop gives the new locks back.
    let mut change =
        Change { inner: inner.clone(), open: None, old, new, bytes: None, pointers: None, done: false };
    let mode = wanted_mode(flags, writes);
    zoned::check(inner.zoned.as_ref(), mode)?;
    if mode != current.mode {
        let open = Open::new(&inner.config.filename, inner.config.want, mode, inner.config.aio)?;
        same_file(&current, &open, &inner.config.filename)?;
        // No look for conflicts: the present descriptor's locks would be one, and they guard until the exchange.
        new.lock(open.file.fd()).map_err(|(byte, e)| qerr!("Failed to lock byte {byte}: {e}"))?;
        change.open = Some(Arc::new(open));
    }
    if reopen {
        let fd = change.open.as_ref().unwrap_or(&current).file.fd();
        let refresh = |e| qerr!("Could not refresh total sector count: {e}");
        let known = inner.bytes.load(Ordering::Acquire);
        change.bytes = Some((known, open::length(fd).map_err(refresh)?));
    }
    if let Some(zoned) = inner.zoned.as_ref().filter(|_| reopen || (mode.write && !current.mode.write)) {
        let fd = change.open.as_ref().unwrap_or(&current).file.fd();
        let known = zoned.known();
        let found = zoned.look(fd).map_err(|e| qerr!("report wps failed: {e}"))?;
        change.pointers = Some((known, found));
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
        // Parents that were staged after this node may have written to it, and made it longer.
        if let Some((known, found)) = self.bytes
            && inner.bytes.load(Ordering::Acquire) == known
        {
            inner.set_bytes(found);
        }
        if let Some((zoned, (known, found))) = inner.zoned.as_ref().zip(self.pointers.take()) {
            zoned.take_over(&known, found);
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if !self.done {
            self.new.trim_to(self.inner.current().file.fd(), self.old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Config, FileDriver};
    use crate::open::Want;
    use api::block_core::BlockdevOptionsFile;
    use std::os::fd::AsFd;

    /// The kernel may keep the open file for longer than the descriptor is there.
    #[test]
    fn a_node_that_goes_leaves_no_locks() {
        let path = std::env::temp_dir().join(format!("rhea-locks-{}", std::process::id()));
        std::fs::write(&path, [0; 512]).unwrap();
        let filename = path.to_str().unwrap().to_owned();
        let flags = NodeFlags::default();
        let options = BlockdevOptionsFile { filename, ..BlockdevOptionsFile::default() };
        let driver = FileDriver::open(Config::new(Want::File, &options, flags).unwrap(), flags).unwrap();
        let perm = PermPair { perm: Perm::WRITE, shared: Perm::empty() };
        let target = Target { flags, perm, writes: true, reopen: false };
        Box::new(prepare(driver.0.clone(), target).unwrap()).commit();
        let kept = driver.0.current().file.fd().try_clone_to_owned().unwrap();

        let other = std::fs::File::open(&path).unwrap();
        let locked = |fd: &std::fs::File| Locks::of(perm).acquire(fd.as_fd(), Locks::NONE, "").is_err();
        assert!(locked(&other));
        drop(driver);
        assert!(!locked(&other));
        drop((kept, other));
        std::fs::remove_file(path).unwrap();
    }
}
