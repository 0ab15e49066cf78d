//! An open image: its state, how it is opened, and marks in its header.
//!
//! # Locks
//! - `ranges`: guest ranges that are being changed; taken first.
//! - `meta`: refcounts, allocation, the header and every change of the map; an async lock, held over metadata I/O.
//! - `map`: the guest-to-host map; a short synchronous lock, never held over an `.await`. Readers need nothing else.
//!
//! # Order of writes
//! Whatever is on disk at any moment must be a usable image. So metadata reaches the file level by level, each level
//! stable before the next begins: refcount blocks, refcount table, data and new L2 tables, changed entries of L2 tables
//! and the L1 table (`Image::write_back`). A
//! cluster that lost a reference is only given free once the tables that no longer refer to it are stable. A crash
//! can thus leak clusters but never lets two things own one, nor shows data that was never there.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use api::block_core::BlkdebugEvent as Event;
use base::{Errno, IoResult};
use block::ranges::RangeLocks;
use parking_lot::RwLock;
use qapi::{QError, qerr};

use crate::bitmap::{self, BitmapInfo};
use crate::clean::Cleaner;
use crate::crypt::Crypt;
use crate::epoch::Epochs;
use crate::geometry::Geometry;
use crate::header::{self, Header};
use crate::host::{Host, read_vec, write_bytes};
use crate::l2map::L2Map;
use crate::live::Live;
use crate::opts::Config;
use crate::overlap::{Places, Protected};
use crate::snapshot::{self, Snapshot};
use crate::spec::{self, autoclear, field, incompat};
use crate::table::Passing;

/// A refcount block in memory.
pub struct RefBlock {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) dirty: bool,
    pub(crate) used: bool,
}

/// A reference that a table on disk may still hold; it is dropped once the table is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingFree {
    /// First cluster.
    pub cluster: u64,
    /// How many.
    pub count: u64,
    /// Whether the file is told to discard them once they are free.
    pub discard: bool,
}

/// What the metadata lock protects.
pub struct Meta {
    pub(crate) header: Header,
    pub(crate) reftable: Vec<u64>,
    /// 512-byte pieces of the refcount table that differ from the disk.
    pub(crate) reftable_dirty: BTreeSet<u64>,
    pub(crate) blocks: HashMap<u64, RefBlock>,
    pub(crate) clock: VecDeque<u64>,
    pub(crate) max_blocks: usize,
    /// No free cluster below this one, as far as is known.
    pub(crate) hint: u64,
    pub(crate) pending: Vec<PendingFree>,
    pub(crate) pending_clusters: u64,
    /// Where in a cluster that is shared by compressed clusters the next one may begin.
    pub(crate) packed: Option<u64>,
    /// References that no table on disk has any more, with the epoch whose readers may still use the clusters.
    pub(crate) settled: VecDeque<(Arc<()>, Vec<PendingFree>)>,
}

/// What queries show, kept apart so that they never wait for a lock that is held over I/O.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The header as it is on disk now.
    pub header: Header,
    /// The bitmaps that the image holds, while they are valid.
    pub bitmaps: Vec<BitmapInfo>,
    /// The names of those that it held when it rested last: queries show no other.
    pub rested: Vec<String>,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
}

/// Somebody who is told of damage.
pub type OnDamage = Arc<dyn Fn(&str, bool) + Send + Sync>;

