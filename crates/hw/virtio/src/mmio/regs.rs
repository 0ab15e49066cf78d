//! Registers of the MMIO transport (sections 4.2.2 and 4.2.4), under the specification's names.

/// "virt".
pub(super) const MAGIC: u32 = 0x7472_6976;
/// The vendor id that guests know this transport by.
pub(super) const VENDOR: u32 = 0x554d_4551;

pub(super) const MAGIC_VALUE: u64 = 0x000;
pub(super) const VERSION: u64 = 0x004;
pub(super) const DEVICE_ID: u64 = 0x008;
pub(super) const VENDOR_ID: u64 = 0x00c;
pub(super) const DEVICE_FEATURES: u64 = 0x010;
pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
pub(super) const DRIVER_FEATURES: u64 = 0x020;
pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
/// Legacy.
pub(super) const GUEST_PAGE_SIZE: u64 = 0x028;
pub(super) const QUEUE_SEL: u64 = 0x030;
pub(super) const QUEUE_NUM_MAX: u64 = 0x034;
pub(super) const QUEUE_NUM: u64 = 0x038;
/// Legacy.
pub(super) const QUEUE_ALIGN: u64 = 0x03c;
/// Legacy.
pub(super) const QUEUE_PFN: u64 = 0x040;
pub(super) const QUEUE_READY: u64 = 0x044;
pub(super) const QUEUE_NOTIFY: u64 = 0x050;
pub(super) const INTERRUPT_STATUS: u64 = 0x060;
pub(super) const INTERRUPT_ACK: u64 = 0x064;
pub(super) const STATUS: u64 = 0x070;
pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
pub(super) const SHM_LEN_HIGH: u64 = 0x0b4;
pub(super) const SHM_BASE_LOW: u64 = 0x0b8;
pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
pub(super) const QUEUE_RESET: u64 = 0x0c0;
pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
pub(super) const CONFIG: u64 = 0x100;

/// Interrupt status: used buffers.
pub(super) const INT_USED: u32 = 1;
/// Interrupt status: the configuration changed.
pub(super) const INT_CONFIG: u32 = 2;
