//! A connection to a pool of a cluster.

use crate::library::{Functions, Opaque, functions};
use crate::name::settings;
use api::block_core::{BlockdevOptionsRbd, RbdAuthMode};
use base::Errno;
use crypto::Secret;
use qapi::{QError, qerr};
use std::ffi::{CString, c_int};
use std::ptr;

/// Text for a function in C.
pub(crate) fn text(s: &str) -> Result<CString, QError> {
    CString::new(s).map_err(|_| qerr!("'{}' has a character that no name has", s.replace('\0', "\\0")))
}

/// What a function answered: a number that is not negative, or an error.
pub(crate) fn answer(n: c_int) -> Result<c_int, Errno> {
    if n < 0 { Err(Errno::from_raw(n.checked_neg().unwrap_or(libc::EIO))) } else { Ok(n) }
}

/// A pool, or a namespace of one, and the connection to its cluster. All that is done with it waits for the network.
pub(crate) struct Pool {
    pub(crate) f: &'static Functions,
    rados: Opaque,
    pub(crate) io: Opaque,
}

// SAFETY: Ceph's connections and pools may be used from any thread, by several at once.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: both are what Ceph gave, or null while the connection was being made; nobody uses them any more.
        unsafe {
            if !self.io.is_null() {
                (self.f.rados_ioctx_destroy)(self.io);
            }
            (self.f.rados_shutdown)(self.rados);
        }
    }
}

impl Pool {
    /// Connects. `key` is the user's, as base64 text. Waits as long as the cluster's configuration says; call it on a thread that may.
    ///
    /// # Errors
    /// Settings that do not fit, no cluster, a user who is not let in, no such pool.
    pub(crate) fn connect(o: &BlockdevOptionsRbd, key: Option<&Secret>, cache: bool) -> Result<Pool, QError> {
        let f = functions()?;
        let user = o.user.as_deref().map(text).transpose()?;
        let mut rados = ptr::null_mut();
        // SAFETY: the name is text in C, or null.
        let made =
            unsafe { (f.rados_create)(&raw mut rados, user.as_ref().map_or(ptr::null(), |u| u.as_ptr())) };
        answer(made).map_err(|e| qerr!("error initializing: {e}"))?;
        let mut pool = Pool { f, rados, io: ptr::null_mut() };
        pool.configure(o, key, cache)?;
        // SAFETY: it was made above.
        answer(unsafe { (f.rados_connect)(rados) }).map_err(|e| qerr!("error connecting: {e}"))?;
        let name = text(&o.pool)?;
        // SAFETY: the connection is there; the name is text in C.
        answer(unsafe { (f.rados_ioctx_create)(rados, name.as_ptr(), &raw mut pool.io) })
            .map_err(|e| qerr!("error opening pool {}: {e}", o.pool))?;
        if let Some(space) = o.namespace.as_deref().filter(|s| !s.is_empty()) {
            pool.enter(space)?;
        }
        Ok(pool)
    }

    fn configure(&self, o: &BlockdevOptionsRbd, key: Option<&Secret>, cache: bool) -> Result<(), QError> {
        let conf = o.conf.as_deref().map(text).transpose()?;
        let path = conf.as_ref().map_or(ptr::null(), |c| c.as_ptr());
        // SAFETY: text in C, or null for the usual places.
        let read = answer(unsafe { (self.f.rados_conf_read_file)(self.rados, path) });
        // That there is none in the usual places is no error.
        if let (Err(e), Some(name)) = (read, &o.conf) {
            return Err(qerr!("error reading conf file {name}: {e}"));
        }
        for (key, value) in settings(o.settings.as_deref().unwrap_or(""))? {
            self.set(&key, &value).map_err(|e| qerr!("invalid conf option {key}: {e}"))?;
        }
        if let Some(servers) = &o.server {
            let host = |h: &str| if h.contains(':') { format!("[{h}]") } else { h.to_owned() };
            let list: Vec<_> = servers.iter().map(|s| format!("{}:{}", host(&s.host), s.port)).collect();
            self.set("mon_host", &list.join(";")).map_err(|e| qerr!("Could not set 'mon_host': {e}"))?;
        }
        if let Some(key) = key {
            let key = std::str::from_utf8(key).map_err(|_| qerr!("The key is not base64 text"))?;
            self.set("key", key).map_err(|e| qerr!("Could not set 'key': {e}"))?;
        }
        if let Some(modes) = &o.auth_client_required {
            let name = |m: &RbdAuthMode| match m {
                RbdAuthMode::Cephx => "cephx",
                RbdAuthMode::None => "none",
            };
            let list: Vec<_> = modes.iter().map(name).collect();
            self.set("auth_client_required", &list.join(";"))
                .map_err(|e| qerr!("Could not set 'auth_client_required': {e}"))?;
        }
        // `cache.direct` goes before what the cluster's configuration says of Ceph's own cache.
        _ = self.set("rbd_cache", if cache { "true" } else { "false" });
        Ok(())
    }

    fn set(&self, key: &str, value: &str) -> Result<(), Errno> {
        let text = |s: &str| CString::new(s).map_err(|_| Errno::INVAL);
        let (key, value) = (text(key)?, text(value)?);
        // SAFETY: the connection was made; both are text in C.
        answer(unsafe { (self.f.rados_conf_set)(self.rados, key.as_ptr(), value.as_ptr()) }).map(drop)
    }

    /// Only what is in this namespace is seen from now on.
    fn enter(&self, space: &str) -> Result<(), QError> {
        let name = text(space)?;
        let mut there = false;
        // SAFETY: the pool is open; the name is text in C.
        let asked = unsafe { (self.f.rbd_namespace_exists)(self.io, name.as_ptr(), &raw mut there) };
        answer(asked).map_err(|e| qerr!("error checking namespace {space}: {e}"))?;
        if !there {
            return Err(qerr!("namespace '{space}' does not exist"));
        }
        // SAFETY: as above.
        unsafe { (self.f.rados_ioctx_set_namespace)(self.io, name.as_ptr()) };
        Ok(())
    }
}
