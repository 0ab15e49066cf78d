//! Objects that a user makes, and the object tree: what `-object`, `object-add`, `object-del` and the `qom-` commands take and
//! give.

use qapi::{Qapi, Value};

/// A new object: its id, its type, and the type's properties.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct ObjectOptions {
    /// The type and its properties.
    #[qapi(union)]
    pub qom_type: ObjectProperties,
    /// The name under `/objects`.
    pub id: String,
}

/// The types of objects that users can make, with their properties.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(tag = "qom-type", tag_enum = "ObjectType")]
pub enum ObjectProperties {
    /// A thread that devices' queues can be served on.
    Iothread,
    /// Guest RAM: anonymous memory.
    MemoryBackendRam(MemoryBackendProperties),
    /// Entropy from the host's system call.
    RngBuiltin,
    /// Entropy from a file.
    RngRandom(RngRandomProperties),
    /// A password or key.
    Secret(SecretProperties),
    /// A password or key in the kernel's keyring.
    #[qapi(name = "secret_keyring")]
    SecretKeyring(SecretKeyringProperties),
}

/// Properties of `memory-backend-ram`.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct MemoryBackendProperties {
    /// Commit all pages at once. Off unless given.
    pub prealloc: Option<bool>,
    /// The size in bytes; not 0.
    #[qapi(size)]
    pub size: u64,
}

/// Properties of `rng-random`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct RngRandomProperties {
    /// The file to read. `/dev/urandom` unless given.
    pub filename: Option<String>,
}

/// How a secret is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum QCryptoSecretFormat {
    /// As it is.
    #[default]
    Raw,
    /// In base64.
    Base64,
}

/// Properties of `secret`: one of `data` and `file` must be given.
#[derive(Clone, Default, PartialEq, Eq, Qapi)]
pub struct SecretProperties {
    /// How `data`, or what `file` holds, is written; `raw` unless given.
    pub format: Option<QCryptoSecretFormat>,
    /// The id of another secret of 32 bytes, with which this one is encrypted: AES-256 in CBC mode. Not encrypted unless given.
    pub keyid: Option<String>,
    /// The initialisation vector of the encryption, 16 bytes in base64. Needed with `keyid`.
    pub iv: Option<String>,
    /// The secret. Others on the host can see it on a command line: better use `file`, or encrypt it.
    pub data: Option<String>,
    /// The file that holds the secret, at most 1 MiB.
    pub file: Option<String>,
}

// By hand, so that no log shows a secret.
impl std::fmt::Debug for SecretProperties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let data = self.data.as_ref().map(|_| "…");
        f.debug_struct("SecretProperties")
            .field("data", &data)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Properties of `secret_keyring`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct SecretKeyringProperties {
    /// How the key's content is written; `raw` unless given.
    pub format: Option<QCryptoSecretFormat>,
    /// The id of another secret of 32 bytes, with which this one is encrypted: AES-256 in CBC mode. Not encrypted unless given.
    pub keyid: Option<String>,
    /// The initialisation vector of the encryption, 16 bytes in base64. Needed with `keyid`.
    pub iv: Option<String>,
    /// The key's serial number; not 0.
    pub serial: i32,
}

/// Makes an object.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "object-add")]
pub struct ObjectAdd(pub ObjectOptions);

/// Deletes an object that a user made and nobody uses.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "object-del")]
pub struct ObjectDel {
    /// Its id.
    pub id: String,
}

/// A property of an object.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct ObjectPropertyInfo {
    /// Its name.
    pub name: String,
    /// Its type.
    pub r#type: String,
}

/// Lists the properties of an object, its children among them.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "qom-list", ret = Vec<ObjectPropertyInfo>)]
pub struct QomList {
    /// The object's path, or the end of it where that says enough.
    pub path: String,
}

/// Reads a property.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(command = "qom-get", ret = Value)]
pub struct QomGet {
    /// The object's path, or the end of it where that says enough.
    pub path: String,
    /// The property's name.
    pub property: String,
}

/// Sets a property.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "qom-set")]
pub struct QomSet {
    /// The object's path, or the end of it where that says enough.
    pub path: String,
    /// The property's name.
    pub property: String,
    /// The value.
    pub value: Value,
}
