//! Block exports, and the server for those that speak NBD.

use qapi::Qapi;

use crate::block_core::BlockDirtyBitmapOrStr;
use crate::sockets::{SocketAddress, SocketAddressLegacy};

/// The kinds of exports, with the options that only they have.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "type", tag_enum = "BlockExportType")]
pub enum BlockExportKind {
    /// By the NBD server.
    Nbd(BlockExportOptionsNbd),
    /// As a disk for a virtual machine of another program, over the vhost-user protocol.
    VhostUserBlk(BlockExportOptionsVhostUserBlk),
    /// As a regular file of this host, through the kernel's FUSE.
    Fuse(BlockExportOptionsFuse),
    /// As a block device of this host, through the kernel's ublk (Linux 6.2 and newer). The reference has no such exports.
    #[qapi(name = "x-rhea-ublk", unstable)]
    RheaUblk(BlockExportOptionsRheaUblk),
}

/// Options of an NBD export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockExportOptionsNbd {
    /// The name that clients ask for, at most 4096 bytes. The node's name unless given.
    pub name: Option<String>,
    /// A text for people that clients may show, at most 4096 bytes. None unless given.
    pub description: Option<String>,
    /// Dirty bitmaps to offer as metadata contexts `qemu:dirty-bitmap:NAME`: by name those of the node, or else of the
    /// nearest node below it that has one of this name; or those of any node. Nobody else may change them as long as
    /// the export is there. None unless given.
    pub bitmaps: Option<Vec<BlockDirtyBitmapOrStr>>,
    /// Offer the metadata context `qemu:allocation-depth`, which tells how many backing files down bytes are.
    /// Off unless given.
    pub allocation_depth: Option<bool>,
}

/// Options of a vhost-user-blk export.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct BlockExportOptionsVhostUserBlk {
    /// Where to listen: a Unix socket, or a descriptor that listens.
    pub addr: SocketAddress,
    /// Bytes of a logical block: a power of two from 512 to 2 MiB. 512 unless given.
    pub logical_block_size: Option<u64>,
    /// How many queues the machine may use, 1 to 256. 1 unless given.
    pub num_queues: Option<u16>,
}

/// Who may use the file of a FUSE export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum FuseExportAllowOther {
    /// Only the user of this process.
    Off,
    /// Other users too, as the file's owner and permissions say. An error where the kernel does not let it.
    On,
    /// Other users too where the kernel lets it.
    #[default]
    Auto,
}

/// Options of a FUSE export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockExportOptionsFuse {
    /// The regular file over which the node is mounted: what it is to be seen as.
    pub mountpoint: String,
    /// Writes behind the end lengthen the node; they fail otherwise. It counts for writable exports. Off unless given.
    pub growable: Option<bool>,
    /// Who may use the file. `auto` unless given.
    pub allow_other: Option<FuseExportAllowOther>,
}

/// Options of an export as a block device of this host. The reference has no such exports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockExportOptionsRheaUblk {
    /// The device's number: the export is `/dev/ublkbN` then. The lowest that is free unless given.
    pub dev_id: Option<u32>,
    /// How many queues the device has, 1 to 64; the kernel makes no more than there are processors. 1 unless given.
    pub num_queues: Option<u16>,
    /// How many requests of a queue may be on their way, 1 to 1024. 64 unless given.
    pub queue_size: Option<u16>,
    /// Bytes of a logical block: a power of two from 512 to 4096. 512 unless given.
    pub logical_block_size: Option<u64>,
}

/// A block export: the options common to all kinds, and the kind with its own.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct BlockExportOptions {
    /// The kind and the options that only it has.
    #[qapi(union)]
    pub kind: BlockExportKind,
    /// The name of the export among exports, as names of objects are formed.
    pub id: String,
    /// Keep the node on the export's thread. Nodes of Rhea belong to no thread, so this changes nothing. Off unless given.
    pub fixed_iothread: Option<bool>,
    /// The `iothread` object whose thread serves the clients. A thread of the server's own unless given.
    pub iothread: Option<String>,
    /// The node that is exported.
    pub node_name: String,
    /// Let clients write. Off unless given.
    pub writable: Option<bool>,
    /// Make each write stable before it is answered. Off unless given.
    pub writethrough: Option<bool>,
    /// Leave a node that is not active as it is: it is only read then, and may be written once it is active. Only NBD
    /// exports can. Off unless given: the node is made active first.
    pub allow_inactive: Option<bool>,
}

