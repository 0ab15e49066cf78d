//! The qcow2 driver of the block graph: a thin layer over [`Image`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::block_core::{
    BlkdebugEvent, BlockImageCorruptedEvent, BlockdevAmendOptions, BlockdevDriverOptions, BlockdevOptions,
    BlockdevOptionsQcow2, BlockdevQcow2Encryption, SnapshotInfo,
};
use api::crypto::QCryptoBlockAmendOptions;
use base::{Errno, IoResult};
use block::bitmap::Bitmap;
use block::driver::{
    Ahead, BackingHint, Caps, ChildOption, ChildSlot, CtlFuture, Cx, Driver, DriverInfo, DriverType, Extent,
    ExtentKind, Hold, IoFuture, Kind, Limits, NodePlan, OpenCx, OpenFuture, Prealloc, SnapshotOp, Staged,
    Support, WriteFlags, ZeroFlags, default_child_perm,
};
use block::perm::Role;
use mem::IoBuf;
use monitor::EventBus;
use parking_lot::RwLock;
use qapi::{QError, qerr};
use qom::ObjectTree;
use smallvec::{SmallVec, smallvec};

use crate::check::{self, Fix};
use crate::clean;
use crate::crypt::Key;
use crate::header::{CryptMethod, Header};
use crate::host::Host;
use crate::image::Image;
use crate::info;
use crate::l2map::RunKind;
use crate::opts::Config;
use crate::snapshot::Snapshot;
use crate::snapshots;
use crate::spec::{self, incompat};
use crypto::cipher::SECTOR;

/// The description of the qcow2 driver.
pub static QCOW2: DriverType = DriverType {
    name: "qcow2",
    kind: Kind::Format,
    mutable_opts: &[
        "lazy-refcounts",
        "pass-discard-request",
        "pass-discard-snapshot",
        "pass-discard-other",
        "discard-no-unref",
        "overlap-check",
        "cache-size",
        "l2-cache-size",
        "l2-cache-entry-size",
        "refcount-cache-size",
        "cache-clean-interval",
        // What of it may change, and that it may not be left out, is looked at in `stage`.
        "encrypt",
    ],
    supports_backing: true,
    supports_reopen: true,
    may_compress: true,
    telling: None,
    file_names: None,
    older: None,
    children,
    child_perm: default_child_perm,
    open,
    probe: Some(probe),
    create: Some(&crate::creation::CREATION),
    check: Some(crate::check::check_file),
    shows_places: true,
};

/// The drivers of this crate.
pub static DRIVERS: &[&DriverType] = &[&QCOW2];

/// The child that holds the guest's data, where that is not the image's file.
const DATA: ChildSlot = ChildSlot::Other(0);

fn children(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let file = Role::DATA | Role::METADATA | Role::PRIMARY;
    smallvec![
        ChildOption { name: "file", slot: ChildSlot::File, role: file, required: true },
        ChildOption { name: "data-file", slot: DATA, role: Role::DATA, required: false },
        ChildOption { name: "backing", slot: ChildSlot::Backing, role: Role::COW, required: false },
    ]
}

fn probe(first: &[u8], _name: &str) -> u32 {
    let version = spec::be32(first, 4).unwrap_or(0);
    if spec::be32(first, 0) == Some(spec::MAGIC) && version >= 2 { 100 } else { 0 }
}

fn qcow2_options(o: &BlockdevOptions) -> Option<&BlockdevOptionsQcow2> {
    match &o.driver {
        BlockdevDriverOptions::Qcow2(q) => Some(q),
        _ => None,
    }
}

