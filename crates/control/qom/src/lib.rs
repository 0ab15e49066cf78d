//! The object tree and user-creatable objects.
//!
//! An [`Object`] has a type, properties, and a place in the [`ObjectTree`]. What users make with `-object` or
//! `object-add` stands under `/objects`: I/O threads, sources of entropy, memory, secrets. Whoever uses an object keeps its
//! `Arc`; an object that somebody keeps cannot be deleted.

mod authz;
mod object;
mod objects;
mod qmp;
mod secrets;
mod throttle;
mod tls;
mod tree;

pub use api::qom::{
    MemoryBackendProperties, ObjectAdd, ObjectDel, ObjectOptions, ObjectProperties, ObjectPropertyInfo,
    ObjectType, QomGet, QomList, QomSet, RngRandomProperties,
};
pub use authz::{AuthzList, AuthzListFile, AuthzSimple};
pub use object::{Object, Property, RngBackend, RngFuture};
pub use objects::{IoThreadObject, MemoryObject, RngBuiltin, RngRandom, create, help, type_help};
pub use qmp::register;
pub use secrets::SecretObject;
pub use throttle::{Direction, ThrottleGroup, ThrottleMember, ThrottleObject};
pub use tls::TlsCredsObject;
pub use tree::{ObjectTree, check_id};
