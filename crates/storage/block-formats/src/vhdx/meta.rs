//! What the metadata region says.

use super::spec::{self, MAX_ENTRIES, METADATA_TABLE, Region};
use crate::blockmap::Io;
use crate::fields::{le32, le64};
use base::Errno;

/// The disk's shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Length of a block, bytes.
    pub block: u64,
    /// Flags of the file parameters.
    pub flags: u32,
    /// Length of the disk, bytes.
    pub disk: u64,
    /// Bytes of a logical sector.
    pub sector: u64,
}

/// Reads the metadata items that count.
pub async fn read(io: &Io<'_>, region: &Region) -> Result<Shape, Errno> {
    let table = io.read_vec(region.offset, METADATA_TABLE).await?;
    let count = table.get(10..12).map_or(0, |b| u32::from(u16::from_le_bytes([b[0], b[1]])));
    if !table.starts_with(b"metadata") || count > MAX_ENTRIES {
        return Err(Errno::INVAL);
    }
    let mut shape = Shape::default();
    let mut seen = 0;
    for i in 0..count as usize {
        let e = &table[32 + 32 * i..64 + 32 * i];
        let (off, len) = (le32(e, 16).unwrap_or(0), le32(e, 20).unwrap_or(0));
        let Some(id) = e.first_chunk::<16>() else { continue };
        let want = match *id {
            spec::FILE_PARAMETERS | spec::DISK_SIZE => 8,
            spec::LOGICAL_SECTOR | spec::PHYSICAL_SECTOR => 4,
            spec::DISK_ID => 16,
            spec::PARENT_LOCATOR => continue,
            // What must be known is not.
            _ if le32(e, 24).unwrap_or(0) & 4 != 0 => return Err(Errno::NOTSUP),
            _ => continue,
        };
        // Items of other lengths were seen; their first bytes are what counts.
        let end = u64::from(off) + want;
        if u64::from(off) < METADATA_TABLE as u64 || end > u64::from(region.length) || len == 0 {
            return Err(Errno::INVAL);
        }
        let bytes = io.read_vec(region.offset + u64::from(off), want as usize).await?;
        let (word, long) = (le32(&bytes, 0).unwrap_or(0), le64(&bytes, 0).unwrap_or(0));
        match *id {
            spec::FILE_PARAMETERS => {
                (shape.block, shape.flags) = (u64::from(word), le32(&bytes, 4).unwrap_or(0));
                seen |= 1;
            }
            spec::DISK_SIZE => {
                shape.disk = long;
                seen |= 2;
            }
            spec::LOGICAL_SECTOR => {
                shape.sector = u64::from(word);
                seen |= 4;
            }
            _ => {}
        }
    }
    if seen != 7 {
        return Err(Errno::NOTSUP);
    }
    if shape.flags & spec::HAS_PARENT != 0 || shape.sector != 512 {
        return Err(Errno::NOTSUP);
    }
    let sized = spec::BLOCK.contains(&shape.block) && shape.block.is_power_of_two();
    if !sized || shape.disk > spec::MAX_DISK || !shape.disk.is_multiple_of(shape.sector) {
        return Err(Errno::INVAL);
    }
    Ok(shape)
}
