//! The firmware configuration device: named and numbered items that a guest reads by a register or by DMA.

pub mod spec;

use device::{Device, Reset, StateBlob, StateError};
use mem::{Dma, Mmio, Size};
use parking_lot::Mutex;
use qapi::{QError, qerr};
use spec::{dma, key};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The items, before the device is made.
#[derive(Clone, Debug, Default)]
pub struct Items {
    by_key: BTreeMap<u16, Arc<[u8]>>,
    files: Vec<(String, Arc<[u8]>)>,
}

impl Items {
    /// The items that every machine has: signature, features, processors, memory.
    pub fn new(cpus: u16, max_cpus: u16, ram: u64) -> Items {
        let mut items = Items::default();
        items.set(key::SIGNATURE, *b"QEMU");
        items.set(key::ID, spec::FEATURES.to_le_bytes());
        items.set(key::UUID, [0; 16]);
        items.set(key::RAM_SIZE, ram.to_le_bytes());
        items.set(key::NOGRAPHIC, 1u16.to_le_bytes());
        items.set(key::NB_CPUS, cpus.to_le_bytes());
        items.set(key::MAX_CPUS, max_cpus.to_le_bytes());
        items.set(key::BOOT_MENU, 0u16.to_le_bytes());
        items
    }

    /// Sets a numbered item.
    pub fn set(&mut self, key: u16, data: impl Into<Arc<[u8]>>) {
        self.by_key.insert(key, data.into());
    }

    /// Sets a numbered item of bytes and the item that tells their number.
    pub fn set_sized(&mut self, size_key: u16, data_key: u16, data: Arc<[u8]>) {
        self.set(size_key, (data.len() as u32).to_le_bytes());
        self.set(data_key, data);
    }

    /// Adds a file.
    ///
    /// # Errors
    /// Where the name is too long or taken, or there are too many files.
    pub fn add_file(&mut self, name: &str, data: impl Into<Arc<[u8]>>) -> Result<(), QError> {
        if name.is_empty() || name.len() >= spec::NAME_LEN {
            return Err(qerr!("fw_cfg file name '{name}' must have 1 to {} characters", spec::NAME_LEN - 1));
        }
        if self.files.iter().any(|f| f.0 == name) {
            return Err(qerr!("duplicate fw_cfg file name: {name}"));
        }
        if self.files.len() >= spec::MAX_FILES {
            return Err(qerr!("too many fw_cfg files"));
        }
        self.files.push((name.to_owned(), data.into()));
        Ok(())
    }

    /// The items by key, with the directory.
    fn finish(mut self) -> BTreeMap<u16, Arc<[u8]>> {
        self.files.sort();
        let mut dir = (self.files.len() as u32).to_be_bytes().to_vec();
        for (n, (name, data)) in self.files.iter().enumerate() {
            let k = key::FILE_FIRST + n as u16;
            dir.extend((data.len() as u32).to_be_bytes());
            dir.extend(k.to_be_bytes());
            dir.extend([0; 2]);
            let mut padded = [0; spec::NAME_LEN];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            dir.extend(padded);
            self.by_key.insert(k, data.clone());
        }
        self.by_key.insert(key::FILE_DIR, dir.into());
        self.by_key
    }
}

/// The device.
pub struct FwCfg {
    items: BTreeMap<u16, Arc<[u8]>>,
    dma: Dma,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    selected: u16,
    offset: u64,
    dma_high: u32,
}

device::saved_state! {
    /// The saved state of the firmware configuration device; its items are configuration.
    pub struct FwCfgState: "fw_cfg", 1 {
        /// The selected item.
        pub selected: u16,
        /// Where the next read in it is.
        pub offset: u64,
        /// The high half of the DMA address that is being written.
        pub dma_high: u32,
    }
}

impl FwCfg {
    /// A device with these items; `dma` is for its transfers.
    pub fn new(items: Items, dma: Dma) -> Arc<FwCfg> {
        Arc::new(FwCfg { items: items.finish(), dma, state: Mutex::default() })
    }

    fn select(s: &mut State, key: u16) {
        (s.selected, s.offset) = (key, 0);
    }

    /// The next `n` bytes of the selected item, as far as it goes.
    fn take(&self, s: &mut State, n: u64) -> &[u8] {
        let item: &[u8] = self.items.get(&s.selected).map_or(&[], |i| i);
        let start = usize::try_from(s.offset).unwrap_or(usize::MAX).min(item.len());
        let end = start + usize::try_from(n).unwrap_or(usize::MAX).min(item.len() - start);
        s.offset = s.offset.saturating_add(n);
        &item[start..end]
    }

