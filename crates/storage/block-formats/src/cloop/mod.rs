//! `cloop`: compressed loop images, version 2, for reading. Blocks are compressed with zlib, each alone; a table says
//! where they are. Everything is big-endian.

use crate::Fault;
use crate::blockmap::{At, Format, Io, Map, Slot, Space};
use crate::fields::{be32, be64};
use crate::readonly::{NO_SPACE, may_open};
use base::units::MIB;
use base::{Errno, IoResult};
use block::driver::{CtlFuture, DriverType, Kind, OpenCx, default_child_perm};
use flate2::{Decompress, FlushDecompress, Status};
use qapi::{QError, qerr};

/// `cloop`.
pub static CLOOP: DriverType = DriverType {
    name: "cloop",
    kind: Kind::Format,
    children: crate::one_file,
    child_perm: default_child_perm,
    open: crate::blockmap::open_format::<Cloop>,
    probe: Some(|b, _| if b.starts_with(TEXT) { 2 } else { 0 }),
    shows_places: false,
    ..DriverType::BASE
};

/// What such images begin with: a script that mounts them.
const TEXT: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
/// Where the numbers begin that say the shape.
const SHAPE_AT: u64 = 128;
/// Where the table begins.
const TABLE_AT: u64 = 136;
/// The longest block, bytes.
const MAX_BLOCK: u64 = 64 * MIB;
/// The longest table, bytes.
const MAX_TABLE: u64 = 512 * MIB;

/// An open image.
pub struct Cloop {
    block: u64,
    blocks: u64,
}

fn supported(block: u32, blocks: u32) -> Result<(), QError> {
    if block == 0 {
        return Err(QError::new("block_size cannot be zero"));
    }
    if !block.is_multiple_of(512) {
        return Err(qerr!("block_size {block} must be a multiple of 512"));
    }
    if u64::from(block) > MAX_BLOCK {
        return Err(qerr!("block_size {block} must be {} MB or less", MAX_BLOCK / MIB));
    }
    let most = u32::MAX / 8;
    if blocks > most {
        return Err(qerr!("n_blocks {blocks} must be {most} or less"));
    }
    let table = 8 * (u64::from(blocks) + 1);
    if table > MAX_TABLE {
        return Err(QError::new("image requires too many offsets, try increasing block size"));
    }
    Ok(())
}

impl Cloop {
    /// Where a block's compressed bytes begin and end.
    async fn place(&self, at: &At<'_>, block: u64) -> IoResult<(u64, u64)> {
        let pair = at.meta.array::<16>(&at.io, TABLE_AT + 8 * block).await?;
        let (from, to) = (be64(&pair, 0).unwrap_or(0), be64(&pair, 8).unwrap_or(0));
        // A block grows by little where it cannot be compressed.
        match to.checked_sub(from) {
            Some(n) if n <= 2 * self.block && to <= block::MAX_OFFSET => Ok((from, to)),
            _ => Err(Errno::IO),
        }
    }
}

impl Map for Cloop {
    fn disk_len(&self) -> u64 {
        self.block * self.blocks
    }

    fn block_size(&self) -> u64 {
        self.block
    }

    async fn find(&self, at: &At<'_>, block: u64, _max: u64) -> IoResult<(Slot, u64)> {
        Ok((Slot::Packed(self.place(at, block).await?.0), 1))
    }

    async fn link(&self, _: &At<'_>, _: &mut Space, _: u64, _: u64, _: u64) -> IoResult<()> {
        Err(Errno::NOTSUP)
    }

    async fn unpack(&self, at: &At<'_>, block: u64, _key: u64) -> IoResult<Vec<u8>> {
        let (from, to) = self.place(at, block).await?;
        if to > at.io.file_len()? {
            return Err(Errno::IO);
        }
        let raw = at.io.read_vec(from, (to - from) as usize).await?;
        let size = self.block as usize;
        rt::unblock(move || {
            let mut out = vec![0; size];
            let mut z = Decompress::new(true);
            match z.decompress(&raw, &mut out, FlushDecompress::Finish) {
                Ok(Status::StreamEnd) if z.total_out() == size as u64 => Ok(out),
                _ => Err(Errno::IO),
            }
        })
        .await
    }
}

impl Format for Cloop {
    fn open<'a>(o: &'a OpenCx<'a>) -> CtlFuture<'a, (Cloop, Space)> {
        Box::pin(async move {
            may_open(&o.flags, "Image is read-only")?;
            let io = Io::file(&o.cx);
            let fail = |e: Errno| Fault::Plain(e).of(&o.cx);
            let shape = io.read_array::<8>(SHAPE_AT).await.map_err(fail)?;
            let (block, blocks) = (be32(&shape, 0).unwrap_or(0), be32(&shape, 4).unwrap_or(0));
            supported(block, blocks)?;
            let mut at = TABLE_AT;
            let (end, mut last) = (TABLE_AT + 8 * (u64::from(blocks) + 1), 0);
            while at < end {
                let n = (end - at).min(1 << 16);
                let bytes = io.read_vec(at, n as usize).await.map_err(fail)?;
                for (i, e) in (0u64..).zip(bytes.as_chunks::<8>().0) {
                    let (index, off) = ((at - TABLE_AT) / 8 + i, u64::from_be_bytes(*e));
                    if index > 0 && off < last {
                        return Err(qerr!(
                            "offsets not monotonically increasing at index {index}, image file is corrupt"
                        ));
                    }
                    if index > 0 && off - last > 2 * MAX_BLOCK {
                        return Err(qerr!(
                            "invalid compressed block size at index {index}, image file is corrupt"
                        ));
                    }
                    last = off;
                }
                at += n;
            }
            Ok((Cloop { block: u64::from(block), blocks: u64::from(blocks) }, NO_SPACE))
        })
    }

    fn forced_read_only(&self) -> bool {
        true
    }
}
