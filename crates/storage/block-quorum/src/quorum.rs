//! `quorum`: writes go to all children, and what is read is what enough of them say.
//!
//! A write holds its range against reads and other writes: the children would otherwise take overlapping writes in
//! different orders, and differ for ever; and a vote would see some of them before a write and others after it.

use crate::report::{At, Reports};
use crate::vote::{difference, outcome, winner};
use api::block_core::{BlockdevDriverOptions, BlockdevOptions, QuorumOpType, QuorumReadPattern};
use base::{Errno, IoResult};
use block::Ranges;
use block::driver::{
    Caps, ChildDef, ChildList, ChildOption, ChildSlot, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture,
    Kind, Limits, NodeFlags, OpenCx, OpenFuture, Support, WriteFlags, ZeroFlags,
};
use block::lists::{join_all, list_option};
use block::perm::{Perm, PermPair, Role};
use mem::IoBuf;
use qapi::{QError, qerr};
use smallvec::SmallVec;
use std::pin::Pin;
use std::sync::Arc;

/// `quorum`.
pub static QUORUM: DriverType = DriverType {
    name: "quorum",
    kind: Kind::Format,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: false,
    children,
    child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

/// The option's name.
const CHILDREN: &str = "children";
/// The most children that are given at once.
const MAX_CHILDREN: usize = 1024;
/// The longest request, bytes: a read takes a buffer of its length for each child.
const MAX_TRANSFER: u64 = 8 << 20;

fn role(rewrite: bool) -> Role {
    if rewrite { Role::DATA | Role::REPAIRED } else { Role::DATA }
}

fn children(o: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let BlockdevDriverOptions::Quorum(q) = &o.driver else { return SmallVec::new() };
    let role = role(q.rewrite_corrupted == Some(true));
    (0..).take(q.children.len().min(MAX_CHILDREN)).map(|n| list_option(CHILDREN, n, role)).collect()
}

/// As the parents do. Nobody else may change one child alone.
fn child_perm(child: &ChildDef, parent: PermPair, _: &NodeFlags) -> PermPair {
    let mut perm = parent.perm;
    if child.role.contains(Role::REPAIRED) {
        perm |= Perm::WRITE;
    }
    PermPair { perm, shared: parent.shared & (Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED) }
}

struct Quorum {
    threshold: usize,
    pattern: QuorumReadPattern,
    verify: bool,
    rewrite: bool,
    reports: Reports,
    /// What is being written, and what is being read.
    ranges: Arc<Ranges>,
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let BlockdevDriverOptions::Quorum(q) = &o.options.driver else {
            return Err(QError::new("The options are not those of 'quorum'"));
        };
        let n = q.children.len();
        if n == 0 {
            return Err(qerr!("Number of provided children must be 1 or more"));
        }
        if n > MAX_CHILDREN {
            return Err(qerr!("Too many children"));
        }
        if q.vote_threshold < 1 {
            return Err(qerr!("Parameter 'vote-threshold' expects a value >= 1"));
        }
        let threshold = usize::try_from(q.vote_threshold).ok().filter(|t| *t <= n);
        let threshold = threshold.ok_or_else(|| qerr!("threshold may not exceed children count"))?;
        let pattern = q.read_pattern.unwrap_or_default();
        let (mut verify, rewrite) = (q.blkverify == Some(true), q.rewrite_corrupted == Some(true));
        if pattern == QuorumReadPattern::Fifo {
            verify = false;
        }
        if verify && (n != 2 || threshold != 2) {
            return Err(qerr!(
                "blkverify=on can only be set if there are exactly two files and vote-threshold is 2"
            ));
        }
        if verify && rewrite {
            return Err(qerr!("rewrite-corrupted=on cannot be used with blkverify=on"));
        }
        let mut lengths = o.cx.slots().map(|s| o.cx.child_len(s).unwrap_or(0));
        let first = lengths.next();
        if lengths.any(|l| Some(l) != first) {
            return Err(qerr!("Could not refresh total sector count: Input/output error"));
        }
        let reports = Reports { events: o.events.clone(), node: o.node_name.to_owned() };
        let ranges = Arc::new(Ranges::default());
        Ok(Arc::new(Quorum { threshold, pattern, verify, rewrite, reports, ranges }) as Arc<dyn Driver>)
    })
}