fn open(ocx: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async move {
        let host = NodeHost(ocx.cx);
        let writable = !ocx.flags.read_only && !ocx.flags.inactive;
        let config = |h: &crate::header::Header| Config::new(h, qcow2_options(ocx.options), ocx.flags.unmap);
        let mut image = Image::open(&host, ocx.node_name, writable, config).await?;
        crate::bitmap::warn_of_lost(&image.header());
        if ocx.late_bitmaps {
            image.live.be_late();
        }
        if ocx.machine && image.header().crypt == CryptMethod::Aes {
            return Err(no_machine());
        }
        let key = key_id(&image.header(), qcow2_options(ocx.options))?;
        match key {
            _ if ocx.no_io => image.unlock(&host, Key::None).await?,
            Some(id) if image.is_encrypted() => {
                let password = password(ocx.objects.as_deref(), &id)?;
                image.unlock(&host, Key::Password(&password, Some(&id))).await?;
            }
            _ if image.is_encrypted() => {
                return Err(qerr!("Parameter 'encrypt.key-secret' is required for cipher"));
            }
            _ => {}
        }
        let given = ocx.cx.has_child(DATA);
        match image.header() {
            h if !h.geometry.data_file && given => {
                return Err(qerr!("'data-file' can only be set for images with an external data file"));
            }
            h if h.autoclear & spec::autoclear::RAW_DATA_FILE != 0 && !h.geometry.data_file && !ocx.no_io => {
                return Err(qerr!("data-file-raw requires a data file"));
            }
            h if h.geometry.data_file && !given && h.data_file.is_none() => {
                return Err(qerr!("'data-file' is required for this image"));
            }
            _ => {}
        }
        let (events, objects) = (ocx.events, ocx.objects);
        let image = Arc::new(RwLock::new(told(&events, image)));
        Ok(Arc::new(Qcow2 { image, events, objects }) as Arc<dyn Driver>)
    })
}

/// The id of the secret that the options name for the image's data. Fails where they do not fit its encryption.
fn key_id(h: &Header, o: Option<&BlockdevOptionsQcow2>) -> Result<Option<String>, QError> {
    let given = match o.and_then(|o| o.encrypt.as_ref()) {
        None => return Ok(None),
        Some(BlockdevQcow2Encryption::Aes(a)) => (CryptMethod::Aes, &a.key_secret),
        Some(BlockdevQcow2Encryption::Luks(l)) => (CryptMethod::Luks, &l.key_secret),
    };
    match (h.crypt, given.0.name()) {
        (CryptMethod::None, f) => {
            Err(qerr!("No encryption in image header, but options specified format '{f}'"))
        }
        (m, f) if m != given.0 => {
            Err(qerr!("Header reported '{}' encryption format but options specify '{f}'", m.name()))
        }
        _ => Ok(given.1.clone()),
    }
}

/// What a machine says of the old encryption.
fn no_machine() -> QError {
    qerr!("Use of AES-CBC encrypted qcow2 images is no longer supported in system emulators").with_hint(
        "You can use 'qemu-img convert' to convert your image to an alternative supported format, \
         such as unencrypted qcow2, or raw with the LUKS format instead.",
    )
}

fn password(objects: Option<&ObjectTree>, id: &str) -> Result<crypto::Secret, QError> {
    objects.ok_or_else(|| qerr!("No secret with id '{id}'"))?.password(id)
}

/// The image opened anew, with the keys that it has.
async fn again<H: Host>(
    image: &Image,
    host: &H,
    name: &str,
    writable: bool,
    config: impl FnOnce(&Header) -> Result<Config, QError>,
) -> Result<Image, QError> {
    let mut fresh = Image::open(host, name, writable, config).await?;
    fresh.unlock(host, Key::Same(image.crypt.as_deref())).await?;
    if image.live.is_late() {
        fresh.live.be_late();
    }
    Ok(fresh)
}

/// A node's children as an image's host.
struct NodeHost<'a>(Cx<'a>);

