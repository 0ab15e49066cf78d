//! What an image needs of the world: the file that holds it and its backing file.
//!
//! The driver implements it over its node's children, creation and checking over a root of the block graph, and the
//! tests over memory with a log of every write.

use api::block_core::BlkdebugEvent as Event;
use base::{Errno, IoResult};
use block::Root;
use block::driver::{Prealloc, WriteFlags, ZeroFlags};
use mem::IoBuf;

/// The image file (and the backing file's bytes) as the image code sees them.
///
/// A future is driven to its end by its caller; several may be in flight.
#[allow(async_fn_in_trait)] // Futures of the data plane stay on the executor that made them.
pub trait Host {
    /// Length of the image file, bytes.
    fn file_len(&self) -> IoResult<u64>;
    /// Reads; bytes beyond the end are zeros.
    async fn read(&self, off: u64, buf: IoBuf) -> IoResult<()>;
    /// Writes, growing the file where needed.
    async fn write(&self, off: u64, buf: IoBuf) -> IoResult<()>;
    /// Makes a range read as zeros; it may grow the file.
    async fn write_zeroes(&self, off: u64, len: u64) -> IoResult<()>;
    /// Tells that a range's content does not matter any more.
    async fn discard(&self, off: u64, len: u64) -> IoResult<()>;
    /// Makes completed writes stable, in both files.
    async fn flush(&self) -> IoResult<()>;
    /// Makes completed writes to the image's file stable, not those to a file of the guest's data.
    async fn flush_file(&self) -> IoResult<()> {
        self.flush().await
    }
    /// Sets the file's length.
    async fn truncate(&self, len: u64, prealloc: Prealloc) -> IoResult<()>;
    /// Tells the file what is about to be done, where it wants to know.
    async fn event(&self, event: Event) {
        let _ = event;
    }
    /// Length of the file that holds the guest's data.
    fn data_len(&self) -> IoResult<u64> {
        self.file_len()
    }
    /// Reads the guest's data.
    async fn data_read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.read(off, buf).await
    }
    /// Writes the guest's data.
    async fn data_write(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.write(off, buf).await
    }
    /// Makes a range of the file with the guest's data read as zeros.
    async fn data_write_zeroes(&self, off: u64, len: u64) -> IoResult<()> {
        self.write_zeroes(off, len).await
    }
    /// [`Host::data_write_zeroes`] where that is quick: it writes no bytes. `ENOTSUP` otherwise.
    async fn data_zero_fast(&self, off: u64, len: u64) -> IoResult<()> {
        let _ = (off, len);
        Err(Errno::NOTSUP)
    }
    /// How many bytes the image file takes on the disk, where that is known.
    fn allocated(&self) -> Option<u64> {
        None
    }
    /// Tells that a range of the guest's data does not matter any more.
    async fn data_discard(&self, off: u64, len: u64) -> IoResult<()> {
        self.discard(off, len).await
    }
    /// Sets the length of the file with the guest's data.
    async fn data_truncate(&self, len: u64, prealloc: Prealloc) -> IoResult<()> {
        self.truncate(len, prealloc).await
    }
    /// Length of the backing file; `None` without one.
    fn backing_len(&self) -> Option<u64>;
    /// Reads the backing file, within its length.
    async fn backing_read(&self, off: u64, buf: IoBuf) -> IoResult<()>;
    /// Whether a range of the backing file, within its length, is known to read as zeros.
    async fn backing_is_zero(&self, off: u64, len: u64) -> IoResult<bool> {
        let _ = (off, len);
        Ok(false)
    }
}

/// Reads `len` bytes into a vector. The caller bounds `len`.
pub async fn read_vec<H: Host>(host: &H, off: u64, len: usize) -> IoResult<Vec<u8>> {
    if len == 0 {
        return Ok(Vec::new());
    }
    let buf = IoBuf::zeroed(len);
    host.read(off, buf.clone()).await?;
    Ok(buf.to_vec())
}

/// Reads `len` bytes of a table, a multiple of 8, as its numbers. The caller bounds `len`.
pub async fn read_words<H: Host>(host: &H, off: u64, len: usize) -> IoResult<Box<[u64]>> {
    let buf = IoBuf::zeroed(len);
    host.read(off, buf.clone()).await?;
    let mut words = Vec::with_capacity(len / 8);
    put_words(&buf, &mut words);
    Ok(words.into())
}

