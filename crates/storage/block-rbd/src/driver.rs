//! The driver.

use crate::cluster::Pool;
use crate::create::CREATION;
use crate::encryption::{BEGINNING, Keys, format, secret};
use crate::image::{Image, Snapshot};
use crate::name::NAMES;
use api::block_core::{
    BlockdevDriverOptions, BlockdevOptionsRbd, ImageInfoSpecific, ImageInfoSpecificRbd, SnapshotInfo,
};
use base::{Errno, IoResult};
use block::driver::{
    Caps, CtlFuture, Cx, Driver, DriverInfo, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits,
    NodePlan, NothingStaged, OpenCx, OpenFuture, Prealloc, SnapshotOp, Staged, Support, WriteFlags,
    ZeroFlags,
};
use crypto::Secret;
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use qom::ObjectTree;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// `rbd`.
pub static RBD: DriverType = DriverType {
    name: "rbd",
    kind: Kind::Protocol,
    file_names: Some(NAMES),
    open,
    create: Some(&CREATION),
    supports_reopen: true,
    telling: Some(&["pool", "namespace", "image", "conf", "snapshot", "user", "server"]),
    ..DriverType::BASE
};

/// The sector of a disk: the node's length is a multiple of it.
const SECTOR: u64 = 512;

/// The longest range that is discarded or made zero at once, bytes: the library makes a request for each of its objects.
const MAX_RANGE: u64 = 1 << 30;
/// How long one waits for an image to be closed. A cluster that has gone away may keep it open for ever.
const CLOSING: Duration = Duration::from_secs(30);

/// The user's key, as the cluster's configuration has it.
pub(crate) fn key(objects: Option<&ObjectTree>, o: &BlockdevOptionsRbd) -> Result<Option<Secret>, QError> {
    let Some(id) = &o.key_secret else { return Ok(None) };
    Ok(Some(crypto::secret::to_base64(&secret(objects, id)?)))
}

/// What may change while the image is open.
struct State {
    snapshots: Vec<Snapshot>,
}

/// An image as a node.
struct Rbd {
    /// `None` once it is closed.
    image: Mutex<Option<Arc<Image>>>,
    /// The image's length, bytes.
    len: AtomicU64,
    /// Held by whoever changes the length.
    growing: rt::sync::Mutex<()>,
    /// Held by whoever asks where data is: a cluster that does not answer keeps one thread only.
    looking: rt::sync::Mutex<()>,
    /// The cluster lets it be written.
    writable: bool,
    /// The length of an object, bytes.
    object: u64,
    state: Arc<Mutex<State>>,
    specific: ImageInfoSpecificRbd,
    /// What the last resize was refused for.
    refused: Mutex<Option<String>>,
    /// It is the past state of an image.
    snapshot: bool,
    /// It was to be written, but nobody can.
    forced_read_only: bool,
}

/// One that never became part of a graph is not closed by anybody else.
impl Drop for Rbd {
    fn drop(&mut self) {
        if let Some(image) = self.image.lock().take() {
            drop(rt::unblock(move || drop(image)));
        }
    }
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let BlockdevDriverOptions::Rbd(options) = &o.options.driver else {
            return Err(qerr!("The options are not those of an image in a Ceph cluster"));
        };
        let objects = o.objects.as_deref();
        let user = key(objects, options)?;
        let keys = options.encrypt.as_ref().map(|e| Keys::find(objects, e)).transpose()?;
        let snapshot = options.snapshot.clone().filter(|s| !s.is_empty());
        let write = !o.flags.read_only && snapshot.is_none();
        let is_snapshot = snapshot.is_some();
        let forced_read_only = !o.flags.read_only && !write;
        let options = options.clone();
        let cache = !o.flags.direct;
        let opened = rt::unblock(move || {
            let pool = Pool::connect(&options, user.as_ref(), cache)?;
            let mut image = Image::open(pool, &options.image, snapshot.as_deref(), write)?;
            if let Some(keys) = &keys {
                keys.load(&mut image)?;
            }
            let info = || -> IoResult<_> {
                let begins = image.beginning::<BEGINNING>()?;
                Ok((image.len()?, image.object_len()?, image.snapshots()?, format(&begins)))
            };
            let info = info().map_err(|e| qerr!("error getting image info from {}: {e}", options.image))?;
            Ok::<_, QError>((image, info))
        });
        let (image, (len, object, snapshots, encryption_format)) = opened.await?;
        let node = Rbd {
            writable: image.writable,
            image: Mutex::new(Some(Arc::new(image))),
            len: len.into(),
            growing: rt::sync::Mutex::new(()),
            looking: rt::sync::Mutex::new(()),
            object,
            state: Arc::new(Mutex::new(State { snapshots })),
            specific: ImageInfoSpecificRbd { encryption_format },
            refused: Mutex::default(),
            snapshot: is_snapshot,
            forced_read_only,
        };
        if forced_read_only && !o.flags.auto_read_only {
            node.shut().await;
            return Err(qerr!("rbd snapshots are read-only"));
        }
        Ok(Arc::new(node) as Arc<dyn Driver>)
    })
}