impl Host for NodeHost<'_> {
    fn file_len(&self) -> IoResult<u64> {
        self.0.child_len(ChildSlot::File)
    }
    async fn event(&self, event: BlkdebugEvent) {
        self.0.child_event(ChildSlot::File, event).await;
    }
    async fn read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.0.child_read(ChildSlot::File, off, buf).await
    }
    async fn write(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.0.child_write(ChildSlot::File, off, buf, WriteFlags::empty()).await
    }
    async fn write_zeroes(&self, off: u64, len: u64) -> IoResult<()> {
        self.0.child_write_zeroes(ChildSlot::File, off, len, ZeroFlags::empty()).await
    }
    async fn discard(&self, off: u64, len: u64) -> IoResult<()> {
        self.0.child_discard(ChildSlot::File, off, len).await
    }
    async fn flush(&self) -> IoResult<()> {
        self.0.child_flush(ChildSlot::File).await?;
        if self.0.has_child(DATA) { self.0.child_flush(DATA).await } else { Ok(()) }
    }
    async fn flush_file(&self) -> IoResult<()> {
        self.0.child_flush(ChildSlot::File).await
    }
    fn data_len(&self) -> IoResult<u64> {
        self.0.child_len(self.data())
    }
    async fn data_read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.0.child_read(self.data(), off, buf).await
    }
    async fn data_write(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.0.child_write(self.data(), off, buf, WriteFlags::empty()).await
    }
    async fn data_write_zeroes(&self, off: u64, len: u64) -> IoResult<()> {
        self.0.child_write_zeroes(self.data(), off, len, ZeroFlags::empty()).await
    }
    async fn data_zero_fast(&self, off: u64, len: u64) -> IoResult<()> {
        self.0.child_write_zeroes(self.data(), off, len, ZeroFlags::NO_FALLBACK).await
    }
    fn allocated(&self) -> Option<u64> {
        self.0.child_allocated(ChildSlot::File)
    }
    async fn data_discard(&self, off: u64, len: u64) -> IoResult<()> {
        self.0.child_discard(self.data(), off, len).await
    }
    async fn data_truncate(&self, len: u64, prealloc: Prealloc) -> IoResult<()> {
        self.0.child_truncate(self.data(), len, false, prealloc).await
    }
    async fn truncate(&self, len: u64, prealloc: Prealloc) -> IoResult<()> {
        self.0.child_truncate(ChildSlot::File, len, false, prealloc).await
    }
    fn backing_len(&self) -> Option<u64> {
        self.0.child_len(ChildSlot::Backing).ok()
    }
    async fn backing_read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.0.child_read(ChildSlot::Backing, off, buf).await
    }
    async fn backing_is_zero(&self, off: u64, len: u64) -> IoResult<bool> {
        let (mut at, end) = (off, off + len);
        while at < end {
            let st = self.0.child_chain_status(ChildSlot::Backing, at, end - at).await?;
            if !st.zero || st.len == 0 {
                return Ok(false);
            }
            at += st.len;
        }
        Ok(true)
    }
}

impl NodeHost<'_> {
    fn data(&self) -> ChildSlot {
        if self.0.has_child(DATA) { DATA } else { ChildSlot::File }
    }
}

/// An open qcow2 node.
pub struct Qcow2 {
    /// Replaced as a whole where the file may have changed under us (repair, activation).
    image: Arc<RwLock<Arc<Image>>>,
    events: EventBus,
    objects: Option<Arc<ObjectTree>>,
}

/// The secret that a reopen names. The data's key stays what it is.
fn same_key(image: &Image, o: Option<&BlockdevOptionsQcow2>) -> Result<Option<String>, QError> {
    let id = key_id(&image.header(), o)?;
    let reset = |name: &str| Err(qerr!("Option '{name}' cannot be reset to its default value"));
    match image.crypt.as_ref().and_then(|c| c.key_secret()) {
        Some(_) if o.is_none_or(|o| o.encrypt.is_none()) => reset("encrypt.format"),
        Some(_) if id.is_none() => reset("encrypt.key-secret"),
        _ => Ok(id),
    }
}