    /// Runs the transfer that the descriptor at `at` asks for, and writes its outcome there.
    fn transfer(&self, at: u64) {
        let mut d = [0; dma::DESCRIPTOR];
        let outcome = match self.dma.read(at, &mut d) {
            Ok(()) => self.run(&d),
            Err(_) => dma::ERROR,
        };
        // A descriptor that cannot be written cannot be told anything.
        let _ = self.dma.write(at, &outcome.to_be_bytes());
    }

    fn run(&self, d: &[u8; dma::DESCRIPTOR]) -> u32 {
        let word = |i: usize| u32::from_be_bytes([d[i], d[i + 1], d[i + 2], d[i + 3]]);
        let (control, len) = (word(0), u64::from(word(4)));
        let addr = u64::from(word(8)) << 32 | u64::from(word(12));
        let mut s = self.state.lock();
        if control & dma::SELECT != 0 {
            Self::select(&mut s, (control >> 16) as u16);
        }
        if control & dma::READ != 0 {
            let bytes = self.take(&mut s, len);
            drop(s);
            self.deliver(addr, len, bytes)
        } else if control & dma::WRITE != 0 {
            dma::ERROR // No item can be written.
        } else {
            if control & dma::SKIP != 0 {
                s.offset = s.offset.saturating_add(len);
            }
            0
        }
    }

    /// Copies `bytes` to the guest and zeros behind them, `len` in all.
    fn deliver(&self, addr: u64, len: u64, bytes: &[u8]) -> u32 {
        static ZEROS: [u8; 65536] = [0; 65536];
        if self.dma.write(addr, bytes).is_err() {
            return dma::ERROR;
        }
        let mut done = bytes.len() as u64;
        while done < len {
            // Guest memory ends somewhere, and with it this loop.
            let n = (len - done).min(ZEROS.len() as u64);
            let Some(at) = addr.checked_add(done) else { return dma::ERROR };
            if self.dma.write(at, &ZEROS[..n as usize]).is_err() {
                return dma::ERROR;
            }
            done += n;
        }
        0
    }
}

impl Mmio for FwCfg {
    fn read(&self, off: u64, size: Size) -> u64 {
        let n = size.bytes();
        let mut b = [0; 8];
        match off {
            spec::DATA => {
                let bytes = self.take(&mut self.state.lock(), n as u64);
                b[..bytes.len()].copy_from_slice(bytes);
            }
            o if (spec::DMA..spec::LEN).contains(&o) => {
                let from = (o - spec::DMA) as usize;
                b[..n].copy_from_slice(&spec::DMA_SIGNATURE.to_be_bytes()[from..from + n]);
            }
            _ => {}
        }
        u64::from_le_bytes(b)
    }

    fn write(&self, off: u64, value: u64, size: Size) {
        match (off, size) {
            (spec::SELECTOR, Size::B2) => Self::select(&mut self.state.lock(), (value as u16).swap_bytes()),
            (spec::DMA, Size::B8) => self.transfer(value.swap_bytes()),
            (spec::DMA, Size::B4) => self.state.lock().dma_high = (value as u32).swap_bytes(),
            (o, Size::B4) if o == spec::DMA + 4 => {
                let high = std::mem::take(&mut self.state.lock().dma_high);
                self.transfer(u64::from(high) << 32 | u64::from((value as u32).swap_bytes()));
            }
            _ => {} // The data register takes no writes.
        }
    }

    fn accepts(&self, off: u64, size: Size, write: bool) -> bool {
        let n = size.bytes() as u64;
        match off {
            0..8 => off == spec::DATA,
            spec::SELECTOR => write && size == Size::B2,
            o => o >= spec::DMA && o.is_multiple_of(n) && (!write || n >= 4),
        }
    }

    fn name(&self) -> &str {
        "fwcfg"
    }
}

impl Device for FwCfg {
    fn reset(&self, _kind: Reset) {
        *self.state.lock() = State::default();
    }

    fn save(&self) -> StateBlob {
        let s = *self.state.lock();
        FwCfgState { selected: s.selected, offset: s.offset, dma_high: s.dma_high }.to_blob()
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        let s = FwCfgState::from_blob(state)?;
        *self.state.lock() = State { selected: s.selected, offset: s.offset, dma_high: s.dma_high };
        Ok(())
    }

