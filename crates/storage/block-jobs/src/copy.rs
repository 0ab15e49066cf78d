//! Copying one piece.

use api::block_core::BlockdevOnError;
use base::{Errno, IoResult};
use block::driver::{ChildSlot, WriteFlags, ZeroFlags};
use block::job::filter::{SOURCE, TARGET};
use block::job::{Job, Op, Then};
use block::request::Status;
use mem::IoBuf;
use qapi::{QError, qerr};
use std::sync::Arc;

/// The longest piece that is copied at a time, bytes.
pub(crate) const CHUNK: u64 = 1 << 20;

/// A request that failed: whether it wrote, and why.
pub(crate) type Failed = (bool, Errno);

/// Whether the images that were asked say what the bytes are: they have them, or one of them ends before them, so that
/// they are zeroes whatever is below.
pub(crate) fn has(st: &Status) -> bool {
    st.allocated || st.compressed || st.zero
}

/// Copies what `st` tells of from the filtered node to the target.
pub(crate) async fn copy(op: &Op, off: u64, st: &Status) -> Result<(), Failed> {
    let cx = op.cx();
    if st.zero {
        let zero = cx.child_write_zeroes(TARGET, off, st.len, ZeroFlags::MAY_UNMAP).await;
        return zero.map_err(|e| (true, e));
    }
    let buf = read(op, SOURCE, off, st.len).await.map_err(|e| (false, e))?;
    cx.child_write(TARGET, off, buf, WriteFlags::empty()).await.map_err(|e| (true, e))
}

/// Reads a piece.
pub(crate) async fn read(op: &Op, slot: ChildSlot, off: u64, len: u64) -> IoResult<IoBuf> {
    let buf = IoBuf::zeroed(len as usize);
    op.cx().child_read(slot, off, buf.clone()).await?;
    Ok(buf)
}

/// Decides what follows a failed request: an error where the job fails, true where the piece is to be tried again.
pub(crate) fn after(job: &Arc<Job>, on_error: BlockdevOnError, failed: Failed) -> Result<bool, QError> {
    let (write, e) = failed;
    match job.failed(on_error, write, e) {
        Then::Fail => Err(qerr!("{e}")),
        Then::GoOn => Ok(false),
        Then::Retry => Ok(true),
    }
}

/// An error of I/O as a job tells it.
pub(crate) fn plain(e: Errno) -> QError {
    qerr!("{e}")
}
