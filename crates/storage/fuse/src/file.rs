//! What requests do with the node.

use crate::message::{Attr, Op, Out, SetAttr};
use crate::spec::*;
use base::{Errno, IoResult};
use block::driver::{Prealloc, WriteFlags, ZeroFlags};
use block::{Perm, Root, RootConfig};
use mem::IoBuf;
use rt::sync::Mutex;
use std::cell::Cell;
use std::sync::Arc;
use std::time::SystemTime;

/// Lengths are multiples of this, as those of disks are.
const SECTOR: u64 = 512;
/// The least that reads and writes are said to be aligned to, so that nobody buffers single bytes.
const BLOCK: u32 = 4096;

/// What an answer consists of, behind its header.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Fields.
    Fields(Vec<u8>),
    /// What was read.
    Data(IoBuf),
    /// Nothing is to be answered.
    Silence,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("root", &self.root).finish_non_exhaustive()
    }
}

/// How the node is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// It may be written.
    pub writable: bool,
    /// Writes behind the end lengthen it: the root holds [`Perm::RESIZE`].
    pub growable: bool,
    /// Every write is stable when it is answered.
    pub through: bool,
    /// Users other than that of this process may be let in, so owner and permissions may change.
    pub others: bool,
}

/// The file. On one executor.
pub struct File {
    root: Arc<Root>,
    manner: Manner,
    /// Where the graph is changed.
    control: rt::Handle,
    mode: Cell<u32>,
    uid: Cell<u32>,
    gid: Cell<u32>,
    /// Held while the length changes: the one who lengthens has looked at it before.
    resizing: Mutex<()>,
}

fn fields(out: Out) -> IoResult<Answer> {
    Ok(Answer::Fields(out.bytes()))
}

impl File {
    /// The file over a node, owned by this process's user. `control` is the executor on which the graph is changed.
    pub fn new(root: Arc<Root>, manner: Manner, control: rt::Handle) -> File {
        File {
            root,
            manner,
            control,
            mode: Cell::new(if manner.writable { 0o600 } else { 0o400 }),
            uid: Cell::new(rustix::process::getuid().as_raw()),
            gid: Cell::new(rustix::process::getgid().as_raw()),
            resizing: Mutex::new(()),
        }
    }

    /// Does what is asked for. `data` is what a write brings, which must be as long as it says.
    ///
    /// # Errors
    /// As the system call would give them.
    pub async fn handle(&self, op: Op, data: IoBuf) -> IoResult<Answer> {
        match op {
            Op::Init { .. } => Err(Errno::PROTO),
            Op::GetAttr => Ok(self.attr()),
            Op::SetAttr(set) => self.set_attr(set).await,
            Op::Open { flags } => {
                if !self.manner.writable && flags & O_ACCMODE != 0 {
                    return Err(Errno::ACCES);
                }
                // It is cut to no length when it is opened, as a disk is not: O_TRUNC is left aside.
                fields(Out::default().u64(0).u32(OPEN_DIRECT_IO | OPEN_PARALLEL_WRITES).u32(0))
            }
            Op::Read { offset, size } => self.read(offset, size).await,
            Op::Write { offset, flags, .. } => self.write(offset, data, flags & O_DSYNC != 0).await,
            Op::Flush | Op::Fsync => {
                self.root.flush().await?;
                fields(Out::default())
            }
            Op::Release | Op::Destroy => fields(Out::default()),
            Op::Allocate { offset, length, mode } => self.allocate(offset, length, mode).await,
            Op::Seek { offset, whence } => self.seek(offset, whence).await,
            // It has no blocks of its own.
            Op::StatFs => fields(Out::default().pad(40).u32(512).u32(255).u32(512).pad(28)),
            Op::Unanswered => Ok(Answer::Silence),
            // The kernel does without, and does not ask again.
            Op::Other(_) => Err(Errno::from_raw(rustix::io::Errno::NOSYS.raw_os_error())),
        }
    }

    fn attr(&self) -> Answer {
        let size = self.root.len();
        // A file that has no blocks is taken for empty by some.
        let allocated = self.root.allocated().filter(|n| *n > 0).unwrap_or(size);
        let attr = Attr {
            size,
            allocated,
            // Others may write to the node at any time.
            time: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            mode: self.mode.get(),
            uid: self.uid.get(),
            gid: self.gid.get(),
            block: self.root.limits().request_alignment.max(BLOCK),
        };
        Answer::Fields(attr.bytes())
    }

    async fn set_attr(&self, set: SetAttr) -> IoResult<Answer> {
        let has = |bits| set.valid & bits != 0;
        if set.valid & !(SET_MODE | SET_UID | SET_GID | SET_SIZE | SET_ASIDE) != 0 {
            return Err(Errno::NOTSUP);
        }
        if has(SET_UID | SET_GID) && !self.manner.others {
            return Err(Errno::NOTSUP);
        }
        if has(SET_MODE) {
            if set.mode & 0o222 != 0 && !self.manner.writable {
                return Err(Errno::ROFS);
            }
            if set.mode & 0o077 != 0 && !self.manner.others {
                return Err(Errno::PERM);
            }
        }
        if has(SET_SIZE) {
            if !self.manner.writable {
                return Err(Errno::ACCES);
            }
            let _one = self.resizing.lock().await;
            self.resize(set.size, Prealloc::Off).await?;
        }
        if has(SET_MODE) {
            self.mode.set(set.mode & 0o7777);
        }
        if has(SET_UID) {
            self.uid.set(set.uid);
        }
        if has(SET_GID) {
            self.gid.set(set.gid);
        }
        Ok(self.attr())
    }

