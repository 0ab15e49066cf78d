//! Giving an image another backing file while it shows what it showed.
//!
//! Where the image has nothing of its own, the old backing file's bytes show through. They are compared with the new one's,
//! and where they differ the image gets them. Extents first: what both show as zeroes, or have from a common image
//! below or from the same place of a file, is not read. Several pieces are in flight.
//!
//! A crash at any moment changes nothing that is seen: what is written is what shows there anyway, and is stable before the
//! header names the new backing file.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use api::block_core::ImageInfoSpecific;
use base::units::{align_down, align_up};
use base::{Errno, IoResult};
use block::driver::{BackingHint, WriteFlags, ZeroFlags};
use block::request::Status;
use block::{NodeId, Perm, Root};
use mem::IoBuf;
use qapi::{QError, qerr};
use rt::JoinHandle;

use crate::chain;
use crate::create::beside;
use crate::open::{Cache, OpenFlags, Opened, Source, open};
use crate::pool::Pool;

/// The longest piece that is compared at a time, bytes; longer only where a unit is. What was read should still be in the
/// processor's cache when it is compared and written.
const PIECE: u64 = 256 << 10;
/// Pieces in flight.
const PARALLEL: usize = 8;
/// A step of what is told, bytes.
const STEP: u64 = 2 << 20;
/// Where an old backing file ends inside such a step, bytes, the step's zeroes behind its end are copied with what it has.
const CHUNK: u64 = 2 << 20;
/// How much is looked at in one go, bytes.
const LOOK: u64 = 16 << 40;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Rebase {
    /// The new backing file, as the header is to name it; none, where this is empty or not given.
    pub backing: Option<String>,
    /// Its format.
    pub format: Option<String>,
    /// How the host's cache is used for it.
    pub cache: Cache,
    /// It may be written to meanwhile.
    pub force_share: bool,
    /// Only the header is changed, whatever the image shows then.
    pub unchecked: bool,
    /// What the image gets is compressed.
    pub compress: bool,
}

/// Gives an image another backing file. The image is open for writing, with its chain unless that is not looked at
/// ([`Rebase::unchecked`]). `tell` hears how far it is, of how much.
///
/// # Errors
/// The new backing file cannot be opened, or the header cannot name it; the storage's. The image shows what it showed.
pub async fn rebase(image: &Opened, what: &Rebase, tell: &mut dyn FnMut(u64, u64)) -> Result<(), QError> {
    let name = what.backing.as_deref().filter(|n| !n.is_empty());
    if let Some(f) = &what.format {
        crate::open::driver(f).map_err(|_| qerr!("Invalid format name: '{f}'"))?;
    }
    let g = image.graph.snapshot();
    let node = g
        .by_name(&image.node)
        .ok_or_else(|| qerr!("Cannot find device='' nor node-name='{}'", image.node))?;
    let cannot = |why: &str| {
        qerr!("Could not change the backing file to '{}': {why}", what.backing.as_deref().unwrap_or(""))
    };
    let possible = || match (name, &what.format) {
        (Some(_), None) => Err(cannot("backing format must be specified")),
        _ if node.ty.name == "parallels" => Err(qerr!("could not get block driver info")),
        _ if !node.ty.supports_backing => Err(cannot("Operation not supported")),
        _ => Ok(()),
    };
    if what.unchecked {
        possible()?;
    } else {
        if what.compress && !g.cx(node.id).is_some_and(|cx| cx.compresses()) {
            return Err(qerr!("Compression not supported for this file format"));
        }
        keep_what_shows(image, what, name, possible, tell).await?;
    }
    let hint = name.map(|n| BackingHint { filename: n.to_owned(), format: what.format.clone() });
    let done = image.graph.write_backing_hint(node.id, hint).await;
    done.map_err(|e| cannot(e.desc()))
}

