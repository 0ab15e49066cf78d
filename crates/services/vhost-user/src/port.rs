//! The storage of an exported disk.

use base::{Errno, IoResult};
use block::Root;
use device::LocalBoxFuture;
use mem::IoBuf;
use std::sync::Arc;
use virtio::blk::BlockPort;

/// The node, read-only unless the export is writable.
pub(crate) struct Port {
    pub(crate) root: Arc<Root>,
    pub(crate) writable: bool,
}

impl Port {
    /// What a change does, where changes may be made.
    fn change<'a>(&self, f: impl Future<Output = IoResult<()>> + 'a) -> LocalBoxFuture<'a, IoResult<()>> {
        if self.writable { Box::pin(f) } else { Box::pin(std::future::ready(Err(Errno::PERM))) }
    }
}

impl BlockPort for Port {
    fn read(&self, off: u64, buf: IoBuf) -> LocalBoxFuture<'_, IoResult<()>> {
        BlockPort::read(&*self.root, off, buf)
    }

    fn write(&self, off: u64, buf: IoBuf, fua: bool) -> LocalBoxFuture<'_, IoResult<()>> {
        self.change(BlockPort::write(&*self.root, off, buf, fua))
    }

    fn write_zeroes(&self, off: u64, len: u64, unmap: bool, fua: bool) -> LocalBoxFuture<'_, IoResult<()>> {
        self.change(BlockPort::write_zeroes(&*self.root, off, len, unmap, fua))
    }

    fn discard(&self, off: u64, len: u64) -> LocalBoxFuture<'_, IoResult<()>> {
        self.change(BlockPort::discard(&*self.root, off, len))
    }

    fn flush(&self) -> LocalBoxFuture<'_, IoResult<()>> {
        BlockPort::flush(&*self.root)
    }

    fn len(&self) -> u64 {
        self.root.len()
    }

    fn read_only(&self) -> bool {
        !self.writable || self.root.read_only()
    }

    fn name(&self) -> &str {
        ""
    }
}
