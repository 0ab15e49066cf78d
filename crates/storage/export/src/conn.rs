//! The transmission phase with one client.
//!
//! One task reads requests, each is a task of its own, and one task writes answers, many at a time. What a request needs
//! of memory is taken from the connection's [`BUDGET`] before it is begun and given back when its answer was written; so a
//! client that does not read its answers is not read from either. Reads and writes longer than a [`PIECE`] are done in
//! pieces.

use crate::input::Input;
use crate::nbd_export::{Member, NbdExport};
use base::{Errno, IoResult};
use block::driver::{WriteFlags, ZeroFlags};
use io::Stream;
use mem::IoBuf;
use nbd::message::{Mode, Request, put_chunk, put_done, put_refused, put_simple, request_name};
use nbd::server::Contexts;
use nbd::spec::*;
use rt::sync::{Mutex, Notify, Semaphore};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of memory that the requests of one client may take.
const BUDGET: usize = 8 << 20;
/// What even the smallest request is counted as: so many are in flight at most.
const SMALLEST: usize = 32 << 10;
/// Longest read or write of the node, bytes.
const PIECE: usize = 1 << 20;

pub(crate) struct Output {
    pub(crate) bytes: Vec<u8>,
    /// What is to be given back to the budget when these bytes are written.
    cost: usize,
}

pub(crate) struct Conn {
    stream: Stream,
    pub(crate) export: Arc<NbdExport>,
    pub(crate) mode: Mode,
    pub(crate) contexts: Contexts,
    budget: Semaphore,
    pub(crate) out: RefCell<Output>,
    /// There is something to write, or everything is over.
    wake: Notify,
    /// Something was written.
    written: Notify,
    /// Held while an answer is put together that is longer than a piece.
    pub(crate) line: Mutex<()>,
    in_flight: Cell<usize>,
    ended: Notify,
    /// No request comes any more.
    closing: Cell<bool>,
    /// The client is gone: answers are thrown away.
    pub(crate) broken: Cell<bool>,
}

/// Serves a client until it goes or is disconnected, and all its requests have ended.
pub(crate) async fn serve(member: Member, stream: Stream, mode: Mode, contexts: Contexts) {
    let conn = Rc::new(Conn {
        stream: stream.clone(),
        export: member.export.clone(),
        mode,
        contexts,
        budget: Semaphore::new(BUDGET),
        out: RefCell::new(Output { bytes: Vec::new(), cost: 0 }),
        wake: Notify::new(),
        written: Notify::new(),
        line: Mutex::new(()),
        in_flight: Cell::new(0),
        ended: Notify::new(),
        closing: Cell::new(false),
        broken: Cell::new(false),
    });
    let writer = rt::spawn_local(conn.clone().write());
    let mut input = Input::new(stream.clone());
    let end = conn.clone().read(&mut input).await;
    tracing::debug!(export = %conn.export.name, "a client leaves: {end:?}");
    conn.closing.set(true);
    loop {
        let ended = conn.ended.notified();
        if conn.in_flight.get() == 0 {
            break;
        }
        ended.await;
    }
    conn.wake.notify_one();
    writer.await;
    stream.shutdown();
    drop(member);
}

impl Conn {
    /// Reads requests and begins them.
    async fn read(self: Rc<Self>, input: &mut Input) -> IoResult<()> {
        loop {
            let head = input.take(Request::header_len(self.mode)).await?;
            let Ok(mut req) = Request::parse(self.mode, head) else { return Err(Errno::PROTO) };
            if req.kind == CMD_DISC {
                return Ok(());
            }
            let mut payload = req.payload(self.mode);
            if payload > u64::from(u32::MAX) {
                // Too much to read over.
                return Err(Errno::PROTO);
            }
            let cost = match req.kind {
                CMD_READ => req.len,
                CMD_CACHE => PIECE as u64,
                _ => payload,
            };
            let cost = (cost.min(PIECE as u64) as usize).max(SMALLEST);
            self.budget.acquire_many(cost).await.forget();
            if self.broken.get() {
                return Err(Errno::PIPE);
            }
            let mut contexts = None;
            if req.kind == CMD_BLOCK_STATUS && payload > 0 && self.contexts.is_empty() {
                // There is nothing to choose from, as the check says.
                input.skip(payload).await?;
                payload = 0;
            } else if req.kind == CMD_BLOCK_STATUS && payload > 0 {
                let Some((len, some)) = self.chosen(payload, input).await? else {
                    self.refuse(&req, Errno::INVAL, "CMD_BLOCK_STATUS payload not valid", cost).await;
                    continue;
                };
                (req.len, payload, contexts) = (len, 0, Some(some));
            }
            if let Err((e, text)) = self.check(&req) {
                input.skip(payload).await?;
                self.refuse(&req, e, &text, cost).await;
                continue;
            }
            if payload > PIECE as u64 {
                let done = self.long_write(&req, input).await?;
                self.done(&req, done, cost).await;
                continue;
            }
            let data = IoBuf::zeroed(payload as usize);
            input.fill(&data).await?;
            self.in_flight.set(self.in_flight.get() + 1);
            let me = self.clone();
            drop(rt::spawn_local(async move {
                me.handle(&req, data, contexts, cost).await;
                me.in_flight.set(me.in_flight.get() - 1);
                if me.in_flight.get() == 0 {
                    me.ended.notify_all();
                }
            }));
        }
    }

