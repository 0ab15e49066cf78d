//! What devices have done so far.
//!
//! A device's root counts its requests, in atomic counters of its own: no lock, and nothing at all for those who are not
//! devices (exports, jobs). What a node needs to know of itself is one more counter, of how far it was written.

use api::block_core::{BlockDeviceStats, BlockLatencyHistogramInfo};
use parking_lot::Mutex;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A kind of request that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read.
    Read,
    /// A write, of zeroes too.
    Write,
    /// A flush.
    Flush,
    /// A discard.
    Unmap,
    /// An append to a zone.
    Append,
}

#[derive(Debug, Default)]
struct Counter {
    bytes: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    invalid: AtomicU64,
    nanoseconds: AtomicU64,
    /// Whether there is a histogram: spares the lock where there is none.
    binned: AtomicBool,
    histogram: Mutex<Option<Histogram>>,
}

/// What a device has done.
#[derive(Debug, Default)]
pub struct Stats {
    counters: [Counter; 5],
    /// When it last did something, in nanoseconds as [`now`] counts; 0 for never.
    last: AtomicU64,
}

/// Latencies in bins.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    boundaries: Vec<u64>,
    bins: Vec<u64>,
}

impl Histogram {
    /// One with these boundaries, in nanoseconds; `None` where they are not ascending from above 0.
    pub fn new(boundaries: &[u64]) -> Option<Histogram> {
        let ascending = boundaries.windows(2).all(|w| w[0] < w[1]) && boundaries.first() != Some(&0);
        ascending.then(|| Histogram { boundaries: boundaries.to_vec(), bins: vec![0; boundaries.len() + 1] })
    }

    fn count(&mut self, nanoseconds: u64) {
        // A boundary belongs to the bin that begins there.
        let at = self.boundaries.partition_point(|b| *b <= nanoseconds);
        self.bins[at] += 1;
    }

    fn info(&self) -> BlockLatencyHistogramInfo {
        BlockLatencyHistogramInfo { boundaries: self.boundaries.clone(), bins: self.bins.clone() }
    }
}

/// Nanoseconds since the first call, and at least 1.
fn now() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
}

impl Stats {
    /// The time, for [`Stats::done`].
    pub(crate) fn begin() -> u64 {
        now()
    }

    fn counter(&self, access: Access) -> &Counter {
        &self.counters[access as usize]
    }

    /// A request that began at `begun` has ended.
    pub(crate) fn done(&self, access: Access, bytes: u64, begun: u64, ok: bool) {
        let (c, now) = (self.counter(access), now());
        if ok {
            c.done.fetch_add(1, Relaxed);
            c.bytes.fetch_add(bytes, Relaxed);
        } else {
            c.failed.fetch_add(1, Relaxed);
        }
        let took = now.saturating_sub(begun);
        c.nanoseconds.fetch_add(took, Relaxed);
        self.last.fetch_max(now, Relaxed);
        if c.binned.load(Relaxed)
            && let Some(h) = &mut *c.histogram.lock()
        {
            h.count(took);
        }
    }

    /// A request was refused because it made no sense.
    pub fn invalid(&self, access: Access) {
        self.counter(access).invalid.fetch_add(1, Relaxed);
        self.last.fetch_max(now(), Relaxed);
    }

    /// Counts latencies of a kind of request from now on, or not any more.
    pub(crate) fn set_histogram(&self, access: Access, histogram: Option<Histogram>) {
        let c = self.counter(access);
        let mut place = c.histogram.lock();
        c.binned.store(histogram.is_some(), Relaxed);
        *place = histogram;
    }

    /// The figures as they are told. Those of a request may be some of them new and some old.
    pub fn info(&self) -> BlockDeviceStats {
        let int = |v: &AtomicU64| i64::try_from(v.load(Relaxed)).unwrap_or(i64::MAX);
        let [rd, wr, flush, unmap, append] = &self.counters;
        let histogram = |c: &Counter| c.histogram.lock().as_ref().map(Histogram::info);
        let last = self.last.load(Relaxed);
        BlockDeviceStats {
            rd_bytes: int(&rd.bytes),
            wr_bytes: int(&wr.bytes),
            unmap_bytes: int(&unmap.bytes),
            zone_append_bytes: int(&append.bytes),
            rd_operations: int(&rd.done),
            wr_operations: int(&wr.done),
            flush_operations: int(&flush.done),
            unmap_operations: int(&unmap.done),
            zone_append_operations: int(&append.done),
            rd_total_time_ns: int(&rd.nanoseconds),
            wr_total_time_ns: int(&wr.nanoseconds),
            flush_total_time_ns: int(&flush.nanoseconds),
            unmap_total_time_ns: int(&unmap.nanoseconds),
            zone_append_total_time_ns: int(&append.nanoseconds),
            idle_time_ns: (last > 0).then(|| i64::try_from(now().saturating_sub(last)).unwrap_or(i64::MAX)),
            failed_rd_operations: int(&rd.failed),
            failed_wr_operations: int(&wr.failed),
            failed_flush_operations: int(&flush.failed),
            failed_unmap_operations: int(&unmap.failed),
            failed_zone_append_operations: int(&append.failed),
            invalid_rd_operations: int(&rd.invalid),
            invalid_wr_operations: int(&wr.invalid),
            invalid_flush_operations: int(&flush.invalid),
            invalid_unmap_operations: int(&unmap.invalid),
            invalid_zone_append_operations: int(&append.invalid),
            account_invalid: true,
            account_failed: true,
            rd_latency_histogram: histogram(rd),
            wr_latency_histogram: histogram(wr),
            zone_append_latency_histogram: histogram(append),
            flush_latency_histogram: histogram(flush),
            ..BlockDeviceStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_bins() {
        assert!(Histogram::new(&[10, 5]).is_none() && Histogram::new(&[0, 5]).is_none());
        assert!(Histogram::new(&[5, 5]).is_none());
        let mut h = Histogram::new(&[10, 50]).unwrap();
        for t in [0, 9, 10, 49, 50, u64::MAX] {
            h.count(t);
        }
        assert_eq!(h.bins, [2, 2, 2]);
        let mut one = Histogram::new(&[]).unwrap();
        one.count(7);
        assert_eq!(one.bins, [1]);
    }

    #[test]
    fn requests_are_counted_by_kind() {
        let s = Stats::default();
        assert_eq!(s.info().idle_time_ns, None);
        let t = Stats::begin();
        s.done(Access::Read, 512, t, true);
        s.done(Access::Read, 512, t, false);
        s.done(Access::Write, 4096, t, true);
        s.invalid(Access::Unmap);
        s.done(Access::Append, 4096, t, true);
        s.done(Access::Append, 4096, t, false);
        s.set_histogram(Access::Write, Histogram::new(&[1]));
        s.done(Access::Write, 1, t, true);
        let i = s.info();
        assert_eq!((i.rd_operations, i.rd_bytes, i.failed_rd_operations), (1, 512, 1));
        assert_eq!((i.wr_operations, i.wr_bytes, i.invalid_unmap_operations), (2, 4097, 1));
        let appends = (i.zone_append_operations, i.zone_append_bytes, i.failed_zone_append_operations);
        assert_eq!(appends, (1, 4096, 1));
        assert_eq!(i.wr_latency_histogram.unwrap().bins.iter().sum::<u64>(), 1);
        assert!(i.idle_time_ns.is_some() && i.rd_latency_histogram.is_none() && i.rd_total_time_ns >= 0);
    }
}
