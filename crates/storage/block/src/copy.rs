//! Copy on read, and what else a driver may ask of a child that is not one of the plain requests.

use crate::driver::{ChildSlot, Cx, Limits, Support, WriteFlags, ZeroFlags};
use crate::gate::Inside;
use crate::graph::{Graph, Node, NodeId};
use crate::perm::{Perm, Role};
use crate::request::{Status, end_of, step, unit, units_up, up};
use crate::track::Ticket;
use api::block_core::BlkdebugEvent;
use base::units::align_down;
use base::{Errno, IoResult};
use mem::IoBuf;
use std::sync::Arc;

/// The most bytes that are copied at a time.
const PIECE: u64 = 1 << 20;

/// What a piece of work needs that may go on when the request that it belongs to has ended: it keeps the request's
/// snapshot of the graph, and a drain waits for it as for the request.
pub struct Errand {
    graph: Arc<Graph>,
    node: Arc<Node>,
    _inside: Vec<Inside>,
}

impl Errand {
    /// The node, as the request saw it.
    pub fn cx(&self) -> Cx<'_> {
        Cx { graph: &self.graph, node: &self.node }
    }
}

impl<'a> Cx<'a> {
    /// Prepares work that outlives this request. Made while the request is in flight.
    pub fn errand(&self) -> Errand {
        // One of these gates has this request inside, and whoever drains the node waits for all of them.
        let over = self.graph.roots_over(&[self.node.id]);
        let stay = over.iter().filter_map(|r| self.graph.root(*r)).map(|r| r.gate.stay()).collect();
        Errand { graph: self.graph.clone(), node: self.node.clone(), _inside: stay }
    }

