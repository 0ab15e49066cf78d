//! `bochs`: growing disks of the Bochs emulator, for reading.

pub mod spec;

use self::spec::{HEADER, Header};
use crate::blockmap::{At, Format, Io, Map, Slot, Space};
use crate::readonly::{NO_SPACE, may_open};
use base::{Errno, IoResult};
use block::driver::{CtlFuture, DriverType, Kind, OpenCx, default_child_perm};
use qapi::{QError, qerr};

/// `bochs`.
pub static BOCHS: DriverType = DriverType {
    name: "bochs",
    kind: Kind::Format,
    children: crate::one_file,
    child_perm: default_child_perm,
    open: crate::blockmap::open_format::<Bochs>,
    probe: Some(|b, _| if Header::parse(b).is_some() { 100 } else { 0 }),
    shows_places: false,
    ..DriverType::BASE
};

const SECTOR: u64 = 512;

/// An open image. Its blocks are sectors: each has a bit that says whether it was written.
pub struct Bochs {
    header: Header,
}

fn supported(h: &Header, file_len: u64) -> Result<(), QError> {
    if h.catalog > 0x10_0000 {
        return Err(QError::new("Catalog size is too large"));
    }
    if h.extent < 512 {
        return Err(QError::new("Extent size must be at least 512"));
    }
    if !h.extent.is_power_of_two() {
        return Err(qerr!("Extent size {} is not a power of two", h.extent));
    }
    if h.extent > 0x80_0000 {
        return Err(qerr!("Extent size {} is too large", h.extent));
    }
    if u64::from(h.catalog) < (h.disk / SECTOR).div_ceil(u64::from(h.extent) / SECTOR) {
        return Err(QError::new("Catalog size is too small for this disk size"));
    }
    if h.data() > file_len || h.bitmap == 0 || !h.header.is_multiple_of(4) {
        return Err(QError::new("Image not in Bochs format"));
    }
    Ok(())
}

impl Map for Bochs {
    fn disk_len(&self) -> u64 {
        self.header.disk / SECTOR * SECTOR
    }

    fn block_size(&self) -> u64 {
        SECTOR
    }

    async fn find(&self, at: &At<'_>, block: u64, max: u64) -> IoResult<(Slot, u64)> {
        let per_extent = u64::from(self.header.extent) / SECTOR;
        let (extent, within) = (block / per_extent, block % per_extent);
        let max = max.min(per_extent - within);
        let place = u64::from(self.header.header) + 4 * extent;
        let n = u32::from_le_bytes(at.meta.array(&at.io, place).await?);
        if n == spec::UNUSED {
            return Ok((Slot::Zero, max));
        }
        let bitmap = self.header.data() + SECTOR * u64::from(n) * (per_extent + self.header.bitmap_sectors());
        let data = bitmap + SECTOR * (self.header.bitmap_sectors() + within);
        at.meta
            .with(&at.io, bitmap + within / 8, |bytes| {
                let bit = |i: u64| {
                    let i = i + within % 8;
                    bytes.get((i / 8) as usize).map(|b| b >> (i % 8) & 1)
                };
                let first = bit(0).ok_or(Errno::IO)?;
                let run = (1..max).take_while(|i| bit(*i) == Some(first)).count() as u64 + 1;
                Ok((if first == 1 { Slot::Data(data) } else { Slot::Zero }, run))
            })
            .await?
    }

    async fn link(&self, _: &At<'_>, _: &mut Space, _: u64, _: u64, _: u64) -> IoResult<()> {
        Err(Errno::NOTSUP)
    }
}

impl Format for Bochs {
    fn open<'a>(o: &'a OpenCx<'a>) -> CtlFuture<'a, (Bochs, Space)> {
        Box::pin(async move {
            may_open(&o.flags, "Image is read-only")?;
            let io = Io::file(&o.cx);
            let fail = |e: Errno| qerr!("Could not read the Bochs header: {e}");
            let bytes = io.read_array::<HEADER>(0).await.map_err(fail)?;
            let header = Header::parse(&bytes).ok_or_else(|| QError::new("Image not in Bochs format"))?;
            supported(&header, io.file_len().map_err(fail)?)?;
            Ok((Bochs { header }, NO_SPACE))
        })
    }

    fn forced_read_only(&self) -> bool {
        true
    }
}
