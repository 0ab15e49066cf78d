//! virtio 1.2: queues, the MMIO transport, block, rng and console devices.
