//! Checking VDI images.

use super::Vdi;
use super::spec::{BLOCK, DISCARDED};
use crate::blockmap::At;
use base::IoResult;
use block::check::Report;

/// Looks whether each block of the file is used once, and is there.
pub(super) async fn check(vdi: &Vdi, at: At<'_>, log: &mut dyn FnMut(&str)) -> IoResult<Report> {
    let allocated = vdi.header.blocks_allocated;
    let mut report = Report::default();
    // No more bits than blocks that the file can hold.
    let fits = at.io.file_len()?.saturating_sub(u64::from(vdi.header.data_offset)).div_ceil(BLOCK);
    let mut used = vec![false; u64::from(allocated).min(fits) as usize];
    let (mut block, mut count) = (0, 0);
    while block < vdi.header.blocks {
        let off = vdi.entry_at(u64::from(block));
        let entries: Vec<u32> = at
            .meta
            .with(&at.io, off, |b| b.as_chunks::<4>().0.iter().map(|e| u32::from_le_bytes(*e)).collect())
            .await?;
        for (i, e) in (block..vdi.header.blocks).zip(entries.iter().copied()) {
            if e >= DISCARDED {
                continue;
            }
            match used.get_mut(e as usize) {
                Some(false) => used[e as usize] = true,
                Some(true) => {
                    log(&format!("ERROR: block index {e} also used by {e}"));
                    report.corruptions += 1;
                }
                None => {
                    log(&format!("ERROR: block index {i} too large, is {e}"));
                    report.corruptions += 1;
                }
            }
            count += 1;
        }
        block = block.saturating_add(entries.len().max(1) as u32);
    }
    if count != allocated {
        log(&format!("ERROR: allocated blocks mismatch, is {count}, should be {allocated}"));
        report.corruptions += 1;
    }
    Ok(report)
}
