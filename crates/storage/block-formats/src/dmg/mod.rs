//! `dmg`: disk images of macOS, for reading: plain, zlib, bzip2 and LZFSE.

pub mod spec;

use self::spec::{Chunk, TRAILER, Trailer, kind};
use crate::Fault;
use crate::blockmap::{Io, clamp_len};
use crate::fields::be32;
use crate::readonly::may_open;
use base::{Errno, IoResult};
use block::driver::{
    ChildSlot, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, OpenCx, OpenFuture,
    default_child_perm,
};
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use std::io::Read;
use std::sync::Arc;

/// `dmg`.
pub static DMG: DriverType = DriverType {
    name: "dmg",
    kind: Kind::Format,
    children: crate::one_file,
    child_perm: default_child_perm,
    open,
    // Nothing at the beginning tells what it is: the name must.
    probe: Some(|_, name| if name.ends_with(".dmg") { 2 } else { 0 }),
    shows_places: false,
    ..DriverType::BASE
};

/// An open image.
struct Dmg {
    /// In the order of the disk.
    chunks: Vec<Chunk>,
    len: u64,
    /// The chunk that was unpacked last, by where it begins.
    unpacked: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

/// Finds the trailer: the last bytes of the file, or a little before them.
async fn trailer(io: &Io<'_>, file_len: u64) -> Result<Trailer, QError> {
    if file_len < TRAILER as u64 {
        return Err(QError::new("dmg file must be at least 512 bytes long"));
    }
    let from = file_len.saturating_sub(2 * TRAILER as u64 - 1);
    let bytes = io.read_vec(from, (file_len - from) as usize).await;
    let bytes = bytes.map_err(|_| QError::new("Failed while reading UDIF trailer"))?;
    let found = (0..=bytes.len() - TRAILER).rev().find_map(|at| Trailer::parse(&bytes[at..]));
    found.ok_or_else(|| QError::new("Could not locate UDIF trailer in dmg file"))
}

/// Adds the chunks of a table, if it is one.
fn add(chunks: &mut Vec<Chunk>, table: &[u8], data_offset: u64) -> Result<(), Fault> {
    if !table.starts_with(spec::MISH) {
        return Ok(());
    }
    let (new, strange) = spec::chunks(table, data_offset).ok_or(Fault::Plain(Errno::INVAL))?;
    if let Some(k) = strange {
        tracing::warn!(
            "Image contains chunks of unknown type {k:x}, accessing them will result in I/O errors"
        );
    }
    for (i, c) in new.iter().enumerate() {
        let packed = ![kind::ZERO, kind::RAW, kind::IGNORE].contains(&c.kind);
        if packed && c.len > spec::MAX_CHUNK {
            return Err(qerr!(
                "sector count {} for chunk {i} is larger than max ({})",
                c.len / 512,
                spec::MAX_CHUNK / 512
            )
            .into());
        }
        if packed && c.stored > spec::MAX_CHUNK {
            return Err(
                qerr!("length {} for chunk {i} is larger than max ({})", c.stored, spec::MAX_CHUNK).into()
            );
        }
        if c.kind == kind::RAW && c.stored < c.len {
            return Err(Fault::Plain(Errno::INVAL));
        }
    }
    chunks.extend(new);
    Ok(())
}

/// The tables of a property list: what stands between `<data>` and `</data>`.
fn list(chunks: &mut Vec<Chunk>, xml: &[u8], data_offset: u64) -> Result<(), Fault> {
    let find = |from: usize, what: &[u8]| {
        xml.get(from..)?.windows(what.len()).position(|w| w == what).map(|at| from + at)
    };
    let mut at = 0;
    while let Some(begin) = find(at, b"<data>").map(|b| b + b"<data>".len()) {
        let Some(end) = find(begin, b"</data>") else { return Err(Fault::Plain(Errno::INVAL)) };
        add(chunks, &spec::base64(&xml[begin..end]), data_offset)?;
        at = end;
    }
    Ok(())
}

/// The tables of a resource fork: each has its length in front.
fn fork(chunks: &mut Vec<Chunk>, fork: &[u8], data_offset: u64) -> Result<(), Fault> {
    let broken = || Fault::Plain(Errno::INVAL);
    let begin = be32(fork, 0).ok_or_else(broken)? as usize;
    let length = be32(fork, 8).ok_or_else(broken)? as usize;
    let end = begin.checked_add(length).filter(|e| *e <= fork.len()).ok_or_else(broken)?;
    let mut at = begin;
    while at + 4 <= end {
        let n = be32(fork, at).ok_or_else(broken)? as usize;
        let table = fork.get(at + 4..).and_then(|b| b.get(..n)).ok_or_else(broken)?;
        add(chunks, table, data_offset)?;
        at += 4 + n;
    }
    Ok(())
}

fn open(o: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async move {
        let done = read(&o).await.map_err(|f| f.of(&o.cx))?;
        Ok(Arc::new(done) as Arc<dyn Driver>)
    })
}

