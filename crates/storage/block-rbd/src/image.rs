//! An open image.

use crate::cluster::{Pool, answer, text};
use crate::library::{ImageInfo, Opaque, SnapInfo};
use base::{Errno, IoResult};
use mem::IoBuf;
use qapi::{QError, qerr};
use rt::sync::oneshot;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::Arc;

/// Each object is there or not, and there is a map that says which.
const FAST_DIFF: u64 = 1 << 4;
/// That map is not to be believed.
const FAST_DIFF_INVALID: u64 = 1 << 1;
/// Zeroes keep their room.
const THICK: c_int = 1;
/// The most pieces of memory that one request may be about (the system's IOV_MAX).
const MAX_PARTS: usize = 1024;
/// The longest stretch whose blocks belong to the same few objects, bytes.
const MAX_PERIOD: u64 = 1 << 40;

/// A snapshot.
pub(crate) struct Snapshot {
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
}

/// An image, and the pool that it is in. Unless a function is said to wait it may be called anywhere.
pub(crate) struct Image {
    pub(crate) pool: Pool,
    image: Opaque,
    /// It can be written, as far as the cluster is concerned.
    pub(crate) writable: bool,
    /// What was there at first, bytes, and is no part of the disk since the image shows what is encrypted in it.
    header: Option<u64>,
}

// SAFETY: Ceph's images may be used from any thread, by several at once.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

/// What the library may use until it calls back.
struct Lent {
    image: Arc<Image>,
    /// Keeps the memory alive.
    _buf: IoBuf,
    _parts: Vec<libc::iovec>,
    done: oneshot::Sender<IoResult<usize>>,
}

/// What is lent is given back on a thread of the library. (The list of parts only has the addresses of what `IoBuf` keeps.)
const _: () = {
    const fn may_cross_threads<T: Send>() {}
    may_cross_threads::<(Arc<Image>, IoBuf, oneshot::Sender<IoResult<usize>>)>();
};

/// Called by the library, on a thread of its own, when a request has ended.
extern "C" fn completed(c: Opaque, arg: *mut c_void) {
    // SAFETY: `arg` is what `Image::submit` gave away for this call, of which there is one.
    let lent = unsafe { Box::from_raw(arg.cast::<Lent>()) };
    let f = lent.image.pool.f;
    // SAFETY: the request has ended, and nobody else knows of it.
    let n = unsafe { (f.rbd_aio_get_return_value)(c) };
    // SAFETY: as above.
    unsafe { (f.rbd_aio_release)(c) };
    let Lent { image, done, .. } = *lent;
    // The last who has the image closes it, but not on this thread, for which closing waits. And whoever is told of the end of the
    // last request may rely on being the last who has it.
    if let Some(last) = Arc::into_inner(image) {
        drop(rt::unblock(move || drop(last)));
    }
    let result = usize::try_from(n).map_err(|_| Errno::from_raw(c_int::try_from(-n).unwrap_or(libc::EIO)));
    // Nobody may be waiting any more.
    _ = done.send(result);
}

/// Waits for the network. Never happens on a thread that other things wait for: see [`completed`] and [`crate::driver`].
impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: it is open, and no request is in flight: each has a reference.
        unsafe { (self.pool.f.rbd_close)(self.image) };
    }
}

impl Image {
    /// Opens an image, or a snapshot of it. Waits.
    ///
    /// An image that nobody will write is opened for writing, too, where the cluster lets the user: it may be written later, and
    /// who reads learns of changes of its length and its snapshots.
    pub(crate) fn open(pool: Pool, name: &str, snapshot: Option<&str>, write: bool) -> Result<Image, QError> {
        let at = text(name)?;
        let snap = snapshot.map(text).transpose()?;
        let snap = snap.as_ref().map_or(ptr::null(), |s| s.as_ptr());
        let mut image = ptr::null_mut();
        // SAFETY: the pool is open; the names are text in C.
        let opened = answer(unsafe { (pool.f.rbd_open)(pool.io, at.as_ptr(), &raw mut image, snap) });
        let writable = opened.is_ok() && snap.is_null();
        let opened = match opened {
            Err(Errno::PERM | Errno::ACCES | Errno::ROFS) if !write => {
                // SAFETY: as above.
                answer(unsafe { (pool.f.rbd_open_read_only)(pool.io, at.as_ptr(), &raw mut image, snap) })
            }
            opened => opened,
        };
        opened.map_err(|e| qerr!("error reading header from {name}: {e}"))?;
        Ok(Image { pool, image, writable, header: None })
    }