/// An open image.
pub struct Image {
    pub(crate) geo: Geometry,
    pub(crate) version: u32,
    pub(crate) node_name: String,
    pub(crate) size: AtomicU64,
    pub(crate) map: RwLock<L2Map>,
    pub(crate) meta: rt::sync::Mutex<Meta>,
    pub(crate) ranges: RangeLocks,
    pub(crate) places: RwLock<Places>,
    pub(crate) config: RwLock<Config>,
    pub(crate) shown: RwLock<Shown>,
    /// Something was written to the file since it was last flushed.
    pub(crate) unflushed: AtomicBool,
    /// The image may be modified: dirty and autoclear bits are as they must be.
    pub(crate) modifying: AtomicBool,
    /// And its bitmaps are in use: nothing has to be prepared before the next change.
    pub(crate) ready: AtomicBool,
    /// Damage was found; nothing is written any more.
    pub(crate) corrupt: AtomicBool,
    /// Damage was reported that stops nobody.
    pub(crate) told: AtomicBool,
    /// What the last truncation that failed could not do.
    pub(crate) truncate_failure: parking_lot::Mutex<Option<String>>,
    /// The node may write.
    pub(crate) writable: AtomicBool,
    /// The last decompressed cluster: its L2 entry and its bytes.
    pub(crate) decompressed: parking_lot::Mutex<Option<(u64, Arc<Vec<u8>>)>>,
    /// The task that gives up unused cache entries.
    pub(crate) cleaner: Cleaner,
    /// Told of damage: what is wrong, and whether the image is not written any more.
    pub(crate) on_damage: RwLock<Option<OnDamage>>,
    /// An autoclear bit could not be written for sure.
    pub(crate) unsure: AtomicBool,
    /// The data file could not make its bytes stable when the image was about to be left.
    data_lost: AtomicBool,
    /// A slice of a table that is being gone through.
    pub(crate) passing: parking_lot::Mutex<Passing>,
    /// Whether space in the file was reserved rather than written, once that was asked for.
    pub(crate) reserved: std::sync::OnceLock<bool>,
    /// Who reads what it has looked up.
    pub(crate) readers: Epochs,
    /// What is kept of persistent bitmaps while they change.
    pub(crate) live: Arc<Live>,
    /// How the guest's data is encrypted, if it is.
    pub(crate) crypt: Option<Arc<Crypt>>,
}

/// Reads the first cluster and parses the header.
pub async fn read_header<H: Host>(host: &H) -> Result<Header, QError> {
    let io = |e: Errno| qerr!("Could not read qcow2 header: {e}");
    let first = read_vec(host, 0, 512).await.map_err(io)?;
    let bits = header::cluster_bits(&first)?;
    let first = read_vec(host, 0, 1 << bits).await.map_err(io)?;
    Header::parse(&first)
}

