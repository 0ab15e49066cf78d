//! Run-time options: cache sizes, lazy refcounts, what discards reach the file, overlap checks.

use api::block_core::{BlockdevOptionsQcow2, Qcow2OverlapCheckMode, Qcow2OverlapChecks};
use qapi::{QError, qerr};

use crate::geometry::Geometry;
use crate::header::Header;

/// Largest L2 cache unless the user asks for more: enough for 256 GiB with 64 KiB clusters.
const DEFAULT_L2_CACHE: u64 = 32 << 20;
/// A smaller L2 cache than this many entries is rounded up.
const MIN_L2_ENTRIES: u64 = 2;
/// Clusters of the refcount cache at least.
const MIN_REFCOUNT_CLUSTERS: u64 = 4;
/// Bytes of one L2 cache entry unless given: a page, so that random access reads and writes little.
const DEFAULT_L2_ENTRY: u64 = 4096;

/// Seconds after which cache entries that nobody used are given up, unless given.
const DEFAULT_CLEAN: u32 = 600;

/// Guest bytes that the stored copy of a bitmap marks as dirty at once: few enough that a crash costs little precision,
/// enough that marking costs little. Disks of more than 65536 such pieces have larger ones.
const DEFAULT_BITMAP_REGION: u64 = 16 << 20;

/// Which metadata is protected against being overwritten by data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlapChecks {
    /// The header.
    pub main_header: bool,
    /// The active L1 table.
    pub active_l1: bool,
    /// Active L2 tables.
    pub active_l2: bool,
    /// The refcount table.
    pub refcount_table: bool,
    /// Refcount blocks.
    pub refcount_block: bool,
    /// The snapshot table.
    pub snapshot_table: bool,
    /// Snapshots' L1 tables.
    pub inactive_l1: bool,
    /// Snapshots' L2 tables.
    pub inactive_l2: bool,
    /// The bitmap directory.
    pub bitmap_directory: bool,
}

impl OverlapChecks {
    fn template(mode: Qcow2OverlapCheckMode) -> OverlapChecks {
        use Qcow2OverlapCheckMode as M;
        let constant = mode != M::None;
        let cached = matches!(mode, M::Cached | M::All);
        OverlapChecks {
            main_header: constant,
            refcount_table: constant,
            snapshot_table: constant,
            bitmap_directory: constant,
            active_l1: cached,
            active_l2: cached,
            refcount_block: cached,
            inactive_l1: cached,
            inactive_l2: mode == M::All,
        }
    }

    fn new(o: Option<&Qcow2OverlapChecks>) -> OverlapChecks {
        match o {
            None => Self::template(Qcow2OverlapCheckMode::Cached),
            Some(Qcow2OverlapChecks::Mode(m)) => Self::template(*m),
            Some(Qcow2OverlapChecks::Flags(f)) => {
                let mut c = Self::template(f.template.unwrap_or(Qcow2OverlapCheckMode::Cached));
                let set = |to: &mut bool, v: Option<bool>| *to = v.unwrap_or(*to);
                set(&mut c.main_header, f.main_header);
                set(&mut c.active_l1, f.active_l1);
                set(&mut c.active_l2, f.active_l2);
                set(&mut c.refcount_table, f.refcount_table);
                set(&mut c.refcount_block, f.refcount_block);
                set(&mut c.snapshot_table, f.snapshot_table);
                set(&mut c.inactive_l1, f.inactive_l1);
                set(&mut c.inactive_l2, f.inactive_l2);
                set(&mut c.bitmap_directory, f.bitmap_directory);
                c
            }
        }
    }
}