    /// The payload of a request for block status: the length that is asked about, and the contexts that it chooses. `None`,
    /// after the payload was read, where it makes no sense.
    async fn chosen(&self, payload: u64, input: &mut Input) -> IoResult<Option<(u64, Contexts)>> {
        let most = 8 + 4 * (2 + self.contexts.bitmaps.len() as u64);
        if payload < 12 || payload > most || !payload.is_multiple_of(4) {
            input.skip(payload).await?;
            return Ok(None);
        }
        let mut bytes = Vec::new();
        for _ in 0..payload / 4 {
            bytes.extend_from_slice(input.take(4).await?);
        }
        let (len, ids) = bytes.split_at(8);
        let number = |b: &[u8]| b.iter().fold(0, |n, b| n << 8 | u64::from(*b));
        let chosen = self.contexts.only(ids.chunks_exact(4).map(|id| number(id) as u32));
        Ok(chosen.map(|c| (number(len), c)))
    }

    /// What can be said of a request before it is begun (section "Request types"), and how people are told.
    fn check(&self, req: &Request) -> Result<(), (Errno, String)> {
        let invalid = |text: String| Err((Errno::INVAL, text));
        let structured = if self.mode == Mode::Simple { 0 } else { CMD_FLAG_DF };
        let flags = match req.kind {
            CMD_READ => structured,
            CMD_WRITE if self.mode == Mode::Extended => CMD_FLAG_PAYLOAD_LEN,
            CMD_WRITE | CMD_TRIM | CMD_FLUSH | CMD_CACHE => 0,
            CMD_WRITE_ZEROES => CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO,
            CMD_BLOCK_STATUS if self.mode == Mode::Extended => CMD_FLAG_REQ_ONE | CMD_FLAG_PAYLOAD_LEN,
            CMD_BLOCK_STATUS => CMD_FLAG_REQ_ONE,
            _ => 0,
        };
        let writes = matches!(req.kind, CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES);
        if writes && !self.export.writable {
            return Err((Errno::PERM, "Export is read-only".into()));
        }
        if matches!(req.kind, CMD_READ | CMD_WRITE) && req.len > MAX_PAYLOAD.into() {
            return invalid(format!("len ({}) is larger than max len ({MAX_PAYLOAD})", req.len));
        }
        let size = self.export.root.len();
        if req.offset.checked_add(req.len).is_none_or(|end| end > size) {
            let text = format!("operation past EOF; From: {}, Len: {}, Size: {size}", req.offset, req.len);
            let grows = matches!(req.kind, CMD_WRITE | CMD_WRITE_ZEROES);
            return Err((if grows { Errno::NOSPC } else { Errno::INVAL }, text));
        }
        // That one may be set in every request.
        if req.flags & !(flags | CMD_FLAG_FUA) != 0 {
            let name = request_name(req.kind).unwrap_or("<unknown>");
            return invalid(format!("unsupported flags for command {name} (got {:#x})", req.flags));
        }
        match req.kind {
            CMD_BLOCK_STATUS if req.len == 0 => invalid("need non-zero length".into()),
            CMD_BLOCK_STATUS if self.contexts.is_empty() => invalid("CMD_BLOCK_STATUS not negotiated".into()),
            CMD_READ | CMD_WRITE | CMD_WRITE_ZEROES | CMD_TRIM | CMD_FLUSH | CMD_CACHE | CMD_BLOCK_STATUS => {
                Ok(())
            }
            kind => invalid(format!("invalid request type ({kind}) received")),
        }
    }

    async fn handle(&self, req: &Request, data: IoBuf, contexts: Option<Contexts>, cost: usize) {
        let root = &self.export.root;
        let fua = req.flags & CMD_FLAG_FUA != 0 || self.export.through;
        let done = match req.kind {
            CMD_READ => return self.do_read(req, cost).await,
            CMD_BLOCK_STATUS => {
                return self.do_status(req, contexts.as_ref().unwrap_or(&self.contexts), cost).await;
            }
            CMD_WRITE => root.write(req.offset, data, self.write_flags(req)).await,
            CMD_FLUSH => root.flush().await,
            CMD_WRITE_ZEROES => {
                let mut flags = ZeroFlags::empty();
                flags.set(ZeroFlags::FUA, fua);
                flags.set(ZeroFlags::MAY_UNMAP, req.flags & CMD_FLAG_NO_HOLE == 0);
                flags.set(ZeroFlags::NO_FALLBACK, req.flags & CMD_FLAG_FAST_ZERO != 0);
                root.write_zeroes(req.offset, req.len, flags).await
            }
            CMD_TRIM => match root.discard(req.offset, req.len).await {
                Ok(()) if fua => root.flush().await,
                r => r,
            },
            _ => self.do_cache(req).await,
        };
        self.done(req, done, cost).await;
    }