/// Copies into the image what it would not show any more with the new backing file.
async fn keep_what_shows(
    image: &Opened,
    what: &Rebase,
    name: Option<&str>,
    possible: impl Fn() -> Result<(), QError>,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<(), QError> {
    let graph = &image.graph;
    let g = graph.snapshot();
    let chain = chain::below(graph, &image.node);
    let reader = async |node: NodeId| {
        let name = g.node(node).map(|n| n.name.clone()).unwrap_or_default();
        image.root(&name, Perm::CONSISTENT_READ, Perm::all()).await
    };
    let mut other = None;
    let mut new = (None, None);
    if let Some(name) = name {
        let over = g.by_name(&image.node).and_then(|n| chain::file_of(graph, n.id)).unwrap_or_default();
        let path = beside(&over, name);
        if let Some(at) = chain::find_path(graph, &image.node, &path) {
            let shared = if at == 0 { Shared::Same } else { Shared::Below(chain[at - 1]) };
            new = (Some(reader(chain[at]).await?), Some(shared));
        } else {
            let source = Source::file(&path, what.format.as_deref());
            let flags = OpenFlags {
                chain: true,
                cache: what.cache,
                force_share: what.force_share,
                ..OpenFlags::default()
            };
            let opened = open(&source, flags).await;
            let opened =
                opened.map_err(|e| e.prepend(&format!("Could not open new backing file '{name}'")))?;
            new.0 = Some(opened.reader().await?);
            other = Some(opened);
        }
    }
    let done = async {
        possible()?;
        let old = match chain.first() {
            Some(n) => Some(reader(*n).await?),
            None => None,
        };
        let (unit, cluster) = units(image);
        let plan = Plan {
            image: image.writer().await?,
            old,
            new: new.0,
            above: new.1,
            unit,
            compress: what.compress.then_some(cluster),
            memory: Pool::new(PIECE.max(cluster)),
        };
        copy_differences(&Rc::new(plan), tell).await.map_err(|e| qerr!("{e}"))
    };
    let done = done.await;
    if let Some(o) = other {
        o.close().await;
    }
    done
}

/// The least that an image can have of its own, and its clusters, bytes.
fn units(image: &Opened) -> (u64, u64) {
    let g = image.graph.snapshot();
    let info = g.by_name(&image.node).and_then(|n| g.cx(n.id)).map(|cx| cx.info()).unwrap_or_default();
    let cluster = info.cluster_size.filter(|c| c.is_power_of_two()).unwrap_or(512).max(512);
    let parts = match info.format_specific {
        Some(ImageInfoSpecific::Qcow2(q)) if q.extended_l2 == Some(true) => 32,
        _ => 1,
    };
    ((cluster / parts).max(512), cluster)
}

/// What is to be done.
struct Plan {
    /// The image.
    image: Arc<Root>,
    /// What shows through it now, if anything does.
    old: Option<Arc<Root>>,
    /// What is to show through it, if anything is.
    new: Option<Arc<Root>>,
    /// The new one is in the chain of the old one.
    above: Option<Shared>,
    /// The least that the image can have of its own, bytes: a power of two.
    unit: u64,
    /// What is written is compressed, in clusters of so many bytes.
    compress: Option<u64>,
    memory: Pool,
}

/// The new backing file is an image of the old one's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shared {
    /// It is the old one.
    Same,
    /// This image is the last one above it.
    Below(NodeId),
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Looking for extents.
    Look(Errno),
    /// Reading from the old backing file.
    Old(Errno),
    /// Reading from the new backing file.
    New(Errno),
    /// Writing to the image.
    Write(Errno),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Look(e) => write!(f, "error while reading image metadata: {e}"),
            Failure::Old(_) => write!(f, "error while reading from old backing file"),
            Failure::New(_) => write!(f, "error while reading from new backing file"),
            Failure::Write(e) => write!(f, "Error while writing to COW image: {e}"),
        }
    }
}

/// A piece to be compared.
#[derive(Clone, Copy, Debug)]
struct Piece {
    at: u64,
    len: u64,
    /// What is written at a time, bytes.
    unit: u64,
    compress: bool,
}

/// Copies what differs, and makes it stable. `tell` hears how far it is, of how much.
///
/// # Errors
/// The first failure; everything that was begun has ended then.
async fn copy_differences(plan: &Rc<Plan>, tell: &mut dyn FnMut(u64, u64)) -> Result<(), Failure> {
    let mut flying = VecDeque::new();
    let mut done = sweep(plan, &mut flying, tell).await;
    for task in flying {
        let ended: Result<(), Failure> = task.await;
        done = done.and(ended);
    }
    done?;
    plan.image.flush().await.map_err(Failure::Write)
}