/// The options in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of the L2 cache.
    pub l2_cache_size: u64,
    /// Bytes of one entry of it.
    pub l2_entry_size: u64,
    /// Bytes of the refcount cache.
    pub refcount_cache_size: u64,
    /// Seconds after which cache entries that nobody used are given up; 0 for never.
    pub cache_clean_interval: u32,
    /// Put refcount updates off.
    pub lazy_refcounts: bool,
    /// Tell the file of clusters that the guest discarded.
    pub discard_request: bool,
    /// Tell the file of clusters that deleted snapshots had.
    pub discard_snapshot: bool,
    /// Tell the file of clusters freed for other reasons.
    pub discard_other: bool,
    /// A discard keeps the clusters reserved.
    pub discard_no_unref: bool,
    /// Guest bytes, a power of two, that the stored copy of a bitmap marks as dirty at once.
    pub bitmap_region: u64,
    /// Overlap checks.
    pub overlap: OverlapChecks,
    /// For a check: a table of snapshots is read as far as it makes sense.
    pub lenient: bool,
}

impl Config {
    /// What the options mean for an image with this header. `unmap`: the node's `discard=unmap`.
    pub fn new(h: &Header, o: Option<&BlockdevOptionsQcow2>, unmap: bool) -> Result<Config, QError> {
        h.check_refcounted()?;
        let (l2, entry, refcounts) = cache_sizes(h, o)?;
        let lazy = o.and_then(|o| o.lazy_refcounts).unwrap_or_else(|| h.lazy_refcounts());
        if lazy && h.version < 3 {
            return Err(qerr!(
                "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"
            ));
        }
        let no_unref = o.and_then(|o| o.discard_no_unref).unwrap_or(false);
        if no_unref && h.version < 3 {
            return Err(qerr!("discard-no-unref is only supported since qcow2 version 3"));
        }
        let interval = o.and_then(|o| o.cache_clean_interval).map_or(Ok(DEFAULT_CLEAN), u32::try_from);
        let cache_clean_interval = interval.map_err(|_| qerr!("Cache clean interval too big"))?;
        Ok(Config {
            l2_cache_size: l2,
            l2_entry_size: entry,
            refcount_cache_size: refcounts,
            cache_clean_interval,
            lazy_refcounts: lazy,
            discard_request: o.and_then(|o| o.pass_discard_request).unwrap_or(unmap),
            discard_snapshot: o.and_then(|o| o.pass_discard_snapshot).unwrap_or(true),
            discard_other: o.and_then(|o| o.pass_discard_other).unwrap_or(false),
            discard_no_unref: no_unref,
            bitmap_region: DEFAULT_BITMAP_REGION.max((h.size >> 16).next_power_of_two()),
            overlap: OverlapChecks::new(o.and_then(|o| o.overlap_check.as_ref())),
            lenient: false,
        })
    }

    /// Blocks that the refcount cache holds.
    pub fn max_refblocks(&self, g: Geometry) -> usize {
        (self.refcount_cache_size >> g.cluster_bits).max(MIN_REFCOUNT_CLUSTERS) as usize
    }
}

