//! Writing a changed header so that a crash leaves the old one or the new one.
//!
//! Storage writes one sector at once, and the header's first sector says where everything else of the header stands: the
//! backing file's name where a field says, and the extensions behind a padding that is as long as one likes. So what does
//! not stand in the first sector is written to a place that nothing of the old header uses, and then the first sector
//! is; the backing file's format comes first of the extensions and so stands in it.

use std::ops::Range;
use std::sync::atomic::Ordering;

use base::{Errno, IoResult};

use crate::header::{Header, HeaderResult, Layout, SECTOR};
use crate::host::{Host, read_vec, write_bytes};
use crate::image::{Image, Meta};
use crate::spec::{V2_HEADER_LENGTH, be32, be64, ext, field};

/// What is read of a first cluster's bytes.
struct Parts {
    /// Everything that counts: a few pieces, however many extensions there are.
    live: Vec<Range<usize>>,
    /// Where the first extensions begin: those behind the backing file's format are among them.
    extensions: Vec<usize>,
}

/// How many extensions may stand before those whose place is chosen, and one more.
const FIRST: usize = 4;

/// How many of the places behind the first pieces, and behind the last ones, are looked at.
const PLACES: usize = 8;

/// How many ways are looked at once there is one, for one that ends as usual.
const MORE: usize = 64;

impl Parts {
    /// Another piece, or more of the last one.
    fn add(&mut self, r: Range<usize>) {
        match self.live.last_mut() {
            Some(last) if last.end == r.start => last.end = r.end,
            _ => self.live.push(r),
        }
    }
}

/// `None` where this is no header.
fn parts(first: &[u8]) -> Option<Parts> {
    let length = if be32(first, 4)? >= 3 { be32(first, field::LENGTH)? as usize } else { V2_HEADER_LENGTH };
    let name = usize::try_from(be64(first, field::BACKING_OFFSET)?).ok()?;
    let end = if name == 0 { first.len() } else { name.min(first.len()) };
    let mut p = Parts { live: Vec::from([Range { start: 0, end: length }]), extensions: Vec::new() };
    let mut at = length.next_multiple_of(8);
    while at < end {
        let (Some(kind), Some(len)) = (be32(first, at), be32(first, at + 4)) else { break };
        if p.extensions.len() < FIRST {
            p.extensions.push(at);
        }
        p.add(at..at + 8);
        at += 8;
        if kind == ext::END {
            break;
        }
        let next = at.checked_add((len as usize).next_multiple_of(8)).filter(|n| *n <= first.len())?;
        if kind != ext::PADDING {
            p.add(at..next);
        }
        at = next;
    }
    if name != 0 {
        p.live.push(name..name.checked_add(be32(first, field::BACKING_SIZE)? as usize)?);
    }
    p.live.iter().all(|r| r.start <= r.end && r.end <= first.len()).then_some(p)
}

/// Whether a new header leaves alone what the old one has behind the first sector.
fn spares(old: &[u8], was: &Parts, new: &[u8], is: &Parts) -> bool {
    was.live.iter().all(|a| {
        is.live.iter().all(|b| {
            let (lo, hi) = (a.start.max(b.start).max(SECTOR), a.end.min(b.end));
            lo >= hi || old[lo..hi] == new[lo..hi]
        })
    })
}

/// One state of the first cluster on the way to a new header.
struct State {
    /// What it says.
    header: Header,
    /// The first cluster.
    bytes: Vec<u8>,
    parts: Parts,
}

impl State {
    /// `None` where it cannot stand so.
    fn new(header: &Header, bytes: HeaderResult<Vec<u8>>, len: usize) -> Option<State> {
        let mut bytes = bytes.ok().filter(|b| b.len() <= len)?;
        bytes.resize(len, 0);
        let parts = parts(&bytes)?;
        Some(State { header: header.clone(), bytes, parts })
    }
}

