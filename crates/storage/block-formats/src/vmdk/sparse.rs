//! One sparse extent: its header and grain tables.

use super::spec::{self, Header, SECTOR};
use crate::blockmap::{At, Io, Level, Map, Slot, Space, Zeroing, table_run};
use crate::fields::{le32, le64};
use base::{Errno, IoResult};
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use qapi::{QError, qerr};

/// A sparse extent's tables.
pub struct Sparse {
    pub(super) header: Header,
    len: u64,
    grain: u64,
}

/// Checks a header.
fn supported(h: &Header) -> Result<(), QError> {
    if h.version > 3 {
        return Err(qerr!("Unsupported VMDK version {}", h.version));
    }
    if h.table_entries > spec::GRAIN_TABLE && !h.grows_tables {
        return Err(QError::new("L2 table size too big"));
    }
    if h.grain.wrapping_mul(u64::from(h.table_entries)) == 0 {
        return Err(QError::new("L1 entry size is invalid"));
    }
    let limit = if h.compressed() { spec::MAX_PACKED_GRAIN / SECTOR } else { spec::MAX_GRAIN };
    if h.grain > limit {
        return Err(QError::new("Invalid granularity, image may be corrupt"));
    }
    if h.capacity.div_ceil(h.grain).div_ceil(u64::from(h.table_entries)) > spec::MAX_TABLES {
        return Err(QError::new("L1 size too big"));
    }
    let place = |sectors: u64| sectors.checked_mul(SECTOR).is_some_and(|b| b <= block::MAX_OFFSET / 2);
    let directories = [h.directory, h.redundant_directory * u64::from(h.flags & spec::REDUNDANT != 0)];
    if !place(h.capacity) || !directories.into_iter().all(place) {
        return Err(QError::new("Invalid header, image may be corrupt"));
    }
    Ok(())
}

/// The header that stands at the end of a stream-optimized file, where the one at the beginning says so.
async fn footer(io: &Io<'_>, file_len: u64) -> Result<Header, QError> {
    let at = file_len.checked_sub(3 * SECTOR).ok_or_else(|| QError::new("Failed to read footer"))?;
    let b = io.read_vec(at, 3 * SECTOR as usize).await.map_err(|_| QError::new("Failed to read footer"))?;
    let (marker, rest) = b.split_at(SECTOR as usize);
    let (header, end) = rest.split_at(SECTOR as usize);
    let says =
        |m: &[u8], n: u64, ty: u32| le64(m, 0) == Some(n) && le32(m, 8) == Some(0) && le32(m, 12) == Some(ty);
    match Header::parse(header) {
        Some(h)
            if says(marker, 1, spec::MARKER_FOOTER)
                && says(end, 0, spec::MARKER_END)
                && h.directory != spec::GD_AT_END =>
        {
            Ok(h)
        }
        _ => Err(QError::new("Invalid footer")),
    }
}

impl Sparse {
    /// Reads the header.
    pub async fn open(io: &Io<'_>) -> Result<(Sparse, Space), QError> {
        let fail = |e: Errno| qerr!("Could not read header: {e}");
        let bytes = io.read_array::<{ spec::HEADER }>(0).await.map_err(fail)?;
        let mut header = Header::parse(&bytes).ok_or_else(|| QError::new("Image not in VMDK format"))?;
        let file_len = io.file_len().map_err(fail)?;
        if header.directory == spec::GD_AT_END {
            let last = footer(io, file_len).await?;
            header = Header { descriptor_offset: header.descriptor_offset, ..last };
        }
        supported(&header)?;
        let begin = header.overhead.saturating_mul(SECTOR);
        if file_len < begin {
            return Err(qerr!("File truncated, expecting at least {begin} bytes"));
        }
        let grain = header.grain * SECTOR;
        let next = file_len.checked_next_multiple_of(grain).unwrap_or(file_len);
        let len = header.capacity * SECTOR;
        Ok((Sparse { header, len, grain }, Space { next, zero_from: file_len }))
    }

    /// Whether grains are compressed.
    pub fn compressed(&self) -> bool {
        self.header.compressed()
    }

    fn has(&self, flag: u32) -> bool {
        self.header.flags & flag != 0
    }

    /// Where the entry of a grain is, by one of the directories; `None` where there is no table.
    async fn entry_at(&self, at: &At<'_>, directory: u64, block: u64) -> IoResult<Option<u64>> {
        let n = u64::from(self.header.table_entries);
        let dir = at.meta.array::<4>(&at.io, directory * SECTOR + 4 * (block / n)).await?;
        Ok(match u32::from_le_bytes(dir) {
            0 => None,
            table => Some(u64::from(table) * SECTOR + 4 * (block % n)),
        })
    }

    /// Makes the table of a grain, where there is none.
    async fn table(&self, at: &At<'_>, space: &mut Space, block: u64) -> IoResult<()> {
        if self.entry_at(at, self.header.directory, block).await?.is_some() {
            return Ok(());
        }
        if !self.header.grows_tables {
            return Err(Errno::IO);
        }
        let n = u64::from(self.header.table_entries);
        let table = space.next.next_multiple_of(SECTOR);
        let sector = u32::try_from(table / SECTOR).map_err(|_| Errno::FBIG)?;
        space.next = table;
        space.take(4 * n)?;
        at.meta.clear(&at.io, table, 4 * n, Level::Entry).await?;
        let place = self.header.directory * SECTOR + 4 * (block / n);
        at.meta.write(&at.io, place, &sector.to_le_bytes(), Level::Directory).await
    }

