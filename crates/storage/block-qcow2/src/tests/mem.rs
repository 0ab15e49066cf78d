//! An image file in memory: every change is logged, so that a crash can be played at any point.

use std::cell::{Cell, RefCell};

use api::block_core::{BlockdevCreateOptionsQcow2, BlockdevRef};
use base::{Errno, IoResult};
use block::driver::Prealloc;
use mem::IoBuf;

use crate::host::Host;

/// Larger files are an error of the image code here.
const MAX_FILE: u64 = 256 << 20;

#[derive(Clone, Debug)]
pub enum Event {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    Truncate(u64),
    Flush,
}

#[derive(Default)]
pub struct MemHost {
    pub file: RefCell<Vec<u8>>,
    pub backing: Option<Vec<u8>>,
    /// The file with the guest's data, where that is another. Its changes are not in the log.
    pub data: Option<RefCell<Vec<u8>>>,
    pub log: RefCell<Vec<Event>>,
    pub logging: Cell<bool>,
    /// Waits a random while in each operation (inside a simulation only).
    pub jitter: Cell<bool>,
    /// Some of the waits are long.
    pub slow: Cell<bool>,
    /// No room: writes behind the header fail.
    pub full: Cell<bool>,
    /// Fails every operation with this chance in 1000.
    pub faults: Cell<u64>,
    /// Reads of the file that touch these bytes fail.
    pub bad: RefCell<std::ops::Range<u64>>,
}

impl MemHost {
    pub fn new(file: Vec<u8>) -> MemHost {
        MemHost { file: RefCell::new(file), ..MemHost::default() }
    }

    /// What the file holds.
    pub fn bytes(&self) -> Vec<u8> {
        self.file.borrow().clone()
    }

    async fn step(&self) -> IoResult<()> {
        if self.jitter.get() {
            let rng = rt::sim::rng();
            match rng.below(4) {
                0 => {}
                1 => rt::yield_now().await,
                2 if self.slow.get() && rng.below(6) == 0 => {
                    rt::sleep(std::time::Duration::from_micros(rng.below(40_000))).await;
                }
                _ => rt::sleep(std::time::Duration::from_micros(rng.below(500))).await,
            }
            if self.faults.get() > 0 && rng.below(1000) < self.faults.get() {
                return Err(Errno::NOSPC);
            }
        }
        Ok(())
    }

    fn record(&self, e: Event) {
        if self.logging.get() {
            self.log.borrow_mut().push(e);
        }
    }
}

pub fn apply(file: &mut Vec<u8>, e: &Event) {
    match e {
        Event::Write(off, bytes) => {
            let end = *off as usize + bytes.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            file[*off as usize..end].copy_from_slice(bytes);
        }
        Event::Zero(off, len) => {
            let end = (*off + *len) as usize;
            if file.len() < end {
                file.resize(end, 0);
            }
            file[*off as usize..end].fill(0);
        }
        Event::Truncate(len) => file.resize(*len as usize, 0),
        Event::Flush => {}
    }
}

