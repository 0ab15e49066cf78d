//! Copying one piece.

use crate::flow::Buffers;
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

/// Copies a range from the filtered node to the target, as far as the images from it down to `bottom` have it. Zeroes
/// stay zeroes, and holes where the target can have them. Answers how many bytes were moved.
pub(crate) async fn copy_range(
    op: &Op,
    bufs: &Buffers,
    off: u64,
    len: u64,
    bottom: Option<NodeId>,
) -> Result<u64, Failed> {
    let (mut at, end, mut moved) = (off, off + len, 0);
    while at < end {
        let st = op.status(SOURCE, at, end - at, bottom).await.map_err(|e| (false, e))?;
        let n = st.len.min(end - at);
        if bottom.is_none() || has(&st) {
            moved += copy(op, bufs, at, n, st.zero).await?;
        }
        at += n;
    }
    Ok(moved)
}

/// Copies a range that is all zeroes or all data.
async fn copy(op: &Op, bufs: &Buffers, off: u64, len: u64, zero: bool) -> Result<u64, Failed> {
    let cx = op.cx();
    if zero {
        let done = cx.child_write_zeroes(TARGET, off, len, ZeroFlags::MAY_UNMAP).await;
        return done.map(|()| 0).map_err(|e| (true, e));
    }
    let b = bufs.take(len);
    cx.child_read(SOURCE, off, b.buf.clone()).await.map_err(|e| (false, e))?;
    cx.child_write(TARGET, off, b.buf.clone(), WriteFlags::empty()).await.map_err(|e| (true, e))?;
    Ok(len)
}

/// An error of I/O as a job tells it.
pub(crate) fn plain(e: Errno) -> QError {
    qerr!("{e}")
}
