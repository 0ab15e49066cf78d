//! `raw`: the bytes of the child, or a window of them (`offset`, `size`).
//!
//! Without a window it is a filter in all but name. It holds no data: every read is answered by pointing at the child.

use api::block_core::{BlkdebugEvent, BlockdevDriverOptions, BlockdevOptions, BlockdevOptionsRaw};
use base::units::align_up;
use base::{Errno, IoResult};
use block::create::{Creation, Measure, MeasureCx, SIZE};
use block::driver::{
    Caps, ChildDef, ChildOption, ChildSlot, CtlFuture, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture,
    Kind, Limits, NodeFlags, NodePlan, OpenCx, OpenFuture, Prealloc, Staged, WriteFlags, ZeroFlags,
    default_child_perm,
};
use block::perm::{Perm, PermPair, Role};
use block::zoned::{Zone, ZoneLimits, ZoneOp};
use mem::IoBuf;
use parking_lot::RwLock;
use qapi::{QError, qerr};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// `raw`.
pub static RAW: DriverType = DriverType {
    name: "raw",
    kind: Kind::Format,
    mutable_opts: &["offset", "size"],
    supports_backing: false,
    supports_reopen: true,
    children,
    child_perm,
    open,
    // Anything may be raw; but whatever else recognises an image knows better.
    probe: Some(|_, _| 1),
    create: Some(&CREATION),
    ..DriverType::BASE
};

/// A raw image is its file.
static CREATION: Creation = Creation { measure: Some(measure), ..Creation::new(&[SIZE]) };

fn measure<'a>(m: &'a MeasureCx<'a>) -> CtlFuture<'a, Measure> {
    let size = m.source.map_or(m.size, |s| s.len());
    Box::pin(async move { Ok(Measure { required: size, fully_allocated: size, bitmaps: None }) })
}

/// What part of the child is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    offset: u64,
    /// Up to the child's end if `None`.
    size: Option<u64>,
}

impl Window {
    fn new(o: &BlockdevOptionsRaw) -> Result<Window, QError> {
        let offset = crate::size_option("offset", o.offset)?.unwrap_or(0);
        let size = crate::size_option("size", o.size)?;
        if size.is_some_and(|s| s % 512 != 0) {
            return Err(QError::new("Specified size is not multiple of 512"));
        }
        Ok(Window { offset, size })
    }

    /// The window of `o`, looked at with a child of `file_len` bytes.
    fn within(o: &BlockdevOptionsRaw, file_len: u64) -> Result<Window, QError> {
        let w = Window::new(o)?;
        let offset = w.offset;
        if offset > file_len {
            return Err(qerr!(
                "Offset ({offset}) cannot be greater than size of the containing file ({file_len})"
            ));
        }
        if let Some(size) = w.size
            && size > file_len - offset
        {
            // Two blanks before "actual": the text is part of the contract.
            return Err(qerr!(
                "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  actual size of \
                 the containing file ({file_len})"
            ));
        }
        Ok(w)
    }

    /// Where in the child a request lies. With a fixed size, nothing behind it is touched.
    fn translate(&self, off: u64, len: u64, write: bool) -> IoResult<u64> {
        let end = off.checked_add(len).ok_or(Errno::INVAL)?;
        if self.size.is_some_and(|s| end > s) {
            return Err(if write { Errno::NOSPC } else { Errno::INVAL });
        }
        end.checked_add(self.offset).ok_or(Errno::INVAL)?;
        Ok(off + self.offset)
    }
}

fn options(o: &BlockdevOptions) -> Result<&BlockdevOptionsRaw, QError> {
    match &o.driver {
        BlockdevDriverOptions::Raw(r) => Ok(r),
        _ => Err(QError::new("The options are not those of 'raw'")),
    }
}

fn children(o: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let windowed = options(o).is_ok_and(|r| r.offset.is_some_and(|v| v != 0) || r.size.is_some());
    let role = if windowed { Role::DATA } else { Role::FILTERED };
    smallvec![ChildOption { name: "file", slot: ChildSlot::File, role: role | Role::PRIMARY, required: true }]
}

/// A window has no metadata that it must keep up: it writes and resizes only as its parents do.
fn child_perm(child: &ChildDef, parent: PermPair, next: &NodeFlags) -> PermPair {
    let mut p = default_child_perm(child, parent, next);
    if child.role.contains(Role::DATA) {
        let both = Perm::WRITE | Perm::RESIZE;
        p.perm = (p.perm - both) | (parent.perm & both);
    }
    p
}

struct Raw {
    window: Arc<RwLock<Window>>,
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let file_len = o.cx.child_len(ChildSlot::File).map_err(|e| qerr!("Could not get image size: {e}"))?;
        let window = Window::within(options(o.options)?, file_len)?;
        Ok(Arc::new(Raw { window: Arc::new(RwLock::new(window)) }) as Arc<dyn Driver>)
    })
}

impl Raw {
    fn window(&self) -> Window {
        *self.window.read()
    }
}

const FILE: ChildSlot = ChildSlot::File;

impl Driver for Raw {
    fn len(&self, cx: &Cx<'_>) -> u64 {
        let w = self.window();
        // A child that has gone or shrunk leaves nothing to show.
        let have = cx.child_len(FILE).unwrap_or(0).saturating_sub(w.offset);
        // A disk counts in sectors; from an odd offset on, the last one may be there in part.
        let whole = if w.offset.is_multiple_of(512) { have } else { align_up(have, 512).unwrap_or(have) };
        w.size.unwrap_or(whole)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        let mut limits = cx.child_limits(FILE).unwrap_or_default();
        if !self.window().offset.is_multiple_of(u64::from(limits.request_alignment)) {
            // What is aligned here is not so below: the child pads the requests.
            limits.request_alignment = 1;
        }
        limits
    }

