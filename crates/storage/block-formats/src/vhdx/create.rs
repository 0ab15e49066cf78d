//! Making VHDX images.

use super::spec::{self, HEADERS, Header, METADATA_TABLE, REGION_TABLES, Region};
use crate::making::{NewFile, fill_file, switch, text, uuid};
use api::block_core::{BlockdevCreateOptions, BlockdevVhdxSubformat};
use base::units::{GIB, MIB, TIB};
use block::create::{CreateCx, CreateOption, Creation, OptionType};
use block::driver::{CtlFuture, Prealloc};
use qapi::{Dict, QError, Value, qerr};

/// Making VHDX images.
pub(super) static CREATION: Creation = Creation {
    adapt: Some(adapt),
    create: Some(create),
    ..Creation::new(&[
        CreateOption::new("size", OptionType::Size, "Virtual disk size; max of 64TB."),
        CreateOption::new("log_size", OptionType::Size, "Log size; min 1MB.").or("1048576"),
        CreateOption::new(
            "block_size",
            OptionType::Size,
            "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
        )
        .or("0"),
        text("subformat", "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'."),
        switch(
            "block_state_zero",
            "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using \
             'qemu-img convert' with subformat=dynamic.",
        ),
    ])
};

/// What the tool rounds; the command takes no such sizes.
fn adapt(d: &mut Dict) -> Result<(), QError> {
    for (name, most) in [("log-size", u64::from(u32::MAX)), ("block-size", *spec::BLOCK.end())] {
        let Some(n) = d.get(name).and_then(Value::as_str).and_then(|v| v.parse::<u64>().ok()) else {
            continue;
        };
        d.insert(
            name,
            n.checked_next_multiple_of(MIB).unwrap_or(n).min(most.next_multiple_of(MIB)).to_string(),
        );
    }
    Ok(())
}

/// The places of everything in a new image.
struct Layout {
    disk: u64,
    block: u64,
    log: u32,
    bat: Region,
    metadata: Region,
    data: u64,
    fixed: bool,
    zero_state: bool,
}

fn region(id: [u8; 16], offset: u64, length: u64) -> Result<Region, QError> {
    let length = u32::try_from(length).map_err(|_| qerr!("Image size too large; max of 64TB"))?;
    Ok(Region { id, offset, length, required: true })
}

async fn write(f: &NewFile<'_>, l: &Layout) -> Result<(), QError> {
    let mut first = spec::SIGNATURE.to_vec();
    let creator = concat!("Rhea v", env!("CARGO_PKG_VERSION"));
    first.extend(creator.encode_utf16().flat_map(u16::to_le_bytes));
    first.resize(512, 0);
    f.put(0, &first).await?;
    let mut header = Header {
        sequence: u64::from(u32::from_le_bytes(*uuid()?.first_chunk().unwrap_or(&[0; 4]))),
        file_write: uuid()?,
        data_write: uuid()?,
        log: [0; 16],
        log_length: l.log,
        log_offset: MIB,
    };
    for off in HEADERS {
        f.put(off, &header.bytes()).await?;
        header.sequence += 1;
    }
    let table = spec::region_table(&[l.bat, l.metadata]);
    for off in REGION_TABLES {
        f.put(off, &table).await?;
    }
    let flags = if l.fixed { spec::LEAVE_ALLOCATED } else { 0 };
    let mut items = vec![0; METADATA_TABLE];
    items[..8].copy_from_slice(b"metadata");
    let mut values: Vec<u8> = Vec::new();
    let block = [(l.block as u32).to_le_bytes(), flags.to_le_bytes()].concat();
    let all: [(&[u8; 16], &[u8], u32, u32); 5] = [
        // Id, value, flags (virtual disk, required), and the length that the entry says.
        (&spec::FILE_PARAMETERS, &block, 4, 8),
        (&spec::DISK_SIZE, &l.disk.to_le_bytes(), 6, 8),
        (&spec::DISK_ID, &uuid()?, 6, 16),
        (&spec::LOGICAL_SECTOR, &512u32.to_le_bytes(), 6, 4),
        (&spec::PHYSICAL_SECTOR, &512u32.to_le_bytes(), 6, 4),
    ];
    items[10..12].copy_from_slice(&(all.len() as u16).to_le_bytes());
    for (i, (id, value, flags, len)) in all.into_iter().enumerate() {
        let e = &mut items[32 + 32 * i..64 + 32 * i];
        e[..16].copy_from_slice(id);
        e[16..20].copy_from_slice(&((METADATA_TABLE + values.len()) as u32).to_le_bytes());
        e[20..24].copy_from_slice(&len.to_le_bytes());
        e[24..28].copy_from_slice(&flags.to_le_bytes());
        values.extend(value);
    }
    items.extend(values);
    f.put(l.metadata.offset, &items).await?;
    bat(f, l).await?;
    f.grow(l.data + if l.fixed { l.disk } else { 0 }, Prealloc::Off).await
}