impl Host for MemHost {
    fn file_len(&self) -> IoResult<u64> {
        Ok(self.file.borrow().len() as u64)
    }
    async fn read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.step().await?;
        {
            let bad = self.bad.borrow();
            if off < bad.end && bad.start < off + buf.len() as u64 {
                return Err(Errno::IO);
            }
        }
        {
            let file = self.file.borrow();
            let have = (file.len() as u64).saturating_sub(off).min(buf.len() as u64) as usize;
            buf.slice(have..buf.len()).fill(0);
            if have > 0 {
                buf.copy_from(0, &file[off as usize..off as usize + have]);
            }
        }
        // What was read may be old when it arrives.
        self.step().await
    }
    async fn write(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        if off + buf.len() as u64 > MAX_FILE {
            return Err(Errno::FBIG);
        }
        if self.full.get() && off >= 512 {
            return Err(Errno::NOSPC);
        }
        self.step().await?;
        let e = Event::Write(off, buf.to_vec());
        apply(&mut self.file.borrow_mut(), &e);
        self.record(e);
        self.step().await
    }
    async fn write_zeroes(&self, off: u64, len: u64) -> IoResult<()> {
        if off + len > MAX_FILE {
            return Err(Errno::FBIG);
        }
        self.step().await?;
        let e = Event::Zero(off, len);
        apply(&mut self.file.borrow_mut(), &e);
        self.record(e);
        Ok(())
    }
    async fn discard(&self, off: u64, len: u64) -> IoResult<()> {
        // What is discarded may come back as anything.
        let len = len.min((self.file.borrow().len() as u64).saturating_sub(off));
        let e = Event::Write(off, vec![0xdd; len as usize]);
        apply(&mut self.file.borrow_mut(), &e);
        self.record(e);
        Ok(())
    }
    async fn flush(&self) -> IoResult<()> {
        self.step().await?;
        self.record(Event::Flush);
        Ok(())
    }
    async fn truncate(&self, len: u64, _prealloc: Prealloc) -> IoResult<()> {
        if len > MAX_FILE {
            return Err(Errno::FBIG);
        }
        let e = Event::Truncate(len);
        apply(&mut self.file.borrow_mut(), &e);
        self.record(e);
        Ok(())
    }
    fn data_len(&self) -> IoResult<u64> {
        self.data.as_ref().map_or_else(|| self.file_len(), |d| Ok(d.borrow().len() as u64))
    }
    async fn data_read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        let Some(d) = &self.data else { return self.read(off, buf).await };
        let d = d.borrow();
        let have = (d.len() as u64).saturating_sub(off).min(buf.len() as u64) as usize;
        buf.fill(0);
        if have > 0 {
            buf.copy_from(0, &d[off as usize..off as usize + have]);
        }
        Ok(())
    }
    async fn data_write(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        let Some(d) = &self.data else { return self.write(off, buf).await };
        apply(&mut d.borrow_mut(), &Event::Write(off, buf.to_vec()));
        Ok(())
    }
    async fn data_write_zeroes(&self, off: u64, len: u64) -> IoResult<()> {
        let Some(d) = &self.data else { return self.write_zeroes(off, len).await };
        apply(&mut d.borrow_mut(), &Event::Zero(off, len));
        Ok(())
    }
    async fn data_zero_fast(&self, off: u64, len: u64) -> IoResult<()> {
        self.data_write_zeroes(off, len).await
    }
    async fn data_discard(&self, off: u64, len: u64) -> IoResult<()> {
        let Some(d) = &self.data else { return self.discard(off, len).await };
        let len = len.min((d.borrow().len() as u64).saturating_sub(off));
        apply(&mut d.borrow_mut(), &Event::Write(off, vec![0xdd; len as usize]));
        Ok(())
    }
    async fn data_truncate(&self, len: u64, prealloc: Prealloc) -> IoResult<()> {
        let Some(d) = &self.data else { return self.truncate(len, prealloc).await };
        apply(&mut d.borrow_mut(), &Event::Truncate(len));
        Ok(())
    }
    fn backing_len(&self) -> Option<u64> {
        self.backing.as_ref().map(|b| b.len() as u64)
    }
    async fn backing_read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        self.step().await?;
        let b = self.backing.as_ref().ok_or(Errno::NOMEDIUM)?;
        buf.copy_from(0, b.get(off as usize..off as usize + buf.len()).ok_or(Errno::IO)?);
        Ok(())
    }
}

/// Options of a new image.
pub fn options(size: u64, cluster_size: u64) -> BlockdevCreateOptionsQcow2 {
    BlockdevCreateOptionsQcow2 {
        file: BlockdevRef::Reference("file".into()),
        data_file: None,
        data_file_raw: None,
        extended_l2: None,
        size,
        version: None,
        backing_file: None,
        backing_fmt: None,
        encrypt: None,
        cluster_size: Some(cluster_size),
        preallocation: None,
        lazy_refcounts: None,
        refcount_bits: None,
        compression_type: None,
    }
}
