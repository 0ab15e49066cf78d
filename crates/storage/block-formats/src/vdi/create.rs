//! Making VDI images.

use super::spec::{self, BLOCK, HEADER, Header};
use crate::making::{fill_file, switch, uuid};
use api::block_core::{BlockdevCreateOptions, PreallocMode};
use block::create::{CreateCx, Creation, SIZE};
use block::driver::{CtlFuture, Prealloc};
use qapi::{Dict, QError, Value, qerr};

/// Making VDI images.
pub(super) static CREATION: Creation = Creation {
    adapt: Some(adapt),
    create: Some(create),
    ..Creation::new(&[SIZE, switch("static", "VDI static (pre-allocated) image").or("off")])
};

fn adapt(d: &mut Dict) -> Result<(), QError> {
    if let Some(all) = d.remove("static") {
        let on = all.as_str() == Some("on");
        d.insert("preallocation", Value::from(if on { "metadata" } else { "off" }));
    }
    Ok(())
}

fn create<'a>(cx: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::Vdi(o) = options else {
            return Err(qerr!("The options are not those of 'vdi'"));
        };
        let all = match o.preallocation.unwrap_or_default() {
            PreallocMode::Off => false,
            PreallocMode::Metadata => true,
            _ => return Err(qerr!("Preallocation mode not supported for vdi")),
        };
        if o.size > spec::MAX_DISK {
            return Err(qerr!(
                "Unsupported VDI image size (size is 0x{:x}, max supported is 0x{:x})",
                o.size,
                spec::MAX_DISK
            ));
        }
        let blocks = o.size.div_ceil(BLOCK) as u32;
        let table_len = (4 * u64::from(blocks)).next_multiple_of(512);
        let header = Header {
            signature: spec::SIGNATURE,
            version: spec::VERSION,
            image_type: if all { spec::TYPE_STATIC } else { spec::TYPE_DYNAMIC },
            map_offset: HEADER as u32,
            data_offset: HEADER as u32 + table_len as u32,
            sector_size: 512,
            disk_size: o.size,
            block_size: BLOCK as u32,
            blocks,
            blocks_allocated: if all { blocks } else { 0 },
            uuid: uuid()?,
            uuid_last_snap: uuid()?,
            uuid_link: [0; 16],
            uuid_parent: [0; 16],
        };
        fill_file(cx, &o.file, |f| {
            Box::pin(async move {
                f.put(0, &header.bytes()).await?;
                f.grow(u64::from(header.data_offset), Prealloc::Off).await?;
                // Piece by piece: the table of the largest disk has 2 GiB.
                const PIECE: u32 = 1 << 18;
                for first in (0..blocks).step_by(PIECE as usize) {
                    let entry = |i: u32| if all { i } else { spec::UNALLOCATED };
                    let piece = first..blocks.min(first + PIECE);
                    let bytes: Vec<u8> = piece.flat_map(|i| entry(i).to_le_bytes()).collect();
                    f.put(HEADER as u64 + 4 * u64::from(first), &bytes).await?;
                }
                let data = if all { u64::from(blocks) * BLOCK } else { 0 };
                f.grow(u64::from(header.data_offset) + data, Prealloc::Off).await
            })
        })
        .await
    })
}
