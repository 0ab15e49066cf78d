//! virtio 1.2: queues, the MMIO transport, block, rng and console devices.
//!
//! A guest's driver and a device share rings of descriptors in guest RAM. The driver is not trusted: whatever it
//! writes there breaks its own device at most, which then says `NEEDS_RESET` and works again after a reset.
//!
//! * [`queue`]: the device's side of split and packed rings; requests come out as [`mem::IoBuf`]s over guest RAM, so
//!   no data is copied on the way to storage.
//! * [`VirtioDevice`] and [`VirtioMmio`]: a device, and the transport that shows its registers to the guest. The
//!   transport owns status and queue addresses; the device owns its configuration and what requests mean.
//! * [`blk`], [`rng`], [`console`]: the devices. Block and entropy requests run on an executor, many at once;
//!   completions that come together share one interrupt.

pub mod blk;
mod common;
pub mod console;
pub mod mmio;
pub mod queue;
pub mod rng;
mod runner;
pub mod spec;
mod virtio_device;

pub use crate::virtio_device::{TransportEvents, VirtioDevice};
pub use mmio::{MMIO_SIZE, VirtioMmio};

/// All device types of this crate.
pub static DEVICES: &[&device::DeviceType] =
    &[&mmio::TYPE, &blk::TYPE, &rng::TYPE, &console::TYPE, &console::CONSOLE_TYPE, &console::PORT_TYPE];