    /// The node of this name, in the graph as this request sees it, if it is in the chain of backing files of the
    /// child in `slot` (the child itself, or what it filters, included).
    pub fn in_chain(&self, slot: ChildSlot, name: &str) -> Option<Cx<'a>> {
        let mut next = self.child(slot).ok();
        while let Some(mut cx) = next {
            loop {
                if cx.node.name == name {
                    return Some(cx);
                }
                match cx.node.primary().filter(|e| e.role.contains(Role::FILTERED)) {
                    Some(e) => cx = cx.child(e.slot).ok()?,
                    None => break,
                }
            }
            next = cx.child(ChildSlot::Backing).ok();
        }
        None
    }

    /// Whether there is a node of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.graph.by_name(name).is_some()
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.node.id
    }

    /// The name of the node's driver.
    pub fn driver_name(&self) -> &'static str {
        self.node.ty.name
    }

    /// Whether the node shows the bytes of one child unchanged.
    pub fn is_filter(&self) -> bool {
        self.node.primary().is_some_and(|e| e.role.contains(Role::FILTERED))
    }

    /// Whether the node can store compressed.
    pub fn compresses(&self) -> bool {
        self.driver().is_ok_and(|d| d.compresses(self))
    }

    /// What the node's driver tells queries.
    pub fn info(&self) -> crate::driver::DriverInfo {
        self.driver().map(|d| d.info(self)).unwrap_or_default()
    }

    /// What the parent requires of the child in `slot`.
    pub fn child_perm(&self, slot: ChildSlot) -> Perm {
        self.node.edge(slot).map_or(Perm::empty(), |e| e.pair.perm)
    }

    /// Where a child's bytes are, through all its backing files.
    pub async fn child_chain_status(&self, slot: ChildSlot, off: u64, len: u64) -> IoResult<Status> {
        let child = self.child(slot)?;
        Box::pin(async move { child.chain_status(off, len).await }).await
    }

    /// Reads the past state that a child keeps.
    pub async fn child_snapshot_read(&self, slot: ChildSlot, off: u64, buf: IoBuf) -> IoResult<()> {
        let child = self.child(slot)?;
        child.driver()?.snapshot_read(&child, off, buf).await
    }

    /// Where the bytes of the past state are that a child keeps.
    pub async fn child_snapshot_status(&self, slot: ChildSlot, off: u64, len: u64) -> IoResult<Status> {
        let child = self.child(slot)?;
        child.driver()?.snapshot_status(&child, off, len).await
    }

    /// Says that a range of a child's past state is needed no more.
    pub async fn child_snapshot_discard(&self, slot: ChildSlot, off: u64, len: u64) -> IoResult<()> {
        let child = self.child(slot)?;
        child.driver()?.snapshot_discard(&child, off, len).await
    }

    /// The length of the past state that a child keeps, if it does.
    pub fn child_snapshot_len(&self, slot: ChildSlot) -> Option<u64> {
        self.child(slot).ok()?.driver().ok()?.snapshot_len()
    }

    /// Reads from a child, and stores in it what it only has from its backing files. With `bottom`, what comes from
    /// below that node is only read. Needs [`Perm::WRITE_UNCHANGED`]; without it this is a plain read.
    pub async fn child_copy_on_read(
        &self,
        slot: ChildSlot,
        off: u64,
        buf: IoBuf,
        bottom: Option<NodeId>,
    ) -> IoResult<()> {
        let child = self.child(slot)?;
        if !child.node.writable() || !self.child_perm(slot).intersects(Perm::WRITES) {
            return self.child_read(slot, off, buf).await;
        }
        Box::pin(async move { child.copy_on_read(off, buf, bottom).await }).await
    }

    async fn copy_on_read(&self, off: u64, buf: IoBuf, bottom: Option<NodeId>) -> IoResult<()> {
        let end = end_of(off, buf.len() as u64)?;
        let mut pos = off;
        while pos < end {
            let rest = buf.slice((pos - off) as usize..buf.len());
            let len = (end - pos).min(PIECE).min(self.len().saturating_sub(pos));
            if len == 0 {
                rest.fill(0);
                break;
            }
            let st = self.status_down_to(pos, len, bottom).await?;
            let n = st.len.min(len);
            let part = rest.slice(0..n as usize);
            // Depth 0 is the child's own. What nobody has is zeroes, which the child is to say itself; but above `bottom` it
            // cannot be told from what lies below.
            if st.allocated && st.depth > 0 {
                self.copy_up(pos, part).await?;
            } else if !st.allocated && st.zero && bottom.is_none() {
                let alone = self.alone(pos, n).await?;
                alone.zeroes_up(pos, n).await?;
                part.fill(0);
            } else {
                self.node_read(pos, part).await?;
            }
            pos += n;
        }
        Ok(())
    }

    /// Reads, and writes what was read to the same place.
    async fn copy_up(&self, off: u64, buf: IoBuf) -> IoResult<()> {
        // A write that came between the reading and the writing would be lost.
        let alone = self.alone(off, buf.len() as u64).await?;
        // The issuer's memory may change under our hands: what is written must be what was read.
        let (bounce, from) = alone.bytes_up(off, buf.len() as u64).await?;
        drop(alone);
        buf.copy_from_buf(&bounce.slice(from..from + buf.len()));
        Ok(())
    }

    /// Keeps all others from writing a range of the child in `slot`, for copying within it. Needs
    /// [`Perm::WRITE_UNCHANGED`].
    ///
    /// # Errors
    /// The child may not be written.
    pub async fn child_alone(&self, slot: ChildSlot, off: u64, len: u64) -> IoResult<Alone<'a>> {
        let child = self.child(slot)?;
        child.may_write(self.child_perm(slot), true)?;
        child.alone(off, len).await
    }

    async fn alone(&self, off: u64, len: u64) -> IoResult<Alone<'a>> {
        let lim = self.limits();
        let align = u64::from(lim.request_alignment);
        let (lo, hi) = (align_down(off, align), up(end_of(off, len)?, align));
        let ticket = self.node.live.alone(lo, hi).await;
        Ok(Alone { cx: *self, lim, _ticket: ticket })
    }
}

/// A range of a node that nobody else writes until this is dropped ([`Cx::child_alone`]). What is stored stays what it is:
/// bytes that come from backing files become the node's own. The methods are for ranges within this one.
pub struct Alone<'a> {
    cx: Cx<'a>,
    lim: Limits,
    _ticket: Ticket,
}

