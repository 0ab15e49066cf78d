//! `qed`: QEMU's enhanced disk format.

mod check;
mod create;
pub mod spec;

use self::spec::{HEADER, Header, MAGIC, ZERO};
use crate::blockmap::{At, Format, Io, Level, Map, Slot, Space, TwoLevel, Zeroing};
use crate::fields::le32;
use base::{Errno, IoResult};
use block::check::{Fix, Report};
use block::driver::{
    BackingHint, CtlFuture, Cx, DriverInfo, DriverType, Kind, OpenCx, Prealloc, default_child_perm,
};
use parking_lot::Mutex;
use qapi::{QError, qerr};

/// `qed`.
pub static QED: DriverType = DriverType {
    name: "qed",
    kind: Kind::Format,
    supports_backing: true,
    supports_reopen: true,
    children: crate::file_and_backing,
    child_perm: default_child_perm,
    open: crate::blockmap::open_format::<Qed>,
    probe: Some(|b, _| if le32(b, 0) == Some(MAGIC) { 100 } else { 0 }),
    create: Some(&create::CREATION),
    ..DriverType::BASE
};

/// An open image.
pub struct Qed {
    header: Mutex<Header>,
    cluster: u64,
    tables: TwoLevel,
    backing: Mutex<Option<BackingHint>>,
}

fn supported(h: &Header, file_len: u64) -> Result<(), QError> {
    if h.magic != MAGIC {
        return Err(QError::new("Image not in QED format"));
    }
    if h.features & !spec::FEATURES != 0 {
        return Err(qerr!("Unsupported QED features: {:x}", h.features & !spec::FEATURES));
    }
    if !spec::CLUSTER.contains(&h.cluster) || !h.cluster.is_power_of_two() {
        return Err(QError::new("QED cluster size is invalid"));
    }
    if !spec::TABLE.contains(&h.table) || !h.table.is_power_of_two() {
        return Err(QError::new("QED table size is invalid"));
    }
    if !h.size.is_multiple_of(512) || h.size > h.max_size() || h.size > block::MAX_OFFSET {
        return Err(QError::new("QED image size is invalid"));
    }
    let cluster = u64::from(h.cluster);
    let header_len = u64::from(h.header) * cluster;
    let fits =
        h.directory.checked_add(h.table_len()).is_some_and(|e| e <= file_len.next_multiple_of(cluster));
    if !h.directory.is_multiple_of(cluster) || h.directory == 0 || h.directory < header_len || !fits {
        return Err(QError::new("QED table offset is invalid"));
    }
    if header_len > i32::MAX as u64 {
        return Err(QError::new("QED header size is too large"));
    }
    if h.features & spec::BACKING != 0 {
        let end = u64::from(h.name_offset) + u64::from(h.name_len);
        if end > header_len || h.name_len > spec::MAX_NAME {
            return Err(QError::new("QED backing filename offset is invalid"));
        }
    }
    Ok(())
}

impl Qed {
    fn header(&self) -> Header {
        *self.header.lock()
    }

    fn decode(&self, e: u64) -> IoResult<Slot> {
        match e {
            0 => Ok(Slot::Unallocated),
            ZERO => Ok(Slot::Zero),
            e if e.is_multiple_of(self.cluster) && e <= block::MAX_OFFSET / 2 => Ok(Slot::Data(e)),
            _ => Err(Errno::IO),
        }
    }

    /// Changes the header, in the file too.
    async fn put_header(&self, at: &At<'_>, header: Header) -> IoResult<()> {
        at.meta.write(&at.io, 0, &header.bytes(), Level::Early).await?;
        at.meta.write_back(&at.io).await?;
        *self.header.lock() = header;
        Ok(())
    }
}

impl Map for Qed {
    const BACKING: bool = true;

    fn disk_len(&self) -> u64 {
        self.header.lock().size
    }

    fn block_size(&self) -> u64 {
        self.cluster
    }

    fn zeroing(&self, _: u64, _: u64) -> Zeroing {
        Zeroing::Marked
    }

    async fn find(&self, at: &At<'_>, block: u64, max: u64) -> IoResult<(Slot, u64)> {
        self.tables.find(at, block, max, self.cluster, |e| self.decode(e)).await
    }

    async fn begin(&self, at: &At<'_>, _: &mut Space) -> IoResult<()> {
        if self.header().features & spec::NEED_CHECK != 0 {
            // What others write may be half-way in the tables after a crash.
            let r = check::check(self, *at, Fix::All, &mut |line| tracing::info!(target: "plain", "{line}"))
                .await?;
            if r.corruptions + r.check_errors > 0 {
                return Err(Errno::IO);
            }
        }
        let header = self.header();
        // Nobody here keeps up what such features say.
        if header.autoclear == 0 {
            Ok(())
        } else {
            self.put_header(at, Header { autoclear: 0, ..header }).await
        }
    }

