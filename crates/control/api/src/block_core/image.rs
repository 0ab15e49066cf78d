//! What is told about an image.

use qapi::Qapi;
use std::sync::Arc;

use crate::crypto::{QCryptoBlockInfoLUKS, QCryptoBlockInfoQCow2};

/// A snapshot inside an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct SnapshotInfo {
    /// Its id, unique in the image.
    pub id: String,
    /// Its name, chosen by the user.
    pub name: String,
    /// Bytes of saved machine state; 0 when only the disk was saved.
    pub vm_state_size: i64,
    /// When it was taken: seconds since 1970 UTC.
    pub date_sec: i64,
    /// And nanoseconds.
    pub date_nsec: i64,
    /// The guest's clock then: seconds.
    pub vm_clock_sec: i64,
    /// And nanoseconds.
    pub vm_clock_nsec: i64,
    /// Instructions executed until then, where they were counted.
    pub icount: Option<i64>,
}

/// How a qcow2 image compresses clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum Qcow2CompressionType {
    /// Deflate (RFC 1951).
    #[default]
    Zlib,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// The flags of a dirty bitmap stored in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum Qcow2BitmapInfoFlags {
    /// It was not stored properly; its content cannot be relied on.
    InUse,
    /// It tracks writes as soon as the image is opened.
    Auto,
}

/// A dirty bitmap stored in a qcow2 image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct Qcow2BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes that one bit stands for.
    pub granularity: u32,
    /// Its flags.
    pub flags: Vec<Qcow2BitmapInfoFlags>,
}

/// What only qcow2 images have.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct ImageInfoSpecificQCow2 {
    /// Compatibility level: `0.10` for version 2, `1.1` for version 3.
    pub compat: String,
    /// Name of the file that holds the guest's data, where the image has one apart.
    pub data_file: Option<String>,
    /// Whether that file may be read on its own as a raw image.
    pub data_file_raw: Option<bool>,
    /// Whether level 2 entries carry a bitmap of subclusters. Version 3 only.
    pub extended_l2: Option<bool>,
    /// Whether updates of reference counts may be put off. Version 3 only.
    pub lazy_refcounts: Option<bool>,
    /// Whether the image is marked as corrupt. Version 3 only.
    pub corrupt: Option<bool>,
    /// Bits of one reference count: 1, 2, 4, 8, 16, 32 or 64.
    pub refcount_bits: i64,
    /// How it is encrypted, if it is.
    pub encrypt: Option<QCryptoBlockInfoQCow2>,
    /// Dirty bitmaps stored in it, if there are any.
    pub bitmaps: Option<Vec<Qcow2BitmapInfo>>,
    /// How clusters are compressed.
    pub compression_type: Qcow2CompressionType,
}

/// One extent file of a VMDK image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct VmdkExtentInfo {
    /// The file's name.
    pub filename: String,
    /// The kind of extent.
    pub format: String,
    /// Bytes of the disk that it covers.
    pub virtual_size: i64,
    /// Bytes of a cluster, where it has clusters.
    pub cluster_size: Option<i64>,
    /// Whether it is compressed.
    pub compressed: Option<bool>,
}

/// What only VMDK images have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ImageInfoSpecificVmdk {
    /// The kind of image, e.g. `monolithicSparse`.
    pub create_type: String,
    /// Content id.
    pub cid: i64,
    /// Content id of the parent.
    pub parent_cid: i64,
    /// The extent files.
    pub extents: Vec<VmdkExtentInfo>,
}

/// The encryption of an RBD image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum RbdImageEncryptionFormat {
    /// LUKS version 1.
    Luks,
    /// LUKS version 2.
    Luks2,
    /// Either; for opening only.
    LuksAny,
}

/// What only RBD images have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ImageInfoSpecificRbd {
    /// How it is encrypted, if it is.
    pub encryption_format: Option<RbdImageEncryptionFormat>,
}

/// What only files of the host have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ImageInfoSpecificFile {
    /// Bytes that the file system allocates at a time, where it was told to.
    #[qapi(size)]
    pub extent_size_hint: Option<u64>,
}

