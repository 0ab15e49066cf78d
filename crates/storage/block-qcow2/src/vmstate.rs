//! The state of a virtual machine, which an image keeps behind its disk: the L2 tables go on behind what the disk needs of
//! them. A snapshot keeps it as it keeps the disk.

use base::{Errno, IoResult};
use mem::IoBuf;

use crate::host::Host;
use crate::image::Image;
use crate::spec;

impl Image {
    /// Where the state begins, as if it were of the disk.
    pub(crate) fn vm_state_start(&self) -> u64 {
        self.geo.l1_entries_for(self.virtual_size()).saturating_mul(self.geo.l2_coverage())
    }

    /// Where what begins at `off` must end: at the disk's end, or behind it where the L1 table ends.
    pub(crate) fn limit(&self, off: u64) -> u64 {
        let size = self.virtual_size();
        if off < size || off < self.vm_state_start() {
            return size;
        }
        (self.map.read().l1.len() as u64).saturating_mul(self.geo.l2_coverage())
    }

    fn vm_state_place(&self, off: u64, len: u64) -> IoResult<u64> {
        let most = (spec::MAX_L1_BYTES / 8).saturating_mul(self.geo.l2_coverage());
        let place = self.vm_state_start().checked_add(off).ok_or(Errno::FBIG)?;
        match place.checked_add(len) {
            Some(end) if end <= most.min(i64::MAX as u64) => Ok(place),
            _ => Err(Errno::FBIG),
        }
    }

    /// Reads from the state; what was never written is zeroes.
    pub async fn read_vm_state<H: Host>(&self, h: &H, off: u64, buf: IoBuf) -> IoResult<()> {
        let place = self.vm_state_place(off, buf.len() as u64)?;
        self.read_guest(h, place, buf).await
    }

    /// Writes to the state. `EFBIG` where no L1 table can lead to it.
    pub async fn write_vm_state<H: Host>(&self, h: &H, off: u64, buf: IoBuf) -> IoResult<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let place = self.vm_state_place(off, buf.len() as u64)?;
        {
            let mut m = self.meta.lock().await;
            self.begin_modify(h, &mut m).await?;
            let end = place + buf.len() as u64;
            self.grow_l1(h, &mut m, self.geo.l1_entries_for(end), false).await?;
        }
        self.write(h, place, buf).await
    }
}