async fn sweep(
    plan: &Rc<Plan>,
    flying: &mut VecDeque<JoinHandle<Result<(), Failure>>>,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<(), Failure> {
    let size = plan.image.len();
    let mut steps = Steps { all: size.div_ceil(STEP.min(size.max(1))), ..Steps::default() };
    let mut at = 0;
    while at < size {
        let (n, differs, kept) = look(plan, at, size).await.map_err(Failure::Look)?;
        let end = at + n;
        steps.go(n, kept, tell);
        if !differs {
            at = end;
            continue;
        }
        // Units that are touched are whole ones.
        let (mut pos, stop) = (align_down(at, plan.unit), up(end, plan.unit).min(size));
        while pos < stop {
            let piece = next_piece(plan, pos, stop, size).await.map_err(Failure::Look)?;
            while flying.len() >= PARALLEL {
                if let Some(task) = flying.pop_front() {
                    task.await?;
                }
            }
            pos += piece.len;
            let plan = plan.clone();
            flying.push_back(rt::spawn_local(async move { compare(&plan, piece).await }));
        }
        at = stop.max(end);
    }
    steps.go(0, true, tell);
    Ok(())
}

/// What is told: steps of what is gone through, of all that there are.
#[derive(Default)]
struct Steps {
    all: u64,
    done: u64,
    /// Bytes of the step that has begun.
    begun: u64,
}

impl Steps {
    /// The next `n` bytes; they are `kept` as they are without a look at either backing file.
    fn go(&mut self, mut n: u64, kept: bool, tell: &mut dyn FnMut(u64, u64)) {
        if kept {
            if std::mem::take(&mut self.begun) > 0 {
                self.step(tell);
            }
            return;
        }
        while self.begun + n >= STEP {
            n -= STEP - self.begun;
            self.begun = 0;
            self.step(tell);
        }
        self.begun += n;
    }

    fn step(&mut self, tell: &mut dyn FnMut(u64, u64)) {
        self.done += 1;
        tell(self.done.min(self.all), self.all);
    }
}

fn up(v: u64, unit: u64) -> u64 {
    align_up(v, unit).unwrap_or(v)
}

/// How far things are alike from `at` on, whether the old and the new backing file may show different bytes there, and whether
/// that is known without either.
async fn look(plan: &Plan, at: u64, size: u64) -> IoResult<(u64, bool, bool)> {
    let own = plan.image.map_own(at, LOOK.min(size - at)).await?;
    if own.allocated || own.compressed {
        return Ok((own.len, false, true));
    }
    let mut n = own.len;
    if let Some(shared) = plan.above {
        let Shared::Below(bottom) = shared else { return Ok((n, false, true)) };
        if let Some(old) = plan.old.as_ref().filter(|o| at < o.len()) {
            let st = old.map_down_to(at, n.min(old.len() - at), bottom).await?;
            n = n.min(st.len);
            if !(st.allocated || st.compressed || st.zero) {
                return Ok((n, false, true));
            }
        }
    }
    let old = shown(plan.old.as_ref(), at, n).await?;
    let new = shown(plan.new.as_ref(), at, old.len).await?;
    let alike = (old.zero && new.zero) || old.same_place(&new);
    Ok((new.len, !alike, false))
}

/// What a backing file shows from `at` on, `len` bytes at most; behind its end zeroes.
async fn shown(root: Option<&Arc<Root>>, at: u64, len: u64) -> IoResult<Status> {
    let Some(root) = root.filter(|r| at < r.len()) else {
        return Ok(Status { len, zero: true, ..Status::default() });
    };
    let st = root.map(at, len.min(root.len() - at)).await?;
    Ok(Status { len: st.len.min(len), ..st })
}

/// The piece from `pos` on, `stop` at most. Compressed are whole clusters of which the image has nothing.
async fn next_piece(plan: &Plan, pos: u64, stop: u64, size: u64) -> IoResult<Piece> {
    let end = stop.min(align_down(pos, PIECE).saturating_add(PIECE.max(plan.unit)));
    let plain = Piece { at: pos, len: end - pos, unit: plan.unit, compress: false };
    let Some(cluster) = plan.compress else { return Ok(plain) };
    let first = up(pos, cluster);
    if first > pos {
        return Ok(Piece { len: first.min(end) - pos, ..plain });
    }
    let most = PIECE.max(cluster).min(size - pos);
    let own = plan.image.map_own(pos, most).await?;
    let free = if own.allocated || own.compressed { 0 } else { own.len };
    let whole = if pos + free >= size { size - pos } else { align_down(free, cluster) };
    if whole > 0 {
        // As far as things are alike; a cluster that is compared needlessly is one that does not differ.
        let wanted = up(stop, cluster).min(size) - pos;
        return Ok(Piece { at: pos, len: whole.min(wanted), unit: cluster, compress: true });
    }
    Ok(Piece { len: (pos + cluster).min(end) - pos, ..plain })
}

/// What a backing file shows of a piece.
struct Shown {
    buf: IoBuf,
    /// What `buf` is a part of.
    whole: IoBuf,
}

/// Reads what a backing file shows; zeroes behind its end. `None`: all zeroes.
async fn read(plan: &Plan, root: Option<&Arc<Root>>, at: u64, len: u64) -> IoResult<Option<Shown>> {
    let Some(root) = root.filter(|r| at < r.len()) else { return Ok(None) };
    let have = len.min(root.len() - at);
    if let Ok(st) = root.map(at, have).await
        && st.zero
        && st.len >= have
    {
        return Ok(None);
    }
    let whole = plan.memory.take(len);
    let buf = whole.slice(0..len as usize);
    let done = root.read(at, buf.slice(0..have as usize)).await;
    buf.slice(have as usize..len as usize).fill(0);
    done.map(|()| Some(Shown { buf, whole }))
}

/// Whether two buffers of the same length hold the same; `None` holds zeroes.
fn same(a: Option<&IoBuf>, b: Option<&IoBuf>, range: Range<usize>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(one), None) | (None, Some(one)) => one.slice(range).is_zero(),
        (Some(a), Some(b)) => a.slice(range.clone()).first_difference(&b.slice(range)).is_none(),
    }
}