    fn write_flags(&self, req: &Request) -> WriteFlags {
        let fua = req.flags & CMD_FLAG_FUA != 0 || self.export.through;
        if fua { WriteFlags::FUA } else { WriteFlags::empty() }
    }

    /// A write in pieces; what the client sends is read to its end in any case. The outer error is the connection's.
    async fn long_write(&self, req: &Request, input: &mut Input) -> IoResult<IoResult<()>> {
        let (mut off, mut left) = (req.offset, req.len);
        while left > 0 {
            let n = left.min(PIECE as u64);
            let piece = IoBuf::zeroed(n as usize);
            input.fill(&piece).await?;
            (off, left) = (off + n, left - n);
            if let Err(e) = self.export.root.write(off - n, piece, self.write_flags(req)).await {
                input.skip(left).await?;
                return Ok(Err(e));
            }
        }
        Ok(Ok(()))
    }

    /// Reads and forgets: what is below has it in its caches then.
    async fn do_cache(&self, req: &Request) -> IoResult<()> {
        let (mut off, end) = (req.offset, req.offset + req.len);
        while off < end && !self.broken.get() && !self.closing.get() {
            let n = (end - off).min(PIECE as u64);
            self.export.root.read(off, IoBuf::zeroed(n as usize)).await?;
            off += n;
        }
        Ok(())
    }

    async fn do_read(&self, req: &Request, cost: usize) {
        let len = req.len as usize;
        let first = IoBuf::zeroed(len.min(PIECE));
        if let Err(e) = self.export.root.read(req.offset, first.clone()).await {
            return self.done(req, Err(e), cost).await;
        }
        let line = self.line.lock().await;
        {
            let out = &mut self.out.borrow_mut().bytes;
            match self.mode {
                Mode::Simple => put_simple(out, req.cookie, 0),
                m if len == 0 => put_chunk(out, m, REPLY_FLAG_DONE, REPLY_NONE, req, 0),
                m => {
                    put_chunk(out, m, REPLY_FLAG_DONE, REPLY_OFFSET_DATA, req, 8 + len);
                    out.extend(req.offset.to_be_bytes());
                }
            }
            append(out, &first);
        }
        let mut done = first.len();
        drop(first);
        while done < len {
            self.drained().await;
            let piece = IoBuf::zeroed((len - done).min(PIECE));
            if self.broken.get() {
                break;
            }
            if self.export.root.read(req.offset + done as u64, piece.clone()).await.is_err() {
                // It was promised already; there is no other way to take that back.
                self.stream.shutdown();
                break;
            }
            append(&mut self.out.borrow_mut().bytes, &piece);
            done += piece.len();
        }
        drop(line);
        self.push(cost);
    }

    /// Answers a request that gives nothing back.
    pub(crate) async fn done(&self, req: &Request, result: IoResult<()>, cost: usize) {
        let line = self.line.lock().await;
        put_done(&mut self.out.borrow_mut().bytes, self.mode, req, result);
        drop(line);
        self.push(cost);
    }

    /// Answers a request that was not begun.
    async fn refuse(&self, req: &Request, error: Errno, text: &str, cost: usize) {
        let line = self.line.lock().await;
        put_refused(&mut self.out.borrow_mut().bytes, self.mode, req, error, text);
        drop(line);
        self.push(cost);
    }

    /// What was put together may be written; `cost` is given back then.
    pub(crate) fn push(&self, cost: usize) {
        self.out.borrow_mut().cost += cost;
        self.wake.notify_one();
    }

    /// Waits until all that there was to write is written, or thrown away.
    async fn drained(&self) {
        self.wake.notify_one();
        loop {
            let written = self.written.notified();
            if self.broken.get() || self.out.borrow().bytes.is_empty() {
                return;
            }
            written.await;
        }
    }

    /// Writes answers until no more come.
    async fn write(self: Rc<Self>) {
        let mut spare = Vec::new();
        loop {
            // Looked at before anything is taken: the memory of the answers before serves those to come.
            let idle = {
                let out = self.out.borrow();
                out.bytes.is_empty() && out.cost == 0
            };
            if idle {
                if self.closing.get() && self.in_flight.get() == 0 {
                    return;
                }
                self.wake.notified().await;
                continue;
            }
            let (bytes, cost) = {
                let mut out = self.out.borrow_mut();
                (std::mem::replace(&mut out.bytes, std::mem::take(&mut spare)), std::mem::take(&mut out.cost))
            };
            if !self.broken.get() && self.stream.write_all(&bytes).await.is_err() {
                self.broken.set(true);
                // Wakes the reader.
                self.stream.shutdown();
            }
            self.budget.add(cost);
            self.written.notify_all();
            spare = bytes;
            spare.clear();
            if spare.capacity() > BUDGET {
                spare = Vec::new();
            }
        }
    }
}

fn append(out: &mut Vec<u8>, data: &IoBuf) {
    let at = out.len();
    out.resize(at + data.len(), 0);
    data.copy_to(0, &mut out[at..]);
}