impl Rbd {
    fn image(&self) -> IoResult<Arc<Image>> {
        self.image.lock().clone().ok_or(Errno::NOMEDIUM)
    }

    async fn shut(&self) {
        let image = self.image.lock().take();
        _ = rt::timeout(CLOSING, rt::unblock(move || drop(image))).await;
    }

    /// Runs something that waits for the cluster.
    async fn apart<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Image) -> IoResult<T> + Send + 'static,
    ) -> IoResult<T> {
        let image = self.image()?;
        rt::unblock(move || f(&image)).await
    }

    async fn resize(&self, len: u64) -> IoResult<()> {
        self.apart(move |i| i.resize(len)).await?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    /// Makes room for a write that ends there.
    async fn reach(&self, end: u64) -> IoResult<()> {
        if end <= self.len.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = self.growing.lock().await;
        if end <= self.len.load(Ordering::Acquire) {
            return Ok(());
        }
        self.resize(end).await
    }

    /// The limits of zeroes and of discards: of whole objects little is left.
    fn unit(&self) -> u32 {
        u32::try_from(self.object).ok().filter(|o| o.is_power_of_two()).unwrap_or(0)
    }

    async fn look_again(&self) -> IoResult<()> {
        let snapshots = self.apart(Image::snapshots).await?;
        self.state.lock().snapshots = snapshots;
        Ok(())
    }
}

/// A snapshot as the reference tells of it: there is a name and no more, and the image's length stands for the machine's state.
fn told(s: &Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        id: s.name.clone(),
        name: s.name.clone(),
        vm_state_size: i64::try_from(s.size).unwrap_or(i64::MAX),
        icount: Some(0),
        ..SnapshotInfo::default()
    }
}

