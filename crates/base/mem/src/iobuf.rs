use crate::Memory;
use smallvec::SmallVec;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A range of a memory block.
#[derive(Clone, Debug)]
pub struct Segment {
    mem: Arc<Memory>,
    off: u64,
    len: u64,
}

impl Segment {
    /// The block.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.mem
    }

    /// Where the range starts in the block, in bytes.
    pub fn offset(&self) -> u64 {
        self.off
    }

    /// The range's length in bytes; never 0.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the range is empty (a segment of an [`IoBuf`] never is).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The host address of the range, for system calls; the rules of [`Memory::raw_ptr`] apply.
    pub fn raw_ptr(&self) -> *mut u8 {
        // Wrapping, so that the function needs no promise; the range was checked when the segment was made.
        self.mem.raw_ptr().wrapping_add(self.off as usize)
    }
}

/// An I/O buffer: a list of ranges of memory blocks, each of which it keeps alive.
///
/// A clone shares the memory, not the bytes. Whoever hands memory to the kernel keeps a clone until the kernel
/// is done; so dropping a future that waits is always safe.
#[derive(Clone, Default)]
pub struct IoBuf {
    segs: SmallVec<[Segment; 2]>,
    len: usize,
}

impl IoBuf {
    /// An empty buffer.
    pub fn new() -> IoBuf {
        IoBuf::default()
    }

    /// A fresh zeroed host buffer, aligned to 4096.
    pub fn zeroed(len: usize) -> IoBuf {
        IoBuf::from_memory(Memory::buffer(len, 4096), 0, len as u64)
    }

    /// A fresh host buffer with a copy of `bytes`, aligned to 4096.
    pub fn from_bytes(bytes: &[u8]) -> IoBuf {
        let m = Memory::buffer(bytes.len(), 4096);
        m.write(0, bytes);
        IoBuf::from_memory(m, 0, bytes.len() as u64)
    }

    /// The range of `len` bytes at `off` of a block. Panics where it leaves the block.
    pub fn from_memory(mem: Arc<Memory>, off: u64, len: u64) -> IoBuf {
        let mut b = IoBuf::new();
        b.push(mem, off, len);
        b
    }

    /// Appends a range of a block (joined with the last one where they touch). Panics where it leaves the block.
    pub fn push(&mut self, mem: Arc<Memory>, off: u64, len: u64) {
        assert!(off <= mem.len() && len <= mem.len() - off, "segment leaves its block");
        if len == 0 {
            return;
        }
        self.len += len as usize;
        if let Some(last) = self.segs.last_mut()
            && Arc::ptr_eq(&last.mem, &mem)
            && last.off + last.len == off
        {
            last.len += len;
            return;
        }
        self.segs.push(Segment { mem, off, len });
    }

    /// Appends the ranges of `other`.
    pub fn append(&mut self, other: IoBuf) {
        for s in other.segs {
            self.push(s.mem, s.off, s.len);
        }
    }

    /// The length in bytes over all segments.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part `range` of this buffer; it shares the memory. Panics where the range is not inside.
    pub fn slice(&self, range: Range<usize>) -> IoBuf {
        assert!(range.start <= range.end && range.end <= self.len, "slice {range:?} of {}", self.len);
        let mut out = IoBuf::new();
        self.parts(range.start, range.end - range.start, |mem, off, len, _| {
            out.push(mem.clone(), off, len as u64)
        });
        out
    }

    /// The first `at` bytes, and the rest. Panics where `at` is beyond the end.
    pub fn split_at(&self, at: usize) -> (IoBuf, IoBuf) {
        (self.slice(0..at), self.slice(at..self.len))
    }

    /// Calls `f(block, offset in it, length, bytes done before)` for the pieces of a range.
    fn parts(&self, off: usize, len: usize, mut f: impl FnMut(&Arc<Memory>, u64, usize, usize)) {
        assert!(off <= self.len && len <= self.len - off, "{len} bytes at {off} of a buffer of {}", self.len);
        let (mut skip, mut done) = (off, 0);
        for s in &self.segs {
            if done == len {
                break;
            }
            let seg_len = s.len as usize;
            if skip >= seg_len {
                skip -= seg_len;
                continue;
            }
            let n = (seg_len - skip).min(len - done);
            f(&s.mem, s.off + skip as u64, n, done);
            done += n;
            skip = 0;
        }
    }

    /// Copies `dst.len()` bytes at `off` out of the buffer. Panics where the range is not inside.
    pub fn copy_to(&self, off: usize, dst: &mut [u8]) {
        self.parts(off, dst.len(), |m, o, n, done| m.read(o, &mut dst[done..done + n]));
    }

    /// Copies `src` into the buffer at `off`. Panics where the range is not inside.
    pub fn copy_from(&self, off: usize, src: &[u8]) {
        self.parts(off, src.len(), |m, o, n, done| m.write(o, &src[done..done + n]));
    }

