//! What queries show about an image.

use api::block_core::{
    ImageInfoSpecific, ImageInfoSpecificQCow2, Qcow2BitmapInfo, Qcow2BitmapInfoFlags, Qcow2CompressionType,
    SnapshotInfo,
};
use api::crypto::QCryptoBlockInfoQCow2;
use block::driver::DriverInfo;

use crate::bitmap::BitmapInfo;
use crate::header::{Compression, Header, RawExt};
use crate::image::Image;
use crate::snapshot::Snapshot;
use crate::spec::{autoclear, compat, ext, incompat};

/// What only qcow2 images have.
pub fn specific(
    h: &Header,
    bitmaps: &[BitmapInfo],
    encrypt: Option<QCryptoBlockInfoQCow2>,
) -> ImageInfoSpecificQCow2 {
    let v3 = h.version >= 3;
    ImageInfoSpecificQCow2 {
        compat: h.compat().to_string(),
        data_file: h.data_file.clone(),
        data_file_raw: h.geometry.data_file.then(|| h.raw_data_file()),
        extended_l2: v3.then_some(h.geometry.extended),
        lazy_refcounts: v3.then(|| h.lazy_refcounts()),
        corrupt: v3.then(|| h.has(incompat::CORRUPT)),
        refcount_bits: i64::from(h.geometry.refcount_bits()),
        encrypt,
        bitmaps: (!bitmaps.is_empty()).then(|| bitmaps.iter().map(bitmap).collect()),
        compression_type: match h.compression {
            Compression::Zlib => Qcow2CompressionType::Zlib,
            Compression::Zstd => Qcow2CompressionType::Zstd,
        },
    }
}

fn bitmap(b: &BitmapInfo) -> Qcow2BitmapInfo {
    let flags = [(1, Qcow2BitmapInfoFlags::InUse), (2, Qcow2BitmapInfoFlags::Auto)];
    Qcow2BitmapInfo {
        name: b.name.clone(),
        granularity: 1 << b.granularity_bits,
        flags: flags.into_iter().filter(|(bit, _)| b.flags & bit != 0).map(|(_, f)| f).collect(),
    }
}

/// A snapshot as queries show it.
pub fn snapshot(s: &Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        id: s.id.clone(),
        name: s.name.clone(),
        vm_state_size: s.vm_state_size as i64,
        date_sec: i64::from(s.date_sec),
        date_nsec: i64::from(s.date_nsec),
        vm_clock_sec: (s.vm_clock_nsec / 1_000_000_000) as i64,
        vm_clock_nsec: (s.vm_clock_nsec % 1_000_000_000) as i64,
        icount: s.icount.map(|v| v as i64),
    }
}

/// Bytes of the tables that are read when the image is opened.
fn tables(h: &Header) -> u64 {
    let refcounts = u64::from(h.reftable_clusters).saturating_mul(h.geometry.cluster_size());
    let bitmaps = h.bitmaps.as_ref().map_or(0, |b| b.directory_size);
    (u64::from(h.l1_size) * 8).saturating_add(refcounts).saturating_add(bitmaps)
}

/// The features and header extensions that are not known. (With an incompatible feature that is not known, the image would
/// not be open.)
fn unknown(h: &Header) -> Vec<String> {
    let bits = |kind: &str, all: u64, known: u64| {
        let kind = kind.to_owned();
        (0..64).filter(move |b| all & !known & (1 << b) != 0).map(move |b| format!("{kind} feature {b}"))
    };
    let extension = |e: &RawExt| !matches!(e.kind, ext::FEATURE_NAMES | ext::PADDING | ext::CRYPTO);
    let compatible = bits("compatible", h.compatible, compat::LAZY_REFCOUNTS);
    let autoclear = bits("autoclear", h.autoclear, autoclear::KNOWN);
    let extensions = h.extensions.iter().filter(|e| extension(e)).map(|e| format!("extension {:#x}", e.kind));
    compatible.chain(autoclear).chain(extensions).collect()
}

/// The driver's part of query answers. Does not wait for storage.
pub fn driver_info(image: &Image) -> DriverInfo {
    let s = image.shown.read();
    let rested = |b: &&BitmapInfo| s.rested.contains(&b.name);
    let bitmaps: Vec<BitmapInfo> = s.bitmaps.iter().filter(rested).cloned().collect();
    let encrypt = image.crypt.as_ref().and_then(|c| c.info());
    DriverInfo {
        actual_size: None,
        cluster_size: Some(image.geometry().cluster_size()),
        dirty: Some(s.header.has(incompat::DIRTY)),
        compressed: None,
        encrypted: image.is_encrypted().then_some(true),
        format_specific: Some(ImageInfoSpecific::Qcow2(specific(&s.header, &bitmaps, encrypt))),
        snapshots: s.snapshots.iter().map(snapshot).collect(),
        vm_state_offset: Some({
            let g = image.geometry();
            g.l1_entries_for(image.virtual_size()).saturating_mul(g.l2_coverage())
        }),
        tables: Some(tables(&s.header)),
        unknown: unknown(&s.header),
    }
}
