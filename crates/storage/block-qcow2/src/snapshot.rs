//! The table of internal snapshots.

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

/// Reads the snapshot table; also answers its length in bytes.
pub async fn load<H: Host>(host: &H, h: &Header, file_len: u64) -> Result<(Vec<Snapshot>, u64), QError> {
    let mut list = Vec::new();
    if h.snapshot_count == 0 {
        return Ok((list, 0));
    }
    let fail = |e: base::Errno| qerr!("Could not read snapshots: {e}");
    // The table's length is known only by walking it: read it piece by piece as needed.
    // The last entry's padding may lie behind the file's end.
    let limit = spec::MAX_SNAPSHOT_BYTES.min(file_len.saturating_sub(h.snapshot_offset).saturating_add(8));
    let mut bytes: Vec<u8> = Vec::new();
    let mut at = 0usize;
    while list.len() < h.snapshot_count as usize {
        match parse(&bytes[at.min(bytes.len())..])? {
            Some((s, n)) => {
                at += n;
                list.push(s);
            }
            None => {
                let more = (limit - bytes.len() as u64).min(256 << 10);
                if more == 0 {
                    return Err(qerr!("Could not read snapshots: Snapshot table too large"));
                }
                let from = h.snapshot_offset + bytes.len() as u64;
                bytes.extend(read_vec(host, from, more as usize).await.map_err(fail)?);
            }
        }
    }
    Ok((list, at as u64))
}

/// One entry and its length; `None` where `b` ends before the entry does.
fn parse(b: &[u8]) -> Result<Option<(Snapshot, usize)>, QError> {
    if b.len() < 40 {
        return Ok(None);
    }
    let extra = be32(b, 36).unwrap_or(0);
    if extra > spec::MAX_SNAPSHOT_EXTRA {
        return Err(qerr!("Too much extra metadata in snapshot table entry"));
    }
    let (id_len, name_len) = (be16(b, 12).unwrap_or(0) as usize, be16(b, 14).unwrap_or(0) as usize);
    let strings = 40 + extra as usize;
    let total = (strings + id_len + name_len).next_multiple_of(8);
    if b.len() < total {
        return Ok(None);
    }
    let text = |from: usize, n: usize| String::from_utf8_lossy(&b[from..from + n]).into_owned();
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

    /// Why the snapshot's L1 table cannot be used, if so.
    pub fn l1_problem(&self, cluster_size: u64) -> Option<&'static str> {
        if u64::from(self.l1_size) * 8 > spec::MAX_L1_BYTES {
            return Some("Snapshot L1 table too large");
        }
        let end = self.l1_offset.checked_add(u64::from(self.l1_size) * 8);
        if self.l1_offset & (cluster_size - 1) != 0 || end.is_none_or(|e| e > i64::MAX as u64) {
            return Some("Snapshot L1 table offset invalid");
        }
        None
    }
}
