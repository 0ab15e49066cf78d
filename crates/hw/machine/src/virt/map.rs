//! Where things stand on the riscv64 `virt` board, and their interrupt numbers.

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first address.
    pub base: u64,
    /// The length in bytes.
    pub len: u64,
}

const fn at(base: u64, len: u64) -> Range {
    Range { base, len }
}

/// The reset vector.
pub const MROM: Range = at(0x1000, 0xf000);
/// The test finisher.
pub const TEST: Range = at(0x10_0000, 0x1000);
/// The real-time clock.
pub const RTC: Range = at(0x10_1000, 0x1000);
/// Software interrupts and timer, as a CLINT.
pub const CLINT: Range = at(0x200_0000, 0x1_0000);
/// Supervisor software interrupts, where the board has an ACLINT.
pub const SSWI: Range = at(0x2f0_0000, 0x4000);
/// The interrupt controller.
pub const PLIC: Range = at(0xc00_0000, 0x60_0000);
/// The first serial port.
pub const UART: Range = at(0x1000_0000, 0x100);
/// The first virtio transport; each has this length.
pub const VIRTIO: Range = at(0x1000_1000, 0x1000);
/// The firmware configuration device.
pub const FW_CFG: Range = at(0x1010_0000, 0x18);
/// The first flash bank; each has this length.
pub const FLASH: Range = at(0x2000_0000, 0x200_0000);
/// Where RAM begins.
pub const DRAM: u64 = 0x8000_0000;

/// Virtio transports.
pub const VIRTIO_COUNT: u32 = 8;
/// Erase blocks of the flash.
pub const FLASH_BLOCK: u32 = 0x4_0000;
/// The interrupt of the first virtio transport.
pub const IRQ_VIRTIO: u32 = 1;
/// The serial port's interrupt.
pub const IRQ_UART: u32 = 10;
/// The clock's interrupt.
pub const IRQ_RTC: u32 = 11;
/// Interrupt sources, number 0 included.
pub const IRQ_SOURCES: u32 = 96;
/// The serial port's clock in hertz.
pub const UART_CLOCK: u32 = 3_686_400;

/// The registers of virtio transport `n`.
pub const fn virtio(n: u32) -> Range {
    at(VIRTIO.base + n as u64 * VIRTIO.len, VIRTIO.len)
}

/// Flash bank `n`.
pub const fn flash(n: u32) -> Range {
    at(FLASH.base + n as u64 * FLASH.len, FLASH.len)
}
