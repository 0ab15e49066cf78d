//! What formats have in common that divide the disk into blocks of one size and keep a table of where each block is.
//!
//! A format describes its table ([`Map`]); [`Engine`] reads and writes through it: it copies from the backing file what
//! a write leaves of a block, keeps runs of blocks together, and orders writes so that the file is usable at any
//! moment. [`Formatted`] makes a block driver of a format.
//!
//! # Order of writes
//! Tables are changed in memory ([`Meta`]) and reach the file when the node is flushed, or when much has gathered: first what the
//! tables refer to is made stable, then entries are written, and once they are stable, what refers to new tables. So a
//! crash at worst leaves blocks that nobody refers to.
//!
//! # Locks
//! `ranges` (whole blocks of the guest) before `space` (allocation and every change of tables). Requests into blocks
//! that are there share `ranges` and take nothing else.

mod driver;
mod engine;
mod io;
mod meta;
mod twolevel;

pub use driver::{Formatted, open_format};
pub use engine::{Engine, Place};
pub use io::{Io, clamp_len};
pub use meta::{Level, Meta};
pub use twolevel::TwoLevel;

use base::{Errno, IoResult};
use block::check::{Fix, Report};
use block::driver::{BackingHint, Below, CtlFuture, Cx, DriverInfo, OpenCx, Prealloc};
use block_crypto::Transform;
use qapi::QError;

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nowhere: the backing file shows through, or zeroes.
    Unallocated,
    /// Zeroes.
    Zero,
    /// Plain, at this offset of the file.
    Data(u64),
    /// Compressed; the format knows what the number means.
    Packed(u64),
}

/// What becomes of whole blocks of which zeroes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    /// They are in the file afterwards, like others that were written.
    Stored,
    /// They are marked; those that are in the file stay there.
    Marked,
    /// They are marked, and what they had in the file is given up.
    GivenUp,
}

/// A format's tables, and the file that has them.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The file.
    pub io: Io<'a>,
    /// Its tables, as they will be.
    pub meta: &'a Meta,
}

/// How the disk's bytes are encrypted: sector by sector, by their place on the disk. Blocks are whole sectors then, and so are
/// requests.
#[derive(Debug)]
pub struct Cipher(Option<Transform>);

impl Cipher {
    /// With this key; without one, data can neither be read nor written.
    pub fn new(key: Option<Transform>) -> Cipher {
        Cipher(key)
    }

    fn key(&self) -> IoResult<&Transform> {
        self.0.as_ref().ok_or(Errno::PERM)
    }
}

/// Where new blocks come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Offset in the file of the next free byte.
    pub next: u64,
    /// From here on the file was never written.
    pub zero_from: u64,
}

impl Space {
    /// Takes `len` bytes.
    pub fn take(&mut self, len: u64) -> IoResult<u64> {
        let at = self.next;
        self.next = at.checked_add(len).filter(|end| *end <= block::MAX_OFFSET).ok_or(Errno::FBIG)?;
        Ok(at)
    }
}

