//! What is put into guest memory at every reset.

use firmware::load::Segment;
use mem::{AddressSpace, BusError};

/// Images by address, loaded again at each reset so that a guest that changed them starts from the same.
#[derive(Default)]
pub(crate) struct Roms {
    segments: Vec<Segment>,
}

impl Roms {
    pub(crate) fn add(&mut self, segments: impl IntoIterator<Item = Segment>) {
        self.segments.extend(segments);
    }

    /// Writes all images.
    pub(crate) fn load(&self, space: &AddressSpace) -> Result<(), BusError> {
        static ZEROS: [u8; 65536] = [0; 65536];
        for s in &self.segments {
            space.write_rom(s.addr, &s.data)?;
            let mut at = s.addr + s.data.len() as u64;
            let end = at + s.zero;
            while at < end {
                let n = (end - at).min(ZEROS.len() as u64);
                space.write_rom(at, &ZEROS[..n as usize])?;
                at += n;
            }
        }
        Ok(())
    }
}
