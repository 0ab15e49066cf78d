//! What block devices have done so far, in numbers.

use qapi::Qapi;

/// What a block device has done since it was made, or a node's part of it.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct BlockDeviceStats {
    /// Bytes read.
    #[qapi(name = "rd_bytes")]
    pub rd_bytes: i64,
    /// Bytes written.
    #[qapi(name = "wr_bytes")]
    pub wr_bytes: i64,
    /// Bytes appended to zones.
    #[qapi(name = "zone_append_bytes")]
    pub zone_append_bytes: i64,
    /// Bytes discarded.
    #[qapi(name = "unmap_bytes")]
    pub unmap_bytes: i64,
    /// Reads.
    #[qapi(name = "rd_operations")]
    pub rd_operations: i64,
    /// Writes.
    #[qapi(name = "wr_operations")]
    pub wr_operations: i64,
    /// Appends to zones.
    #[qapi(name = "zone_append_operations")]
    pub zone_append_operations: i64,
    /// Flushes.
    #[qapi(name = "flush_operations")]
    pub flush_operations: i64,
    /// Discards.
    #[qapi(name = "unmap_operations")]
    pub unmap_operations: i64,
    /// Nanoseconds that reads took, all together.
    #[qapi(name = "rd_total_time_ns")]
    pub rd_total_time_ns: i64,
    /// Nanoseconds that writes took.
    #[qapi(name = "wr_total_time_ns")]
    pub wr_total_time_ns: i64,
    /// Nanoseconds that appends to zones took.
    #[qapi(name = "zone_append_total_time_ns")]
    pub zone_append_total_time_ns: i64,
    /// Nanoseconds that flushes took.
    #[qapi(name = "flush_total_time_ns")]
    pub flush_total_time_ns: i64,
    /// Nanoseconds that discards took.
    #[qapi(name = "unmap_total_time_ns")]
    pub unmap_total_time_ns: i64,
    /// The offset behind the last byte that was ever written to the node.
    #[qapi(name = "wr_highest_offset")]
    pub wr_highest_offset: i64,
    /// Reads that were joined with others. Rhea joins none.
    #[qapi(name = "rd_merged")]
    pub rd_merged: i64,
    /// Writes that were joined with others. Rhea joins none.
    #[qapi(name = "wr_merged")]
    pub wr_merged: i64,
    /// Appends to zones that were joined with others. Rhea joins none.
    #[qapi(name = "zone_append_merged")]
    pub zone_append_merged: i64,
    /// Discards that were joined with others. Rhea joins none.
    #[qapi(name = "unmap_merged")]
    pub unmap_merged: i64,
    /// Nanoseconds since the last request; absent where there was none yet.
    #[qapi(name = "idle_time_ns")]
    pub idle_time_ns: Option<i64>,
    /// Reads that failed.
    #[qapi(name = "failed_rd_operations")]
    pub failed_rd_operations: i64,
    /// Writes that failed.
    #[qapi(name = "failed_wr_operations")]
    pub failed_wr_operations: i64,
    /// Appends to zones that failed.
    #[qapi(name = "failed_zone_append_operations")]
    pub failed_zone_append_operations: i64,
    /// Flushes that failed.
    #[qapi(name = "failed_flush_operations")]
    pub failed_flush_operations: i64,
    /// Discards that failed.
    #[qapi(name = "failed_unmap_operations")]
    pub failed_unmap_operations: i64,
    /// Reads that made no sense, such as beyond the end.
    #[qapi(name = "invalid_rd_operations")]
    pub invalid_rd_operations: i64,
    /// Writes that made no sense.
    #[qapi(name = "invalid_wr_operations")]
    pub invalid_wr_operations: i64,
    /// Appends to zones that made no sense.
    #[qapi(name = "invalid_zone_append_operations")]
    pub invalid_zone_append_operations: i64,
    /// Flushes that made no sense.
    #[qapi(name = "invalid_flush_operations")]
    pub invalid_flush_operations: i64,
    /// Discards that made no sense.
    #[qapi(name = "invalid_unmap_operations")]
    pub invalid_unmap_operations: i64,
    /// Whether requests that made no sense count as access.
    #[qapi(name = "account_invalid")]
    pub account_invalid: bool,
    /// Whether failed requests count in times and as access.
    #[qapi(name = "account_failed")]
    pub account_failed: bool,
    /// Figures over intervals; empty: no intervals can be asked for yet.
    #[qapi(name = "timed_stats")]
    pub timed_stats: Vec<BlockDeviceTimedStats>,
    /// How long reads took, where that was asked for.
    #[qapi(name = "rd_latency_histogram")]
    pub rd_latency_histogram: Option<BlockLatencyHistogramInfo>,
    /// How long writes took.
    #[qapi(name = "wr_latency_histogram")]
    pub wr_latency_histogram: Option<BlockLatencyHistogramInfo>,
    /// How long appends to zones took.
    #[qapi(name = "zone_append_latency_histogram")]
    pub zone_append_latency_histogram: Option<BlockLatencyHistogramInfo>,
    /// How long flushes took.
    #[qapi(name = "flush_latency_histogram")]
    pub flush_latency_histogram: Option<BlockLatencyHistogramInfo>,
}

