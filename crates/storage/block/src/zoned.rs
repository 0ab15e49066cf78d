//! Zoned devices: storage in zones, most of which can be written only one byte after the other.
//!
//! A zone has a write pointer: the next write goes there and nowhere else, until the zone is reset. A write that leaves the
//! place to the device is an *append*. What a node's zones are like is told by its driver ([`Driver::zones`]); everything
//! that concerns all zoned nodes alike (ranges, permissions, dirty bitmaps) stands here. Names and numbers are those of
//! ZBC, ZAC and ZNS, as virtio has them.

use crate::driver::{ChildSlot, Cx, Driver};
use crate::perm::Perm;
use crate::probe::PROBE_BYTES;
use crate::request::MAX_OFFSET;
use base::{Errno, IoResult};
use mem::IoBuf;
use std::sync::Arc;

/// How a zoned device takes writes that are not where a write pointer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneModel {
    /// It would rather not have them.
    HostAware,
    /// They fail.
    HostManaged,
}

/// What is known of a node's zones without asking the device. Sizes are bytes; 0 as a maximum means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneLimits {
    /// How it takes writes.
    pub model: ZoneModel,
    /// The size of every zone but the last, which may be smaller. More than 0.
    pub zone_size: u64,
    /// How many zones there are. More than 0.
    pub zones: u32,
    /// How many can be open at a time.
    pub max_open: u32,
    /// How many can be open or closed at a time.
    pub max_active: u32,
    /// The longest append that the device itself takes.
    pub max_append: u64,
    /// Lengths of appends are multiples of this. At least 1.
    pub write_granularity: u32,
}

/// The kinds of zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneKind {
    /// Written like any other storage; has no write pointer.
    Conventional = 1,
    /// Written at the pointer only.
    SequentialRequired = 2,
    /// Better written at the pointer.
    SequentialPreferred = 3,
}

/// What state a zone is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneCondition {
    /// It has no write pointer.
    NoPointer = 0,
    /// Nothing was written since the last reset.
    Empty = 1,
    /// Open because it was written.
    ImplicitlyOpen = 2,
    /// Open because that was asked for.
    ExplicitlyOpen = 3,
    /// Written in part, and not open.
    Closed = 4,
    /// It cannot be written any more.
    ReadOnly = 13,
    /// Written to its end, or finished.
    Full = 14,
    /// It cannot be read any more either.
    Offline = 15,
}

/// One zone as a device reports it. Places and sizes are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub len: u64,
    /// How much of it, from its beginning, can be written.
    pub capacity: u64,
    /// Where the next write goes.
    pub write_pointer: u64,
    /// Its kind.
    pub kind: ZoneKind,
    /// Its state.
    pub condition: ZoneCondition,
}

/// What can be done to zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneOp {
    /// Keeps them open.
    Open,
    /// They need not be open any more.
    Close,
    /// Makes them full: nothing is written to them before a reset.
    Finish,
    /// Forgets what is in them. Of a whole device also where some zones are conventional: those stay as they are.
    Reset,
}

/// Tells people what a request that fails with `EINVAL` or `EIO` did wrong.
macro_rules! told {
    ($($text:tt)+) => { tracing::error!(target: "report", $($text)+) };
}

impl<'a> Cx<'a> {
    /// What the node's zones are like, where it has any.
    pub fn zones(&self) -> Option<ZoneLimits> {
        let limits = self.node.driver.as_ref()?.zones(self)?;
        (limits.zone_size > 0 && limits.zones > 0).then_some(limits)
    }

    fn zoned(&self) -> IoResult<(&'a Arc<dyn Driver>, ZoneLimits)> {
        Ok((self.driver()?, self.zones().ok_or(Errno::NOTSUP)?))
    }

    /// The zones from the one at `off` on, `most` at most. None behind the last.
    pub(crate) async fn node_zone_report(&self, off: u64, most: u32) -> IoResult<Vec<Zone>> {
        let (driver, limits) = self.zoned()?;
        let left = u64::from(limits.zones).saturating_sub(off / limits.zone_size);
        let most = most.min(u32::try_from(left).unwrap_or(u32::MAX));
        if most == 0 {
            return Ok(Vec::new());
        }
        let mut zones = driver.zone_report(self, off, most).await?;
        zones.truncate(most as usize);
        Ok(zones)
    }

