//! Checking an image, and repairing it.
//!
//! Every reference to a cluster is counted by walking all tables, and compared with the refcounts on disk. A refcount
//! that is too high wastes space (a leak); one that is too low lets data be overwritten (a corruption).

mod compare;
mod rebuild;
mod refmap;
mod snapshots;
mod walk;

use base::Errno;
use block::check::CheckCx;
pub use block::check::{Fix, Report};
use block::driver::CtlFuture;
use qapi::{QError, qerr};

use crate::geometry::Geometry;
use crate::header::Header;
use crate::host::{Host, RootHost, write_bytes};
use crate::image::{Image, read_header};
use crate::opts::{Config, OverlapChecks};
use crate::spec::{autoclear, field, incompat};
use compare::Compared;
use refmap::RefMap;

/// The state of one check.
struct Checker<'a, H: Host> {
    host: &'a H,
    log: &'a mut dyn FnMut(&str),
    header: Header,
    image: Image,
    file_len: u64,
    refs: RefMap,
    report: Report,
    /// How many things are wrong with the refcount structures themselves.
    structure: u64,
    /// How many references to a cluster are counted: what a refcount can tell.
    most: u64,
    /// Refcount blocks behind the file's end: as good as none.
    outside: u64,
}

fn io(e: Errno) -> QError {
    qerr!("{e}")
}

/// Caches of a check: larger than those of a running image, since it jumps about.
fn config(h: &Header) -> Config {
    let off = OverlapChecks {
        main_header: false,
        active_l1: false,
        active_l2: false,
        refcount_table: false,
        refcount_block: false,
        snapshot_table: false,
        inactive_l1: false,
        inactive_l2: false,
        bitmap_directory: false,
    };
    Config {
        l2_cache_size: 1 << 20,
        l2_entry_size: h.geometry.cluster_size(),
        refcount_cache_size: (16 << 20).max(4 * h.geometry.cluster_size()),
        cache_clean_interval: 0,
        lazy_refcounts: false,
        discard_request: false,
        discard_snapshot: false,
        discard_other: false,
        discard_no_unref: false,
        bitmap_region: 1 << 30,
        overlap: off,
        lenient: true,
    }
}

impl<'a, H: Host> Checker<'a, H> {
    async fn new(host: &'a H, log: &'a mut dyn FnMut(&str)) -> Result<Checker<'a, H>, QError> {
        let image = Image::open(host, "", false, |h| Ok(config(h))).await?;
        let header = image.header();
        let report = Report { total_clusters: header.geometry.clusters(header.size), ..Report::default() };
        let file_len = host.file_len().map_err(io)?;
        Ok(Checker {
            host,
            log,
            image,
            file_len,
            refs: RefMap::new(header.geometry.clusters(file_len)),
            most: header.geometry.refcount_max(),
            header,
            report,
            structure: 0,
            outside: 0,
        })
    }

    fn say(&mut self, text: String) {
        (self.log)(&text);
    }

    fn corruption(&mut self, text: String) {
        self.say(text);
        self.report.corruptions += 1;
    }

    /// Starts over on what is on disk now; keeps what was fixed.
    async fn again(&mut self) -> Result<(), QError> {
        let fresh = Image::open(self.host, "", false, |h| Ok(config(h))).await?;
        self.header = fresh.header();
        self.image = fresh;
        self.file_len = self.host.file_len().map_err(io)?;
        self.refs = RefMap::new(self.header.geometry.clusters(self.file_len));
        Ok(())
    }

    async fn run(&mut self, fix: Fix) -> Result<(), QError> {
        if fix != Fix::None {
            self.clear_unknown().await?;
        }
        let snapshots = self.check_snapshots(fix).await?;
        self.count_all(fix).await?;
        let found = self.compare(true).await?;
        self.take(&found);
        let rebuild = found.rebuild || self.structure > 0 || (fix == Fix::All && self.outside > 0);
        if rebuild && fix == Fix::Leaks {
            self.say("ERROR need to rebuild refcount structures".into());
            return Err(io(Errno::IO));
        }
        if rebuild && fix == Fix::All {
            self.say("Rebuilding refcount structure".into());
            let before = self.report.clone();
            self.rebuild_refcounts(self.header.geometry.refcount_order).await?;
            self.again().await?;
            // What the walk says a second time is known already.
            self.quiet_count().await?;
            self.report = before;
            let left = self.compare(false).await?;
            self.fix_refcounts(&left, true).await?;
            // The old structures became leaks by the rebuild; they are not what was found.
            self.report.leaks_fixed += found.leaks;
            self.report.leaks = 0;
            self.report.corruptions_fixed += found.corruptions + self.structure + self.outside;
            self.report.corruptions -= found.corruptions + self.structure + self.outside;
        } else if fix != Fix::None && found.leaks + found.corruptions > 0 {
            self.fix_refcounts(&found, fix == Fix::All).await?;
            self.report.leaks_fixed += found.leaks;
            self.report.leaks -= found.leaks;
            if fix == Fix::All {
                self.report.corruptions_fixed += found.corruptions;
                self.report.corruptions -= found.corruptions;
            }
        }
        if let Some(list) = snapshots {
            self.put_snapshots(list).await?;
        }
        // With nothing else wrong, setting flags right is no more than tidying.
        let clean = self.report.corruptions + self.report.check_errors + self.report.leaks == 0;
        // Where refcounts are what was counted, the walk has told what the flags should be.
        let known = found.leaks + found.corruptions + found.errors + self.report.check_errors == 0;
        if !(known && self.refs.said_right()) {
            self.check_copied(fix == Fix::All || (fix == Fix::Leaks && clean)).await?;
        }
        if fix != Fix::None && self.report.corruptions == 0 && self.report.check_errors == 0 {
            self.mark_sound().await?;
        }
        Ok(())
    }

    fn take(&mut self, found: &Compared) {
        self.report.leaks += found.leaks;
        self.report.corruptions += found.corruptions;
        self.report.check_errors += found.errors;
        self.report.image_end_offset = found.end << self.header.geometry.cluster_bits;
    }

    /// Who may change the image clears what he does not know to keep up to date.
    async fn clear_unknown(&mut self) -> Result<(), QError> {
        let bits = self.header.autoclear & autoclear::KNOWN;
        if self.header.version < 3 || bits == self.header.autoclear {
            return Ok(());
        }
        write_bytes(self.host, field::AUTOCLEAR as u64, &bits.to_be_bytes()).await.map_err(io)?;
        self.header.autoclear = bits;
        self.host.flush().await.map_err(io)
    }

    /// Nothing is wrong any more: the image may say so.
    async fn mark_sound(&mut self) -> Result<(), QError> {
        const MARKS: u64 = incompat::DIRTY | incompat::CORRUPT;
        if self.header.version < 3 || self.header.incompatible & MARKS == 0 {
            return Ok(());
        }
        self.host.flush().await.map_err(io)?;
        let bits = self.header.incompatible & !MARKS;
        write_bytes(self.host, field::INCOMPATIBLE as u64, &bits.to_be_bytes()).await.map_err(io)?;
        self.header.incompatible = bits;
        self.host.flush().await.map_err(io)
    }
}