    /// What is encrypted in it is shown from now on; it was `before` bytes long until then. May wait.
    pub(crate) fn decrypted(&mut self, before: u64) -> IoResult<()> {
        self.header = Some(before.saturating_sub(self.len()?));
        Ok(())
    }

    /// Makes a new image. `object`: the logarithm of the length of its objects. Waits.
    pub(crate) fn create(pool: &Pool, name: &str, size: u64, object: Option<u32>) -> Result<(), QError> {
        let at = text(name)?;
        let mut order = object.and_then(|o| c_int::try_from(o).ok()).unwrap_or(0);
        // SAFETY: the pool is open; the name is text in C.
        answer(unsafe { (pool.f.rbd_create)(pool.io, at.as_ptr(), size, &raw mut order) })
            .map(drop)
            .map_err(|e| qerr!("error rbd create: {e}"))
    }

    /// Removes an image that nobody has open. Waits.
    pub(crate) fn remove(pool: &Pool, name: &str) -> Result<(), QError> {
        let at = text(name)?;
        // SAFETY: the pool is open; the name is text in C.
        answer(unsafe { (pool.f.rbd_remove)(pool.io, at.as_ptr()) })
            .map(drop)
            .map_err(|e| qerr!("error rbd remove: {e}"))
    }

    pub(crate) fn handle(&self) -> Opaque {
        self.image
    }

    /// The image's length, bytes. May wait.
    pub(crate) fn len(&self) -> IoResult<u64> {
        let mut size = 0;
        // SAFETY: the image is open.
        answer(unsafe { (self.pool.f.rbd_get_size)(self.image, &raw mut size) }).map(|_| size)
    }

    /// The length of the objects that the image is stored in, bytes. May wait.
    pub(crate) fn object_len(&self) -> IoResult<u64> {
        let mut info = ImageInfo::EMPTY;
        let room = size_of::<ImageInfo>();
        // SAFETY: the image is open; the structure has this much room.
        answer(unsafe { (self.pool.f.rbd_stat)(self.image, &raw mut info, room) }).map(|_| info.obj_size)
    }

    /// The first bytes, or fewer where there are no more. Waits.
    pub(crate) fn beginning<const N: usize>(&self) -> IoResult<[u8; N]> {
        let mut bytes = [0; N];
        let there = usize::try_from(self.len()?).unwrap_or(N).min(N);
        if there == 0 {
            return Ok(bytes);
        }
        // SAFETY: the image is open; there is room for as many bytes.
        let n = unsafe { (self.pool.f.rbd_read)(self.image, 0, there, bytes.as_mut_ptr().cast()) };
        answer(c_int::try_from(n).unwrap_or(-libc::EIO)).map(|_| bytes)
    }

    /// Waits. What is behind the new end is lost.
    pub(crate) fn resize(&self, len: u64) -> IoResult<()> {
        // SAFETY: the image is open.
        let resize = |len| answer(unsafe { (self.pool.f.rbd_resize)(self.image, len) }).map(drop);
        let Some(header) = self.header else { return resize(len) };
        // Whether what encrypts belongs to the length depends on the library's version. Too long does no harm; too short would.
        resize(len.checked_add(header).ok_or(Errno::FBIG)?)?;
        if self.len()? == len { Ok(()) } else { resize(len) }
    }

