use super::OnError;
use base::IoResult;
use block::driver::{WriteFlags, ZeroFlags};
use block::{Access, Root};
use device::LocalBoxFuture;
use mem::IoBuf;

/// What a disk needs of its storage: a [`Root`] of the block graph, or a stand-in in tests.
///
/// Offsets and lengths are bytes. Futures are polled on the device's executor; dropping one must leave memory
/// and storage sound.
pub trait BlockPort: Send + Sync + 'static {
    /// Fills `buf` from `off` on.
    fn read(&self, off: u64, buf: IoBuf) -> LocalBoxFuture<'_, IoResult<()>>;

    /// Writes `buf`; with `fua` it is stable when done.
    fn write(&self, off: u64, buf: IoBuf, fua: bool) -> LocalBoxFuture<'_, IoResult<()>>;

    /// Makes a range read as zeroes; with `unmap` it may be deallocated.
    fn write_zeroes(&self, off: u64, len: u64, unmap: bool, fua: bool) -> LocalBoxFuture<'_, IoResult<()>>;

    /// The content of a range does not matter any more.
    fn discard(&self, off: u64, len: u64) -> LocalBoxFuture<'_, IoResult<()>>;

    /// Makes completed writes stable.
    fn flush(&self) -> LocalBoxFuture<'_, IoResult<()>>;

    /// The size in bytes.
    fn len(&self) -> u64;

    /// Whether there is no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether writes are refused.
    fn read_only(&self) -> bool;

    /// The name of the block backend, for events; may be empty.
    fn name(&self) -> &str;

    /// A request was refused because it made no sense: for the figures.
    fn refused(&self, _access: Access) {}

    /// What the drive's user wants done about failing reads, or writes. By default a failing read is reported, and so
    /// is a failing write unless space ran out, which stops the machine.
    fn on_error(&self, read: bool) -> OnError {
        if read { OnError::Report } else { OnError::Enospc }
    }
}

impl BlockPort for Root {
    fn read(&self, off: u64, buf: IoBuf) -> LocalBoxFuture<'_, IoResult<()>> {
        Box::pin(Root::read(self, off, buf))
    }

    fn write(&self, off: u64, buf: IoBuf, fua: bool) -> LocalBoxFuture<'_, IoResult<()>> {
        let flags = if fua { WriteFlags::FUA } else { WriteFlags::empty() };
        Box::pin(Root::write(self, off, buf, flags))
    }

    fn write_zeroes(&self, off: u64, len: u64, unmap: bool, fua: bool) -> LocalBoxFuture<'_, IoResult<()>> {
        let mut flags = ZeroFlags::empty();
        flags.set(ZeroFlags::MAY_UNMAP, unmap);
        flags.set(ZeroFlags::FUA, fua);
        Box::pin(Root::write_zeroes(self, off, len, flags))
    }

    fn discard(&self, off: u64, len: u64) -> LocalBoxFuture<'_, IoResult<()>> {
        Box::pin(Root::discard(self, off, len))
    }

    fn flush(&self) -> LocalBoxFuture<'_, IoResult<()>> {
        Box::pin(Root::flush(self))
    }

    fn len(&self) -> u64 {
        Root::len(self)
    }

    fn read_only(&self) -> bool {
        Root::read_only(self)
    }

    fn name(&self) -> &str {
        Root::name(self)
    }

    fn refused(&self, access: Access) {
        Root::refused(self, access);
    }

    fn on_error(&self, read: bool) -> OnError {
        let policy = self.error_policy();
        if read { policy.read } else { policy.write }
    }
}
