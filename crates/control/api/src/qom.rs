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
