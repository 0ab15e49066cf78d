//! Byte locks that tell other programs what a node does with its file.
//!
//! The scheme is shared with other programs: a shared lock on byte `100 + n` says "I use permission number n", one on
//! byte `200 + n` says "I do not share permission n". Nobody ever takes an exclusive lock; whoever wants a permission
//! publishes both sets first, then looks whether another has locked the opposite byte. So of two that come at once,
//! at least one sees the other. The locks are those of the open file description (they vanish with it).

use base::{Errno, IoResult};
use block::perm::{Perm, PermPair};
use qapi::{QError, qerr};
use std::os::fd::BorrowedFd;

use crate::sys;

const HELD: u64 = 100;
const UNSHARED: u64 = 200;

/// Which bytes are, or shall be, locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Locks {
    held: Perm,
    unshared: Perm,
}

impl Locks {
    /// No byte.
    pub(crate) const NONE: Locks = Locks { held: Perm::empty(), unshared: Perm::empty() };

    /// Those that say what `pair` says.
    pub(crate) fn of(pair: PermPair) -> Locks {
        Locks { held: pair.perm, unshared: Perm::all() - pair.shared }
    }

    /// Every byte with what a conflict means: the bit, and whether it is "held".
    fn bytes(self) -> impl Iterator<Item = (u64, Perm, bool)> {
        let bit = |p: Perm| u64::from(p.bits().trailing_zeros());
        let held = self.held.iter().map(move |p| (HELD + bit(p), p, true));
        held.chain(self.unshared.iter().map(move |p| (UNSHARED + bit(p), p, false)))
    }

    fn minus(self, other: Locks) -> Locks {
        Locks { held: self.held - other.held, unshared: self.unshared - other.unshared }
    }

    /// Locks the bytes that `have` does not lock yet, then looks for conflicts with them. On an error, only `have`
    /// remains locked.
    pub(crate) fn acquire(self, fd: BorrowedFd<'_>, have: Locks, filename: &str) -> Result<(), QError> {
        let new = self.minus(have);
        let result = new.lock(fd).map_err(|(byte, e)| match e {
            // Somebody uses exclusive locks, which the scheme does not know.
            Errno::AGAIN | Errno::ACCES => qerr!("Failed to lock byte {byte}"),
            e => qerr!("Failed to lock byte {byte}: {e}"),
        });
        let result = result.and_then(|()| new.test(fd));
        if result.is_err() {
            new.unlock(fd);
        }
        result.map_err(|e| e.with_hint(format!("Is another process using the image [{filename}]?")))
    }

    /// Locks the bytes without looking for conflicts.
    pub(crate) fn lock(self, fd: BorrowedFd<'_>) -> Result<(), (u64, Errno)> {
        self.bytes().try_for_each(|(byte, ..)| sys::lock_byte(fd, byte).map_err(|e| (byte, e)))
    }

    fn test(self, fd: BorrowedFd<'_>) -> Result<(), QError> {
        for (byte, perm, held) in self.bytes() {
            let opposite = if held { byte - HELD + UNSHARED } else { byte - UNSHARED + HELD };
            let shared = if held { "" } else { "shared " };
            let name = perm.names();
            match sys::is_locked(fd, opposite) {
                Ok(false) => {}
                Ok(true) => return Err(qerr!("Failed to get {shared}\"{name}\" lock")),
                Err(e) => return Err(qerr!("Failed to get {shared}\"{name}\" lock: {e}")),
            }
        }
        Ok(())
    }

    /// Unlocks the bytes.
    fn unlock(self, fd: BorrowedFd<'_>) {
        for (byte, ..) in self.bytes() {
            if let Err(e) = sys::unlock_byte(fd, byte) {
                tracing::warn!("could not unlock byte {byte}: {e}");
            }
        }
    }

    /// Unlocks what `self` has and `keep` has not.
    pub(crate) fn trim_to(self, fd: BorrowedFd<'_>, keep: Locks) {
        self.minus(keep).unlock(fd);
    }
}

/// Whether the file system has these locks.
pub(crate) fn supported(fd: BorrowedFd<'_>) -> IoResult<bool> {
    match sys::is_locked(fd, HELD) {
        Ok(_) => Ok(true),
        Err(e) if e.raw() == libc::ENOLCK || e.raw() == libc::ENOSYS => Ok(false),
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e),
    }
}
