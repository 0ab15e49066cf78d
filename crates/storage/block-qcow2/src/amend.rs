//! Changing what an image is: its version, the width of its refcounts, marks in its header, its size.

use base::Errno;
use block::driver::Prealloc;
use crypto::Secret;
use qapi::{QError, qerr};

use crate::check;
use crate::crypt::Key;
use crate::geometry::{Entry, Mapping};
use crate::header::{CryptMethod, Header, RawExt};
use crate::host::Host;
use crate::image::{Image, read_header};
use crate::opts::Config;
use crate::spec::{self, compat, incompat};

/// What is to change; what is not given stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amend {
    /// 2 or 3.
    pub version: Option<u32>,
    /// Bits of a refcount: a power of two up to 64; 16 in version 2.
    pub refcount_bits: Option<u64>,
    /// Whether updates of refcounts are put off; version 3.
    pub lazy_refcounts: Option<bool>,
    /// The name of the external data file, for an image that has one.
    pub data_file: Option<String>,
    /// The virtual size, bytes.
    pub size: Option<u64>,
    /// The password of an encrypted image. Needed for all changes of it.
    pub password: Option<Secret>,
}

fn io(what: &'static str) -> impl Fn(Errno) -> QError {
    move |e| qerr!("Failed to {what}: {e}")
}

/// Changes the image in `host`, which nobody else may use meanwhile. All of it is checked before anything is changed; each
/// change is done one after another and leaves an image that can be used, also when it is interrupted. The texts of errors
/// are the reference's. `tell` hears how many steps of how many are done.
pub async fn amend<H: Host>(host: &H, a: &Amend, tell: &mut dyn FnMut(u64, u64)) -> Result<(), QError> {
    let h = read_header(host).await?;
    let version = a.version.unwrap_or(h.version);
    let order = plan(&h, a, version)?;
    snapshots_allow(host, &h, version).await?;
    if h.version < version {
        tell(0, 2);
        change(host, true, |h| *h = upgraded(h)).await?;
        tell(1, 2);
    }
    if order != h.geometry.refcount_order {
        check::set_refcount_order(host, order).await?;
    }
    if let Some(on) = a.lazy_refcounts.filter(|on| *on != h.lazy_refcounts()) {
        change(host, true, |h| match on {
            true => h.compatible |= compat::LAZY_REFCOUNTS,
            false => h.compatible &= !compat::LAZY_REFCOUNTS,
        })
        .await?;
    }
    if let Some(name) = &a.data_file {
        change(host, false, |h| h.data_file = Some(name.clone()).filter(|n| !n.is_empty())).await?;
    }
    if let Some(size) = a.size.filter(|s| *s != h.size) {
        let image = unlocked(host, a).await?;
        image.truncate(host, size, Prealloc::Off).await.map_err(io("resize the image"))?;
        image.make_clean(host).await.map_err(io("resize the image"))?;
    }
    if h.version > version {
        downgrade(host, a, tell).await?;
    }
    host.flush().await.map_err(io("flush the image"))?;
    if h.version < version {
        tell(2, 2);
    }
    Ok(())
}

/// Whether [`amend`] would do this, as far as it can be told before anything is changed.
///
/// # Errors
/// Those that [`amend`] begins with.
pub async fn possible<H: Host>(host: &H, a: &Amend) -> Result<(), QError> {
    let h = read_header(host).await?;
    let version = a.version.unwrap_or(h.version);
    plan(&h, a, version)?;
    snapshots_allow(host, &h, version).await
}

/// Refuses version 2 where snapshots have zero clusters, which it does not know.
async fn snapshots_allow<H: Host>(host: &H, h: &Header, version: u32) -> Result<(), QError> {
    if version > 2 || h.version < 3 || h.snapshot_count == 0 {
        return Ok(());
    }
    let g = h.geometry;
    let image = open(host).await?;
    let snapshots = image.shown.read().snapshots.clone();
    for s in &snapshots {
        let told = image.told_snapshot_l1(host, s).await;
        for table in told.map_err(|e| qerr!("Failed to turn zero into data clusters: {e}"))? {
            if table == 0 {
                continue;
            }
            let entries = image.read_entries(host, table).await.map_err(io("read an L2 table"))?;
            let zero = |e: &Entry| matches!(g.mapping(*e), Mapping::ZeroPlain | Mapping::ZeroAlloc(_));
            if entries.iter().any(zero) {
                return Err(qerr!("Internal snapshots prevent downgrade of image"));
            }
        }
    }
    Ok(())
}

