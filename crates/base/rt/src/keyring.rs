//! The kernel's key retention service (`keyctl(2)`), as far as it is needed: reading a key.

use base::{Errno, IoResult};

/// The longest key that is read, bytes.
const MAX_KEY: usize = 64 << 10;

/// The payload of the key with this serial number.
///
/// # Errors
/// What the kernel says, `ENOKEY` for instance; `E2BIG` for a key of more than 64 KiB.
pub fn read_key(serial: i32) -> IoResult<Vec<u8>> {
    const KEYCTL_READ: libc::c_long = 11;
    let mut buf = vec![0u8; MAX_KEY];
    // SAFETY: the kernel writes at most `buf.len()` bytes to `buf`, which lives until the call has returned.
    let n = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_READ,
            libc::c_long::from(serial),
            buf.as_mut_ptr() as libc::c_long,
            buf.len() as libc::c_long,
            0 as libc::c_long,
        )
    };
    match usize::try_from(n) {
        Err(_) => Err(Errno::last()),
        Ok(n) if n > buf.len() => Err(Errno::from_raw(libc::E2BIG)),
        Ok(n) => {
            let key = buf[..n].to_vec();
            // The copy is what the caller looks after.
            buf.fill(0);
            std::hint::black_box(&buf);
            Ok(key)
        }
    }
}
