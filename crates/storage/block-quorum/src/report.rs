//! What is told of children that fail or dissent.

use api::block_core::{QuorumFailureEvent, QuorumOpType, QuorumReportBadEvent};
use base::Errno;
use monitor::EventBus;

/// Where a request is, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) off: u64,
    pub(crate) len: u64,
}

impl At {
    /// All of the node, or no place in particular.
    pub(crate) const NOWHERE: At = At { off: 0, len: 0 };

    /// The first sector of 512 bytes that is touched, and how many are.
    fn sectors(self) -> (i64, i64) {
        let first = self.off / 512;
        let end = self.off.saturating_add(self.len).div_ceil(512);
        let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        (int(first), int(end - first))
    }
}

/// Tells of requests on one node. The bus keeps the events rare.
pub(crate) struct Reports {
    pub(crate) events: EventBus,
    pub(crate) node: String,
}

impl Reports {
    /// A child failed, or (without `error`) said something else than the others.
    pub(crate) fn bad(&self, r#type: QuorumOpType, child: &str, at: At, error: Option<Errno>) {
        let (sector_num, sectors_count) = at.sectors();
        self.events.emit(QuorumReportBadEvent {
            r#type,
            error: error.map(|e| e.to_string()),
            node_name: child.to_owned(),
            sector_num,
            sectors_count,
        });
    }

    /// Too few agree.
    pub(crate) fn failure(&self, at: At) {
        let (sector_num, sectors_count) = at.sectors();
        self.events.emit(QuorumFailureEvent { reference: self.node.clone(), sector_num, sectors_count });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_are_those_that_are_touched() {
        let sectors = |off, len| At { off, len }.sectors();
        assert_eq!(sectors(0, 4096), (0, 8));
        assert_eq!(sectors(29_999, 3), (58, 1));
        assert_eq!(sectors(511, 2), (0, 2));
        assert_eq!(At::NOWHERE.sectors(), (0, 0));
        assert_eq!(sectors(u64::MAX, 1).0, (u64::MAX / 512) as i64);
    }
}
