//! Making images.

use qapi::Qapi;

use super::{BlockdevCreateOptionsRbd, BlockdevOptionsSsh, BlockdevRef, Qcow2CompressionType};
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

/// The kind of a VHDX image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockdevVhdxSubformat {
    /// It grows with what is written.
    #[default]
    Dynamic,
    /// All blocks have their place from the beginning.
    Fixed,
}

/// A VHDX image to be made.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevCreateOptionsVhdx {
    /// The node that shall hold it.
    pub file: BlockdevRef,
    /// Bytes that a guest sees.
    #[qapi(size)]
    pub size: u64,
    /// Bytes of the log: a multiple of 1 MiB. 1 MiB unless given.
    #[qapi(size)]
    pub log_size: Option<u64>,
    /// Bytes of a block: a multiple of 1 MiB, at most 256 MiB. Chosen by the size unless given.
    #[qapi(size)]
    pub block_size: Option<u64>,
    /// Its kind; `dynamic` unless given.
    pub subformat: Option<BlockdevVhdxSubformat>,
    /// Say of blocks that were never written that they are zeroes, rather than that they are not there. On unless given.
    pub block_state_zero: Option<bool>,
}

/// The kind of a VMDK image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockdevVmdkSubformat {
    /// One file that grows with what is written.
    #[default]
    #[qapi(name = "monolithicSparse")]
    MonolithicSparse,
    /// A descriptor, and one file with the disk's bytes.
    #[qapi(name = "monolithicFlat")]
    MonolithicFlat,
    /// A descriptor, and files for 2 GiB each that grow with what is written.
    #[qapi(name = "twoGbMaxExtentSparse")]
    TwoGbMaxExtentSparse,
    /// A descriptor, and files with 2 GiB of the disk's bytes each.
    #[qapi(name = "twoGbMaxExtentFlat")]
    TwoGbMaxExtentFlat,
    /// One file whose grains are compressed and written once.
    #[qapi(name = "streamOptimized")]
    StreamOptimized,
}

/// The disk adapter that a VMDK image says it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockdevVmdkAdapterType {
    /// IDE.
    #[default]
    Ide,
    /// BusLogic SCSI.
    Buslogic,
    /// LSI Logic SCSI.
    Lsilogic,
    /// That of old ESX servers.
    #[qapi(name = "legacyESX")]
    LegacyEsx,
}

/// A VMDK image to be made.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevCreateOptionsVmdk {
    /// The node that shall hold it, or its descriptor.
    pub file: BlockdevRef,
    /// Bytes that a guest sees: a multiple of 512.
    #[qapi(size)]
    pub size: u64,
    /// The nodes that shall hold the disk, where the descriptor has a file of its own: one, or one for each 2 GiB.
    pub extents: Option<Vec<BlockdevRef>>,
    /// Its kind; `monolithicSparse` unless given.
    pub subformat: Option<BlockdevVmdkSubformat>,
    /// Name of the backing file, for the descriptor. It must be a VMDK image.
    pub backing_file: Option<String>,
    /// The disk adapter that the descriptor names; `ide` unless given.
    pub adapter_type: Option<BlockdevVmdkAdapterType>,
    /// The version of the virtual hardware that the descriptor names; 4 unless given.
    pub hwversion: Option<String>,
    /// The version of the guest's tools that the descriptor names; 2147483647 unless given.
    pub toolsversion: Option<String>,
    /// Let grains be marked as zeroes. Off unless given.
    pub zeroed_grain: Option<bool>,
}

/// A qcow image (version 1) to be made.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevCreateOptionsQcow {
    /// The node that shall hold it.
    pub file: BlockdevRef,
    /// Bytes that a guest sees.
    #[qapi(size)]
    pub size: u64,
    /// Name of the backing file, for the header.
    pub backing_file: Option<String>,
    /// How its data is to be encrypted: the old encryption is the only one that there is. Not unless given.
    pub encrypt: Option<QCryptoBlockCreateOptions>,
}

/// A QED image to be made.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevCreateOptionsQed {
    /// The node that shall hold it.
    pub file: BlockdevRef,
    /// Bytes that a guest sees.
    #[qapi(size)]
    pub size: u64,
    /// Name of the backing file, for the header.
    pub backing_file: Option<String>,
    /// Format of the backing file. Only whether it is `raw` is kept.
    pub backing_fmt: Option<super::BlockdevDriver>,
    /// Bytes of a cluster: a power of two from 4 KiB to 64 MiB. 65536 unless given.
    #[qapi(size)]
    pub cluster_size: Option<u64>,
    /// Clusters of a table: 1, 2, 4, 8 or 16. 4 unless given.
    pub table_size: Option<i64>,
}

/// A Parallels image to be made.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevCreateOptionsParallels {
    /// The node that shall hold it.
    pub file: BlockdevRef,
    /// Bytes that a guest sees.
    #[qapi(size)]
    pub size: u64,
    /// Bytes of a cluster. 1 MiB unless given.
    #[qapi(size)]
    pub cluster_size: Option<u64>,
}

/// A new file of another host.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct BlockdevCreateOptionsSsh {
    /// The file. What it holds is lost.
    pub location: BlockdevOptionsSsh,
    /// Its length, bytes.
    #[qapi(size)]
    pub size: u64,
}

/// An image to be made.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(tag = "driver", tag_enum = "BlockdevCreateDriver")]
pub enum BlockdevCreateOptions {
    /// A file of the host.
    File(BlockdevCreateOptionsFile),
    /// A LUKS volume.
    Luks(BlockdevCreateOptionsLUKS),
    /// An image of Parallels.
    Parallels(BlockdevCreateOptionsParallels),
    /// A qcow image (version 1).
    Qcow(BlockdevCreateOptionsQcow),
    /// A qcow2 image.
    Qcow2(BlockdevCreateOptionsQcow2),
    /// A QED image.
    Qed(BlockdevCreateOptionsQed),
    /// An image in a Ceph cluster.
    Rbd(BlockdevCreateOptionsRbd),
    /// A file of another host, over SSH (SFTP).
    Ssh(BlockdevCreateOptionsSsh),
    /// An image of VirtualBox.
    Vdi(BlockdevCreateOptionsVdi),
    /// A VHDX image of Hyper-V.
    Vhdx(BlockdevCreateOptionsVhdx),
    /// An image of VMware.
    Vmdk(BlockdevCreateOptionsVmdk),
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