/// The table: what is not in the file is nothing, or zeroes.
async fn bat(f: &NewFile<'_>, l: &Layout) -> Result<(), QError> {
    f.grow(l.bat.offset + u64::from(l.bat.length), Prealloc::Off).await?;
    if !l.fixed && !l.zero_state {
        return Ok(());
    }
    const PIECE: u64 = 1 << 16;
    let ratio = spec::chunk_ratio(512, l.block);
    let blocks = l.disk.div_ceil(l.block);
    let entries = blocks + blocks.saturating_sub(1) / ratio;
    let entry = |i: u64| {
        // Behind each chunk is an entry for a bitmap.
        let (chunk, within) = (i / (ratio + 1), i % (ratio + 1));
        let block = chunk * ratio + within;
        match (within == ratio, l.fixed) {
            (true, _) => 0,
            (false, true) => (l.data + block * l.block) | spec::PRESENT,
            (false, false) => spec::ZERO,
        }
    };
    for first in (0..entries).step_by(PIECE as usize) {
        let piece = first..entries.min(first + PIECE);
        let bytes: Vec<u8> = piece.flat_map(|i| entry(i).to_le_bytes()).collect();
        f.put(l.bat.offset + 8 * first, &bytes).await?;
    }
    Ok(())
}

fn create<'a>(cx: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::Vhdx(o) = options else {
            return Err(qerr!("The options are not those of 'vhdx'"));
        };
        if o.size > spec::MAX_DISK {
            return Err(qerr!("Image size too large; max of 64TB"));
        }
        let log = o.log_size.unwrap_or(MIB);
        if log >= 4 * GIB {
            return Err(qerr!("Log size must be smaller than 4 GB"));
        }
        if log == 0 || !log.is_multiple_of(MIB) {
            return Err(qerr!("Log size must be a multiple of 1 MB"));
        }
        let block = match o.block_size.unwrap_or(0) {
            0 if o.size > 32 * TIB => 64 * MIB,
            0 if o.size > 100 * GIB => 32 * MIB,
            0 if o.size > GIB => 16 * MIB,
            0 => 8 * MIB,
            n => n,
        };
        if !block.is_multiple_of(MIB) {
            return Err(qerr!("Block size must be a multiple of 1 MB"));
        }
        if !block.is_power_of_two() {
            return Err(qerr!("Block size must be a power of two"));
        }
        if block > *spec::BLOCK.end() {
            return Err(qerr!("Block size must not exceed {}", spec::BLOCK.end()));
        }
        let ratio = spec::chunk_ratio(512, block);
        let blocks = o.size.div_ceil(block);
        let entries = blocks + blocks.saturating_sub(1) / ratio;
        let bat_len = (8 * entries).next_multiple_of(MIB).max(MIB);
        let bat = region(spec::BAT_REGION, MIB + log, bat_len)?;
        let metadata = region(spec::METADATA_REGION, bat.offset + bat_len, MIB)?;
        let layout = Layout {
            disk: o.size,
            block,
            log: log as u32,
            bat,
            metadata,
            // Some room for what others may want to keep behind the metadata.
            data: metadata.offset + MIB + 4 * MIB,
            fixed: o.subformat.unwrap_or_default() == BlockdevVhdxSubformat::Fixed,
            zero_state: o.block_state_zero.unwrap_or(true),
        };
        fill_file(cx, &o.file, |f| Box::pin(async move { write(&f, &layout).await })).await
    })
}