/// What only one format has; on the wire the branch's members stand in `data`.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(tag = "type", tag_enum = "ImageInfoSpecificKind", wrap = "data")]
pub enum ImageInfoSpecific {
    /// qcow2.
    Qcow2(ImageInfoSpecificQCow2),
    /// VMDK.
    Vmdk(ImageInfoSpecificVmdk),
    /// LUKS.
    Luks(QCryptoBlockInfoLUKS),
    /// RBD.
    Rbd(ImageInfoSpecificRbd),
    /// A file of the host.
    File(ImageInfoSpecificFile),
}

/// What is told about an image, without its children.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct BlockNodeInfo {
    /// The image's file name, or its `json:` description.
    pub filename: String,
    /// The name of its format driver.
    pub format: String,
    /// Set when the image was not closed properly.
    pub dirty_flag: Option<bool>,
    /// Bytes that it takes on the host.
    pub actual_size: Option<i64>,
    /// Bytes that a guest sees.
    pub virtual_size: i64,
    /// Bytes of a cluster.
    pub cluster_size: Option<i64>,
    /// Whether it is encrypted.
    pub encrypted: Option<bool>,
    /// Whether all of it is compressed.
    pub compressed: Option<bool>,
    /// The backing file's name as the image's header says.
    pub backing_filename: Option<String>,
    /// The same, resolved against the image's own directory.
    pub full_backing_filename: Option<String>,
    /// The backing file's format as the image's header says.
    pub backing_filename_format: Option<String>,
    /// Snapshots inside it.
    pub snapshots: Option<Vec<SnapshotInfo>>,
    /// What only its format has.
    pub format_specific: Option<ImageInfoSpecific>,
}

/// What is told about an image and those behind it.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct ImageInfo {
    /// The image itself.
    #[qapi(flatten)]
    pub base: BlockNodeInfo,
    /// Its backing image.
    pub backing_image: Option<Arc<ImageInfo>>,
}

/// One child of a node, for [`BlockGraphInfo`].
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct BlockChildInfo {
    /// The child's name, e.g. `file`.
    pub name: String,
    /// The child node.
    pub info: BlockGraphInfo,
}

/// What is told about a node and all its children.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct BlockGraphInfo {
    /// The node itself.
    #[qapi(flatten)]
    pub base: BlockNodeInfo,
    /// Its children.
    pub children: Vec<BlockChildInfo>,
}

/// The result of checking an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct ImageCheck {
    /// The image's name.
    pub filename: String,
    /// The format that checked it.
    pub format: String,
    /// Errors of the check itself.
    pub check_errors: i64,
    /// Offset in the file at which its highest used cluster ends, where the format tells.
    pub image_end_offset: Option<i64>,
    /// Corruptions found, less those that were repaired. Left out when there is none.
    pub corruptions: Option<i64>,
    /// Leaked clusters found, less those that were repaired. Left out when there is none.
    pub leaks: Option<i64>,
    /// Corruptions repaired. Left out when there is none.
    pub corruptions_fixed: Option<i64>,
    /// Leaks repaired. Left out when there is none.
    pub leaks_fixed: Option<i64>,
    /// Clusters of the whole image, where the format tells.
    pub total_clusters: Option<i64>,
    /// Clusters allocated, where the format tells.
    pub allocated_clusters: Option<i64>,
    /// Clusters that do not follow their predecessor in the file, where the format tells.
    pub fragmented_clusters: Option<i64>,
    /// Compressed clusters, where the format tells.
    pub compressed_clusters: Option<i64>,
}

/// A range of an image and where its bytes are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct MapEntry {
    /// First byte.
    pub start: i64,
    /// Bytes.
    pub length: i64,
    /// Whether it has data.
    pub data: bool,
    /// Whether it reads as zeroes.
    pub zero: bool,
    /// Whether it is compressed.
    pub compressed: bool,
    /// How many images down the backing chain it is found; 0 for the image itself.
    pub depth: i64,
    /// Whether this image or one behind it has it at all.
    pub present: bool,
    /// Offset in `filename`, where it stands there as it is.
    pub offset: Option<i64>,
    /// The file that holds it.
    pub filename: Option<String>,
}