/// The tables of a format. Everything that is called `space` is called under the lock of the engine.
#[allow(async_fn_in_trait)] // Futures of the data plane stay on the executor that made them.
pub trait Map: Send + Sync + Sized + 'static {
    /// Whether blocks that are nowhere show the backing file.
    const BACKING: bool = false;

    /// Length of the disk, bytes.
    fn disk_len(&self) -> u64;

    /// Length of a block, bytes; never 0.
    fn block_size(&self) -> u64;

    /// Where `block` is, and how many blocks from it on go on like that (in the file, too): 1 to `max`.
    async fn find(&self, at: &At<'_>, block: u64, max: u64) -> IoResult<(Slot, u64)>;

    /// What block status says of blocks that are in the file.
    fn below(&self) -> Below {
        Below::Data
    }

    /// How the disk's bytes are encrypted in the file, if they are. Compressed blocks are not.
    fn cipher(&self) -> Option<&Cipher> {
        None
    }

    /// What becomes of the blocks that a request of zeroes covers whole.
    fn zeroing(&self, off: u64, len: u64) -> Zeroing {
        let _ = (off, len);
        Zeroing::Stored
    }

    /// Whether what is nowhere is what [`Map::mark_zero`] makes.
    fn mark_is_none(&self) -> bool {
        false
    }

    /// What becomes of the blocks that a discard covers: whether they are given up, or only their bytes in the file.
    fn gives_up(&self, off: u64, len: u64) -> bool {
        let _ = (off, len);
        false
    }

    /// The first change is about to happen. Marks the image where the format has marks for that.
    async fn begin(&self, at: &At<'_>, space: &mut Space) -> IoResult<()> {
        let _ = (at, space);
        Ok(())
    }

    /// Takes space for blocks from `block` on, `count` at most; answers where and for how many. They need not be initialized.
    async fn reserve(&self, at: &At<'_>, space: &mut Space, block: u64, count: u64) -> IoResult<(u64, u64)> {
        let _ = (at, block);
        let len = count.checked_mul(self.block_size()).ok_or(Errno::FBIG)?;
        Ok((space.take(len)?, count))
    }

    /// Enters blocks that were written to `host` into the tables.
    async fn link(&self, at: &At<'_>, space: &mut Space, block: u64, count: u64, host: u64) -> IoResult<()>;

    /// Marks a block as zeroes; only asked where [`Map::zeroing`] says that blocks are marked.
    async fn mark_zero(&self, at: &At<'_>, space: &mut Space, block: u64) -> IoResult<()> {
        let _ = (at, space, block);
        Err(Errno::NOTSUP)
    }

    /// Whether blocks can be stored compressed.
    fn compresses(&self) -> bool {
        false
    }

    /// Compresses a whole block. `None`: it does not become smaller. Called on another thread.
    fn pack(block: u64, plain: &[u8]) -> IoResult<Option<Vec<u8>>> {
        let _ = (block, plain);
        Err(Errno::NOTSUP)
    }

    /// Writes a compressed block and enters it into the tables.
    async fn link_packed(&self, at: &At<'_>, space: &mut Space, block: u64, packed: Vec<u8>) -> IoResult<()> {
        let _ = (at, space, block, packed);
        Err(Errno::NOTSUP)
    }

    /// Reads the block that [`Slot::Packed`] was said of: exactly [`Map::block_size`] bytes.
    async fn unpack(&self, at: &At<'_>, block: u64, key: u64) -> IoResult<Vec<u8>> {
        let _ = (at, block, key);
        Err(Errno::IO)
    }

    /// Tables have just been written back. What else is to be in the file?
    async fn flushed(&self, at: &At<'_>, space: &mut Space) -> IoResult<()> {
        let _ = (at, space);
        Ok(())
    }

    /// Everything has been written back, and nothing will be changed for now: undoes what [`Map::begin`] did.
    async fn finish(&self, at: &At<'_>, space: &mut Space) -> IoResult<()> {
        let _ = (at, space);
        Ok(())
    }

    /// Changes the length of the disk.
    async fn resize(&self, at: &At<'_>, space: &mut Space, len: u64, prealloc: Prealloc) -> IoResult<()> {
        let _ = (at, space, len, prealloc);
        Err(Errno::NOTSUP)
    }
}

/// A format as a driver: what it is beside its tables. One file holds the image.
pub trait Format: Map {
    /// Reads the header.
    fn open<'a>(o: &'a OpenCx<'a>) -> CtlFuture<'a, (Self, Space)>;

    /// Checks the image, and repairs what `fix` says. `None`: the format has no checks, or cannot repair.
    fn check<'a>(
        &'a self,
        at: At<'a>,
        fix: Fix,
        log: &'a mut dyn FnMut(&str),
    ) -> CtlFuture<'a, Option<Report>> {
        let _ = (at, fix, log);
        Box::pin(async { Ok(None) })
    }

    /// What queries show.
    fn info(&self, cx: &Cx<'_>) -> DriverInfo {
        let _ = cx;
        DriverInfo::default()
    }

    /// The backing file that the header names.
    fn backing_hint(&self) -> Option<BackingHint> {
        None
    }

    /// The image can only be read, though nobody said so.
    fn forced_read_only(&self) -> bool {
        false
    }

    /// The node is part of the graph, and may write: puts right what must be so before anything is read. Answers whether the
    /// file has changed and must be read anew.
    fn activate<'a>(&'a self, at: At<'a>) -> CtlFuture<'a, bool> {
        let _ = at;
        Box::pin(async { Ok(false) })
    }

    /// This is the image as it is read anew after [`Format::activate`] has changed the file.
    fn was_repaired(&self) {}

    /// Writes the name of another backing file into the header.
    fn write_backing_hint<'a>(&'a self, at: At<'a>, hint: Option<BackingHint>) -> CtlFuture<'a> {
        let _ = (at, hint);
        Box::pin(async { Err(QError::new(base::Errno::NOTSUP.to_string())) })
    }
}

/// Reads entries of `W` bytes of a table from `off` on, and answers how many of them, `max` at most, are one run. `decode` gets the number of
/// the entry, counted from the first.
pub async fn table_run<const W: usize>(
    at: &At<'_>,
    off: u64,
    max: u64,
    block_size: u64,
    decode: impl Fn(u64, [u8; W]) -> IoResult<Slot>,
) -> IoResult<(Slot, u64)> {
    at.meta
        .with(&at.io, off, |bytes| {
            let (entries, _) = bytes.as_chunks::<W>();
            let mut run: Option<(Slot, u64)> = None;
            for (i, e) in (0..max).zip(entries) {
                let slot = decode(i, *e);
                match (&mut run, slot) {
                    (None, slot) => run = Some((slot?, 1)),
                    (Some((Slot::Data(first), n)), Ok(Slot::Data(o)))
                        if n.checked_mul(block_size).and_then(|d| d.checked_add(*first)) == Some(o) =>
                    {
                        *n += 1;
                    }
                    (Some((a @ (Slot::Unallocated | Slot::Zero), n)), Ok(b)) if *a == b => *n += 1,
                    // A broken entry is told of when somebody wants that block.
                    _ => break,
                }
            }
            run.ok_or(Errno::IO)
        })
        .await?
}
