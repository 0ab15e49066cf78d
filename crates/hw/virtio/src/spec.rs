//! Numbers of the virtio 1.2 specification, under its names.

/// Feature bits that belong to no device type (section 6).
pub mod feature {
    /// Legacy: an interrupt also when the ring has run empty (6.3).
    pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
    /// Any layout of a request over descriptors (6.3).
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Tables of descriptors (2.7.5.3).
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `used_event` and `avail_event` (2.7.7, 2.7.10).
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy driver.
    pub const VERSION_1: u64 = 1 << 32;
    /// Packed virtqueues (2.8).
    pub const RING_PACKED: u64 = 1 << 34;
    /// Buffers are used in the order in which they were made available (2.7.8).
    pub const IN_ORDER: u64 = 1 << 35;
    /// Queues can be reset one by one (2.6.1).
    pub const RING_RESET: u64 = 1 << 40;
}

/// Device status bits (2.1).
pub mod status {
    /// The guest has found the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u32 = 4;
    /// The driver has taken the features it understands.
    pub const FEATURES_OK: u32 = 8;
    /// The device cannot go on.
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    /// The driver gave up.
    pub const FAILED: u32 = 128;
}

/// Descriptor flags (2.7.5, 2.8.1).
pub mod desc {
    /// Another descriptor follows.
    pub const F_NEXT: u16 = 1;
    /// The device writes (else it reads).
    pub const F_WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const F_INDIRECT: u16 = 4;
    /// Packed: made available, by the driver's wrap counter.
    pub const F_AVAIL: u16 = 1 << 7;
    /// Packed: used, by the device's wrap counter.
    pub const F_USED: u16 = 1 << 15;
    /// The size of a descriptor.
    pub const SIZE: u64 = 16;
}

/// Split rings (2.7.6, 2.7.8).
pub mod split {
    /// In the available ring's flags: the driver wants no interrupts.
    pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
    /// In the used ring's flags: the device wants no notifications.
    pub const USED_F_NO_NOTIFY: u16 = 1;
    /// Both rings: the flags.
    pub const FLAGS: u64 = 0;
    /// Both rings: the index.
    pub const IDX: u64 = 2;
    /// Both rings: the first element.
    pub const RING: u64 = 4;
}

/// Event suppression of packed rings (2.8.10).
pub mod event {
    /// Always notify.
    pub const FLAGS_ENABLE: u16 = 0;
    /// Never notify.
    pub const FLAGS_DISABLE: u16 = 1;
    /// Notify at a descriptor.
    pub const FLAGS_DESC: u16 = 2;
}

/// The most descriptors that one request may have, tables included; also the largest queue.
pub const MAX_CHAIN: usize = 1024;

/// The most queues of a device.
pub const MAX_QUEUES: usize = 1024;

/// Device ids (5).
pub mod id {
    /// Block device.
    pub const BLOCK: u32 = 2;
    /// Console.
    pub const CONSOLE: u32 = 3;
    /// Entropy source.
    pub const RNG: u32 = 4;
}
