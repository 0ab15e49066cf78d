//! The file that holds an image, as one of a node's children.

use base::{Errno, IoResult};
use block::driver::{ChildSlot, Cx, Prealloc, WriteFlags, ZeroFlags};
use mem::IoBuf;

/// A child of the node within one request.
#[derive(Clone, Copy)]
pub struct Io<'a> {
    /// The node.
    pub cx: Cx<'a>,
    /// Which child.
    pub slot: ChildSlot,
    /// Where on the node's disk the part begins that this child holds.
    pub start: u64,
}

/// How much of `len` bytes from `off` on lies before `end`.
pub fn clamp_len(off: u64, len: u64, end: u64) -> u64 {
    len.min(end.saturating_sub(off))
}

impl<'a> Io<'a> {
    /// The child `file`.
    pub fn file(cx: &Cx<'a>) -> Io<'a> {
        Io { cx: *cx, slot: ChildSlot::File, start: 0 }
    }

    /// Its length, bytes.
    pub fn file_len(&self) -> IoResult<u64> {
        self.cx.child_len(self.slot)
    }

    /// Reads; bytes beyond the end are zeroes.
    pub async fn read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.cx.child_read(self.slot, off, buf).await
    }

    /// Reads `len` bytes; the caller bounds `len`.
    pub async fn read_vec(&self, off: u64, len: usize) -> IoResult<Vec<u8>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let buf = IoBuf::zeroed(len);
        self.read(off, buf.clone()).await?;
        Ok(buf.to_vec())
    }

    /// Reads `N` bytes.
    pub async fn read_array<const N: usize>(&self, off: u64) -> IoResult<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(&self.read_vec(off, N).await?);
        Ok(out)
    }

    /// Writes, growing the file where needed.
    pub async fn write(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.cx.child_write(self.slot, off, buf, WriteFlags::empty()).await
    }

    /// Writes bytes.
    pub async fn write_bytes(&self, off: u64, bytes: &[u8]) -> IoResult<()> {
        self.write(off, IoBuf::from_bytes(bytes)).await
    }

    /// Makes a range read as zeroes.
    pub async fn write_zeroes(&self, off: u64, len: u64, flags: ZeroFlags) -> IoResult<()> {
        if len == 0 { Ok(()) } else { self.cx.child_write_zeroes(self.slot, off, len, flags).await }
    }

    /// Makes what was written stable.
    pub async fn flush(&self) -> IoResult<()> {
        self.cx.child_flush(self.slot).await
    }

    /// Makes the file at least `end` bytes long.
    pub async fn grow(&self, end: u64) -> IoResult<()> {
        if self.file_len()? >= end {
            return Ok(());
        }
        self.cx.child_truncate(self.slot, end, false, Prealloc::Off).await
    }

    /// How much of a range the backing file has.
    pub fn backing_part(&self, off: u64, len: u64) -> u64 {
        let off = off.saturating_add(self.start);
        clamp_len(off, len, self.cx.child_len(ChildSlot::Backing).unwrap_or(0))
    }

    /// Reads the backing file; zeroes beyond its end, or without one.
    pub async fn read_backing(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        let have = self.backing_part(off, buf.len() as u64) as usize;
        if have < buf.len() {
            buf.slice(have..buf.len()).fill(0);
        }
        let off = off.saturating_add(self.start);
        if have == 0 { Ok(()) } else { self.cx.child_read(ChildSlot::Backing, off, buf.slice(0..have)).await }
    }
}

impl std::fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io").field("node", &self.cx.node_name()).field("slot", &self.slot).finish()
    }
}

/// An error where a format's reader got an offset that no file has.
pub(crate) fn checked(off: Option<u64>) -> IoResult<u64> {
    off.filter(|o| *o <= block::MAX_OFFSET).ok_or(Errno::IO)
}