/// Compares a piece, and writes the units of it that differ.
async fn compare(plan: &Plan, piece: Piece) -> Result<(), Failure> {
    let old = read(plan, plan.old.as_ref(), piece.at, piece.len).await.map_err(Failure::Old)?;
    let new = read(plan, plan.new.as_ref(), piece.at, piece.len).await.map_err(Failure::New)?;
    let done = {
        let (old, new) = (old.as_ref().map(|s| &s.buf), new.as_ref().map(|s| &s.buf));
        write_differences(plan, piece, old, new).await
    };
    for shown in [old, new].into_iter().flatten() {
        plan.memory.give(shown.whole);
    }
    done.map_err(Failure::Write)
}

async fn write_differences(
    plan: &Plan,
    piece: Piece,
    old: Option<&IoBuf>,
    new: Option<&IoBuf>,
) -> IoResult<()> {
    let (len, unit) = (piece.len as usize, piece.unit as usize);
    let ranges = (0..len).step_by(unit.max(1)).map(|from| from..(from + unit).min(len));
    let mut differ: Option<Range<usize>> = None;
    for r in ranges {
        if same(old, new, r.clone()) {
            if let Some(run) = differ.take() {
                write(plan, piece, old, run).await?;
            }
        } else {
            differ = Some(differ.map_or(r.start, |d| d.start)..r.end);
        }
    }
    match differ {
        Some(run) => write(plan, piece, old, run).await,
        None => Ok(()),
    }
}

async fn write(plan: &Plan, piece: Piece, old: Option<&IoBuf>, run: Range<usize>) -> IoResult<()> {
    let at = piece.at + run.start as u64;
    match old.map(|o| o.slice(run.clone())) {
        Some(buf) if piece.compress => plan.image.write(at, buf, WriteFlags::COMPRESSED).await,
        Some(buf) => plan.image.write(at, buf, WriteFlags::empty()).await,
        // What the old backing file has is copied, zeroes too: as data, so that maps look as they do elsewhere.
        None if plan.old.as_ref().is_some_and(|o| align_down(at, CHUNK) < o.len()) => {
            plan.image.write(at, IoBuf::zeroed(run.len()), WriteFlags::empty()).await
        }
        None => plan.image.write_zeroes(at, run.len() as u64, ZeroFlags::empty()).await,
    }
}
