//! Limits of a block device: requests and bytes a second, maybe shared by a group of devices.
//!
//! A group is an object `throttle-group`, or one without an object, which lives as long as a device is in it.

use crate::control::BlockGraph;
use crate::gate::Gate;
use crate::graph::RootDef;
use crate::media::device;
use api::block_core::{BlockDeviceInfo, BlockSetIoThrottle};
use api::qom::ThrottleLimits;
use monitor::CommandTable;
use qapi::{QError, qerr};
use qom::{Direction, Object, ThrottleGroup, ThrottleMember};
use std::sync::{Arc, Weak};

/// A device's place in a group.
pub(crate) struct Brake {
    group: Arc<ThrottleGroup>,
    name: String,
    member: ThrottleMember,
    /// Keeps the object, where the group has one, from being deleted.
    _object: Option<Arc<dyn Object>>,
}

impl std::fmt::Debug for Brake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Brake").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Brake {
    /// Waits until a request of so many bytes may go on.
    pub(crate) async fn admit(&self, reads: bool, bytes: u64) {
        let dir = if reads { Direction::Read } else { Direction::Write };
        self.member.admit(dir, bytes).await;
    }

    /// How many reasons there are to let requests pass.
    pub(crate) fn set_exempt(&self, reasons: usize) {
        self.member.set_exempt(reasons);
    }

    /// Fills in what a query shows of the limits.
    pub(crate) fn tell(&self, info: &mut BlockDeviceInfo) {
        let l = self.group.limits();
        let some = |v: Option<i64>| v.filter(|v| *v != 0);
        let avg = |v: Option<i64>| v.unwrap_or(0);
        (info.bps, info.bps_rd, info.bps_wr) = (avg(l.bps_total), avg(l.bps_read), avg(l.bps_write));
        (info.iops, info.iops_rd, info.iops_wr) = (avg(l.iops_total), avg(l.iops_read), avg(l.iops_write));
        info.bps_max = some(l.bps_total_max);
        info.bps_rd_max = some(l.bps_read_max);
        info.bps_wr_max = some(l.bps_write_max);
        info.iops_max = some(l.iops_total_max);
        info.iops_rd_max = some(l.iops_read_max);
        info.iops_wr_max = some(l.iops_write_max);
        info.bps_max_length = info.bps_max.and(l.bps_total_max_length);
        info.bps_rd_max_length = info.bps_rd_max.and(l.bps_read_max_length);
        info.bps_wr_max_length = info.bps_wr_max.and(l.bps_write_max_length);
        info.iops_max_length = info.iops_max.and(l.iops_total_max_length);
        info.iops_rd_max_length = info.iops_rd_max.and(l.iops_read_max_length);
        info.iops_wr_max_length = info.iops_wr_max.and(l.iops_write_max_length);
        info.iops_size = some(l.iops_size);
        info.group = Some(self.name.clone());
    }
}

/// Whether anything is limited.
pub(crate) fn limits_anything(l: &ThrottleLimits) -> bool {
    let rates = [l.bps_total, l.bps_read, l.bps_write, l.iops_total, l.iops_read, l.iops_write];
    rates.iter().any(|r| r.is_some_and(|v| v != 0))
}

impl BlockGraph {
    /// The group of this name; a new one where there is none.
    fn throttle_group(&self, name: &str) -> (Arc<ThrottleGroup>, Option<Arc<dyn Object>>) {
        let object = self.objects().and_then(|o| o.get(name));
        if let Some(group) = object.as_ref().and_then(|o| o.throttle_group()) {
            return (group, object);
        }
        let mut groups = self.groups.lock();
        groups.retain(|_, g| g.strong_count() > 0);
        if let Some(group) = groups.get(name).and_then(Weak::upgrade) {
            return (group, None);
        }
        let group = Arc::<ThrottleGroup>::default();
        groups.insert(name.to_owned(), Arc::downgrade(&group));
        (group, None)
    }

    /// Has the requests that pass a gate keep within limits, in the group of this name or the one that they are in;
    /// limits of nothing take the device out of its group.
    pub(crate) fn limit(
        &self,
        gate: &Gate,
        group: Option<&str>,
        device: &str,
        limits: &ThrottleLimits,
    ) -> Result<(), QError> {
        ThrottleGroup::check(limits)?;
        if !limits_anything(limits) {
            gate.set_brake(None);
            return Ok(());
        }
        let now = gate.brake();
        let (brake, new) = match (now, group) {
            (Some(b), None) => (b, false),
            (Some(b), Some(name)) if b.name == name => (b, false),
            (_, name) => {
                let name = name.unwrap_or(device);
                let (group, object) = self.throttle_group(name);
                let member = group.join();
                (Arc::new(Brake { group, name: name.to_owned(), member, _object: object }), true)
            }
        };
        brake.group.replace_limits(limits)?;
        if new {
            gate.set_brake(Some(brake));
        }
        Ok(())
    }

    fn set_io_throttle(&self, c: BlockSetIoThrottle) -> Result<(), QError> {
        let (root, _) = device(self, c.device.as_deref(), c.id.as_deref())?;
        if root.node.is_none() {
            return Err(qerr!("Device has no medium"));
        }
        let limits = ThrottleLimits {
            bps_total: Some(c.bps),
            bps_total_max: c.bps_max,
            bps_total_max_length: c.bps_max_length,
            bps_read: Some(c.bps_rd),
            bps_read_max: c.bps_rd_max,
            bps_read_max_length: c.bps_rd_max_length,
            bps_write: Some(c.bps_wr),
            bps_write_max: c.bps_wr_max,
            bps_write_max_length: c.bps_wr_max_length,
            iops_total: Some(c.iops),
            iops_total_max: c.iops_max,
            iops_total_max_length: c.iops_max_length,
            iops_read: Some(c.iops_rd),
            iops_read_max: c.iops_rd_max,
            iops_read_max_length: c.iops_rd_max_length,
            iops_write: Some(c.iops_wr),
            iops_write_max: c.iops_wr_max,
            iops_write_max_length: c.iops_wr_max_length,
            iops_size: c.iops_size,
        };
        let own = c.device.or(c.id).unwrap_or_default();
        self.limit(&root.gate, c.group.as_deref(), &own, &limits)
    }
}

/// What a query shows of a root's limits.
pub(crate) fn tell(root: &RootDef, info: &mut BlockDeviceInfo) {
    if let Some(brake) = root.gate.brake() {
        brake.tell(info);
    }
}

/// Registers the command.
pub(crate) fn register(table: &mut CommandTable, graph: &Arc<BlockGraph>) {
    let g = graph.clone();
    table.register(move |c: BlockSetIoThrottle| {
        let done = g.set_io_throttle(c);
        async move { done }
    });
}
