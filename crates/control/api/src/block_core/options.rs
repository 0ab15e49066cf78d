//! What a block node is made from.

use qapi::Qapi;

use super::debug::{
    BlockdevOptionsBlkdebug, BlockdevOptionsBlklogwrites, BlockdevOptionsBlkreplay, BlockdevOptionsBlkverify,
};
use super::filters::{
    BlockdevOptionsCbw, BlockdevOptionsCompress, BlockdevOptionsCor, BlockdevOptionsPreallocate,
    BlockdevOptionsSnapshotAccess, BlockdevOptionsThrottle,
};
use super::quorum::BlockdevOptionsQuorum;
use super::rbd::BlockdevOptionsRbd;
use super::ssh::BlockdevOptionsSsh;
use crate::common::OnOffAuto;
use crate::crypto::{BlockdevQcow2EncryptionFormat, QCryptoBlockOptionsLUKS, QCryptoBlockOptionsQCow};
use crate::sockets::SocketAddress;

/// What becomes of discard requests that reach a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockdevDiscardOptions {
    /// Drop them.
    #[default]
    Ignore,
    /// Give the space back to whatever is below.
    Unmap,
}

/// Whether writes of zeroes are looked for and turned into cheaper requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockdevDetectZeroesOptions {
    /// Write the bytes as they come.
    #[default]
    Off,
    /// Turn a write of nothing but zeroes into a request to write zeroes.
    On,
    /// The same, and let that request give the space back. Needs `discard` set to `unmap`.
    Unmap,
}

/// How a file is read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockdevAioOptions {
    /// Through a pool of threads.
    #[default]
    Threads,
    /// Through the kernel's own asynchronous calls; needs `cache.direct`.
    Native,
    /// Through io_uring.
    #[qapi(name = "io_uring")]
    IoUring,
}

/// How a node uses the host's page cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockdevCacheOptions {
    /// Go around the page cache. Off unless given.
    pub direct: Option<bool>,
    /// Ignore the guest's flush requests: fast, and unsafe when the host goes down. Off unless given.
    pub no_flush: Option<bool>,
}

/// A block node: the options common to all drivers, and the driver with its own.
///
/// Common options that are left out have the default told below, except that a node defined inside another
/// inherits `read-only`, `auto-read-only`, `discard` and `cache` from it in a way that suits its role.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptions {
    /// The driver and the options that only it has.
    #[qapi(union)]
    pub driver: BlockdevDriverOptions,
    /// The node's name: letters, digits, `-`, `.` and `_`, starting with a letter, at most 31 bytes. Needed for a node that is to
    /// be referred to; a node defined inside another gets a name starting with `#block` when it is left out.
    pub node_name: Option<String>,
    /// What becomes of discard requests. `ignore` unless given.
    pub discard: Option<BlockdevDiscardOptions>,
    /// Use of the page cache.
    pub cache: Option<BlockdevCacheOptions>,
    /// Whether the node starts out active; an inactive node may be used by another process meanwhile. On unless given.
    pub active: Option<bool>,
    /// Refuse writes. Off unless given.
    pub read_only: Option<bool>,
    /// With `read-only` off: open for reading only where writing is not possible, or as long as nobody writes.
    /// Off unless given.
    pub auto_read_only: Option<bool>,
    /// Do not take or respect locks on the image: the data may then change at any time. Needs `read-only`. Off unless given.
    pub force_share: Option<bool>,
    /// Look for writes of zeroes. `off` unless given.
    pub detect_zeroes: Option<BlockdevDetectZeroesOptions>,
}

impl BlockdevOptions {
    /// A node of `driver` without a name and with every common option at its default.
    pub fn new(driver: BlockdevDriverOptions) -> BlockdevOptions {
        BlockdevOptions {
            driver,
            node_name: None,
            discard: None,
            cache: None,
            active: None,
            read_only: None,
            auto_read_only: None,
            force_share: None,
            detect_zeroes: None,
        }
    }
}

