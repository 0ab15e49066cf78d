//! The driver `luks`.

use crate::amend::{amend, iter_time};
use crate::transform::Transform;
use crate::volume::{Area, read_header, unlock};
use api::block_core::{
    BlockdevAmendOptions, BlockdevDriverOptions, BlockdevOptions, BlockdevOptionsLUKS, ImageInfoSpecific,
};
use api::crypto::QCryptoBlockCreateOptionsLUKS;
use base::{Errno, IoResult};
use block::driver::{
    Caps, ChildDef, ChildOption, ChildSlot, CtlFuture, Cx, Driver, DriverInfo, DriverType, Extent,
    ExtentKind, IoFuture, Kind, Limits, NodeFlags, OpenCx, OpenFuture, Prealloc, Support, WriteFlags,
    default_child_perm,
};
use block::perm::{Perm, PermPair, Role};
use crypto::cipher::{SECTOR, SectorCipher};
use crypto::luks::{Header, NewVolume};
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use qom::ObjectTree;
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// `luks`.
pub static LUKS: DriverType = DriverType {
    name: "luks",
    kind: Kind::Format,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: true,
    children,
    child_perm,
    open,
    probe: Some(|bytes, _| crypto::luks::probe(bytes)),
    create: Some(&crate::creation::CREATION),
    ..DriverType::BASE
};

const FILE: ChildSlot = ChildSlot::File;
const HEADER: ChildSlot = ChildSlot::Other(0);

/// The most that is encrypted before it is written, bytes.
const BOUNCE: usize = 1 << 20;

fn options(o: &BlockdevOptions) -> Result<&BlockdevOptionsLUKS, QError> {
    match &o.driver {
        BlockdevDriverOptions::Luks(l) => Ok(l),
        _ => Err(QError::new("The options are not those of 'luks'")),
    }
}

fn children(o: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let detached = options(o).is_ok_and(|l| l.header.is_some());
    let data = Role::DATA | Role::PRIMARY;
    let role = if detached { data } else { data | Role::METADATA };
    smallvec![
        ChildOption { name: "file", slot: FILE, role, required: true },
        ChildOption { name: "header", slot: HEADER, role: Role::METADATA, required: false },
    ]
}

/// The header is written only while key slots change, which a user of the node asks for with
/// [`Perm::WRITE_UNCHANGED`]; else the children are written and resized only as the parents do, and shared as they share.
fn child_perm(child: &ChildDef, parent: PermPair, next: &NodeFlags) -> PermPair {
    let mut p = default_child_perm(child, parent, next);
    let both = Perm::WRITE | Perm::RESIZE;
    p.perm = (p.perm - both) | (parent.perm & both);
    if child.role.contains(Role::METADATA) && parent.perm.contains(Perm::WRITE_UNCHANGED) {
        p.perm |= Perm::WRITE;
    }
    p.shared |= parent.shared & both;
    p
}

/// What the options of a new volume mean. `detached`: its header is in a file of its own.
///
/// # Errors
/// A time that is none.
pub fn new_volume(o: &QCryptoBlockCreateOptionsLUKS, detached: bool) -> Result<NewVolume, QError> {
    Ok(NewVolume {
        cipher: o.cipher_alg,
        mode: o.cipher_mode,
        ivgen: o.ivgen_alg,
        ivgen_hash: o.ivgen_hash_alg,
        hash: o.hash_alg,
        iter_time: iter_time(o.iter_time)?,
        detached,
    })
}

struct Luks {
    header: Mutex<Header>,
    /// Held while key slots change.
    amending: rt::sync::Mutex<()>,
    detached: bool,
    payload: u64,
    /// `None` where only the header is looked at.
    transform: Option<Transform>,
    key_secret: Option<String>,
    objects: Option<Arc<ObjectTree>>,
}

/// The child that has the header.
struct Child<'a> {
    cx: &'a Cx<'a>,
    slot: ChildSlot,
}

impl Area for Child<'_> {
    async fn read(&self, off: u64, len: usize) -> IoResult<Vec<u8>> {
        let buf = IoBuf::zeroed(len);
        self.cx.child_read(self.slot, off, buf.clone()).await?;
        Ok(buf.to_vec())
    }

    async fn write(&self, off: u64, bytes: &[u8]) -> IoResult<()> {
        self.cx.child_write(self.slot, off, IoBuf::from_bytes(bytes), WriteFlags::empty()).await
    }

    async fn flush(&self) -> IoResult<()> {
        self.cx.child_flush(self.slot).await
    }
}

