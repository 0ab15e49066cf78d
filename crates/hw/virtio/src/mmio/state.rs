use crate::queue::RingState;
use device::saved_state;

saved_state! {
    /// The registers of one queue.
    pub struct MmioQueueState: "virtio-mmio-queue", 1 {
        /// QueueNum.
        pub num: u32,
        /// QueueReady, or legacy: QueuePFN is set.
        pub ready: bool,
        /// Legacy: QueueAlign.
        pub align: u32,
        /// Legacy: QueuePFN.
        pub pfn: u32,
        /// QueueDesc.
        pub desc: u64,
        /// QueueDriver.
        pub driver: u64,
        /// QueueDevice.
        pub device: u64,
        /// The ring, once the driver is ready.
        pub ring: Option<RingState>,
    }
}

saved_state! {
    /// The MMIO transport.
    pub struct MmioState: "virtio-mmio", 1 {
        /// The type of the device that is plugged in; 0 for none.
        pub device_id: u32,
        /// Register layout 1.
        pub legacy: bool,
        /// Status, without NEEDS_RESET.
        pub status: u32,
        /// NEEDS_RESET.
        pub needs_reset: bool,
        /// InterruptStatus.
        pub isr: u32,
        /// ConfigGeneration.
        pub generation: u32,
        /// DeviceFeaturesSel.
        pub device_features_sel: u32,
        /// DriverFeaturesSel.
        pub driver_features_sel: u32,
        /// DriverFeatures.
        pub driver_features: u64,
        /// QueueSel.
        pub queue_sel: u32,
        /// Legacy: GuestPageSize.
        pub page_size: u32,
        /// The device has its queues.
        pub active: bool,
        /// The queues.
        pub queues: Vec<MmioQueueState>,
    }
}