    /// Does something to the zones of a range.
    pub(crate) async fn node_zone_manage(&self, op: ZoneOp, off: u64, len: u64, perm: Perm) -> IoResult<()> {
        let (driver, limits) = self.zoned()?;
        self.may_write(perm, false)?;
        let (size, capacity) = (limits.zone_size, self.len());
        if !off.is_multiple_of(size) {
            told!("sector offset {} is not aligned to zone size {}", off / 512, size / 512);
            return Err(Errno::INVAL);
        }
        let end = off.checked_add(len).filter(|end| *end <= capacity);
        let Some(end) = end.filter(|end| *end == capacity || len.is_multiple_of(size)) else {
            told!("number of sectors {} is not aligned to zone size {}", len / 512, size / 512);
            return Err(Errno::INVAL);
        };
        if off >= capacity {
            return Err(Errno::INVAL);
        }
        // Writes and appends under way there have their zones as they found them.
        let ticket = self.node.live.writing(off, end, true, true).await;
        let ahead = self.record_ahead(off, len).await?;
        let done = driver.zone_manage(self, op, off, len).await;
        // Some zones may have been reset all the same where it failed.
        match op {
            ZoneOp::Reset => self.node.live.dirtied(off, len),
            ZoneOp::Open | ZoneOp::Close | ZoneOp::Finish => self.node.live.wrote(),
        }
        drop((ahead, ticket));
        done
    }

    /// Writes at the pointer of the zone that begins at `off`; answers where that was.
    pub(crate) async fn node_zone_append(&self, off: u64, buf: IoBuf, perm: Perm) -> IoResult<u64> {
        let (driver, limits) = self.zoned()?;
        self.may_write(perm, false)?;
        if !off.is_multiple_of(limits.zone_size) {
            told!("sector offset {} is not aligned to zone size {}", off / 512, limits.zone_size / 512);
            return Err(Errno::INVAL);
        }
        let block = u64::from(limits.write_granularity.max(1));
        let odd = buf.segments().enumerate().find(|(_, s)| !(s.len() as u64).is_multiple_of(block));
        if let Some((i, s)) = odd {
            told!("len of IOVector[{i}] {} is not aligned to block size {block}", s.len());
            return Err(Errno::INVAL);
        }
        if off >= self.len() {
            return Err(Errno::IO);
        }
        let end = off.saturating_add(limits.zone_size).min(self.len());
        let guarded = self.node.guessed.is_some() && off < PROBE_BYTES as u64;
        // One after the other: a place behind all bytes stands for whose turn it is, so that reading needs no turn.
        let turn = match guarded {
            true => Some(self.node.live.track(MAX_OFFSET + 1, MAX_OFFSET + 2, true).await),
            false => None,
        };
        let ticket = self.node.live.writing(off, end, false, true).await;
        if guarded {
            let zones = driver.zone_report(self, off, 1).await?;
            self.guard_first_bytes(zones.first().map_or(off, |z| z.write_pointer), &buf).await?;
        }
        let ahead = self.record_ahead(off, end - off).await?;
        let len = buf.len() as u64;
        let buf = match buf.is_aligned(u64::from(self.limits().buffer_alignment)) {
            true => buf,
            // It cannot be done in pieces: others' bytes could come between them.
            false => {
                let bounce = IoBuf::zeroed(buf.len());
                bounce.copy_from_buf(&buf);
                bounce
            }
        };
        let done = driver.zone_append(self, off, buf).await;
        match done {
            Ok(at) => {
                self.node.live.will_end_at(at + len);
                self.node.live.dirtied(at, len);
                self.node.live.reached(at + len);
            }
            // A failed one may have written something, somewhere in the zone.
            Err(_) => self.node.live.dirtied(off, end - off),
        }
        drop((ahead, ticket, turn));
        done
    }

    /// The zones of a child: what [`Driver::zone_report`] answers.
    pub async fn child_zone_report(&self, slot: ChildSlot, off: u64, most: u32) -> IoResult<Vec<Zone>> {
        let child = self.child(slot)?;
        Box::pin(async move { child.node_zone_report(off, most).await }).await
    }

    /// Does something to zones of a child. `EPERM` where the link lacks the permission.
    pub async fn child_zone_manage(&self, slot: ChildSlot, op: ZoneOp, off: u64, len: u64) -> IoResult<()> {
        let (child, perm) = (self.child(slot)?, self.edge(slot)?.pair.perm);
        Box::pin(async move { child.node_zone_manage(op, off, len, perm).await }).await
    }

    /// Writes at the pointer of a zone of a child; answers where that was.
    pub async fn child_zone_append(&self, slot: ChildSlot, off: u64, buf: IoBuf) -> IoResult<u64> {
        let (child, perm) = (self.child(slot)?, self.edge(slot)?.pair.perm);
        Box::pin(async move { child.node_zone_append(off, buf, perm).await }).await
    }
}
