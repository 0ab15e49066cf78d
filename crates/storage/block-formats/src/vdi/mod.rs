//! `vdi`: images of VirtualBox.

mod check;
mod create;
pub mod spec;

use self::spec::{BLOCK, DISCARDED, HEADER, Header, SIGNATURE, SIGNATURE_AT, VERSION};
use crate::blockmap::{At, Format, Io, Level, Map, Slot, Space, table_run};
use crate::fields::le32;
use base::units::align_up;
use base::{Errno, IoResult};
use block::check::{Fix, Report};
use block::driver::{Below, CtlFuture, Cx, DriverInfo, DriverType, Kind, OpenCx, default_child_perm};
use qapi::{QError, qerr};

/// `vdi`.
pub static VDI: DriverType = DriverType {
    name: "vdi",
    kind: Kind::Format,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: true,
    children: crate::one_file,
    child_perm: default_child_perm,
    open: crate::blockmap::open_format::<Vdi>,
    probe: Some(probe),
    create: Some(&create::CREATION),
    ..DriverType::BASE
};

fn probe(b: &[u8], _name: &str) -> u32 {
    if le32(b, SIGNATURE_AT) == Some(SIGNATURE) { 100 } else { 0 }
}

/// An open image.
pub struct Vdi {
    header: Header,
    disk: u64,
}

fn supported(h: &Header) -> Result<(), QError> {
    if h.signature != SIGNATURE {
        return Err(qerr!("Image not in VDI format (bad signature {:08x})", h.signature));
    }
    if h.disk_size > spec::MAX_DISK {
        return Err(qerr!(
            "Unsupported VDI image size (size is 0x{:x}, max supported is 0x{:x})",
            h.disk_size,
            spec::MAX_DISK
        ));
    }
    if h.version != VERSION {
        return Err(qerr!("unsupported VDI image (version {}.{})", h.version >> 16, h.version & 0xffff));
    }
    if !h.map_offset.is_multiple_of(512) {
        return Err(qerr!("unsupported VDI image (unaligned block map offset 0x{:x})", h.map_offset));
    }
    if !h.data_offset.is_multiple_of(512) {
        return Err(qerr!("unsupported VDI image (unaligned data offset 0x{:x})", h.data_offset));
    }
    if h.sector_size != 512 {
        return Err(qerr!("unsupported VDI image (sector size {} is not 512)", h.sector_size));
    }
    if u64::from(h.block_size) != BLOCK {
        return Err(qerr!("unsupported VDI image (block size {} is not {BLOCK})", h.block_size));
    }
    let room = u64::from(h.blocks) * BLOCK;
    if h.disk_size > room {
        return Err(qerr!(
            "unsupported VDI image (disk size {}, image bitmap has room for {room})",
            h.disk_size
        ));
    }
    if h.uuid_link != [0; 16] {
        return Err(QError::new("unsupported VDI image (non-NULL link UUID)"));
    }
    if h.uuid_parent != [0; 16] {
        return Err(QError::new("unsupported VDI image (non-NULL parent UUID)"));
    }
    if h.blocks > spec::MAX_BLOCKS {
        return Err(qerr!(
            "unsupported VDI image (too many blocks {}, max is {})",
            h.blocks,
            spec::MAX_BLOCKS
        ));
    }
    Ok(())
}

impl Vdi {
    fn entry_at(&self, block: u64) -> u64 {
        u64::from(self.header.map_offset) + 4 * block
    }

    fn host(&self, number: u64) -> u64 {
        u64::from(self.header.data_offset) + number * BLOCK
    }
}

impl Map for Vdi {
    fn disk_len(&self) -> u64 {
        self.disk
    }

    fn block_size(&self) -> u64 {
        BLOCK
    }

    fn below(&self) -> Below {
        if self.header.image_type == spec::TYPE_STATIC { Below::Room } else { Below::Data }
    }

    async fn find(&self, at: &At<'_>, block: u64, max: u64) -> IoResult<(Slot, u64)> {
        table_run::<4>(at, self.entry_at(block), max, BLOCK, |_, e| match u32::from_le_bytes(e) {
            DISCARDED.. => Ok(Slot::Zero),
            n if n > spec::MAX_BLOCKS => Err(Errno::IO),
            n => Ok(Slot::Data(self.host(u64::from(n)))),
        })
        .await
    }

    async fn reserve(&self, at: &At<'_>, space: &mut Space, _block: u64, count: u64) -> IoResult<(u64, u64)> {
        let host = space.next;
        let used = (host - u64::from(self.header.data_offset)) / BLOCK + count;
        let used = u32::try_from(used).ok().filter(|n| *n <= spec::MAX_BLOCKS).ok_or(Errno::NOSPC)?;
        // Before any entry says so: others take the next block from here.
        at.meta.write(&at.io, spec::BLOCKS_ALLOCATED_AT, &used.to_le_bytes(), Level::Early).await?;
        space.take(count * BLOCK)?;
        Ok((host, count))
    }

    async fn link(&self, at: &At<'_>, _space: &mut Space, block: u64, count: u64, host: u64) -> IoResult<()> {
        let first = (host - u64::from(self.header.data_offset)) / BLOCK;
        for i in 0..count {
            let entry = ((first + i) as u32).to_le_bytes();
            at.meta.write(&at.io, self.entry_at(block + i), &entry, Level::Entry).await?;
        }
        Ok(())
    }
}

impl Format for Vdi {
    fn open<'a>(o: &'a OpenCx<'a>) -> CtlFuture<'a, (Vdi, Space)> {
        Box::pin(async move {
            let io = Io::file(&o.cx);
            let fail = |e: Errno| qerr!("Could not read the VDI header: {e}");
            let header = Header::parse(&io.read_array::<HEADER>(0).await.map_err(fail)?);
            supported(&header)?;
            // Whole sectors: some programs write odd sizes.
            let disk = align_up(header.disk_size, 512).unwrap_or(header.disk_size);
            let next = u64::from(header.data_offset) + u64::from(header.blocks_allocated) * BLOCK;
            let zero_from = io.file_len().map_err(fail)?;
            Ok((Vdi { header, disk }, Space { next, zero_from }))
        })
    }

    fn check<'a>(
        &'a self,
        at: At<'a>,
        fix: Fix,
        log: &'a mut dyn FnMut(&str),
    ) -> CtlFuture<'a, Option<Report>> {
        Box::pin(async move {
            if fix != Fix::None {
                return Ok(None);
            }
            let report = check::check(self, at, log).await;
            report.map(Some).map_err(|e| qerr!("Could not read the table of blocks: {e}"))
        })
    }

    fn info(&self, _cx: &Cx<'_>) -> DriverInfo {
        DriverInfo { cluster_size: Some(BLOCK), dirty: Some(false), ..DriverInfo::default() }
    }
}
