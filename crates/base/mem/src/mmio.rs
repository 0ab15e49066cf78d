/// The width of a register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Size {
    /// One byte.
    B1 = 1,
    /// Two bytes.
    B2 = 2,
    /// Four bytes.
    B4 = 4,
    /// Eight bytes.
    B8 = 8,
}

impl Size {
    /// The width in bytes.
    #[inline]
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// The width of `n` bytes; `None` unless 1, 2, 4 or 8.
    pub const fn from_bytes(n: usize) -> Option<Size> {
        match n {
            1 => Some(Size::B1),
            2 => Some(Size::B2),
            4 => Some(Size::B4),
            8 => Some(Size::B8),
            _ => None,
        }
    }

    /// All the bits that a value of this width may have.
    #[inline]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self as u32)
    }
}

/// A device's registers on a bus.
///
/// Any thread may call; the device locks its own state. `off` is relative to the region's start and
/// `off + size` never leaves the region. Values are little-endian numbers; bits above the access's width are
/// zero on a write and dropped on a read.
pub trait Mmio: Send + Sync {
    /// Reads a register.
    fn read(&self, off: u64, size: Size) -> u64;

    /// Writes a register.
    fn write(&self, off: u64, value: u64, size: Size);

    /// Whether the device answers such an access at all; if not, the initiator sees a bus error.
    fn accepts(&self, _off: u64, _size: Size, _write: bool) -> bool {
        true
    }

    /// The region's name, for people.
    fn name(&self) -> &str;
}

/// Registers of one fixed width, as most data sheets have them; see [`read_split`] and [`write_split`].
pub trait SplitRegs {
    /// The registers' width.
    const WIDTH: Size;

    /// Reads the register at `off`, a multiple of the width.
    fn read_reg(&self, off: u64) -> u64;

    /// Writes the bits `mask` (never 0) of the register at `off`, a multiple of the width.
    fn write_reg(&self, off: u64, value: u64, mask: u64);
}

/// Reads any width at any offset from registers of one width: a narrow access takes its part of a register, a
/// wide or misaligned one is put together from several.
pub fn read_split<R: SplitRegs>(regs: &R, off: u64, size: Size) -> u64 {
    let w = R::WIDTH.bytes() as u64;
    let end = off + size.bytes() as u64;
    let mut reg = off - off % w;
    let mut out = 0u128;
    // At most 16 bytes: eight of the access, and what sticks out of the first and the last register.
    let base = reg;
    while reg < end {
        out |= u128::from(regs.read_reg(reg) & R::WIDTH.mask()) << (8 * (reg - base));
        reg += w;
    }
    (out >> (8 * (off - base))) as u64 & size.mask()
}

/// Writes any width at any offset to registers of one width; each register gets a mask of the bits that the
/// access reaches.
pub fn write_split<R: SplitRegs>(regs: &R, off: u64, value: u64, size: Size) {
    let w = R::WIDTH.bytes() as u64;
    let end = off + size.bytes() as u64;
    let base = off - off % w;
    let shift = 8 * (off - base);
    let value = u128::from(value & size.mask()) << shift;
    let mask = u128::from(size.mask()) << shift;
    let mut reg = base;
    while reg < end {
        let at = 8 * (reg - base);
        let (v, m) = ((value >> at) as u64 & R::WIDTH.mask(), (mask >> at) as u64 & R::WIDTH.mask());
        regs.write_reg(reg, v, m);
        reg += w;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    struct Bank(RefCell<[u8; 32]>);

    impl SplitRegs for Bank {
        const WIDTH: Size = Size::B4;

        fn read_reg(&self, off: u64) -> u64 {
            assert!(off.is_multiple_of(4));
            let b = self.0.borrow();
            (0..4).fold(0, |v, i| v | u64::from(b[off as usize + i]) << (8 * i))
        }

        fn write_reg(&self, off: u64, value: u64, mask: u64) {
            assert!(off.is_multiple_of(4) && mask != 0 && value & !mask == 0);
            for i in 0..4 {
                if mask >> (8 * i) & 0xff != 0 {
                    self.0.borrow_mut()[off as usize + i] = (value >> (8 * i)) as u8;
                }
            }
        }
    }

    #[test]
    fn every_width_at_every_offset_is_as_bytes_are() {
        let bank = Bank(RefCell::new([0; 32]));
        let mut model = [0u8; 32];
        let mut v = 0x0123_4567_89ab_cdefu64;
        for off in 0..24u64 {
            for size in [Size::B1, Size::B2, Size::B4, Size::B8] {
                v = v.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7);
                write_split(&bank, off, v, size);
                let n = size.bytes();
                model[off as usize..off as usize + n].copy_from_slice(&v.to_le_bytes()[..n]);
                assert_eq!(*bank.0.borrow(), model);
                assert_eq!(read_split(&bank, off, size), v & size.mask());
            }
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(Size::B1.mask(), 0xff);
        assert_eq!(Size::B8.mask(), u64::MAX);
        assert_eq!(Size::from_bytes(3), None);
        assert_eq!(Size::from_bytes(4), Some(Size::B4));
    }
}
