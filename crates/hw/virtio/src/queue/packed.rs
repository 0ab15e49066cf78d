//! Packed virtqueues (section 2.8).

use super::Layout;
use super::chain::{Builder, Chain, Desc, RawDesc, RingError, Token, table_entries};
use crate::spec::{desc, event, feature};
use mem::Dma;
use std::sync::atomic::{Ordering, fence};

/// A place on the ring: the slot, and the wrap counter there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slot: u16,
    pub(crate) wrap: bool,
}

impl Place {
    fn advance(&mut self, by: u16, size: u16) {
        // A ring has at most 1024 slots, so this never overflows.
        self.slot += by;
        if self.slot >= size {
            self.slot -= size;
            self.wrap = !self.wrap;
        }
    }
}

/// The device's side of a packed ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Where the next request begins.
    pub(crate) avail: Place,
    /// Where the next used descriptor goes.
    pub(crate) used: Place,
    /// Slots of requests taken and not used yet.
    pub(crate) in_use: u16,
    /// Slots used since the last interrupt decision (at most `u16::MAX`).
    pub(crate) since: u16,
}

impl Packed {
    pub(crate) fn new() -> Packed {
        let start = Place { slot: 0, wrap: true };
        Packed { avail: start, used: start, in_use: 0, since: 0 }
    }

    pub(crate) fn has_work(&self, l: &Layout, dma: &Dma) -> Result<bool, RingError> {
        let at = l.desc.wrapping_add(u64::from(self.avail.slot) * desc::SIZE + 14);
        let flags: u16 = dma.load(at)?;
        // Available: its AVAIL bit is the wrap counter, its USED bit is not.
        let (a, u) = (flags & desc::F_AVAIL != 0, flags & desc::F_USED != 0);
        Ok(a == self.avail.wrap && u != self.avail.wrap)
    }

    pub(crate) fn pop(&mut self, l: &Layout, dma: &Dma) -> Result<Option<Chain>, RingError> {
        if !self.has_work(l, dma)? {
            return Ok(None);
        }
        if self.in_use >= l.size {
            return Err(RingError::InUse);
        }
        // The rest of a descriptor, and the descriptors behind it, were written before the first one's flags.
        fence(Ordering::Acquire);
        let mut b = Builder::new(dma);
        let mut at = self.avail;
        let mut count = 0u16;
        let id = loop {
            if count == l.size - self.in_use {
                return Err(RingError::ChainLength);
            }
            let d = RawDesc::read(dma, l.desc, u64::from(at.slot))?;
            let flags = d.w14;
            at.advance(1, l.size);
            count += 1;
            if flags & desc::F_INDIRECT != 0 {
                // A table stands alone (2.8.7): not in a chain of others, and with none behind it.
                if count > 1 || flags & desc::F_NEXT != 0 || l.features & feature::INDIRECT_DESC == 0 {
                    return Err(RingError::Indirect);
                }
                for i in 0..table_entries(d.len)? {
                    let t = RawDesc::read(dma, d.addr, i)?;
                    b.add(Desc { addr: t.addr, len: t.len, write: t.w14 & desc::F_WRITE != 0 })?;
                }
            } else {
                b.add(Desc { addr: d.addr, len: d.len, write: flags & desc::F_WRITE != 0 })?;
            }
            if flags & desc::F_NEXT == 0 {
                break d.w12;
            }
        };
        self.avail = at;
        self.in_use += count;
        Ok(Some(b.finish(Token { id, count })))
    }

    pub(crate) fn complete(
        &mut self,
        l: &Layout,
        dma: &Dma,
        token: Token,
        len: u32,
    ) -> Result<(), RingError> {
        let at = l.desc.wrapping_add(u64::from(self.used.slot) * desc::SIZE);
        dma.store(at.wrapping_add(8), len)?;
        dma.store(at.wrapping_add(12), token.id)?;
        let mut flags = if self.used.wrap { desc::F_AVAIL | desc::F_USED } else { 0 };
        if len > 0 {
            flags |= desc::F_WRITE;
        }
        // The flags hand the descriptor over, so they come last.
        fence(Ordering::Release);
        dma.store(at.wrapping_add(14), flags)?;
        self.used.advance(token.count, l.size);
        self.in_use = self.in_use.saturating_sub(token.count);
        self.since = self.since.saturating_add(token.count);
        Ok(())
    }

    /// Returns whether the driver wants an interrupt for what was used since the last time.
    pub(crate) fn publish(&mut self, l: &Layout, dma: &Dma) -> Result<bool, RingError> {
        let since = std::mem::take(&mut self.since);
        if since == 0 {
            return Ok(false);
        }
        fence(Ordering::SeqCst);
        let flags: u16 = dma.load(l.driver.wrapping_add(2))?;
        match flags & 3 {
            event::FLAGS_DISABLE => Ok(false),
            event::FLAGS_DESC if l.features & feature::EVENT_IDX != 0 => {
                fence(Ordering::Acquire);
                let off_wrap: u16 = dma.load(l.driver)?;
                let event = Place { slot: off_wrap & 0x7fff, wrap: off_wrap >> 15 != 0 };
                // Slots used: those before `used`, going back `since` on a circle of two laps, one for each value
                // of the wrap counter. (Slots alone could not tell a whole lap from none.)
                let laps = 2 * u32::from(l.size);
                let at = |p: Place| u32::from(p.slot) + if p.wrap { 0 } else { u32::from(l.size) };
                let back = (at(self.used) + laps - at(event) % laps) % laps;
                let back = if back == 0 { laps } else { back };
                Ok(back <= u32::from(since))
            }
            _ => Ok(true),
        }
    }

    /// Asks the driver to notify (or not to) when it makes requests available.
    pub(crate) fn want_kicks(&mut self, l: &Layout, dma: &Dma, want: bool) -> Result<(), RingError> {
        let flags = if !want {
            event::FLAGS_DISABLE
        } else if l.features & feature::EVENT_IDX != 0 {
            dma.store(l.device, self.avail.slot | u16::from(self.avail.wrap) << 15)?;
            fence(Ordering::Release);
            event::FLAGS_DESC
        } else {
            event::FLAGS_ENABLE
        };
        dma.store(l.device.wrapping_add(2), flags)?;
        fence(Ordering::SeqCst);
        Ok(())
    }
}
