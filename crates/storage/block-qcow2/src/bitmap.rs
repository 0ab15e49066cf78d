//! The directory of persistent dirty bitmaps.

use qapi::{QError, qerr};

use crate::header::Header;
use crate::host::{Host, read_vec};
use crate::spec::{self, autoclear, be16, be32, be64};

/// One bitmap of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Guest bytes that one bit stands for, as a power of two.
    pub granularity_bits: u8,
    /// Flag bits: 0 in use, 1 auto.
    pub flags: u32,
    /// Where its table stands.
    pub table_offset: u64,
    /// Entries of the table.
    pub table_size: u32,
    /// Its type.
    pub kind: u8,
    /// Extra data; kept.
    pub extra: Vec<u8>,
}

impl BitmapInfo {
    /// Bytes of its entry in the directory.
    pub fn entry_size(&self) -> u64 {
        (24 + self.extra.len() as u64 + self.name.len() as u64).next_multiple_of(8)
    }

    /// The entry as it stands in the directory.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(self.entry_size() as usize);
        b.extend_from_slice(&self.table_offset.to_be_bytes());
        b.extend_from_slice(&self.table_size.to_be_bytes());
        b.extend_from_slice(&self.flags.to_be_bytes());
        b.push(self.kind);
        b.push(self.granularity_bits);
        b.extend_from_slice(&(self.name.len() as u16).to_be_bytes());
        b.extend_from_slice(&(self.extra.len() as u32).to_be_bytes());
        b.extend_from_slice(&self.extra);
        b.extend_from_slice(self.name.as_bytes());
        b.resize(b.len().next_multiple_of(8), 0);
        b
    }
}

/// Tells whoever opens the image that its bitmaps are lost, where somebody wrote to it who did not know them.
pub(crate) fn warn_of_lost(h: &Header) {
    if h.bitmaps.is_none() || h.autoclear & autoclear::BITMAPS != 0 {
        return;
    }
    if h.version < 3 {
        tracing::warn!(
            target: "plain",
            "This qcow2 v2 image contains bitmaps, but they may have been modified by a program without persistent \
             bitmap support; so now they must all be considered inconsistent"
        );
    } else {
        tracing::warn!(
            target: "plain",
            "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent\n\
             Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix."
        );
    }
}

/// Reads the directory, if the image has one that is up to date.
pub async fn load<H: Host>(host: &H, h: &Header, file_len: u64) -> Result<Vec<BitmapInfo>, QError> {
    let mut list = Vec::new();
    let Some(x) = &h.bitmaps else { return Ok(list) };
    if h.autoclear & autoclear::BITMAPS == 0 {
        return Ok(list);
    }
    let n = x.directory_size.min(file_len.saturating_sub(x.directory_offset));
    let b = read_vec(host, x.directory_offset, n as usize)
        .await
        .map_err(|e| qerr!("Failed to read bitmap directory: {e}"))?;
    let mut at = 0usize;
    while at < b.len() {
        if list.len() as u64 >= u64::from(x.count) {
            return Err(qerr!("More bitmaps found than specified in header extension"));
        }
        let entry = || {
            let e = b.get(at..)?;
            let (name_len, extra) = (be16(e, 18)? as usize, be32(e, 20)? as usize);
            let from = 24usize.checked_add(extra)?;
            let name = e.get(from..from.checked_add(name_len)?)?;
            let info = BitmapInfo {
                // A name that is no text would not come back as it was.
                name: String::from_utf8(name.to_vec()).ok()?,
                granularity_bits: e[17],
                flags: be32(e, 12)?,
                table_offset: be64(e, 0)?,
                table_size: be32(e, 8)?,
                kind: e[16],
                extra: e[24..from].to_vec(),
            };
            Some((info, (from + name_len).next_multiple_of(8)))
        };
        let Some((info, len)) = entry() else { return Err(qerr!("Broken bitmap directory")) };
        if !(9..=31).contains(&info.granularity_bits)
            || info.name.is_empty()
            || info.name.len() > 1023
            // Not even the flag that the format's description has for extra data: the reference takes none beside these.
            || info.flags & !(spec::bitmap::IN_USE | spec::bitmap::AUTO) != 0
            || u64::from(info.table_size) * 8 > spec::MAX_BITMAP_TABLE
        {
            return Err(qerr!("Bitmap '{}' doesn't satisfy the constraints", info.name));
        }
        list.push(info);
        at += len;
    }
    if (list.len() as u64) < u64::from(x.count) {
        return Err(qerr!("Less bitmaps found than specified in header extension"));
    }
    Ok(list)
}