/// The drivers and the options that only they have.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(tag = "driver", tag_enum = "BlockdevDriver")]
pub enum BlockdevDriverOptions {
    /// A growing disk of the Bochs emulator; read-only.
    Bochs(BlockdevOptionsGenericFormat),
    /// A compressed loop image; read-only.
    Cloop(BlockdevOptionsGenericFormat),
    /// A disk image of macOS; read-only.
    Dmg(BlockdevOptionsGenericFormat),
    /// A filter that has its node store compressed whatever is written.
    Compress(BlockdevOptionsCompress),
    /// A filter that copies what is about to be overwritten to another node.
    CopyBeforeWrite(BlockdevOptionsCbw),
    /// A filter for tests: makes requests fail by rules, and asks for alignment.
    Blkdebug(BlockdevOptionsBlkdebug),
    /// A filter for tests: keeps a log of all writes.
    Blklogwrites(BlockdevOptionsBlklogwrites),
    /// A filter for tests: does everything with two nodes and compares what they read.
    Blkverify(BlockdevOptionsBlkverify),
    /// A filter for machines that record and replay what happens to them; requests of others just pass.
    Blkreplay(BlockdevOptionsBlkreplay),
    /// A filter that stores what it reads from backing files in the node above them.
    CopyOnRead(BlockdevOptionsCor),
    /// A regular file on the host.
    File(BlockdevOptionsFile),
    /// A block or character device of the host.
    #[qapi(name = "host_device")]
    HostDevice(BlockdevOptionsFile),
    /// A drive of the host whose disc comes and goes.
    #[qapi(name = "host_cdrom")]
    HostCdrom(BlockdevOptionsFile),
    /// A file on a web server; read-only.
    Http(BlockdevOptionsCurlHttp),
    /// The same, encrypted with TLS.
    Https(BlockdevOptionsCurlHttps),
    /// A volume encrypted with LUKS version 1.
    Luks(BlockdevOptionsLUKS),
    /// A network block device: an export of an NBD server.
    Nbd(BlockdevOptionsNbd),
    /// Nothing behind it: reads give zeroes or are left undone, writes vanish.
    NullAio(BlockdevOptionsNull),
    /// The same as `null-aio`; two names for the two ways in which the reference implements it.
    NullCo(BlockdevOptionsNull),
    /// A qcow image: the old format, version 1.
    Qcow(BlockdevOptionsQcow),
    /// A qcow2 image.
    Qcow2(BlockdevOptionsQcow2),
    /// An image of Parallels.
    Parallels(BlockdevOptionsGenericFormat),
    /// A filter that allocates space ahead when its node grows.
    Preallocate(BlockdevOptionsPreallocate),
    /// A QED image.
    Qed(BlockdevOptionsGenericCOWFormat),
    /// Several nodes that hold the same, and vote on it.
    Quorum(BlockdevOptionsQuorum),
    /// The bytes of its child, or a part of them.
    Raw(BlockdevOptionsRaw),
    /// An image in a Ceph cluster.
    Rbd(BlockdevOptionsRbd),
    /// A disk of one of two machines that run in step.
    Replication(BlockdevOptionsReplication),
    /// The past state that a `copy-before-write` filter keeps, for reading.
    SnapshotAccess(BlockdevOptionsSnapshotAccess),
    /// A file of another host, over SSH (SFTP).
    Ssh(BlockdevOptionsSsh),
    /// A filter that holds requests back to keep within the limits of a group.
    Throttle(BlockdevOptionsThrottle),
    /// An image of VirtualBox.
    Vdi(BlockdevOptionsGenericFormat),
    /// A VHDX image of Hyper-V.
    Vhdx(BlockdevOptionsGenericFormat),
    /// An image of VMware.
    Vmdk(BlockdevOptionsGenericCOWFormat),
    /// A VHD image of Virtual PC or Hyper-V.
    Vpc(BlockdevOptionsVpc),
    /// A directory of the host as a disk with a FAT volume; read-only unless `rw` is on.
    Vvfat(BlockdevOptionsVVFAT),
    /// An object in a store with the interface of Amazon's S3; read-only. The reference has no such driver.
    #[qapi(name = "x-rhea-s3", unstable)]
    RheaS3(BlockdevOptionsRheaS3),
}