    /// Sets every byte to `byte`.
    pub fn fill(&self, byte: u8) {
        for s in &self.segs {
            s.mem.fill(s.off, s.len, byte);
        }
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut v = vec![0; self.len];
        self.copy_to(0, &mut v);
        v
    }

    /// Copies all of `src`, which must be as long as this buffer, here. Overlapping memory gives mixed bytes.
    pub fn copy_from_buf(&self, src: &IoBuf) {
        assert_eq!(self.len, src.len, "buffers of different lengths");
        let mut bounce = [0u8; 1024];
        let mut at = 0;
        for s in &src.segs {
            let mut off = 0;
            while off < s.len {
                let n = (s.len - off).min(bounce.len() as u64) as usize;
                s.mem.read(s.off + off, &mut bounce[..n]);
                self.copy_from(at, &bounce[..n]);
                at += n;
                off += n as u64;
            }
        }
    }

    /// Whether every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.segs.iter().all(|s| s.mem.is_zero(s.off, s.len))
    }

    /// The first byte in which this buffer differs from `other`, which must be as long (else it panics).
    pub fn first_difference(&self, other: &IoBuf) -> Option<usize> {
        assert_eq!(self.len, other.len, "buffers of different lengths");
        let (mut at, mut skip) = (0, 0);
        let mut theirs = other.segs.iter().peekable();
        for s in &self.segs {
            let mut done = 0;
            while done < s.len {
                let t = *theirs.peek()?;
                let n = (s.len - done).min(t.len - skip);
                if let Some(d) = s.mem.first_difference(s.off + done, &t.mem, t.off + skip, n) {
                    return Some(at + d as usize);
                }
                at += n as usize;
                done += n;
                skip += n;
                if skip == t.len {
                    skip = 0;
                    theirs.next();
                }
            }
        }
        None
    }

    /// The segments in order; none is empty.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &Segment> + Clone {
        self.segs.iter()
    }

    /// Whether every segment's host address and length are multiples of `align` (a power of two).
    pub fn is_aligned(&self, align: u64) -> bool {
        self.segs.iter().all(|s| (s.raw_ptr().addr() as u64 | s.len) & (align - 1) == 0)
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuf({} bytes, {} segments)", self.len, self.segs.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn touching_ranges_join() {
        let m = Memory::buffer(100, 8);
        let mut b = IoBuf::from_memory(m.clone(), 10, 10);
        b.push(m.clone(), 20, 5);
        b.push(m.clone(), 30, 0);
        assert_eq!(b.segments().len(), 1);
        b.push(m, 10, 5);
        assert_eq!((b.segments().len(), b.len()), (2, 20));
    }

    #[test]
    fn alignment_is_of_address_and_length() {
        assert!(IoBuf::zeroed(8192).is_aligned(4096));
        assert!(!IoBuf::zeroed(8192).slice(512..1024).is_aligned(4096));
        assert!(IoBuf::zeroed(8192).slice(512..1024).is_aligned(512));
        assert!(IoBuf::new().is_aligned(4096));
    }

    proptest! {
        #[test]
        fn a_list_of_segments_behaves_as_one_vector(
            lens in proptest::collection::vec(0usize..40, 0..8),
            ops in proptest::collection::vec((0usize..200, 0usize..200, any::<u8>()), 0..20),
        ) {
            let mut buf = IoBuf::new();
            for l in &lens {
                let m = Memory::buffer(l + 7, 8);
                buf.push(m, 5, *l as u64);
            }
            let mut model = vec![0u8; lens.iter().sum()];
            prop_assert_eq!(buf.len(), model.len());
            for (a, b, byte) in ops {
                let (a, b) = (a % (model.len() + 1), b % (model.len() + 1));
                let (a, b) = (a.min(b), a.max(b));
                let src: Vec<u8> = (a..b).map(|i| byte.wrapping_add(i as u8)).collect();
                buf.copy_from(a, &src);
                model[a..b].copy_from_slice(&src);
                prop_assert_eq!(buf.slice(a..b).to_vec(), &model[a..b]);
                let (l, r) = buf.split_at(a);
                let mut joined = l.clone();
                joined.append(r);
                prop_assert_eq!(joined.to_vec(), &model[..]);
            }
            let copy = IoBuf::zeroed(model.len());
            copy.copy_from_buf(&buf);
            prop_assert_eq!(copy.to_vec(), &model[..]);
            prop_assert_eq!(buf.first_difference(&copy), None);
            for i in [0, model.len() / 2, model.len().saturating_sub(1)] {
                if let Some(b) = model.get(i) {
                    copy.copy_from(i, &[b ^ 1]);
                    prop_assert_eq!(buf.first_difference(&copy), Some(i));
                    prop_assert_eq!(copy.first_difference(&buf), Some(i));
                    copy.copy_from(i, &[*b]);
                }
            }
            prop_assert_eq!(buf.is_zero(), model.iter().all(|&b| b == 0));
            buf.fill(0);
            prop_assert!(buf.is_zero());
        }
    }
}