fn area<'a>(cx: &'a Cx<'a>) -> Child<'a> {
    Child { cx, slot: if cx.has_child(HEADER) { HEADER } else { FILE } }
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let opts = options(o.options)?;
        let detached = o.cx.has_child(HEADER);
        let area = area(&o.cx);
        let header = read_header(&area, detached).await?;
        let payload = header.payload_offset();
        let file = o.cx.child_len(FILE).map_err(|e| qerr!("Could not get image size: {e}"))?;
        if payload > file {
            return Err(qerr!("Could not refresh total sector count: {}", Errno::IO));
        }
        let transform = match (&opts.key_secret, o.no_io) {
            (_, true) => None,
            (None, false) => return Err(qerr!("Parameter 'key-secret' is required for cipher")),
            (Some(id), false) => {
                let password = password(o.objects.as_deref(), id)?;
                let master = unlock(&area, &header, &password).await?;
                Some(Transform::new(SectorCipher::new(&header.cipher, &master)?))
            }
        };
        Ok(Arc::new(Luks {
            header: Mutex::new(header),
            amending: rt::sync::Mutex::new(()),
            detached,
            payload,
            transform,
            key_secret: opts.key_secret.clone(),
            objects: o.objects,
        }) as Arc<dyn Driver>)
    })
}

fn password(objects: Option<&ObjectTree>, id: &str) -> Result<crypto::Secret, QError> {
    objects.ok_or_else(|| qerr!("No secret with id '{id}'"))?.password(id)
}

impl Luks {
    /// Where a request lies in the child.
    fn translate(&self, off: u64) -> IoResult<u64> {
        off.checked_add(self.payload).ok_or(Errno::INVAL)
    }

    fn transform(&self) -> IoResult<&Transform> {
        self.transform.as_ref().ok_or(Errno::PERM)
    }
}

impl Driver for Luks {
    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.child_len(FILE).unwrap_or(0).saturating_sub(self.payload)
    }

    fn limits(&self, _cx: &Cx<'_>) -> Limits {
        Limits { request_alignment: SECTOR as u32, ..Limits::default() }
    }

    fn caps(&self, cx: &Cx<'_>) -> Caps {
        // Zeroes are encrypted like anything else. Nothing below may learn what is not used.
        let fua = cx.child_caps(FILE).map_or(Support::Emulate, |c| c.fua);
        Caps { fua, write_zeroes: Support::Emulate, discard: Support::None }
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let eof = off.saturating_add(len) >= self.len(cx);
            Ok(Extent { len, kind: ExtentKind::Own { offset: None, zero: false }, eof })
        })
    }

    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            let transform = self.transform()?;
            cx.child_read(FILE, self.translate(off)?, buf.clone()).await?;
            transform.decrypt(off, &buf)
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let transform = self.transform()?;
            let mut done = 0;
            while done < buf.len() {
                let part = buf.slice(done..buf.len().min(done + BOUNCE));
                let at = off + done as u64;
                let flags = flags - WriteFlags::COMPRESSED;
                cx.child_write(FILE, self.translate(at)?, transform.encrypt(at, &part)?, flags).await?;
                done += part.len();
            }
            Ok(())
        })
    }

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(async move { cx.child_truncate(FILE, self.translate(len)?, exact, prealloc).await })
    }

    fn amend<'a>(&'a self, cx: &'a Cx<'a>, options: &'a BlockdevAmendOptions, force: bool) -> CtlFuture<'a> {
        Box::pin(async move {
            let BlockdevAmendOptions::Luks(o) = options else {
                return Err(qerr!("x-blockdev-amend doesn't support changing the block driver"));
            };
            let secret = |id: &str| password(self.objects.as_deref(), id);
            let key = self.key_secret.as_deref();
            let _one = self.amending.lock().await;
            let header = amend(&area(cx), self.detached, o, key, &secret, force).await?;
            *self.header.lock() = header;
            Ok(())
        })
    }

    fn info(&self, _cx: &Cx<'_>) -> DriverInfo {
        let info = self.header.lock().info(self.detached);
        DriverInfo {
            dirty: Some(false),
            encrypted: Some(true),
            format_specific: Some(ImageInfoSpecific::Luks(info)),
            ..DriverInfo::default()
        }
    }
}