/// Which of two machines that run in step this one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub enum ReplicationMode {
    /// The one that serves; its writes go to the other.
    Primary,
    /// The one that follows.
    Secondary,
}

/// Options of a disk that is replicated.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsReplication {
    /// On the primary side the way to the other side's disk, usually `nbd`; on the secondary side the active disk: an image over
    /// the hidden disk, which is an image over the secondary disk.
    pub file: BlockdevRef,
    /// Which side this is.
    pub mode: ReplicationMode,
    /// The node or drive that the secondary side's machine uses. Only there, and needed there.
    pub top_id: Option<String>,
}

/// Options of a file on the host.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
#[qapi(features = ["dynamic-auto-read-only"])]
pub struct BlockdevOptionsFile {
    /// Path of the file.
    pub filename: String,
    /// Id of the persistent reservation helper object for this device.
    pub pr_manager: Option<String>,
    /// Lock the file against other programs. `auto`, the default, locks where the host can.
    pub locking: Option<OnOffAuto>,
    /// How to read and write. `io_uring` where the host has it, unless given.
    pub aio: Option<BlockdevAioOptions>,
    /// Accepted for compatibility: Rhea decides itself how many requests it hands to the kernel at once.
    pub aio_max_batch: Option<i64>,
    /// Accepted for compatibility: machines do not move to other hosts yet, so nothing is dropped.
    pub drop_cache: Option<bool>,
    /// Look whether dropping them worked; for debugging.
    #[qapi(unstable)]
    pub x_check_cache_dropped: Option<bool>,
}

/// Options of a directory that is shown as a disk.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct BlockdevOptionsVVFAT {
    /// The directory. What is in it should not change while the node is there.
    pub dir: String,
    /// Bits of an entry of the FAT: 12, 16 or 32. 12 for floppy disks and 16 for others unless given.
    pub fat_type: Option<i64>,
    /// Show a floppy disk, without partitions, rather than a hard disk. Off unless given.
    pub floppy: Option<bool>,
    /// The name of the volume, at most 11 bytes. `QEMU VVFAT` unless given.
    pub label: Option<String>,
    /// What is written to the disk comes into the directory: when the disk is flushed or closed, and when nothing was written for
    /// a second. Off unless given.
    pub rw: Option<bool>,
}

/// Options of an image format that has none of its own.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsGenericFormat {
    /// The node that holds the image.
    pub file: BlockdevRef,
}

/// What says how long the disk of a VHD image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub enum VpcSizeCalc {
    /// The geometry, unless it is the largest that there is.
    #[qapi(name = "chs")]
    Chs,
    /// The size.
    #[qapi(name = "current_size")]
    CurrentSize,
}

/// Options of a VHD image.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsVpc {
    /// The node that holds the image.
    pub file: BlockdevRef,
    /// What says how long the disk is. The program that made the image decides unless given. On command lines of images this
    /// option is called `force_size_calc`; the reference has it there only.
    #[qapi(unstable)]
    pub x_rhea_force_size_calc: Option<VpcSizeCalc>,
}

/// Options of an image format that has none of its own, and backing files.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsGenericCOWFormat {
    /// The node that holds the image.
    pub file: BlockdevRef,
    /// The node read where the image has nothing of its own; null for none, though the image's header may name
    /// one. When left out, the header decides.
    pub backing: Option<BlockdevRefOrNull>,
}

/// How a qcow image is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "format", tag_enum = "BlockdevQcowEncryptionFormat")]
pub enum BlockdevQcowEncryption {
    /// The old encryption of qcow and qcow2: do not use it. A machine refuses it.
    Aes(QCryptoBlockOptionsQCow),
}