/// Appends the numbers that a buffer holds.
pub fn put_words(buf: &IoBuf, words: &mut Vec<u64>) {
    let mut part = [0; 4096];
    for at in (0..buf.len()).step_by(part.len()) {
        let part = &mut part[..(buf.len() - at).min(4096)];
        buf.copy_to(at, part);
        words.extend(part.as_chunks().0.iter().map(|w| u64::from_be_bytes(*w)));
    }
}

/// Writes bytes.
pub async fn write_bytes<H: Host>(host: &H, off: u64, bytes: &[u8]) -> IoResult<()> {
    host.write(off, IoBuf::from_bytes(bytes)).await
}

/// A root of the block graph as the host of an image without a backing file: to create and to check images.
pub struct RootHost<'a>(pub &'a Root);

impl Host for RootHost<'_> {
    fn file_len(&self) -> IoResult<u64> {
        Ok(self.0.len())
    }
    async fn read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        read(self.0, off, buf).await
    }
    async fn write(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        write(self.0, off, buf).await
    }
    async fn write_zeroes(&self, off: u64, len: u64) -> IoResult<()> {
        write_zeroes(self.0, off, len).await
    }
    async fn discard(&self, off: u64, len: u64) -> IoResult<()> {
        self.0.discard(off, len).await
    }
    async fn flush(&self) -> IoResult<()> {
        self.0.flush().await
    }
    async fn truncate(&self, len: u64, prealloc: Prealloc) -> IoResult<()> {
        self.0.truncate(len, false, prealloc).await
    }
    fn backing_len(&self) -> Option<u64> {
        None
    }
    async fn backing_read(&self, _off: u64, _buf: IoBuf) -> IoResult<()> {
        Err(Errno::NOMEDIUM)
    }
}

/// Two roots as the host of an image whose data stands in another file: to create images.
pub struct TwoRoots<'a> {
    /// The image.
    pub file: &'a Root,
    /// The guest's data.
    pub data: &'a Root,
}

impl Host for TwoRoots<'_> {
    fn file_len(&self) -> IoResult<u64> {
        Ok(self.file.len())
    }
    async fn read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        read(self.file, off, buf).await
    }
    async fn write(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        write(self.file, off, buf).await
    }
    async fn write_zeroes(&self, off: u64, len: u64) -> IoResult<()> {
        write_zeroes(self.file, off, len).await
    }
    async fn discard(&self, off: u64, len: u64) -> IoResult<()> {
        self.file.discard(off, len).await
    }
    async fn flush(&self) -> IoResult<()> {
        self.data.flush().await?;
        self.file.flush().await
    }
    async fn truncate(&self, len: u64, prealloc: Prealloc) -> IoResult<()> {
        self.file.truncate(len, false, prealloc).await
    }
    fn data_len(&self) -> IoResult<u64> {
        Ok(self.data.len())
    }
    async fn data_read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        read(self.data, off, buf).await
    }
    async fn data_write(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        write(self.data, off, buf).await
    }
    async fn data_write_zeroes(&self, off: u64, len: u64) -> IoResult<()> {
        write_zeroes(self.data, off, len).await
    }
    async fn data_discard(&self, off: u64, len: u64) -> IoResult<()> {
        self.data.discard(off, len).await
    }
    async fn data_truncate(&self, len: u64, prealloc: Prealloc) -> IoResult<()> {
        self.data.truncate(len, false, prealloc).await
    }
    fn backing_len(&self) -> Option<u64> {
        None
    }
    async fn backing_read(&self, _off: u64, _buf: IoBuf) -> IoResult<()> {
        Err(Errno::NOMEDIUM)
    }
}

async fn read(root: &Root, off: u64, buf: IoBuf) -> IoResult<()> {
    // A root refuses what lies beyond its end.
    let have = root.len().saturating_sub(off).min(buf.len() as u64) as usize;
    if have < buf.len() {
        buf.slice(have..buf.len()).fill(0);
    }
    if have == 0 {
        return Ok(());
    }
    root.read(off, buf.slice(0..have)).await
}

async fn write(root: &Root, off: u64, buf: IoBuf) -> IoResult<()> {
    grow(root, off, buf.len() as u64).await?;
    root.write(off, buf, WriteFlags::empty()).await
}

async fn write_zeroes(root: &Root, off: u64, len: u64) -> IoResult<()> {
    grow(root, off, len).await?;
    root.write_zeroes(off, len, ZeroFlags::empty()).await
}

/// A root's length is fixed for its user: growing is a request of its own.
async fn grow(root: &Root, off: u64, len: u64) -> IoResult<()> {
    let end = off.checked_add(len).ok_or(Errno::FBIG)?;
    if end > root.len() {
        root.truncate(end, false, Prealloc::Off).await?;
    }
    Ok(())
}