async fn read(o: &OpenCx<'_>) -> Result<Dmg, Fault> {
    may_open(&o.flags, "Image is read-only")?;
    let io = Io::file(&o.cx);
    let unread = |_: Errno| QError::new("Failed to get file size while reading UDIF trailer");
    let file_len = io.file_len().map_err(unread)?;
    let t = trailer(&io, file_len).await?;
    let part = async |(off, len): (u64, u64)| {
        let inside = off.checked_add(len).is_some_and(|e| e <= file_len);
        if !inside || len > spec::MAX_LIST {
            return Err(Fault::Plain(Errno::INVAL));
        }
        io.read_vec(off, len as usize).await.map_err(Fault::Plain)
    };
    let mut chunks = Vec::new();
    if t.fork.1 != 0 {
        fork(&mut chunks, &part(t.fork).await?, t.data_offset)?;
    } else if t.xml.1 != 0 {
        list(&mut chunks, &part(t.xml).await?, t.data_offset)?;
    } else {
        return Err(Fault::Plain(Errno::INVAL));
    }
    chunks.sort_by_key(|c| c.start);
    let len = t.sectors.checked_mul(512).filter(|n| *n <= block::MAX_OFFSET);
    let len = len.ok_or(Fault::Plain(Errno::INVAL))?;
    Ok(Dmg { chunks, len, unpacked: Mutex::new(None) })
}

impl Dmg {
    /// The chunk that has a byte, and how many of `len` bytes from there on it has; without one, how many nobody has.
    fn chunk(&self, off: u64, len: u64) -> (Option<&Chunk>, u64) {
        let next = self.chunks.partition_point(|c| c.start <= off);
        let before = next.checked_sub(1).and_then(|i| self.chunks.get(i));
        match before.filter(|c| off < c.start + c.len) {
            Some(c) => (Some(c), clamp_len(off, len, c.start + c.len)),
            None => (None, self.chunks.get(next).map_or(len, |c| clamp_len(off, len, c.start))),
        }
    }

    async fn plain(&self, io: &Io<'_>, c: &Chunk) -> IoResult<Arc<Vec<u8>>> {
        if let Some((_, plain)) = self.unpacked.lock().as_ref().filter(|u| u.0 == c.start) {
            return Ok(plain.clone());
        }
        if c.host + c.stored > io.file_len()? {
            return Err(Errno::IO);
        }
        let raw = io.read_vec(c.host, c.stored as usize).await?;
        let (kind, len) = (c.kind, c.len as usize);
        let plain = Arc::new(rt::unblock(move || unpack(kind, &raw, len)).await?);
        *self.unpacked.lock() = Some((c.start, plain.clone()));
        Ok(plain)
    }
}

/// Unpacks a chunk of `len` bytes.
fn unpack(kind: u32, raw: &[u8], len: usize) -> IoResult<Vec<u8>> {
    let mut out = vec![0; len];
    match kind {
        kind::ZLIB => {
            let mut d = flate2::read::ZlibDecoder::new(raw);
            d.read_exact(&mut out).map_err(|_| Errno::IO)?;
        }
        kind::BZIP2 => {
            let mut d = bzip2::read::BzDecoder::new(raw);
            d.read_exact(&mut out).map_err(|_| Errno::IO)?;
        }
        kind::LZFSE => {
            let mut d = lzfse_rust::LzfseRingDecoder::default();
            d.reader_bytes(raw).read_exact(&mut out).map_err(|_| Errno::IO)?;
        }
        _ => return Err(Errno::IO),
    }
    Ok(out)
}

impl Driver for Dmg {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.len
    }

    fn locate<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            let (chunk, n) = self.chunk(off, len);
            let kind = match chunk {
                // A chunk of a kind that nobody knows, or a hole: reading tells.
                None => ExtentKind::Own { offset: None, zero: false },
                Some(c) => match c.kind {
                    kind::ZERO | kind::IGNORE => ExtentKind::Zero { offset: None },
                    kind::RAW => {
                        ExtentKind::Child { slot: ChildSlot::File, offset: c.host + (off - c.start) }
                    }
                    _ => ExtentKind::Compressed,
                },
            };
            Ok(Extent { len: n, kind, eof: off + n >= self.len })
        })
    }

    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            let io = Io::file(cx);
            let mut done = 0;
            while done < buf.len() {
                let at = off + done as u64;
                let (chunk, n) = self.chunk(at, (buf.len() - done) as u64);
                let c = chunk.ok_or(Errno::IO)?;
                let part = buf.slice(done..done + n as usize);
                let within = at - c.start;
                match c.kind {
                    kind::ZERO | kind::IGNORE => part.fill(0),
                    kind::RAW => io.read(c.host + within, part).await?,
                    _ => {
                        let plain = self.plain(&io, c).await?;
                        let from = within as usize;
                        part.copy_from(0, plain.get(from..from + n as usize).ok_or(Errno::IO)?);
                    }
                }
                done += n as usize;
            }
            Ok(())
        })
    }

    fn forced_read_only(&self) -> bool {
        true
    }
}