impl Driver for Rbd {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.len.load(Ordering::Acquire).next_multiple_of(SECTOR)
    }

    fn limits(&self, _cx: &Cx<'_>) -> Limits {
        Limits {
            request_alignment: SECTOR as u32,
            write_zeroes_alignment: self.unit(),
            max_write_zeroes: MAX_RANGE,
            discard_alignment: self.unit(),
            max_discard: MAX_RANGE,
            ..Limits::default()
        }
    }

    fn caps(&self, _cx: &Cx<'_>) -> Caps {
        Caps { write_zeroes: Support::Native, discard: Support::Native, ..Caps::default() }
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let have = self.len.load(Ordering::Acquire).saturating_sub(off);
            let (data, n) = match have {
                // What is behind the end, up to the end of the sector.
                0 => (false, len),
                have => {
                    let _one = self.looking.lock().await;
                    self.apart(move |i| i.extent(off, len.min(have))).await?
                }
            };
            let kind = ExtentKind::Own { offset: Some(off), zero: !data };
            // The last bytes of a sector go with those before them.
            let n = if n >= have { len } else { n };
            Ok(Extent { len: n, kind, eof: off + n >= self.len(cx) })
        })
    }

    fn read<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move { self.image()?.read(off, buf).await })
    }

    fn write<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.reach(off.checked_add(buf.len() as u64).ok_or(Errno::FBIG)?).await?;
            self.image()?.write(off, buf).await
        })
    }

    fn write_zeroes<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.reach(off.checked_add(len).ok_or(Errno::FBIG)?).await?;
            self.image()?.write_zeroes(off, len, !flags.contains(ZeroFlags::MAY_UNMAP)).await
        })
    }

    fn discard<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move {
            let have = self.len.load(Ordering::Acquire).saturating_sub(off);
            match len.min(have) {
                0 => Ok(()),
                n => self.image()?.discard(off, n).await,
            }
        })
    }

    fn flush<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move { self.image()?.flush().await })
    }

    fn truncate<'a>(&'a self, _cx: &'a Cx<'a>, len: u64, _exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(async move {
            let refused = match prealloc {
                Prealloc::Off => None,
                Prealloc::Metadata => Some("metadata"),
                Prealloc::Falloc => Some("falloc"),
                Prealloc::Full => Some("full"),
            };
            *self.refused.lock() = refused.map(|p| format!("Unsupported preallocation mode '{p}'"));
            if refused.is_some() {
                return Err(Errno::NOTSUP);
            }
            let _one = self.growing.lock().await;
            self.resize(len).await
        })
    }

    fn truncate_failure(&self) -> Option<String> {
        self.refused.lock().take()
    }

    fn stage<'a>(&'a self, _cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            if next.reopen && !next.flags.read_only && !self.writable {
                let node = &next.node_name;
                return Err(match self.snapshot {
                    true => qerr!("Cannot change node '{node}' to r/w when using RBD snapshot"),
                    false => qerr!("Cannot change node '{node}' to r/w: {}", Errno::PERM),
                });
            }
            Ok(Box::new(NothingStaged) as Box<dyn Staged>)
        })
    }

    fn has_internal_snapshots(&self) -> bool {
        true
    }

    fn internal_snapshot<'a>(
        &'a self,
        _cx: &'a Cx<'a>,
        op: &'a SnapshotOp,
    ) -> CtlFuture<'a, Option<SnapshotInfo>> {
        Box::pin(async move {
            let failed = |what: &str, e: Errno| qerr!("failed to {what}: {e}");
            self.look_again().await.map_err(|e| failed("list snapshots", e))?;
            let wanted = match op {
                SnapshotOp::Create { name, .. } => Some(name),
                SnapshotOp::Delete { id, name } | SnapshotOp::Apply { id, name } => {
                    // A name is all that one has.
                    match (id, name) {
                        (Some(id), Some(name)) if id != name => return Ok(None),
                        (id, name) => name.as_ref().or(id.as_ref()),
                    }
                }
            };
            let Some(wanted) = wanted.cloned() else { return Ok(None) };
            let there = self.state.lock().snapshots.iter().find(|s| s.name == wanted).map(told);
            let name = wanted.clone();
            let info = match op {
                SnapshotOp::Create { again, .. } => {
                    match there {
                        // There are no two of the same name.
                        Some(_) if *again => return Err(qerr!("{}", Errno::EXIST)),
                        Some(_) => return Ok(None),
                        None => {}
                    }
                    let taken = match wanted.is_empty() {
                        true => Err(Errno::INVAL),
                        false => self.apart(move |i| i.take_snapshot(&name)).await,
                    };
                    taken.map_err(|e| qerr!("{e}"))?;
                    Some(told(&Snapshot { name: wanted, size: self.len.load(Ordering::Acquire) }))
                }
                SnapshotOp::Delete { .. } if there.is_some() => {
                    self.apart(move |i| i.remove_snapshot(&name))
                        .await
                        .map_err(|e| failed("remove snapshot", e))?;
                    there
                }
                SnapshotOp::Apply { .. } if there.is_some() => {
                    let len = self.apart(move |i| i.go_back_to(&name).and_then(|()| i.len())).await;
                    self.len.store(len.map_err(|e| failed("roll back", e))?, Ordering::Release);
                    there
                }
                _ => None,
            };
            self.look_again().await.map_err(|e| failed("list snapshots", e))?;
            Ok(info)
        })
    }

    fn close<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move {
            self.shut().await;
            Ok(())
        })
    }

    fn forced_read_only(&self) -> bool {
        self.forced_read_only
    }

    fn info(&self, _cx: &Cx<'_>) -> DriverInfo {
        DriverInfo {
            cluster_size: Some(self.object),
            dirty: Some(false),
            format_specific: Some(ImageInfoSpecific::Rbd(self.specific.clone())),
            snapshots: self.state.lock().snapshots.iter().map(told).collect(),
            ..DriverInfo::default()
        }
    }
}
