//! Whether two images show the same.

use std::collections::VecDeque;
use std::sync::Arc;

use base::Errno;
use block::Root;
use block::request::Status;
use mem::IoBuf;
use rt::JoinHandle;

/// The longest piece that is read at a time, bytes.
const PIECE: u64 = 1 << 20;
/// Pieces that are read at a time.
const PARALLEL: usize = 8;
/// How much is looked at in one go, bytes.
const LOOK: u64 = 64 << 30;
/// What differs is told to this many bytes.
const SECTOR: usize = 512;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They show the same.
    Same,
    /// They differ at this byte.
    Differs(u64),
    /// They differ in how they store this byte (strict).
    Stored(u64),
    /// They differ in length (strict).
    Length,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The first.
    First,
    /// The second.
    Second,
}

/// Why there is no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Reading a byte of one failed.
    Read(Which, u64, Errno),
    /// Looking for extents of one failed.
    Look(Which, Errno),
}

type Piece = Result<Option<u64>, Failure>;

/// Compares. `strict`: they must also be as long and store the same ranges alike. `tell` hears how far it is, of how much.
///
/// # Errors
/// The storage's.
pub async fn compare(
    first: &Arc<Root>,
    second: &Arc<Root>,
    strict: bool,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Outcome, Failure> {
    let (a, b) = (first.len(), second.len());
    if strict && a != b {
        return Ok(Outcome::Length);
    }
    let (common, all) = (a.min(b), a.max(b));
    let mut flying: VecDeque<JoinHandle<Piece>> = VecDeque::new();
    let mut pos = 0;
    let mut found = None;
    while pos < all && found.is_none() {
        let (one, two) = if pos < common {
            (look(first, Which::First, pos, common).await?, look(second, Which::Second, pos, common).await?)
        } else if a > b {
            let st = look(first, Which::First, pos, all).await?;
            (st.clone(), nothing(st.len))
        } else {
            let st = look(second, Which::Second, pos, all).await?;
            (nothing(st.len), st)
        };
        let n = one.len.min(two.len);
        if strict && kind(&one) != kind(&two) {
            found = Some(Outcome::Stored(pos));
            break;
        }
        let alike = (one.zero && two.zero) || same_place(&one, &two);
        if !alike {
            let end = pos + n;
            let mut at = pos;
            while at < end && found.is_none() {
                let len = PIECE.min(end - at);
                while flying.len() >= PARALLEL && found.is_none() {
                    found = next(&mut flying).await?;
                }
                let (f, s) = (first.clone(), second.clone());
                let (f, s) = ((!one.zero).then_some(f), (!two.zero).then_some(s));
                flying.push_back(rt::spawn_local(async move { piece(f, s, at, len).await }));
                at += len;
            }
        }
        pos += n;
        tell(pos, all);
    }
    while let Some(task) = flying.pop_front() {
        // The first difference counts, and what is in flight ends first.
        match (task.await, found) {
            (Ok(Some(at)), None | Some(Outcome::Stored(_))) => found = Some(Outcome::Differs(at)),
            (Err(e), None) => return Err(e),
            _ => {}
        }
    }
    Ok(found.unwrap_or(Outcome::Same))
}

async fn next(flying: &mut VecDeque<JoinHandle<Piece>>) -> Result<Option<Outcome>, Failure> {
    match flying.pop_front() {
        Some(task) => Ok(task.await?.map(Outcome::Differs)),
        None => Ok(None),
    }
}

/// What stands behind the end.
fn nothing(len: u64) -> Status {
    Status { len, zero: true, ..Status::default() }
}

async fn look(root: &Root, which: Which, pos: u64, end: u64) -> Result<Status, Failure> {
    let mut st = root.map(pos, (end - pos).min(LOOK)).await.map_err(|e| Failure::Look(which, e))?;
    st.len = st.len.min(end - pos);
    match st.len {
        0 => Err(Failure::Look(which, Errno::IO)),
        _ => Ok(st),
    }
}

fn kind(s: &Status) -> (bool, bool, bool) {
    (s.data, s.zero, s.allocated)
}

/// Both say that the same bytes of the same file are what they show.
fn same_place(a: &Status, b: &Status) -> bool {
    a.offset.is_some() && a.offset == b.offset && a.filename.is_some() && a.filename == b.filename
}

/// Compares a range; a disk that is not given shows zeroes there.
async fn piece(first: Option<Arc<Root>>, second: Option<Arc<Root>>, at: u64, len: u64) -> Piece {
    let read = async |root: &Arc<Root>, which| {
        let buf = IoBuf::zeroed(len as usize);
        root.read(at, buf.clone()).await.map_err(|e| Failure::Read(which, at, e))?;
        Ok(buf)
    };
    let differs = match (&first, &second) {
        (Some(f), Some(s)) => {
            let (f, s) = (read(f, Which::First).await?, read(s, Which::Second).await?);
            first_difference(&f, &s)
        }
        (Some(f), None) => first_data(&read(f, Which::First).await?),
        (None, Some(s)) => first_data(&read(s, Which::Second).await?),
        (None, None) => None,
    };
    Ok(differs.map(|d| at + d as u64))
}

const STEP: usize = 32 << 10;

/// The first sector in which two buffers differ.
fn first_difference(a: &IoBuf, b: &IoBuf) -> Option<usize> {
    let (mut x, mut y) = (vec![0; STEP], vec![0; STEP]);
    let mut at = 0;
    while at < a.len() {
        let n = STEP.min(a.len() - at);
        a.copy_to(at, &mut x[..n]);
        b.copy_to(at, &mut y[..n]);
        if x[..n] != y[..n] {
            let sectors = x[..n].chunks(SECTOR).zip(y[..n].chunks(SECTOR));
            return sectors.enumerate().find(|(_, (p, q))| p != q).map(|(i, _)| at + i * SECTOR);
        }
        at += n;
    }
    None
}

/// The first sector that is not zero.
fn first_data(buf: &IoBuf) -> Option<usize> {
    if buf.is_zero() {
        return None;
    }
    (0..buf.len()).step_by(SECTOR).find(|at| !buf.slice(*at..(*at + SECTOR).min(buf.len())).is_zero())
}