    async fn link(&self, at: &At<'_>, space: &mut Space, block: u64, count: u64, host: u64) -> IoResult<()> {
        for i in 0..count {
            self.tables.set(at, space, block + i, host + i * self.cluster).await?;
        }
        Ok(())
    }

    async fn mark_zero(&self, at: &At<'_>, space: &mut Space, block: u64) -> IoResult<()> {
        self.tables.set(at, space, block, ZERO).await
    }

    async fn resize(&self, at: &At<'_>, _: &mut Space, len: u64, prealloc: Prealloc) -> IoResult<()> {
        let header = self.header();
        if prealloc != Prealloc::Off || len < header.size {
            return Err(Errno::NOTSUP);
        }
        if !len.is_multiple_of(512) || len > header.max_size() {
            return Err(Errno::INVAL);
        }
        self.put_header(at, Header { size: len, ..header }).await
    }
}

impl Format for Qed {
    fn open<'a>(o: &'a OpenCx<'a>) -> CtlFuture<'a, (Qed, Space)> {
        Box::pin(async move {
            let io = Io::file(&o.cx);
            let fail = |_: Errno| QError::new("Failed to read QED header");
            let header = Header::parse(&io.read_array::<HEADER>(0).await.map_err(fail)?);
            let len = io.file_len().map_err(fail)?;
            supported(&header, len)?;
            let mut backing = None;
            if header.features & spec::BACKING != 0 {
                let name = io.read_vec(u64::from(header.name_offset), header.name_len as usize).await;
                let name = name.ok().and_then(|n| String::from_utf8(n).ok());
                let filename = name.ok_or_else(|| QError::new("Failed to read backing filename"))?;
                let raw = header.features & spec::RAW_BACKING != 0;
                let format = raw.then(|| "raw".into());
                backing = Some(BackingHint { filename, format }).filter(|h| !h.filename.is_empty());
            }
            let cluster = u64::from(header.cluster);
            let tables = TwoLevel {
                directory: header.directory,
                entries: header.entries(),
                align: cluster,
                big_endian: false,
            };
            let next = len.next_multiple_of(cluster);
            let qed = Qed { header: Mutex::new(header), cluster, tables, backing: Mutex::new(backing) };
            Ok((qed, Space { next, zero_from: len }))
        })
    }

    fn check<'a>(
        &'a self,
        at: At<'a>,
        fix: Fix,
        log: &'a mut dyn FnMut(&str),
    ) -> CtlFuture<'a, Option<Report>> {
        Box::pin(async move {
            let report = check::check(self, at, fix, log).await;
            report.map(Some).map_err(|e| qerr!("Could not check the image: {e}"))
        })
    }

    fn info(&self, _cx: &Cx<'_>) -> DriverInfo {
        let dirty = self.header().features & spec::NEED_CHECK != 0;
        DriverInfo { cluster_size: Some(self.cluster), dirty: Some(dirty), ..DriverInfo::default() }
    }

    fn backing_hint(&self) -> Option<BackingHint> {
        self.backing.lock().clone()
    }

    fn write_backing_hint<'a>(&'a self, at: At<'a>, hint: Option<BackingHint>) -> CtlFuture<'a> {
        Box::pin(async move {
            let mut header = self.header();
            header.features &= !(spec::BACKING | spec::RAW_BACKING);
            (header.name_offset, header.name_len) = (0, 0);
            let mut bytes = header.bytes().to_vec();
            if let Some(h) = &hint {
                header.features |= spec::BACKING;
                if h.format.as_deref() == Some("raw") {
                    header.features |= spec::RAW_BACKING;
                }
                (header.name_offset, header.name_len) = (HEADER as u32, h.filename.len() as u32);
                bytes = header.bytes().to_vec();
                bytes.extend(h.filename.as_bytes());
            }
            if bytes.len() as u64 > self.cluster || header.name_len > spec::MAX_NAME {
                return Err(QError::new("The backing file's name is too long"));
            }
            let io = |e: Errno| qerr!("Could not write the QED header: {e}");
            at.meta.write(&at.io, 0, &bytes, Level::Early).await.map_err(io)?;
            at.meta.write_back(&at.io).await.map_err(io)?;
            *self.header.lock() = header;
            *self.backing.lock() = hint;
            Ok(())
        })
    }
}