    fn caps(&self, cx: &Cx<'_>) -> Caps {
        cx.child_caps(FILE).unwrap_or_default()
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let len = len.min(self.len(cx).saturating_sub(off));
            let offset = self.window().translate(off, len, false)?;
            let kind = ExtentKind::Child { slot: FILE, offset };
            Ok(Extent { len, kind, eof: off + len >= self.len(cx) })
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let off = self.window().translate(off, buf.len() as u64, true)?;
            cx.child_event(FILE, BlkdebugEvent::WriteAio).await;
            cx.child_write(FILE, off, buf, flags).await
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let off = self.window().translate(off, len, true)?;
            cx.child_write_zeroes(FILE, off, len, flags).await
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move {
            let off = self.window().translate(off, len, true)?;
            cx.child_discard(FILE, off, len).await
        })
    }

    fn zones(&self, cx: &Cx<'_>) -> Option<ZoneLimits> {
        // A window's edges are no zones' edges.
        let all = self.window() == Window { offset: 0, size: None };
        if all { cx.child(FILE).ok()?.zones() } else { None }
    }

    fn zone_report<'a>(&'a self, cx: &'a Cx<'a>, off: u64, most: u32) -> IoFuture<'a, Vec<Zone>> {
        Box::pin(cx.child_zone_report(FILE, off, most))
    }

    fn zone_manage<'a>(&'a self, cx: &'a Cx<'a>, op: ZoneOp, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(cx.child_zone_manage(FILE, op, off, len))
    }

    fn zone_append<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a, u64> {
        Box::pin(cx.child_zone_append(FILE, off, buf))
    }

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(async move {
            let w = self.window();
            if w.size.is_some() {
                // A window of fixed size.
                return Err(Errno::NOTSUP);
            }
            let len = len.checked_add(w.offset).ok_or(Errno::INVAL)?;
            cx.child_truncate(FILE, len, exact, prealloc).await
        })
    }

    fn stage<'a>(&'a self, cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            let new = if next.reopen {
                let file_len = cx.child_len(FILE).map_err(|e| qerr!("Could not get image size: {e}"))?;
                Window::within(options(&next.options)?, file_len)?
            } else {
                self.window()
            };
            Ok(Box::new(Move { window: self.window.clone(), new }) as Box<dyn Staged>)
        })
    }
}

/// A staged change of the window.
struct Move {
    window: Arc<RwLock<Window>>,
    new: Window,
}

impl Staged for Move {
    fn commit(self: Box<Self>) {
        *self.window.write() = self.new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::block_core::BlockdevRef;

    fn raw(offset: Option<i64>, size: Option<i64>) -> BlockdevOptionsRaw {
        BlockdevOptionsRaw { file: BlockdevRef::Reference("f".into()), offset, size }
    }

    fn text(offset: Option<i64>, size: Option<i64>) -> String {
        Window::within(&raw(offset, size), 1 << 20).unwrap_err().desc().to_owned()
    }

    #[test]
    fn windows_must_lie_in_the_file() {
        assert_eq!(Window::within(&raw(None, None), 0), Ok(Window { offset: 0, size: None }));
        assert_eq!(
            Window::within(&raw(Some(100), Some(512)), 612),
            Ok(Window { offset: 100, size: Some(512) })
        );
        assert_eq!(text(None, Some(100)), "Specified size is not multiple of 512");
        assert_eq!(
            text(Some(2 << 20), None),
            "Offset (2097152) cannot be greater than size of the containing file (1048576)"
        );
        assert_eq!(
            text(Some(1 << 19), Some(1 << 20)),
            "The sum of offset (524288) and size (1048576) has to be smaller or equal to the  actual size of the \
             containing file (1048576)"
        );
        assert_eq!(text(Some(-1), None), "Value '-1' is out of range for parameter 'offset'");
        assert_eq!(
            text(None, Some(i64::MIN)),
            "Value '-9223372036854775808' is out of range for parameter 'size'"
        );
    }

    #[test]
    fn nothing_behind_a_fixed_size_is_touched() {
        let w = Window { offset: 512, size: Some(1024) };
        assert_eq!(w.translate(512, 512, true), Ok(1024));
        assert_eq!(w.translate(512, 513, true), Err(Errno::NOSPC));
        assert_eq!(w.translate(u64::MAX, 1, false), Err(Errno::INVAL));
        let open = Window { offset: 512, size: None };
        assert_eq!(open.translate(u64::MAX - 100, 50, true), Err(Errno::INVAL));
    }

    #[test]
    fn a_window_asks_only_for_what_its_parents_ask() {
        let def = |role| ChildDef { name: "file", slot: ChildSlot::File, role };
        let flags = NodeFlags::default();
        let parent = PermPair { perm: Perm::CONSISTENT_READ, shared: Perm::all() };
        let plain = child_perm(&def(Role::FILTERED | Role::PRIMARY), parent, &flags);
        assert_eq!(plain, parent);
        let windowed = child_perm(&def(Role::DATA | Role::PRIMARY), parent, &flags);
        assert_eq!(windowed.perm, Perm::CONSISTENT_READ);
        assert!(!windowed.shared.contains(Perm::RESIZE));
        let writer = PermPair { perm: Perm::WRITE, shared: Perm::all() };
        assert_eq!(child_perm(&def(Role::DATA | Role::PRIMARY), writer, &flags).perm, Perm::WRITE);
    }
}