/// Options of a qcow image (version 1).
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsQcow {
    /// The node that holds the image.
    pub file: BlockdevRef,
    /// The node read where the image has nothing of its own; null for none, though the image's header may name
    /// one. When left out, the header decides.
    pub backing: Option<BlockdevRefOrNull>,
    /// How it is encrypted, and its key. Needed to read or write the data of an image that is encrypted.
    pub encrypt: Option<BlockdevQcowEncryption>,
}

/// Options of a LUKS volume.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsLUKS {
    /// The node that holds the volume, or with `header` its data alone.
    pub file: BlockdevRef,
    /// The id of the secret with the password. Needed to read or write data.
    pub key_secret: Option<String>,
    /// The node that holds the header, where it is not in `file`.
    pub header: Option<BlockdevRef>,
}

/// Options of the NBD client.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsNbd {
    /// The server.
    pub server: SocketAddress,
    /// The name of the export. Empty, which is the server's default export, unless given.
    pub export: Option<String>,
    /// The id of the TLS credentials. No encryption unless given.
    pub tls_creds: Option<String>,
    /// The name (or IP address) that the server's certificate must be for; that of the server's address unless given.
    pub tls_hostname: Option<String>,
    /// A metadata context of the server, such as `qemu:dirty-bitmap:NAME`, that takes the place of `base:allocation` in
    /// queries of block status: what is dirty shows as no data. For finding that out alone: nothing should be copied
    /// from such a node.
    #[qapi(unstable)]
    pub x_dirty_bitmap: Option<String>,
    /// Seconds for which requests wait for a lost connection to come back; then they fail until it does. 0, so that they
    /// fail at once, unless given.
    pub reconnect_delay: Option<u32>,
    /// Seconds for which opening the node tries to reach the server again. 0, for a single try, unless given.
    pub open_timeout: Option<u32>,
    /// The most connections to the server, 1 to 16. Further ones are made while many requests are on their way, and only to a
    /// server that says that several connections see the same; if it takes no more, those that there are do. 1 unless given:
    /// a server may have a place for one client only.
    #[qapi(unstable)]
    pub x_connections: Option<u32>,
}

/// Options of a file on a web server.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsCurlHttp {
    /// Where it is.
    pub url: String,
    /// Bytes that are read beyond what was asked for, a multiple of 512; 262144 unless given. At most 8 MiB are.
    pub readahead: Option<i64>,
    /// Seconds for which the server may say nothing, at most 10000; 5 unless given, and 0 for ever.
    pub timeout: Option<i64>,
    /// The user's name, shown to the server.
    pub username: Option<String>,
    /// The id of the secret with the user's password.
    pub password_secret: Option<String>,
    /// The user's name, shown to a proxy. Proxies are those that the environment names (`http_proxy`, `https_proxy`, `all_proxy`,
    /// `no_proxy`).
    pub proxy_username: Option<String>,
    /// The id of the secret with the password for the proxy.
    pub proxy_password_secret: Option<String>,
    /// Cookies for the server, in the form `name1=value1; name2=value2`.
    pub cookie: Option<String>,
    /// The id of the secret with such cookies.
    pub cookie_secret: Option<String>,
}

/// Options of a file on a web server, encrypted with TLS.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsCurlHttps {
    /// Where it is.
    pub url: String,
    /// Bytes that are read beyond what was asked for, a multiple of 512; 262144 unless given. At most 8 MiB are.
    pub readahead: Option<i64>,
    /// Seconds for which the server may say nothing, at most 10000; 5 unless given, and 0 for ever.
    pub timeout: Option<i64>,
    /// The user's name, shown to the server.
    pub username: Option<String>,
    /// The id of the secret with the user's password.
    pub password_secret: Option<String>,
    /// The user's name, shown to a proxy. Proxies are those that the environment names (`http_proxy`, `https_proxy`, `all_proxy`,
    /// `no_proxy`).
    pub proxy_username: Option<String>,
    /// The id of the secret with the password for the proxy.
    pub proxy_password_secret: Option<String>,
    /// Cookies for the server, in the form `name1=value1; name2=value2`.
    pub cookie: Option<String>,
    /// Whether the server's certificate must be valid and for its name; on unless given.
    pub sslverify: Option<bool>,
    /// The id of the secret with such cookies.
    pub cookie_secret: Option<String>,
}

