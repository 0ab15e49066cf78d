//! `blkverify`: does everything with two nodes, and compares what they read.

use api::block_core::{BlockdevDriverOptions, BlockdevOptions};
use base::{Errno, IoResult};
use block::driver::{
    Caps, ChildOption, ChildSlot, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits, OpenCx,
    OpenFuture, Support, WriteFlags, ZeroFlags, default_child_perm,
};
use block::perm::Role;
use mem::IoBuf;
use qapi::QError;
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// `blkverify`.
pub static BLKVERIFY: DriverType = DriverType {
    name: "blkverify",
    kind: Kind::Filter,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: false,
    children,
    child_perm: default_child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

/// The node that is right.
const RAW: ChildSlot = ChildSlot::File;
/// The node under test.
const TEST: ChildSlot = ChildSlot::Other(0);

fn children(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    smallvec![
        ChildOption { name: "raw", slot: RAW, role: Role::FILTERED | Role::PRIMARY, required: true },
        ChildOption { name: "test", slot: TEST, role: Role::DATA, required: true },
    ]
}

struct Blkverify {
    node_name: String,
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        match &o.options.driver {
            BlockdevDriverOptions::Blkverify(_) => {
                Ok(Arc::new(Blkverify { node_name: o.node_name.to_owned() }) as Arc<dyn Driver>)
            }
            _ => Err(QError::new("The options are not those of 'blkverify'")),
        }
    })
}

impl Blkverify {
    /// Both nodes must agree on how a request ended.
    fn same(&self, what: &str, off: u64, len: u64, raw: IoResult<()>, test: IoResult<()>) -> IoResult<()> {
        if raw == test {
            return raw;
        }
        tracing::error!(
            node = self.node_name,
            "{what} of {len} bytes at {off} ends differently: raw {raw:?}, test {test:?}"
        );
        Err(Errno::IO)
    }
}

impl Driver for Blkverify {
    fn name_over(&self, child: &dyn Fn(ChildSlot) -> Option<String>) -> Option<String> {
        Some(format!("blkverify:{}:{}", child(RAW)?, child(TEST)?))
    }

    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.child_len(TEST).unwrap_or(0)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        let of = |slot| cx.child_limits(slot).map_or(1, |l| l.request_alignment);
        Limits { request_alignment: of(RAW).max(of(TEST)), ..Limits::default() }
    }

    fn caps(&self, _cx: &Cx<'_>) -> Caps {
        Caps { fua: Support::Emulate, write_zeroes: Support::Native, discard: Support::None }
    }

    fn sees_reads(&self) -> bool {
        true
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let have = cx.child_len(RAW)?.saturating_sub(off);
            let len = len.min(have.max(1));
            Ok(Extent { len, kind: ExtentKind::Child { slot: RAW, offset: off }, eof: len >= have })
        })
    }

    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            let right = IoBuf::zeroed(buf.len());
            let raw = cx.child_read(RAW, off, right.clone()).await;
            let test = cx.child_read(TEST, off, buf.clone()).await;
            self.same("a read", off, buf.len() as u64, raw, test)?;
            let (right, read) = (right.to_vec(), buf.to_vec());
            match right.iter().zip(&read).position(|(a, b)| a != b) {
                Some(i) => {
                    let at = off + i as u64;
                    tracing::error!(node = self.node_name, "contents mismatch at offset {at}");
                    Err(Errno::IO)
                }
                None => Ok(()),
            }
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let raw = cx.child_write(RAW, off, buf.clone(), flags).await;
            let len = buf.len() as u64;
            let test = cx.child_write(TEST, off, buf, flags).await;
            self.same("a write", off, len, raw, test)
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            // Whether zeroes can be written fast may differ; what is read afterwards may not.
            let flags = flags - ZeroFlags::NO_FALLBACK;
            let raw = cx.child_write_zeroes(RAW, off, len, flags).await;
            let test = cx.child_write_zeroes(TEST, off, len, flags).await;
            self.same("a zero-write", off, len, raw, test)
        })
    }
}
