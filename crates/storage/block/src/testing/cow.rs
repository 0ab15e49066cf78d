//! A small copy-on-write format: what the simulation needs of qcow2, in a page of code.
//!
//! A header (magic, length, name of the backing file), a table with one byte for each cluster (0 unallocated, 1 data,
//! 2 zeroes), and the clusters, each at its fixed place.

use crate::driver::{
    BackingHint, Caps, ChildOption, ChildSlot, CtlFuture, Cx, Driver, DriverInfo, DriverType, Extent,
    ExtentKind, IoFuture, Kind, Limits, NodePlan, NothingStaged, OpenCx, OpenFuture, Staged, Support,
    WriteFlags, ZeroFlags, default_child_perm,
};
use crate::perm::Role;
use crate::testing::World;
use api::block_core::BlockdevOptions;
use base::{Errno, IoResult};
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::qerr;
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"RHEACOW1";
const CLUSTER: u64 = 4096;
const TABLE: u64 = 4096;

const NONE: u8 = 0;
const DATA: u8 = 1;
const ZERO: u8 = 2;

/// Makes an image in a new file of the world. `size` in bytes, at most 1 GiB.
pub fn create_cow(world: &World, name: &str, size: u64, backing: Option<&str>) {
    let mut bytes = vec![0; data_at(size, 0) as usize];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&size.to_le_bytes());
    if let Some(b) = backing {
        bytes[16] = b.len() as u8;
        bytes[32..32 + b.len()].copy_from_slice(b.as_bytes());
    }
    world.create(name, bytes);
}

fn clusters(size: u64) -> u64 {
    size.div_ceil(CLUSTER)
}

fn data_at(size: u64, off: u64) -> u64 {
    TABLE + clusters(size).div_ceil(CLUSTER) * CLUSTER + off
}

struct Cow {
    size: u64,
    hint: Mutex<Option<BackingHint>>,
    table: Mutex<Vec<u8>>,
    dirty: Mutex<bool>,
    /// Held while a cluster is allocated.
    allocating: rt::sync::Mutex<()>,
    /// Held while the table is written back.
    writing_back: rt::sync::Mutex<()>,
}

/// The format; answers to `qcow2`.
pub static COW: DriverType = DriverType {
    name: "qcow2",
    kind: Kind::Format,
    mutable_opts: &["lazy-refcounts", "l2-cache-size"],
    supports_backing: true,
    supports_reopen: true,
    children,
    child_perm: default_child_perm,
    open,
    probe: Some(|bytes, _| if bytes.starts_with(MAGIC) { 100 } else { 0 }),
    ..DriverType::BASE
};

fn children(_: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let file = Role::DATA | Role::METADATA | Role::PRIMARY;
    smallvec![
        ChildOption { name: "file", slot: ChildSlot::File, role: file, required: true },
        ChildOption { name: "backing", slot: ChildSlot::Backing, role: Role::COW, required: false },
    ]
}

fn open(o: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async move {
        let bad = |e: Errno| qerr!("Could not read the header: {e}");
        let head = IoBuf::zeroed(512);
        o.cx.child_read(ChildSlot::File, 0, head.clone()).await.map_err(bad)?;
        let head = head.to_vec();
        let size = u64::from_le_bytes(head[8..16].try_into().unwrap_or_default());
        if !head.starts_with(MAGIC) || size > 1 << 30 || usize::from(head[16]) > 200 {
            return Err(qerr!("Image is not in qcow2 format"));
        }
        let name = String::from_utf8_lossy(&head[32..32 + usize::from(head[16])]).into_owned();
        let hint = (!name.is_empty()).then(|| BackingHint { filename: name, format: Some("qcow2".into()) });
        let table = IoBuf::zeroed(clusters(size) as usize);
        o.cx.child_read(ChildSlot::File, TABLE, table.clone()).await.map_err(bad)?;
        Ok(Arc::new(Cow {
            size,
            hint: Mutex::new(hint),
            table: Mutex::new(table.to_vec()),
            dirty: Mutex::new(false),
            allocating: rt::sync::Mutex::new(()),
            writing_back: rt::sync::Mutex::new(()),
        }) as Arc<dyn Driver>)
    })
}

impl Cow {
    fn state(&self, off: u64) -> u8 {
        self.table.lock()[(off / CLUSTER) as usize]
    }

    fn set(&self, off: u64, state: u8) {
        self.table.lock()[(off / CLUSTER) as usize] = state;
        *self.dirty.lock() = true;
    }

    async fn write_back(&self, cx: &Cx<'_>) -> IoResult<()> {
        // One at a time: an older table must not be written over a newer.
        let _one = self.writing_back.lock().await;
        if !std::mem::take(&mut *self.dirty.lock()) {
            return Ok(());
        }
        // Data first: the table must never point to clusters that a crash would lose.
        let table = self.table.lock().clone();
        let done = async {
            cx.child_flush(ChildSlot::File).await?;
            cx.child_write(ChildSlot::File, TABLE, IoBuf::from_bytes(&table), WriteFlags::empty()).await
        }
        .await;
        if done.is_err() {
            *self.dirty.lock() = true;
        }
        done
    }