    fn name(&self) -> &str {
        "fwcfg"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mem::{AddressSpace, Memory};

    const RAM: u64 = 0x8000_0000;

    fn rig() -> (Arc<FwCfg>, Arc<AddressSpace>) {
        let space = AddressSpace::new("memory");
        space.map_ram(RAM, Memory::buffer(8192, 4096), 0, 8192, false, 0, "ram").unwrap();
        let mut items = Items::new(2, 8, 1 << 20);
        items.add_file("opt/b", *b"hello").unwrap();
        items.add_file("opt/a", *b"x").unwrap();
        items.set_sized(key::KERNEL_SIZE, key::KERNEL_DATA, (*b"kernel").into());
        (FwCfg::new(items, Dma::new(space.clone())), space)
    }

    fn select(f: &FwCfg, key: u16) {
        Mmio::write(f, spec::SELECTOR, key.swap_bytes().into(), Size::B2);
    }

    fn bytes(f: &FwCfg, n: usize) -> Vec<u8> {
        (0..n).map(|_| Mmio::read(f, spec::DATA, Size::B1) as u8).collect()
    }

    #[test]
    fn items_are_read_byte_by_byte_and_by_words() {
        let (f, _) = rig();
        assert_eq!(bytes(&f, 6), b"QEMU\0\0", "the signature is selected first, and ends");
        select(&f, key::ID);
        assert_eq!(Mmio::read(&*f, spec::DATA, Size::B4), 3);
        select(&f, key::KERNEL_SIZE);
        assert_eq!(Mmio::read(&*f, spec::DATA, Size::B8), 6);
        select(&f, key::KERNEL_DATA);
        assert_eq!(bytes(&f, 6), b"kernel");
        select(&f, 0xffff);
        assert_eq!(bytes(&f, 2), [0, 0]);
        assert_eq!(Mmio::read(&*f, spec::DMA, Size::B8), 0x4746_4320_554d_4551);
        assert_eq!(Mmio::read(&*f, spec::DMA + 4, Size::B4), 0x4746_4320);
    }

    #[test]
    fn the_directory_is_sorted_and_names_the_keys() {
        let (f, _) = rig();
        select(&f, key::FILE_DIR);
        let dir = bytes(&f, 4 + 2 * 64);
        assert_eq!(dir[..4], [0, 0, 0, 2]);
        assert_eq!(dir[4..18], *b"\0\0\0\x01\0\x20\0\0opt/a\0");
        assert_eq!(dir[68..82], *b"\0\0\0\x05\0\x21\0\0opt/b\0");
        select(&f, 0x21);
        assert_eq!(bytes(&f, 5), b"hello");
    }

    fn dma(f: &FwCfg, space: &AddressSpace, control: u32, len: u32, addr: u64) -> u32 {
        let mut d = [0; 16];
        d[..4].copy_from_slice(&control.to_be_bytes());
        d[4..8].copy_from_slice(&len.to_be_bytes());
        d[8..].copy_from_slice(&addr.to_be_bytes());
        space.write(RAM, &d).unwrap();
        Mmio::write(f, spec::DMA, 0, Size::B4);
        Mmio::write(f, spec::DMA + 4, u64::from((RAM as u32).swap_bytes()), Size::B4);
        let mut r = [0; 4];
        space.read(RAM, &mut r).unwrap();
        u32::from_be_bytes(r)
    }

    #[test]
    fn dma_reads_skips_and_refuses() {
        let (f, space) = rig();
        let read = |at, n: usize| {
            let mut b = vec![0; n];
            space.read(at, &mut b).unwrap();
            b
        };
        space.write(RAM + 64, &[0xee; 16]).unwrap();
        let sel = u32::from(key::KERNEL_DATA) << 16 | dma::SELECT;
        assert_eq!(dma(&f, &space, sel | dma::READ, 8, RAM + 64), 0);
        assert_eq!(read(RAM + 64, 9), b"kernel\0\0\xee", "zeros behind the end");
        assert_eq!(dma(&f, &space, sel | dma::SKIP, 2, 0), 0);
        assert_eq!(dma(&f, &space, dma::READ, 2, RAM + 64), 0);
        assert_eq!(read(RAM + 64, 2), b"rn");
        assert_eq!(dma(&f, &space, sel | dma::WRITE, 2, RAM + 64), dma::ERROR);
        assert_eq!(dma(&f, &space, sel | dma::READ, 2, 0x1000), dma::ERROR);
        assert_eq!(dma(&f, &space, sel | dma::READ, u32::MAX, RAM + 64), dma::ERROR);
        assert_eq!(dma(&f, &space, sel | dma::READ, 100, u64::MAX - 10), dma::ERROR);
        // A descriptor outside of RAM does nothing.
        Mmio::write(&*f, spec::DMA, 0, Size::B8);
    }

    #[test]
    fn files_have_limits_and_reset_selects_the_first_item() {
        let mut items = Items::default();
        assert!(items.add_file(&"n".repeat(56), *b"").is_err());
        items.add_file(&"n".repeat(55), *b"").unwrap();
        assert!(items.add_file(&"n".repeat(55), *b"").is_err());
        let (f, _) = rig();
        select(&f, 0x21);
        bytes(&f, 2);
        let saved = f.save();
        f.reset(Reset::Warm);
        assert_eq!(bytes(&f, 4), b"QEMU");
        f.load(&saved).unwrap();
        assert_eq!(bytes(&f, 3), b"llo");
        assert!(
            f.accepts(8, Size::B2, true) && !f.accepts(8, Size::B4, true) && !f.accepts(9, Size::B1, true)
        );
    }
}
