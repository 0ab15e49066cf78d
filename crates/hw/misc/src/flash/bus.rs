use super::chip::{Cells, Chip};
use device::{BoxFuture, Device, Reset, StateBlob, StateBytes, StateError};
use mem::{AddressSpace, MapError, Memory, Mmio, RegionId, Size, SplitRegs, read_split, write_split};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock, Weak};

/// Where a bank's content lives beyond the machine.
pub trait FlashStore: Send + Sync {
    /// `len` bytes at `off` have changed and are to be written back. Must not block.
    fn changed(&self, mem: &Arc<Memory>, off: u64, len: u64);

    /// Ends when everything that changed before has been written.
    fn written(&self) -> BoxFuture<'_>;
}

/// A bank: two 16-bit chips side by side on a 32-bit bus.
///
/// While both chips show their cells, vCPUs read them as memory, without asking the bank.
pub struct CfiFlash {
    name: String,
    mem: Arc<Memory>,
    store: Option<Arc<dyn FlashStore>>,
    chips: Mutex<[Chip; 2]>,
    mapped: OnceLock<(Weak<AddressSpace>, RegionId)>,
    /// Held while the mode of the mapping is set, so that it is the last one computed.
    order: Mutex<()>,
}

device::saved_state! {
    /// The saved state of a flash bank. The chips show their cells.
    pub struct CfiFlashState: "cfi_flash", 1 {
        /// The cells, without trailing erased bytes.
        pub cells: StateBytes,
    }
}

/// One chip's cells in the bank's memory, and what it changed.
struct Lane<'a> {
    mem: &'a Memory,
    lane: u64,
    changed: &'a mut Option<(u64, u64)>,
}

impl Lane<'_> {
    fn at(&self, word: u32) -> u64 {
        u64::from(word) * 4 + self.lane * 2
    }

    fn touch(&mut self, off: u64, len: u64) {
        let (start, end) = self.changed.unwrap_or((off, off + len));
        *self.changed = Some((start.min(off), end.max(off + len)));
    }
}

impl Cells for Lane<'_> {
    fn get(&self, word: u32) -> u16 {
        self.mem.load(self.at(word))
    }

    fn set(&mut self, word: u32, v: u16) {
        self.mem.store(self.at(word), v);
        self.touch(self.at(word), 2);
    }

    fn erase(&mut self, word: u32, words: u32) {
        for w in word..word + words {
            self.mem.store(self.at(w), 0xffffu16);
        }
        self.touch(self.at(word), u64::from(words) * 4 - 2);
    }
}

impl CfiFlash {
    /// A bank over `mem`, whose size is a power of two from 128 KiB to 2 GiB, in erase blocks of `block` bytes
    /// (a power of two of at least 512, at most the size).
    pub fn new(
        name: &str,
        mem: Arc<Memory>,
        block: u32,
        store: Option<Arc<dyn FlashStore>>,
    ) -> Arc<CfiFlash> {
        assert!(mem.len().is_power_of_two() && (17..=31).contains(&mem.len().trailing_zeros()));
        let chip = Chip::new(mem.len().trailing_zeros() as u8 - 1, block / 2);
        Arc::new(CfiFlash {
            name: name.to_owned(),
            mem,
            store,
            chips: Mutex::new([chip.clone(), chip]),
            mapped: OnceLock::new(),
            order: Mutex::new(()),
        })
    }

    /// Maps the bank at `base`, once.
    ///
    /// # Errors
    /// Where the address space refuses.
    pub fn map(
        self: &Arc<Self>,
        space: &Arc<AddressSpace>,
        base: u64,
        priority: i32,
    ) -> Result<RegionId, MapError> {
        let id = space.map_rom_device(base, self.mem.clone(), 0, self.mem.len(), self.clone(), priority)?;
        let _ = self.mapped.set((Arc::downgrade(space), id));
        Ok(id)
    }

    fn sync(&self) {
        let _order = self.order.lock();
        let array = self.chips.lock().iter().all(Chip::in_array_mode);
        if let Some((space, id)) = self.mapped.get()
            && let Some(space) = space.upgrade()
        {
            space.set_rom_mode(*id, array);
        }
    }
}

impl SplitRegs for CfiFlash {
    const WIDTH: Size = Size::B4;

    fn read_reg(&self, off: u64) -> u64 {
        let chips = self.chips.lock();
        let word = (off / 4) as u32;
        let read = |lane: usize| {
            let cells = Lane { mem: &self.mem, lane: lane as u64, changed: &mut None };
            u64::from(chips[lane].read(word, &cells))
        };
        read(0) | read(1) << 16
    }