/// Options of an object in a store with the interface of Amazon's S3.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsRheaS3 {
    /// The bucket.
    pub bucket: String,
    /// The object's name ("key") in it.
    pub object: String,
    /// The URL of a store other than Amazon's. That of the environment (`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`), or Amazon's of
    /// the region, unless given.
    pub endpoint: Option<String>,
    /// The region. That of the environment (`AWS_REGION`, `AWS_DEFAULT_REGION`) or `us-east-1`, unless given.
    pub region: Option<String>,
    /// The name of the key with which requests are signed. That of the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_SESSION_TOKEN`) is taken unless given; requests are not signed where there is none.
    pub access_key_id: Option<String>,
    /// The id of the secret with the key; goes with `access-key-id`.
    pub secret_key_secret: Option<String>,
    /// The id of the secret with the token of a key that is good for a time only.
    pub session_token_secret: Option<String>,
    /// Sign no requests, whatever the environment has. Off unless given.
    pub anonymous: Option<bool>,
    /// Allow an endpoint that is not encrypted. As the environment says (`AWS_ALLOW_HTTP=true`), or off, unless given.
    pub allow_http: Option<bool>,
    /// Whether the server's certificate must be valid and for its name; on unless given.
    pub sslverify: Option<bool>,
    /// Bytes that are read beyond what was asked for, a multiple of 512; 262144 unless given. At most 8 MiB are.
    pub readahead: Option<i64>,
    /// Seconds for which the server may say nothing, at most 10000; 5 unless given, and 0 for ever.
    pub timeout: Option<i64>,
}

/// Options of a device with nothing behind it.
#[derive(Clone, Debug, Default, PartialEq, Qapi)]
pub struct BlockdevOptionsNull {
    /// Size in bytes; 1 GiB unless given.
    pub size: Option<i64>,
    /// Time in nanoseconds that each request takes at least; 0 unless given.
    pub latency_ns: Option<u64>,
    /// Whether a read fills its buffer with zeroes, or leaves it alone. Off unless given.
    pub read_zeroes: Option<bool>,
}

/// Options of `raw`.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsRaw {
    /// The node whose bytes these are.
    pub file: BlockdevRef,
    /// The byte of `file` at which this node starts; 0 unless given.
    pub offset: Option<i64>,
    /// Length in bytes; up to the end of `file` unless given.
    pub size: Option<i64>,
}

/// Which parts of a qcow2 image's metadata are protected against being overwritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum Qcow2OverlapCheckMode {
    /// None.
    None,
    /// Those whose place never changes.
    Constant,
    /// Those, and all that is held in memory anyway.
    #[default]
    Cached,
    /// All; looking them up may need reads.
    All,
}

/// Protection of a qcow2 image's metadata, part by part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct Qcow2OverlapCheckFlags {
    /// The set that the members below change; `cached` unless given.
    pub template: Option<Qcow2OverlapCheckMode>,
    /// The header.
    pub main_header: Option<bool>,
    /// The level 1 table in use.
    pub active_l1: Option<bool>,
    /// The level 2 tables in use.
    pub active_l2: Option<bool>,
    /// The refcount table.
    pub refcount_table: Option<bool>,
    /// The refcount blocks.
    pub refcount_block: Option<bool>,
    /// The table of snapshots.
    pub snapshot_table: Option<bool>,
    /// The level 1 tables of snapshots.
    pub inactive_l1: Option<bool>,
    /// The level 2 tables of snapshots.
    pub inactive_l2: Option<bool>,
    /// The directory of bitmaps.
    pub bitmap_directory: Option<bool>,
}

