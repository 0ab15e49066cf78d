//! `blkverify`: does everything with two nodes, and compares what they read.

use api::block_core::{BlockdevDriverOptions, BlockdevOptions};
use base::{Errno, IoResult};
use block::driver::{
    Caps, ChildOption, ChildSlot, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits, OpenCx,
    OpenFuture, Support, WriteFlags, ZeroFlags, default_child_perm,
};
use block::filename::{FileNames, OTHERS};
use block::perm::Role;
use mem::IoBuf;
use qapi::{Dict, QError, qerr};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// `blkverify`.
pub static BLKVERIFY: DriverType = DriverType {
    name: "blkverify",
    kind: Kind::Filter,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: false,
    file_names: Some(FileNames { prefixes: &["blkverify"], parse: parse_name, older: None }),
    children,
    child_perm: default_child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

/// `blkverify:RAW:IMAGE`: a file as it is, and an image whose format is found out.
fn parse_name(name: &str) -> Result<Dict, QError> {
    let [(raw, ..), (test, ..)] = OTHERS;
    let Some(rest) = name.strip_prefix("blkverify:") else {
        return Ok(Dict::from_iter([(test, name)]));
    };
    let (right, image) =
        rest.split_once(':').ok_or_else(|| qerr!("blkverify requires raw copy and original image path"))?;
    Ok(Dict::from_iter([(raw, right), (test, image)]))
}

/// Whether two nodes have disagreed in this process.
static DISAGREED: AtomicBool = AtomicBool::new(false);

/// Whether the nodes under any `blkverify` have disagreed since the process began. Any thread, any time.
pub fn disagreed() -> bool {
    DISAGREED.load(Ordering::Relaxed)
}

/// Tells what the nodes disagree about: a line of its own, as scripts look for it.
fn tell(text: std::fmt::Arguments<'_>) -> Errno {
    DISAGREED.store(true, Ordering::Relaxed);
    tracing::error!(target: "plain", "blkverify: {text}");
    Errno::IO
}

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

struct Blkverify;

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        match &o.options.driver {
            BlockdevDriverOptions::Blkverify(_) => Ok(Arc::new(Blkverify) as Arc<dyn Driver>),
            _ => Err(QError::new("The options are not those of 'blkverify'")),
        }
    })
}

/// Both nodes must agree on how a request ended.
fn same(what: &str, off: u64, len: u64, raw: IoResult<()>, test: IoResult<()>) -> IoResult<()> {
    if raw == test {
        return raw;
    }
    let value = |r: IoResult<()>| r.err().map_or(0, |e| -e.raw());
    let (raw, test) = (value(raw), value(test));
    Err(tell(format_args!("{what} offset={off} bytes={len} return value mismatch {test} != {raw}")))
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
            same("read", off, buf.len() as u64, raw, test)?;
            let (right, read) = (right.to_vec(), buf.to_vec());
            match right.iter().zip(&read).position(|(a, b)| a != b) {
                Some(i) => {
                    let (len, at) = (buf.len(), off + i as u64);
                    Err(tell(format_args!("read offset={off} bytes={len} contents mismatch at offset {at}")))
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
            same("write", off, len, raw, test)
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            // Whether zeroes can be written fast may differ; what is read afterwards may not.
            let flags = flags - ZeroFlags::NO_FALLBACK;
            let raw = cx.child_write_zeroes(RAW, off, len, flags).await;
            let test = cx.child_write_zeroes(TEST, off, len, flags).await;
            same("write", off, len, raw, test)
        })
    }
}