impl Image {
    /// Opens an image: reads the header and all tables that stay in memory. Writes nothing. Encrypted data stays closed
    /// until [`Image::unlock`].
    pub async fn open<H: Host>(
        host: &H,
        node_name: &str,
        writable: bool,
        config: impl FnOnce(&Header) -> Result<Config, QError>,
    ) -> Result<Image, QError> {
        let header = read_header(host).await?;
        if writable && header.has(incompat::CORRUPT) {
            return Err(qerr!("qcow2: Image is corrupt; cannot be opened read/write"));
        }
        let config = config(&header)?;
        let g = header.geometry;
        // Tables lie within the file, so nothing longer than the file is ever allocated for them.
        let file_len = host.file_len().map_err(|e| qerr!("Could not get the image's length: {e}"))?;
        let inside = |off: u64, want: u64| want.min(file_len.saturating_sub(off));
        let table = async |off: u64, entries: u64, what: &str| {
            let n = inside(off, entries * 8) as usize;
            let bytes = read_vec(host, off, n).await.map_err(|e| qerr!("Could not {what}: {e}"))?;
            let mut t = spec::table_from_bytes(&bytes);
            t.resize(entries as usize, 0);
            Ok::<_, QError>(t)
        };
        let reftable_entries = u64::from(header.reftable_clusters) << (g.cluster_bits - 3);
        host.event(Event::ReftableLoad).await;
        let reftable =
            table(header.reftable_offset, reftable_entries, "initialize refcount handling").await?;
        let l1 = table(header.l1_offset, u64::from(header.l1_size), "read L1 table").await?;
        if !config.lenient {
            header.check_snapshots()?;
        }
        let loaded = match snapshot::load(host, &header, file_len, config.lenient).await {
            // A check looks at the table by itself.
            Err(_) if config.lenient => snapshot::Loaded::default(),
            loaded => loaded?,
        };
        let (snapshots, snapshot_bytes) = (loaded.list, loaded.bytes);
        let bitmaps = bitmap::load(host, &header, file_len).await?;
        let refblocks = reftable
            .iter()
            .map(|e| (e & !spec::REFTABLE_RESERVED) >> g.cluster_bits)
            .filter(|c| *c != 0)
            .collect();
        let protected = Protected::new(&header, &snapshots, snapshot_bytes, &config);
        let map = L2Map::new(g, header.version, l1, config.l2_entry_size, config.l2_cache_size);
        let crypt = Crypt::closed(&header);
        Ok(Image {
            geo: g,
            version: header.version,
            node_name: node_name.to_string(),
            // What is encrypted is whole sectors.
            size: AtomicU64::new(header.size & if crypt.is_some() { !511 } else { !0 }),
            map: RwLock::new(map),
            places: RwLock::new(Places { protected, refblocks }),
            ranges: RangeLocks::default(),
            corrupt: AtomicBool::new(header.has(incompat::CORRUPT)),
            shown: RwLock::new(Shown {
                header: header.clone(),
                rested: bitmaps.iter().map(|b| b.name.clone()).collect(),
                bitmaps,
                snapshots,
            }),
            meta: rt::sync::Mutex::new(Meta {
                header,
                reftable,
                reftable_dirty: BTreeSet::new(),
                blocks: HashMap::new(),
                clock: VecDeque::new(),
                max_blocks: config.max_refblocks(g),
                hint: 0,
                pending: Vec::new(),
                pending_clusters: 0,
                settled: VecDeque::new(),
                packed: None,
            }),
            config: RwLock::new(config),
            unflushed: AtomicBool::new(true),
            modifying: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            told: AtomicBool::new(false),
            truncate_failure: parking_lot::Mutex::default(),
            writable: AtomicBool::new(writable),
            decompressed: parking_lot::Mutex::new(None),
            cleaner: Cleaner::default(),
            on_damage: RwLock::new(None),
            unsure: AtomicBool::new(false),
            data_lost: AtomicBool::new(false),
            passing: parking_lot::Mutex::default(),
            reserved: std::sync::OnceLock::new(),
            readers: Epochs::default(),
            live: Arc::default(),
            crypt,
        })
    }

    /// The virtual size, bytes.
    pub fn virtual_size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// The image's sizes.
    pub fn geometry(&self) -> Geometry {
        self.geo
    }

    /// A copy of the header as it is on disk now.
    pub fn header(&self) -> Header {
        self.shown.read().header.clone()
    }

    /// Whether the dirty bit is set: refcounts on disk may be behind.
    pub fn is_dirty(&self) -> bool {
        self.shown.read().header.has(incompat::DIRTY)
    }

    /// Fails where nothing may be written (any more).
    pub(crate) fn check_usable(&self) -> IoResult<()> {
        // As if there were no disk any more.
        if self.corrupt.load(Ordering::Acquire) { Err(Errno::NOMEDIUM) } else { Ok(()) }
    }

    /// The header on disk has changed and `m.header` with it: queries see it now.
    pub(crate) fn header_changed(&self, m: &Meta) {
        self.unflushed.store(true, Ordering::Release);
        self.shown.write().header = m.header.clone();
    }

    /// The header or the list of snapshots, as they are in memory, lead to other places.
    pub(crate) fn moved(&self, m: &Meta) {
        let protected = {
            let shown = self.shown.read();
            let bytes = shown.snapshots.iter().map(|s| s.on_disk).sum();
            Protected::new(&m.header, &shown.snapshots, bytes, &self.config.read())
        };
        self.places.write().protected = protected;
    }

    pub(crate) async fn put_incompatible<H: Host>(&self, h: &H, m: &mut Meta, bits: u64) -> IoResult<()> {
        write_bytes(h, field::INCOMPATIBLE as u64, &bits.to_be_bytes()).await?;
        m.header.incompatible = bits;
        self.header_changed(m);
        Ok(())
    }

