//! The directory of the host, whose files are made, changed and removed. Everything is reached from its descriptor, one name after
//! another and through no symbolic link, so that nothing outside of it is ever touched.

use super::tree::Print;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The directory.
#[derive(Debug)]
pub struct Folder {
    root: OwnedFd,
}

/// What stands under a name.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// By what it is known again.
    pub print: Print,
    /// It is a directory.
    pub dir: bool,
    /// It is a plain file.
    pub file: bool,
    /// Its permissions.
    pub mode: u32,
    /// Its owner and group.
    pub owner: (u32, u32),
    /// How many names it has.
    pub names: u64,
}

impl From<Stat> for Found {
    #[allow(clippy::unnecessary_cast, reason = "the widths differ between architectures")]
    fn from(s: Stat) -> Found {
        let kind = FileType::from_raw_mode(s.st_mode);
        Found {
            print: Print {
                dev: s.st_dev as u64,
                ino: s.st_ino as u64,
                len: u64::try_from(s.st_size).unwrap_or(0),
                changed: (s.st_mtime as i64, s.st_mtime_nsec as i64),
            },
            dir: kind == FileType::Directory,
            file: kind == FileType::RegularFile,
            mode: s.st_mode & 0o7777,
            owner: (s.st_uid, s.st_gid),
            names: s.st_nlink as u64,
        }
    }
}

/// A directory in it, or itself.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// How files and directories are opened.
const SAFE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

impl Folder {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Folder { root: fs::open(path, flags, Mode::empty())? })
    }

    /// The directory that the names lead to.
    ///
    /// # Errors
    /// One of them is no directory.
    pub fn dir(&self, names: &[&OsStr]) -> io::Result<Dir> {
        let mut at = self.root.try_clone()?;
        for name in names {
            at = fs::openat(&at, *name, OFlags::RDONLY | OFlags::DIRECTORY | SAFE, Mode::empty())?;
        }
        Ok(Dir(at))
    }
}

impl Dir {
    /// What stands under a name; `None`: nothing.
    ///
    /// # Errors
    /// That cannot be told.
    pub fn find(&self, name: &OsStr) -> io::Result<Option<Found>> {
        match fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(s) => Ok(Some(s.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens a plain file.
    ///
    /// # Errors
    /// It is none, or may not be opened so.
    pub fn file(&self, name: &OsStr, write: bool) -> io::Result<File> {
        let how = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let fd = fs::openat(&self.0, name, how | SAFE, Mode::empty())?;
        if !Found::from(fs::fstat(&fd)?).file {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(fd.into())
    }

    /// Makes a file that was not there, under a name that nobody else uses.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_file(&self, mode: u32) -> io::Result<(OsString, File)> {
        let name = self.unused(OsStr::new("rhea-vvfat"))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | SAFE;
        let fd = fs::openat(&self.0, &name, flags, Mode::from_raw_mode(mode))?;
        Ok((name, fd.into()))
    }

    /// A name like `name` that is not in use.
    ///
    /// # Errors
    /// That cannot be told.
    pub fn unused(&self, name: &OsStr) -> io::Result<OsString> {
        let id = std::process::id();
        for n in 0..10_000u32 {
            // However long the name is, this one is no longer than any file system allows.
            let text = name.to_string_lossy();
            let stem: String = text.chars().take(40).collect();
            let made = OsString::from(format!(".{stem}.{id}-{n}"));
            if self.find(&made)?.is_none() {
                return Ok(made);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(fs::mkdirat(&self.0, name, Mode::from_raw_mode(0o777))?)
    }

    /// Gives what is `name` here the name `new` in another directory, where nothing has it.
    ///
    /// # Errors
    /// Something has it; it cannot be done.
    pub fn rename(&self, name: &OsStr, to: &Dir, new: &OsStr) -> io::Result<()> {
        match fs::renameat_with(&self.0, name, &to.0, new, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // Not every file system looks by itself.
            Err(Errno::INVAL | Errno::NOSYS) if to.find(new)?.is_none() => {
                Ok(fs::renameat(&self.0, name, &to.0, new)?)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Gives `name` the name `new`, whatever has it.
    ///
    /// # Errors
    /// It cannot be done.
    pub fn replace(&self, name: &OsStr, new: &OsStr) -> io::Result<()> {
        Ok(fs::renameat(&self.0, name, &self.0, new)?)
    }

    /// Removes a file, or an empty directory.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, name: &OsStr, dir: bool) -> io::Result<()> {
        let flags = if dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        Ok(fs::unlinkat(&self.0, name, flags)?)
    }

    /// Makes what was done to names here stable.
    ///
    /// # Errors
    /// It cannot be.
    pub fn sync(&self) -> io::Result<()> {
        match fs::fsync(&self.0) {
            // Some file systems have nothing to do for a directory.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// What an open file is.
///
/// # Errors
/// That cannot be told.
pub fn look(file: &File) -> io::Result<Found> {
    Ok(fs::fstat(file.as_fd())?.into())
}

/// Sets permissions.
///
/// # Errors
/// They cannot be set.
pub fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    Ok(fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// Gives a file to an owner and a group, as far as we may.
pub fn give(file: &File, owner: (u32, u32)) {
    // Who may not does with less: the file is the one who wrote it.
    _ = fs::fchown(file, Some(fs::Uid::from_raw(owner.0)), Some(fs::Gid::from_raw(owner.1)));
}

/// Sets the time of the last change.
///
/// # Errors
/// It cannot be set.
pub fn set_changed(file: &File, at: SystemTime) -> io::Result<()> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let omit = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
    let to = Timespec { tv_sec: since.as_secs() as i64, tv_nsec: 0 };
    Ok(fs::futimens(file, &Timestamps { last_access: omit, last_modification: to })?)
}
