//! Making images.

use qapi::Qapi;

use super::{BlockdevRef, Qcow2CompressionType};
use crate::crypto::{
    QCryptoBlockAmendOptions, QCryptoBlockAmendOptionsLUKS, QCryptoBlockCreateOptions,
    QCryptoBlockCreateOptionsLUKS,
};

/// How much of a new image is allocated at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum PreallocMode {
    /// Nothing.
    #[default]
    Off,
    /// The format's metadata, so that later writes need none.
    Metadata,
    /// All, by asking the file system for the space.
    Falloc,
    /// All, by writing zeroes.
    Full,
}

/// The version of a qcow2 image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockdevQcow2Version {
    /// Version 2, which QEMU 0.10 introduced.
    V2,
    /// Version 3, which QEMU 1.1 introduced.
    #[default]
    V3,
}

/// A file to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockdevCreateOptionsFile {
    /// Path of the file.
    pub filename: String,
    /// Size in bytes.
    #[qapi(size)]
    pub size: u64,
    /// What to allocate: `off` (the default), `falloc` or `full`.
    pub preallocation: Option<PreallocMode>,
    /// Ask the file system not to copy on write (btrfs). Off unless given.
    pub nocow: Option<bool>,
    /// Bytes that the file system shall allocate at a time (XFS); 0 for its own choice. 1 MiB unless given.
    #[qapi(size)]
    pub extent_size_hint: Option<u64>,
}

/// A qcow2 image to be made.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevCreateOptionsQcow2 {
    /// The node that shall hold it.
    pub file: BlockdevRef,
    /// A node that shall hold the guest's data instead of `file`.
    pub data_file: Option<BlockdevRef>,
    /// Keep `data-file` readable as a raw image. Off unless given.
    pub data_file_raw: Option<bool>,
    /// Give level 2 entries a bitmap of subclusters. Off unless given.
    pub extended_l2: Option<bool>,
    /// Bytes that a guest sees.
    #[qapi(size)]
    pub size: u64,
    /// The image's version; `v3` unless given.
    pub version: Option<BlockdevQcow2Version>,
    /// Name of the backing file, for the header.
    pub backing_file: Option<String>,
    /// Format of the backing file, for the header.
    pub backing_fmt: Option<super::BlockdevDriver>,
    /// How its data is to be encrypted. Not unless given.
    pub encrypt: Option<QCryptoBlockCreateOptions>,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB. 65536 unless given.
    #[qapi(size)]
    pub cluster_size: Option<u64>,
    /// What to allocate; `off` unless given.
    pub preallocation: Option<PreallocMode>,
    /// Let updates of reference counts be put off. Off unless given.
    pub lazy_refcounts: Option<bool>,
    /// Bits of a reference count: 1, 2, 4, 8, 16, 32 or 64. 16 unless given.
    pub refcount_bits: Option<i64>,
    /// How clusters are compressed; `zlib` unless given.
    pub compression_type: Option<Qcow2CompressionType>,
}

/// A LUKS volume to be made.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct BlockdevCreateOptionsLUKS {
    /// Its encryption.
    #[qapi(flatten)]
    pub base: QCryptoBlockCreateOptionsLUKS,
    /// The node that shall hold it, or with `header` its data alone. One of the two must be given.
    pub file: Option<BlockdevRef>,
    /// The node that shall hold the header.
    pub header: Option<BlockdevRef>,
    /// Bytes that a guest sees.
    #[qapi(size)]
    pub size: u64,
    /// What to allocate: `off` (the default), `falloc` or `full`.
    pub preallocation: Option<PreallocMode>,
}

/// A VDI image to be made.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevCreateOptionsVdi {
    /// The node that shall hold it.
    pub file: BlockdevRef,
    /// Bytes that a guest sees.
    #[qapi(size)]
    pub size: u64,
    /// What to allocate: `off` (the default), or `metadata` for a static image, whose blocks all have their place.
    pub preallocation: Option<PreallocMode>,
}

/// The kind of a VHD image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockdevVpcSubformat {
    /// It grows with what is written.
    #[default]
    Dynamic,
    /// The disk's bytes as they are, and a footer.
    Fixed,
}

/// A VHD image to be made.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevCreateOptionsVpc {
    /// The node that shall hold it.
    pub file: BlockdevRef,
    /// Bytes that a guest sees. Unless `force-size` is set, rounded up to what a geometry can say.
    #[qapi(size)]
    pub size: u64,
    /// Its kind; `dynamic` unless given.
    pub subformat: Option<BlockdevVpcSubformat>,
    /// Use the size exactly as given; Virtual PC does not read such images. Off unless given.
    pub force_size: Option<bool>,
}

/// An image to be made.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(tag = "driver", tag_enum = "BlockdevCreateDriver")]
pub enum BlockdevCreateOptions {
    /// A file of the host.
    File(BlockdevCreateOptionsFile),
    /// A LUKS volume.
    Luks(BlockdevCreateOptionsLUKS),
    /// A qcow2 image.
    Qcow2(BlockdevCreateOptionsQcow2),
    /// An image of VirtualBox.
    Vdi(BlockdevCreateOptionsVdi),
    /// A VHD image.
    Vpc(BlockdevCreateOptionsVpc),
}

/// A change of a qcow2 image's options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockdevAmendOptionsQcow2 {
    /// What changes of its encryption.
    pub encrypt: Option<QCryptoBlockAmendOptions>,
}

/// A change of an image's format options.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(tag = "driver", tag_enum = "BlockdevAmendDriver")]
pub enum BlockdevAmendOptions {
    /// The key slots of a LUKS volume.
    Luks(QCryptoBlockAmendOptionsLUKS),
    /// The options of a qcow2 image.
    Qcow2(BlockdevAmendOptionsQcow2),
}

/// Changes an image's format options, as a job. It is never dismissed by itself.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "x-blockdev-amend", unstable)]
pub struct XBlockdevAmend {
    /// What to call the job.
    pub job_id: String,
    /// The node.
    pub node_name: String,
    /// The changes. `driver` is that of the node.
    pub options: BlockdevAmendOptions,
    /// Do it even if data is lost for good, or if it takes two steps where a crash between them leaves neither state. Off unless
    /// given.
    pub force: Option<bool>,
}