    async fn set(&self, at: &At<'_>, block: u64, entry: u32) -> IoResult<()> {
        let place = self.entry_at(at, self.header.directory, block).await?;
        let place = place.ok_or(Errno::IO)?;
        at.meta.write(&at.io, place, &entry.to_le_bytes(), Level::Entry).await?;
        if self.has(spec::REDUNDANT)
            && let Some(place) = self.entry_at(at, self.header.redundant_directory, block).await?
        {
            at.meta.write(&at.io, place, &entry.to_le_bytes(), Level::Entry).await?;
        }
        Ok(())
    }
}

impl Map for Sparse {
    const BACKING: bool = true;

    fn disk_len(&self) -> u64 {
        self.len
    }

    fn block_size(&self) -> u64 {
        self.grain
    }

    fn zeroing(&self, _: u64, _: u64) -> Zeroing {
        if self.has(spec::ZEROED_GRAIN) { Zeroing::GivenUp } else { Zeroing::Stored }
    }

    async fn find(&self, at: &At<'_>, block: u64, max: u64) -> IoResult<(Slot, u64)> {
        let n = u64::from(self.header.table_entries);
        let max = max.min(n - block % n);
        let Some(place) = self.entry_at(at, self.header.directory, block).await? else {
            return Ok((Slot::Unallocated, max));
        };
        table_run::<4>(at, place, max, self.grain, |_, e| {
            Ok(match u32::from_le_bytes(e) {
                0 => Slot::Unallocated,
                spec::ZERO_ENTRY if self.has(spec::ZEROED_GRAIN) => Slot::Zero,
                e if self.compressed() => Slot::Packed(u64::from(e) * SECTOR),
                e => Slot::Data(u64::from(e) * SECTOR),
            })
        })
        .await
    }

    async fn reserve(&self, at: &At<'_>, space: &mut Space, block: u64, count: u64) -> IoResult<(u64, u64)> {
        // A grain without a table cannot be entered: better to know before its bytes are written.
        let n = u64::from(self.header.table_entries);
        let count = count.min(n - block % n);
        self.table(at, space, block).await?;
        if (space.next + count * self.grain) / SECTOR > u64::from(u32::MAX) {
            return Err(Errno::FBIG);
        }
        Ok((space.take(count * self.grain)?, count))
    }

    async fn link(&self, at: &At<'_>, _: &mut Space, block: u64, count: u64, host: u64) -> IoResult<()> {
        for i in 0..count {
            self.set(at, block + i, ((host + i * self.grain) / SECTOR) as u32).await?;
        }
        Ok(())
    }

    async fn mark_zero(&self, at: &At<'_>, space: &mut Space, block: u64) -> IoResult<()> {
        self.table(at, space, block).await?;
        self.set(at, block, spec::ZERO_ENTRY).await
    }

    fn compresses(&self) -> bool {
        self.compressed()
    }

    fn pack(_block: u64, plain: &[u8]) -> IoResult<Option<Vec<u8>>> {
        let mut out = Vec::with_capacity(plain.len() + plain.len() / 16 + 64);
        let mut z = Compress::new(flate2::Compression::default(), true);
        match z.compress_vec(plain, &mut out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => Ok(Some(out)),
            _ => Err(Errno::IO),
        }
    }

    async fn link_packed(&self, at: &At<'_>, space: &mut Space, block: u64, packed: Vec<u8>) -> IoResult<()> {
        let (slot, _) = self.find(at, block, 1).await?;
        // A stream is written once.
        if slot != Slot::Unallocated && slot != Slot::Zero {
            return Err(Errno::IO);
        }
        let mut bytes = Vec::with_capacity(packed.len() + SECTOR as usize);
        bytes.extend((block * self.header.grain).to_le_bytes());
        bytes.extend((packed.len() as u32).to_le_bytes());
        bytes.extend(packed);
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        let host = space.next.next_multiple_of(SECTOR);
        let sector = u32::try_from(host / SECTOR).map_err(|_| Errno::FBIG)?;
        space.next = host + bytes.len() as u64;
        at.io.write_bytes(host, &bytes).await?;
        self.set(at, block, sector).await
    }

    async fn unpack(&self, at: &At<'_>, block: u64, key: u64) -> IoResult<Vec<u8>> {
        let grain = self.grain as usize;
        let inside = at.io.file_len()?.saturating_sub(key).min(2 * self.grain + SECTOR) as usize;
        let (from, len) = if self.has(spec::MARKERS) {
            let marker = at.io.read_array::<12>(key).await?;
            let len = le32(&marker, 8).ok_or(Errno::IO)? as usize;
            if le64(&marker, 0) != Some(block * self.header.grain) || len > inside.saturating_sub(12) {
                return Err(Errno::IO);
            }
            (12, len)
        } else {
            (0, inside)
        };
        let raw = at.io.read_vec(key + from, len).await?;
        rt::unblock(move || {
            let mut out = vec![0; grain];
            let mut z = Decompress::new(true);
            // The last grain of a disk may be shorter.
            match z.decompress(&raw, &mut out, FlushDecompress::Finish) {
                Ok(Status::StreamEnd) => Ok(out),
                _ => Err(Errno::IO),
            }
        })
        .await
    }
}
