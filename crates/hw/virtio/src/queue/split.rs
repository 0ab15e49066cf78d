//! Split virtqueues (section 2.7).

use super::chain::{Builder, Chain, Desc, RawDesc, RingError, Token, table_entries};
use super::{Layout, crosses};
use crate::spec::{MAX_CHAIN, desc, feature, split};
use mem::Dma;
use std::sync::atomic::{Ordering, fence};

/// The device's side of a split ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// The next element of the available ring.
    pub(crate) last_avail: u16,
    /// The next element of the used ring.
    pub(crate) used: u16,
    /// What the driver has been shown of `used`.
    pub(crate) published: u16,
    /// Requests taken and not used yet.
    pub(crate) in_use: u16,
    /// `published` at the last interrupt decision, if there was one.
    pub(crate) signalled: Option<u16>,
}

impl Split {
    pub(crate) fn new() -> Split {
        Split { last_avail: 0, used: 0, published: 0, in_use: 0, signalled: None }
    }

    /// Goes on from this available index; the used index is the one that the driver sees.
    pub(crate) fn start_at(&mut self, l: &Layout, dma: &Dma, avail: u16) -> Result<(), RingError> {
        let used: u16 = dma.load(l.device.wrapping_add(split::IDX))?;
        (self.last_avail, self.used, self.published) = (avail, used, used);
        Ok(())
    }

    fn waiting(&self, l: &Layout, dma: &Dma) -> Result<u16, RingError> {
        let idx: u16 = dma.load(l.driver.wrapping_add(split::IDX))?;
        let n = idx.wrapping_sub(self.last_avail);
        if n > l.size { Err(RingError::AvailIndex) } else { Ok(n) }
    }

    pub(crate) fn has_work(&self, l: &Layout, dma: &Dma) -> Result<bool, RingError> {
        Ok(self.waiting(l, dma)? > 0)
    }

    pub(crate) fn pop(&mut self, l: &Layout, dma: &Dma) -> Result<Option<Chain>, RingError> {
        if self.waiting(l, dma)? == 0 {
            return Ok(None);
        }
        if self.in_use >= l.size {
            return Err(RingError::InUse);
        }
        // What the driver wrote before it moved the index is visible from here on.
        fence(Ordering::Acquire);
        let slot = u64::from(self.last_avail % l.size);
        let head: u16 = dma.load(l.driver.wrapping_add(split::RING + 2 * slot))?;
        let chain = walk(l, dma, head)?;
        self.last_avail = self.last_avail.wrapping_add(1);
        self.in_use += 1;
        Ok(Some(chain))
    }

    pub(crate) fn complete(
        &mut self,
        l: &Layout,
        dma: &Dma,
        token: Token,
        len: u32,
    ) -> Result<(), RingError> {
        let slot = u64::from(self.used % l.size);
        let elem = u64::from(token.id) | u64::from(len) << 32;
        dma.store(l.device.wrapping_add(split::RING + 8 * slot), elem)?;
        self.used = self.used.wrapping_add(1);
        self.in_use = self.in_use.saturating_sub(1);
        Ok(())
    }

    /// Shows the driver what was completed; returns whether it wants an interrupt.
    pub(crate) fn publish(&mut self, l: &Layout, dma: &Dma) -> Result<bool, RingError> {
        if self.published == self.used {
            return Ok(false);
        }
        fence(Ordering::Release);
        dma.store(l.device.wrapping_add(split::IDX), self.used)?;
        self.published = self.used;
        // The driver writes its wish and then looks at the index; we the other way round.
        fence(Ordering::SeqCst);
        if l.features & feature::NOTIFY_ON_EMPTY != 0
            && l.features & feature::VERSION_1 == 0
            && self.in_use == 0
            && self.waiting(l, dma)? == 0
        {
            self.signalled = Some(self.used);
            return Ok(true);
        }
        if l.features & feature::EVENT_IDX == 0 {
            let flags: u16 = dma.load(l.driver.wrapping_add(split::FLAGS))?;
            return Ok(flags & split::AVAIL_F_NO_INTERRUPT == 0);
        }
        let event: u16 = dma.load(l.driver.wrapping_add(split::RING + 2 * u64::from(l.size)))?;
        let old = self.signalled.replace(self.used);
        Ok(old.is_none_or(|old| crosses(event, self.used, old)))
    }

    /// Asks the driver to notify (or not to) when it makes requests available.
    pub(crate) fn want_kicks(&mut self, l: &Layout, dma: &Dma, want: bool) -> Result<(), RingError> {
        if l.features & feature::EVENT_IDX != 0 {
            // Without a wish the old event index stays behind, which asks for nothing.
            if want {
                dma.store(l.device.wrapping_add(split::RING + 8 * u64::from(l.size)), self.last_avail)?;
            }
        } else {
            let flags = if want { 0 } else { split::USED_F_NO_NOTIFY };
            dma.store(l.device.wrapping_add(split::FLAGS), flags)?;
        }
        fence(Ordering::SeqCst);
        Ok(())
    }
}

/// Collects the chain that begins at descriptor `head`.
fn walk(l: &Layout, dma: &Dma, head: u16) -> Result<Chain, RingError> {
    let mut b = Builder::new(dma);
    let (mut table, mut entries) = (l.desc, u64::from(l.size));
    let (mut at, mut indirect) = (u64::from(head), false);
    // The ring's descriptors, and those of one table: more steps than that are a loop.
    for _ in 0..2 * MAX_CHAIN {
        if at >= entries {
            return Err(RingError::DescIndex);
        }
        let d = RawDesc::read(dma, table, at)?;
        let flags = d.w12;
        if flags & desc::F_INDIRECT != 0 {
            if indirect || flags & desc::F_NEXT != 0 || l.features & feature::INDIRECT_DESC == 0 {
                return Err(RingError::Indirect);
            }
            (table, entries, at, indirect) = (d.addr, table_entries(d.len)?, 0, true);
            continue;
        }
        b.add(Desc { addr: d.addr, len: d.len, write: flags & desc::F_WRITE != 0 })?;
        if flags & desc::F_NEXT == 0 {
            return Ok(b.finish(Token { id: head, count: 1 }));
        }
        at = u64::from(d.w14);
    }
    Err(RingError::ChainLength)
}
