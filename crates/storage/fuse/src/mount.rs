//! The mount over the mount point.

use crate::spec::{MAX_IO, S_IFREG};
use base::{Errno, IoResult};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What is mounted; it stays mounted when this is dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    path: PathBuf,
}

fn errno(e: rustix::io::Errno) -> Errno {
    Errno::from_raw(e.raw_os_error())
}

impl Mount {
    /// Mounts a file system that is one regular file over `path`. The descriptor is where its requests come.
    /// Blocks.
    pub(crate) fn new(path: &Path, others: bool) -> IoResult<(Mount, OwnedFd)> {
        let fd =
            rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        let mut options = format!(
            "fd={},rootmode={S_IFREG:o},user_id={},group_id={},max_read={MAX_IO},default_permissions",
            fd.as_raw_fd(),
            uid.as_raw(),
            gid.as_raw(),
        );
        if others {
            options.push_str(",allow_other");
        }
        let options = CString::new(options).map_err(|_| Errno::INVAL)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("/dev/fuse", path, "fuse", flags, options.as_c_str()).map_err(errno)?;
        Ok((Mount { path: path.to_owned() }, fd))
    }

    /// Takes it away, even from under those who use it: what they still ask for fails. (That does not depend on the
    /// descriptor, of which a process that is about to start another program may hold a copy for a while.) Blocks.
    pub(crate) fn end(&self) -> IoResult<()> {
        rustix::mount::unmount(
            &self.path,
            UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
        )
        .map_err(errno)
    }
}
