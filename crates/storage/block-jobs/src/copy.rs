//! Copying one piece.

use crate::flow::{Buffers, CHUNK};
use base::Errno;
use block::NodeId;
use block::driver::{WriteFlags, ZeroFlags};
use block::job::Op;
use block::job::filter::{SOURCE, TARGET};
use block::request::Status;
use qapi::{QError, qerr};

/// A request that failed: whether it wrote, and why.
pub(crate) type Failed = (bool, Errno);

/// Whether the images that were asked say what the bytes are: they have them, or one of them ends before them, so that
/// they are zeroes whatever is below.
pub(crate) fn has(st: &Status) -> bool {
    st.allocated || st.compressed || st.zero
}

/// How zeroes are written to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeroes {
    /// As holes where the target can have them.
    Holes,
    /// As zeroes that take their space.
    Kept,
    /// As any other bytes: the target must have them itself, and has no other way of saying so.
    Bytes,
}

/// Copies a range from the filtered node to the target, as far as the images from it down to `bottom` have it. Zeroes
/// stay zeroes. Answers how many bytes were moved.
pub(crate) async fn copy_range(
    op: &Op,
    bufs: &Buffers,
    off: u64,
    len: u64,
    bottom: Option<NodeId>,
    zeroes: Zeroes,
) -> Result<u64, Failed> {
    let (mut at, end, mut moved) = (off, off + len, 0);
    // Zeroes that are known, but not written yet: as few and long requests as can be.
    let mut zero = None;
    while at < end {
        let st = op.status(SOURCE, at, end - at, bottom).await.map_err(|e| (false, e))?;
        let n = st.len.min(end - at);
        let wanted = bottom.is_none() || has(&st);
        if wanted && st.zero {
            zero.get_or_insert(at);
        } else {
            put_zeroes(op, bufs, zero.take(), at, zeroes).await?;
            if wanted {
                moved += copy(op, bufs, at, n).await?;
            }
        }
        at += n;
    }
    put_zeroes(op, bufs, zero, end, zeroes).await?;
    Ok(moved)
}

/// Zeroes the target from an offset on, if there is one, to `end`.
async fn put_zeroes(op: &Op, bufs: &Buffers, from: Option<u64>, end: u64, how: Zeroes) -> Result<(), Failed> {
    let Some(mut at) = from else { return Ok(()) };
    let cx = op.cx();
    let flags = if how == Zeroes::Holes { ZeroFlags::MAY_UNMAP } else { ZeroFlags::empty() };
    if how != Zeroes::Bytes {
        return cx.child_write_zeroes(TARGET, at, end - at, flags).await.map_err(|e| (true, e));
    }
    while at < end {
        let n = (end - at).min(CHUNK);
        let b = bufs.take(n);
        b.buf.fill(0);
        let wrote = cx.child_write(TARGET, at, b.buf.clone(), WriteFlags::empty()).await;
        wrote.map_err(|e| (true, e))?;
        at += n;
    }
    Ok(())
}

/// Copies a range of data.
async fn copy(op: &Op, bufs: &Buffers, off: u64, len: u64) -> Result<u64, Failed> {
    let cx = op.cx();
    let b = bufs.take(len);
    cx.child_read(SOURCE, off, b.buf.clone()).await.map_err(|e| (false, e))?;
    cx.child_write(TARGET, off, b.buf.clone(), WriteFlags::empty()).await.map_err(|e| (true, e))?;
    Ok(len)
}

/// An error of I/O as a job tells it.
pub(crate) fn plain(e: Errno) -> QError {
    qerr!("{e}")
}
