//! Guessing what a file holds.
//!
//! Guessing is dangerous with raw images: a guest may write another format's header into its disk. So it happens only
//! where the user gave no format, and `raw` as the result of a guess is told ([`raw_warning`]), and such a
//! node refuses writes that would make its first bytes look like another format.

use crate::driver::{Cx, DriverType};
use base::IoResult;
use mem::IoBuf;

/// How many bytes a probe sees.
pub const PROBE_BYTES: usize = 2048;

/// What the user is told when `raw` was guessed for `filename`.
pub fn raw_warning(filename: &str) -> String {
    format!(
        "Image format was not specified for '{filename}' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be \
         restricted.\n         Specify the 'raw' format explicitly to remove the restrictions."
    )
}

/// The driver that claims these first bytes most strongly; `raw` if nobody does.
pub fn probe<'d>(drivers: &[&'d DriverType], bytes: &[u8], filename: &str) -> &'d str {
    let mut best = (0, "raw");
    for d in drivers {
        if let Some(p) = d.probe {
            let score = p(bytes, filename);
            if score > best.0 {
                best = (score, d.name);
            }
        }
    }
    best.1
}

/// Probes an open node.
pub(crate) async fn probe_node(
    drivers: &[&'static DriverType],
    cx: &Cx<'_>,
    filename: &str,
) -> IoResult<String> {
    let n = cx.len().min(PROBE_BYTES as u64) as usize;
    let buf = IoBuf::zeroed(n);
    cx.node_read(0, buf.clone()).await?;
    Ok(probe(drivers, &buf.to_vec(), filename).to_owned())
}

/// The major number of Linux's drives for compact discs and the like (`sr`).
const DISC_DRIVES: u64 = 11;

/// The protocol driver for a path on this host: `host_cdrom` for drives whose disc comes and goes, `host_device` for other
/// devices, else `file`.
pub async fn protocol_of(path: String) -> &'static str {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let kind = rt::unblock_short(move || std::fs::metadata(path).map(|m| (m.file_type(), m.rdev()))).await;
    match kind {
        // The number is small, so that all of it stands in these bits.
        Ok((t, rdev)) if t.is_block_device() && rdev >> 8 == DISC_DRIVES => "host_cdrom",
        Ok((t, _)) if t.is_block_device() || t.is_char_device() => "host_device",
        _ => "file",
    }
}