/// (L2 cache bytes, bytes of one entry, refcount cache bytes).
fn cache_sizes(h: &Header, o: Option<&BlockdevOptionsQcow2>) -> Result<(u64, u64, u64), QError> {
    let g = h.geometry;
    let cs = g.cluster_size();
    let get = |f: fn(&BlockdevOptionsQcow2) -> Option<i64>, name: &str| match o.and_then(f) {
        Some(v) if v < 0 => Err(qerr!("Parameter '{name}' expects a non-negative number below 2^64")),
        v => Ok(v.map(|v| v as u64)),
    };
    let total = get(|o| o.cache_size, "cache-size")?;
    let l2 = get(|o| o.l2_cache_size, "l2-cache-size")?;
    let refc = get(|o| o.refcount_cache_size, "refcount-cache-size")?;
    let entry = get(|o| o.l2_cache_entry_size, "l2-cache-entry-size")?;

    // Everything mapped: no more than this is of use.
    let max_l2 = g.clusters(h.size).saturating_mul(8 * g.entry_words()).next_multiple_of(cs).max(cs);
    let min_refc = MIN_REFCOUNT_CLUSTERS * cs;
    let (l2_size, refc_size) = match total {
        Some(_) if l2.is_some() && refc.is_some() => {
            return Err(qerr!(
                "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
            ));
        }
        Some(t) => {
            if l2.is_some_and(|l| l > t) {
                return Err(qerr!("l2-cache-size may not exceed cache-size"));
            }
            if refc.is_some_and(|r| r > t) {
                return Err(qerr!("refcount-cache-size may not exceed cache-size"));
            }
            match (l2, refc) {
                (Some(l), _) => (l.min(max_l2), t - l),
                (None, Some(r)) => ((t - r).min(max_l2), r),
                (None, None) if t >= max_l2.saturating_add(min_refc) => (max_l2, t - max_l2),
                (None, None) => {
                    let r = t.min(min_refc);
                    (t - r, r)
                }
            }
        }
        None => (l2.unwrap_or(DEFAULT_L2_CACHE).min(max_l2), refc.unwrap_or(min_refc)),
    };
    let entry = entry.unwrap_or(DEFAULT_L2_ENTRY.min(cs));
    if !(512..=cs).contains(&entry) || !entry.is_power_of_two() {
        return Err(qerr!(
            "L2 cache entry size must be a power of two between 512 and the cluster size ({cs})"
        ));
    }
    if l2_size / entry > i32::MAX as u64 {
        return Err(qerr!("L2 cache size too big"));
    }
    if refc_size / cs > i32::MAX as u64 {
        return Err(qerr!("Refcount cache size too big"));
    }
    Ok((l2_size.max(MIN_L2_ENTRIES * entry), entry, refc_size.max(min_refc)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Compression;
    use api::block_core::BlockdevRef;

    fn sizes(f: impl FnOnce(&mut BlockdevOptionsQcow2)) -> Result<Config, String> {
        let g = Geometry { cluster_bits: 16, refcount_order: 4, extended: false, data_file: false };
        let mut h = Header::new(3, g, 1 << 40, Compression::Zlib);
        assert_eq!(
            h.check_refcounted().unwrap_err().desc(),
            "Image does not contain a reference count table"
        );
        h.reftable_clusters = 1;
        let mut o = BlockdevOptionsQcow2::new(BlockdevRef::Reference("f".into()));
        f(&mut o);
        Config::new(&h, Some(&o), false).map_err(|e| e.desc().to_string())
    }

    #[test]
    fn cache_sizes_follow_the_documented_rules() {
        let c = sizes(|_| {}).unwrap();
        assert_eq!((c.l2_cache_size, c.refcount_cache_size), (32 << 20, 256 << 10));
        let c = sizes(|o| o.cache_size = Some(1 << 20)).unwrap();
        assert_eq!((c.l2_cache_size, c.refcount_cache_size), ((1 << 20) - (256 << 10), 256 << 10));
        let c = sizes(|o| {
            o.cache_size = Some(4 << 20);
            o.l2_cache_size = Some(3 << 20);
        })
        .unwrap();
        assert_eq!((c.l2_cache_size, c.refcount_cache_size), (3 << 20, 1 << 20));
        assert_eq!(sizes(|o| o.l2_cache_size = Some(i64::MAX)).unwrap().l2_cache_size, 128 << 20);
    }

    #[test]
    fn bad_sizes_have_the_references_texts() {
        let all = "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time";
        let three = |o: &mut BlockdevOptionsQcow2| {
            (o.cache_size, o.l2_cache_size, o.refcount_cache_size) = (Some(3), Some(1), Some(1));
        };
        assert_eq!(sizes(three).unwrap_err(), all);
        let two = |o: &mut BlockdevOptionsQcow2| (o.cache_size, o.l2_cache_size) = (Some(1), Some(2));
        assert_eq!(sizes(two).unwrap_err(), "l2-cache-size may not exceed cache-size");
        let entry = "L2 cache entry size must be a power of two between 512 and the cluster size (65536)";
        for bad in [1000, 256, 131072, 0] {
            assert_eq!(sizes(|o| o.l2_cache_entry_size = Some(bad)).unwrap_err(), entry);
        }
        assert_eq!(
            sizes(|o| o.refcount_cache_size = Some(i64::MAX)).unwrap_err(),
            "Refcount cache size too big"
        );
    }
}