/// The states of the first cluster, one after another, that lead to a header, so that each can be written beside the one
/// before it. The last one has its parts where everybody puts them, without gaps, unless there is no way to that. The
/// names of features are only for people: they give way where there is no room. `None` where it cannot be done
/// nevertheless, which takes a small first cluster and long names.
fn beside(old: &[u8], header: &Header) -> Option<Vec<State>> {
    let was = parts(old)?;
    let usual = State::new(header, header.encode_new(), old.len());
    if usual.as_ref().is_some_and(|u| spares(old, &was, &u.bytes, &u.parts)) {
        return usual.map(|u| Vec::from([u]));
    }
    let mut ends: Vec<usize> = was.live.iter().map(|r| r.end.max(SECTOR).next_multiple_of(8)).collect();
    ends.extend(&was.extensions);
    // Behind what the last state will have, too.
    ends.extend(usual.iter().flat_map(|u| &u.parts.live).map(|r| r.end.max(SECTOR).next_multiple_of(8)));
    ends.sort_unstable();
    ends.dedup();
    // Of a header in many pieces, which is no header that people make, the first and the last are tried.
    if ends.len() > 2 * PLACES {
        ends.drain(PLACES..ends.len() - PLACES);
    }
    let places = || std::iter::once(None).chain(ends.iter().copied().map(Some));
    let mut short = header.clone();
    short.extensions.retain(|e| e.kind != ext::FEATURE_NAMES);
    let mut all = vec![header];
    if short != *header {
        all.push(&short);
    }
    let (mut found, mut left) = (None, MORE);
    'search: for h in all {
        for rest in places() {
            // Right behind the extensions, too.
            let behind = h.backing_file.as_ref().and_then(|_| {
                let nameless = Header { backing_file: None, ..h.clone() };
                Some(Some(nameless.encode_as(Layout { rest, name: None }).ok()?.len()))
            });
            for name in std::iter::once(None).chain(behind).chain(places().skip(1)) {
                if let Some(is) = State::new(h, h.encode_as(Layout { rest, name }), old.len())
                    && spares(old, &was, &is.bytes, &is.parts)
                {
                    match &usual {
                        Some(u) if spares(&is.bytes, &is.parts, &u.bytes, &u.parts) => {
                            return Some(Vec::from([is, usual?]));
                        }
                        _ => found = found.or(Some(is)),
                    }
                }
                left -= usize::from(found.is_some());
                if left == 0 {
                    break 'search;
                }
                if h.backing_file.is_none() {
                    break;
                }
            }
        }
    }
    found.map(|f| Vec::from([f]))
}

impl Image {
    /// Whether [`Image::put_header`] can write this one.
    pub(crate) async fn header_fits<H: Host>(&self, h: &H, next: &Header) -> IoResult<bool> {
        let old = read_vec(h, 0, self.geo.cluster_size() as usize).await?;
        Ok(beside(&old, next).is_some())
    }

    /// Writes the header as `m.header` has it: after a crash there is the old one or the new one. `ENOSPC` where the
    /// first cluster has no room for what it takes, with nothing changed.
    pub(crate) async fn put_header<H: Host>(&self, h: &H, m: &mut Meta) -> IoResult<()> {
        let mut now = read_vec(h, 0, self.geo.cluster_size() as usize).await?;
        let states = beside(&now, &m.header).ok_or(Errno::NOSPC)?;
        for (i, next) in states.into_iter().enumerate() {
            m.header = next.header;
            match self.put_state(h, m, &now, &next.bytes, &next.parts).await {
                // The header is there, only not where it usually is.
                Err(_) if i > 0 => break,
                done => done?,
            }
            now = next.bytes;
        }
        Ok(())
    }

    /// Writes a state of the first cluster beside the one that is there.
    async fn put_state<H: Host>(&self, h: &H, m: &Meta, old: &[u8], new: &[u8], is: &Parts) -> IoResult<()> {
        let mut both = old.to_vec();
        for r in is.live.iter().filter(|r| r.end > SECTOR) {
            let r = r.start.max(SECTOR)..r.end;
            both[r.clone()].copy_from_slice(&new[r]);
        }
        self.put_sectors(h, 0, old, &both).await?;
        self.barrier(h).await?;
        self.put_sectors(h, 0, &both[..SECTOR], &new[..SECTOR]).await?;
        self.header_changed(m);
        self.barrier(h).await?;
        // What is left of the old one is nothing to anybody.
        let _ = self.put_sectors(h, SECTOR, &both[SECTOR..], &new[SECTOR..]).await;
        Ok(())
    }

    /// Writes what differs between two states of the first cluster from `at` on, in whole sectors.
    async fn put_sectors<H: Host>(&self, h: &H, at: usize, old: &[u8], new: &[u8]) -> IoResult<()> {
        for (i, (old, new)) in old.chunks(SECTOR).zip(new.chunks(SECTOR)).enumerate() {
            if old != new {
                self.unflushed.store(true, Ordering::Release);
                write_bytes(h, (at + i * SECTOR) as u64, new).await?;
            }
        }
        Ok(())
    }
}