/// Has an image's damage told to the users of events, and its caches looked after.
fn told(events: &EventBus, image: Image) -> Arc<Image> {
    let (events, node) = (events.clone(), image.node_name.clone());
    *image.on_damage.write() = Some(Arc::new(move |text: &str, fatal| {
        events.emit(BlockImageCorruptedEvent {
            node_name: (!node.starts_with('#')).then(|| node.clone()),
            msg: text.to_owned(),
            fatal,
            ..BlockImageCorruptedEvent::default()
        });
    }));
    let image = Arc::new(image);
    clean::begin(&image);
    image
}

impl Qcow2 {
    fn image(&self) -> Arc<Image> {
        self.image.read().clone()
    }
}

impl Driver for Qcow2 {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.image.read().virtual_size()
    }

    fn limits(&self, _cx: &Cx<'_>) -> Limits {
        match self.image.read().is_encrypted() {
            true => Limits { request_alignment: SECTOR as u32, ..Limits::default() },
            false => Limits::default(),
        }
    }

    fn caps(&self, _cx: &Cx<'_>) -> Caps {
        Caps { fua: Support::Emulate, write_zeroes: Support::Native, discard: Support::Native }
    }

    fn hold(&self) -> Hold {
        Hold::new(self.image.read().readers.enter())
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let image = self.image();
            let (kind, n) = image.lookup(&NodeHost(*cx), off, len).await?;
            let kind = match kind {
                RunKind::Unallocated => ExtentKind::Unallocated,
                // Nobody is to look at encrypted data, or at what was reserved for it, around the driver.
                RunKind::Zero(_) if image.is_encrypted() => ExtentKind::Zero { offset: None },
                RunKind::Normal { .. } if image.is_encrypted() => {
                    ExtentKind::Own { offset: None, zero: false }
                }
                RunKind::Zero(offset) => ExtentKind::Zero { offset },
                RunKind::Normal { host, .. } => {
                    ExtentKind::Child { slot: NodeHost(*cx).data(), offset: host }
                }
                RunKind::Compressed(_) => ExtentKind::Compressed,
            };
            Ok(Extent { len: n, kind, eof: off + n >= image.virtual_size() })
        })
    }

    fn looks_below<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a, bool> {
        Box::pin(async move { self.image().is_reserved(&NodeHost(*cx)).await })
    }

    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        // Looks the range up again: between the answer of `locate` and now it may have been written.
        Box::pin(async move { self.image().read_guest(&NodeHost(*cx), off, buf).await })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            if flags.contains(WriteFlags::COMPRESSED) && !self.image().is_encrypted() {
                return self.image().write_compressed(&NodeHost(*cx), off, buf).await;
            }
            self.image().write(&NodeHost(*cx), off, buf).await
        })
    }

    fn vm_state<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, write: bool) -> Option<IoFuture<'a>> {
        Some(Box::pin(async move {
            let (image, host) = (self.image(), NodeHost(*cx));
            match write {
                true => {
                    host.event(BlkdebugEvent::VmstateSave).await;
                    image.write_vm_state(&host, off, buf).await
                }
                false => {
                    host.event(BlkdebugEvent::VmstateLoad).await;
                    image.read_vm_state(&host, off, buf).await
                }
            }
        }))
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        let unmap = flags.contains(ZeroFlags::MAY_UNMAP);
        Box::pin(async move { self.image().write_zeroes(&NodeHost(*cx), off, len, unmap).await })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move { self.image().discard(&NodeHost(*cx), off, len).await })
    }

    fn flush<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move { self.image().flush(&NodeHost(*cx)).await })
    }

    fn make_empty<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move { self.image().make_empty(&NodeHost(*cx)).await })
    }

    fn truncate_failure(&self) -> Option<String> {
        self.image().truncate_failure.lock().take()
    }

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, _exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(async move { self.image().truncate(&NodeHost(*cx), len, prealloc).await })
    }

    fn stage<'a>(&'a self, cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            let image = self.image();
            let host = NodeHost(*cx);
            let writable = !next.flags.read_only && !next.flags.inactive;
            if next.old_flags.inactive && !next.flags.inactive {
                // Somebody else had the image meanwhile: nothing that is in memory counts.
                let config = |h: &crate::header::Header| {
                    Config::new(h, qcow2_options(&next.options), next.flags.unmap)
                };
                let fresh = again(&image, &host, &next.node_name, writable, config).await?;
                return Ok(Box::new(Replace { slot: self.image.clone(), image: told(&self.events, fresh) })
                    as Box<dyn Staged>);
            }
            let header = image.header();
            let key = if next.reopen { same_key(&image, qcow2_options(&next.options))? } else { None };
            let was = *image.config.read();
            let config = if next.reopen {
                Config::new(&header, qcow2_options(&next.options), next.flags.unmap)?
            } else {
                was
            };
            if writable && (header.has(incompat::CORRUPT) || image.corrupt.load(Ordering::Acquire)) {
                if !image.writable.load(Ordering::Acquire) {
                    return Err(qerr!("qcow2: Image is corrupt; cannot be opened read/write"));
                }
            } else if !writable || was.lazy_refcounts != config.lazy_refcounts {
                // The dirty bit stands or falls with lazy refcounts: the next change of the image sees to it.
                if !writable && image.writable.load(Ordering::Acquire) {
                    keep_bitmaps(&image, cx).await;
                }
                let fail = |e: Errno| qerr!("Failed to mark the image '{}' clean: {e}", next.node_name);
                image.make_clean(&host).await.map_err(fail)?;
            } else if config != was {
                image.flush(&host).await.map_err(|e| qerr!("Failed to flush the L2 table cache: {e}"))?;
            }
            Ok(Box::new(Change { image, config, writable, key }) as Box<dyn Staged>)
        })
    }

    fn activate<'a>(&'a self, cx: &'a Cx<'a>) -> CtlFuture<'a> {
        Box::pin(async move {
            let image = self.image();
            if cx.flags().read_only || cx.flags().inactive {
                return Ok(());
            }
            if !image.is_dirty() {
                if !image.shown.read().bitmaps.is_empty() {
                    // From now on what is stored is not the truth.
                    let marked = image.modify(&NodeHost(*cx)).await;
                    marked.map_err(|e| qerr!("Could not mark dirty bitmaps as in use: {e}"))?;
                }
                return Ok(());
            }
            // Not closed properly with lazy refcounts: they must be right before anything is allocated.
            let host = NodeHost(*cx);
            let fail = |e: QError| e.prepend("Could not repair dirty image");
            check::check(&host, Fix::All, &mut |line| tracing::error!(target: "plain", "{line}"))
                .await
                .map_err(fail)?;
            let config = *image.config.read();
            let fresh = again(&image, &host, &image.node_name, true, |_| Ok(config)).await?;
            if fresh.is_dirty() {
                return Err(qerr!("Could not repair dirty image"));
            }
            *self.image.write() = told(&self.events, fresh);
            Ok(())
        })
    }

    fn compresses(&self, _cx: &Cx<'_>) -> bool {
        // What is compressed would not be encrypted.
        let image = self.image();
        !image.geo.data_file && !image.is_encrypted()
    }

    fn amend<'a>(&'a self, cx: &'a Cx<'a>, options: &'a BlockdevAmendOptions, force: bool) -> CtlFuture<'a> {
        Box::pin(async move {
            let BlockdevAmendOptions::Qcow2(o) = options else {
                return Err(qerr!("x-blockdev-amend doesn't support changing the block driver"));
            };
            let image = self.image();
            match &o.encrypt {
                None => Ok(()),
                Some(_) if !image.is_encrypted() => Err(qerr!("image is not encrypted, can't amend")),
                Some(QCryptoBlockAmendOptions::Qcow) => {
                    Err(qerr!("Amend can't be used to change the qcow2 encryption format"))
                }
                Some(QCryptoBlockAmendOptions::Luks(o)) => {
                    let secret = |id: &str| password(self.objects.as_deref(), id);
                    image.amend_slots(&NodeHost(*cx), o, &secret, force).await
                }
            }
        })
    }

    fn can_store_bitmap(&self, cx: &Cx<'_>, name: &str, granularity: u32) -> Result<(), QError> {
        self.image().can_store(cx.node_name(), name, granularity)
    }

    fn keeps_bitmaps(&self) -> bool {
        self.image.read().version >= 3
    }

    fn stored_bitmaps<'a>(&'a self, cx: &'a Cx<'a>) -> CtlFuture<'a, Vec<Bitmap>> {
        Box::pin(async move { self.image().load_bitmaps(&NodeHost(*cx)).await })
    }

    fn bitmaps_change<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move { self.image().bitmaps_change(&NodeHost(*cx)).await })
    }

    fn bitmaps_changed<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move { self.image().bitmaps_changed(&NodeHost(*cx), &cx.bitmaps()).await })
    }

    fn record_ahead<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Ahead> {
        Box::pin(async move {
            let kept = self.image().record_ahead(&NodeHost(*cx), off, len).await?;
            Ok(kept.map(|c| Box::new(c) as Box<dyn std::any::Any>))
        })
    }

    fn remove_bitmap<'a>(&'a self, cx: &'a Cx<'a>, name: &'a str) -> CtlFuture<'a> {
        Box::pin(async move {
            let done = self.image().remove_stored_bitmap(&NodeHost(*cx), name).await;
            done.map_err(|e| qerr!("Failed to remove bitmap '{name}' from file: {e}"))
        })
    }

    fn has_internal_snapshots(&self) -> bool {
        true
    }

    fn show_snapshot<'a>(
        &'a self,
        cx: &'a Cx<'a>,
        id: Option<&'a str>,
        name: Option<&'a str>,
    ) -> CtlFuture<'a> {
        Box::pin(async move {
            let image = self.image();
            let list = image.shown.read().snapshots.clone();
            let both = snapshots::find(&list, id, name);
            // A name alone may be an id.
            let found = both.or_else(|| {
                snapshots::find(&list, name.filter(|_| id.is_none()), None).filter(|_| name.is_some())
            });
            let found = found.ok_or_else(|| qerr!("Can't find snapshot"))?;
            image.snapshot_show(&NodeHost(*cx), &found.id).await
        })
    }

    fn internal_snapshot<'a>(
        &'a self,
        cx: &'a Cx<'a>,
        op: &'a SnapshotOp,
    ) -> CtlFuture<'a, Option<SnapshotInfo>> {
        Box::pin(async move {
            let (image, host) = (self.image(), NodeHost(*cx));
            let list = image.shown.read().snapshots.clone();
            let found = |id: &Option<String>, name: &Option<String>| {
                snapshots::find(&list, id.as_deref(), name.as_deref()).map(|s| s.id.clone())
            };
            let done = match op {
                SnapshotOp::Create { name, date, again } => {
                    if !again && found(&None, &Some(name.clone())).is_some() {
                        return Ok(None);
                    }
                    let new = Snapshot {
                        name: name.clone(),
                        date_sec: date.as_secs() as u32,
                        date_nsec: date.subsec_nanos(),
                        // The image tool takes no part in the counting of instructions, and says that there were none.
                        icount: again.then_some(0),
                        ..Snapshot::default()
                    };
                    image.snapshot_create(&host, new).await
                }
                SnapshotOp::Delete { id, name } => match found(id, name) {
                    Some(id) => image.snapshot_delete(&host, &id).await,
                    None => return Ok(None),
                },
                SnapshotOp::Apply { id, name } => match found(id, name) {
                    Some(id) => {
                        // Every byte may change.
                        let kept = image.cover_all(&host).await;
                        kept.map_err(|e| qerr!("Could not mark dirty bitmaps as in use: {e}"))?;
                        image.snapshot_apply(&host, &id).await.map(|()| Snapshot::default())
                    }
                    None => return Ok(None),
                },
            };
            // Tables have moved: nothing that is in memory counts any more. Where the image is not clean, nothing was
            // begun, and what is in memory is more than what is in the file; or it is not written to any more.
            if image.is_clean() {
                let config = *image.config.read();
                match again(&image, &host, &image.node_name, true, |_| Ok(config)).await {
                    Ok(fresh) => *self.image.write() = told(&self.events, fresh),
                    // What is in memory was changed along with the file.
                    Err(_) if done.is_ok() => {}
                    // The write that failed may have been done, so that the header leads elsewhere.
                    Err(_) => image.stop(),
                }
            }
            done.map(|s| Some(info::snapshot(&s)))
        })
    }

    fn close<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move {
            let (image, host) = (self.image(), NodeHost(*cx));
            if image.writable.load(Ordering::Acquire) {
                keep_bitmaps(&image, cx).await;
            }
            image.finish(&host).await
        })
    }

    fn backing_hint(&self) -> Option<BackingHint> {
        let h = self.image().header();
        h.backing_file.map(|filename| BackingHint { filename, format: h.backing_format })
    }

    fn data_file_hint(&self) -> Option<String> {
        let h = self.image().header();
        h.data_file.filter(|_| h.geometry.data_file)
    }

    fn write_backing_hint<'a>(&'a self, cx: &'a Cx<'a>, hint: Option<BackingHint>) -> CtlFuture<'a> {
        Box::pin(async move {
            let (image, host) = (self.image(), NodeHost(*cx));
            let io = |e: Errno| qerr!("Could not write qcow2 header: {e}");
            let mut m = image.meta.lock().await;
            image.begin_modify(&host, &mut m).await.map_err(io)?;
            let (name, format) = hint.map_or((None, None), |b| (Some(b.filename), b.format));
            if name.as_ref().is_some_and(|n| n.len() > spec::MAX_BACKING_NAME as usize) {
                return Err(qerr!("The backing file's name is too long"));
            }
            let before = m.header.clone();
            (m.header.backing_file, m.header.backing_format) = (name, format);
            image.put_header(&host, &mut m).await.map_err(|e| {
                m.header = before;
                io(e)
            })
        })
    }

    fn info(&self, _cx: &Cx<'_>) -> DriverInfo {
        info::driver_info(&self.image())
    }
}

