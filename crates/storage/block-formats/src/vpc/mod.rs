//! `vpc`: VHD images of Virtual PC and Hyper-V: fixed and dynamic ones. A differencing image shows what it has itself.

mod create;
pub mod spec;

use self::spec::{COOKIE, DYNAMIC, DYNAMIC_COOKIE, Dynamic, FOOTER, Footer, UNUSED};
use crate::Fault;
use crate::blockmap::{At, Format, Io, Level, Map, Slot, Space, table_run};
use crate::fields::be32;
use api::block_core::{BlockdevDriverOptions, VpcSizeCalc};
use base::units::MIB;
use base::{Errno, IoResult};
use block::driver::{Below, CtlFuture, Cx, DriverInfo, DriverType, Kind, OpenCx, default_child_perm};
use qapi::{Dict, QError, qerr};

/// `vpc`.
pub static VPC: DriverType = DriverType {
    name: "vpc",
    kind: Kind::Format,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: true,
    children: crate::one_file,
    child_perm: default_child_perm,
    open: crate::blockmap::open_format::<Vpc>,
    // A fixed image begins with the guest's bytes: only the user can say what it is.
    probe: Some(|b, _| if b.starts_with(COOKIE) { 100 } else { 0 }),
    create: Some(&create::CREATION),
    older: Some(older),
    ..DriverType::BASE
};

/// The option of command lines that says what the length of the disk is taken from, and what it is called elsewhere.
const SIZE_CALC: (&str, &str) = ("force_size_calc", "x-rhea-force-size-calc");

fn older(d: &mut Dict) -> Result<(), QError> {
    let Some(v) = d.remove(SIZE_CALC.0) else { return Ok(()) };
    match v.as_str() {
        Some("chs" | "current_size") => {
            d.insert(SIZE_CALC.1, v);
            Ok(())
        }
        other => Err(qerr!("Invalid size calculation mode: '{}'", other.unwrap_or_default())),
    }
}

/// How many table entries are read at a time.
const CHUNK: usize = 16 << 10;

/// An open image.
pub struct Vpc {
    footer: Box<[u8; FOOTER]>,
    disk: u64,
    /// `None`: fixed.
    dynamic: Option<Dynamic>,
}

fn sound(b: &[u8; FOOTER]) -> Result<(), QError> {
    if be32(b, spec::FOOTER_SUM_AT) == Some(spec::checksum(b, spec::FOOTER_SUM_AT)) {
        Ok(())
    } else {
        Err(QError::new("Incorrect header checksum"))
    }
}

fn parse_dynamic(b: &[u8; DYNAMIC], disk: u64) -> Result<Dynamic, QError> {
    if !b.starts_with(DYNAMIC_COOKIE) {
        return Err(QError::new("Invalid header magic"));
    }
    let d = Dynamic::parse(b);
    if !d.block_size.is_power_of_two() || d.block_size < 512 {
        return Err(qerr!("Invalid block size {}", d.block_size));
    }
    if d.entries > i32::MAX as u32 / 4 {
        return Err(qerr!("Max Table Entries too large ({})", d.entries as i32));
    }
    if u64::from(d.entries) * u64::from(d.block_size) < disk {
        return Err(QError::new("Page table too small"));
    }
    if d.table_offset > block::MAX_OFFSET - (1 << 32) || !d.table_offset.is_multiple_of(4) {
        return Err(QError::new("Error reading pagetable"));
    }
    Ok(d)
}

/// The first byte behind all blocks.
async fn first_free(io: &Io<'_>, d: &Dynamic, file_len: u64) -> Result<u64, QError> {
    let table_end = d.table_offset + 4 * u64::from(d.entries);
    let mut free = table_end.next_multiple_of(512);
    let mut at = d.table_offset;
    while at < table_end {
        let n = CHUNK.min((table_end - at) as usize);
        let bytes = io.read_vec(at, n).await.map_err(|_| QError::new("Error reading pagetable"))?;
        for e in bytes.as_chunks::<4>().0.iter().map(|e| u32::from_be_bytes(*e)).filter(|e| *e != UNUSED) {
            free = free.max(512 * u64::from(e) + d.bitmap_size() + u64::from(d.block_size));
        }
        at += n as u64;
    }
    if free > file_len {
        return Err(QError::new(
            "block-vpc: free_data_block_offset points after the end of file. The image has been truncated.",
        ));
    }
    Ok(free)
}