impl Alone<'_> {
    /// Where bytes are, in the chain of images from the node down to `bottom`, or to the end.
    ///
    /// # Errors
    /// Those of the images.
    pub async fn status(&self, off: u64, len: u64, bottom: Option<NodeId>) -> IoResult<Status> {
        self.cx.status_down_to(off, len, bottom).await
    }

    /// Makes bytes the node's own.
    ///
    /// # Errors
    /// Those of reading and writing: the first member tells whether it was writing.
    pub async fn copy_up(&self, off: u64, len: u64, buf: &IoBuf) -> Result<(), (bool, Errno)> {
        let align = u64::from(self.lim.request_alignment);
        if !off.is_multiple_of(align) || !len.is_multiple_of(align) {
            return self.bytes_up(off, len).await.map(drop).map_err(|e| (true, e));
        }
        let buf = buf.slice(0..len as usize);
        self.cx.read_aligned(off, buf.clone(), &self.lim).await.map_err(|e| (false, e))?;
        self.store(off, &buf).await.map_err(|e| (true, e))
    }

    /// The same for bytes that are known to be zeroes.
    ///
    /// # Errors
    /// Those of writing.
    pub async fn zeroes_up(&self, off: u64, len: u64) -> IoResult<()> {
        let lim = &self.lim;
        let unit = unit(lim.request_alignment, lim.write_zeroes_alignment);
        let (end, native) = (end_of(off, len)?, self.cx.caps().write_zeroes == Support::Native);
        let (lo, hi) = (units_up(off, unit), end - end % unit);
        if !native || lo >= hi {
            return self.pieces_up(off, end).await;
        }
        self.pieces_up(off, lo).await?;
        let step = step(lim.max_write_zeroes, unit);
        let mut pos = lo;
        while pos < hi {
            let n = (hi - pos).min(step);
            let done = self.cx.driver()?.write_zeroes(&self.cx, pos, n, ZeroFlags::UNCHANGED).await;
            self.cx.node.live.wrote();
            match done {
                Err(Errno::NOTSUP) => self.pieces_up(pos, pos + n).await?,
                done => done?,
            }
            pos += n;
        }
        self.pieces_up(hi, end).await
    }

    async fn pieces_up(&self, off: u64, end: u64) -> IoResult<()> {
        let mut pos = off;
        while pos < end {
            let n = (end - pos).min(PIECE);
            self.bytes_up(pos, n).await?;
            pos += n;
        }
        Ok(())
    }

    /// Copies up the whole blocks that a range touches. Answers their bytes, and where the range begins in them.
    async fn bytes_up(&self, off: u64, len: u64) -> IoResult<(IoBuf, usize)> {
        let align = u64::from(self.lim.request_alignment);
        let (lo, hi) = (align_down(off, align), up(end_of(off, len)?, align));
        let bounce = IoBuf::zeroed((hi - lo) as usize);
        self.cx.read_aligned(lo, bounce.clone(), &self.lim).await?;
        self.store(lo, &bounce).await?;
        Ok((bounce, (off - lo) as usize))
    }

    /// Stores whole blocks that were read where they are stored.
    async fn store(&self, off: u64, buf: &IoBuf) -> IoResult<()> {
        let (cx, lim) = (&self.cx, &self.lim);
        cx.own_event(BlkdebugEvent::CorWrite).await;
        let zeroes = buf.is_zero() && cx.caps().write_zeroes == Support::Native;
        let zeroes = zeroes && lim.write_zeroes_alignment <= lim.request_alignment;
        let mut done = Err(Errno::NOTSUP);
        if zeroes {
            let len = buf.len() as u64;
            done = cx.driver()?.write_zeroes(cx, off, len, ZeroFlags::UNCHANGED).await;
        }
        if done == Err(Errno::NOTSUP) {
            done = cx.write_aligned(off, buf.clone(), WriteFlags::UNCHANGED, lim).await;
        }
        cx.node.live.wrote();
        done
    }
}
