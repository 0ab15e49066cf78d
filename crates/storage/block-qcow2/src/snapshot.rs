//! The table of internal snapshots.

use base::Errno;
use qapi::{QError, qerr};

use crate::header::Header;
use crate::host::{Host, read_vec};
use crate::spec::{self, be16, be32, be64};

/// One internal snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Where its L1 table stands.
    pub l1_offset: u64,
    /// Entries of it.
    pub l1_size: u32,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was taken, seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// The guest's clock, nanoseconds.
    pub vm_clock_nsec: u64,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// The virtual size then, where it is recorded.
    pub disk_size: Option<u64>,
    /// Executed instructions, where they were counted.
    pub icount: Option<u64>,
    /// Extra data past what Rhea knows; kept.
    pub extra: Vec<u8>,
    /// Bytes of its entry in the table on disk.
    pub on_disk: u64,
}

/// What a snapshot table holds.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The snapshots.
    pub list: Vec<Snapshot>,
    /// The table's length, bytes.
    pub bytes: u64,
    /// Which entries have more extra data than there may be, and how much: it is not in the list (lenient only).
    pub excess: Vec<(usize, u32)>,
}

/// The most extra data that is read in spite of the limit, bytes.
const MAX_LENIENT_EXTRA: u32 = 8 << 20;

/// Reads the snapshot table. `lenient`: no entry has too much extra data, and no more entries are read than an image may
/// have; an image without a place for its table has none.
pub async fn load<H: Host>(host: &H, h: &Header, file_len: u64, lenient: bool) -> Result<Loaded, QError> {
    let mut out = Loaded::default();
    if h.snapshot_count == 0 || (lenient && h.check_snapshots_place().is_err()) {
        return Ok(out);
    }
    let fail = |e: base::Errno| qerr!("Could not read snapshots: {e}");
    // The table's length is known only by walking it: read it piece by piece as needed.
    // The last entry's padding may lie behind the file's end; of a damaged table, all of it may.
    let behind = if lenient { 40 * u64::from(h.snapshot_count.min(spec::MAX_SNAPSHOTS)) } else { 8 };
    let limit =
        spec::MAX_SNAPSHOT_BYTES.min(file_len.saturating_sub(h.snapshot_offset).saturating_add(behind));
    let mut bytes: Vec<u8> = Vec::new();
    let mut at = 0usize;
    while out.list.len() < h.snapshot_count.min(spec::MAX_SNAPSHOTS) as usize {
        let max_extra = if lenient { MAX_LENIENT_EXTRA } else { spec::MAX_SNAPSHOT_EXTRA };
        match parse(&bytes[at.min(bytes.len())..], max_extra) {
            Err(TooMuch) => {
                let entry = out.list.len();
                return Err(
                    qerr!("Too much extra metadata in snapshot table entry {entry}").with_hint(EXTRA_HINT)
                );
            }
            Ok(Some((mut s, n))) => {
                let extra = be32(&bytes[at..], 36).unwrap_or(0);
                if extra > spec::MAX_SNAPSHOT_EXTRA {
                    out.excess.push((out.list.len(), extra));
                    s.extra.truncate(spec::MAX_SNAPSHOT_EXTRA as usize - 24);
                }
                at += n;
                out.list.push(s);
            }
            Ok(None) => {
                let more = limit.saturating_sub(bytes.len() as u64).min(256 << 10);
                if more == 0 {
                    let need = at + entry_length(&bytes[at.min(bytes.len())..]);
                    if need as u64 > spec::MAX_SNAPSHOT_BYTES {
                        return Err(qerr!("Could not read snapshots: Snapshot table too large"));
                    }
                    // Behind the file's end there are zeroes. No entry may be left out: its clusters are in use.
                    bytes.resize(need, 0);
                    continue;
                }
                let from = h.snapshot_offset + bytes.len() as u64;
                bytes.extend(read_vec(host, from, more as usize).await.map_err(fail)?);
            }
        }
    }
    out.bytes = at as u64;
    Ok(out)
}

/// What helps against too much extra data.
pub(crate) const EXTRA_HINT: &str = "You can force-remove this extra metadata with qemu-img check -r all";

/// An entry says that it has too much extra data.
struct TooMuch;

