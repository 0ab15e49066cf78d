//! Where an image's bytes are.

use base::Errno;
use block::Root;

/// How much is looked at in one go, bytes.
const LOOK: u64 = 16 << 40;
/// How many ranges are asked for in one go.
const RUNS: usize = 256;

/// A range that is stored in one way, in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Where it begins, bytes.
    pub start: u64,
    /// Its length, bytes.
    pub len: u64,
    /// How many backing files down it is.
    pub depth: u32,
    /// Some image of the chain says what is there.
    pub present: bool,
    /// It reads as zeroes.
    pub zero: bool,
    /// It is stored as data.
    pub data: bool,
    /// It is stored compressed.
    pub compressed: bool,
    /// Where in the file it stands, if it stands there plainly.
    pub offset: Option<u64>,
    /// The file.
    pub filename: Option<String>,
}

impl Range {
    fn joins(&self, next: &Range) -> bool {
        let alike = |r: &Range| (r.depth, r.present, r.zero, r.data, r.compressed);
        let follows = match (self.offset, next.offset) {
            (Some(a), Some(b)) => a + self.len == b && self.filename == next.filename,
            (None, None) => true,
            _ => false,
        };
        alike(self) == alike(next) && follows
    }
}

/// Joins ranges that are alike.
struct Whole<'a> {
    held: Option<Range>,
    tell: &'a mut dyn FnMut(Range),
}

impl Whole<'_> {
    fn take(&mut self, r: Range) {
        match &mut self.held {
            Some(l) if l.joins(&r) => l.len += r.len,
            _ => {
                if let Some(l) = self.held.replace(r) {
                    (self.tell)(l);
                }
            }
        }
    }
}

/// Tells of every range from `start` on, `len` bytes at most, each as long as it can be.
///
/// # Errors
/// The storage's, and where.
pub async fn map(root: &Root, start: u64, len: u64, tell: &mut dyn FnMut(Range)) -> Result<(), (u64, Errno)> {
    let end = start.saturating_add(len).min(root.len());
    let mut pos = start;
    let mut whole = Whole { held: None, tell };
    if pos >= end {
        // There is something to be said of nothing, too.
        (whole.tell)(Range {
            start: pos,
            len: 0,
            depth: 0,
            present: false,
            zero: false,
            data: false,
            compressed: false,
            offset: None,
            filename: None,
        });
    }
    while pos < end {
        let runs = root.map_runs(pos, (end - pos).min(LOOK), RUNS).await.map_err(|e| (pos, e))?;
        for st in runs {
            let n = st.len.min(end - pos);
            if n == 0 {
                return Err((pos, Errno::IO));
            }
            whole.take(Range {
                start: pos,
                len: n,
                depth: st.depth,
                // A hole of which nobody says what is read there is there for nobody.
                present: st.allocated && (st.data || st.zero),
                zero: st.zero,
                data: st.data,
                compressed: st.compressed,
                offset: st.offset,
                filename: st.filename.filter(|_| st.offset.is_some()),
            });
            pos += n;
        }
    }
    if let Some(l) = whole.held.take() {
        (whole.tell)(l);
    }
    Ok(())
}
