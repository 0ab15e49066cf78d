//! virtio 1.2: queues, the MMIO transport, block, rng and console devices.

pub mod mmio;
pub mod queue;
pub mod spec;
mod virtio_device;

pub use crate::virtio_device::{TransportEvents, VirtioDevice};
pub use mmio::{MMIO_SIZE, VirtioMmio};