/// The length of the entry that begins with these bytes, as far as they say; 40 where there are fewer.
fn entry_length(b: &[u8]) -> usize {
    let n = |v: Option<u16>| usize::from(v.unwrap_or(0));
    match be32(b, 36) {
        Some(extra) if b.len() >= 40 => {
            (40 + extra as usize + n(be16(b, 12)) + n(be16(b, 14))).next_multiple_of(8)
        }
        _ => 40,
    }
}

/// One entry and its length; `None` where `b` ends before the entry does.
fn parse(b: &[u8], max_extra: u32) -> Result<Option<(Snapshot, usize)>, TooMuch> {
    if b.len() < 40 {
        return Ok(None);
    }
    let extra = be32(b, 36).unwrap_or(0);
    if extra > max_extra {
        return Err(TooMuch);
    }
    let (id_len, name_len) = (be16(b, 12).unwrap_or(0) as usize, be16(b, 14).unwrap_or(0) as usize);
    let strings = 40 + extra as usize;
    let total = (strings + id_len + name_len).next_multiple_of(8);
    if b.len() < total {
        return Ok(None);
    }
    let text = |from: usize, n: usize| {
        // Nobody has ever seen what follows a NUL.
        let shown = b[from..from + n].split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(shown).into_owned()
    };
    let state32 = u64::from(be32(b, 32).unwrap_or(0));
    let snapshot = Snapshot {
        l1_offset: be64(b, 0).unwrap_or(0),
        l1_size: be32(b, 8).unwrap_or(0),
        date_sec: be32(b, 16).unwrap_or(0),
        date_nsec: be32(b, 20).unwrap_or(0),
        vm_clock_nsec: be64(b, 24).unwrap_or(0),
        vm_state_size: if extra >= 8 { be64(b, 40).unwrap_or(0) } else { state32 },
        disk_size: if extra >= 16 { be64(b, 48) } else { None },
        icount: if extra >= 24 { be64(b, 56).filter(|v| *v != u64::MAX) } else { None },
        id: text(strings, id_len),
        name: text(strings + id_len, name_len),
        extra: b[(40 + extra as usize).min(64)..40 + extra as usize].to_vec(),
        on_disk: total as u64,
    };
    Ok(Some((snapshot, total)))
}

impl Snapshot {
    /// The entry as it stands in the table, padded to 8 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(64 + self.id.len() + self.name.len());
        b.extend_from_slice(&self.l1_offset.to_be_bytes());
        b.extend_from_slice(&self.l1_size.to_be_bytes());
        b.extend_from_slice(&(self.id.len() as u16).to_be_bytes());
        b.extend_from_slice(&(self.name.len() as u16).to_be_bytes());
        b.extend_from_slice(&self.date_sec.to_be_bytes());
        b.extend_from_slice(&self.date_nsec.to_be_bytes());
        b.extend_from_slice(&self.vm_clock_nsec.to_be_bytes());
        let small = u32::try_from(self.vm_state_size).unwrap_or(0);
        b.extend_from_slice(&small.to_be_bytes());
        b.extend_from_slice(&(24 + self.extra.len() as u32).to_be_bytes());
        b.extend_from_slice(&self.vm_state_size.to_be_bytes());
        b.extend_from_slice(&self.disk_size.unwrap_or(0).to_be_bytes());
        b.extend_from_slice(&self.icount.unwrap_or(u64::MAX).to_be_bytes());
        b.extend_from_slice(&self.extra);
        b.extend_from_slice(self.id.as_bytes());
        b.extend_from_slice(self.name.as_bytes());
        b.resize(b.len().next_multiple_of(8), 0);
        b
    }

    /// Why the snapshot's L1 table cannot be used, if so, and the error that this is.
    pub fn l1_problem(&self, cluster_size: u64) -> Option<(&'static str, Errno)> {
        if u64::from(self.l1_size) * 8 > spec::MAX_L1_BYTES {
            return Some(("Snapshot L1 table too large", Errno::FBIG));
        }
        let end = self.l1_offset.checked_add(u64::from(self.l1_size) * 8);
        if self.l1_offset & (cluster_size - 1) != 0 || end.is_none_or(|e| e > i64::MAX as u64) {
            return Some(("Snapshot L1 table offset invalid", Errno::INVAL));
        }
        None
    }
}
