//! The machine's memory, as its program shares it.

use crate::message::Region;
use base::{Errno, IoResult};
use mem::{AddressSpace, Dma, Memory, RegionId};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Most regions at a time.
pub const MAX_SLOTS: usize = 64;

struct Slot {
    region: Region,
    id: RegionId,
}

/// The regions that are shared now.
pub struct Table {
    space: Arc<AddressSpace>,
    slots: Vec<Slot>,
}

impl Default for Table {
    fn default() -> Self {
        Table { space: AddressSpace::new("vhost-user"), slots: Vec::new() }
    }
}

fn map(region: &Region, fd: &OwnedFd) -> IoResult<Arc<Memory>> {
    let fits = |base: u64| base.checked_add(region.size).is_some();
    if !fits(region.guest) || !fits(region.user) {
        return Err(Errno::INVAL);
    }
    Memory::shared("vhost-user", fd.as_fd(), region.offset, region.size)
}

impl Table {
    /// What a device reaches: always what is shared at the time.
    pub fn dma(&self) -> Dma {
        Dma::new(self.space.clone())
    }

    fn put(&mut self, region: Region, memory: Arc<Memory>) -> IoResult<()> {
        let id = self
            .space
            .map_ram(region.guest, memory, 0, region.size, false, 0, "ram")
            .map_err(|_| Errno::INVAL)?;
        self.slots.push(Slot { region, id });
        Ok(())
    }

    /// Shares these regions, and no others any more. Each has its descriptor.
    ///
    /// # Errors
    /// A region cannot be mapped; then all is as it was.
    pub fn replace(&mut self, list: &[Region], fds: &[OwnedFd]) -> IoResult<()> {
        if list.len() != fds.len() {
            return Err(Errno::INVAL);
        }
        let mapped = list.iter().zip(fds).map(|(r, fd)| Ok((*r, map(r, fd)?)));
        let mapped = mapped.collect::<IoResult<Vec<_>>>()?;
        let space = self.space.clone();
        let old = std::mem::take(&mut self.slots);
        // A device sees the old regions or the new ones, never none.
        space.update(|s| {
            old.iter().for_each(|o| s.unmap(o.id));
            mapped.into_iter().try_for_each(|(r, m)| self.put(r, m))
        })
    }

    /// Shares one region more.
    ///
    /// # Errors
    /// It cannot be mapped, or there are too many.
    pub fn add(&mut self, region: Region, fd: &OwnedFd) -> IoResult<()> {
        if self.slots.len() >= MAX_SLOTS {
            return Err(Errno::NOSPC);
        }
        let memory = map(&region, fd)?;
        self.put(region, memory)
    }

    /// Shares a region no longer.
    ///
    /// # Errors
    /// `ENOENT` where there is no such region.
    pub fn remove(&mut self, region: &Region) -> IoResult<()> {
        let same = |s: &Slot| {
            (s.region.guest, s.region.user, s.region.size) == (region.guest, region.user, region.size)
        };
        let i = self.slots.iter().position(same).ok_or(Errno::NOENT)?;
        let slot = self.slots.remove(i);
        self.space.unmap(slot.id);
        Ok(())
    }

    /// The machine's address for one of the front end's.
    pub fn translate(&self, user: u64) -> Option<u64> {
        let inside = |s: &&Slot| user.checked_sub(s.region.user).is_some_and(|off| off < s.region.size);
        let slot = self.slots.iter().find(inside)?;
        Some(slot.region.guest + (user - slot.region.user))
    }
}
