//! Where things go in RAM, so that none overlaps another.

use super::{ImageHeader, Segment, elf};
use base::units::{MIB, align_down};
use qapi::QError;

/// The RAM that images may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// Its first address.
    pub base: u64,
    /// Its length in bytes.
    pub size: u64,
}

impl RamRange {
    fn end(self) -> u64 {
        self.base + self.size
    }

    fn holds(self, start: u64, end: u64) -> bool {
        start >= self.base && end <= self.end()
    }
}

/// What was placed: the memory from `start` to `end` is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The parts to put into memory.
    pub segments: Vec<Segment>,
    /// The lowest address that it takes.
    pub start: u64,
    /// The first address behind it.
    pub end: u64,
}

/// A kernel or firmware: what is placed, and where it is entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its memory.
    pub placed: Placed,
    /// The physical address of its first instruction.
    pub entry: u64,
}

/// Kernels stand at multiples of 2 MiB, as large pages do.
const KERNEL_ALIGN: u64 = 2 * MIB;
/// Device trees too.
const DTB_ALIGN: u64 = 2 * MIB;
/// An initial RAM disk stands at most this far behind its kernel's start.
const INITRD_MAX_GAP: u64 = 512 * MIB;

/// Places a firmware: an ELF program where it was linked for, anything else at the start of RAM.
///
/// # Errors
/// A damaged file, or one that does not fit; the text says why, without the file's name.
pub fn place_firmware(data: &[u8], ram: RamRange) -> Result<Kernel, QError> {
    place(data, ram, ram.base, ram.base)
}

/// Places a kernel. An `Image` stands where its header asks, an ELF program where it was linked for or, if that is no
/// RAM and it may run elsewhere, at the first place for kernels from `first` on, as does anything else. `behind` is the
/// first free address (behind a firmware), at least the start of RAM.
///
/// # Errors
/// A damaged or compressed file, or one that does not fit; the text says why, without the file's name.
pub fn place_kernel(data: &[u8], ram: RamRange, behind: u64, first: u64) -> Result<Kernel, QError> {
    if data.starts_with(&[0x1f, 0x8b]) {
        return Err(QError::new("it is compressed with gzip; unpack it first"));
    }
    let mut at = align_up(first.max(behind).max(ram.base), KERNEL_ALIGN);
    if let Some(h) = ImageHeader::parse(data)
        && let Some(wanted) = ram.base.checked_add(h.text_offset)
    {
        at = at.max(wanted);
    }
    place(data, ram, at, behind)
}

/// Up to a multiple of `align`; to the end of the address space, where nothing fits, if that overflows.
fn align_up(v: u64, align: u64) -> u64 {
    base::units::align_up(v, align).unwrap_or(u64::MAX)
}

fn place(data: &[u8], ram: RamRange, at: u64, behind: u64) -> Result<Kernel, QError> {
    let (segments, entry) = if elf::is_elf(data) {
        let p = elf::parse(data).map_err(QError::new)?;
        let low = p.segments.iter().map(|s| s.addr).min().unwrap_or(0);
        let linked_for_ram = p.segments.iter().all(|s| s.end().is_some_and(|e| ram.holds(s.addr, e)));
        // Only what may run anywhere is moved.
        let bias = if !linked_for_ram && p.movable { at.wrapping_sub(low) } else { 0 };
        let moved = |s: &Segment| Segment { addr: s.addr.wrapping_add(bias), ..s.clone() };
        (p.segments.iter().map(moved).collect(), p.entry.wrapping_add(bias))
    } else if data.is_empty() {
        return Err(QError::new("it is empty"));
    } else {
        let zero = ImageHeader::parse(data).map_or(0, |h| h.image_size.saturating_sub(data.len() as u64));
        (vec![Segment { addr: at, data: data.into(), zero }], at)
    };
    let start = segments.iter().map(|s: &Segment| s.addr).min().unwrap_or(at);
    let end = segments.iter().map(|s| s.end().unwrap_or(u64::MAX)).max().unwrap_or(at);
    if !ram.holds(start, end) || start > end {
        return Err(QError::new(format!(
            "it needs the memory {start:#x} to {end:#x}, but RAM is {:#x} to {:#x}",
            ram.base,
            ram.end()
        )));
    }
    if start < behind {
        return Err(QError::new(format!(
            "it starts at {start:#x}, in the middle of the firmware (to {behind:#x})"
        )));
    }
    Ok(Kernel { placed: Placed { segments, start, end }, entry })
}

/// Places an initial RAM disk behind a kernel: half the RAM, at most 512 MiB, behind the kernel's start; closer where
/// RAM is too small for that.
///
/// # Errors
/// Where it does not fit.
pub fn place_initrd(data: Vec<u8>, ram: RamRange, kernel: &Placed) -> Result<Placed, QError> {
    let len = data.len() as u64;
    let lowest = align_up(kernel.end, 4096);
    let wanted = align_up(kernel.start + (ram.size / 2).min(INITRD_MAX_GAP), 4096).max(lowest);
    // Leave the top of RAM to the device tree.
    let fits = |at: u64| at.checked_add(len).is_some_and(|end| end <= ram.end().saturating_sub(DTB_ALIGN));
    let start = [wanted, lowest].into_iter().find(|at| fits(*at)).ok_or_else(|| {
        QError::new(format!(
            "its {len} bytes do not fit into RAM behind the kernel (from {lowest:#x}; RAM ends at {:#x})",
            ram.end()
        ))
    })?;
    Ok(Placed { segments: vec![Segment::new(start, data)], start, end: start + len })
}