/// Checks what is asked; answers log2 of the refcounts' width.
fn plan(h: &Header, a: &Amend, version: u32) -> Result<u32, QError> {
    let order = match a.refcount_bits {
        Some(n) if !n.is_power_of_two() || n > 64 => {
            return Err(qerr!("Refcount width must be a power of two and may not exceed 64 bits"));
        }
        Some(n) => n.trailing_zeros(),
        None => h.geometry.refcount_order,
    };
    if !(2..=3).contains(&version) {
        return Err(qerr!("Unknown compatibility level {version}"));
    }
    if version < 3 && order != 4 {
        return Err(match a.refcount_bits {
            Some(bits) if bits != u64::from(h.geometry.refcount_bits()) => qerr!(
                "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)"
            ),
            _ => qerr!("compat=0.10 requires refcount_bits=16"),
        });
    }
    if version < 3 && a.lazy_refcounts == Some(true) {
        return Err(qerr!(
            "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)"
        ));
    }
    if a.data_file.is_some() && !h.geometry.data_file {
        return Err(qerr!("data-file can only be set for images that use an external data file"));
    }
    if a.data_file.as_ref().is_some_and(|n| n.len() > spec::MAX_BACKING_NAME as usize) {
        return Err(qerr!("The name of the external data file is too long"));
    }
    if a.size.is_some_and(|s| s % 512 != 0) {
        return Err(qerr!("The new size must be a multiple of 512"));
    }
    if h.crypt != CryptMethod::None && a.password.is_none() {
        return Err(qerr!("Parameter 'encrypt.key-secret' is required for cipher"));
    }
    if h.has(incompat::CORRUPT) {
        return Err(qerr!("qcow2: Image is corrupt; cannot be opened read/write"));
    }
    if h.version == 3 && version == 2 {
        let left = h.incompatible & !incompat::DIRTY;
        if h.geometry.data_file {
            return Err(qerr!("Cannot downgrade an image with a data file"));
        }
        if left != 0 {
            return Err(qerr!("Cannot downgrade an image with incompatible features {left:#x} set"));
        }
        if h.bitmaps.is_some() && h.autoclear & spec::autoclear::BITMAPS != 0 {
            return Err(qerr!("Cannot downgrade an image with persistent bitmaps: remove them first"));
        }
    }
    Ok(order)
}

async fn open<H: Host>(host: &H) -> Result<Image, QError> {
    let image = Image::open(host, "", true, |h| Config::new(h, None, false)).await?;
    if image.is_dirty() {
        check::check(host, check::Fix::All, &mut |_| {}).await?;
        return Image::open(host, "", true, |h| Config::new(h, None, false)).await;
    }
    Ok(image)
}

/// Changes the header. `names`: the names of features may give way where there is no room for all of it.
async fn change<H: Host>(host: &H, names: bool, f: impl FnOnce(&mut Header)) -> Result<(), QError> {
    let image = open(host).await?;
    let mut m = image.meta.lock().await;
    let mut next = m.header.clone();
    f(&mut next);
    if names {
        next.make_room();
    }
    next.encode()?;
    m.header = next;
    image.put_header(host, &mut m).await.map_err(io("write the header"))
}

/// The image with its data open.
async fn unlocked<H: Host>(host: &H, a: &Amend) -> Result<Image, QError> {
    let mut image = open(host).await?;
    if let Some(p) = &a.password {
        image.unlock(host, Key::Password(p, None)).await?;
    }
    Ok(image)
}

fn upgraded(h: &Header) -> Header {
    let fresh = Header::new(3, h.geometry, h.size, h.compression);
    let mut extensions: Vec<RawExt> = h.extensions.clone();
    extensions.extend(fresh.extensions);
    Header { version: 3, length: fresh.length, extensions, ..h.clone() }
}

async fn downgrade<H: Host>(host: &H, a: &Amend, tell: &mut dyn FnMut(u64, u64)) -> Result<(), QError> {
    let image = unlocked(host, a).await?;
    let own = image.virtual_size().div_ceil(image.geo.l2_coverage());
    // There is nothing to do in those of snapshots: that was seen to before.
    let others: u64 = image.shown.read().snapshots.iter().map(|s| u64::from(s.l1_size)).sum();
    let backed = image.header().backing_file.is_some();
    image.modify(host).await.map_err(io("prepare the image"))?;
    let expanded = image.expand_zeros(host, backed, &mut |at| tell(at, own + others)).await;
    expanded.map_err(io("turn zero into data clusters"))?;
    for at in 1..=others {
        tell(own + at, own + others);
    }
    image.make_clean(host).await.map_err(io("write back the image's metadata"))?;
    drop(image);
    change(host, false, |h| {
        h.extensions.retain(|e| e.kind != spec::ext::FEATURE_NAMES);
        (h.version, h.length) = (2, spec::V2_HEADER_LENGTH as u32);
        (h.incompatible, h.compatible, h.autoclear) = (0, 0, 0);
        (h.bitmaps, h.kept_bitmaps) = (None, None);
        h.tail.clear();
    })
    .await
}
