//! virtio 1.2: queues, the MMIO transport, block, rng and console devices.

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
    &[&blk::TYPE, &rng::TYPE, &console::TYPE, &console::CONSOLE_TYPE, &console::PORT_TYPE];