    fn write_reg(&self, off: u64, value: u64, mask: u64) {
        let mut changed = None;
        {
            let mut chips = self.chips.lock();
            for (lane, chip) in chips.iter_mut().enumerate() {
                let (v, m) = ((value >> (16 * lane)) as u16, (mask >> (16 * lane)) as u16);
                if m != 0 {
                    let mut cells = Lane { mem: &self.mem, lane: lane as u64, changed: &mut changed };
                    chip.write((off / 4) as u32, v, m, &mut cells);
                }
            }
        }
        if let (Some((start, end)), Some(store)) = (changed, &self.store) {
            store.changed(&self.mem, start, end - start);
        }
        self.sync();
    }
}

impl Mmio for CfiFlash {
    fn read(&self, off: u64, size: Size) -> u64 {
        read_split(self, off, size)
    }

    fn write(&self, off: u64, value: u64, size: Size) {
        write_split(self, off, value, size);
    }

    fn accepts(&self, off: u64, size: Size, _write: bool) -> bool {
        off.is_multiple_of(size.bytes() as u64)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Device for CfiFlash {
    fn reset(&self, _kind: Reset) {
        self.chips.lock().iter_mut().for_each(Chip::reset);
        self.sync();
    }

    fn pause(&self) -> BoxFuture<'_> {
        match &self.store {
            Some(s) => s.written(),
            None => Box::pin(std::future::ready(())),
        }
    }

    fn save(&self) -> StateBlob {
        let mut cells = vec![0; self.mem.len() as usize];
        self.mem.read(0, &mut cells);
        let used = cells.iter().rposition(|b| *b != 0xff).map_or(0, |n| n + 1);
        cells.truncate(used);
        CfiFlashState { cells: StateBytes(cells) }.to_blob()
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        let s = CfiFlashState::from_blob(state)?;
        let used = s.cells.0.len() as u64;
        if used > self.mem.len() {
            return Err(StateError::new("cfi_flash: more cells than there are"));
        }
        self.mem.write(0, &s.cells.0);
        self.mem.fill(used, self.mem.len() - used, 0xff);
        self.reset(Reset::Warm);
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x2000_0000;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u64, u64)>>);

    impl FlashStore for Log {
        fn changed(&self, _mem: &Arc<Memory>, off: u64, len: u64) {
            self.0.lock().push((off, len));
        }
        fn written(&self) -> BoxFuture<'_> {
            Box::pin(std::future::ready(()))
        }
    }

    fn rig() -> (Arc<AddressSpace>, Arc<CfiFlash>, Arc<Log>) {
        let space = AddressSpace::new("memory");
        let log = Arc::new(Log::default());
        let mem = Memory::buffer(1 << 20, 4096);
        let flash = CfiFlash::new("virt.flash0", mem, 0x4_0000, Some(log.clone()));
        flash.map(&space, BASE, 0).unwrap();
        (space, flash, log)
    }

    #[test]
    fn a_driver_finds_two_interleaved_chips_programs_and_erases() {
        let (space, flash, log) = rig();
        let st = |off: u64, v: u64| space.store(BASE + off, v, Size::B4).unwrap();
        let ld = |off: u64| space.load(BASE + off, Size::B4).unwrap();
        assert!(space.ram_page(BASE).is_some_and(|(_, writable)| !writable));
        st(0x55 * 4, 0x0098_0098);
        assert!(space.ram_page(BASE).is_none());
        assert_eq!((ld(0x40), ld(0x44), ld(0x48)), (0x51_0051, 0x52_0052, 0x59_0059));
        // Each chip has half the bank, in blocks of half the size.
        assert_eq!(
            (ld(0x27 * 4), ld(0x2d * 4), ld(0x2f * 4), ld(0x30 * 4)),
            (0x13_0013, 0x3_0003, 0, 0x2_0002)
        );
        st(0, 0xff_00ff);
        assert!(space.ram_page(BASE).is_some());
        st(0x4_0000, 0x20_0020);
        st(0x4_0000, 0xd0_00d0);
        assert_eq!(ld(0), 0x80_0080);
        st(0x4_0010, 0x40_0040);
        st(0x4_0010, 0x1234_5678);
        st(0, 0xff_00ff);
        assert_eq!((ld(0x4_000c), ld(0x4_0010), ld(0x7_fffc)), (0xffff_ffff, 0x1234_5678, 0xffff_ffff));
        assert_eq!((ld(0x3_fffc), ld(0x8_0000)), (0, 0));
        assert_eq!(*log.0.lock(), [(0x4_0000, 0x4_0000), (0x4_0010, 4)]);
        let saved = flash.save();
        let (_, other, _) = rig();
        other.load(&saved).unwrap();
        assert_eq!(other.save(), saved);
    }

    #[test]
    fn a_narrow_command_reaches_one_chip_and_reset_both() {
        let (space, flash, _) = rig();
        space.store(BASE + 2, 0x90, Size::B2).unwrap();
        assert_eq!(space.load(BASE, Size::B4).unwrap(), 0x89_0000);
        flash.reset(Reset::Warm);
        assert_eq!(space.load(BASE, Size::B4).unwrap(), 0);
        assert!(space.ram_page(BASE).is_some());
    }
}
