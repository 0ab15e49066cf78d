//! Checking Parallels images.

use super::Parallels;
use super::spec::{DATA_OFF_AT, IN_USE};
use crate::blockmap::{At, Level};
use base::{Errno, IoResult};
use block::check::{Fix, Report};
use block::driver::Prealloc;
use std::sync::atomic::Ordering;

/// The most clusters that are used twice that one check repairs: each takes a cluster at the end of the file.
const MAX_DOUBLES: usize = 1 << 16;

/// Says what is wrong, and counts it as repaired or not; answers whether it is to be repaired.
fn found(fix: Fix, log: &mut dyn FnMut(&str), report: &mut Report, what: &str) -> bool {
    let repair = fix == Fix::All;
    log(&format!("{} {what}", if repair { "Repairing" } else { "ERROR" }));
    *(if repair { &mut report.corruptions_fixed } else { &mut report.corruptions }) += 1;
    repair
}

/// Looks whether the image was closed, and whether each cluster is in the file and used once.
pub(super) async fn check(
    p: &Parallels,
    at: At<'_>,
    fix: Fix,
    log: &mut dyn FnMut(&str),
) -> IoResult<Report> {
    let mut report = Report::default();
    let mut clean = !p.unclean.load(Ordering::Acquire);
    if !clean {
        clean = found(fix, log, &mut report, "image was not closed correctly");
    }
    // The header is read anew: it may have been repaired since the image was opened.
    let data_off = u32::from_le_bytes(at.meta.array(&at.io, DATA_OFF_AT).await?);
    let file_len = at.io.file_len()?;
    let wrong = Parallels::misplaced(&p.header, data_off, p.cluster, file_len);
    if wrong && found(fix, log, &mut report, "data_off field has incorrect value") {
        let right = ((p.data / 512) as u32).to_le_bytes();
        at.meta.write(&at.io, DATA_OFF_AT, &right, Level::Early).await?;
    }
    let slots = file_len.saturating_sub(p.data).div_ceil(p.cluster);
    let slots = usize::try_from(slots).ok().filter(|n| *n <= 1 << 28).ok_or(Errno::FBIG)?;
    let mut used = vec![false; slots];
    report.total_clusters = u64::from(p.header.entries);
    let mut end = p.data;
    let (mut first, mut last) = (0, 0);
    let mut doubles = Vec::new();
    while first < p.header.entries {
        let entries = p.entries(&at, first).await?;
        for (i, e) in (first..).zip(entries.iter().copied()) {
            if e == 0 {
                last = 0;
                continue;
            }
            let off = u64::from(e) * p.unit;
            if !p.inside(e, file_len) {
                if found(fix, log, &mut report, &format!("cluster {i} is outside image")) {
                    let place = Parallels::entry_at(u64::from(i));
                    at.meta.write(&at.io, place, &[0; 4], Level::Entry).await?;
                }
                continue;
            }
            let slot = ((off - p.data) / p.cluster) as usize;
            if used.get_mut(slot).is_none_or(|u| std::mem::replace(u, true)) {
                // What is too much for one check is left for the next.
                let fix = if doubles.len() < MAX_DOUBLES { fix } else { Fix::None };
                if found(fix, log, &mut report, &format!("duplicate offset in BAT entry {i}")) {
                    doubles.push((i, off));
                }
                continue;
            }
            report.allocated_clusters += 1;
            report.fragmented_clusters += u64::from(last != 0 && off != last + p.cluster);
            last = off;
            end = end.max(off + p.cluster);
        }
        first += entries.len().max(1) as u32;
        // A table may be larger than memory. Entries that were taken back hurt nobody on their own.
        if at.meta.crowded() {
            at.meta.write_back(&at.io).await?;
        }
    }
    for (i, off) in doubles {
        copy(p, &at, i, off, &mut end).await?;
        report.allocated_clusters += 1;
        if at.meta.crowded() {
            at.meta.write_back(&at.io).await?;
        }
    }
    let len = at.io.file_len()?;
    report.image_end_offset = end;
    if len > end {
        let leaked = len - end;
        let clusters = leaked.div_ceil(p.cluster);
        let repair = fix != Fix::None;
        log(&format!(
            "{} space leaked at the end of the image {leaked}",
            if repair { "Repairing" } else { "ERROR" }
        ));
        if repair {
            at.io.cx.child_truncate(at.io.slot, end, true, Prealloc::Off).await?;
            report.leaks_fixed = clusters;
        } else {
            report.leaks = clusters;
        }
    }
    if fix != Fix::None {
        at.meta.write_back(&at.io).await?;
        at.io.flush().await?;
        if clean && report.corruptions == 0 && p.header.in_use == IN_USE {
            p.mark(&at, false).await?;
            p.unclean.store(false, Ordering::Release);
        }
    }
    Ok(report)
}

/// Gives a block that shares its cluster with another one a copy of its own.
async fn copy(p: &Parallels, at: &At<'_>, block: u32, from: u64, end: &mut u64) -> IoResult<()> {
    let to = if p.header.ext { end.next_multiple_of(p.cluster) } else { *end };
    let mut done = 0;
    while done < p.cluster {
        let n = (p.cluster - done).min(1 << 20);
        let bytes = at.io.read_vec(from + done, n as usize).await?;
        at.io.write_bytes(to + done, &bytes).await?;
        done += n;
    }
    *end = to + p.cluster;
    let entry = u32::try_from(to / p.unit).map_err(|_| Errno::FBIG)?;
    at.meta.write(&at.io, Parallels::entry_at(u64::from(block)), &entry.to_le_bytes(), Level::Entry).await
}