async fn open(io: &Io<'_>, size: Option<VpcSizeCalc>) -> Result<(Vpc, Space), Fault> {
    let fail = |_: Errno| QError::new("Unable to read VHD header");
    let file_len = io.file_len().map_err(|_| QError::new("Unable to learn image size"))?;
    if file_len < FOOTER as u64 {
        return Err(QError::new("File too small for a VHD header").into());
    }
    let mut footer = Box::new(io.read_array::<FOOTER>(0).await.map_err(fail)?);
    let first = footer.starts_with(COOKIE);
    if !first {
        *footer = io.read_array(file_len - FOOTER as u64).await.map_err(fail)?;
    }
    let f = Footer::parse(&footer);
    let fixed = f.disk_type == spec::TYPE_FIXED;
    // Only fixed images have no copy of the footer in front.
    if !(first || footer.starts_with(COOKIE) && fixed) {
        return Err(QError::new("invalid VPC image").into());
    }
    sound(&footer)?;
    let sectors = f.sectors(size);
    if sectors > spec::MAX_SECTORS {
        return Err(Errno::FBIG.into());
    }
    let disk = sectors * 512;
    if fixed {
        return Ok((Vpc { footer, disk, dynamic: None }, Space { next: disk, zero_from: file_len }));
    }
    let bytes = io.read_array::<DYNAMIC>(f.data_offset.min(block::MAX_OFFSET)).await;
    let d = parse_dynamic(&bytes.map_err(|_| QError::new("Error reading dynamic VHD header"))?, disk)?;
    let next = first_free(io, &d, file_len).await?;
    Ok((Vpc { footer, disk, dynamic: Some(d) }, Space { next, zero_from: file_len }))
}

impl Map for Vpc {
    fn disk_len(&self) -> u64 {
        self.disk
    }

    fn block_size(&self) -> u64 {
        self.dynamic.map_or(MIB, |d| u64::from(d.block_size))
    }

    fn below(&self) -> Below {
        if self.dynamic.is_some() { Below::Data } else { Below::Room }
    }

    async fn find(&self, at: &At<'_>, block: u64, max: u64) -> IoResult<(Slot, u64)> {
        let Some(d) = &self.dynamic else { return Ok((Slot::Data(block * MIB), max)) };
        let bs = u64::from(d.block_size);
        let off = d.table_offset + 4 * block;
        table_run::<4>(at, off, max, bs, |_, e| match u32::from_be_bytes(e) {
            UNUSED => Ok(Slot::Zero),
            e => Ok(Slot::Data(512 * u64::from(e) + d.bitmap_size())),
        })
        .await
    }

    async fn reserve(
        &self,
        at: &At<'_>,
        space: &mut Space,
        _block: u64,
        _count: u64,
    ) -> IoResult<(u64, u64)> {
        let Some(d) = &self.dynamic else { return Err(Errno::IO) };
        let (start, bitmap) = (space.next, d.bitmap_size());
        let end = start + bitmap + u64::from(d.block_size);
        if !start.is_multiple_of(512) || start / 512 >= u64::from(UNUSED) {
            return Err(Errno::NOSPC);
        }
        // The new footer first: at every moment there is one.
        at.io.write_bytes(end, &self.footer[..]).await?;
        at.io.write_bytes(start, &vec![0xff; bitmap as usize]).await?;
        space.next = end;
        Ok((start + bitmap, 1))
    }

    async fn link(
        &self,
        at: &At<'_>,
        _space: &mut Space,
        block: u64,
        _count: u64,
        host: u64,
    ) -> IoResult<()> {
        let Some(d) = &self.dynamic else { return Err(Errno::IO) };
        let entry = ((host - d.bitmap_size()) / 512) as u32;
        at.meta.write(&at.io, d.table_offset + 4 * block, &entry.to_be_bytes(), Level::Entry).await
    }
}

impl Format for Vpc {
    fn open<'a>(o: &'a OpenCx<'a>) -> CtlFuture<'a, (Vpc, Space)> {
        let size = match &o.options.driver {
            BlockdevDriverOptions::Vpc(v) => v.x_rhea_force_size_calc,
            _ => None,
        };
        Box::pin(async move { open(&Io::file(&o.cx), size).await.map_err(|f| f.of(&o.cx)) })
    }

    fn info(&self, _cx: &Cx<'_>) -> DriverInfo {
        let cluster_size = self.dynamic.map(|d| u64::from(d.block_size));
        DriverInfo { cluster_size, dirty: Some(false), ..DriverInfo::default() }
    }
}
