//! Commands that move bytes.

use super::letters::{Letters, letters};
use super::number::{self, MAX_REQUEST};
use super::session::{Done, Session};
use super::table::Words;
use super::text::{Report, dump};
use base::{Errno, IoResult};
use block::Root;
use block::driver::{Prealloc, WriteFlags, ZeroFlags};
use mem::IoBuf;
use std::time::Duration;

/// What is written where nothing else is asked for.
pub(super) const FILL: u8 = 0xcd;

/// How a request is told of.
#[derive(Clone, Copy)]
struct Telling {
    quiet: bool,
    machine: bool,
    show: bool,
}

impl Telling {
    fn of(l: &Letters) -> Telling {
        Telling { quiet: l.has('q'), machine: l.has('C'), show: l.has('v') }
    }

    fn report(self, verb: &str, offset: u64, bytes: u64, time: Duration) -> String {
        if self.quiet {
            return String::new();
        }
        Report { verb, offset, bytes, time, machine: self.machine }.text()
    }
}

fn options(s: &Session, w: &Words<'_>, known: &str) -> Result<Letters, Done> {
    letters(known, w.words).map_err(|e| s.wrong(w, &e))
}

/// The byte of `-P`.
fn pattern(s: &Session, l: &Letters) -> Result<Option<u8>, Done> {
    l.value('P').map(|p| number::pattern(p).map_err(|e| s.fail(&e))).transpose()
}

/// What must be found where.
#[derive(Clone, Copy)]
struct Expected {
    byte: u8,
    from: u64,
    len: u64,
}

impl Expected {
    /// The complaint, if something else is there. The request began at `offset`.
    fn complaint(self, bytes: &[u8], offset: u64) -> Option<String> {
        let part = &bytes[self.from as usize..(self.from + self.len) as usize];
        part.iter().any(|b| *b != self.byte).then(|| {
            format!("Pattern verification failed at offset {}, {} bytes", offset + self.from, self.len)
        })
    }
}

