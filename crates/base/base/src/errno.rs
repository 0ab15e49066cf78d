use std::fmt;

/// A result of the data plane.
pub type IoResult<T> = Result<T, Errno>;

/// A system error number: the error type of the data plane.
///
/// It is `Copy` and never carries text, so that a guest-visible policy can tell, say, [`Errno::NOSPC`] from
/// [`Errno::IO`]. Control-plane errors, whose text is part of the contract, are `qapi::QError`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident = $c:ident, $doc:literal;)*) => {
        impl Errno {
            $(#[doc = $doc] pub const $name: Errno = Errno(libc::$c);)*

            fn symbol(self) -> Option<&'static str> {
                match self.0 { $(libc::$c => Some(stringify!($c)),)* _ => None }
            }
        }
    };
}

errnos! {
    PERM = EPERM, "Operation not permitted.";
    NOENT = ENOENT, "No such file or directory.";
    INTR = EINTR, "Interrupted system call.";
    IO = EIO, "Input/output error.";
    BADF = EBADF, "Bad file descriptor.";
    AGAIN = EAGAIN, "Resource temporarily unavailable.";
    NOMEM = ENOMEM, "Cannot allocate memory.";
    ACCES = EACCES, "Permission denied.";
    FAULT = EFAULT, "Bad address.";
    BUSY = EBUSY, "Device or resource busy.";
    EXIST = EEXIST, "File exists.";
    NODEV = ENODEV, "No such device.";
    NOTDIR = ENOTDIR, "Not a directory.";
    ISDIR = EISDIR, "Is a directory.";
    INVAL = EINVAL, "Invalid argument.";
    FBIG = EFBIG, "File too large.";
    NOSPC = ENOSPC, "No space left on device.";
    ROFS = EROFS, "Read-only file system.";
    PIPE = EPIPE, "Broken pipe.";
    RANGE = ERANGE, "Numerical result out of range.";
    NOTSUP = ENOTSUP, "Operation not supported.";
    PROTO = EPROTO, "Protocol error.";
    OVERFLOW = EOVERFLOW, "Value too large for defined data type.";
    TIMEDOUT = ETIMEDOUT, "Connection timed out.";
    CONNREFUSED = ECONNREFUSED, "Connection refused.";
    CONNRESET = ECONNRESET, "Connection reset by peer.";
    CANCELED = ECANCELED, "Operation canceled.";
    NOMEDIUM = ENOMEDIUM, "No medium found.";
    SHUTDOWN = ESHUTDOWN, "Cannot send after transport endpoint shutdown.";
}

impl Errno {
    /// The error with the system's number `raw`; a number that is not positive becomes [`Errno::IO`].
    pub const fn from_raw(raw: i32) -> Errno {
        if raw > 0 { Errno(raw) } else { Errno::IO }
    }

    /// The system's number, positive.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// The error that the last failed system call of this thread left behind.
    pub fn last() -> Errno {
        Errno::from(std::io::Error::last_os_error())
    }
}

impl fmt::Display for Errno {
    /// The C library's text, e.g. `No space left on device`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        // The standard library appends " (os error N)"; messages of the contract do not have it.
        f.write_str(text.split(" (os error").next().unwrap_or(&text))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.symbol() {
            Some(s) => f.write_str(s),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl std::error::Error for Errno {}

impl From<std::io::Error> for Errno {
    fn from(e: std::io::Error) -> Errno {
        Errno::from_raw(e.raw_os_error().unwrap_or(match e.kind() {
            std::io::ErrorKind::UnexpectedEof => libc::EIO,
            std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => libc::EINVAL,
            std::io::ErrorKind::Unsupported => libc::ENOTSUP,
            _ => libc::EIO,
        }))
    }
}

impl From<Errno> for std::io::Error {
    fn from(e: Errno) -> std::io::Error {
        std::io::Error::from_raw_os_error(e.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_c_librarys_and_debug_is_the_symbol() {
        assert_eq!(Errno::NOSPC.to_string(), "No space left on device");
        assert_eq!(format!("{:?}", Errno::NOSPC), "ENOSPC");
        assert_eq!(Errno::from_raw(0), Errno::IO);
        assert_eq!(Errno::from_raw(-5), Errno::IO);
    }
}
