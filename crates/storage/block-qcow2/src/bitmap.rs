//! The directory of persistent dirty bitmaps. Rhea shows it, and tells by the autoclear bit that the bitmaps are out of
//! date once it has modified the image.

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
    for _ in 0..x.count {
        let entry = || {
            let e = b.get(at..)?;
            let (name_len, extra) = (be16(e, 18)? as usize, be32(e, 20)? as usize);
            let from = 24usize.checked_add(extra)?;
            let name = e.get(from..from.checked_add(name_len)?)?;
            let info = BitmapInfo {
                name: String::from_utf8_lossy(name).into_owned(),
                granularity_bits: e[17],
                flags: be32(e, 12)?,
                table_offset: be64(e, 0)?,
                table_size: be32(e, 8)?,
            };
            Some((info, (from + name_len).next_multiple_of(8)))
        };
        let Some((info, len)) = entry() else { return Err(qerr!("Broken bitmap directory")) };
        if info.granularity_bits > 31 || u64::from(info.table_size) * 8 > spec::MAX_BITMAP_TABLE {
            return Err(qerr!("Broken bitmap directory"));
        }
        list.push(info);
        at += len;
    }
    Ok(list)
}
