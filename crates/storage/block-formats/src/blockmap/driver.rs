//! A format with a table of blocks as a block driver.

use super::{Engine, Format, Io, Place};
use api::block_core::BlockdevOptions;
use base::{Errno, IoResult};
use block::check::{Fix, Report};
use block::driver::{
    BackingHint, Below, Caps, ChildSlot, CtlFuture, Cx, Driver, DriverInfo, Extent, ExtentKind, IoFuture,
    Limits, NodeFlags, NodePlan, OpenCx, OpenFuture, Prealloc, Staged, Support, WriteFlags, ZeroFlags,
};
use crypto::cipher::SECTOR;
use mem::IoBuf;
use parking_lot::RwLock;
use qapi::{QError, qerr};
use qom::ObjectTree;
use std::sync::Arc;

/// A node of a format that keeps its image in the child `file`.
pub struct Formatted<F: Format> {
    /// Replaced as a whole where somebody else may have changed the file.
    engine: Arc<RwLock<Arc<Engine<F>>>>,
    options: BlockdevOptions,
    objects: Option<Arc<ObjectTree>>,
    no_io: bool,
}

/// [`block::driver::DriverType::open`] for a format.
pub fn open_format<F: Format>(o: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async move {
        let engine = Arc::new(RwLock::new(read_header(&o).await?));
        let OpenCx { options, objects, no_io, .. } = o;
        Ok(Arc::new(Formatted::<F> { engine, options: options.clone(), objects, no_io }) as Arc<dyn Driver>)
    })
}

async fn read_header<F: Format>(o: &OpenCx<'_>) -> Result<Arc<Engine<F>>, QError> {
    let (format, space) = F::open(o).await?;
    Ok(Arc::new(Engine::new(format, space)))
}

impl<F: Format> Formatted<F> {
    fn engine(&self) -> Arc<Engine<F>> {
        self.engine.read().clone()
    }

    /// The image as it is in the file now.
    async fn again(
        &self,
        cx: &Cx<'_>,
        options: &BlockdevOptions,
        flags: NodeFlags,
    ) -> Result<Arc<Engine<F>>, QError> {
        read_header(&OpenCx {
            cx: *cx,
            options,
            flags,
            node_name: cx.node_name(),
            events: monitor::EventBus::new(),
            no_io: self.no_io,
            checking: false,
            late_bitmaps: false,
            // What a machine refuses is not open.
            machine: false,
            objects: self.objects.clone(),
        })
        .await
    }

    async fn finish(&self, cx: &Cx<'_>) -> IoResult<()> {
        let engine = self.engine();
        engine.finish(Io::file(cx)).await
    }
}

impl<F: Format> Driver for Formatted<F> {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.engine.read().map().disk_len()
    }

    fn limits(&self, _cx: &Cx<'_>) -> Limits {
        match self.engine.read().map().cipher() {
            Some(_) => Limits { request_alignment: SECTOR as u32, ..Limits::default() },
            None => Limits::default(),
        }
    }

    fn caps(&self, _cx: &Cx<'_>) -> Caps {
        Caps { fua: Support::Emulate, write_zeroes: Support::Native, discard: Support::Native }
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let engine = self.engine();
            let (place, n) = engine.lookup(Io::file(cx), off, len).await?;
            let kind = match place {
                // Nobody is to look at encrypted data around the driver.
                Place::Data(_) if engine.map().cipher().is_some() => {
                    ExtentKind::Own { offset: None, zero: false }
                }
                Place::Unallocated => ExtentKind::Unallocated,
                Place::Zero => ExtentKind::Zero { offset: None },
                Place::Data(offset) => ExtentKind::Child { slot: ChildSlot::File, offset },
                Place::Packed { .. } => ExtentKind::Compressed,
            };
            Ok(Extent { len: n, kind, eof: off + n >= engine.map().disk_len() })
        })
    }

    fn below(&self, _off: u64) -> Below {
        self.engine.read().map().below()
    }

    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move { self.engine().read(Io::file(cx), off, buf).await })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let engine = self.engine();
            let plain = engine.map().cipher().is_none();
            if flags.contains(WriteFlags::COMPRESSED) && engine.map().compresses() && plain {
                return engine.write_packed(Io::file(cx), off, buf).await;
            }
            engine.write(Io::file(cx), off, buf).await
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move { self.engine().write_zeroes(Io::file(cx), off, len, flags).await })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move { self.engine().discard(Io::file(cx), off, len).await })
    }

    fn flush<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move { self.engine().flush(Io::file(cx)).await })
    }

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, _exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(async move { self.engine().resize(Io::file(cx), len, prealloc).await })
    }

    fn compresses(&self, _cx: &Cx<'_>) -> bool {
        // What is compressed would not be encrypted.
        let engine = self.engine();
        engine.map().compresses() && engine.map().cipher().is_none()
    }

    fn stage<'a>(&'a self, cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            let keeps = || Box::new(block::driver::NothingStaged) as Box<dyn Staged>;
            if next.flags.read_only || next.flags.inactive {
                let fail = |e: Errno| qerr!("Failed to write the metadata of '{}' back: {e}", next.node_name);
                self.finish(cx).await.map_err(fail)?;
                return Ok(keeps());
            }
            if !next.old_flags.inactive {
                return Ok(keeps());
            }
            // Somebody else had the image meanwhile: nothing that is in memory counts.
            let fresh = self.again(cx, &next.options, next.flags).await?;
            Ok(Box::new(Replace { slot: self.engine.clone(), fresh }) as Box<dyn Staged>)
        })
    }

    fn activate<'a>(&'a self, cx: &'a Cx<'a>) -> CtlFuture<'a> {
        Box::pin(async move {
            if cx.flags().read_only || cx.flags().inactive {
                return Ok(());
            }
            let engine = self.engine();
            if engine.map().activate(engine.at(Io::file(cx))).await? {
                let fresh = self.again(cx, &self.options, cx.flags()).await?;
                fresh.map().was_repaired();
                *self.engine.write() = fresh;
            }
            Ok(())
        })
    }

    fn check<'a>(
        &'a self,
        cx: &'a Cx<'a>,
        fix: Fix,
        log: &'a mut dyn FnMut(&str),
    ) -> CtlFuture<'a, Option<Report>> {
        Box::pin(async move {
            let engine = self.engine();
            engine.map().check(engine.at(Io::file(cx)), fix, log).await
        })
    }

    fn close<'a>(&'a self, cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move { self.finish(cx).await })
    }

    fn backing_hint(&self) -> Option<BackingHint> {
        self.engine.read().map().backing_hint()
    }

    fn write_backing_hint<'a>(&'a self, cx: &'a Cx<'a>, hint: Option<BackingHint>) -> CtlFuture<'a> {
        Box::pin(async move {
            let engine = self.engine();
            engine.map().write_backing_hint(engine.at(Io::file(cx)), hint).await
        })
    }

    fn forced_read_only(&self) -> bool {
        self.engine.read().map().forced_read_only()
    }

    fn info(&self, cx: &Cx<'_>) -> DriverInfo {
        self.engine.read().map().info(cx)
    }
}

/// The image read anew.
struct Replace<F: Format> {
    slot: Arc<RwLock<Arc<Engine<F>>>>,
    fresh: Arc<Engine<F>>,
}

impl<F: Format> Staged for Replace<F> {
    fn commit(self: Box<Self>) {
        *self.slot.write() = self.fresh;
    }
}