/// Stores the dirty bitmaps. They are hints: what cannot be stored is said, and marked as out of date in the image.
async fn keep_bitmaps(image: &Image, cx: &Cx<'_>) {
    if let Err(e) = image.store_bitmaps(&NodeHost(*cx), &cx.bitmaps()).await {
        tracing::error!(node = %image.node_name, "Lost persistent bitmaps: {e}");
    }
}

struct Change {
    image: Arc<Image>,
    config: Config,
    writable: bool,
    key: Option<String>,
}

impl Staged for Change {
    fn commit(self: Box<Self>) {
        let mut map = self.image.map.write();
        let mut config = self.image.config.write();
        let sizes = |c: &Config| (c.l2_entry_size, c.l2_cache_size);
        if sizes(&config) != sizes(&self.config) && map.is_clean() {
            map.set_limits(self.config.l2_entry_size, self.config.l2_cache_size);
        }
        let other = config.cache_clean_interval != self.config.cache_clean_interval;
        *config = self.config;
        if other {
            clean::begin_every(&self.image, config.cache_clean_interval);
        }
        if let (Some(c), Some(id)) = (&self.image.crypt, self.key) {
            c.set_key_secret(Some(id));
        }
        self.image.writable.store(self.writable, Ordering::Release);
        // The next write looks at dirty and autoclear bits again.
        if !self.writable {
            self.image.ready.store(false, Ordering::Release);
            self.image.modifying.store(false, Ordering::Release);
        }
    }
}

struct Replace {
    slot: Arc<RwLock<Arc<Image>>>,
    image: Arc<Image>,
}

impl Staged for Replace {
    fn commit(self: Box<Self>) {
        *self.slot.write() = self.image;
    }
}
