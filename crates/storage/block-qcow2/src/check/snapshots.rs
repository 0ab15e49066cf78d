//! Checking the table of internal snapshots, and writing it anew.

use std::sync::atomic::Ordering;

use block::check::Fix;
use qapi::{QError, qerr};

use super::{Checker, config, io};
use crate::host::Host;
use crate::image::Image;
use crate::snapshot::{self, EXTRA_HINT, Snapshot};
use crate::spec;

/// A table to be written, and how many things are right then.
pub(super) struct Repaired {
    list: Vec<Snapshot>,
    wrong: u64,
}

impl<H: Host> Checker<'_, H> {
    /// Looks at the table itself; answers what it should be, where `fix` says that it is to be made so.
    pub(super) async fn check_snapshots(&mut self, fix: Fix) -> Result<Option<Repaired>, QError> {
        let h = self.header.clone();
        let all = fix == Fix::All;
        let mut wrong = 0;
        let over = h.snapshot_count.saturating_sub(spec::MAX_SNAPSHOTS);
        if over > 0 && !all {
            return Err(qerr!("ERROR snapshot table too large").with_hint(format!(
                "You can force-remove all {over} overhanging snapshots with qemu-img check -r all"
            )));
        }
        if h.check_snapshots_place().is_err() {
            return Err(qerr!("ERROR snapshot table offset invalid"));
        }
        let loaded = snapshot::load(self.host, &h, self.file_len, true).await;
        let loaded = loaded.map_err(|e| e.prepend("ERROR failed to read the snapshot table"))?;
        if loaded.list.len() as u64 != u64::from(h.snapshot_count.min(spec::MAX_SNAPSHOTS)) {
            // What they refer to would be given away.
            return Err(qerr!("ERROR snapshot table too large"));
        }
        if over > 0 {
            self.say(format!("Discarding {over} overhanging snapshots"));
            self.report.corruptions += u64::from(over);
            wrong += u64::from(over);
        }
        for (i, n) in &loaded.excess {
            if !all {
                let said = "ERROR failed to read the snapshot table: Too much extra metadata in snapshot table entry";
                return Err(qerr!("{said} {i}").with_hint(EXTRA_HINT));
            }
            let max = spec::MAX_SNAPSHOT_EXTRA;
            self.corruption(format!(
                "Discarding too much extra metadata in snapshot table entry {i} ({n} > {max})"
            ));
            wrong += 1;
        }
        let mut list = loaded.list;
        for (i, s) in list.iter_mut().enumerate() {
            if s.disk_size.is_none() && h.version >= 3 {
                let verb = if all { "Repairing" } else { "ERROR" };
                self.corruption(format!("{verb} snapshot table entry {i} is incomplete"));
                s.disk_size = Some(h.size);
                wrong += 1;
            }
        }
        Ok((all && wrong > 0).then_some(Repaired { list, wrong }))
    }

    /// Writes the table; refcounts are right by now.
    pub(super) async fn put_snapshots(&mut self, to: Repaired) -> Result<(), QError> {
        let failed = |log: &mut dyn FnMut(&str), e| {
            log(&format!("ERROR failed to update snapshot table: {e}"));
            io(e)
        };
        let image = Image::open(self.host, "", false, |h| Ok(config(h))).await?;
        // Whatever the image says of itself: what is wrong with it is being repaired.
        image.corrupt.store(false, Ordering::Release);
        let written = async {
            let mut m = image.meta.lock().await;
            image.put_snapshots(self.host, &mut m, &to.list).await?;
            image.write_back(self.host, &mut m).await?;
            image.write_refcounts(self.host, &mut m).await?;
            self.host.flush().await
        };
        written.await.map_err(|e| failed(self.log, e))?;
        self.again().await?;
        self.report.corruptions -= to.wrong;
        self.report.corruptions_fixed += to.wrong;
        Ok(())
    }
}