    /// How far it goes on from `off` with data, or without any: whether there is, and for how many bytes, `len` at most. An image
    /// without a map of its objects is data. Waits.
    pub(crate) fn extent(&self, off: u64, len: u64) -> IoResult<(bool, u64)> {
        let (f, image) = (self.pool.f, self.image);
        let (mut features, mut flags, mut stripes) = (0, 0, 1);
        // SAFETY: the image is open.
        let asked = unsafe {
            answer((f.rbd_get_features)(image, &raw mut features))
                .and_then(|_| answer((f.rbd_get_flags)(image, &raw mut flags)))
                .and_then(|_| answer((f.rbd_get_stripe_count)(image, &raw mut stripes)))
        };
        // Ceph 16 tells of objects as if there were nothing before what is encrypted.
        let unknown = self.header.is_some() || features & FAST_DIFF == 0 || flags & FAST_DIFF_INVALID != 0;
        if asked.is_err() || unknown {
            return Ok((true, len));
        }
        // Older versions are wrong about what is asked for from the middle of an object on.
        let period = self.object_len()?.saturating_mul(stripes).clamp(1, MAX_PERIOD);
        let start = off - off % period;
        let mut run = Run { off, end: off, data: None };
        // SAFETY: the image is open; `one` gets `run`, which lives as long as the call.
        let asked = unsafe {
            let arg = (&raw mut run).cast();
            (f.rbd_diff_iterate2)(image, ptr::null(), start, len.saturating_add(off - start), 1, 1, one, arg)
        };
        if asked < 0 && asked != ENOUGH {
            answer(asked)?;
        }
        Ok(match run.data {
            None => (false, len),
            Some(data) => (data, (run.end - off).min(len)),
        })
    }

    /// The snapshots. Waits.
    pub(crate) fn snapshots(&self) -> IoResult<Vec<Snapshot>> {
        let none = SnapInfo { id: 0, size: 0, name: ptr::null() };
        let mut room: c_int = 64;
        loop {
            // With room for the end, beside what it is told of.
            let mut list = vec![none; usize::try_from(room).unwrap_or(0) + 1];
            // SAFETY: the image is open; there is room for as many.
            let n = unsafe { (self.pool.f.rbd_snap_list)(self.image, list.as_mut_ptr(), &raw mut room) };
            if n == -libc::ERANGE && room > 0 && room < 1 << 20 {
                continue;
            }
            let n = usize::try_from(answer(n)?).unwrap_or(0);
            let name = |s: &SnapInfo| {
                // SAFETY: the library filled in this one: its name is text in C until `rbd_snap_list_end`.
                unsafe { CStr::from_ptr(s.name) }.to_string_lossy().into_owned()
            };
            let out = list.iter().take(n).map(|s| Snapshot { name: name(s), size: s.size }).collect();
            if n > 0 {
                // SAFETY: the library filled in `n` and gets them back; the first that it did not has no name, which ends them.
                unsafe { (self.pool.f.rbd_snap_list_end)(list.as_mut_ptr()) };
            }
            return Ok(out);
        }
    }

    fn snapshot(
        &self,
        f: unsafe extern "C" fn(Opaque, *const std::ffi::c_char) -> c_int,
        name: &str,
    ) -> IoResult<()> {
        let name = text(name).map_err(|_| Errno::INVAL)?;
        // SAFETY: the image is open; the name is text in C.
        answer(unsafe { f(self.image, name.as_ptr()) }).map(drop)
    }

    /// Takes a snapshot. Waits, as those that follow do.
    pub(crate) fn take_snapshot(&self, name: &str) -> IoResult<()> {
        self.snapshot(self.pool.f.rbd_snap_create, name)
    }

    pub(crate) fn remove_snapshot(&self, name: &str) -> IoResult<()> {
        self.snapshot(self.pool.f.rbd_snap_remove, name)
    }

    pub(crate) fn go_back_to(&self, name: &str) -> IoResult<()> {
        self.snapshot(self.pool.f.rbd_snap_rollback, name)
    }

