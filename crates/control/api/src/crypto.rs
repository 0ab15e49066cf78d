//! Encryption: what is told about encrypted images.

use qapi::Qapi;

/// A cipher with its key length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum QCryptoCipherAlgo {
    /// AES with a key of 128 bits.
    #[qapi(name = "aes-128")]
    Aes128,
    /// AES with a key of 192 bits.
    #[qapi(name = "aes-192")]
    Aes192,
    /// AES with a key of 256 bits.
    #[qapi(name = "aes-256")]
    Aes256,
    /// DES.
    Des,
    /// Triple DES.
    #[qapi(name = "3des")]
    Des3,
    /// CAST5 with a key of 128 bits.
    #[qapi(name = "cast5-128")]
    Cast5_128,
    /// Serpent with a key of 128 bits.
    #[qapi(name = "serpent-128")]
    Serpent128,
    /// Serpent with a key of 192 bits.
    #[qapi(name = "serpent-192")]
    Serpent192,
    /// Serpent with a key of 256 bits.
    #[qapi(name = "serpent-256")]
    Serpent256,
    /// Twofish with a key of 128 bits.
    #[qapi(name = "twofish-128")]
    Twofish128,
    /// Twofish with a key of 192 bits.
    #[qapi(name = "twofish-192")]
    Twofish192,
    /// Twofish with a key of 256 bits.
    #[qapi(name = "twofish-256")]
    Twofish256,
    /// SM4.
    Sm4,
}

/// How a cipher is used on more than one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum QCryptoCipherMode {
    /// Each block on its own.
    Ecb,
    /// Chained.
    Cbc,
    /// XEX with ciphertext stealing (IEEE 1619).
    Xts,
    /// Counter.
    Ctr,
}

/// How a sector's initialisation vector is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum QCryptoIVGenAlgo {
    /// The sector's number, cut to 32 bits.
    Plain,
    /// The sector's number, 64 bits.
    Plain64,
    /// The sector's number, encrypted with a hash of the key.
    Essiv,
}

/// A hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum QCryptoHashAlgo {
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// RIPEMD-160.
    Ripemd160,
    /// SM3.
    Sm3,
}

/// A key slot of a LUKS header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct QCryptoBlockInfoLUKSSlot {
    /// Whether it holds a key.
    pub active: bool,
    /// Rounds of the key derivation; only when active.
    pub iters: Option<i64>,
    /// Stripes over which the key is split; only when active.
    pub stripes: Option<i64>,
    /// Offset in bytes of the key material.
    pub key_offset: i64,
}

/// What is told about LUKS encryption.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct QCryptoBlockInfoLUKS {
    /// The cipher.
    pub cipher_alg: QCryptoCipherAlgo,
    /// Its mode.
    pub cipher_mode: QCryptoCipherMode,
    /// How initialisation vectors are made.
    pub ivgen_alg: QCryptoIVGenAlgo,
    /// The hash used for that, where one is.
    pub ivgen_hash_alg: Option<QCryptoHashAlgo>,
    /// The hash of the key derivation.
    pub hash_alg: QCryptoHashAlgo,
    /// Whether the header stands in a file of its own.
    pub detached_header: bool,
    /// Offset in bytes of the encrypted data.
    pub payload_offset: i64,
    /// Rounds of the key derivation for the master key's digest.
    pub master_key_iters: i64,
    /// The volume's UUID.
    pub uuid: String,
    /// The key slots.
    pub slots: Vec<QCryptoBlockInfoLUKSSlot>,
}

/// What is told about the encryption of a qcow2 image.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "format", tag_enum = "BlockdevQcow2EncryptionFormat")]
pub enum QCryptoBlockInfoQCow2 {
    /// The old encryption of qcow and qcow2: do not use it.
    Aes,
    /// LUKS inside the image.
    Luks(QCryptoBlockInfoLUKS),
}

/// Options of an image with the old encryption of qcow and qcow2 that is opened or made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct QCryptoBlockOptionsQCow {
    /// The id of the secret with the password. Needed to read or write data.
    pub key_secret: Option<String>,
}

/// Options of a LUKS volume that is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct QCryptoBlockOptionsLUKS {
    /// The id of the secret with the password. Needed to read or write data.
    pub key_secret: Option<String>,
}

/// Options of a new LUKS volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct QCryptoBlockCreateOptionsLUKS {
    /// The id of the secret with the password. Needed.
    pub key_secret: Option<String>,
    /// The cipher; `aes-256` unless given.
    pub cipher_alg: Option<QCryptoCipherAlgo>,
    /// Its mode; `xts` unless given.
    pub cipher_mode: Option<QCryptoCipherMode>,
    /// How initialisation vectors are made; `plain64` unless given.
    pub ivgen_alg: Option<QCryptoIVGenAlgo>,
    /// The hash for `essiv`; `sha256` unless given.
    pub ivgen_hash_alg: Option<QCryptoHashAlgo>,
    /// The hash of the key derivation; `sha256` unless given.
    pub hash_alg: Option<QCryptoHashAlgo>,
    /// Milliseconds that deriving a key shall take; 2000 unless given.
    pub iter_time: Option<i64>,
}

/// The encryption of a new image.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "format", tag_enum = "QCryptoBlockFormat")]
pub enum QCryptoBlockCreateOptions {
    /// The old encryption of qcow and qcow2: do not use it.
    Qcow(QCryptoBlockOptionsQCow),
    /// LUKS.
    Luks(QCryptoBlockCreateOptionsLUKS),
}

/// What shall become of key slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum QCryptoBlockLUKSKeyslotState {
    /// They hold the key, under a new password.
    Active,
    /// They hold nothing.
    Inactive,
}

/// A change of a LUKS volume's key slots.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct QCryptoBlockAmendOptionsLUKS {
    /// What shall become of the slots.
    pub state: QCryptoBlockLUKSKeyslotState,
    /// The id of the secret with the new password. Needed to make a slot active, and only then.
    pub new_secret: Option<String>,
    /// The id of the secret with a password: the slots that it opens are made inactive. Only for that.
    pub old_secret: Option<String>,
    /// The slot, 0 to 7. To make one active, the first free one unless given.
    pub keyslot: Option<i64>,
    /// Milliseconds that deriving the new key shall take; 2000 unless given. Only to make a slot active.
    pub iter_time: Option<i64>,
    /// The id of the secret with a password that opens the volume; that with which the node was opened unless given.
    pub secret: Option<String>,
}

/// A change of an image's encryption.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "format", tag_type = QCryptoBlockFormat)]
pub enum QCryptoBlockAmendOptions {
    /// The old encryption of qcow and qcow2: nothing of it can be changed.
    Qcow,
    /// The key slots of a LUKS volume.
    Luks(QCryptoBlockAmendOptionsLUKS),
}
