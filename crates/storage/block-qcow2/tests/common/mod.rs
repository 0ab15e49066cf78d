//! An image file in memory, made without waiting for anything.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use api::block_core::{BlockdevCreateOptionsQcow2, BlockdevDriver, BlockdevRef};
use base::{Errno, IoResult};
use block::driver::Prealloc;
use block_qcow2::host::Host;
use mem::IoBuf;

/// Bytes that answer at once.
#[derive(Default)]
pub struct Bytes(pub RefCell<Vec<u8>>);

impl Host for Bytes {
    fn file_len(&self) -> IoResult<u64> {
        Ok(self.0.borrow().len() as u64)
    }
    async fn read(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        let b = self.0.borrow();
        let have = (b.len() as u64).saturating_sub(off).min(buf.len() as u64) as usize;
        buf.fill(0);
        if have > 0 {
            buf.copy_from(0, &b[off as usize..off as usize + have]);
        }
        Ok(())
    }
    async fn write(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        let mut b = self.0.borrow_mut();
        let end = off as usize + buf.len();
        if b.len() < end {
            b.resize(end, 0);
        }
        buf.copy_to(0, &mut b[off as usize..end]);
        Ok(())
    }
    async fn write_zeroes(&self, off: u64, len: u64) -> IoResult<()> {
        self.write(off, IoBuf::zeroed(len as usize)).await
    }
    async fn discard(&self, _off: u64, _len: u64) -> IoResult<()> {
        Ok(())
    }
    async fn flush(&self) -> IoResult<()> {
        Ok(())
    }
    async fn truncate(&self, len: u64, _prealloc: Prealloc) -> IoResult<()> {
        self.0.borrow_mut().resize(len as usize, 0);
        Ok(())
    }
    fn backing_len(&self) -> Option<u64> {
        None
    }
    async fn backing_read(&self, _off: u64, _buf: IoBuf) -> IoResult<()> {
        Err(Errno::NOMEDIUM)
    }
}

/// The value of a future that does not wait.
pub fn at_once<F: Future>(f: F) -> F::Output {
    match pin!(f).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(v) => v,
        Poll::Pending => panic!("this waits for something"),
    }
}

/// Options of a new image.
pub fn options(
    size: u64,
    cluster_size: u64,
    backing: Option<(&str, BlockdevDriver)>,
) -> BlockdevCreateOptionsQcow2 {
    BlockdevCreateOptionsQcow2 {
        file: BlockdevRef::Reference("file".into()),
        data_file: None,
        data_file_raw: None,
        extended_l2: None,
        size,
        version: None,
        backing_file: backing.map(|b| b.0.to_string()),
        backing_fmt: backing.map(|b| b.1),
        encrypt: None,
        cluster_size: Some(cluster_size),
        preallocation: None,
        lazy_refcounts: None,
        refcount_bits: None,
        compression_type: None,
    }
}

/// The bytes of a new image.
pub fn image(o: &BlockdevCreateOptionsQcow2) -> Vec<u8> {
    let host = Bytes::default();
    at_once(block_qcow2::create::create(&host, o)).expect("create");
    host.0.take()
}
