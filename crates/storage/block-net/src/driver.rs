//! The driver `nbd`.

use crate::conn::{Failed, Target};
use crate::lanes::{Lanes, MOST};
use crate::link::Link;
use api::block_core::{BlockdevDriverOptions, BlockdevOptionsNbd};
use api::sockets::SocketAddress;
use base::{Errno, IoResult};
use block::driver::{
    Caps, CtlFuture, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits, NodePlan,
    NothingStaged, OpenCx, OpenFuture, Prealloc, Staged, Support, WriteFlags, ZeroFlags, default_child_perm,
    no_children,
};
use io::tls::{Credentials, Role};
use mem::IoBuf;
use nbd::message::{Mode, Request};
use nbd::spec::*;
use qapi::{QError, qerr};
use qom::ObjectTree;
use std::sync::Arc;
use std::time::Duration;

/// `nbd`.
pub static NBD: DriverType = DriverType {
    name: "nbd",
    kind: Kind::Protocol,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: true,
    file_names: Some(crate::name::NAMES),
    children: no_children,
    child_perm: default_child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

/// The longest zero-write or discard that is sent at once without extended headers, bytes.
const MAX_32: u64 = u32::MAX as u64 & !((1 << 16) - 1);

struct Nbd {
    link: Arc<Link>,
    /// What a truncation that failed could not do.
    refused: parking_lot::Mutex<Option<String>>,
    lanes: Arc<Lanes>,
    filename: Option<String>,
    read_only: bool,
    /// Block status is that of another context: what is set in it shows as neither data nor zeroes.
    bitmap: bool,
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let BlockdevDriverOptions::Nbd(options) = &o.options.driver else {
            return Err(QError::new("The options are not those of an NBD client"));
        };
        let connections = options.x_connections.unwrap_or(1);
        if !(1..=MOST).contains(&connections) {
            return Err(qerr!("x-connections must be between 1 and {MOST}"));
        }
        let addr = nbd::addr::to_io(&options.server)?;
        let seconds = |s: Option<u32>| Duration::from_secs(s.unwrap_or(0).into());
        let export = options.export.as_deref().unwrap_or("");
        let tls = tls(options, o.objects.as_deref())?;
        let keep_alive = matches!(&options.server, SocketAddress::Inet(a) if a.keep_alive == Some(true));
        let context = options.x_dirty_bitmap.clone();
        let target = Target { addr, export: export.to_owned(), context, tls, keep_alive };
        let link = Link::open(target, seconds(options.open_timeout), seconds(options.reconnect_delay));
        let link = link.await.map_err(|e| match e {
            Failed::Reach(text) => QError::new(text),
            Failed::Refused(r) => match r.hint {
                Some(hint) => QError::new(r.text).with_hint(hint),
                None => QError::new(r.text),
            },
        })?;
        if let Some(name) = options.x_dirty_bitmap.as_ref().filter(|_| link.offer.allocation.is_none()) {
            link.close().await;
            tracing::debug!("requested x-dirty-bitmap {name} not found");
            return Err(qerr!("Could not open image: {}", Errno::INVAL));
        }
        let read_only = link.offer.flags & TF_READ_ONLY != 0;
        if read_only && !o.flags.read_only && !o.flags.auto_read_only {
            link.close().await;
            return Err(qerr!("Could not open image: {}", Errno::ACCES));
        }
        let bitmap = options.x_dirty_bitmap.is_some();
        let lanes = Lanes::new(link.clone(), connections);
        Ok(Arc::new(Nbd {
            link,
            refused: parking_lot::Mutex::default(),
            lanes,
            filename: filename(options),
            read_only,
            bitmap,
        }) as Arc<dyn Driver>)
    })
}

