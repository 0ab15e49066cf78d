//! What requests do with the node.

use crate::message::Request;
use base::{Errno, IoResult};
use block::Root;
use block::driver::{WriteFlags, ZeroFlags};
use mem::IoBuf;
use std::sync::Arc;

/// A queue of a device, as far as its tags are concerned.
pub trait Tags {
    /// Answers what the tag brought before, if anything (bytes, or `-errno`), and waits for what it brings next. `data` is
    /// where a write's bytes come and a read's bytes are taken from.
    ///
    /// # Errors
    /// Nothing comes any more.
    fn next(&self, tag: u16, answer: Option<i32>, data: &IoBuf) -> impl Future<Output = IoResult<()>>;

    /// The description of what the tag has brought.
    fn descriptor(&self, tag: u16) -> [u8; rt::ublk::DESCRIPTOR];
}

impl Tags for rt::ublk::Queue {
    async fn next(&self, tag: u16, answer: Option<i32>, data: &IoBuf) -> IoResult<()> {
        rt::ublk::Queue::next(self, tag, answer, data).await
    }

    fn descriptor(&self, tag: u16) -> [u8; rt::ublk::DESCRIPTOR] {
        rt::ublk::Queue::descriptor(self, tag)
    }
}

/// The disk over a node.
#[derive(Clone, Debug)]
pub struct Disk {
    root: Arc<Root>,
    writable: bool,
}

impl Disk {
    /// The disk over `root`, which holds the permission to write if it is `writable`.
    pub fn new(root: Arc<Root>, writable: bool) -> Disk {
        Disk { root, writable }
    }

    /// Does what is asked for, with `data` as for [`Tags::next`]. The bytes that were read or written.
    ///
    /// # Errors
    /// As the node gives them; `EROFS` for a change of what is not writable.
    pub async fn handle(&self, request: Request, data: &IoBuf) -> IoResult<usize> {
        if !self.writable && !matches!(request, Request::Read(..) | Request::Flush) {
            return Err(Errno::ROFS);
        }
        let part = |len: usize| if len <= data.len() { Ok(data.slice(0..len)) } else { Err(Errno::INVAL) };
        match request {
            Request::Read(at, len) => {
                self.root.read(at, part(len)?).await?;
                Ok(len)
            }
            Request::Write { at, len, stable } => {
                let flags = if stable { WriteFlags::FUA } else { WriteFlags::empty() };
                self.root.write(at, part(len)?, flags).await?;
                Ok(len)
            }
            Request::Flush => self.root.flush().await.map(|()| 0),
            Request::Discard(at, len) => self.root.discard(at, len).await.map(|()| 0),
            Request::Zeroes { at, len, unmap, stable } => {
                let mut flags = ZeroFlags::empty();
                flags.set(ZeroFlags::MAY_UNMAP, unmap);
                flags.set(ZeroFlags::FUA, stable);
                self.root.write_zeroes(at, len, flags).await.map(|()| 0)
            }
        }
    }

    /// Serves one tag of a queue whose requests have at most `most` bytes of data, until nothing comes any more. Says why.
    pub async fn serve(&self, tags: &impl Tags, tag: u16, most: usize) -> Errno {
        let data = IoBuf::zeroed(most);
        let mut answer = None;
        loop {
            if let Err(e) = tags.next(tag, answer, &data).await {
                return e;
            }
            let done = match Request::parse(&tags.descriptor(tag)) {
                Ok(request) => self.handle(request, &data).await,
                Err(e) => Err(e),
            };
            answer = Some(done.map_or_else(|e| -e.raw(), |n| i32::try_from(n).unwrap_or(i32::MAX)));
        }
    }
}