/// Where a device tree of `len` bytes goes: the highest multiple of 2 MiB with room for it, behind what is loaded.
///
/// # Errors
/// Where it does not fit behind `used`, the first free address.
pub fn place_dtb(len: u64, ram: RamRange, used: u64) -> Result<u64, QError> {
    let at = ram.end().checked_sub(len).map(|a| align_down(a, DTB_ALIGN));
    at.filter(|at| *at >= used.max(ram.base))
        .ok_or_else(|| QError::new("Not enough memory to place DTB after kernel/initrd"))
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::file;
    use super::*;

    const RAM: RamRange = RamRange { base: 0x8000_0000, size: 256 * MIB };

    fn image(text_offset: u64, image_size: u64, len: usize) -> Vec<u8> {
        let mut h = vec![0u8; len];
        h[8..16].copy_from_slice(&text_offset.to_le_bytes());
        h[16..24].copy_from_slice(&image_size.to_le_bytes());
        h[56..60].copy_from_slice(b"RSC\x05");
        h
    }

    #[test]
    fn an_image_stands_where_it_asks_or_behind_the_firmware() {
        let i = image(0x20_0000, 0x100_0000, 4096);
        let k = place_kernel(&i, RAM, RAM.base, 0).unwrap();
        assert_eq!((k.entry, k.placed.start, k.placed.end), (0x8020_0000, 0x8020_0000, 0x8120_0000));
        assert_eq!(place_kernel(&i, RAM, 0x8004_5678, 0).unwrap().entry, 0x8020_0000);
        assert_eq!(place_kernel(&i, RAM, 0x8040_0001, 0).unwrap().entry, 0x8060_0000);
    }

    #[test]
    fn raw_and_elf_kernels() {
        assert_eq!(place_kernel(b"raw", RAM, RAM.base, 0).unwrap().entry, 0x8000_0000);
        assert_eq!(place_kernel(b"raw", RAM, RAM.base + 1, 0).unwrap().entry, 0x8020_0000);
        // Linked for RAM: stays there. A kernel linked for physical address 0: moved.
        let f = file(2, 0x8123_0000, 0x8123_0000, 0x8123_0004, b"12345678", 16);
        let k = place_kernel(&f, RAM, RAM.base, 0).unwrap();
        assert_eq!((k.entry, k.placed.start, k.placed.end), (0x8123_0004, 0x8123_0000, 0x8123_0010));
        let f = file(3, 0xffff_ffff_8000_0000, 0, 0xffff_ffff_8000_0002, b"12345678", 16);
        let k = place_kernel(&f, RAM, 0x8000_0001, 0).unwrap();
        assert_eq!((k.entry, k.placed.start), (0x8020_0002, 0x8020_0000));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let e = |r: Result<Kernel, QError>| r.unwrap_err().to_string();
        assert!(e(place_kernel(&image(0x20_0000, 1 << 40, 64), RAM, RAM.base, 0)).contains("but RAM is"));
        assert!(
            e(place_kernel(&image(u64::MAX - 4096, u64::MAX, 64), RAM, RAM.base, 0)).contains("but RAM is")
        );
        assert!(
            e(place_kernel(&file(2, 0x1000, 0x1000, 0x1000, b"x", 1), RAM, RAM.base, 0))
                .contains("but RAM is")
        );
        let f = file(2, 0x8000_0000, 0x8000_0000, 0x8000_0000, b"x", 1);
        assert!(e(place_kernel(&f, RAM, 0x8001_0000, 0)).contains("in the middle of the firmware"));
        assert!(e(place_kernel(b"", RAM, RAM.base, 0)).contains("empty"));
        assert!(e(place_kernel(&[0x1f, 0x8b, 8], RAM, RAM.base, 0)).contains("gzip"));
        assert!(e(place_firmware(&vec![0; 300 << 20], RAM)).contains("but RAM is"));
    }

    #[test]
    fn initrd_and_device_tree_find_their_place() {
        let k = place_kernel(b"raw", RAM, RAM.base, 0).unwrap().placed;
        let i = place_initrd(vec![0; 1000], RAM, &k).unwrap();
        assert_eq!((i.start, i.end), (0x8800_0000, 0x8800_03e8));
        let small = RamRange { size: 16 * MIB, ..RAM };
        let i = place_initrd(vec![0; 9 << 20], small, &k).unwrap();
        assert_eq!(i.start, 0x8000_1000, "closer to the kernel where half of RAM is not enough");
        assert!(place_initrd(vec![0; 15 << 20], small, &k).is_err());
        let large = RamRange { size: 4 << 30, ..RAM };
        assert_eq!(place_initrd(vec![0; 10], large, &k).unwrap().start, 0xa000_0000);
        assert_eq!(place_dtb(10_000, RAM, i.end).unwrap(), 0x8fe0_0000);
        assert_eq!(place_dtb(10_000, large, i.end).unwrap(), 0x1_7fe0_0000);
        assert!(place_dtb(10_000, small, 0x80f0_0000).is_err());
        assert!(place_dtb(100 << 20, small, 0).is_err());
    }
}
