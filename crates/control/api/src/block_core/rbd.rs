//! Images in a Ceph cluster.

use qapi::Qapi;

use super::image::RbdImageEncryptionFormat;
use crate::crypto::QCryptoCipherAlgo;
use crate::sockets::InetSocketAddressBase;

/// A way to prove to a Ceph cluster who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Qapi)]
pub enum RbdAuthMode {
    /// With a shared key.
    Cephx,
    /// Not at all.
    None,
}

/// What opens a LUKS volume in a Ceph image.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct RbdEncryptionOptionsLUKSBase {
    /// The id of the secret with the passphrase.
    pub key_secret: String,
}

/// How the image is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "format", tag_type = RbdImageEncryptionFormat)]
pub enum RbdEncryption {
    /// LUKS version 1.
    Luks(RbdEncryptionOptionsLUKSBase),
    /// LUKS version 2.
    Luks2(RbdEncryptionOptionsLUKSBase),
    /// LUKS of whichever version the image has. Needs Ceph 17 or newer.
    LuksAny(RbdEncryptionOptionsLUKSBase),
}

/// The encryption of a Ceph image. It is Ceph's own library that encrypts.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct RbdEncryptionOptions {
    /// How it is encrypted.
    #[qapi(union)]
    pub encryption: RbdEncryption,
    /// The encryption of the image that it was cloned from, where that differs. Needs Ceph 17 or newer.
    pub parent: Option<Box<RbdEncryptionOptions>>,
}

/// Options of an image in a Ceph cluster. The host must have Ceph's library `librbd`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct BlockdevOptionsRbd {
    /// The pool.
    pub pool: String,
    /// The namespace in the pool.
    pub namespace: Option<String>,
    /// The image.
    pub image: String,
    /// Ceph's configuration file. Where Ceph looks for it unless given.
    pub conf: Option<String>,
    /// The snapshot to read. Then nothing can be written.
    pub snapshot: Option<String>,
    /// What decrypts the image. Encrypted bytes are shown unless given.
    pub encrypt: Option<RbdEncryptionOptions>,
    /// The user's name in the cluster, without `client.`. `admin` unless given here or in the environment.
    pub user: Option<String>,
    /// Ways of proving who one is, in the order of preference.
    pub auth_client_required: Option<Vec<RbdAuthMode>>,
    /// The id of the secret with the user's key.
    pub key_secret: Option<String>,
    /// Where monitors of the cluster listen. Those of the configuration file unless given.
    pub server: Option<Vec<InetSocketAddressBase>>,
    /// More of Ceph's settings, as they stand in a file name: `key=value` with colons between. What has a meaning to a colon or
    /// to a backslash follows a backslash.
    #[qapi(name = "x-rhea-settings", hidden)]
    pub settings: Option<String>,
}

/// What encrypts a new LUKS volume in a Ceph image.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct RbdEncryptionCreateOptionsLUKSBase {
    /// The id of the secret with the passphrase.
    pub key_secret: String,
    /// The cipher: `aes-128` or `aes-256`, which it is unless given.
    pub cipher_alg: Option<QCryptoCipherAlgo>,
}

/// The encryption of a new Ceph image.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "format", tag_type = RbdImageEncryptionFormat)]
pub enum RbdEncryptionCreateOptions {
    /// LUKS version 1.
    Luks(RbdEncryptionCreateOptionsLUKSBase),
    /// LUKS version 2.
    Luks2(RbdEncryptionCreateOptionsLUKSBase),
    /// For opening only.
    LuksAny,
}

/// A new image in a Ceph cluster.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct BlockdevCreateOptionsRbd {
    /// The image. A snapshot cannot be given.
    pub location: BlockdevOptionsRbd,
    /// Its length, bytes.
    #[qapi(size)]
    pub size: u64,
    /// Bytes of the objects that it is stored in: a power of two, 4096 or more. What the cluster is configured for unless given.
    #[qapi(size)]
    pub cluster_size: Option<u64>,
    /// How it is encrypted. Not at all unless given.
    pub encrypt: Option<RbdEncryptionCreateOptions>,
}
