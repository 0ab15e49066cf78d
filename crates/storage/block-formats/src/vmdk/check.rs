//! Checking VMDK images.

use super::{Storage, Vmdk};
use crate::blockmap::{Io, Place};
use block::check::Report;
use block::driver::Cx;
use qapi::{QError, qerr};

/// Looks whether each grain lies in its file.
pub(super) async fn check(vmdk: &Vmdk, cx: &Cx<'_>, log: &mut dyn FnMut(&str)) -> Result<Report, QError> {
    let mut report = Report::default();
    for part in vmdk.parts.iter().filter(|p| p.storage == Storage::Sparse) {
        let engine = vmdk.load(cx, part).await?;
        let io = Io { cx: *cx, slot: part.slot, start: part.start };
        let file_len = io.file_len().map_err(|e| qerr!("Could not get the length of an extent: {e}"))?;
        let mut off = 0;
        while off < part.len {
            let sector = (part.start + off) / 512;
            let (place, n) = match engine.lookup(io, off, part.len - off).await {
                Ok(found) => found,
                Err(_) => {
                    log(&format!("ERROR: could not get cluster_offset for sector {sector}"));
                    report.corruptions += 1;
                    break;
                }
            };
            let host = match place {
                Place::Data(h) => Some(h),
                Place::Packed { key, .. } => Some(key),
                _ => None,
            };
            // A run is checked by its end: only its last grains can lie behind the end of the file.
            if let Some(h) = host
                && (h >= file_len
                    || matches!(place, Place::Data(_)) && h + n > file_len.next_multiple_of(65536))
            {
                log(&format!("ERROR: cluster offset for sector {sector} points after EOF"));
                report.corruptions += 1;
                break;
            }
            off += n;
        }
    }
    Ok(report)
}