    /// Makes everything written so far stable. Cheap where nothing was.
    pub(crate) async fn barrier<H: Host>(&self, h: &H) -> IoResult<()> {
        if self.unflushed.swap(false, Ordering::AcqRel) {
            let r = self.flush_files(h).await;
            if r.is_err() {
                self.unflushed.store(true, Ordering::Release);
            }
            return r;
        }
        Ok(())
    }

    /// Makes all writes stable; in the end, those of the image's file, if the data file cannot.
    async fn flush_files<H: Host>(&self, h: &H) -> IoResult<()> {
        if self.data_lost.load(Ordering::Acquire) { h.flush_file().await } else { h.flush().await }
    }

    /// Whether refcount updates may wait (lazy refcounts): the dirty bit stands for them meanwhile.
    pub(crate) fn lazy(&self) -> bool {
        self.version >= 3 && self.config.read().lazy_refcounts
    }

    /// Prepares the header for changes: clears autoclear bits whose extensions Rhea does not keep up to date, and sets
    /// the dirty bit where refcounts are lazy. Called with the metadata lock before anything is modified; does
    /// something only the first time.
    pub(crate) async fn begin_modify<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        self.check_usable()?;
        if self.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        if !self.writable.load(Ordering::Acquire) {
            return Err(Errno::PERM);
        }
        let mut changed = false;
        if self.version >= 3 {
            let known = m.header.autoclear & autoclear::KNOWN;
            if m.header.autoclear != known {
                write_bytes(h, field::AUTOCLEAR as u64, &known.to_be_bytes()).await?;
                m.header.autoclear = known;
                self.header_changed(m);
                changed = true;
            }
            self.begin_bitmaps(h, m).await?;
            // Where the image could not be made clean, nobody knows what the disk says.
            let unsure = self.modifying.load(Ordering::Acquire);
            if self.lazy() && (unsure || !m.header.has(incompat::DIRTY)) {
                self.put_incompatible(h, m, m.header.incompatible | incompat::DIRTY).await?;
                changed = true;
            }
        }
        if changed {
            self.barrier(h).await?;
        }
        self.modifying.store(true, Ordering::Release);
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// [`Image::begin_modify`] where the caller does not hold the metadata lock.
    pub(crate) async fn modify<H: Host>(&self, h: &H) -> IoResult<()> {
        self.check_usable()?;
        if self.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut m = self.meta.lock().await;
        self.begin_modify(h, &mut m).await
    }

    /// Damage was found: says so once, marks the image so that nobody writes to it before it was repaired, and stops
    /// writing to it. A node that may not write only says so. Always answers `EIO`.
    pub(crate) async fn damaged<H: Host>(&self, h: &H, text: &str) -> Errno {
        let first = !self.corrupt.swap(true, Ordering::AcqRel);
        if !first {
            return Errno::IO;
        }
        if self.writable.load(Ordering::Acquire) {
            tracing::error!(target: "plain", "qcow2: Marking image as corrupt: {text}; further corruption events will be suppressed");
            self.tell(text, true);
            let bits = {
                let mut s = self.shown.write();
                s.header.incompatible |= incompat::CORRUPT;
                s.header.incompatible
            };
            if self.version >= 3 {
                // Nothing better can be done about a failure here than what is done anyway: no more writes.
                let _ = write_bytes(h, field::INCOMPATIBLE as u64, &bits.to_be_bytes()).await;
                let _ = h.flush().await;
            }
        } else {
            self.note_damage(text);
            // Reading other parts may go on: nothing can get worse.
            self.corrupt.store(false, Ordering::Release);
        }
        Errno::IO
    }

    /// Damage was found that stops nobody: says so once.
    pub(crate) fn note_damage(&self, text: &str) {
        if !self.told.swap(true, Ordering::AcqRel) {
            tracing::error!(target: "plain", "qcow2: Image is corrupt: {text}; further non-fatal corruption events will be suppressed");
            self.tell(text, false);
        }
    }

