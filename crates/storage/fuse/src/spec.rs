//! Numbers of the protocol of `/dev/fuse` (fuse(4), `linux/fuse.h`), version 7.

/// The version that is spoken.
pub const MAJOR: u32 = 7;
/// The minor version that answers are laid out for.
pub const MINOR: u32 = 36;
/// The oldest minor version of a kernel that is served (Linux 4.20).
pub const OLDEST: u32 = 28;

/// A request's header, bytes.
pub const IN_HEADER: usize = 40;
/// An answer's header, bytes.
pub const OUT_HEADER: usize = 16;
/// What stands in front of a write's data, bytes.
pub const WRITE_PREFIX: usize = IN_HEADER + 40;
/// The longest request without data, of those that are looked into, bytes.
pub const LONGEST: usize = IN_HEADER + 88;
/// The longest read or write, bytes.
pub const MAX_IO: usize = 1 << 20;

/// Get the file's attributes.
pub const GETATTR: u32 = 3;
/// Change some of them.
pub const SETATTR: u32 = 4;
/// Open the file.
pub const OPEN: u32 = 14;
/// Read.
pub const READ: u32 = 15;
/// Write.
pub const WRITE: u32 = 16;
/// Tell about the file system.
pub const STATFS: u32 = 17;
/// The last user of an open file is gone.
pub const RELEASE: u32 = 18;
/// Make stable what was written.
pub const FSYNC: u32 = 20;
/// A descriptor is closed.
pub const FLUSH: u32 = 25;
/// The first request: versions and features.
pub const INIT: u32 = 26;
/// The last request.
pub const DESTROY: u32 = 38;
/// Forget an inode; it wants no answer.
pub const FORGET: u32 = 2;
/// Forget several; it wants no answer.
pub const BATCH_FORGET: u32 = 42;
/// Reserve, punch, zero.
pub const FALLOCATE: u32 = 43;
/// Look for data or for a hole.
pub const LSEEK: u32 = 46;

/// Feature: several reads of one file at a time.
pub const INIT_ASYNC_READ: u64 = 1;
/// Feature: `O_TRUNC` comes with [`OPEN`].
pub const INIT_ATOMIC_O_TRUNC: u64 = 1 << 3;
/// Feature: writes longer than a page.
pub const INIT_BIG_WRITES: u64 = 1 << 5;
/// Feature: direct I/O is split into requests that run at a time.
pub const INIT_ASYNC_DIO: u64 = 1 << 15;
/// Feature: the longest request in pages is told.
pub const INIT_MAX_PAGES: u64 = 1 << 22;
/// Feature: there are features beyond 32 bits.
pub const INIT_EXT: u64 = 1 << 30;
/// Feature: shared mappings of files with [`OPEN_DIRECT_IO`].
pub const INIT_DIRECT_IO_MMAP: u64 = 1 << 36;

/// Of an opened file: the page cache is not used.
pub const OPEN_DIRECT_IO: u32 = 1;
/// Of an opened file: writes may come at the same time.
pub const OPEN_PARALLEL_WRITES: u32 = 1 << 6;

/// [`SETATTR`] changes the mode.
pub const SET_MODE: u32 = 1;
/// … the owner.
pub const SET_UID: u32 = 1 << 1;
/// … the group.
pub const SET_GID: u32 = 1 << 2;
/// … the length.
pub const SET_SIZE: u32 = 1 << 3;
/// Of [`SETATTR`]: an open file is meant, a lock's owner is named, bits of the mode are to be cleared. No change.
pub const SET_ASIDE: u32 = 1 << 6 | 1 << 9 | 1 << 11;
/// … times, to now or to what is said.
pub const SET_TIMES: u32 = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10;

/// `fallocate`: the length stays.
pub const FALLOC_KEEP_SIZE: u32 = 1;
/// `fallocate`: give space back.
pub const FALLOC_PUNCH_HOLE: u32 = 2;
/// `fallocate`: make it zeroes.
pub const FALLOC_ZERO_RANGE: u32 = 0x10;

/// `lseek`: to the next data.
pub const SEEK_DATA: u32 = 3;
/// `lseek`: to the next hole.
pub const SEEK_HOLE: u32 = 4;

/// Type bits of a regular file's mode.
pub const S_IFREG: u32 = 0o100000;

/// Flags of an opened file: what of reading and writing is meant.
pub const O_ACCMODE: u32 = 3;
/// Flags of an opened file: each write is to be stable.
pub const O_DSYNC: u32 = 0o10000;