/// Protection of a qcow2 image's metadata: one word for all, or part by part.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(alternate)]
pub enum Qcow2OverlapChecks {
    /// Part by part.
    Flags(Qcow2OverlapCheckFlags),
    /// A set.
    Mode(Qcow2OverlapCheckMode),
}

/// How a qcow2 image is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "format", tag_type = BlockdevQcow2EncryptionFormat)]
pub enum BlockdevQcow2Encryption {
    /// The old encryption of qcow and qcow2: do not use it. A machine refuses it.
    Aes(QCryptoBlockOptionsQCow),
    /// LUKS inside the image.
    Luks(QCryptoBlockOptionsLUKS),
}

/// Options of a qcow2 image.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct BlockdevOptionsQcow2 {
    /// The node that holds the image.
    pub file: BlockdevRef,
    /// The node read where the image has nothing of its own; null for none, though the image's header may name
    /// one. When left out, the header decides.
    pub backing: Option<BlockdevRefOrNull>,
    /// The node that holds the guest's data, for an image whose header says that it is in another file. When left out,
    /// the file that the header names.
    pub data_file: Option<BlockdevRef>,
    /// Put off updates of reference counts, at the price of a check after a crash. The image's header decides unless given.
    pub lazy_refcounts: Option<bool>,
    /// Pass the guest's discards on to `file`. On when `discard` is `unmap`, unless given.
    pub pass_discard_request: Option<bool>,
    /// Pass on discards that come from deleting snapshots. On unless given.
    pub pass_discard_snapshot: Option<bool>,
    /// Pass on other discards. Off unless given.
    pub pass_discard_other: Option<bool>,
    /// Keep the clusters that a discard empties allocated, so that the image stays in one piece. Off unless given.
    pub discard_no_unref: Option<bool>,
    /// How it is encrypted, and its key. Needed to read or write the data of an image that is encrypted.
    pub encrypt: Option<BlockdevQcow2Encryption>,
    /// Protection of metadata. `cached` unless given.
    pub overlap_check: Option<Qcow2OverlapChecks>,
    /// Bytes of memory for both metadata caches together.
    pub cache_size: Option<i64>,
    /// Bytes of memory for the cache of level 2 tables.
    pub l2_cache_size: Option<i64>,
    /// Bytes of one entry of the cache of level 2 tables: a power of two from 512 up to the cluster size.
    pub l2_cache_entry_size: Option<i64>,
    /// Bytes of memory for the cache of refcount blocks.
    pub refcount_cache_size: Option<i64>,
    /// Seconds after which cache entries that nobody used meanwhile are given up; 0 for never. 600 unless given.
    pub cache_clean_interval: Option<i64>,
}

impl BlockdevOptionsQcow2 {
    /// An image held by `file`, with every option at its default.
    pub fn new(file: BlockdevRef) -> BlockdevOptionsQcow2 {
        BlockdevOptionsQcow2 {
            file,
            backing: None,
            data_file: None,
            lazy_refcounts: None,
            pass_discard_request: None,
            pass_discard_snapshot: None,
            pass_discard_other: None,
            discard_no_unref: None,
            encrypt: None,
            overlap_check: None,
            cache_size: None,
            l2_cache_size: None,
            l2_cache_entry_size: None,
            refcount_cache_size: None,
            cache_clean_interval: None,
        }
    }
}

/// A node to be made, or one that there is.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(alternate)]
pub enum BlockdevRef {
    /// A new node, owned by the one that refers to it.
    Definition(Box<BlockdevOptions>),
    /// The name of a node.
    Reference(String),
}

/// A node to be made, one that there is, or none.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(alternate)]
pub enum BlockdevRefOrNull {
    /// A new node, owned by the one that refers to it.
    Definition(Box<BlockdevOptions>),
    /// The name of a node.
    Reference(String),
    /// No node.
    Null,
}
