//! Items and registers of the firmware configuration device, as firmware and Linux's `qemu_fw_cfg` driver know them.

/// Item keys.
pub mod key {
    /// "QEMU".
    pub const SIGNATURE: u16 = 0x00;
    /// The interface's features.
    pub const ID: u16 = 0x01;
    /// The machine's UUID.
    pub const UUID: u16 = 0x02;
    /// RAM in bytes.
    pub const RAM_SIZE: u16 = 0x03;
    /// There is no display.
    pub const NOGRAPHIC: u16 = 0x04;
    /// Processors present.
    pub const NB_CPUS: u16 = 0x05;
    /// The kernel's size.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// The initial RAM disk's size.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// The boot menu is wanted.
    pub const BOOT_MENU: u16 = 0x0e;
    /// Processors at most.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The kernel.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initial RAM disk.
    pub const INITRD_DATA: u16 = 0x12;
    /// The command line's size with its zero.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// The command line with its zero.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// The directory of files.
    pub const FILE_DIR: u16 = 0x19;
    /// The first file.
    pub const FILE_FIRST: u16 = 0x20;
}

/// The data register; wider accesses take several bytes of the stream.
pub const DATA: u64 = 0x00;
/// The selector register, 16 bits, big-endian.
pub const SELECTOR: u64 = 0x08;
/// The DMA address register, 64 bits, big-endian; writing its low half starts.
pub const DMA: u64 = 0x10;
/// The registers' length.
pub const LEN: u64 = 0x18;

/// Features of the `ID` item: the traditional interface and DMA.
pub const FEATURES: u32 = 0x3;
/// What the DMA register reads.
pub const DMA_SIGNATURE: u64 = 0x5145_4d55_2043_4647;

/// `FWCfgDmaAccess.control`.
pub mod dma {
    /// Set by the device: it failed.
    pub const ERROR: u32 = 0x01;
    /// Copy to the guest.
    pub const READ: u32 = 0x02;
    /// Move on in the item.
    pub const SKIP: u32 = 0x04;
    /// The high half is an item to select.
    pub const SELECT: u32 = 0x08;
    /// Copy from the guest.
    pub const WRITE: u32 = 0x10;
    /// Bytes of the descriptor.
    pub const DESCRIPTOR: usize = 16;
}

/// The longest name of a file, its zero included.
pub const NAME_LEN: usize = 56;
/// Files at most.
pub const MAX_FILES: usize = 0x4000 - key::FILE_FIRST as usize;