    /// Hands a request over and waits for its end; who no longer waits leaves it to end by itself.
    async fn submit(
        self: &Arc<Self>,
        buf: IoBuf,
        request: impl FnOnce(&Image, *const libc::iovec, c_int, Opaque) -> c_int,
    ) -> IoResult<usize> {
        let (tx, rx) = oneshot::channel();
        self.begin(buf, tx, request)?;
        rx.await.unwrap_or(Err(Errno::IO))
    }

    fn begin(
        self: &Arc<Self>,
        buf: IoBuf,
        done: oneshot::Sender<IoResult<usize>>,
        request: impl FnOnce(&Image, *const libc::iovec, c_int, Opaque) -> c_int,
    ) -> IoResult<()> {
        let part = |s: &mem::Segment| libc::iovec { iov_base: s.raw_ptr().cast(), iov_len: s.len() };
        let parts: Vec<_> = buf.segments().map(part).collect();
        // The library keeps the list's address. It may be done with it, and it be gone, before the call that begins the request
        // returns.
        let (at, n) = (parts.as_ptr(), c_int::try_from(parts.len()).map_err(|_| Errno::INVAL)?);
        let lent = Box::into_raw(Box::new(Lent { image: self.clone(), _buf: buf, _parts: parts, done }));
        let mut c = ptr::null_mut();
        // SAFETY: `completed` gets `lent`, once, when a request that was begun has ended.
        let made = unsafe { (self.pool.f.rbd_aio_create_completion)(lent.cast(), completed, &raw mut c) };
        let begun = answer(made).and_then(|_| answer(request(self, at, n, c)).map(drop));
        if begun.is_err() {
            // SAFETY: a request that could not be begun does not end: nobody calls back.
            unsafe {
                if made >= 0 {
                    (self.pool.f.rbd_aio_release)(c);
                }
                drop(Box::from_raw(lent));
            }
        }
        begun
    }

    /// What is behind the end reads as zeroes.
    pub(crate) async fn read(self: &Arc<Self>, mut off: u64, buf: IoBuf) -> IoResult<()> {
        for buf in pieces(buf) {
            // SAFETY: the image is open; list and memory are kept until the request has ended.
            let begin = |i: &Image, v, n, c| unsafe { (i.pool.f.rbd_aio_readv)(i.image, v, n, off, c) };
            let n = self.submit(buf.clone(), begin).await?;
            if n < buf.len() {
                buf.slice(n..buf.len()).fill(0);
            }
            off += buf.len() as u64;
        }
        Ok(())
    }

    pub(crate) async fn write(self: &Arc<Self>, mut off: u64, buf: IoBuf) -> IoResult<()> {
        for buf in pieces(buf) {
            let len = buf.len() as u64;
            // SAFETY: as for reading.
            let begin = |i: &Image, v, n, c| unsafe { (i.pool.f.rbd_aio_writev)(i.image, v, n, off, c) };
            self.submit(buf, begin).await?;
            off += len;
        }
        Ok(())
    }

    pub(crate) async fn discard(self: &Arc<Self>, off: u64, len: u64) -> IoResult<()> {
        // SAFETY: the image is open.
        let begin = |i: &Image, _, _, c| unsafe { (i.pool.f.rbd_aio_discard)(i.image, off, len, c) };
        self.submit(IoBuf::new(), begin).await.map(drop)
    }

    /// `keep`: the room for the zeroes is kept.
    pub(crate) async fn write_zeroes(self: &Arc<Self>, off: u64, len: u64, keep: bool) -> IoResult<()> {
        let n = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        let flags = if keep { THICK } else { 0 };
        // SAFETY: the image is open.
        let begin =
            |i: &Image, _, _, c| unsafe { (i.pool.f.rbd_aio_write_zeroes)(i.image, off, n, c, flags, 0) };
        self.submit(IoBuf::new(), begin).await.map(drop)
    }

    pub(crate) async fn flush(self: &Arc<Self>) -> IoResult<()> {
        // SAFETY: the image is open.
        let begin = |i: &Image, _, _, c| unsafe { (i.pool.f.rbd_aio_flush)(i.image, c) };
        self.submit(IoBuf::new(), begin).await.map(drop)
    }
}