/// Checks the image in `host`, repairs what `fix` says, and tells `log` of each finding (one line each).
///
/// The image must not be in use. An error means that the check could not be done, or that a repair failed.
pub async fn check<H: Host>(host: &H, fix: Fix, log: &mut dyn FnMut(&str)) -> Result<Report, QError> {
    let mut c = Checker::new(host, log).await?;
    c.run(fix).await?;
    Ok(c.report)
}

/// [`block::driver::DriverType::check`].
pub(crate) fn check_file(cx: CheckCx<'_>) -> CtlFuture<'_, Result<Report, QError>> {
    Box::pin(async move {
        let host = RootHost(cx.file);
        read_header(&host).await?;
        Ok(check(&host, cx.fix, cx.log).await)
    })
}

/// Gives the refcounts of the image in `host` another width: 1 << `order` bits (version 3 only). At any moment the image is
/// usable; a crash leaks clusters at worst. The image must not be in use, and must be sound.
pub(crate) async fn set_refcount_order<H: Host>(host: &H, order: u32) -> Result<(), QError> {
    let mut quiet = |_: &str| {};
    let mut c = Checker::new(host, &mut quiet).await?;
    // A wider refcount is what helps where there are more than the old one can tell.
    c.most = u64::MAX;
    c.count_all(Fix::None).await?;
    if c.report.corruptions + c.report.check_errors > 0 {
        return Err(qerr!("The image is damaged; repair it first"));
    }
    let g = Geometry { refcount_order: order, ..c.header.geometry };
    let mut at = c.refs.next(0);
    while let Some(cluster) = at {
        let n = u64::from(c.refs.get(cluster));
        if n > g.refcount_max() {
            return Err(qerr!(
                "Cannot decrease refcount entry width to {} bits: Cluster at offset {:#x} has a refcount of {n}",
                g.refcount_bits(),
                cluster << g.cluster_bits
            ));
        }
        at = c.refs.next(cluster + 1);
    }
    c.rebuild_refcounts(order).await?;
    // The old table and blocks.
    check(host, Fix::Leaks, &mut |_| {}).await.map(drop)
}

/// Whether the header says that refcounts may be out of date.
pub async fn is_dirty<H: Host>(host: &H) -> Result<bool, QError> {
    Ok(read_header(host).await?.has(incompat::DIRTY))
}
