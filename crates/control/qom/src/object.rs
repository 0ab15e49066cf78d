use base::IoResult;
use mem::Memory;
use qapi::{QError, Value, qerr};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A property of an object, as `qom-list` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its type: `string`, `int`, `child<iothread>`, ….
    pub ty: String,
}

impl Property {
    /// A property.
    pub fn new(name: impl Into<String>, ty: impl Into<String>) -> Property {
        Property { name: name.into(), ty: ty.into() }
    }
}

/// An object in the tree. Any thread may call.
pub trait Object: Send + Sync {
    /// Its type.
    fn type_name(&self) -> &str;

    /// Its properties, without `type` and its children.
    fn properties(&self) -> Vec<Property> {
        Vec::new()
    }

    /// The value of a property.
    fn get(&self, _name: &str) -> Option<Value> {
        None
    }

    /// Sets a property.
    ///
    /// # Errors
    /// `Property 'TYPE.x' is not writable` or `… not found`; a message on the value.
    fn set(&self, name: &str, _value: &Value) -> Result<(), QError> {
        let ty = self.type_name();
        if name == "type" || self.properties().iter().any(|p| p.name == name) {
            Err(qerr!("Property '{ty}.{name}' is not writable"))
        } else {
            Err(qerr!("Property '{ty}.{name}' not found"))
        }
    }

    /// The executor, of an I/O thread.
    fn iothread(&self) -> Option<rt::Handle> {
        None
    }

    /// The source, of an object that gives entropy.
    fn rng(&self) -> Option<Arc<dyn RngBackend>> {
        None
    }

    /// The credentials, of an object that has any.
    fn tls(&self) -> Option<Arc<io::tls::Credentials>> {
        None
    }

    /// Whether somebody may connect, of an object that decides that.
    fn allows(&self, _identity: &str) -> Option<bool> {
        None
    }

    /// The bytes, of a secret.
    fn secret(&self) -> Option<&crypto::Secret> {
        None
    }

    /// The group, of a `throttle-group`.
    fn throttle_group(&self) -> Option<Arc<crate::ThrottleGroup>> {
        None
    }

    /// The block, of a memory back end.
    fn memory(&self) -> Option<Arc<Memory>> {
        None
    }
}

/// What [`RngBackend::bytes`] gives; it stays on the executor where it was polled.
pub type RngFuture = Pin<Box<dyn Future<Output = IoResult<Vec<u8>>>>>;

/// A source of entropy.
pub trait RngBackend: Send + Sync {
    /// At least one and at most `len` random bytes (`len` is at least 1).
    fn bytes(&self, len: usize) -> RngFuture;
}
