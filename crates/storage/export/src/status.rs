//! Block status: what metadata contexts say of a range.

use crate::conn::Conn;
use base::{Errno, IoResult};
use block::bitmap::Bitmap;
use nbd::message::{Extent, Request, put_status};
use nbd::server::Contexts;
use nbd::spec::*;

/// Most extents of one context in a reply.
const MAX_EXTENTS: usize = 1024;
/// How many ranges are asked for in one go.
const RUNS: usize = 64;
/// Where a length is cut that the reply has no room for, bytes.
const CUT: u32 = 4096;

/// The extents of one context, at most so many.
struct Runs {
    list: Vec<Extent>,
    most: usize,
}

impl Runs {
    fn new(most: usize) -> Runs {
        Runs { list: Vec::new(), most }
    }

    /// Appends a run, or lengthens the last; `false` where there is no room.
    fn add(&mut self, len: u64, flags: u64) -> bool {
        let full = self.list.len() == self.most;
        match self.list.last_mut() {
            Some(last) if last.flags == flags => last.len += len,
            _ if full => return false,
            _ => self.list.push(Extent { len, flags }),
        }
        true
    }
}

/// What a bitmap says of `off..end`, as far as there is room.
fn dirty(bitmap: &Bitmap, off: u64, end: u64, most: usize) -> Vec<Extent> {
    let mut runs = Runs::new(most);
    let mut at = off;
    while at < end {
        let (start, len) = bitmap.next_dirty(at, end).unwrap_or((end, 0));
        if (start > at && !runs.add(start - at, 0)) || (len > 0 && !runs.add(len, STATE_DIRTY.into())) {
            break;
        }
        at = start + len;
    }
    runs.list
}

impl Conn {
    pub(crate) async fn do_status(&self, req: &Request, contexts: &Contexts, cost: usize) {
        let most = if req.flags & CMD_FLAG_REQ_ONE != 0 { 1 } else { MAX_EXTENTS };
        let mut all: Vec<(u32, Vec<Extent>)> = Vec::new();
        if contexts.allocation.is_some() || contexts.depth.is_some() {
            match self.allocation(req, most).await {
                Ok((states, depths)) => {
                    all.extend(contexts.allocation.map(|id| (id, states)));
                    all.extend(contexts.depth.map(|id| (id, depths)));
                }
                Err(e) => return self.done(req, Err(e), cost).await,
            }
        }
        for (id, i) in &contexts.bitmaps {
            all.push((*id, dirty(&self.export.bitmaps[*i], req.offset, req.offset + req.len, most)));
        }
        let line = self.line.lock().await;
        {
            let out = &mut self.out.borrow_mut().bytes;
            let last = all.len().saturating_sub(1);
            for (i, (id, extents)) in all.iter().enumerate() {
                let flags = if i == last { REPLY_FLAG_DONE } else { 0 };
                put_status(out, self.mode, flags, req, *id, extents, CUT);
            }
        }
        drop(line);
        self.push(cost);
    }

    /// Where the bytes are: the extents of `base:allocation` and of `qemu:allocation-depth`.
    async fn allocation(&self, req: &Request, most: usize) -> IoResult<(Vec<Extent>, Vec<Extent>)> {
        let (mut states, mut depths) = (Runs::new(most), Runs::new(most));
        let (mut off, end) = (req.offset, req.offset + req.len);
        while off < end && !self.broken.get() {
            for st in self.export.root.map_runs(off, end - off, most.clamp(1, RUNS)).await? {
                if st.len == 0 {
                    return Err(Errno::IO);
                }
                let hole = if st.data { 0 } else { STATE_HOLE };
                let zero = if st.zero { STATE_ZERO } else { 0 };
                let depth = if st.allocated { u64::from(st.depth) + 1 } else { 0 };
                if !(states.add(st.len, (hole | zero).into()) & depths.add(st.len, depth)) {
                    return Ok((states.list, depths.list));
                }
                off += st.len;
            }
        }
        Ok((states.list, depths.list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_a_bitmap() {
        let b = Bitmap::new("b", 10 << 16, 1 << 16, false, true).unwrap();
        let lens = |from, to, most| {
            dirty(&b, from, to, most).into_iter().map(|e| (e.len, e.flags)).collect::<Vec<_>>()
        };
        assert_eq!(lens(0, 10 << 16, 9), [(10 << 16, 0)]);
        b.set(3 << 16, 1);
        b.set(9 << 16, 1);
        let all = [(3 << 16, 0), (1 << 16, 1), (5 << 16, 0), (1 << 16, 1)];
        assert_eq!(lens(0, 10 << 16, 9), all);
        assert_eq!(lens(0, 10 << 16, 3), all[..3]);
        assert_eq!(lens((3 << 16) + 5, (3 << 16) + 7, 3), [(2, 1)]);
        // The node has grown behind the bitmap's back.
        assert_eq!(lens(9 << 16, 12 << 16, 3), [(1 << 16, 1), (2 << 16, 0)]);
    }
}