/// Figures over an interval.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct BlockDeviceTimedStats {
    /// The interval, in seconds.
    #[qapi(name = "interval_length")]
    pub interval_length: i64,
    /// The shortest read, in nanoseconds.
    #[qapi(name = "min_rd_latency_ns")]
    pub min_rd_latency_ns: i64,
    /// The longest read, in nanoseconds.
    #[qapi(name = "max_rd_latency_ns")]
    pub max_rd_latency_ns: i64,
    /// The average read, in nanoseconds.
    #[qapi(name = "avg_rd_latency_ns")]
    pub avg_rd_latency_ns: i64,
    /// The shortest write, in nanoseconds.
    #[qapi(name = "min_wr_latency_ns")]
    pub min_wr_latency_ns: i64,
    /// The longest write, in nanoseconds.
    #[qapi(name = "max_wr_latency_ns")]
    pub max_wr_latency_ns: i64,
    /// The average write, in nanoseconds.
    #[qapi(name = "avg_wr_latency_ns")]
    pub avg_wr_latency_ns: i64,
    /// The shortest append to a zone, in nanoseconds.
    #[qapi(name = "min_zone_append_latency_ns")]
    pub min_zone_append_latency_ns: i64,
    /// The longest append to a zone, in nanoseconds.
    #[qapi(name = "max_zone_append_latency_ns")]
    pub max_zone_append_latency_ns: i64,
    /// The average append to a zone, in nanoseconds.
    #[qapi(name = "avg_zone_append_latency_ns")]
    pub avg_zone_append_latency_ns: i64,
    /// The shortest flush, in nanoseconds.
    #[qapi(name = "min_flush_latency_ns")]
    pub min_flush_latency_ns: i64,
    /// The longest flush, in nanoseconds.
    #[qapi(name = "max_flush_latency_ns")]
    pub max_flush_latency_ns: i64,
    /// The average flush, in nanoseconds.
    #[qapi(name = "avg_flush_latency_ns")]
    pub avg_flush_latency_ns: i64,
    /// How many reads were in flight on average.
    #[qapi(name = "avg_rd_queue_depth")]
    pub avg_rd_queue_depth: f64,
    /// How many writes were in flight on average.
    #[qapi(name = "avg_wr_queue_depth")]
    pub avg_wr_queue_depth: f64,
    /// How many appends to zones were in flight on average.
    #[qapi(name = "avg_zone_append_queue_depth")]
    pub avg_zone_append_queue_depth: f64,
}

/// How many requests took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockLatencyHistogramInfo {
    /// Nanoseconds at which a bin ends and the next begins, ascending.
    pub boundaries: Vec<u64>,
    /// The number of requests in each bin: one more than there are boundaries.
    pub bins: Vec<u64>,
}

/// What only some drivers count.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "driver", tag_enum = "BlockStatsDriver")]
pub enum BlockStatsSpecific {
    /// A file.
    File(BlockStatsSpecificFile),
    /// A block device of the host.
    #[qapi(name = "host_device")]
    HostDevice(BlockStatsSpecificFile),
}

/// What the drivers of files count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockStatsSpecificFile {
    /// Discards that succeeded.
    pub discard_nb_ok: u64,
    /// Discards that failed.
    pub discard_nb_failed: u64,
    /// Bytes that were discarded.
    pub discard_bytes_ok: u64,
}

/// A block device or node, with what it has done.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct BlockStats {
    /// The drive's name, or empty; absent for a node.
    pub device: Option<String>,
    /// The guest's device that uses it.
    pub qdev: Option<String>,
    /// The node's name.
    pub node_name: Option<String>,
    /// The figures.
    pub stats: BlockDeviceStats,
    /// What only this driver counts.
    pub driver_specific: Option<BlockStatsSpecific>,
    /// The node that holds the image: not its guest.
    pub parent: Option<Box<BlockStats>>,
    /// The node behind the image.
    pub backing: Option<Box<BlockStats>>,
}

/// Tells what block devices have done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-blockstats", ret = Vec<BlockStats>)]
pub struct QueryBlockstats {
    /// Tell of all named nodes, instead of the devices with the nodes below each. Off unless given.
    pub query_nodes: Option<bool>,
}

/// Has the latencies of a device's requests counted in bins from now on, or, without any boundaries, not any more.
///
/// What was counted before is lost. An empty list makes one bin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-latency-histogram-set")]
pub struct BlockLatencyHistogramSet {
    /// The device's id.
    pub id: String,
    /// Boundaries of the bins in nanoseconds, ascending, none of them 0; for all kinds of requests that have none of their own.
    pub boundaries: Option<Vec<u64>>,
    /// Those for reads.
    pub boundaries_read: Option<Vec<u64>>,
    /// Those for writes.
    pub boundaries_write: Option<Vec<u64>>,
    /// Those for appends to zones.
    pub boundaries_zap: Option<Vec<u64>>,
    /// Those for flushes.
    pub boundaries_flush: Option<Vec<u64>>,
}