    fn tell(&self, text: &str, fatal: bool) {
        let told = self.on_damage.read().clone();
        if let Some(f) = told {
            f(text, fatal);
        }
    }

    /// Whether the file alone is the whole truth.
    pub(crate) fn is_clean(&self) -> bool {
        !self.modifying.load(Ordering::Acquire)
    }

    /// Nothing is read or written any more, until the image is opened again.
    pub(crate) fn stop(&self) {
        self.corrupt.store(true, Ordering::Release);
    }

    fn usable_and_modified(&self) -> bool {
        !self.corrupt.load(Ordering::Acquire) && self.modifying.load(Ordering::Acquire)
    }

    /// Drops references that nobody on disk has any more. Who still reads is waited for a while: what they read may be in
    /// use no more, and is given back then.
    async fn settle<H: Host>(&self, h: &H) -> (rt::sync::MutexGuard<'_, Meta>, IoResult<()>) {
        const PATIENCE: Duration = Duration::from_secs(1);
        const TURN: Duration = Duration::from_micros(500);
        let end = rt::now() + PATIENCE;
        let mut m = self.meta.lock().await;
        while self.usable_and_modified() && !(m.pending.is_empty() && m.settled.is_empty()) {
            if let Err(e) = self.write_back(h, &mut m).await {
                return (m, Err(e));
            }
            if m.settled.is_empty() || rt::now() >= end {
                break;
            }
            drop(m);
            rt::sleep(TURN).await;
            m = self.meta.lock().await;
        }
        (m, Ok(()))
    }

    /// Writes back everything and clears the dirty bit: after this the file alone is the whole truth. Called when the
    /// node becomes read-only, with no change in flight.
    pub async fn make_clean<H: Host>(&self, h: &H) -> IoResult<()> {
        let (mut m, settled) = self.settle(h).await;
        if !self.usable_and_modified() {
            return Ok(());
        }
        settled?;
        self.write_tables(h, &mut m).await?;
        self.write_counts(h, &mut m).await?;
        self.mark_clean(h, &mut m).await
    }

    /// [`Image::make_clean`] for the last time, when the node closes: what cannot be written is told, and lost.
    pub(crate) async fn finish<H: Host>(&self, h: &H) -> IoResult<()> {
        // What a data file could not make stable was told to whoever flushed. The tables are another file's.
        if self.geo.data_file && h.flush().await.is_err() {
            self.data_lost.store(true, Ordering::Release);
        }
        let (mut m, settled) = self.settle(h).await;
        if !self.usable_and_modified() {
            return Ok(());
        }
        let tables = match settled {
            Ok(()) => self.write_tables(h, &mut m).await,
            failed => failed,
        };
        if let Err(e) = tables {
            tracing::error!(target: "report", "Failed to flush the L2 table cache: {e}");
        }
        let counts = self.write_counts(h, &mut m).await;
        if let Err(e) = counts {
            tracing::error!(target: "report", "Failed to flush the refcount block cache: {e}");
        }
        tables.and(counts)?;
        self.mark_clean(h, &mut m).await
    }

    async fn write_tables<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        // Where this fails half-way, the next change prepares the image anew.
        self.ready.store(false, Ordering::Release);
        if !self.map.read().is_clean() || !m.pending.is_empty() {
            self.write_back(h, m).await?;
        }
        self.flush_files(h).await
    }

    async fn write_counts<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        // Dropped references of the first round are changes of refcounts again.
        self.write_back(h, m).await?;
        self.write_refcounts(h, m).await?;
        self.flush_files(h).await
    }

    async fn mark_clean<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        if m.header.has(incompat::DIRTY) {
            self.barrier(h).await?;
            let bits = m.header.incompatible & !incompat::DIRTY;
            self.put_incompatible(h, m, bits).await?;
        }
        self.barrier(h).await?;
        self.ready.store(false, Ordering::Release);
        self.modifying.store(false, Ordering::Release);
        Ok(())
    }
}