/// Whether a request fits the image. Asked before memory is taken.
fn fits(root: &Root, offset: u64, len: u64) -> IoResult<()> {
    if !root.has_medium() {
        return Err(Errno::NOMEDIUM);
    }
    match offset.checked_add(len) {
        Some(end) if end <= root.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// Reads; answers the bytes and how long it took.
async fn fetch(root: &Root, offset: u64, len: u64) -> IoResult<(IoBuf, Duration)> {
    let begun = rt::now();
    fits(root, offset, len)?;
    let buf = IoBuf::zeroed(len as usize);
    root.read(offset, buf.clone()).await?;
    Ok((buf, rt::now() - begun))
}

/// The same of the state of a virtual machine.
async fn fetch_state(root: &Root, offset: u64, len: u64) -> IoResult<(IoBuf, Duration)> {
    let begun = rt::now();
    let buf = IoBuf::zeroed(len as usize);
    root.read_vm_state(offset, buf.clone()).await?;
    Ok((buf, rt::now() - begun))
}

/// The text about a finished read, and whether all was as expected.
fn tell_read(
    buf: &IoBuf,
    offset: u64,
    time: Duration,
    expected: Option<Expected>,
    t: Telling,
) -> (String, bool) {
    let mut text = String::new();
    let wrong = expected.and_then(|e| e.complaint(&buf.to_vec(), offset));
    if let Some(w) = &wrong {
        text.push_str(&format!("{w}\n"));
    }
    if t.show && !t.quiet {
        text.push_str(&dump(&buf.to_vec(), offset));
    }
    text.push_str(&t.report("read", offset, buf.len() as u64, time));
    (text, wrong.is_none())
}

/// Whether both numbers are whole sectors, where only those will do.
fn sectors(s: &Session, offset: u64, count: u64) -> Result<(), Done> {
    for (n, name) in [(offset, "offset"), (count, "count")] {
        if !n.is_multiple_of(512) {
            return Err(s.fail(&format!("{n} is not a sector-aligned value for '{name}'")));
        }
    }
    Ok(())
}

pub(super) async fn read(s: &mut Session, w: Words<'_>) -> Done {
    read_inner(s, w).await.unwrap_or_else(|failed| failed)
}

async fn read_inner(s: &Session, w: Words<'_>) -> Result<Done, Done> {
    let l = options(s, &w, "bCl:pP:qrs:v")?;
    let byte = pattern(s, &l)?;
    let from = l.value('s').map(|t| s.size(t)).transpose()?;
    let len = l.value('l').map(|t| s.size(t)).transpose()?;
    let [offset, count] = &l.rest[..] else { return Err(s.usage(w.command)) };
    let (offset, given) = (s.size(offset)?, count);
    let count = s.size(given)?;
    if count > MAX_REQUEST {
        return Err(s.fail(&format!("length cannot exceed {MAX_REQUEST}, given {given}")));
    }
    if byte.is_none() && (from.is_some() || len.is_some()) {
        return Err(s.usage(w.command));
    }
    let from = from.unwrap_or(0);
    let len = len.or_else(|| count.checked_sub(from));
    let inside = len.filter(|len| from.checked_add(*len).is_some_and(|end| end <= count));
    let Some(len) = inside else { return Err(s.fail("pattern verification range exceeds end of read data")) };
    let expected = byte.map(|byte| Expected { byte, from, len });
    let failed = |e: Errno| s.fail(&format!("read failed: {e}"));
    let root = s.root()?;
    if l.has('b') {
        sectors(s, offset, count)?;
    }
    let (buf, time) = match l.has('b') {
        true => fetch_state(&root, offset, count).await,
        false => fetch(&root, offset, count).await,
    }
    .map_err(failed)?;
    let (text, right) = tell_read(&buf, offset, time, expected, Telling::of(&l));
    s.text.print(&text);
    Ok(if right { Done::Well } else { Done::Failed })
}

/// The pieces of a vector request.
pub(super) fn pieces(s: &Session, words: &[impl AsRef<str>]) -> Result<Vec<u64>, Done> {
    let (mut sum, mut all) = (0, Vec::new());
    for word in words.iter().map(AsRef::as_ref) {
        let n = s.size(word)?;
        if n > MAX_REQUEST {
            return Err(s.fail(&format!("Argument '{word}' exceeds maximum size {MAX_REQUEST}")));
        }
        sum += n;
        if sum > MAX_REQUEST {
            return Err(s.fail(&format!("The total number of bytes exceed the maximum size {MAX_REQUEST}")));
        }
        all.push(n);
    }
    Ok(all)
}

/// Offset and length of a vector request.
fn range(s: &Session, w: &Words<'_>, l: &Letters) -> Result<(u64, u64), Done> {
    let Some((offset, rest)) = l.rest.split_first().filter(|(_, rest)| !rest.is_empty()) else {
        return Err(s.usage(w.command));
    };
    let offset = s.size(offset)?;
    Ok((offset, pieces(s, rest)?.iter().sum()))
}

pub(super) async fn readv(s: &mut Session, w: Words<'_>) -> Done {
    readv_inner(s, w).await.unwrap_or_else(|failed| failed)
}

async fn readv_inner(s: &Session, w: Words<'_>) -> Result<Done, Done> {
    let l = options(s, &w, "CP:qrv")?;
    let byte = pattern(s, &l)?;
    let (offset, len) = range(s, &w, &l)?;
    let expected = byte.map(|byte| Expected { byte, from: 0, len });
    let done = fetch(&*s.root()?, offset, len).await;
    let (buf, time) = done.map_err(|e| s.fail(&format!("readv failed: {e}")))?;
    let (text, right) = tell_read(&buf, offset, time, expected, Telling::of(&l));
    s.text.print(&text);
    Ok(if right { Done::Well } else { Done::Failed })
}

pub(super) async fn aio_read(s: &mut Session, w: Words<'_>) -> Done {
    aio_read_inner(s, w).unwrap_or_else(|failed| failed)
}

fn aio_read_inner(s: &Session, w: Words<'_>) -> Result<Done, Done> {
    let l = options(s, &w, "CP:iqrv")?;
    let byte = pattern(s, &l)?;
    let root = s.root()?;
    if l.has('i') {
        s.text.line("injecting invalid read request");
        root.refused(block::Access::Read);
        return Ok(Done::Well);
    }
    let (offset, len) = range(s, &w, &l)?;
    let expected = byte.map(|byte| Expected { byte, from: 0, len });
    let (text, one, told) = (s.text.clone(), s.background.begin(), Telling::of(&l));
    drop(rt::spawn_local(async move {
        match fetch(&root, offset, len).await {
            Ok((buf, time)) => text.print(&tell_read(&buf, offset, time, expected, told).0),
            Err(e) => text.line(&format!("readv failed: {e}")),
        }
        drop(one);
    }));
    Ok(Done::Well)
}

/// What is to be written.
enum What {
    Byte(u8),
    Zeroes(ZeroFlags),
    /// A file's bytes, again and again.
    File(Vec<u8>),
}

impl What {
    fn zeroes(l: &Letters) -> What {
        let mut flags = ZeroFlags::empty();
        flags.set(ZeroFlags::MAY_UNMAP, l.has('u'));
        flags.set(ZeroFlags::NO_FALLBACK, l.has('n'));
        flags.set(ZeroFlags::FUA, l.has('f'));
        What::Zeroes(flags)
    }

    /// The bytes.
    fn buffer(&self, len: u64) -> IoBuf {
        let buf = IoBuf::zeroed(len as usize);
        match self {
            What::Byte(b) => buf.fill(*b),
            What::Zeroes(_) => {}
            What::File(bytes) => {
                for at in (0..buf.len()).step_by(bytes.len()) {
                    let n = bytes.len().min(buf.len() - at);
                    buf.copy_from(at, &bytes[..n]);
                }
            }
        }
        buf
    }
}

/// How to write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Plain,
    Stable,
    Compressed,
    /// To the state of a virtual machine.
    State,
}

async fn store(root: &Root, offset: u64, len: u64, what: &What, how: How) -> IoResult<Duration> {
    let begun = rt::now();
    if how == How::State {
        root.write_vm_state(offset, what.buffer(len)).await?;
        return Ok(rt::now() - begun);
    }
    fits(root, offset, len)?;
    match (what, how) {
        (What::Zeroes(flags), _) => root.write_zeroes(offset, len, *flags).await?,
        (_, How::Compressed) => compressed(root, offset, what.buffer(len)).await?,
        (_, How::Stable) => root.write(offset, what.buffer(len), WriteFlags::FUA).await?,
        _ => root.write(offset, what.buffer(len), WriteFlags::empty()).await?,
    }
    Ok(rt::now() - begun)
}

/// Compressed clusters are written once: where something is allocated already, the write fails.
async fn compressed(root: &Root, offset: u64, buf: IoBuf) -> IoResult<()> {
    if !root.compresses() {
        return Err(Errno::NOTSUP);
    }
    let (len, cluster) = (buf.len() as u64, root.info().cluster_size.unwrap_or(1).max(1));
    let whole = (offset + len).is_multiple_of(cluster) || offset + len == root.len();
    if !offset.is_multiple_of(cluster) || !whole {
        return Err(Errno::INVAL);
    }
    let mut result = Ok(());
    let mut at = 0;
    while at < len {
        let n = cluster.min(len - at);
        let part = buf.slice(at as usize..(at + n) as usize);
        let done = match crate::convert::is_stored(root, offset + at, n).await? {
            true => Err(Errno::IO),
            false => root.write(offset + at, part, WriteFlags::COMPRESSED).await,
        };
        result = result.and(done);
        at += n;
    }
    result
}

/// The beginning of the file of `-s`, as much as is written; a message if it is of no use.
async fn source(name: &str, count: u64) -> Result<Vec<u8>, String> {
    let path = name.to_owned();
    let read = rt::unblock(move || {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(count.clamp(1, MAX_REQUEST)).read_to_end(&mut bytes).map(|_| bytes)
    });
    match read.await {
        Ok(bytes) if bytes.is_empty() => Err(format!("{name}: file is empty")),
        Ok(bytes) => Ok(bytes),
        Err(e) => Err(format!("{name}: {}", Errno::from(e))),
    }
}

pub(super) async fn write(s: &mut Session, w: Words<'_>) -> Done {
    write_inner(s, w).await.unwrap_or_else(|failed| failed)
}

async fn write_inner(s: &Session, w: Words<'_>) -> Result<Done, Done> {
    let l = options(s, &w, "bcCfnpP:qrs:uz")?;
    let byte = pattern(s, &l)?;
    let [offset, given] = &l.rest[..] else { return Err(s.usage(w.command)) };
    let has = |c| l.has(c);
    for (wrong, message) in [
        (has('b') && has('z'), "-b and -z cannot be specified at the same time"),
        (has('f') && (has('b') || has('c')), "-f and -b or -c cannot be specified at the same time"),
        (has('n') && !has('z'), "-n requires -z to be specified"),
        (has('u') && !has('z'), "-u requires -z to be specified"),
        (
            [has('z'), has('P'), has('s')].iter().filter(|x| **x).count() > 1,
            "Only one of -z, -P, and -s can be specified at the same time",
        ),
        (has('z') && has('r'), "cannot combine zero write with registered I/O buffer"),
    ] {
        if wrong {
            return Err(s.fail(message));
        }
    }
    let offset = s.size(offset)?;
    let count = s.size(given)?;
    if count > MAX_REQUEST && !has('n') {
        return Err(s.fail(&format!("length cannot exceed {MAX_REQUEST} without -n, given {given}")));
    }
    if has('b') || has('c') {
        sectors(s, offset, count)?;
    }
    let what = match l.value('s') {
        Some(name) => What::File(source(name, count).await.map_err(|e| {
            s.text.warn(&e);
            Done::Failed
        })?),
        None if has('z') => What::zeroes(&l),
        None => What::Byte(byte.unwrap_or(FILL)),
    };
    let how = match () {
        () if has('b') => How::State,
        () if has('c') => How::Compressed,
        () if has('f') => How::Stable,
        () => How::Plain,
    };
    let done = store(&*s.root()?, offset, count, &what, how).await;
    let time = done.map_err(|e| s.fail(&format!("write failed: {e}")))?;
    s.text.print(&Telling::of(&l).report("wrote", offset, count, time));
    Ok(Done::Well)
}

pub(super) async fn writev(s: &mut Session, w: Words<'_>) -> Done {
    writev_inner(s, w).await.unwrap_or_else(|failed| failed)
}

async fn writev_inner(s: &Session, w: Words<'_>) -> Result<Done, Done> {
    let l = options(s, &w, "CfP:qr")?;
    let byte = pattern(s, &l)?;
    let (offset, len) = range(s, &w, &l)?;
    let how = if l.has('f') { How::Stable } else { How::Plain };
    let done = store(&*s.root()?, offset, len, &What::Byte(byte.unwrap_or(FILL)), how).await;
    let time = done.map_err(|e| s.fail(&format!("writev failed: {e}")))?;
    s.text.print(&Telling::of(&l).report("wrote", offset, len, time));
    Ok(Done::Well)
}

pub(super) async fn aio_write(s: &mut Session, w: Words<'_>) -> Done {
    aio_write_inner(s, w).unwrap_or_else(|failed| failed)
}

fn aio_write_inner(s: &Session, w: Words<'_>) -> Result<Done, Done> {
    let l = options(s, &w, "CfiP:qruz")?;
    let byte = pattern(s, &l)?;
    if l.rest.len() < 2 {
        return Err(s.usage(w.command));
    }
    for (wrong, message) in [
        (l.has('z') && l.rest.len() > 2, "-z supports only a single length parameter"),
        (l.has('u') && !l.has('z'), "-u requires -z to be specified"),
        (l.has('z') && l.has('r'), "cannot combine zero write with registered I/O buffer"),
    ] {
        if wrong {
            return Err(s.fail(message));
        }
    }
    let root = s.root()?;
    if l.has('i') {
        s.text.line("injecting invalid write request");
        root.refused(block::Access::Write);
        return Ok(Done::Well);
    }
    let (offset, len) =
        if l.has('z') { (s.size(&l.rest[0])?, s.size(&l.rest[1])?) } else { range(s, &w, &l)? };
    let what = if l.has('z') { What::zeroes(&l) } else { What::Byte(byte.unwrap_or(FILL)) };
    let how = if l.has('f') { How::Stable } else { How::Plain };
    let (text, one, told) = (s.text.clone(), s.background.begin(), Telling::of(&l));
    drop(rt::spawn_local(async move {
        match store(&root, offset, len, &what, how).await {
            Ok(time) => text.print(&told.report("wrote", offset, len, time)),
            Err(e) => text.line(&format!("aio_write failed: {e}")),
        }
        drop(one);
    }));
    Ok(Done::Well)
}

pub(super) async fn aio_flush(s: &mut Session, _: Words<'_>) -> Done {
    s.background.idle().await;
    Done::Well
}

pub(super) async fn flush(s: &mut Session, _: Words<'_>) -> Done {
    let Ok(root) = s.root() else { return Done::Failed };
    // The reference says nothing either.
    if root.flush().await.is_ok() { Done::Well } else { Done::Failed }
}

pub(super) async fn discard(s: &mut Session, w: Words<'_>) -> Done {
    discard_inner(s, w).await.unwrap_or_else(|failed| failed)
}

async fn discard_inner(s: &Session, w: Words<'_>) -> Result<Done, Done> {
    let l = options(s, &w, "Cq")?;
    let [offset, given] = &l.rest[..] else { return Err(s.usage(w.command)) };
    let offset = s.size(offset)?;
    let count = s.size(given)?;
    if count > MAX_REQUEST {
        return Err(s.fail(&format!("length cannot exceed {MAX_REQUEST}, given {given}")));
    }
    let begun = rt::now();
    let done = s.root()?.discard(offset, count).await;
    done.map_err(|e| s.fail(&format!("discard failed: {e}")))?;
    s.text.print(&Telling::of(&l).report("discard", offset, count, rt::now() - begun));
    Ok(Done::Well)
}

pub(super) async fn truncate(s: &mut Session, w: Words<'_>) -> Done {
    truncate_inner(s, w).await.unwrap_or_else(|failed| failed)
}

async fn truncate_inner(s: &Session, w: Words<'_>) -> Result<Done, Done> {
    let l = options(s, &w, "m:")?;
    let mode = match l.value('m') {
        None | Some("off") => Prealloc::Off,
        Some("metadata") => Prealloc::Metadata,
        Some("falloc") => Prealloc::Falloc,
        Some("full") => Prealloc::Full,
        Some(other) => return Err(s.error(&format!("Invalid preallocation mode '{other}'"))),
    };
    let Some(size) = l.rest.first() else { return Err(s.usage(w.command)) };
    // Messages name the first word, whatever that is.
    let size = number::size_called(size, &w.words[0]).map_err(|e| s.fail(&e))?;
    let root = s.root()?;
    if !root.has_medium() {
        return Err(s.error("No medium inserted"));
    }
    match root.truncate(size, false, mode).await {
        Ok(()) => Ok(Done::Well),
        Err(_) if let Some(text) = root.truncate_failure() => Err(s.error(&text)),
        Err(Errno::INVAL) if !size.is_multiple_of(512) && root.info().cluster_size.is_some() => {
            Err(s.error("The new size must be a multiple of 512"))
        }
        Err(Errno::INVAL) if mode != Prealloc::Off && size < root.len() => {
            Err(s.error("Preallocation can't be used for shrinking an image"))
        }
        Err(Errno::NOTSUP) if mode == Prealloc::Metadata => {
            Err(s.error("Unsupported preallocation mode: metadata"))
        }
        Err(Errno::NOTSUP) => Err(s.error("Image format driver does not support resize")),
        Err(Errno::FBIG) if root.info().cluster_size.is_some() => {
            Err(s.error("Failed to grow the L1 table: File too large"))
        }
        Err(Errno::FBIG) => Err(s.error("Could not resize file: File too large")),
        Err(Errno::INVAL) if !size.is_multiple_of(512) => {
            Err(s.error("The new size must be a multiple of 512"))
        }
        Err(e) => Err(s.error(&format!("Failed to resize the file: {e}"))),
    }
}