    /// Writes into a cluster that is not allocated: all of it, with what was visible around the new bytes.
    async fn allocate(&self, cx: &Cx<'_>, off: u64, part: IoBuf) -> IoResult<()> {
        let one = self.allocating.lock().await;
        let start = off - off % CLUSTER;
        if self.state(off) == DATA {
            drop(one);
            return cx.child_write(ChildSlot::File, data_at(self.size, off), part, WriteFlags::empty()).await;
        }
        let full = IoBuf::zeroed(CLUSTER as usize);
        if self.state(off) == NONE && cx.has_child(ChildSlot::Backing) {
            cx.child_read(ChildSlot::Backing, start, full.clone()).await?;
        }
        let at = (off - start) as usize;
        full.slice(at..at + part.len()).copy_from_buf(&part);
        cx.child_write(ChildSlot::File, data_at(self.size, start), full, WriteFlags::empty()).await?;
        self.set(start, DATA);
        Ok(())
    }
}

impl Driver for Cow {
    fn len(&self, _: &Cx<'_>) -> u64 {
        self.size
    }

    fn limits(&self, _: &Cx<'_>) -> Limits {
        Limits {
            write_zeroes_alignment: CLUSTER as u32,
            discard_alignment: CLUSTER as u32,
            ..Limits::default()
        }
    }

    fn caps(&self, _: &Cx<'_>) -> Caps {
        Caps { fua: Support::Emulate, write_zeroes: Support::Native, discard: Support::Native }
    }

    fn locate<'a>(&'a self, _: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let state = self.state(off);
            let mut n = (CLUSTER - off % CLUSTER).min(len);
            while n < len && self.state(off + n) == state {
                n += CLUSTER.min(len - n);
            }
            let kind = match state {
                DATA => ExtentKind::Child { slot: ChildSlot::File, offset: data_at(self.size, off) },
                ZERO => ExtentKind::Zero { offset: None },
                _ => ExtentKind::Unallocated,
            };
            Ok(Extent { len: n, kind, eof: off + n == self.size })
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, _: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let mut pos = 0;
            while pos < buf.len() as u64 {
                let at = off + pos;
                let n = (CLUSTER - at % CLUSTER).min(buf.len() as u64 - pos);
                let part = buf.slice(pos as usize..(pos + n) as usize);
                if self.state(at) == DATA {
                    cx.child_write(ChildSlot::File, data_at(self.size, at), part, WriteFlags::empty())
                        .await?;
                } else {
                    self.allocate(cx, at, part).await?;
                }
                pos += n;
            }
            Ok(())
        })
    }

    fn write_zeroes<'a>(&'a self, _: &'a Cx<'a>, off: u64, len: u64, _: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let _one = self.allocating.lock().await;
            for i in 0..len / CLUSTER {
                self.set(off + i * CLUSTER, ZERO);
            }
            Ok(())
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move {
            let _one = self.allocating.lock().await;
            let state = if cx.has_child(ChildSlot::Backing) { ZERO } else { NONE };
            for i in 0..len / CLUSTER {
                self.set(off + i * CLUSTER, state);
            }
            Ok(())
        })
    }

    fn flush<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(self.write_back(cx))
    }

    fn stage<'a>(&'a self, cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            if next.flags.read_only && !next.old_flags.read_only {
                self.write_back(cx)
                    .await
                    .map_err(|e| qerr!("Could not write back '{}': {e}", next.node_name))?;
                cx.child_flush(ChildSlot::File).await.map_err(|e| qerr!("Could not flush: {e}"))?;
            }
            Ok(Box::new(NothingStaged) as Box<dyn Staged>)
        })
    }

    fn close<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move { if cx.flags().read_only { Ok(()) } else { self.write_back(cx).await } })
    }

    fn write_backing_hint<'a>(&'a self, cx: &'a Cx<'a>, hint: Option<BackingHint>) -> CtlFuture<'a> {
        Box::pin(async move {
            let name = hint.as_ref().map_or("", |h| h.filename.as_str());
            if name.len() > 200 {
                return Err(qerr!("The name is too long"));
            }
            let mut bytes = vec![0; 240];
            bytes[0] = name.len() as u8;
            bytes[16..16 + name.len()].copy_from_slice(name.as_bytes());
            let wrote =
                cx.child_write(ChildSlot::File, 16, IoBuf::from_bytes(&bytes), WriteFlags::empty()).await;
            wrote.map_err(|e| qerr!("Could not write the header: {e}"))?;
            *self.hint.lock() = hint;
            Ok(())
        })
    }

    fn backing_hint(&self) -> Option<BackingHint> {
        self.hint.lock().clone()
    }

    fn info(&self, _: &Cx<'_>) -> DriverInfo {
        DriverInfo { cluster_size: Some(CLUSTER), dirty: Some(false), ..DriverInfo::default() }
    }
}
