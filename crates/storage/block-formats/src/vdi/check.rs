//! Checking VDI images.

use super::Vdi;
use super::spec::DISCARDED;
use crate::blockmap::At;
use base::IoResult;
use block::check::Report;

/// Looks whether each block of the file is used once, and is there.
pub(super) async fn check(vdi: &Vdi, at: At<'_>, log: &mut dyn FnMut(&str)) -> IoResult<Report> {
    let allocated = vdi.header.blocks_allocated;
    let mut report = Report::default();
    // A bit for each block, as far as blocks are used: 64 MiB at most, for the largest disk.
    let mut used: Vec<u64> = Vec::new();
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
            let (word, bit) = ((e / 64) as usize, 1u64 << (e % 64));
            if e >= allocated {
                log(&format!("ERROR: block index {i} too large, is {e}"));
                report.corruptions += 1;
            } else if used.get(word).is_some_and(|w| w & bit != 0) {
                log(&format!("ERROR: block index {e} also used by {e}"));
                report.corruptions += 1;
            } else {
                used.resize(used.len().max(word + 1), 0);
                used[word] |= bit;
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
