//! Ceph's libraries: `librados` and `librbd`.
//!
//! They are loaded for the process by the first who needs them, and stay.

use qapi::{QError, qerr};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

/// A connection to a cluster (`rados_t`), a pool of it (`rados_ioctx_t`), an image (`rbd_image_t`), a request
/// (`rbd_completion_t`), or what encrypts (`rbd_encryption_options_t`).
pub(crate) type Opaque = *mut c_void;

/// `rbd_image_info_t`.
#[repr(C)]
pub(crate) struct ImageInfo {
    pub(crate) size: u64,
    pub(crate) obj_size: u64,
    pub(crate) num_objs: u64,
    pub(crate) order: c_int,
    block_name_prefix: [c_char; 24],
    parent_pool: i64,
    parent_name: [c_char; 96],
}

impl ImageInfo {
    /// To be filled.
    pub(crate) const EMPTY: ImageInfo = ImageInfo {
        size: 0,
        obj_size: 0,
        num_objs: 0,
        order: 0,
        block_name_prefix: [0; 24],
        parent_pool: 0,
        parent_name: [0; 96],
    };
}

/// `rbd_snap_info_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SnapInfo {
    pub(crate) id: u64,
    pub(crate) size: u64,
    pub(crate) name: *const c_char,
}

/// `rbd_encryption_luks1_format_options_t`, which that of version 2 equals.
#[repr(C)]
pub(crate) struct LuksOptions {
    pub(crate) alg: c_int,
    pub(crate) passphrase: *const c_char,
    pub(crate) passphrase_size: usize,
}

/// `rbd_encryption_luks_format_options_t`: for opening whichever version it is (Ceph 17).
#[repr(C)]
pub(crate) struct AnyLuksOptions {
    pub(crate) passphrase: *const c_char,
    pub(crate) passphrase_size: usize,
}

/// `rbd_encryption_spec_t` (Ceph 17).
#[repr(C)]
pub(crate) struct EncryptionSpec {
    pub(crate) format: c_int,
    pub(crate) opts: *const c_void,
    pub(crate) opts_size: usize,
}

/// Called when a request has ended.
pub(crate) type Completed = extern "C" fn(Opaque, *mut c_void);
/// Called for each extent: offset, length, whether there is anything. Not 0: no more, please.
pub(crate) type Extents = extern "C" fn(u64, usize, c_int, *mut c_void) -> c_int;