/// Exports a block node.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "block-export-add")]
pub struct BlockExportAdd(pub BlockExportOptions);

/// What becomes of the clients of an export that is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum BlockExportRemoveMode {
    /// The export stays as long as it has clients: the command fails.
    #[default]
    Safe,
    /// They are disconnected.
    Hard,
}

/// Removes a block export. It is gone when `BLOCK_EXPORT_DELETED` is emitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-export-del")]
pub struct BlockExportDel {
    /// The export's name.
    pub id: String,
    /// What becomes of its clients. `safe` unless given.
    pub mode: Option<BlockExportRemoveMode>,
}

/// A block export.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct BlockExportInfo {
    /// Its name.
    pub id: String,
    /// Its kind.
    pub r#type: BlockExportType,
    /// The node that is exported.
    pub node_name: String,
    /// Whether it is being removed.
    pub shutting_down: bool,
    /// The block device that shows it: of exports as block devices of this host.
    #[qapi(unstable)]
    pub x_rhea_device: Option<String>,
}

/// Lists the block exports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-block-exports", ret = Vec<BlockExportInfo>)]
pub struct QueryBlockExports;

/// A block export is gone, and its name may be used again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(event = "BLOCK_EXPORT_DELETED")]
pub struct BlockExportDeletedEvent {
    /// The export's name.
    pub id: String,
}

/// Starts the NBD server, which serves the exports of type `nbd`.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "nbd-server-start")]
pub struct NbdServerStart {
    /// Seconds that a client has to choose an export; 0 for any time. 10 unless given.
    pub handshake_max_seconds: Option<u32>,
    /// The id of the TLS credentials: clients must then use TLS. No encryption unless given.
    pub tls_creds: Option<String>,
    /// The id of the object that decides who may connect, by the identity that TLS has proved. Everybody unless given.
    pub tls_authz: Option<String>,
    /// The most clients at a time; 0 for any number. 100 unless given.
    pub max_connections: Option<u32>,
    /// Where to listen.
    pub addr: SocketAddressLegacy,
}

/// Exports a node over NBD. Use `block-export-add` instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "nbd-server-add", deprecated)]
pub struct NbdServerAdd {
    /// The name that clients ask for, and the export's id. That of the device unless given.
    pub name: Option<String>,
    /// A text for people that clients may show. None unless given.
    pub description: Option<String>,
    /// The node or device that is exported.
    pub device: String,
    /// Let clients write, unless the node is read-only. Off unless given.
    pub writable: Option<bool>,
    /// A dirty bitmap to offer as the metadata context `qemu:dirty-bitmap:NAME`. None unless given.
    pub bitmap: Option<String>,
}

/// Removes an export of the NBD server by its name. Use `block-export-del` instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "nbd-server-remove", deprecated)]
pub struct NbdServerRemove {
    /// The export's id.
    pub name: String,
    /// What becomes of its clients. `safe` unless given.
    pub mode: Option<BlockExportRemoveMode>,
}

/// Stops the NBD server: its exports are removed and its clients disconnected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "nbd-server-stop")]
pub struct NbdServerStop;

/// What the command line says of the NBD server.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct NbdServerOptions {
    /// Seconds that a client has to choose an export; 0 for any time. 10 unless given.
    pub handshake_max_seconds: Option<u32>,
    /// The id of the TLS credentials: clients must then use TLS. No encryption unless given.
    pub tls_creds: Option<String>,
    /// The id of the object that decides who may connect, by the identity that TLS has proved. Everybody unless given.
    pub tls_authz: Option<String>,
    /// The most clients at a time; 0 for any number. 100 unless given.
    pub max_connections: Option<u32>,
    /// Where to listen.
    pub addr: SocketAddress,
}