    async fn read(&self, offset: u64, size: usize) -> IoResult<Answer> {
        let left = self.root.len().saturating_sub(offset);
        let buf = IoBuf::zeroed(size.min(usize::try_from(left).unwrap_or(usize::MAX)));
        if !buf.is_empty() {
            self.root.read(offset, buf.clone()).await?;
        }
        Ok(Answer::Data(buf))
    }

    async fn write(&self, offset: u64, data: IoBuf, stable: bool) -> IoResult<Answer> {
        if !self.manner.writable {
            return Err(Errno::ACCES);
        }
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::FBIG)?;
        if self.manner.growable && end > self.root.len() {
            let _one = self.resizing.lock().await;
            if end > self.root.len() {
                self.resize(end, Prealloc::Off).await?;
            }
        }
        let room = self.root.len().saturating_sub(offset);
        let len = data.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        if len == 0 && !data.is_empty() {
            return Err(Errno::IO);
        }
        let flags = if stable || self.manner.through { WriteFlags::FUA } else { WriteFlags::empty() };
        self.root.write(offset, data.slice(0..len), flags).await?;
        fields(Out::default().u32(len as u32).u32(0))
    }

    async fn allocate(&self, offset: u64, length: u64, mode: u32) -> IoResult<Answer> {
        if !self.manner.writable {
            return Err(Errno::ACCES);
        }
        if length == 0 {
            return Err(Errno::INVAL);
        }
        let end = offset.checked_add(length).ok_or(Errno::FBIG)?;
        let zero = match mode & !FALLOC_KEEP_SIZE {
            0 if mode == 0 => {
                let _one = self.resizing.lock().await;
                let now = self.root.len();
                // Space is reserved by lengthening, and in no other way.
                if offset < now {
                    return Err(Errno::NOTSUP);
                }
                if offset > now {
                    self.resize(offset, Prealloc::Off).await?;
                }
                self.resize(end, Prealloc::Falloc).await?;
                return fields(Out::default());
            }
            FALLOC_PUNCH_HOLE if mode & FALLOC_KEEP_SIZE != 0 => ZeroFlags::MAY_UNMAP,
            FALLOC_ZERO_RANGE => {
                if mode & FALLOC_KEEP_SIZE == 0 && end > self.root.len() {
                    let _one = self.resizing.lock().await;
                    if end > self.root.len() {
                        self.resize(end, Prealloc::Off).await?;
                    }
                }
                ZeroFlags::empty()
            }
            _ => return Err(Errno::NOTSUP),
        };
        let end = end.min(self.root.len());
        if offset < end {
            let mut flags = zero | ZeroFlags::NO_FALLBACK;
            flags.set(ZeroFlags::FUA, self.manner.through);
            self.root.write_zeroes(offset, end - offset, flags).await?;
        }
        fields(Out::default())
    }

    async fn seek(&self, offset: u64, whence: u32) -> IoResult<Answer> {
        let hole = match whence {
            SEEK_DATA => false,
            SEEK_HOLE => true,
            _ => return Err(Errno::INVAL),
        };
        let nothing = Errno::from_raw(rustix::io::Errno::NXIO.raw_os_error());
        let mut at = offset;
        loop {
            let len = self.root.len();
            if at >= len {
                // Behind the end there is a hole, to be found from within only.
                let found = hole && offset < len;
                return if found { fields(Out::default().u64(len)) } else { Err(nothing) };
            }
            let status = self.root.map(at, len - at).await?;
            if status.len == 0 {
                return Err(Errno::IO);
            }
            if (status.zero && !status.data) == hole {
                return fields(Out::default().u64(at));
            }
            at += status.len;
        }
    }

    /// Sets the length, in whole sectors; `resizing` is held.
    async fn resize(&self, len: u64, prealloc: Prealloc) -> IoResult<()> {
        let len = len.checked_next_multiple_of(SECTOR).ok_or(Errno::FBIG)?;
        if len > i64::MAX as u64 {
            return Err(Errno::FBIG);
        }
        if self.manner.growable {
            return self.root.truncate(len, false, prealloc).await;
        }
        // The permission is not asked for in advance, since other users of the node may not share it.
        let root = self.root.clone();
        let change = move || async move {
            let name = root.node_name().ok_or(Errno::NOMEDIUM)?;
            let config = RootConfig {
                perm: Perm::RESIZE,
                shared: Perm::all(),
                desc: "a FUSE export".into(),
                ..RootConfig::default()
            };
            let for_now = root.graph().attach(&name, config).await.map_err(|e| {
                tracing::debug!("a file is not resized: {e}");
                Errno::PERM
            })?;
            let done = for_now.truncate(len, false, prealloc).await;
            for_now.detach().await;
            done
        };
        self.control.spawn(change).outcome().await.unwrap_or(Err(Errno::IO))
    }
}