/// The credentials, and the name that the server must have.
fn tls(
    o: &BlockdevOptionsNbd,
    objects: Option<&ObjectTree>,
) -> Result<Option<(Arc<Credentials>, String)>, QError> {
    let Some(id) = &o.tls_creds else { return Ok(None) };
    let objects = objects.ok_or_else(|| qerr!("No TLS credentials with id '{id}'"))?;
    let creds = objects.tls(id, Role::Client)?;
    let host = match (&o.tls_hostname, &o.server) {
        (Some(h), _) => h.clone(),
        (None, SocketAddress::Inet(a)) => a.host.clone(),
        _ => String::new(),
    };
    if host.is_empty() && creds.kind() == io::tls::Kind::X509 {
        return Err(qerr!("The server's certificate is checked for its name: give 'tls-hostname'"));
    }
    Ok(Some((creds, host)))
}

/// The node's name as a URI (section "NBD URI"), where that says all of the address.
fn filename(o: &BlockdevOptionsNbd) -> Option<String> {
    let export = o.export.as_deref().unwrap_or("");
    let path = if export.is_empty() { String::new() } else { format!("/{export}") };
    match &o.server {
        SocketAddress::Unix(a) if a.r#abstract.is_some() || a.tight.is_some() => None,
        SocketAddress::Unix(a) => Some(format!("nbd+unix://{path}?socket={}", a.path)),
        SocketAddress::Inet(a) if a.ipv4.is_some() || a.ipv6.is_some() || a.to.is_some() => None,
        SocketAddress::Inet(a) => Some(format!("nbd://{}:{}{path}", a.host, a.port)),
        SocketAddress::Vsock(_) | SocketAddress::Fd(_) => None,
    }
}

/// A node that never became part of the graph is not closed.
impl Drop for Nbd {
    fn drop(&mut self) {
        self.lanes.abandon();
    }
}

impl Nbd {
    fn has(&self, flag: u16) -> bool {
        self.link.offer.flags & flag != 0
    }

    fn support(&self, flag: u16, otherwise: Support) -> Support {
        if self.has(flag) { Support::Native } else { otherwise }
    }

    async fn send(&self, kind: u16, flags: u16, offset: u64, len: u64) -> IoResult<()> {
        let req = Request { kind, flags, offset, len, cookie: 0 };
        self.lanes.request(req, IoBuf::new()).await.map(drop)
    }

    async fn find(&self, off: u64, len: u64) -> IoResult<Extent> {
        let size = self.link.offer.size;
        let kind = |zero: bool| ExtentKind::Own { offset: Some(off), zero };
        let all = Extent { len, kind: kind(false), eof: off + len >= size };
        if self.link.offer.allocation.is_none() {
            return Ok(all);
        }
        let most = if self.link.offer.mode == Mode::Extended { u64::MAX } else { MAX_32 };
        // What is asked for must be whole blocks; it starts with one.
        let min = u64::from(self.link.offer.min_block);
        let start = off / min * min;
        let len_up = (off + len - start).div_ceil(min) * min;
        let req = Request {
            kind: CMD_BLOCK_STATUS,
            flags: CMD_FLAG_REQ_ONE,
            offset: start,
            len: len_up.min(most).min(size - start),
            cookie: 0,
        };
        let extents = self.lanes.request(req, IoBuf::new()).await?;
        let Some(first) = extents.first().filter(|e| e.len > off - start) else { return Ok(all) };
        let len = (first.len - (off - start)).min(len);
        let zero = first.flags & u64::from(STATE_ZERO) != 0;
        let hole = first.flags & u64::from(STATE_HOLE) != 0;
        let kind = match (zero, hole) {
            (true, false) => ExtentKind::OwnZeroes { offset: off },
            (false, true) if self.bitmap => ExtentKind::Hole,
            _ => kind(zero),
        };
        Ok(Extent { len, kind, eof: off + len >= size })
    }
}