macro_rules! functions {
    (
        $(#[$meta:meta])* struct $name:ident;
        required { $($lib:ident: fn $f:ident($($arg:ty),*) $(-> $ret:ty)?;)* }
        optional { $(fn $o:ident($($oarg:ty),*) -> $oret:ty;)* }
    ) => {
        $(#[$meta])*
        pub(crate) struct $name {
            $(pub(crate) $f: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
            $(pub(crate) $o: Option<unsafe extern "C" fn($($oarg),*) -> $oret>,)*
        }

        impl $name {
            fn found(rados: Loaded, rbd: Loaded) -> Result<$name, QError> {
                Ok($name {
                    $($f: {
                        let at = $lib!(rados, rbd).symbol(stringify!($f))?;
                        // SAFETY: the function of this name has had this signature since it was made.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) $(-> $ret)?>(at) }
                    },)*
                    $($o: rbd.symbol(stringify!($o)).ok().map(|at| {
                        // SAFETY: as above.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($oarg),*) -> $oret>(at) }
                    }),)*
                })
            }
        }
    };
}

macro_rules! in_rados {
    ($rados:ident, $rbd:ident) => {
        $rados
    };
}

macro_rules! in_rbd {
    ($rados:ident, $rbd:ident) => {
        $rbd
    };
}

functions! {
    /// The functions, under their names. They may be called on any thread; most wait for the network.
    struct Functions;
    required {
        in_rados: fn rados_create(*mut Opaque, *const c_char) -> c_int;
        in_rados: fn rados_conf_read_file(Opaque, *const c_char) -> c_int;
        in_rados: fn rados_conf_set(Opaque, *const c_char, *const c_char) -> c_int;
        in_rados: fn rados_connect(Opaque) -> c_int;
        in_rados: fn rados_shutdown(Opaque);
        in_rados: fn rados_ioctx_create(Opaque, *const c_char, *mut Opaque) -> c_int;
        in_rados: fn rados_ioctx_set_namespace(Opaque, *const c_char);
        in_rados: fn rados_ioctx_destroy(Opaque);
        in_rbd: fn rbd_namespace_exists(Opaque, *const c_char, *mut bool) -> c_int;
        in_rbd: fn rbd_create(Opaque, *const c_char, u64, *mut c_int) -> c_int;
        in_rbd: fn rbd_remove(Opaque, *const c_char) -> c_int;
        in_rbd: fn rbd_open(Opaque, *const c_char, *mut Opaque, *const c_char) -> c_int;
        in_rbd: fn rbd_open_read_only(Opaque, *const c_char, *mut Opaque, *const c_char) -> c_int;
        in_rbd: fn rbd_close(Opaque) -> c_int;
        in_rbd: fn rbd_stat(Opaque, *mut ImageInfo, usize) -> c_int;
        in_rbd: fn rbd_get_size(Opaque, *mut u64) -> c_int;
        in_rbd: fn rbd_get_stripe_count(Opaque, *mut u64) -> c_int;
        in_rbd: fn rbd_read(Opaque, u64, usize, *mut c_char) -> isize;
        in_rbd: fn rbd_get_features(Opaque, *mut u64) -> c_int;
        in_rbd: fn rbd_get_flags(Opaque, *mut u64) -> c_int;
        in_rbd: fn rbd_resize(Opaque, u64) -> c_int;
        in_rbd: fn rbd_diff_iterate2(Opaque, *const c_char, u64, u64, u8, u8, Extents, *mut c_void) -> c_int;
        in_rbd: fn rbd_snap_list(Opaque, *mut SnapInfo, *mut c_int) -> c_int;
        in_rbd: fn rbd_snap_list_end(*mut SnapInfo);
        in_rbd: fn rbd_snap_create(Opaque, *const c_char) -> c_int;
        in_rbd: fn rbd_snap_remove(Opaque, *const c_char) -> c_int;
        in_rbd: fn rbd_snap_rollback(Opaque, *const c_char) -> c_int;
        in_rbd: fn rbd_aio_create_completion(*mut c_void, Completed, *mut Opaque) -> c_int;
        in_rbd: fn rbd_aio_get_return_value(Opaque) -> isize;
        in_rbd: fn rbd_aio_release(Opaque);
        in_rbd: fn rbd_aio_readv(Opaque, *const libc::iovec, c_int, u64, Opaque) -> c_int;
        in_rbd: fn rbd_aio_writev(Opaque, *const libc::iovec, c_int, u64, Opaque) -> c_int;
        in_rbd: fn rbd_aio_discard(Opaque, u64, u64, Opaque) -> c_int;
        in_rbd: fn rbd_aio_write_zeroes(Opaque, u64, usize, Opaque, c_int, c_int) -> c_int;
        in_rbd: fn rbd_aio_flush(Opaque, Opaque) -> c_int;
    }
    optional {
        fn rbd_encryption_format(Opaque, c_int, *const c_void, usize) -> c_int;
        fn rbd_encryption_load(Opaque, c_int, *const c_void, usize) -> c_int;
        fn rbd_encryption_load2(Opaque, *const EncryptionSpec, usize) -> c_int;
    }
}

/// A library that was loaded, for good.
#[derive(Clone, Copy)]
struct Loaded {
    name: &'static CStr,
    handle: Opaque,
}

impl Loaded {
    fn load(name: &'static CStr) -> Result<Loaded, QError> {
        // SAFETY: the name ends in NUL; Ceph's libraries may be loaded at any time, on any thread.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        match handle.is_null() {
            true => Err(qerr!("Cannot load Ceph's library: {}", said())),
            false => Ok(Loaded { name, handle }),
        }
    }

    fn symbol(self, name: &str) -> Result<*mut c_void, QError> {
        let text = CString::new(name).map_err(|_| qerr!("The name of a function has a NUL"))?;
        // SAFETY: the handle is never closed; the name ends in NUL.
        let at = unsafe { libc::dlsym(self.handle, text.as_ptr()) };
        let lib = self.name.to_string_lossy();
        if at.is_null() {
            Err(qerr!("Ceph's library {lib} has no function {name}: it is too old"))
        } else {
            Ok(at)
        }
    }
}

/// What the loader said of the last failure.
fn said() -> String {
    // SAFETY: answers a text that lives until the next call on this thread, or null.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "unknown error".into();
    }
    // SAFETY: as above; it ends in NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The functions. Takes a while the first time: call it where that is no matter. If it fails, the next who asks looks again.
///
/// # Errors
/// The libraries are not there, or too old.
pub(crate) fn functions() -> Result<&'static Functions, QError> {
    static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
    if let Some(there) = FUNCTIONS.get() {
        return Ok(there);
    }
    let found = Functions::found(Loaded::load(c"librados.so.2")?, Loaded::load(c"librbd.so.1")?)?;
    Ok(FUNCTIONS.get_or_init(|| found))
}
