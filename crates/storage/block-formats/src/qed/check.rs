//! Checking QED images.

use super::Qed;
use super::spec::{Header, NEED_CHECK, ZERO};
use crate::blockmap::{At, Level};
use base::{Errno, IoResult};
use block::check::{Fix, Report};

struct Checker<'a> {
    at: At<'a>,
    fix: Fix,
    cluster: u64,
    /// Which clusters of the file something refers to.
    used: Vec<bool>,
    report: Report,
}

impl Checker<'_> {
    /// Marks clusters as used; false where they are not in the file, or used already.
    fn take(&mut self, off: u64, len: u64) -> bool {
        let (first, end) = (off / self.cluster, (off + len).div_ceil(self.cluster));
        let Some(range) = self.used.get_mut(first as usize..end as usize) else { return false };
        !range.iter_mut().any(|u| std::mem::replace(u, true))
    }

    /// An entry that refers to nothing sound: told of, or emptied.
    async fn broken(&mut self, place: u64, log: &mut dyn FnMut(&str), what: &str) -> IoResult<()> {
        log(what);
        if self.fix == Fix::All {
            self.at.meta.write(&self.at.io, place, &[0; 8], Level::Entry).await?;
            self.report.corruptions_fixed += 1;
        } else {
            self.report.corruptions += 1;
        }
        Ok(())
    }

    async fn entry(&self, place: u64) -> IoResult<u64> {
        Ok(u64::from_le_bytes(self.at.meta.array(&self.at.io, place).await?))
    }
}

/// Looks whether each cluster is used once and is there; empties entries that are broken.
pub(super) async fn check(qed: &Qed, at: At<'_>, fix: Fix, log: &mut dyn FnMut(&str)) -> IoResult<Report> {
    let header = qed.header();
    let cluster = qed.cluster;
    let clusters = at.io.file_len()?.div_ceil(cluster);
    // A bit of memory for each cluster of a file that is really there; files of holes have an end, too.
    let n = usize::try_from(clusters).ok().filter(|n| *n <= 1 << 28).ok_or(Errno::FBIG)?;
    let mut c = Checker { at, fix, cluster, used: vec![false; n], report: Report::default() };
    c.report.total_clusters = header.size.div_ceil(cluster);
    c.take(0, u64::from(header.header) * cluster);
    c.take(header.directory, header.table_len());
    let entries = header.entries();
    let mut last = 0;
    for i in 0..c.report.total_clusters.div_ceil(entries) {
        let place = header.directory + 8 * i;
        let table = c.entry(place).await?;
        if table == 0 {
            continue;
        }
        if !table.is_multiple_of(cluster) || !c.take(table, header.table_len()) {
            c.broken(place, log, &format!("ERROR: invalid L2 table offset 0x{table:x} in L1 entry {i}"))
                .await?;
            continue;
        }
        for j in 0..entries {
            let place = table + 8 * j;
            let e = c.entry(place).await?;
            if e == 0 || e == ZERO {
                continue;
            }
            if !e.is_multiple_of(cluster) || !c.take(e, cluster) {
                c.broken(place, log, &format!("ERROR: invalid cluster offset 0x{e:x}")).await?;
                continue;
            }
            c.report.allocated_clusters += 1;
            c.report.fragmented_clusters += u64::from(last != 0 && e != last + cluster);
            last = e;
        }
    }
    let leaks = c.used.iter().filter(|u| !**u).count() as u64;
    if leaks > 0 {
        c.report.leaks = leaks;
    }
    let sound = c.report.corruptions == 0;
    let report = c.report;
    if fix == Fix::All && sound {
        at.meta.write_back(&at.io).await?;
        at.io.flush().await?;
        if header.features & NEED_CHECK != 0 {
            qed.put_header(&at, Header { features: header.features & !NEED_CHECK, ..header }).await?;
        }
    }
    Ok(report)
}