impl Driver for Nbd {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.link.offer.size
    }

    fn limits(&self, _cx: &Cx<'_>) -> Limits {
        let offer = &self.link.offer;
        let most = if offer.mode == Mode::Extended { 0 } else { MAX_32 };
        Limits {
            request_alignment: offer.min_block,
            max_transfer: offer.max_block.into(),
            opt_transfer: offer.preferred.into(),
            max_write_zeroes: most,
            max_discard: most,
            ..Limits::default()
        }
    }

    fn caps(&self, _cx: &Cx<'_>) -> Caps {
        Caps {
            fua: self.support(TF_SEND_FUA, Support::Emulate),
            write_zeroes: self.support(TF_SEND_WRITE_ZEROES, Support::Emulate),
            discard: self.support(TF_SEND_TRIM, Support::None),
        }
    }

    fn locate<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(self.find(off, len))
    }

    fn read<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            let size = self.link.offer.size;
            let inside = size.saturating_sub(off).min(buf.len() as u64) as usize;
            let (buf, beyond) = buf.split_at(inside);
            beyond.fill(0);
            if buf.is_empty() {
                return Ok(());
            }
            let req = Request { kind: CMD_READ, flags: 0, offset: off, len: buf.len() as u64, cookie: 0 };
            self.lanes.request(req, buf).await.map(drop)
        })
    }

    fn write<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            let fua = if flags.contains(WriteFlags::FUA) { CMD_FLAG_FUA } else { 0 };
            let req = Request { kind: CMD_WRITE, flags: fua, offset: off, len: buf.len() as u64, cookie: 0 };
            if off.checked_add(req.len).is_none_or(|end| end > self.link.offer.size) {
                return Err(Errno::NOSPC);
            }
            self.lanes.request(req, buf).await.map(drop)
        })
    }

    fn write_zeroes<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        let mut wire = 0;
        if flags.contains(ZeroFlags::FUA) && self.has(TF_SEND_FUA) {
            wire |= CMD_FLAG_FUA;
        }
        if !flags.contains(ZeroFlags::MAY_UNMAP) {
            wire |= CMD_FLAG_NO_HOLE;
        }
        if flags.contains(ZeroFlags::NO_FALLBACK) {
            if !self.has(TF_SEND_FAST_ZERO) {
                return Box::pin(std::future::ready(Err(Errno::NOTSUP)));
            }
            wire |= CMD_FLAG_FAST_ZERO;
        }
        Box::pin(self.send(CMD_WRITE_ZEROES, wire, off, len))
    }

    fn discard<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(self.send(CMD_TRIM, 0, off, len))
    }

    fn truncate<'a>(&'a self, _cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        // An export keeps its length, which may be more than is asked for.
        let size = self.link.offer.size;
        let (done, text) = match (exact, prealloc) {
            (_, p) if p != Prealloc::Off => (Err(Errno::NOTSUP), None),
            (true, _) if len != size => (Err(Errno::NOTSUP), Some("Cannot resize NBD nodes")),
            _ if len > size => (Err(Errno::INVAL), Some("Cannot grow NBD nodes")),
            _ => (Ok(()), None),
        };
        *self.refused.lock() = text.map(str::to_owned);
        Box::pin(std::future::ready(done))
    }

    fn give_up(&self) {
        self.link.give_up();
    }

    fn truncate_failure(&self) -> Option<String> {
        self.refused.lock().take()
    }

    fn flush<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(
            async move { if self.has(TF_SEND_FLUSH) { self.send(CMD_FLUSH, 0, 0, 0).await } else { Ok(()) } },
        )
    }

    fn stage<'a>(&'a self, _cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            if self.read_only && !next.flags.read_only {
                return Err(qerr!("Can't reopen read-only NBD mount as read/write"));
            }
            Ok(Box::new(NothingStaged) as Box<dyn Staged>)
        })
    }

    fn close<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move {
            self.lanes.close().await;
            Ok(())
        })
    }

    fn filename(&self) -> Option<String> {
        self.filename.clone()
    }

    fn forced_read_only(&self) -> bool {
        self.read_only
    }
}
