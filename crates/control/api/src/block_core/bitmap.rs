//! Dirty bitmaps.

use qapi::Qapi;

/// A dirty bitmap of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockDirtyBitmap {
    /// The node, or the block device.
    pub node: String,
    /// The bitmap's name.
    pub name: String,
}

/// Adds a dirty bitmap to a node: from now on it records which parts are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-dirty-bitmap-add")]
pub struct BlockDirtyBitmapAdd {
    /// The node, or the block device.
    pub node: String,
    /// The bitmap's name, at most 1023 bytes.
    pub name: String,
    /// Bytes that one bit stands for: a power of two, at least 512. The cluster size of the image, but at least 4 KiB and at most
    /// 64 KiB, unless given.
    pub granularity: Option<u32>,
    /// Keep it in the image when that is closed. Off unless given.
    pub persistent: Option<bool>,
    /// Do not record yet. Off unless given.
    pub disabled: Option<bool>,
}

/// Removes a dirty bitmap, also from the image that keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-dirty-bitmap-remove")]
pub struct BlockDirtyBitmapRemove(pub BlockDirtyBitmap);

/// Makes a dirty bitmap say that nothing is dirty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-dirty-bitmap-clear")]
pub struct BlockDirtyBitmapClear(pub BlockDirtyBitmap);

/// Makes a dirty bitmap record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-dirty-bitmap-enable")]
pub struct BlockDirtyBitmapEnable(pub BlockDirtyBitmap);

/// Makes a dirty bitmap stop recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "block-dirty-bitmap-disable")]
pub struct BlockDirtyBitmapDisable(pub BlockDirtyBitmap);

/// A bitmap to merge: a name on the same node, or a node and a name.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(alternate)]
pub enum BlockDirtyBitmapOrStr {
    /// The name of a bitmap on the target's node.
    Local(String),
    /// A bitmap on another node.
    External(BlockDirtyBitmap),
}

/// Adds what is dirty in some bitmaps to another one. Where one of them cannot be used, nothing happens.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "block-dirty-bitmap-merge")]
pub struct BlockDirtyBitmapMerge {
    /// The target's node, or its block device.
    pub node: String,
    /// The bitmap that is added to.
    pub target: String,
    /// The bitmaps whose content is added. They must cover as many bytes as the target.
    pub bitmaps: Vec<BlockDirtyBitmapOrStr>,
}

/// The checksum of a dirty bitmap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockDirtyBitmapSha256 {
    /// SHA-256 of its bits, in hexadecimal.
    pub sha256: String,
}

/// Tells a checksum of a dirty bitmap's bits; for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "x-debug-block-dirty-bitmap-sha256", ret = BlockDirtyBitmapSha256, unstable)]
pub struct XDebugBlockDirtyBitmapSha256(pub BlockDirtyBitmap);