/// The buffer, in pieces of which each fits into one request; an empty one is none.
fn pieces(buf: IoBuf) -> impl Iterator<Item = IoBuf> {
    let mut rest = buf;
    std::iter::from_fn(move || {
        let n = rest.segments().take(MAX_PARTS).map(mem::Segment::len).sum();
        let piece;
        (piece, rest) = match n == rest.len() {
            true => (std::mem::take(&mut rest), IoBuf::new()),
            false => rest.split_at(n),
        };
        Some(piece).filter(|p| !p.is_empty())
    })
}

/// What `rbd_diff_iterate2` is told when it has told enough: no errno.
const ENOUGH: c_int = -9000;

/// What is known from `off` on.
struct Run {
    off: u64,
    end: u64,
    /// Whether it is data; unknown at first.
    data: Option<bool>,
}

/// One extent of data, or one that is known to be none.
extern "C" fn one(off: u64, len: usize, exists: c_int, arg: *mut c_void) -> c_int {
    // SAFETY: `arg` is the `Run` of the call that calls back.
    let run = unsafe { &mut *arg.cast::<Run>() };
    let exists = exists != 0;
    let end = off.saturating_add(len as u64);
    if end <= run.off {
        return 0;
    }
    let off = off.max(run.off);
    match run.data {
        // What was left out before it is a hole.
        None if off > run.off => {
            run.data = Some(false);
            run.end = off;
            if exists {
                return ENOUGH;
            }
            run.end = end;
        }
        None => {
            run.data = Some(exists);
            run.end = end;
        }
        Some(data) if data == exists && (off == run.end || !data) => run.end = end,
        Some(false) => {
            run.end = off;
            return ENOUGH;
        }
        Some(true) => return ENOUGH,
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(extents: &[(u64, usize, c_int)]) -> (Option<bool>, u64) {
        let mut r = Run { off: 100, end: 100, data: None };
        for &(off, len, exists) in extents {
            if one(off, len, exists, (&raw mut r).cast()) != 0 {
                break;
            }
        }
        (r.data, r.end)
    }

    #[test]
    fn extents_are_joined_up_to_the_first_change() {
        assert_eq!(run(&[]), (None, 100));
        assert_eq!(run(&[(100, 10, 1), (110, 10, 1), (130, 10, 1)]), (Some(true), 120));
        assert_eq!(run(&[(100, 10, 1), (110, 10, 0)]), (Some(true), 110));
        assert_eq!(run(&[(90, 5, 1), (96, 30, 1), (126, 4, 1)]), (Some(true), 130));
        assert_eq!(run(&[(90, 10, 1)]), (None, 100));
        assert_eq!(run(&[(150, 10, 1)]), (Some(false), 150));
        assert_eq!(run(&[(100, 10, 0), (120, 10, 0), (140, 10, 1)]), (Some(false), 140));
        assert_eq!(run(&[(120, 10, 0), (140, 10, 1)]), (Some(false), 140));
    }

    #[test]
    fn a_request_is_about_so_many_pieces_of_memory() {
        let lens = |parts: usize| -> Vec<usize> {
            let mut buf = IoBuf::new();
            (0..parts).for_each(|i| buf.append(IoBuf::from_bytes(&[i as u8; 3])));
            let before = buf.to_vec();
            let all: Vec<_> = pieces(buf).collect();
            assert_eq!(all.iter().flat_map(IoBuf::to_vec).collect::<Vec<_>>(), before);
            all.iter().map(IoBuf::len).collect()
        };
        assert_eq!(lens(0), []);
        assert_eq!(lens(1), [3]);
        assert_eq!(lens(MAX_PARTS), [3 * MAX_PARTS]);
        assert_eq!(lens(2 * MAX_PARTS + 1), [3 * MAX_PARTS, 3 * MAX_PARTS, 3]);
    }
}