/// One request to each child, all at a time; the answers in the children's order.
async fn each<'a, T, F>(cx: &'a Cx<'a>, request: impl Fn(ChildSlot) -> F) -> Vec<T>
where
    F: Future<Output = T> + 'a,
{
    join_all(cx.slots().map(|s| Box::pin(request(s)) as Pin<Box<dyn Future<Output = T> + 'a>>)).await
}

/// What the children said when they were read.
struct Heard {
    /// How each child's read ended.
    results: Vec<IoResult<()>>,
    /// What each child gave.
    said: Vec<IoBuf>,
}

/// What comes of a vote.
struct Verdict {
    /// What enough children say: the number of one of them.
    right: IoResult<usize>,
    /// The children that say something else.
    dissent: Vec<usize>,
}

impl Quorum {
    /// Tells of the children that failed.
    fn errors(&self, cx: &Cx<'_>, kind: QuorumOpType, at: At, results: &[IoResult<()>]) {
        for (slot, r) in cx.slots().zip(results) {
            if let Err(e) = r {
                self.reports.bad(kind, cx.child_name(slot), at, Some(*e));
            }
        }
    }

    /// The vote on a write.
    fn written(&self, cx: &Cx<'_>, at: At, results: &[IoResult<()>]) -> IoResult<()> {
        self.errors(cx, QuorumOpType::Write, at, results);
        let done = outcome(results, self.threshold);
        if done.is_err() {
            self.reports.failure(at);
        }
        done
    }

    async fn read_all(&self, cx: &Cx<'_>, off: u64, len: usize) -> Heard {
        let said: Vec<IoBuf> = cx.slots().map(|_| IoBuf::zeroed(len)).collect();
        let mut bufs = said.iter();
        let reads = cx.slots().filter_map(|s| {
            let buf = bufs.next()?.clone();
            let read = async move { cx.child_read(s, off, buf).await };
            Some(Box::pin(read) as Pin<Box<dyn Future<Output = IoResult<()>> + '_>>)
        });
        let results = join_all(reads).await;
        Heard { results, said }
    }

    fn vote(&self, heard: &Heard) -> Verdict {
        let voters: Vec<usize> = (0..heard.said.len()).filter(|i| heard.results[*i].is_ok()).collect();
        if let Err(e) = outcome(&heard.results, self.threshold) {
            return Verdict { right: Err(e), dissent: Vec::new() };
        }
        let same = |a: &usize, b: &usize| difference(&heard.said[*a], &heard.said[*b]).is_none();
        match winner(&voters, same) {
            Some((first, votes)) if votes >= self.threshold => {
                let right = voters[first];
                let dissent = voters.into_iter().filter(|v| !same(v, &right)).collect();
                Verdict { right: Ok(right), dissent }
            }
            _ => Verdict { right: Err(Errno::IO), dissent: Vec::new() },
        }
    }

    async fn read_voting(&self, cx: &Cx<'_>, off: u64, buf: IoBuf) -> IoResult<()> {
        let at = At { off, len: buf.len() as u64 };
        let end = off.saturating_add(at.len);
        let mut ticket = self.ranges.lock(off, end, false).await;
        let mut heard = self.read_all(cx, off, buf.len()).await;
        let mut verdict = self.vote(&heard);
        if self.rewrite && !verdict.dissent.is_empty() {
            // Once more, now that nobody writes meanwhile: what is written must still be what is right.
            drop(ticket);
            ticket = self.ranges.lock(off, end, true).await;
            heard = self.read_all(cx, off, buf.len()).await;
            verdict = self.vote(&heard);
        }
        self.errors(cx, QuorumOpType::Read, at, &heard.results);
        let right = match verdict.right {
            Ok(r) => r,
            Err(e) => {
                if self.verify && heard.said.len() == 2 && heard.results.iter().all(|r| r.is_ok()) {
                    let i = difference(&heard.said[0], &heard.said[1]).unwrap_or(0);
                    let (node, mismatch) = (&self.reports.node, off + i as u64);
                    tracing::error!(%node, "offset={off} bytes={} contents mismatch at offset {mismatch}", at.len);
                }
                self.reports.failure(at);
                return Err(e);
            }
        };
        let slots: Vec<ChildSlot> = cx.slots().collect();
        for i in &verdict.dissent {
            let child = cx.child_name(slots[*i]);
            self.reports.bad(QuorumOpType::Read, child, at, None);
            if self.rewrite
                && let Err(e) =
                    cx.child_write(slots[*i], off, heard.said[right].clone(), WriteFlags::empty()).await
            {
                tracing::warn!(node = %self.reports.node, child, "writing what is right at offset {off}: {e}");
            }
        }
        drop(ticket);
        buf.copy_from_buf(&heard.said[right]);
        Ok(())
    }

    async fn read_first(&self, cx: &Cx<'_>, off: u64, buf: IoBuf) -> IoResult<()> {
        let mut result = Err(Errno::IO);
        for slot in cx.slots() {
            result = cx.child_read(slot, off, buf.clone()).await;
            match result {
                Ok(()) => break,
                Err(e) => {
                    let at = At { off, len: buf.len() as u64 };
                    self.reports.bad(QuorumOpType::Read, cx.child_name(slot), at, Some(e));
                }
            }
        }
        result
    }
}

impl Driver for Quorum {
    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.slots().next().and_then(|s| cx.child_len(s).ok()).unwrap_or(0)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        let mut l = Limits { max_transfer: MAX_TRANSFER, ..Limits::default() };
        for below in cx.slots().filter_map(|s| cx.child_limits(s).ok()) {
            l.request_alignment = l.request_alignment.max(below.request_alignment);
            l.buffer_alignment = l.buffer_alignment.max(below.buffer_alignment);
            l.opt_transfer = l.opt_transfer.max(below.opt_transfer);
        }
        l
    }

    fn caps(&self, _cx: &Cx<'_>) -> Caps {
        Caps { fua: Support::Emulate, write_zeroes: Support::Native, discard: Support::None }
    }

    fn sees_reads(&self) -> bool {
        true
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let have = self.len(cx).saturating_sub(off);
            let len = len.min(have.max(1));
            // Zero is what all say to be zero; all else is read, and then they vote.
            let (mut zeroes, mut data) = (len, 0);
            for slot in cx.slots() {
                match cx.child_status(slot, off, len).await {
                    Ok(st) if st.zero => zeroes = zeroes.min(st.len),
                    Ok(st) => data = data.max(st.len),
                    Err(e) => {
                        let at = At { off, len };
                        self.reports.bad(QuorumOpType::Read, cx.child_name(slot), at, Some(e));
                        data = len;
                    }
                }
            }
            let zero = data == 0;
            let len = if zero { zeroes } else { data.min(len) };
            Ok(Extent { len, kind: ExtentKind::Own { offset: None, zero }, eof: len >= have })
        })
    }

    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        match self.pattern {
            QuorumReadPattern::Quorum => Box::pin(self.read_voting(cx, off, buf)),
            QuorumReadPattern::Fifo => Box::pin(self.read_first(cx, off, buf)),
        }
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let at = At { off, len: buf.len() as u64 };
            let _alone = self.ranges.lock(off, off.saturating_add(at.len), true).await;
            // Memory that changes meanwhile (a guest's) must not reach the children in different states.
            let stable = IoBuf::zeroed(buf.len());
            stable.copy_from_buf(&buf);
            let results = each(cx, |s| cx.child_write(s, off, stable.clone(), flags)).await;
            self.written(cx, at, &results)
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let _alone = self.ranges.lock(off, off.saturating_add(len), true).await;
            let results = each(cx, |s| cx.child_write_zeroes(s, off, len, flags)).await;
            if flags.contains(ZeroFlags::NO_FALLBACK) && results.contains(&Err(Errno::NOTSUP)) {
                // One cannot do it fast, and failed by no fault of its own: whoever asked does it otherwise, with all.
                return Err(Errno::NOTSUP);
            }
            self.written(cx, At { off, len }, &results)
        })
    }

    fn flush_children<'a>(&'a self, cx: &'a Cx<'a>) -> Option<IoFuture<'a>> {
        Some(Box::pin(async move {
            let results = each(cx, |s| cx.child_flush(s)).await;
            self.errors(cx, QuorumOpType::Flush, At::NOWHERE, &results);
            outcome(&results, self.threshold)
        }))
    }

    fn child_list(&self, _cx: &Cx<'_>) -> Option<ChildList> {
        Some(ChildList { name: CHILDREN, role: role(self.rewrite) })
    }

    fn may_add_child(&self, cx: &Cx<'_>) -> Result<(), QError> {
        if self.verify {
            return Err(qerr!("Cannot add a child to a quorum in blkverify mode"));
        }
        if cx.slots().len() >= MAX_CHILDREN {
            return Err(qerr!("Too many children"));
        }
        Ok(())
    }

    fn fits_child(&self, cx: &Cx<'_>, child: &Cx<'_>) -> Result<(), QError> {
        let (have, len) = (self.len(cx), child.len());
        if len != have {
            let (name, node) = (child.node_name(), &self.reports.node);
            return Err(qerr!("Node '{name}' has {len} bytes, but the children of '{node}' have {have}"));
        }
        Ok(())
    }

    fn may_take_child(&self, cx: &Cx<'_>) -> Result<(), QError> {
        if cx.slots().len() <= self.threshold {
            let t = self.threshold;
            return Err(qerr!("The number of children cannot be lower than the vote threshold {t}"));
        }
        Ok(())
    }
}
